//! The calls of one agent and their counts, without a lock.
//!
//! Counts are kept as calls come and go rather than walked for each report, because a report is
//! taken under the same lock as every admission. `Book::recount` is the slow, obvious version;
//! tests compare the two.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU64;
use std::sync::Arc;

use segue_core::names::{CallId, ReleaseId, WorkerId};
use segue_core::presence::{AgentPresence, ReleaseCounts};
use segue_core::route::{Pin, Reason};
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::calls::Calls;
use super::counted::{Shared, Site};

/// Of a worker that no table lists any more.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

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
        }
    }
}

/// A [`Record`] as it is kept, with where its connections are; those travel one by one.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each of which becomes true at most once"
)]
pub(crate) struct Kept {
    pub(crate) pin: Arc<Site>,
    epoch: Epoch,
    since: Timestamp,
    expires_ms: Option<NonZeroU64>,
    /// Connections where its pin says, which are usually all.
    here: u32,
    /// The others, if there are any.
    #[expect(
        clippy::box_collection,
        reason = "there are hardly ever any, so 8 bytes must do"
    )]
    elsewhere: Option<Box<Vec<Elsewhere>>>,
    reason: Reason,
    pub(crate) is_override: bool,
    pub(crate) started: bool,
    pub(crate) connected: bool,
    pub(crate) keeps_pin: bool,
    pub(crate) let_go: bool,
}

#[derive(Debug)]
struct Elsewhere {
    site: Arc<Site>,
    connections: u32,
}

impl Kept {
    fn of(record: &Record, pin: Arc<Site>) -> Self {
        let mut kept = Self {
            pin,
            epoch: record.epoch,
            since: record.since,
            expires_ms: None,
            here: 0,
            elsewhere: None,
            reason: record.reason,
            is_override: record.is_override,
            started: record.started,
            connected: record.connected,
            keeps_pin: record.keeps_pin,
            let_go: record.let_go,
        };
        kept.set_expires(record.expires);
        kept
    }

    /// The same without its connections.
    pub(crate) fn record(&self) -> Record {
        Record {
            pin: self.pin.pin(),
            epoch: self.epoch,
            reason: self.reason,
            is_override: self.is_override,
            since: self.since,
            started: self.started,
            connected: self.connected,
            keeps_pin: self.keeps_pin,
            let_go: self.let_go,
            expires: self.expires(),
        }
    }

    pub(crate) fn expires(&self) -> Option<Timestamp> {
        self.expires_ms.map(|at| Timestamp(at.get()))
    }

    fn set_expires(&mut self, expires: Option<Timestamp>) {
        let at_least = |at: Timestamp| NonZeroU64::new(at.0).unwrap_or(NonZeroU64::MIN);
        self.expires_ms = expires.map(at_least);
    }

    /// Learns what was known of the call before it was taken back by its connections alone.
    pub(crate) fn learn(&mut self, before: &Record) {
        self.epoch = before.epoch;
        self.reason = before.reason;
        self.is_override = before.is_override;
        self.since = before.since;
        self.started |= before.started;
        self.connected |= before.connected;
        self.keeps_pin |= before.keeps_pin;
        self.let_go |= before.let_go;
    }

    /// Where it has connections, and how many.
    fn sites(&self) -> impl Iterator<Item = (&Arc<Site>, u32)> {
        let elsewhere = self.elsewhere.iter().flat_map(|elsewhere| &**elsewhere);
        let elsewhere = elsewhere.map(|at| (&at.site, at.connections));
        let here = (self.here > 0).then_some((&self.pin, self.here));
        here.into_iter().chain(elsewhere)
    }

    fn is_on(&self, release: ReleaseId) -> bool {
        self.sites().any(|(site, _)| site.release == release)
    }

    /// Whether it has a connection where its pin says.
    pub(crate) fn is_connected(&self) -> bool {
        self.is_on(self.pin.release)
    }

    /// One more connection, and its pin, at `site`. Says whether it is the first one there.
    fn enter(&mut self, site: &Arc<Site>) -> bool {
        if !self.pin.is(site) {
            let there = self.take_elsewhere(site);
            let before = std::mem::replace(&mut self.here, there);
            let left = std::mem::replace(&mut self.pin, Arc::clone(site));
            if before > 0 {
                let elsewhere = self.elsewhere.get_or_insert_default();
                elsewhere.push(Elsewhere {
                    site: left,
                    connections: before,
                });
            }
        }
        self.pin = Arc::clone(site);
        self.here += 1;
        self.here == 1
    }

    /// Forgets the connections at a place that is not its pin's, and says how many they were.
    fn take_elsewhere(&mut self, site: &Site) -> u32 {
        let Some(elsewhere) = &mut self.elsewhere else {
            return 0;
        };
        let Some(index) = elsewhere.iter().position(|at| at.site.is(site)) else {
            return 0;
        };
        let connections = elsewhere.swap_remove(index).connections;
        if elsewhere.is_empty() {
            self.elsewhere = None;
        }
        connections
    }

