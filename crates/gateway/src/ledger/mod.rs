//! The call ledger: the one owner of every call, from its pin on.
//!
//! Exact counts, acknowledgement, drain, handoff and call lists all read it; nothing else in this
//! crate counts calls.
//!
//! ## Why one lock
//!
//! A gateway that acknowledges an epoch promises that no decision taken under an earlier one is
//! still uncounted. With a table behind one atomic pointer and counters behind others, a task may
//! hold the old table for as long as the scheduler likes and count itself long after. So reading
//! the table, deciding, choosing the worker and counting are one critical section, and so is
//! installing a table. Once [`Ledger::install`] returns, every decision of an earlier epoch is in
//! the counts: acknowledging is then just reporting them. The section costs a hash and a walk
//! over at most 64 workers, once per call and not per frame.
//!
//! ## What a count is
//!
//! [`Ledger::begin`] hands out a [`Ticket`]: the by-value proof that one connection is counted. It
//! is uncounted by [`Ticket::finish`], or by being dropped, so a task that panics or is cancelled
//! can neither leak a count nor lose one. Several connections of one call count as one call.
//!
//! Started, ended, dropped and errors are totals of *calls*: a reconnect within the stickiness
//! window starts none, and a call that connects, drops and reconnects ends twice. Calls brought in
//! by an override and plain requests are live while they last, and outside of the totals.

mod book;
mod end;
mod moved;
mod ticket;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use segue_core::link::CallInfo;
use segue_core::names::{AgentName, CallId, Label, ReleaseId, WorkerId};
use segue_core::presence::AgentPresence;
use segue_core::route::{self, CallFacts, Pin, Reason, Refusal};
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::call_log::CallLog;

use self::book::Book;
pub use self::book::Record;
pub use self::end::{By, Closed, End, Unreached};
pub use self::moved::{AgentState, LedgerState, Moved};
pub use self::ticket::Ticket;

/// Most connections at once, of all agents: at two descriptors each this is already above the
/// usual hard limit on descriptors, and about 60 MB of ledger.
pub const CALLS_MAX: usize = 100_000;

/// Most calls of one agent that are live or pinned. A pin takes about 400 bytes and lives five
/// minutes by default, so this is 80 MB and 600 new calls a second.
pub const PINS_MAX: usize = 200_000;

/// Why a request is turned away before a worker is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No table of this agent is installed.
    #[error("this gateway has no routing table for the agent yet")]
    NoTable,
    /// The decision itself refuses.
    #[error(transparent)]
    Route(#[from] Refusal),
    /// [`CALLS_MAX`] is reached.
    #[error("this gateway holds as many calls as it may")]
    TooManyCalls,
    /// [`PINS_MAX`] is reached.
    #[error("this gateway holds as many pins of the agent as it may")]
    TooManyPins,
    /// The process is stopping and takes no new calls.
    #[error("this gateway is stopping")]
    Stopping,
}

impl Refused {
    /// One word for counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoTable => "no_table",
            Self::Route(Refusal::NothingServes) => "nothing_serves",
            Self::Route(Refusal::UnknownOverride) => "unknown_override",
            Self::Route(Refusal::NoWorker) => "no_worker",
            Self::Route(Refusal::Full) => "full",
            Self::Route(_) => "refused",
            Self::TooManyCalls => "too_many_calls",
            Self::TooManyPins => "too_many_pins",
            Self::Stopping => "stopping",
        }
    }
}

/// Why a table was not installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("epoch {offered} is not above the installed epoch {installed}")]
pub struct Stale {
    /// What came.
    pub offered: Epoch,
    /// What stays.
    pub installed: Epoch,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A call: a WebSocket.
    Call,
    /// A plain request that names a call: it pins the call once it is answered.
    Webhook,
    /// A plain request that names none.
    Request,
}

/// What the ledger is asked for.
#[derive(Debug)]
pub struct Asking<'a> {
    /// Whose request.
    pub agent: &'a AgentName,
    /// What is known of it; its pin is found by the ledger.
    pub facts: CallFacts<'a>,
    /// What it is about.
    pub purpose: Purpose,
}

