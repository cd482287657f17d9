//! What must be true.

use std::collections::BTreeMap;

use segue_core::dispatch::{ANSWER_WITHIN, ASKED_MAX, Event, JobRecord, WorkerKey};
use segue_core::names::{CallId, ReleaseId};
use segue_core::split::Share;
use segue_core::time::{Millis, Timestamp};

use super::World;

impl World {
    /// When all is over nothing is left.
    pub(super) fn rest(&mut self) {
        let now = Timestamp(self.now);
        let d = self.d.as_mut().expect("it is up at the end");
        assert_eq!(d.list(None, 10), []);
        assert_eq!(self.durable, BTreeMap::new());
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
                    view.draining |= status.draining || (!view.available && status.load == 0.0);
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
            Event::Drain { worker, .. } => {
                if let Some(view) = self.views.get_mut(worker) {
                    view.draining = true;
                }
            }
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
        assert!(!view.draining, "{job} goes to a worker that drains");
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
        for (key, view) in &self.views {
            let could = view.available
                && !view.draining
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
        }
    }
}