    /// One connection less. Says whether it was the last one there; `None`: there was none.
    fn leave(&mut self, site: &Arc<Site>) -> Option<bool> {
        if self.pin.is(site) {
            self.here = self.here.checked_sub(1)?;
            return Some(self.here == 0);
        }
        let elsewhere = self.elsewhere.as_mut()?;
        let at = elsewhere.iter_mut().find(|at| at.site.is(site))?;
        at.connections -= 1;
        if at.connections > 0 {
            return Some(false);
        }
        self.take_elsewhere(site);
        Some(true)
    }
}

/// The calls of one agent.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) table: Arc<RoutingTable>,
    /// Its agent exists no more: only pinned calls go on.
    pub(crate) withdrawn: bool,
    pub(super) shared: Shared,
    records: Calls,
    expiries: BTreeSet<(Timestamp, CallId)>,
    counts: BTreeMap<ReleaseId, ReleaseCounts>,
    workers: BTreeMap<WorkerId, u32>,
}

impl Book {
    pub(crate) fn new(table: Arc<RoutingTable>) -> Self {
        Self {
            table,
            withdrawn: false,
            shared: Shared::default(),
            records: Calls::default(),
            expiries: BTreeSet::new(),
            counts: BTreeMap::new(),
            workers: BTreeMap::new(),
        }
    }

    pub(crate) fn record(&self, call: &CallId) -> Option<&Kept> {
        self.records.get(call)
    }

    pub(crate) fn record_mut(&mut self, call: &CallId) -> Option<&mut Kept> {
        self.records.get_mut(call)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (&CallId, &Kept)> {
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
        self.shared.purge();
    }

    /// Inserts a call without a connection whose pin runs out at `expires`.
    pub(crate) fn insert_pinned(&mut self, call: &CallId, record: &Record, expires: Timestamp) {
        self.remove(call);
        let (release, worker) = (record.pin.release, &record.pin.worker);
        self.counts_mut(release).pinned += 1;
        let listed = self.table.workers.get(worker);
        let addr = listed.map_or(NOWHERE, |route| route.addr);
        let site = self.shared.site(release, worker, addr);
        let mut kept = Kept::of(record, site);
        kept.set_expires(Some(expires));
        self.expiries
            .insert((kept.expires().unwrap_or_default(), call.clone()));
        self.records.get_or_insert(call, || kept);
    }

    /// Counts one more connection of a call, at `site`. `fresh` makes the record if there is none.
    pub(crate) fn enter(
        &mut self,
        call: &CallId,
        site: &Arc<Site>,
        fresh: impl FnOnce() -> Record,
    ) {
        let fresh = || Kept::of(&fresh(), Arc::clone(site));
        let record = self.records.get_or_insert(call, fresh);
        if let Some(expires) = record.expires() {
            record.set_expires(None);
            self.expiries.remove(&(expires, call.clone()));
            let counts = self.counts.entry(record.pin.release).or_default();
            counts.pinned -= 1;
        }
        if !record.is_on(site.release) {
            self.counts.entry(site.release).or_default().live += 1;
        }
        if record.enter(site) {
            *self.workers.entry(site.worker.clone()).or_default() += 1;
        }
    }

    /// Uncounts one connection of a call. With its last one the call is kept as pinned until
    /// `expires`, or forgotten. Says whether it was the last one on its release.
    pub(crate) fn leave(&mut self, call: &CallId, at: &Arc<Site>, expires: Timestamp) -> bool {
        let Some(record) = self.records.get_mut(call) else {
            return false;
        };
        let Some(last) = record.leave(at) else {
            return false;
        };
        if last && let Some(calls) = self.workers.get_mut(&at.worker) {
            *calls -= 1;
            if *calls == 0 {
                self.workers.remove(&at.worker);
            }
        }
        let last_here = !record.is_on(at.release);
        if last_here {
            self.counts.entry(at.release).or_default().live -= 1;
        }
        if record.sites().next().is_none() {
            if record.keeps_pin {
                record.set_expires(Some(expires));
                let expires = record.expires().unwrap_or_default();
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
        if let Some(expires) = record.expires() {
            self.expiries.remove(&(expires, call.clone()));
            self.counts.entry(record.pin.release).or_default().pinned -= 1;
        }
        debug_assert!(
            record.sites().next().is_none(),
            "only a pinned call is removed"
        );
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
        for (_, record) in self.records.iter() {
            let releases: BTreeSet<ReleaseId> = record.sites().map(|(s, _)| s.release).collect();
            if releases.is_empty() {
                again.releases.entry(record.pin.release).or_default().pinned += 1;
            }
            for release in releases {
                again.releases.entry(release).or_default().live += 1;
            }
            for (site, _) in record.sites() {
                *again.workers.entry(site.worker.clone()).or_default() += 1;
            }
        }
        again
    }
}
