//! The Unix socket on which the gateways of this machine hear their tables and report.
//!
//! A gateway that reconnects gets every table again: tables are idempotent and their epochs only
//! grow, so nothing has to be remembered about what it had. For one that reads slowly only the
//! newest table of each agent is kept; what it missed in between it never needs.

mod fleet;
mod lines;
mod outbox;
mod peer;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_core::link::{CallInfo, CallRecord, ToGateway};
use segue_core::names::{AgentName, CallId, GatewayId, ReleaseId};
use segue_core::plane::{ConnectedWorker, PlaneEvent};
use segue_core::presence::Presence;
use segue_core::table::RoutingTable;
use segue_core::time::Timestamp;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

pub(crate) use self::fleet::{Fleet, STATES as CONNECTED_STATES, state_of};
use self::outbox::Outbox;

/// Connections at once; more are closed unanswered. A machine runs a handful of gateways.
const PEERS_MAX: usize = 256;

/// Pause after `accept` failed: without it, running out of descriptors would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How long live calls or workers are waited for. A gateway answers from memory.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// What gateways say, for the driver.
#[derive(Debug)]
pub enum Heard {
    /// One connected: from now on it may act by our tables, so its calls count.
    Hello(GatewayId),
    /// One holds no call and will take none: nobody needs to wait for it.
    Goodbye(GatewayId),
    /// One has something for the audit log.
    Events {
        /// Who.
        gateway: GatewayId,
        /// Oldest first; some may have been told before.
        events: Vec<PlaneEvent>,
        /// How many it left out since it started.
        left_out: u64,
    },
    /// One reported.
    Presence {
        /// When that was read.
        at: Timestamp,
        /// What it said.
        presence: Presence,
    },
}

/// Batches of ended calls that wait for whoever counts or traces them; a gateway sends two a
/// second.
const RECORDS_WAIT_MAX: usize = 1_024;

/// Calls that ended, as one gateway told of them.
#[derive(Debug, Clone)]
pub struct Records {
    /// What became of each.
    pub calls: Arc<[CallRecord]>,
}

/// The tables that gateways should have, and the gateways that are connected.
#[derive(Debug, Clone)]
pub struct Link {
    shared: Arc<Mutex<Shared>>,
    records: broadcast::Sender<Records>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            shared: Arc::default(),
            records: broadcast::channel(RECORDS_WAIT_MAX).0,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    agents: Vec<AgentName>,
    tables: BTreeMap<AgentName, Arc<RoutingTable>>,
    /// By the number of the connection: a gateway that is being upgraded has two.
    peers: BTreeMap<u64, Peer>,
    peers_seen: u64,
    requests: u64,
}

#[derive(Debug)]
struct Peer {
    gateway: GatewayId,
    outbox: Arc<Outbox>,
    asked: BTreeMap<u64, oneshot::Sender<Vec<CallInfo>>>,
    /// The same about workers.
    asked_workers: BTreeMap<u64, oneshot::Sender<Vec<ConnectedWorker>>>,
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of calls that end from now on. Who is too slow misses some, and is told how many
    /// batches.
    pub fn records(&self) -> broadcast::Receiver<Records> {
        self.records.subscribe()
    }

    fn ended(&self, calls: Vec<CallRecord>) {
        let calls = calls.into();
        // Nobody may be listening.
        let _ = self.records.send(Records { calls });
    }

    /// Tells every gateway which agents exist.
    pub fn set_agents(&self, names: Vec<AgentName>) {
        let mut shared = self.lock();
        if shared.agents != names {
            for peer in shared.peers.values() {
                peer.outbox.set_agents(names.clone());
            }
            shared.agents = names;
        }
    }

    /// Gives every gateway this table, those that connect later included.
    pub fn publish(&self, table: RoutingTable) {
        let table = Arc::new(table);
        let mut shared = self.lock();
        if shared.tables.get(&table.agent) == Some(&table) {
            return;
        }
        for peer in shared.peers.values() {
            peer.outbox.set_table(Arc::clone(&table));
        }
        shared.tables.insert(table.agent.clone(), table);
    }

