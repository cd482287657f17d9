//! A dispatcher with what is around it: a state folder, and a controller that only sends tables.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use segue_core::link::{CallRecord, LINK_VERSION, ToController, ToGateway};
use segue_core::names::{AgentName, ReleaseId};
use segue_core::plane::{ConnectedWorker, PlaneEvent};
use segue_core::presence::AgentPresence;
use segue_core::rollout::Agent;
use segue_core::split::Split;
use segue_core::table::{ReleaseRoute, RoutingTable};
use segue_core::time::Millis;
use segue_dispatch::address::ServerUrl;
use segue_dispatch::admit::{Admit, Registered, Unsigned};
use segue_dispatch::trust::Trust;
use segue_dispatch::{AgentConfig, ApiKey, Config, Running};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::key;
use crate::sim::Plan;
use crate::upstream::{PATIENCE, Upstream};

static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// Whose jobs, for Segue and for LiveKit.
pub(crate) const AGENT: &str = "desk";

/// How often a port is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a controller knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) presence: Option<AgentPresence>,
    pub(crate) ended: Vec<CallRecord>,
    /// For the audit log.
    pub(crate) events: Vec<PlaneEvent>,
    /// Answers about workers, by the number of the question.
    pub(crate) workers: BTreeMap<u64, Vec<ConnectedWorker>>,
}

/// What an agent asks of the server's API; nothing, if nothing is said.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asks {
    pub(crate) redispatch: bool,
    pub(crate) room_metadata: bool,
}

/// Sends its table to whoever connects.
pub(crate) struct Control {
    folder: PathBuf,
    table: watch::Sender<RoutingTable>,
    orders: Arc<Mutex<Option<mpsc::UnboundedSender<ToGateway>>>>,
    told: watch::Sender<Told>,
    /// What its agent is configured to ask of the server's API.
    pub(crate) asks: Asks,
    /// Whose certificates the server may have.
    pub(crate) trust: Trust,
    /// Where its dispatcher listens, now and when it is started again.
    at: Mutex<Option<SocketAddr>>,
    task: JoinHandle<()>,
}

/// The release that people call so.
pub(crate) fn release(label: &str) -> ReleaseId {
    ReleaseId::of(label.as_bytes())
}

fn agent() -> AgentName {
    AGENT.parse().unwrap()
}

impl Control {
    /// With a table that sends all jobs to `v1`; `v2` is there too.
    pub(crate) fn open() -> Self {
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("segue-dispatch-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let route = |label: &str| ReleaseRoute {
            label: label.parse().unwrap(),
            takes_new_calls: true,
            retiring: false,
        };
        let releases = ["v1", "v2"].map(|label| (release(label), route(label)));
        let mut table = RoutingTable {
            split: Split::all(release("v1")),
            releases: releases.into(),
            stickiness: Millis(0),
            ..Agent::new(agent()).table()
        };
        table.epoch = table.epoch.next();
        let listener = UnixListener::bind(folder.join("control.sock")).unwrap();
        let table = watch::Sender::new(table);
        let told = watch::Sender::new(Told::default());
        let orders = Arc::default();
        let task = tokio::spawn(serve(
            listener,
            table.clone(),
            told.clone(),
            Arc::clone(&orders),
        ));
        Self {
            folder,
            table,
            orders,
            told,
            asks: Asks::default(),
            trust: Trust::default(),
            at: Mutex::default(),
            task,
        }
    }

    /// Another split, as a controller decides it: says when the dispatcher acts by it.
    pub(crate) async fn split(&self, split: Split) {
        self.table.send_modify(|table| {
            table.epoch = table.epoch.next();
            for (release, route) in &mut table.releases {
                route.takes_new_calls = split.share(*release).0 > 0;
                route.retiring = !route.takes_new_calls;
            }
            table.split = split;
        });
        self.acknowledged().await;
    }

    /// Waits until the dispatcher acts by the table.
    pub(crate) async fn acknowledged(&self) {
        let epoch = self.table.borrow().epoch;
        let acts = |told: &Told| told.presence.as_ref().is_some_and(|p| p.epoch == epoch);
        self.until("it acts by the table", acts).await;
    }

