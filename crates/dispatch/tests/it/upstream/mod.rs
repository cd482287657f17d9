//! A LiveKit server's side of the agent protocol, for tests: nothing of it is in a package.
//!
//! It follows the open-source server (1.13): a worker registers within ten seconds or is cut off; a
//! job goes only to workers of exactly its key; among those that say they are available, drawn with
//! weights of one minus load; a refusal or a closed connection lets it ask the next one, silence
//! does not; the whole request has three seconds; nothing is asked again later. A closed connection
//! makes it forget the worker's jobs. It never sets an assignment's address. Workers with
//! LiveKit's own package were traced at it (`direct.rs` repeats that).
//!
//! Not verified against a running LiveKit server, only read in its source, or inferred:
//! - how long choosing a node takes: here [`Rules::choosing`] of the three seconds;
//! - that a node whose workers all report a load of 0.7 or more is not chosen even if it is alone;
//! - that a request ends with the first worker whose connection cannot be written to (here such a
//!   worker counts as closed);
//! - what the server does with frames of text: here they are a breach of the rules, though it would
//!   read them as JSON;
//! - that pings are never checked for an answer.
//!
//! Left out: several nodes, namespaces by default, compressed frames, publishers' and participants'
//! jobs beyond their number in the key, and most services under `/twirp` (`rooms.rs` has the others).

mod http;
mod record;
mod rooms;
mod server;
mod worker;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::wire::{FromServer, Job, Room, Termination, WorkerStatus};

pub(crate) use record::{Event, Loss, PATIENCE, Record, Records};
use worker::{Assigned, Key, Worker, since_epoch};

/// The time of a whole request, choosing a node included.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A node counts for as much as its workers' loads stay below this.
const TARGET_LOAD: f32 = 0.7;

/// What tests may set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Of a request's time, what passes before the first worker is asked.
    pub(crate) choosing: Duration,
    /// Where its draws begin.
    pub(crate) seed: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            choosing: Duration::from_millis(200),
            seed: 1,
        }
    }
}

/// How a request for a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A worker has it.
    Assigned,
    /// A worker refused it for all.
    Satisfied,
    /// Nobody will answer in that room.
    Lost(Loss),
}

/// The server.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    inner: Arc<Inner>,
    serving: Mutex<Option<JoinSet<()>>>,
}

struct Inner {
    rules: Rules,
    began_ms: u64,
    records: Records,
    rooms: rooms::Rooms,
    state: Mutex<State>,
}

struct State {
    workers: Vec<Arc<Worker>>,
    /// Whose a job is.
    jobs: HashMap<String, Arc<Worker>>,
    random: u64,
}

static JOBS: AtomicU64 = AtomicU64::new(0);

/// A room job for an agent, with an id of its own.
pub(crate) fn job(agent_name: &str, metadata: &str) -> Job {
    let number = JOBS.fetch_add(1, Ordering::Relaxed);
    Job {
        id: format!("AJ_{number:06}"),
        kind: worker::ROOM,
        room: Some(Room {
            sid: format!("RM_{number:06}"),
            name: format!("room-{number:06}"),
            metadata: String::new(),
        }),
        metadata: metadata.to_owned(),
        agent_name: agent_name.to_owned(),
        dispatch_id: format!("AD_{number:06}"),
        of_tomorrow: format!("a field that nobody knows yet, {number}"),
        ..Job::default()
    }
}

impl Upstream {
    pub(crate) async fn open() -> Self {
        Self::open_with(Rules::default()).await
    }

    pub(crate) async fn open_with(rules: Rules) -> Self {
        Self::open_at((Ipv4Addr::LOCALHOST, 0).into(), rules).await
    }

    pub(crate) async fn open_at(addr: SocketAddr, rules: Rules) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let inner = Arc::new(Inner {
            rules,
            began_ms: now_ms(),
            records: Records::new(),
            rooms: rooms::Rooms::default(),
            state: Mutex::new(State {
                workers: Vec::new(),
                jobs: HashMap::new(),
                random: rules.seed,
            }),
        });
        let upstream = Self {
            addr: listener.local_addr().unwrap(),
            inner,
            serving: Mutex::default(),
        };
        upstream.serve(listener);
        upstream
    }

    /// Where workers connect.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.addr)
    }

    pub(crate) fn records(&self) -> &Records {
        &self.inner.records
    }

    /// When its records' clock was zero, in milliseconds since 1970.
    pub(crate) fn began_ms(&self) -> u64 {
        self.inner.began_ms
    }

    /// How many workers are registered for an agent.
    pub(crate) fn registered(&self, agent_name: &str) -> usize {
        let state = self.inner.state.lock().unwrap();
        let of_agent = |worker: &&Arc<Worker>| worker.key.agent_name == agent_name;
        state.workers.iter().filter(of_agent).count()
    }

    /// Waits for so many.
    pub(crate) async fn until_registered(&self, agent_name: &str, count: usize) {
        let what = format!("{count} workers for {agent_name:?}");
        let there = |_: &[Record]| (self.registered(agent_name) == count).then_some(());
        self.inner.records.until(&what, there).await;
    }

    /// Asks for a worker, as a server does when a room wants an agent.
    pub(crate) async fn launch(&self, job: &Job) -> Outcome {
        self.inner.launch(job).await
    }

    /// Ends a job from above. False: it is nobody's.
    pub(crate) fn terminate(&self, job: &str) -> bool {
        let Some(worker) = self.inner.state.lock().unwrap().jobs.remove(job) else {
            return false;
        };
        worker.running.lock().unwrap().remove(job);
        worker.send(FromServer::Termination(Termination {
            job_id: job.to_owned(),
        }));
        self.inner.records.add(Event::Terminated {
            job: job.to_owned(),
            worker: worker.id.clone(),
        });
        true
    }

    /// Offers a job to one worker, whatever that has said of itself: as a server does whose offer
    /// crosses a status on its way.
    pub(crate) async fn offer(&self, worker: &str, job: &Job) -> bool {
        let worker = self.inner.worker(worker);
        let assigned = worker.assign(&self.inner.records, job.clone()).await;
        matches!(assigned, Assigned::Running { .. })
    }

    /// Cuts a worker's connection, without a word.
    pub(crate) fn cut(&self, worker: &str) {
        self.inner.worker(worker).cut.notify_one();
    }

    /// Crashes: every connection is cut, nothing is remembered, nobody listens.
    pub(crate) async fn crash(&self) {
        let serving = self.serving.lock().unwrap().take();
        if let Some(mut serving) = serving {
            serving.shutdown().await;
        }
        let workers = self.inner.state.lock().unwrap().workers.clone();
        for worker in workers {
            self.inner.gone(&worker, None);
        }
    }

    /// Starts again where it was.
    pub(crate) async fn restart(&self) {
        self.crash().await;
        let listener = TcpListener::bind(self.addr).await.unwrap();
        self.serve(listener);
    }

    fn serve(&self, listener: TcpListener) {
        let mut serving = JoinSet::new();
        serving.spawn(server::accept(listener, Arc::clone(&self.inner)));
        *self.serving.lock().unwrap() = Some(serving);
    }
}

