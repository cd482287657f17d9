//! The ledger as it travels to the next process of the same gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use segue_core::names::{CallId, ReleaseId, WorkerId};
use segue_core::presence::Totals;
use segue_core::spec::{Ingress, OnRollback};
use segue_core::split::Split;
use segue_core::table::{Epoch, ReleaseRoute, RoutingTable};
use segue_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use crate::journal::Line;

use super::{Admission, Book, Ended, Identity, Ledger, Purpose, Record, Ticket};

/// A host that no request names: RFC 2606 keeps it free.
const NOBODYS_HOST: &str = "stand-in.invalid";

/// How long a call of an agent without a table may be without a connection: the default.
const STAND_IN_STICKINESS: Millis = Millis::from_secs(300);

/// Everything but the connections, which travel with their descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
            let records = book.records().map(|(call, r)| (call.clone(), r.record()));
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
                    book.insert_pinned(&call, &record, expires);
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

    /// Has a table for the agent of a connection, if there is none: its process is gone, and with
    /// it the table of an agent that takes no new calls. This one takes none either, and goes with
    /// its last call.
    pub fn stand_in(&self, moved: &Moved, now: Timestamp) {
        let mut admission = self.lock(now);
        if admission.stand_in(&moved.identity) {
            self.publish(&admission);
        }
    }

    /// Counts a connection that another process gave us. `None`: its agent is unknown here.
    pub fn adopt(self: &Arc<Self>, moved: Moved, now: Timestamp) -> Option<Ticket> {
        let mut admission = self.lock(now);
        let Admission {
            books,
            connections,
            journal,
            ..
        } = &mut *admission;
        let identity = moved.identity;
        let is_journaled = journal.is_some() && identity.purpose != Purpose::Request;
        let line = is_journaled.then(|| Box::new(identity.clone()));
        let book = books.get_mut(&identity.agent)?;
        let site = book
            .shared
            .site(identity.release, &moved.worker, moved.addr);
        book.enter(&identity.call, &site, || {
            let mut record = Record::new(
                site.pin(),
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
        let counted = connections.add(&mut book.shared, identity, Arc::clone(&site));
        let counters = &counted.counters;
        counters.bytes_in.store(moved.bytes_in, Ordering::Relaxed);
        counters.bytes_out.store(moved.bytes_out, Ordering::Relaxed);
        if moved.ends {
            counters.mark_to_end();
        }
        if let Some(at) = moved.connected {
            counted.set_connected(at);
            // It may have stood only after the ledger was sent.
            if let Some(record) = book.record_mut(counted.call()) {
                record.connected = true;
                record.keeps_pin = true;
            }
        }
        if let Some(identity) = line {
            let connection = counted.number;
            admission.write(Line::Begun {
                connection,
                identity,
                worker: site.worker.clone(),
            });
            if let Some(at) = moved.connected {
                admission.write(Line::Connected { connection, at });
            }
        }
        self.open.send_replace(admission.connections.len());
        Some(Ticket::new(Arc::clone(self), counted, site))
    }
}

impl Admission {
    /// See [`Ledger::stand_in`]. False: there is a table.
    pub(super) fn stand_in(&mut self, identity: &Identity) -> bool {
        let Identity {
            agent,
            release,
            label,
            ..
        } = identity;
        if self.books.contains_key(agent) {
            return false;
        }
        let route = ReleaseRoute {
            label: label.clone(),
            takes_new_calls: false,
            retiring: false,
        };
        let table = RoutingTable {
            agent: agent.clone(),
            epoch: Epoch(0),
            salt: String::new(),
            split: Split::all(*release),
            releases: [(*release, route)].into(),
            workers: BTreeMap::new(),
            ingress: Ingress {
                hosts: vec![NOBODYS_HOST.to_owned()],
                ..Ingress::default()
            },
            stickiness: STAND_IN_STICKINESS,
            on_rollback: OnRollback::Stay,
            rolled_back: BTreeSet::new(),
            handed_off: BTreeSet::new(),
            rescue: None,
            override_digest: None,
        };
        let mut book = Book::new(Arc::new(table));
        book.withdrawn = true;
        self.books.insert(agent.clone(), book);
        true
    }
}
