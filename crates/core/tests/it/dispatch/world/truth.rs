//! What must be true.

use std::collections::BTreeMap;

use segue_core::dispatch::{ANSWER_WITHIN, ASKED_MAX, Event, JobRecord, WorkerKey};
use segue_core::names::{CallId, ReleaseId};
use segue_core::plane::DrainedBy;
use segue_core::split::Share;
use segue_core::time::{Millis, Timestamp};

use super::super::process::Process;
use super::{View, World};

impl World {
    /// When all is over nothing is left.
    pub(super) fn rest(&mut self) {
        let now = Timestamp(self.now);
        let d = self.d.as_mut().expect("it is up at the end");
        assert_eq!(d.list(None, 10), []);
        assert_eq!(self.durable, BTreeMap::new());
        assert_eq!(self.rooms.written, BTreeMap::new());
        for presence in d.presence(now + Millis(60_000)).values() {
            for counts in presence.releases.values() {
                assert_eq!((counts.live, counts.pinned), (0, 0), "{presence:?}");
            }
        }
        for (job, offer) in &self.offered {
            assert!(offer.answered, "{job} was never answered");
        }
    }

    /// What the dispatcher is told, the world knows that it knows.
    pub(super) fn observe(&mut self, event: &Event) {
        match event {
            Event::Status { worker, status } => {
                if let Some(view) = self.views.get_mut(worker) {
                    view.available = status.available == Some(true);
                    view.refused = false;
                    if status.draining || (!view.available && status.load == 0.0) {
                        view.drains.insert(DrainedBy::Worker);
                    }
                }
            }
            Event::Answered { worker, answer } => {
                if let Some(view) = self.views.get_mut(worker) {
                    view.refused |= !answer.available;
                }
            }
            Event::Closed { worker, .. } => {
                self.views.remove(worker);
            }
            Event::Drain { worker, by } => {
                if let Some(view) = self.views.get_mut(worker) {
                    view.drains.insert(*by);
                }
            }
            Event::Undrain { worker, by } => {
                if let Some(view) = self.views.get_mut(worker) {
                    view.drains.remove(by);
                }
            }
            Event::Steer { worker, what, .. } => self.steered(worker, *what),
            Event::Claimed { worker, jobs } => self.known_again(*worker, jobs),
            Event::LineDown { line } => {
                for offer in self
                    .offered
                    .values_mut()
                    .filter(|offer| offer.line == *line)
                {
                    offer.answered = true;
                }
            }
            _ => {}
        }
    }

    pub(super) fn is_sent_jobs(&self, release: ReleaseId) -> bool {
        self.table.split.share(release) > Share::NONE
    }

    /// Nobody is promised a job to who should have none.
    pub(super) fn check_promise(&self, job: &CallId, worker: WorkerKey) {
        let view = &self.views[&worker];
        assert!(view.drains.is_empty(), "{job} goes to a worker that drains");
        self.check_release(job, view);
    }

    /// Nobody says for everybody that a job is not wanted who would not have got it.
    pub(super) fn check_rejection(&self, job: &CallId, worker: WorkerKey) {
        let view = &self.views[&worker];
        assert!(view.drains.is_empty(), "{job} ends for who drains");
        assert_eq!(self.offered[job].asked_last, Some(worker), "{job}");
        self.check_release(job, view);
    }

    /// A job is ended by policy only while its release winds down; and else only if another one has begun
    /// in its room.
    pub(super) fn check_end(&mut self, job: &CallId) {
        if self.rooms.is_replaced(job) {
            assert!(self.rooms.has_successor(job), "{job} is ended for nobody");
            self.count("back too late");
            return;
        }
        let release = self.durable[job].release;
        let route = &self.table.releases[&release];
        assert!(route.retiring, "{job} is ended, and its release is in use");
    }

    fn check_release(&self, job: &CallId, view: &View) {
        let room = &self.offered[job].room;
        let pinned = self
            .durable
            .values()
            .any(|record| record.room == *room && record.release == view.release);
        // A room that was pinned rests for a while.
        assert!(
            self.is_sent_jobs(view.release) || pinned || room.starts_with("shared"),
            "{job} goes to a release that drains"
        );
    }

    /// Nobody who could have taken it was left out.
    pub(super) fn check_refusal(&self, job: &CallId) {
        let offer = &self.offered[job];
        if self.now - offer.at + 60 > ANSWER_WITHIN.0 || offer.asked.len() >= ASKED_MAX {
            return;
        }
        // A room whose own agent is back takes no other.
        let held = |one: &Process| {
            one.jobs
                .iter()
                .any(|has| self.offered[has].room == offer.room)
        };
        if self.rooms.on && self.processes.iter().any(|one| one.alive && held(one)) {
            return;
        }
        for (key, view) in &self.views {
            let could = view.available
                && view.drains.is_empty()
                && !view.refused
                && !self.processes[view.process].draining
                && self.is_sent_jobs(view.release)
                && !offer.asked.contains(key);
            assert!(!could, "{job} is refused, but {view:?} was not asked");
        }
    }

    /// Counts, list and file say the same.
    pub(super) fn look(&mut self) {
        let now = Timestamp(self.now);
        let Some(d) = &mut self.d else {
            return;
        };
        let mut listed: BTreeMap<ReleaseId, u64> = BTreeMap::new();
        for info in d.list(None, usize::MAX) {
            *listed.entry(info.release).or_default() += 1;
        }
        let presence = &d.presence(now)[&self.agent];
        assert_eq!(presence.epoch, self.table.epoch);
        for (release, counts) in &presence.releases {
            let listed = listed.get(release).copied().unwrap_or_default();
            assert_eq!(counts.live, listed, "{release:?}");
        }
        let running: BTreeMap<CallId, JobRecord> = d
            .records()
            .map(|record| (record.job.clone(), record))
            .collect();
        assert_eq!(running, self.durable);
        for worker in d.connected(None, usize::MAX) {
            for job in &worker.jobs {
                assert_eq!(self.durable[job].worker, worker.worker, "{job}");
            }
            let key = worker.worker.as_str().trim_start_matches("AW_");
            let view = &self.views[&WorkerKey(key.parse().unwrap())];
            assert_eq!(worker.drain, view.drains.first().copied(), "{view:?}");
        }
    }
}
