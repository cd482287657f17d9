//! A driver whose journal takes its time.

use std::sync::mpsc as blocking_mpsc;
use std::sync::{Mutex, PoisonError};

use segue_core::audit::Entry;
use segue_core::names::ReleaseId;
use segue_core::release::Release;
use segue_core::rollout::{Notice, Want};
use segue_core::spec::{AgentSpec, TelemetrySpec};

use super::*;

use crate::outside::Outside;
use crate::platform::{ComponentStatus, WorkerStatus};
use crate::smoke::Door;
use crate::state::StateDir;

#[derive(Debug)]
struct NoWorkers;

impl Platform for NoWorkers {
    fn reconcile(&self, _: &AgentName, _: &Release, _: Want) {}

    fn workers(&self, _: &AgentName) -> Vec<WorkerStatus> {
        Vec::new()
    }

    fn components(&self, _: &AgentName) -> Vec<ComponentStatus> {
        Vec::new()
    }

    fn processes(&self, _: &AgentName) -> BTreeSet<ReleaseId> {
        BTreeSet::new()
    }

    fn strays(&self, _: &AgentName) -> u32 {
        0
    }
}

/// Says when it is written to, and writes when it is let.
struct SlowJournal {
    began: mpsc::UnboundedSender<()>,
    go: Mutex<blocking_mpsc::Receiver<()>>,
    entries: Mutex<Vec<Entry>>,
}

impl Journal for SlowJournal {
    fn append(&self, _: u64, entries: &[Entry]) -> Result<(), StoreError> {
        self.began.send(()).unwrap();
        let go = self.go.lock().unwrap_or_else(PoisonError::into_inner);
        go.recv().unwrap();
        self.entries.lock().unwrap().extend_from_slice(entries);
        Ok(())
    }

    fn read(&self, _: u64, _: usize, _: Option<&AgentName>) -> Result<Vec<Entry>, StoreError> {
        Ok(Vec::new())
    }

    fn head(&self) -> Result<Head, StoreError> {
        Ok(Head::default())
    }
}

struct Desk {
    state: StateDir,
    journal: Arc<SlowJournal>,
    begins: mpsc::UnboundedReceiver<()>,
    let_go: blocking_mpsc::Sender<()>,
    driver: Driver,
}

async fn desk(test: &str) -> Desk {
    let name = format!("segue-driver-{test}-{}", std::process::id());
    let state = StateDir::new(std::env::temp_dir().join(name));
    state.create().unwrap();
    let (began, begins) = mpsc::unbounded_channel();
    let (let_go, go) = blocking_mpsc::channel();
    let journal = Arc::new(SlowJournal {
        began,
        go: Mutex::new(go),
        entries: Mutex::default(),
    });
    let bell = Arc::new(Notify::new());
    let name: AgentName = "desk".parse().unwrap();
    let spec = AgentSpec::default();
    let door = Door {
        state: state.clone(),
        token: String::new(),
        certificate: None,
    };
    let link = Link::default();
    let (none, nowhere) = (Vec::new(), TelemetrySpec::default());
    let outside = Outside::open(&state, state.path(), none, nowhere).await;
    let outreach = outside.unwrap().outreach(&state, &link, &bell, "key").await;
    let parts = Parts {
        specs: Specs::new(BTreeMap::from([(name, spec)])),
        journal: Arc::clone(&journal) as Arc<dyn Journal>,
        link,
        platform: Arc::new(NoWorkers),
        smoker: Smoker::new(door, Arc::clone(&bell)),
        copies: Copies::new(&state),
        hooks: Hooks::new(state.clone(), Copies::new(&state), Arc::clone(&bell)),
        bell,
        override_digest: String::new(),
        outreach: outreach.unwrap(),
        membership: Membership::default(),
        announce: watch::channel(0).0,
    };
    let driver = Driver::load(parts).await.unwrap();
    Desk {
        state,
        journal,
        begins,
        let_go,
        driver,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_finishes_what_it_writes_down() {
    let Desk {
        state,
        journal,
        mut begins,
        let_go,
        driver,
    } = desk("stop").await;
    let (_asks, to_driver) = Asks::new();
    let (_heard, from_gateways) = mpsc::channel(1);
    let (stop, stopped) = oneshot::channel();
    let driving = tokio::spawn(driver.run(to_driver, from_gateways, stopped));
    begins.recv().await.unwrap();
    stop.send(()).unwrap();
    assert!(journal.entries.lock().unwrap().is_empty() && !driving.is_finished());
    let_go.send(()).unwrap();
    driving.await.unwrap();
    let written = journal.entries.lock().unwrap().clone();
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].fact["fact"], "configured");
    std::fs::remove_dir_all(state.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_notices_is_no_queue_before_what_is_asked() {
    let mut desk = desk("flood").await;
    let agent = "desk".parse().unwrap();
    for at in 0..20 {
        let notice = Notice::EventsLeftOut {
            count: 1,
            at: Timestamp(at),
        };
        (desk.driver.notices).push(clock::now(), &agent, "segue", notice);
        desk.let_go.send(()).unwrap();
        desk.let_go.send(()).unwrap();
    }
    desk.driver.settle().await;
    let written = desk.journal.entries.lock().unwrap().len();
    assert!((2..20).contains(&written), "{written} before the next look");
    // It looks again at once.
    desk.driver.parts.bell.notified().await;
    std::fs::remove_dir_all(desk.state.path()).unwrap();
}
