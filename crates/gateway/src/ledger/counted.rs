//! What is kept of a connection, in few bytes.
//!
//! A gateway holds thousands of calls that say nothing for minutes, so what a call costs is what it
//! is made of here. What many of them share is there once: the release with its label
//! ([`Place`]), and the worker with its address ([`Site`]). One allocation has the rest
//! ([`Counted`]), and everyone who needs it holds that one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use segue_core::names::{AgentName, CallId, Label, ReleaseId, WorkerId};
use segue_core::route::{Pin, Reason};
use segue_core::table::Epoch;
use segue_core::time::Timestamp;

use crate::shelves::Shelves;

use super::{Counters, Identity, Purpose};

/// What is shared by the connections of a release that were decided under one table.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    agent: AgentName,
    release: ReleaseId,
    label: Label,
    epoch: Epoch,
    retiring: bool,
}

/// A worker of a release, at an address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) release: ReleaseId,
    pub(crate) worker: WorkerId,
    pub(crate) addr: SocketAddr,
}

impl Site {
    pub(super) fn pin(&self) -> Pin {
        Pin {
            release: self.release,
            worker: self.worker.clone(),
        }
    }

    /// Whether it is the same worker, wherever it listens.
    pub(super) fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || (self.release == other.release && self.worker == other.worker)
    }
}

/// What many calls of one agent share; each is there as long as one call has it, and then until
/// the next table.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    places: Vec<Arc<Place>>,
    sites: HashMap<WorkerId, Vec<Arc<Site>>>,
}

impl Shared {
    /// The place of this identity.
    fn place(&mut self, identity: &Identity) -> Arc<Place> {
        let here = |place: &&Arc<Place>| {
            place.release == identity.release
                && place.epoch == identity.epoch
                && place.retiring == identity.retiring
                && place.label == identity.label
        };
        // From the latest: there are few, and new calls are of that one.
        if let Some(place) = self.places.iter().rev().find(here) {
            return Arc::clone(place);
        }
        let place = Arc::new(Place {
            agent: identity.agent.clone(),
            release: identity.release,
            label: identity.label.clone(),
            epoch: identity.epoch,
            retiring: identity.retiring,
        });
        self.places.push(Arc::clone(&place));
        place
    }

    pub(super) fn site(
        &mut self,
        release: ReleaseId,
        worker: &WorkerId,
        addr: SocketAddr,
    ) -> Arc<Site> {
        let is = |site: &&Arc<Site>| site.release == release && site.addr == addr;
        if let Some(site) = self.sites.get(worker).and_then(|at| at.iter().find(is)) {
            return Arc::clone(site);
        }
        let site = Arc::new(Site {
            release,
            worker: worker.clone(),
            addr,
        });
        let sites = self.sites.entry(worker.clone()).or_default();
        sites.push(Arc::clone(&site));
        site
    }

    /// Lets go of what no call has any more.
    pub(super) fn purge(&mut self) {
        self.places.retain(|place| Arc::strong_count(place) > 1);
        self.sites.retain(|_, sites| {
            sites.retain(|site| Arc::strong_count(site) > 1);
            !sites.is_empty()
        });
    }
}

/// What is rarely known.
#[derive(Debug)]
struct Rare {
    traceparent: String,
}

/// One connection: what never changes about it, but for its counters and since when it stands.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) number: u64,
    place: Arc<Place>,
    call: CallId,
    since: Timestamp,
    rare: Option<Box<Rare>>,
    pub(super) counters: Counters,
    /// Milliseconds behind `since`, and one more; 0: not yet. Written under the ledger's lock.
    connected: AtomicU32,
    reason: Reason,
    is_override: bool,
    is_resume: bool,
    pub(super) purpose: Purpose,
}

impl Counted {
    pub(super) fn identity(&self) -> Identity {
        let Place {
            agent,
            release,
            label,
            epoch,
            retiring,
        } = &*self.place;
        Identity {
            agent: agent.clone(),
            call: self.call.clone(),
            release: *release,
            label: label.clone(),
            epoch: *epoch,
            reason: self.reason,
            is_override: self.is_override,
            is_resume: self.is_resume,
            purpose: self.purpose,
            since: self.since,
            retiring: *retiring,
            traceparent: self.rare.as_ref().map(|rare| rare.traceparent.clone()),
        }
    }

    pub(super) fn agent(&self) -> &AgentName {
        &self.place.agent
    }

    pub(super) fn release(&self) -> ReleaseId {
        self.place.release
    }

    pub(super) fn call(&self) -> &CallId {
        &self.call
    }

    /// Why it went to its release.
    pub(super) fn reason(&self) -> Reason {
        self.reason
    }

    pub(super) fn is_override(&self) -> bool {
        self.is_override
    }

    pub(super) fn connected(&self) -> Option<Timestamp> {
        match self.connected.load(Ordering::Relaxed) {
            0 => None,
            after => Some(Timestamp(self.since.0 + u64::from(after - 1))),
        }
    }