    /// Sends any message.
    pub(crate) fn order(&self, message: ToGateway) {
        let orders = self.orders.lock().unwrap();
        orders
            .as_ref()
            .expect("it is linked")
            .send(message)
            .unwrap();
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    pub(crate) fn table(&self) -> RoutingTable {
        self.table.borrow().clone()
    }

    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Told) -> bool) -> Told {
        let mut told = self.told.subscribe();
        let found = timeout(PATIENCE, told.wait_for(|told| is(told))).await;
        let found = found.map(|told| told.expect("its sender is ours").clone());
        found.unwrap_or_else(|_| panic!("{what} did not come true: {:?}", self.told.borrow()))
    }

    /// Waits until a release has so many jobs, by the dispatcher's report.
    pub(crate) async fn live(&self, label: &str, jobs: u64) {
        let what = format!("{label} has {jobs} jobs");
        self.until(&what, |told| live(told, label) == jobs).await;
    }

    /// Starts a dispatcher in front of a server.
    pub(crate) async fn start(&self, upstream: &Upstream) -> Dispatcher {
        self.start_at(&upstream.url()).await
    }

    /// The same, by the server's address.
    pub(crate) async fn start_at(&self, server: &str) -> Dispatcher {
        let agents = BTreeMap::from([(Registered::new(AGENT, ""), agent())]);
        self.start_with(server, Arc::new(Unsigned { agents })).await
    }

    /// What a dispatcher here is told when it starts.
    pub(crate) fn config(&self, server: &str) -> Config {
        let at = *self.at.lock().unwrap();
        let of = AgentConfig {
            agent_name: AGENT.to_owned(),
            namespace: String::new(),
            hold: Millis(1_500),
            redispatch: self.asks.redispatch,
            room_metadata: self.asks.room_metadata,
        };
        Config {
            listen: at.unwrap_or_else(|| ([127, 0, 0, 1], 0).into()),
            server: ServerUrl::parse(server).unwrap(),
            door: None,
            trust: self.trust.clone(),
            key: ApiKey {
                name: key::KEY.to_owned(),
                secret: key::SECRET.to_owned(),
            },
            gateway: "dispatch-1".parse().unwrap(),
            state_dir: self.folder.clone(),
            control_socket: self.folder.join("control.sock"),
            agents: [(agent(), of)].into(),
        }
    }

    pub(crate) async fn start_with(&self, server: &str, admit: Arc<dyn Admit>) -> Dispatcher {
        self.told.send_modify(|told| told.presence = None);
        let at = *self.at.lock().unwrap();
        if let Some(at) = at {
            // One that was killed may have a moment left to live.
            let is_free = async {
                while TcpListener::bind(at).await.is_err() {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            timeout(PATIENCE, is_free).await.unwrap();
        }
        let config = self.config(server);
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let started = runtime.spawn(segue_dispatch::start(config, admit));
        let running = started.await.unwrap().unwrap();
        *self.at.lock().unwrap() = Some(running.addr);
        let url = format!("ws://{}", running.addr);
        self.acknowledged().await;
        Dispatcher {
            runtime: Some(runtime),
            running: Some(running),
            url,
        }
    }
}

pub(crate) fn live(told: &Told, label: &str) -> u64 {
    let presence = told.presence.as_ref();
    let counts = presence.and_then(|presence| presence.releases.get(&release(label)));
    counts.map_or(0, |counts| counts.live)
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A dispatcher with threads of its own, so that it can be killed.
pub(crate) struct Dispatcher {
    runtime: Option<Runtime>,
    pub(crate) running: Option<Running>,
    pub(crate) url: String,
}

impl Dispatcher {
    /// A worker of a release, not started yet.
    pub(crate) fn plan(&self, label: &str) -> Plan {
        let mut plan = Plan::new(&self.url, AGENT);
        label.clone_into(&mut plan.register.deployment);
        plan
    }

    /// Every connection breaks without a word, and what it had not written down is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.running.take();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve(
    listener: UnixListener,
    table: watch::Sender<RoutingTable>,
    told: watch::Sender<Told>,
    orders: Arc<Mutex<Option<mpsc::UnboundedSender<ToGateway>>>>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let (sender, mut queue) = mpsc::unbounded_channel();
        let hello = ToGateway::Hello {
            version: LINK_VERSION,
            acknowledges: false,
        };
        sender.send(hello).unwrap();
        *orders.lock().unwrap() = Some(sender.clone());
        let mut tables = table.subscribe();
        tables.mark_changed();
        loop {
            tokio::select! {
                Some(message) = queue.recv() => {
                    let mut line = serde_json::to_vec(&message).unwrap();
                    line.push(b'\n');
                    if writer.write_all(&line).await.is_err() {
                        break;
                    }
                }
                Ok(()) = tables.changed() => {
                    let table = tables.borrow_and_update().clone();
                    sender.send(ToGateway::Table(Box::new(table))).unwrap();
                }
                line = lines.next_line() => {
                    let Ok(Some(line)) = line else { break };
                    match serde_json::from_str(&line).unwrap() {
                        ToController::Presence(presence) => told.send_modify(|told| {
                            told.presence = presence.agents.get(&agent()).cloned();
                        }),
                        ToController::Ended { calls, .. } => {
                            told.send_modify(|told| told.ended.extend(calls));
                        }
                        ToController::Events { events, .. } => {
                            told.send_modify(|told| told.events.extend(events));
                        }
                        ToController::Workers { request, workers } => {
                            told.send_modify(|told| {
                                told.workers.insert(request, workers);
                            });
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}
