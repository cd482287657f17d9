//! The ledger as it travels to the next process of the same gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use segue_core::names::{CallId, ReleaseId, WorkerId};
use segue_core::presence::Totals;
use segue_core::table::RoutingTable;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Admission, Book, Counters, Ended, Identity, Ledger, Record, Ticket};

/// Everything but the connections, which travel with their descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerState {
    /// Per agent.
    pub agents: Vec<AgentState>,
    /// Ended calls that the controller was not told of.
    #[serde(default)]
    pub ended: Ended,
}

/// One agent of a [`LedgerState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// Its table.
    pub table: RoutingTable,
    /// Whether the agent exists no more.
    pub withdrawn: bool,
    /// Its calls, live and pinned.
    pub records: Vec<(CallId, Record)>,
    /// Its totals, which go on counting.
    pub totals: BTreeMap<ReleaseId, Totals>,
}

/// One counted connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// What it is.
    pub identity: Identity,
    /// The worker it is counted on.
    pub worker: WorkerId,
    /// Where that worker listens.
    pub addr: SocketAddr,
    /// When it stood.
    pub connected: Option<Timestamp>,
    /// Bytes from the caller so far.
    pub bytes_in: u64,
    /// Bytes to the caller so far.
    pub bytes_out: u64,
    /// Whether it is to be ended by policy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
}

impl Ledger {
    /// The ledger as it is.
    pub fn export(&self, now: Timestamp) -> LedgerState {
        self.state(&mut self.lock(now))
    }

    pub(super) fn state(&self, admission: &mut Admission) -> LedgerState {
        let now = admission.seen;
        let mut agents = Vec::with_capacity(admission.books.len());
        for book in admission.books.values_mut() {
            book.purge(now);
            let records = book.records().map(|(call, r)| (call.clone(), r.clone()));
            let counts = book.presence().releases;
            agents.push(AgentState {
                table: RoutingTable::clone(&book.table),
                withdrawn: book.withdrawn,
                records: records.collect(),
                totals: counts.into_iter().map(|(id, c)| (id, c.totals)).collect(),
            });
        }
        let ended = self.untold();
        LedgerState { agents, ended }
    }

    /// Takes over what another process exported. A call whose connections do not come along (they
    /// stay with the old process) is pinned for the stickiness window.
    pub fn restore(&self, state: LedgerState, now: Timestamp) {
        self.restore_ended(state.ended);
        let mut admission = self.lock(now);
        for agent in state.agents {
            let name = agent.table.agent.clone();
            let ours = admission.books.get(&name).map(|book| &book.table);
            // What we read from disk may be newer than what the old process had.
            let table = match ours {
                Some(table) if table.epoch > agent.table.epoch => Arc::clone(table),
                _ => Arc::new(agent.table),
            };
            let mut book = Book::new(table);
            book.withdrawn = agent.withdrawn;
            for (call, record) in agent.records {
                let expires = record.expires.unwrap_or(now + book.table.stickiness);
                if record.keeps_pin || record.expires.is_none() {
                    book.insert_pinned(call, record, expires);
                }
            }
            for (release, totals) in agent.totals {
                book.counts_mut(release).totals.add(&totals);
            }
            admission.books.insert(name, book);
        }
        self.publish(&admission);
    }

    pub(super) fn forget_totals(&self) {
        let mut admission = self.locked();
        for book in admission.books.values_mut() {
            book.forget_totals();
        }
    }

    /// Forgets the calls that have no connection.
    pub fn forget_pins(&self) {
        let mut admission = self.locked();
        for book in admission.books.values_mut() {
            book.purge(Timestamp(u64::MAX));
        }
    }

    /// Counts a connection that another process gave us. `None`: its agent is unknown here.
    pub fn adopt(self: &Arc<Self>, moved: Moved, now: Timestamp) -> Option<Ticket> {
        let mut admission = self.lock(now);
        let identity = Arc::new(moved.identity);
        let counters = Arc::new(Counters::default());
        counters
            .bytes_in
            .store(moved.bytes_in, std::sync::atomic::Ordering::Relaxed);
        counters
            .bytes_out
            .store(moved.bytes_out, std::sync::atomic::Ordering::Relaxed);
        if moved.ends {
            counters.mark_to_end();
        }
        let book = admission.books.get_mut(&identity.agent)?;
        let pin = segue_core::route::Pin {
            release: identity.release,
            worker: moved.worker.clone(),
        };
        book.enter(&identity.call, pin.clone(), || {
            let mut record = Record::new(
                pin,
                identity.epoch,
                identity.reason,
                identity.is_override,
                identity.since,
            );
            record.started = true;
            record.connected = moved.connected.is_some();
            record.keeps_pin = record.connected;
            record
        });
        let begun = admission.count(
            identity,
            counters,
            moved.worker,
            moved.addr,
            moved.connected,
        );
        self.open.send_replace(admission.connections.len());
        Some(Ticket::new(Arc::clone(self), begun))
    }
}