    pub(super) fn set_connected(&self, at: Timestamp) {
        // A clock that was set back meanwhile does not count.
        let after = at.0.saturating_sub(self.since.0);
        let after = u32::try_from(after).unwrap_or(u32::MAX - 1);
        self.connected
            .store(after.saturating_add(1), Ordering::Relaxed);
    }
}

/// A connection and the worker it is counted on, which changes when that one dies.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) counted: Arc<Counted>,
    pub(super) site: Arc<Site>,
}

/// The connections by their numbers.
///
/// A number is never given twice. Its high bits say which connection it was, so later ones are
/// larger; its low bits say where it is.
#[derive(Debug, Default)]
pub(super) struct Connections {
    entries: Shelves<Option<Connection>>,
    free: Vec<u32>,
    next: u64,
}

/// Low bits of a number: for many more connections than there are descriptors.
const INDEX_BITS: u32 = 24;

impl Connections {
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Counts a connection.
    pub(super) fn add(
        &mut self,
        shared: &mut Shared,
        identity: Identity,
        site: Arc<Site>,
    ) -> Arc<Counted> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            u32::try_from(self.entries.len() - 1).expect("far fewer connections than 2^24")
        });
        let number = self.next << INDEX_BITS | u64::from(index);
        self.next += 1;
        let rare = |traceparent| Box::new(Rare { traceparent });
        let counted = Arc::new(Counted {
            number,
            place: shared.place(&identity),
            call: identity.call,
            since: identity.since,
            rare: identity.traceparent.map(rare),
            counters: Counters::default(),
            connected: AtomicU32::new(0),
            reason: identity.reason,
            is_override: identity.is_override,
            is_resume: identity.is_resume,
            purpose: identity.purpose,
        });
        self.entries[index as usize] = Some(Connection {
            counted: Arc::clone(&counted),
            site,
        });
        counted
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Connection> {
        let entry = self.entries.get_mut(index(number) as usize)?;
        let is = |connection: &&mut Connection| connection.counted.number == number;
        entry.as_mut().filter(is)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Connection> {
        self.get_mut(number)?;
        self.free.push(index(number));
        self.entries[index(number) as usize].take()
    }

    /// In no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &Connection> {
        self.entries.iter().flatten()
    }

    /// Oldest first.
    pub(super) fn in_order(&self) -> Vec<&Connection> {
        let mut all: Vec<&Connection> = self.values().collect();
        all.sort_unstable_by_key(|connection| connection.counted.number);
        all
    }
}

fn index(number: u64) -> u32 {
    u32::try_from(number & ((1 << INDEX_BITS) - 1)).expect("of 24 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(call: &str) -> Identity {
        Identity {
            agent: "desk".parse().unwrap(),
            call: call.parse().unwrap(),
            release: ReleaseId::of(b"v1"),
            label: "v1".parse().unwrap(),
            epoch: Epoch(3),
            reason: Reason::Rule,
            is_override: true,
            is_resume: false,
            purpose: Purpose::Webhook,
            since: Timestamp(7),
            retiring: true,
            traceparent: Some("00-a-b-01".to_owned()),
        }
    }

    /// Without the counts of references and what the allocator adds: 24 bytes for each allocation.
    #[test]
    fn an_idle_call_is_small() {
        assert!(size_of::<Counted>() <= 80);
        assert!(size_of::<Option<Connection>>() <= 16);
        assert!(size_of::<crate::ledger::Ticket>() <= 24);
        assert!(size_of::<Option<(CallId, crate::ledger::book::Kept)>>() <= 72);
    }

    #[test]
    fn an_identity_is_kept_whole_and_what_is_alike_once() {
        let (mut connections, mut shared) = (Connections::default(), Shared::default());
        let (v1, addr) = (ReleaseId::of(b"v1"), ([127, 0, 0, 1], 1).into());
        let worker = "w".parse().unwrap();
        let add = |connections: &mut Connections, shared: &mut Shared, call| {
            let site = shared.site(v1, &worker, addr);
            connections.add(shared, identity(call), site)
        };
        let one = add(&mut connections, &mut shared, "a");
        let two = add(&mut connections, &mut shared, "b");
        assert_eq!(one.identity(), identity("a"));
        assert_eq!(two.identity(), identity("b"));
        assert!(Arc::ptr_eq(&one.place, &two.place));
        shared.purge();
        assert_eq!((shared.places.len(), shared.sites.len()), (1, 1));

        assert!(connections.remove(one.number).is_some());
        assert!(connections.remove(one.number).is_none());
        let three = add(&mut connections, &mut shared, "c");
        assert_eq!(index(three.number), index(one.number));
        assert!(connections.get_mut(one.number).is_none(), "an old number");
        let in_order = connections.in_order();
        let calls: Vec<&str> = in_order.iter().map(|c| c.counted.call().as_str()).collect();
        assert_eq!((calls, connections.len()), (vec!["b", "c"], 2));

        connections.remove(two.number);
        connections.remove(three.number);
        drop((one, two, three));
        shared.purge();
        assert_eq!((shared.places.len(), shared.sites.len()), (0, 0));
    }
}