/// What never changes about one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Whose.
    pub agent: AgentName,
    /// Of which call.
    pub call: CallId,
    /// Its release.
    pub release: ReleaseId,
    /// What people call the release.
    pub label: Label,
    /// Under which table it was decided.
    pub epoch: Epoch,
    /// Why it went there.
    pub reason: Reason,
    /// Whether an override brought it in.
    pub is_override: bool,
    /// Whether its call was connected before.
    pub is_resume: bool,
    /// What it is about.
    pub purpose: Purpose,
    /// Since when it is counted.
    pub since: Timestamp,
}

/// Bytes of one connection, written by its relay and read by whoever lists calls.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the caller.
    pub bytes_in: AtomicU64,
    /// To the caller.
    pub bytes_out: AtomicU64,
}

impl Counters {
    /// Both, as they are.
    pub fn read(&self) -> (u64, u64) {
        (
            self.bytes_in.load(Ordering::Relaxed),
            self.bytes_out.load(Ordering::Relaxed),
        )
    }
}

#[derive(Debug)]
struct Connection {
    identity: Arc<Identity>,
    counters: Arc<Counters>,
    worker: WorkerId,
    /// When it stood; `None`: it is being dialled.
    connected: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Admission {
    /// The latest time anyone told us: a dropped ticket has no other.
    seen: Timestamp,
    stopping: bool,
    books: BTreeMap<AgentName, Book>,
    /// By number, so oldest first.
    connections: BTreeMap<u64, Connection>,
    next: u64,
    refusals: BTreeMap<&'static str, u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    admission: Mutex<Admission>,
    tables: ArcSwap<Vec<Arc<RoutingTable>>>,
    open: watch::Sender<usize>,
    log: Option<CallLog>,
}

impl Ledger {
    /// An empty ledger. Ended calls are written to `log`.
    pub fn new(log: Option<CallLog>) -> Arc<Self> {
        Arc::new(Self {
            admission: Mutex::default(),
            tables: ArcSwap::default(),
            open: watch::Sender::new(0),
            log,
        })
    }

    /// The installed tables, for finding out whose a request is. A decision never uses this.
    pub fn tables(&self) -> Arc<Vec<Arc<RoutingTable>>> {
        self.tables.load_full()
    }

    /// Follows the number of connections.
    pub fn open(&self) -> watch::Receiver<usize> {
        self.open.subscribe()
    }

    /// Decides a request and counts it, in one step. `up` says whether a worker may be dialled; if
    /// no worker of the release is up, any of its workers is tried rather than the call refused,
    /// because a health check may be wrong about all of them at once.
    ///
    /// # Errors
    ///
    /// A [`Refused`], which is counted.
    pub fn begin(
        self: &Arc<Self>,
        asking: Asking<'_>,
        up: &dyn Fn(&WorkerId) -> bool,
        now: Timestamp,
    ) -> Result<Ticket, Refused> {
        let mut admission = self.lock(now);
        let begun = admission.begin(asking, up);
        match begun {
            Ok(begun) => {
                self.open.send_replace(admission.connections.len());
                Ok(Ticket::new(Arc::clone(self), begun))
            }
            Err(refused) => {
                *admission.refusals.entry(refused.word()).or_default() += 1;
                Err(refused)
            }
        }
    }

    /// Installs a table. Once this returns, every decision of an earlier epoch is counted.
    ///
    /// # Errors
    ///
    /// [`Stale`] when its epoch is not above the installed one.
    pub fn install(&self, table: RoutingTable, now: Timestamp) -> Result<(), Stale> {
        let mut admission = self.lock(now);
        let table = Arc::new(table);
        match admission.books.get_mut(&table.agent) {
            Some(book) if book.table.epoch >= table.epoch => {
                return Err(Stale {
                    offered: table.epoch,
                    installed: book.table.epoch,
                });
            }
            Some(book) => book.install(table),
            None => {
                let agent = table.agent.clone();
                admission.books.insert(agent, Book::new(table));
            }
        }
        self.publish(&admission);
        Ok(())
    }

