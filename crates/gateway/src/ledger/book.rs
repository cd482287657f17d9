//! The calls of one agent and their counts, without a lock.
//!
//! Counts are kept as calls come and go rather than walked for each report, because a report is
//! taken under the same lock as every admission. `Book::recount` is the slow, obvious version;
//! tests compare the two.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use segue_core::names::{CallId, ReleaseId, WorkerId};
use segue_core::presence::{AgentPresence, ReleaseCounts};
use segue_core::route::{Pin, Reason};
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What is known of one call, over all of its connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each of which becomes true at most once"
)]
pub struct Record {
    /// Where its next connection goes.
    pub pin: Pin,
    /// Under which table it was decided.
    pub epoch: Epoch,
    /// Why it went there.
    pub reason: Reason,
    /// Whether an override brought it in; such calls are outside of the totals.
    pub is_override: bool,
    /// When it was pinned.
    pub since: Timestamp,
    /// Whether it was counted as started.
    pub started: bool,
    /// Whether a connection of it ever stood.
    pub connected: bool,
    /// Whether its pin outlives its last connection.
    pub keeps_pin: bool,
    /// Whether its pin means nothing any more, although connections of it still stand: they are
    /// being ended by policy.
    #[serde(default)]
    pub let_go: bool,
    /// When its pin runs out: set exactly while it has no connection.
    pub expires: Option<Timestamp>,
    /// Where its connections are. Not part of a handoff: connections travel one by one.
    #[serde(skip)]
    places: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    release: ReleaseId,
    worker: WorkerId,
    connections: u32,
}

impl Record {
    /// A call that was just decided.
    pub(crate) fn new(
        pin: Pin,
        epoch: Epoch,
        reason: Reason,
        is_override: bool,
        since: Timestamp,
    ) -> Self {
        Self {
            pin,
            epoch,
            reason,
            is_override,
            since,
            started: false,
            connected: false,
            keeps_pin: false,
            let_go: false,
            expires: None,
            places: Vec::new(),
        }
    }

    /// Whether it has a connection where its pin says.
    pub(crate) fn is_connected(&self) -> bool {
        self.places.iter().any(|p| p.release == self.pin.release)
    }
}

/// The calls of one agent.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) table: Arc<RoutingTable>,
    /// Its agent exists no more: only pinned calls go on.
    pub(crate) withdrawn: bool,
    records: HashMap<CallId, Record>,
    expiries: BTreeSet<(Timestamp, CallId)>,
    counts: BTreeMap<ReleaseId, ReleaseCounts>,
    workers: BTreeMap<WorkerId, u32>,
}

impl Book {
    pub(crate) fn new(table: Arc<RoutingTable>) -> Self {
        Self {
            table,
            withdrawn: false,
            records: HashMap::new(),
            expiries: BTreeSet::new(),
            counts: BTreeMap::new(),
            workers: BTreeMap::new(),
        }
    }

    pub(crate) fn record(&self, call: &CallId) -> Option<&Record> {
        self.records.get(call)
    }

