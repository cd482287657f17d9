//! The table of one agent, the counts of its releases, and which rooms are pinned.

use std::collections::{BTreeMap, BTreeSet};

use super::LIBRARIES_MAX;
use super::facts::Ask;
use crate::names::{ReleaseId, WorkerId};
use crate::presence::{AgentPresence, ReleaseCounts, Totals};
use crate::route::Pin;
use crate::table::RoutingTable;
use crate::time::Timestamp;

/// Most rooms that are remembered after their last job: each is some 200 bytes.
const ROOMS_RESTING_MAX: usize = 50_000;

#[derive(Debug, Clone)]
pub(super) struct Book {
    pub(super) table: RoutingTable,
    /// The controller no longer names the agent.
    pub(super) withdrawn: bool,
    counts: BTreeMap<ReleaseId, ReleaseCounts>,
    rooms: BTreeMap<String, Room>,
    resting: BTreeSet<(Timestamp, String)>,
    /// Libraries of a release's workers that say how their jobs are.
    speaking: BTreeSet<(ReleaseId, String)>,
}

/// A room keeps the release of its jobs, and for a while longer if one of them was lost.
#[derive(Debug, Clone)]
struct Room {
    pin: Pin,
    jobs: u32,
    expires: Option<Timestamp>,
}

impl Book {
    pub(super) fn new(table: RoutingTable) -> Self {
        Self {
            table,
            withdrawn: false,
            counts: BTreeMap::new(),
            rooms: BTreeMap::new(),
            resting: BTreeSet::new(),
            speaking: BTreeSet::new(),
        }
    }

    /// Another table. What is known of releases that are not in it is not needed any more.
    pub(super) fn install(&mut self, table: RoutingTable) {
        self.table = table;
        self.withdrawn = false;
        let releases = &self.table.releases;
        self.speaking
            .retain(|(release, _)| releases.contains_key(release));
    }

    pub(super) fn pin(&self, ask: &Ask) -> Option<(Pin, bool)> {
        let room = self.rooms.get(&ask.room)?;
        Some((room.pin.clone(), room.jobs > 0))
    }

    /// A job begins in a room, or is known to be there.
    pub(super) fn enter(&mut self, room: &str, release: ReleaseId, worker: &WorkerId) {
        if room.is_empty() {
            return;
        }
        let pin = Pin {
            release,
            worker: worker.clone(),
        };
        let entry = self.rooms.entry(room.to_owned()).or_insert(Room {
            pin: pin.clone(),
            jobs: 0,
            expires: None,
        });
        if let Some(expires) = entry.expires.take() {
            self.resting.remove(&(expires, room.to_owned()));
        }
        entry.pin = pin;
        entry.jobs += 1;
    }

    /// A job in it is over; `keeps`: whoever comes back finds the same release.
    pub(super) fn leave(&mut self, room: &str, keeps: bool, now: Timestamp) {
        let Some(entry) = self.rooms.get_mut(room) else {
            return;
        };
        entry.jobs = entry.jobs.saturating_sub(1);
        if entry.jobs > 0 {
            return;
        }
        if keeps && self.resting.len() < ROOMS_RESTING_MAX {
            let expires = now + self.table.stickiness;
            entry.expires = Some(expires);
            self.resting.insert((expires, room.to_owned()));
        } else {
            self.rooms.remove(room);
        }
    }

    /// A room that nobody is in keeps no release.
    pub(super) fn unpin(&mut self, room: &str) {
        let expires = self.rooms.get(room).and_then(|entry| entry.expires);
        if let Some(expires) = expires {
            self.resting.remove(&(expires, room.to_owned()));
            self.rooms.remove(room);
        }
    }

    pub(super) fn purge(&mut self, now: Timestamp) {
        while let Some((expires, room)) = self.resting.first().cloned() {
            if expires > now {
                return;
            }
            self.resting.pop_first();
            self.rooms.remove(&room);
        }
    }

    /// A worker with this library has said how a job is.
    pub(super) fn hear(&mut self, release: ReleaseId, library: &str) {
        if self.speaking.len() < LIBRARIES_MAX {
            self.speaking.insert((release, library.to_owned()));
        }
    }

    /// Whether workers with this library are known to say how their jobs are.
    pub(super) fn speaks(&self, release: ReleaseId, library: &str) -> bool {
        self.speaking.contains(&(release, library.to_owned()))
    }

    pub(super) fn counts(&mut self, release: ReleaseId) -> &mut ReleaseCounts {
        self.counts.entry(release).or_default()
    }

    pub(super) fn totals(&mut self, release: ReleaseId) -> &mut Totals {
        &mut self.counts(release).totals
    }

    /// Whether nothing of the agent is left.
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.counts.values().all(|counts| counts.live == 0)
    }

    pub(super) fn presence(&self, workers: BTreeMap<WorkerId, u32>) -> AgentPresence {
        let mut releases = self.counts.clone();
        for (_, room) in &self.resting {
            if let Some(room) = self.rooms.get(room) {
                releases.entry(room.pin.release).or_default().pinned += 1;
            }
        }
        AgentPresence {
            epoch: self.table.epoch,
            releases,
            workers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Agent;
    use crate::table::ReleaseRoute;

    #[test]
    fn libraries_of_releases_that_are_gone_take_no_room() {
        let release = |number: usize| ReleaseId::of(number.to_string().as_bytes());
        let table = |number: usize| {
            let mut table = Agent::new("desk".parse().unwrap()).table();
            let route = ReleaseRoute {
                label: "v1".parse().unwrap(),
                takes_new_calls: true,
                retiring: false,
            };
            table.releases = [(release(number), route)].into();
            table
        };
        let mut book = Book::new(table(0));
        for number in 0..=LIBRARIES_MAX {
            book.install(table(number));
            book.hear(release(number), "1.8.9");
            assert!(book.speaks(release(number), "1.8.9"), "{number}");
        }
        assert_eq!(book.speaking.len(), 1);
    }
}