    /// Withdraws the tables of all other agents: they take no new calls, and are dropped once they
    /// hold none.
    pub fn keep_agents(&self, names: &[AgentName], now: Timestamp) {
        let mut admission = self.lock(now);
        for (agent, book) in &mut admission.books {
            book.withdrawn = !names.contains(agent);
        }
        self.drop_withdrawn(&mut admission, now);
    }

    fn drop_withdrawn(&self, admission: &mut Admission, now: Timestamp) {
        let before = admission.books.len();
        admission.books.retain(|_, book| {
            book.purge(now);
            !book.withdrawn || !book.is_empty()
        });
        if admission.books.len() != before {
            self.publish(admission);
        }
    }

    /// The report: epochs and counts, under the lock that admits.
    pub fn snapshot(&self, now: Timestamp) -> BTreeMap<AgentName, AgentPresence> {
        let mut admission = self.lock(now);
        self.drop_withdrawn(&mut admission, now);
        let books = admission.books.iter();
        books
            .map(|(a, book)| (a.clone(), book.presence()))
            .collect()
    }

    /// Refusals so far, by [`Refused::word`].
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.locked().refusals.clone()
    }

    /// Refuses whatever comes from now on; what is counted goes on.
    pub fn stop(&self) {
        self.locked().stopping = true;
    }

    /// Takes calls again after [`Ledger::stop`].
    pub fn resume(&self) {
        self.locked().stopping = false;
    }

    /// How many connections are being dialled.
    pub fn dialling(&self) -> usize {
        let admission = self.locked();
        let dialling = |c: &&Connection| c.connected.is_none();
        admission.connections.values().filter(dialling).count()
    }

    /// Connections oldest first, then calls that are only pinned; at most `limit`.
    pub fn list(&self, agent: Option<&AgentName>, limit: usize) -> Vec<CallInfo> {
        let admission = self.locked();
        let ours = |name: &AgentName| agent.is_none_or(|agent| agent == name);
        let mut calls: Vec<CallInfo> = admission
            .connections
            .values()
            .filter(|c| ours(&c.identity.agent))
            .take(limit)
            .map(Connection::info)
            .collect();
        for (name, book) in admission.books.iter().filter(|(name, _)| ours(name)) {
            let pinned = book.records().filter(|(_, r)| r.expires.is_some());
            let room = limit - calls.len();
            calls.extend(pinned.take(room).map(|(call, record)| CallInfo {
                call: call.clone(),
                agent: name.clone(),
                release: record.pin.release,
                worker: record.pin.worker.clone(),
                epoch: record.epoch,
                since: record.since,
                state: "pinned".to_owned(),
                reason: record.reason.word().to_owned(),
                bytes_in: 0,
                bytes_out: 0,
            }));
        }
        calls
    }

    fn publish(&self, admission: &Admission) {
        let tables = admission.books.values().map(|b| Arc::clone(&b.table));
        self.tables.store(Arc::new(tables.collect()));
    }

    /// A panic under this lock would leave counts that still match the records, because every
    /// change is made by total functions; so a poisoned lock is no reason to stop routing.
    fn locked(&self) -> MutexGuard<'_, Admission> {
        self.admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self, now: Timestamp) -> MutexGuard<'_, Admission> {
        let mut admission = self.locked();
        admission.seen = admission.seen.max(now);
        admission
    }
}

impl Connection {
    fn info(&self) -> CallInfo {
        let (bytes_in, bytes_out) = self.counters.read();
        let state = if self.connected.is_some() {
            "live"
        } else {
            "dialling"
        };
        CallInfo {
            call: self.identity.call.clone(),
            agent: self.identity.agent.clone(),
            release: self.identity.release,
            worker: self.worker.clone(),
            epoch: self.identity.epoch,
            since: self.identity.since,
            state: state.to_owned(),
            reason: self.identity.reason.word().to_owned(),
            bytes_in,
            bytes_out,
        }
    }
}

/// What a ticket is made of.
struct Begun {
    number: u64,
    identity: Arc<Identity>,
    counters: Arc<Counters>,
    worker: WorkerId,
    addr: SocketAddr,
}

