//! A gateway that does what it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use segue_controller::state::StateDir;
use segue_core::link::{CallInfo, CallRecord, LINK_VERSION, ToController, ToGateway};
use segue_core::names::{AgentName, CallId, GatewayId, ReleaseId, WorkerId};
use segue_core::plane::{ConnectedWorker, DrainedBy, PlaneEvent, Steer};
use segue_core::presence::{AgentPresence, Presence, ReleaseCounts};
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::Timestamp;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::eventually;

/// How often it reports: more often than a real one, so that tests are quick.
const EVERY: Duration = Duration::from_millis(50);

/// What it does, and what it was told. Tests change it while it runs.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "ways to be unwell, in any combination"
)]
pub(crate) struct Mind {
    pub(crate) tables: BTreeMap<AgentName, RoutingTable>,
    pub(crate) counts: BTreeMap<ReleaseId, ReleaseCounts>,
    pub(crate) calls: Vec<CallInfo>,
    /// Calls it was told to end, each time, and when; they are gone then.
    pub(crate) ended: Vec<(CallId, Timestamp)>,
    /// What it is told to end goes on.
    pub(crate) deaf: bool,
    /// Workers that are connected to it, as to a dispatcher.
    pub(crate) workers: Vec<ConnectedWorker>,
    /// What it was told to do with which of them.
    pub(crate) steered: Vec<(WorkerId, Steer)>,
    /// It says once that these happened.
    pub(crate) events: Vec<PlaneEvent>,
    /// It says once what became of these.
    pub(crate) records: Vec<CallRecord>,
    /// It does not install any new table.
    pub(crate) stuck: bool,
    /// It does not report or answer.
    pub(crate) mute: bool,
    /// How often it was asked for its calls.
    pub(crate) asked: usize,
    /// How much of what it said was read, as the controller says.
    pub(crate) read: u64,
    /// It reports once more, says goodbye, and stays away.
    pub(crate) parting: bool,
    installed: BTreeMap<AgentName, Epoch>,
    sequence: u64,
}

/// Connects again whenever it is cut off, until it is dropped.
pub(crate) struct Gateway {
    pub(crate) mind: Arc<Mutex<Mind>>,
    _task: JoinSet<()>,
}

impl Gateway {
    pub(crate) fn start(state: &StateDir, name: &str) -> Self {
        let mind = Arc::new(Mutex::new(Mind::default()));
        let (ours, state, name) = (Arc::clone(&mind), state.clone(), name.parse().unwrap());
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                if !ours.lock().unwrap().parting {
                    let _ = live(&state, &name, &ours).await;
                }
                sleep(EVERY).await;
            }
        });
        Self { mind, _task: task }
    }

    pub(crate) fn table(&self) -> Option<RoutingTable> {
        self.mind
            .lock()
            .unwrap()
            .tables
            .get(&crate::desk())
            .cloned()
    }

    /// Says that it acts by a table which nobody has published.
    pub(crate) fn run_ahead(&self) {
        let mut mind = self.mind.lock().unwrap();
        mind.stuck = true;
        mind.installed.insert(crate::desk(), Epoch(1_000));
    }

    pub(crate) fn set_live(&self, release: ReleaseId, live: u64) {
        self.mind
            .lock()
            .unwrap()
            .counts
            .entry(release)
            .or_default()
            .live = live;
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&RoutingTable) -> bool) {
        eventually(what, async || self.table().filter(&holds)).await;
    }
}

async fn live(state: &StateDir, name: &GatewayId, mind: &Mutex<Mind>) -> std::io::Result<()> {
    let stream = UnixStream::connect(state.control_socket()).await?;
    let (reader, mut writer) = stream.into_split();
    let hello = ToController::Hello {
        version: LINK_VERSION,
        gateway: name.clone(),
        pid: std::process::id(),
        acknowledges: true,
    };
    say(&mut writer, &hello).await?;
    let mut lines = BufReader::new(reader).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { return Ok(()) };
                let message = serde_json::from_str(&line).expect("the controller speaks our language");
                if let Some(answer) = hear(mind, message) {
                    say(&mut writer, &answer).await?;
                }
            }
            () = sleep(EVERY) => {}
        }
        let report = report(mind, name);
        if let Some(report) = report {
            say(&mut writer, &ToController::Presence(report)).await?;
        }
        let calls = std::mem::take(&mut mind.lock().unwrap().records);
        if !calls.is_empty() {
            let left_out = 0;
            say(&mut writer, &ToController::Ended { calls, left_out }).await?;
        }
        let events = std::mem::take(&mut mind.lock().unwrap().events);
        if !events.is_empty() {
            let left_out = 0;
            say(&mut writer, &ToController::Events { events, left_out }).await?;
        }
        if mind.lock().unwrap().parting {
            return say(&mut writer, &ToController::Goodbye).await;
        }
    }
}

fn hear(mind: &Mutex<Mind>, message: ToGateway) -> Option<ToController> {
    let mut mind = mind.lock().unwrap();
    mind.asked += usize::from(matches!(message, ToGateway::ListCalls { .. }));
    match message {
        ToGateway::Table(table) if !mind.stuck => {
            let known = mind.tables.get(&table.agent).map(|known| known.epoch);
            assert!(known <= Some(table.epoch), "an epoch went back");
            mind.installed.insert(table.agent.clone(), table.epoch);
            mind.tables.insert(table.agent.clone(), *table);
            None
        }
        ToGateway::ListCalls { request, .. } if !mind.mute => {
            let calls = mind.calls.clone();
            Some(ToController::Calls { request, calls })
        }
        ToGateway::ListWorkers { request, .. } if !mind.mute => {
            let workers = mind.workers.clone();
            Some(ToController::Workers { request, workers })
        }
        ToGateway::SteerWorker {
            request,
            worker,
            what,
            ..
        } if !mind.mute => {
            mind.steered.push((worker.clone(), what));
            let drain = (what != Steer::Undrain).then_some(DrainedBy::Operator);
            let known = mind.workers.iter_mut().filter(|is| is.worker == worker);
            let workers = known.map(|is| {
                is.drain = drain;
                is.clone()
            });
            let workers = workers.collect();
            Some(ToController::Workers { request, workers })
        }
        ToGateway::EndCalls { calls, .. } => {
            let now = now();
            if !mind.deaf {
                mind.calls.retain(|call| !calls.contains(&call.call));
            }
            mind.ended.extend(calls.into_iter().map(|call| (call, now)));
            None
        }
        ToGateway::Read { batches } => {
            mind.read = batches;
            None
        }
        _ => None,
    }
}

/// Now, as everybody on this machine says it.
pub(crate) fn now() -> Timestamp {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(passed.as_millis()).unwrap())
}

fn report(mind: &Mutex<Mind>, name: &GatewayId) -> Option<Presence> {
    let mut mind = mind.lock().unwrap();
    if mind.mute {
        return None;
    }
    mind.sequence += 1;
    let releases = mind.counts.clone();
    let of = |(agent, epoch): (&AgentName, &Epoch)| {
        let presence = AgentPresence {
            epoch: *epoch,
            releases: releases.clone(),
            workers: BTreeMap::new(),
        };
        (agent.clone(), presence)
    };
    Some(Presence {
        gateway: name.clone(),
        incarnation: "life-1".to_owned(),
        sequence: mind.sequence,
        agents: mind.installed.iter().map(of).collect(),
    })
}

async fn say(
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
    message: &impl Serialize,
) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