    /// Asks every connected gateway for its live calls. Answers the calls, oldest first, and the
    /// gateways that answered.
    pub async fn list_calls(
        &self,
        agent: Option<&AgentName>,
        limit: usize,
    ) -> (Vec<CallInfo>, Vec<GatewayId>) {
        let (mut calls, mut answered) = (Vec::new(), Vec::new());
        for (gateway, answer) in self.look(agent, limit).await {
            if let Some(more) = answer {
                calls.extend(more);
                answered.push(gateway);
            }
        }
        calls.sort_by(|a, b| (a.since, &a.call).cmp(&(b.since, &b.call)));
        calls.truncate(limit);
        (calls, answered)
    }

    /// Asks every connected gateway for its live calls, and keeps apart what each says. `None`: it
    /// did not answer, and what it holds is not known.
    pub(crate) async fn look(
        &self,
        agent: Option<&AgentName>,
        limit: usize,
    ) -> Vec<(GatewayId, Option<Vec<CallInfo>>)> {
        let deadline = Instant::now() + ANSWER_WAIT;
        let mut answers = Vec::new();
        for (gateway, answer) in self.ask(agent, limit) {
            let calls = timeout_at(deadline, answer).await;
            answers.push((gateway, calls.ok().and_then(Result::ok)));
        }
        answers
    }

    /// Tells every gateway to end these calls; those that it does not hold, it leaves alone.
    pub fn end_calls(&self, agent: &AgentName, release: ReleaseId, calls: Vec<CallId>) {
        let shared = self.lock();
        let table = shared.tables.get(agent);
        let message = ToGateway::EndCalls {
            agent: agent.clone(),
            release,
            epoch: table.map(|table| table.epoch).unwrap_or_default(),
            calls,
        };
        for peer in shared.peers.values() {
            peer.outbox.ask(message.clone());
        }
    }

    fn ask(
        &self,
        agent: Option<&AgentName>,
        limit: usize,
    ) -> Vec<(GatewayId, oneshot::Receiver<Vec<CallInfo>>)> {
        let mut shared = self.lock();
        shared.requests += 1;
        let request = shared.requests;
        let agent = agent.cloned();
        let mut answers = Vec::new();
        for peer in shared.peers.values_mut() {
            let (answer, receiver) = oneshot::channel();
            peer.asked.retain(|_, waits| !waits.is_closed());
            peer.asked.insert(request, answer);
            let agent = agent.clone();
            peer.outbox.ask(ToGateway::ListCalls {
                request,
                agent,
                limit,
            });
            answers.push((peer.gateway.clone(), receiver));
        }
        answers
    }

    fn join(&self, gateway: GatewayId) -> (u64, Arc<Outbox>) {
        let mut shared = self.lock();
        let outbox = Outbox::new(shared.agents.clone(), shared.tables.clone());
        let outbox = Arc::new(outbox);
        shared.peers_seen += 1;
        let number = shared.peers_seen;
        let peer = Peer {
            gateway,
            outbox: Arc::clone(&outbox),
            asked: BTreeMap::new(),
            asked_workers: BTreeMap::new(),
        };
        shared.peers.insert(number, peer);
        (number, outbox)
    }

    fn leave(&self, number: u64) {
        self.lock().peers.remove(&number);
    }

    fn answer(&self, number: u64, request: u64, calls: Vec<CallInfo>) {
        let mut shared = self.lock();
        let waits = shared
            .peers
            .get_mut(&number)
            .and_then(|peer| peer.asked.remove(&request));
        if let Some(waits) = waits {
            // Nobody waits any more when the answer is late.
            let _ = waits.send(calls);
        }
    }

    /// Takes connections until it is dropped.
    pub async fn serve(&self, listener: UnixListener, heard: mpsc::Sender<Heard>) {
        let mut peers = JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = peers.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if peers.len() < PEERS_MAX && is_ours(&stream) => {
                        let (link, heard) = (self.clone(), heard.clone());
                        peers.spawn(async move { peer::serve(&link, stream, &heard).await });
                    }
                    Ok(_) => tracing::warn!("a connection to the control socket was refused"),
                    Err(error) => {
                        tracing::warn!(%error, "the control socket could not accept");
                        sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
    }
}

/// Makes the socket. Whoever calls this holds the lock of the state directory, so a socket that is
/// there already is left from one that ended.
///
/// # Errors
///
/// When it cannot be made; its path may be too long for a socket (108 bytes).
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Only processes of the same user may steer calls.
fn is_ours(stream: &UnixStream) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == ours)
}