impl Admission {
    fn begin(
        &mut self,
        asking: Asking<'_>,
        up: &dyn Fn(&WorkerId) -> bool,
    ) -> Result<Begun, Refused> {
        let now = self.seen;
        if self.stopping {
            return Err(Refused::Stopping);
        }
        if self.connections.len() >= CALLS_MAX {
            return Err(Refused::TooManyCalls);
        }
        let book = self.books.get_mut(asking.agent).ok_or(Refused::NoTable)?;
        book.purge(now);
        let Asking {
            agent,
            mut facts,
            purpose,
        } = asking;
        let call = facts.call;
        let known = book.record(call);
        if known.is_none() && book.len() >= PINS_MAX {
            return Err(Refused::TooManyPins);
        }
        if known.is_none() && book.withdrawn {
            return Err(Refused::Route(Refusal::NothingServes));
        }
        facts.pin = known.map(|record| record.pin.clone());
        let (was_override, is_resume, started) = known.map_or((false, false, false), |record| {
            (record.is_override, record.connected, record.started)
        });
        let table = Arc::clone(&book.table);
        let decision = route::route(&table, &facts)?;
        let pinned = (decision.reason == Reason::Pin)
            .then_some(facts.pin.as_ref())
            .flatten();
        let is_override = match decision.reason {
            Reason::Pin => was_override,
            reason => reason == Reason::Override,
        };
        let starts = purpose == Purpose::Call && !is_override && !started;
        let worker = match choose(book, decision.release, pinned, call, up) {
            Ok(worker) => worker,
            Err(refusal) => {
                if starts {
                    let totals = &mut book.counts_mut(decision.release).totals;
                    totals.started += 1;
                    totals.errors += 1;
                }
                return Err(Refused::Route(refusal));
            }
        };
        let pin = Pin {
            release: decision.release,
            worker: worker.clone(),
        };
        book.enter(call, pin.clone(), || {
            Record::new(pin, table.epoch, decision.reason, is_override, now)
        });
        if starts {
            book.counts_mut(decision.release).totals.started += 1;
            if let Some(record) = book.record_mut(call) {
                record.started = true;
            }
        }
        let identity = Arc::new(Identity {
            agent: agent.clone(),
            call: call.clone(),
            release: decision.release,
            label: table
                .releases
                .get(&decision.release)
                .map_or_else(|| unnamed(decision.release), |route| route.label.clone()),
            epoch: table.epoch,
            reason: decision.reason,
            is_override,
            is_resume,
            purpose,
            since: now,
        });
        let addr = table.workers[&worker].addr;
        Ok(self.count(identity, Arc::default(), worker, addr, None))
    }

    fn count(
        &mut self,
        identity: Arc<Identity>,
        counters: Arc<Counters>,
        worker: WorkerId,
        addr: SocketAddr,
        connected: Option<Timestamp>,
    ) -> Begun {
        let number = self.next;
        self.next += 1;
        let connection = Connection {
            identity: Arc::clone(&identity),
            counters: Arc::clone(&counters),
            worker: worker.clone(),
            connected,
        };
        self.connections.insert(number, connection);
        Begun {
            number,
            identity,
            counters,
            worker,
            addr,
        }
    }
}

/// A worker that is up; if none is, one that is not.
fn choose(
    book: &Book,
    release: ReleaseId,
    pin: Option<&Pin>,
    call: &CallId,
    up: &dyn Fn(&WorkerId) -> bool,
) -> Result<WorkerId, Refusal> {
    let live = |worker: &WorkerId| book.at_worker(worker);
    let key = call.as_str();
    match route::choose_worker(&book.table, release, pin, live, up, key) {
        Err(Refusal::NoWorker) => {
            route::choose_worker(&book.table, release, pin, live, |_| true, key)
        }
        chosen => chosen,
    }
}

/// A label for a release that the table names in its split but does not describe.
fn unnamed(release: ReleaseId) -> Label {
    release
        .short()
        .parse()
        .expect("twelve hexadecimal digits are a label")
}

#[cfg(test)]
pub(crate) mod tests;