    pub(crate) fn record_mut(&mut self, call: &CallId) -> Option<&mut Record> {
        self.records.get_mut(call)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (&CallId, &Record)> {
        self.records.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Calls a worker holds.
    pub(crate) fn at_worker(&self, worker: &WorkerId) -> u32 {
        self.workers.get(worker).copied().unwrap_or(0)
    }

    pub(crate) fn counts_mut(&mut self, release: ReleaseId) -> &mut ReleaseCounts {
        self.counts.entry(release).or_default()
    }

    /// Installs a newer table; counts of releases that it does not name and that hold nothing go.
    pub(crate) fn install(&mut self, table: Arc<RoutingTable>) {
        self.counts.retain(|release, counts| {
            table.releases.contains_key(release) || counts.live > 0 || counts.pinned > 0
        });
        self.table = table;
        self.withdrawn = false;
    }

    /// Inserts a call without a connection whose pin runs out at `expires`.
    pub(crate) fn insert_pinned(&mut self, call: CallId, mut record: Record, expires: Timestamp) {
        self.remove(&call);
        self.counts_mut(record.pin.release).pinned += 1;
        record.expires = Some(expires);
        self.expiries.insert((expires, call.clone()));
        self.records.insert(call, record);
    }

    /// Counts one more connection of a call, at the worker of `pin`. `fresh` makes the record if
    /// there is none.
    pub(crate) fn enter(&mut self, call: &CallId, pin: Pin, fresh: impl FnOnce() -> Record) {
        let record = self.records.entry(call.clone()).or_insert_with(fresh);
        if let Some(expires) = record.expires.take() {
            self.expiries.remove(&(expires, call.clone()));
            let counts = self.counts.entry(record.pin.release).or_default();
            counts.pinned -= 1;
        }
        if !record.places.iter().any(|p| p.release == pin.release) {
            self.counts.entry(pin.release).or_default().live += 1;
        }
        let here = |p: &&mut Place| p.release == pin.release && p.worker == pin.worker;
        if let Some(place) = record.places.iter_mut().find(here) {
            place.connections += 1;
        } else {
            *self.workers.entry(pin.worker.clone()).or_default() += 1;
            record.places.push(Place {
                release: pin.release,
                worker: pin.worker.clone(),
                connections: 1,
            });
        }
        record.pin = pin;
    }

    /// Uncounts one connection of a call. With its last one the call is kept as pinned until
    /// `expires`, or forgotten. Says whether it was the last one on its release.
    pub(crate) fn leave(&mut self, call: &CallId, at: &Pin, expires: Timestamp) -> bool {
        let Some(record) = self.records.get_mut(call) else {
            return false;
        };
        let here = |p: &Place| p.release == at.release && p.worker == at.worker;
        let Some(index) = record.places.iter().position(here) else {
            return false;
        };
        record.places[index].connections -= 1;
        if record.places[index].connections == 0 {
            record.places.swap_remove(index);
            if let Some(calls) = self.workers.get_mut(&at.worker) {
                *calls -= 1;
                if *calls == 0 {
                    self.workers.remove(&at.worker);
                }
            }
        }
        let last_here = !record.places.iter().any(|p| p.release == at.release);
        if last_here {
            self.counts.entry(at.release).or_default().live -= 1;
        }
        if record.places.is_empty() {
            if record.keeps_pin {
                record.expires = Some(expires);
                self.expiries.insert((expires, call.clone()));
                self.counts.entry(record.pin.release).or_default().pinned += 1;
            } else {
                self.records.remove(call);
            }
        }
        last_here
    }

    fn remove(&mut self, call: &CallId) {
        let Some(record) = self.records.remove(call) else {
            return;
        };
        if let Some(expires) = record.expires {
            self.expiries.remove(&(expires, call.clone()));
            self.counts.entry(record.pin.release).or_default().pinned -= 1;
        }
        debug_assert!(record.places.is_empty(), "only a pinned call is removed");
    }

    /// Forgets the pins that have run out.
    pub(crate) fn purge(&mut self, now: Timestamp) {
        while let Some((expires, _)) = self.expiries.first()
            && *expires <= now
        {
            let (_, call) = self.expiries.first().expect("just seen").clone();
            self.remove(&call);
        }
    }

    /// Starts the totals again from zero.
    pub(crate) fn forget_totals(&mut self) {
        for counts in self.counts.values_mut() {
            counts.totals = segue_core::presence::Totals::default();
        }
    }

    /// The report. Call [`Book::purge`] first.
    pub(crate) fn presence(&self) -> AgentPresence {
        AgentPresence {
            epoch: self.table.epoch,
            releases: self.counts.clone(),
            workers: self.workers.clone(),
        }
    }

    /// Live and pinned counts per release and calls per worker, counted the slow way.
    #[cfg(test)]
    pub(crate) fn recount(&self) -> AgentPresence {
        let mut again = AgentPresence {
            epoch: self.table.epoch,
            ..AgentPresence::default()
        };
        for (release, counts) in &self.counts {
            again.releases.entry(*release).or_default().totals = counts.totals.clone();
        }
        for record in self.records.values() {
            let releases: BTreeSet<ReleaseId> = record.places.iter().map(|p| p.release).collect();
            if releases.is_empty() {
                again.releases.entry(record.pin.release).or_default().pinned += 1;
            }
            for release in releases {
                again.releases.entry(release).or_default().live += 1;
            }
            for place in &record.places {
                *again.workers.entry(place.worker.clone()).or_default() += 1;
            }
        }
        again
    }
}
