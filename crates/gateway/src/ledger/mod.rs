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
//! window starts none, and a call that connects, drops and reconnects ends twice. Errors are what
//! the release did wrong and nothing that callers can bring about, because errors roll releases
//! back. Lost calls are those of a process that died, found in its [journal](crate::journal). Calls
//! brought in by an override and plain requests are live while they last, and outside of the
//! totals.

mod admission;
mod book;
mod calls;
mod counted;
mod end;
mod ended;
mod identity;
mod journaled;
mod moved;
mod policy;
mod rescued;
mod sealed;
mod ticket;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use segue_core::link::CallInfo;
use segue_core::names::{AgentName, WorkerId};
use segue_core::presence::AgentPresence;
use segue_core::table::RoutingTable;
use segue_core::time::Timestamp;
use tokio::sync::watch;

use crate::call_log::CallLog;

use self::admission::{Admission, Turned, choose};
use self::book::Book;
pub use self::book::Record;
use self::counted::Connection;
pub use self::end::{By, Closed, End, Unreached};
pub use self::ended::{Ended, RECORDS_MAX};
pub use self::identity::{Asking, Counters, Identity, Purpose, Refused, Stale};
pub use self::moved::{AgentState, LedgerState, Moved};
pub use self::sealed::Late;
pub use self::ticket::Ticket;

/// Most connections at once, of all agents: at two descriptors each this is already above the
/// usual hard limit on descriptors, and about 35 MB of ledger.
pub const CALLS_MAX: usize = 100_000;

/// Most calls of one agent that are live or pinned. A pin takes about 250 bytes and lives five
/// minutes by default, so this is 50 MB and 600 new calls a second.
pub const PINS_MAX: usize = 200_000;

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    admission: Mutex<Admission>,
    tables: ArcSwap<Vec<Arc<RoutingTable>>>,
    open: watch::Sender<usize>,
    log: Option<CallLog>,
    ended: Mutex<Ended>,
}

impl Ledger {
    /// An empty ledger. Ended calls are written to `log`.
    pub fn new(log: Option<CallLog>) -> Arc<Self> {
        Self::bounded(log, CALLS_MAX, PINS_MAX)
    }

    /// As [`Ledger::new`], with other bounds than [`CALLS_MAX`] and [`PINS_MAX`].
    pub fn bounded(log: Option<CallLog>, calls_max: usize, pins_max: usize) -> Arc<Self> {
        Arc::new(Self {
            admission: Mutex::new(Admission::new(calls_max, pins_max)),
            tables: ArcSwap::default(),
            open: watch::Sender::new(0),
            log,
            ended: Mutex::default(),
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
        up: &dyn Fn(&WorkerId, SocketAddr) -> bool,
        now: Timestamp,
    ) -> Result<Ticket, Refused> {
        let mut admission = self.lock(now);
        let begun = admission.begin(asking, up);
        match begun {
            Ok((counted, site)) => {
                self.open.send_replace(admission.connections.len());
                Ok(Ticket::new(Arc::clone(self), counted, site))
            }
            Err(Turned { why, record }) => {
                *admission.refusals.entry(why.word()).or_default() += 1;
                drop(admission);
                if let Some(record) = record {
                    self.tell(*record);
                }
                Err(why)
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
        admission.mend_journal();
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
        let dialling = |c: &&Connection| c.counted.connected().is_none();
        admission.connections.values().filter(dialling).count()
    }

    /// Connections oldest first, then calls that are only pinned; at most `limit`.
    pub fn list(&self, agent: Option<&AgentName>, limit: usize) -> Vec<CallInfo> {
        let admission = self.locked();
        let ours = |name: &AgentName| agent.is_none_or(|agent| agent == name);
        let mut calls: Vec<CallInfo> = admission
            .connections
            .in_order()
            .into_iter()
            .filter(|c| ours(c.counted.agent()))
            .take(limit)
            .map(Connection::info)
            .collect();
        for (name, book) in admission.books.iter().filter(|(name, _)| ours(name)) {
            let pinned = book.records().filter(|(_, r)| r.expires().is_some());
            let room = limit - calls.len();
            calls.extend(pinned.take(room).map(|(call, kept)| {
                let record = kept.record();
                CallInfo {
                    call: call.clone(),
                    agent: name.clone(),
                    release: record.pin.release,
                    worker: record.pin.worker,
                    epoch: record.epoch,
                    since: record.since,
                    state: "pinned".to_owned(),
                    reason: record.reason.word().to_owned(),
                    bytes_in: 0,
                    bytes_out: 0,
                }
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

#[cfg(test)]
pub(crate) mod tests;