impl Inner {
    async fn launch(&self, job: &Job) -> Outcome {
        let request = self.request(job);
        let outcome = tokio::time::timeout(REQUEST_TIMEOUT, request)
            .await
            .unwrap_or(Outcome::Lost(Loss::TimedOut));
        if let Outcome::Lost(why) = outcome {
            let job = job.id.clone();
            self.records.add(Event::Lost { job, why });
        }
        outcome
    }

    async fn request(&self, job: &Job) -> Outcome {
        let key = Key::of_job(job);
        match self.affinity(&key) {
            None => return Outcome::Lost(Loss::NobodyRegistered),
            Some(affinity) if affinity <= 0.0 => return Outcome::Lost(Loss::NoAffinity),
            Some(_) => tokio::time::sleep(self.rules.choosing).await,
        }
        let mut asked = Vec::new();
        while let Some(worker) = self.draw(&key, &asked) {
            asked.push(worker.id.clone());
            match worker.assign(&self.records, job.clone()).await {
                Assigned::Running { identity } => {
                    self.rooms.assigned(job, &identity);
                    let mut state = self.state.lock().unwrap();
                    state.jobs.insert(job.id.clone(), worker);
                    return Outcome::Assigned;
                }
                Assigned::Terminated => return Outcome::Satisfied,
                Assigned::Refused => {}
                Assigned::Lost(why) => return Outcome::Lost(why),
            }
        }
        Outcome::Lost(Loss::NobodyAvailable)
    }

    fn worker(&self, id: &str) -> Arc<Worker> {
        let state = self.state.lock().unwrap();
        let found = state.workers.iter().find(|worker| worker.id == id);
        Arc::clone(found.unwrap_or_else(|| panic!("no worker {id} is registered")))
    }

    /// What a node counts for. `None`: nobody is registered, so nobody even answers for it.
    fn affinity(&self, key: &Key) -> Option<f32> {
        let state = self.state.lock().unwrap();
        let mut some = None;
        for worker in state.workers.iter().filter(|worker| worker.key == *key) {
            let told = *worker.told.lock().unwrap();
            let free = match told.status {
                WorkerStatus::Available => (TARGET_LOAD - told.load).max(0.0),
                WorkerStatus::Full => 0.0,
            };
            some = Some(some.unwrap_or(0.0) + free);
        }
        some
    }

    /// One of those that may be asked.
    fn draw(&self, key: &Key, asked: &[String]) -> Option<Arc<Worker>> {
        let mut state = self.state.lock().unwrap();
        let drawn = state.random();
        let weight = |worker: &Arc<Worker>| {
            let told = *worker.told.lock().unwrap();
            let may = worker.key == *key
                && told.status == WorkerStatus::Available
                && !asked.contains(&worker.id);
            if may { (1.0 - told.load).max(0.0) } else { 0.0 }
        };
        let weights: Vec<f32> = state.workers.iter().map(weight).collect();
        let mut left = drawn * weights.iter().sum::<f32>();
        let weighted = state.workers.iter().zip(&weights);
        let mut last = None;
        for (worker, weight) in weighted.filter(|(_, weight)| **weight > 0.0) {
            last = Some(worker);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last.cloned()
    }

    /// The worker's connection is over.
    fn gone(&self, worker: &Worker, code: Option<u16>) {
        worker.closed.send_replace(true);
        let mut state = self.state.lock().unwrap();
        state.workers.retain(|other| other.id != worker.id);
        let forgot: Vec<String> = worker.running.lock().unwrap().keys().cloned().collect();
        for job in &forgot {
            state.jobs.remove(job);
        }
        drop(state);
        self.records.add(Event::Closed {
            worker: worker.id.clone(),
            code,
            forgot,
        });
    }
}

impl State {
    /// The next of a series of numbers in 0.0..1.0 that only the seed decides (splitmix64).
    fn random(&mut self) -> f32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // 24 bits, all of which a float holds exactly.
        #[allow(clippy::cast_precision_loss, reason = "24 bits fit")]
        let (upper, whole) = ((mixed >> 40) as f32, (1_u32 << 24) as f32);
        upper / whole
    }
}

/// Now, as workers' logs write it: milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(since_epoch().as_millis()).expect("before the year 292278994")
}
