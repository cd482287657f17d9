//! Workers that come back, and say what they have.

use std::collections::BTreeSet;

use super::dispatcher::{Alarm, Dispatcher};
use super::event::{Action, Entry, Note};
use super::facts::WorkerKey;
use super::job::{Decided, Gone, Job, Stage};
use super::worker::Worker;
use super::{CLAIMS_MAX, JOBS_MAX, TAIL};
use crate::names::{CallId, WorkerId};
use crate::route::Reason;

impl Dispatcher {
    /// A worker that came back says what it has. It may have been draining, which it says only
    /// with its next status.
    pub(super) fn claimed(&mut self, key: WorkerKey, ids: Vec<CallId>) {
        let mut before = BTreeSet::new();
        for id in ids.into_iter().take(CLAIMS_MAX) {
            let Some(worker) = self.workers.get(&key) else {
                return;
            };
            let refused = Note::ClaimRefused {
                job: id.clone(),
                worker: worker.id.clone(),
            };
            let room = self.vacancies.get(&id);
            if room.is_some_and(|room| room.agent != worker.agent) {
                self.note(refused);
                continue;
            }
            if self.end_replaced(key, &id) {
                continue;
            }
            let Some(worker) = self.workers.get(&key) else {
                return;
            };
            let Some(job) = self.jobs.get(&id) else {
                self.adopt(key, &id);
                continue;
            };
            if !is_of(job, worker) {
                self.note(refused);
                continue;
            }
            match job.stage {
                Stage::Offering(_) => self.note(refused),
                Stage::Running(has) if has == key => {}
                Stage::Running(has) => {
                    if let Some(before) = self.workers.get_mut(&has) {
                        before.jobs.remove(&id);
                    }
                    self.hand(key, &id);
                }
                Stage::Away { .. } => {
                    before.extend(job.worker.clone());
                    let worker = job.worker.clone();
                    self.forget_away(worker.as_ref(), &id);
                    self.hand(key, &id);
                }
            }
        }
        self.unclaimed(&before);
    }

    /// A job is away.
    pub(super) fn note_away(&mut self, job: &Job) {
        if let Some(worker) = job.worker.clone() {
            self.away.entry(worker).or_default().insert(job.id.clone());
        }
    }

    /// It is not any more.
    pub(super) fn forget_away(&mut self, worker: Option<&WorkerId>, id: &CallId) {
        let Some((worker, jobs)) = worker.and_then(|w| Some((w, self.away.get_mut(w)?))) else {
            return;
        };
        jobs.remove(id);
        if jobs.is_empty() {
            self.away.remove(worker);
        }
    }

    /// A worker that is back with some of its jobs has ended the others. It says so next, if it
    /// has not said it before.
    fn unclaimed(&mut self, before: &BTreeSet<WorkerId>) {
        let by = self.now + TAIL;
        let mut over = Vec::new();
        let its = before.iter().filter_map(|worker| self.away.get(worker));
        for id in its.flatten().filter(|id| !self.vacancies.is_sent(id)) {
            if let Some(job) = self.jobs.get_mut(id)
                && let Stage::Away { until, gone } = &mut job.stage
            {
                (*until, *gone) = (by.min(*until), Gone::Over);
                over.push((*until, id.clone()));
            }
        }
        for (until, id) in over {
            // In order, as far as its worker knows: it may have left the call to somebody else.
            self.occupy(&id);
            self.wake(until, Alarm::Job(id));
        }
    }

    fn hand(&mut self, key: WorkerKey, id: &CallId) {
        self.retake(id);
        // Before it is one of the worker's: of these all say the same.
        self.drain_as(key, id);
        let Some((job, worker)) = self.jobs.get_mut(id).zip(self.workers.get_mut(&key)) else {
            return;
        };
        job.stage = Stage::Running(key);
        job.worker = Some(worker.id.clone());
        worker.jobs.insert(id.clone());
        if job.line != Some(worker.line) {
            let before = job.line.replace(worker.line);
            if let Some(line) = before.and_then(|line| self.lines.get_mut(&line)) {
                line.jobs -= 1;
            }
            if let Some(line) = self.lines.get_mut(&worker.line) {
                line.jobs += 1;
            }
        }
        // What it was told on its connection before it may not have heard. Who decides asks again
        // as long as that holds.
        (job.ends, job.over_by) = (false, None);
        let (worker, drains) = (worker.id.clone(), worker.drains.lasting());
        let is_news = job.drains != drains;
        job.drains.clone_from(&drains);
        self.out.push(Action::Write(Entry::Moved {
            job: id.clone(),
            worker: worker.clone(),
        }));
        self.note(Note::JobClaimed {
            job: id.clone(),
            worker,
        });
        if is_news {
            let job = id.clone();
            self.out.push(Action::Write(Entry::Drained { job, drains }));
        }
        self.heard_of(key, id);
    }

    /// A job that only its worker knows: it was given by somebody else, or the file is lost.
    fn adopt(&mut self, key: WorkerKey, id: &CallId) {
        let Some(worker) = self.workers.get_mut(&key) else {
            return;
        };
        let Some(book) = self.books.get_mut(&worker.agent) else {
            // Its release cannot be counted. It is claimed again with the next connection.
            return;
        };
        if self.jobs.len() >= JOBS_MAX {
            return;
        }
        let job = Job {
            id: id.clone(),
            agent: worker.agent.clone(),
            room: String::new(),
            line: Some(worker.line),
            decided: Some(Decided {
                release: worker.release,
                reason: Reason::Pin,
                epoch: book.table.epoch,
                // Outside of the totals: it did not start here.
                is_override: true,
            }),
            worker: Some(worker.id.clone()),
            offered: self.now,
            begun: Some(self.now),
            ends: false,
            // It claims its jobs, so it says how they are, too.
            spoken: true,
            drains: worker.drains.lasting(),
            is_left: false,
            again: None,
            over_by: None,
            stage: Stage::Running(key),
        };
        book.counts(worker.release).live += 1;
        worker.jobs.insert(id.clone());
        if let Some(line) = self.lines.get_mut(&worker.line) {
            line.jobs += 1;
        }
        let note = Note::JobAdopted {
            job: id.clone(),
            worker: worker.id.clone(),
        };
        let record = job.record();
        self.jobs.insert(id.clone(), job);
        self.out
            .extend(record.map(|r| Action::Write(Entry::Begun(r))));
        self.note(note);
        self.retake(id);
    }
}

/// Whether a job may be this worker's: it is of the same release.
pub(super) fn is_of(job: &Job, worker: &Worker) -> bool {
    job.agent == worker.agent && job.decided.is_some_and(|of| of.release == worker.release)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::dispatch::event::Event;
    use crate::dispatch::facts::{Ask, JobRecord, LineId, LineKey};
    use crate::dispatch::job::Step;
    use crate::dispatch::{Drains, Hello};
    use crate::names::ReleaseId;
    use crate::table::Epoch;
    use crate::time::Timestamp;

    const NOW: Timestamp = Timestamp(1_000);

    fn record(job: &str) -> JobRecord {
        JobRecord {
            job: job.parse().unwrap(),
            agent: "desk".parse().unwrap(),
            room: "room".to_owned(),
            release: ReleaseId::of(b"v1"),
            worker: "AW_1".parse().unwrap(),
            epoch: Epoch(1),
            reason: Reason::Split,
            is_override: false,
            decided: NOW,
            begun: NOW,
            spoken: true,
            drains: Drains::default(),
            again: None,
        }
    }

    fn connected(jobs: Vec<JobRecord>) -> Dispatcher {
        let mut d = Dispatcher::new(BTreeMap::new(), jobs, NOW);
        let hello = Hello {
            worker: WorkerKey(2),
            id: "AW_2".parse().unwrap(),
            release: ReleaseId::of(b"v1"),
            line: LineId {
                agent: "desk".parse().unwrap(),
                agent_name: String::new(),
                kind: 0,
                namespace: String::new(),
                permissions: None,
            },
            draining: false,
            library: String::new(),
            from: None,
        };
        d.step(NOW, Event::Registered(Box::new(hello)));
        d
    }

    // With fifty thousand jobs and ten thousand workers that come back at once, a look at every job
    // for each of them would take longer than the server waits for an answer. So a job that the
    // index does not name, which is never so in earnest, must not be found.

    #[test]
    fn a_claim_looks_at_no_other_workers_jobs() {
        let mut d = connected(vec![record("a"), record("b"), record("c")]);
        d.forget_away(Some(&"AW_1".parse().unwrap()), &"c".parse().unwrap());
        let (worker, jobs) = (WorkerKey(2), vec!["a".parse().unwrap()]);
        d.step(NOW, Event::Claimed { worker, jobs });
        let gone = |job: &str| match d.jobs[&job.parse::<CallId>().unwrap()].stage {
            Stage::Away { gone, .. } => Some(gone),
            _ => None,
        };
        let found = ["a", "b", "c"].map(gone);
        assert_eq!(found, [None, Some(Gone::Over), Some(Gone::Unheard)]);
    }

    #[test]
    fn the_end_of_a_connection_looks_at_no_other_workers_offers() {
        let mut d = connected(Vec::new());
        for name in ["a", "b"] {
            let ask = Ask {
                job: name.parse().unwrap(),
                room: String::new(),
                fields: BTreeMap::new(),
                body: b"offer".as_slice().into(),
                again: None,
            };
            let mut job = Job::offering(ask, "desk".parse().unwrap(), LineKey(1), NOW);
            job.offer_mut().unwrap().step = Step::Asking {
                worker: WorkerKey(2),
                until: NOW,
            };
            d.jobs.insert(job.id.clone(), job);
            d.lines.get_mut(&LineKey(1)).unwrap().jobs += 1;
        }
        let worker = d.workers.get_mut(&WorkerKey(2)).unwrap();
        worker.asked.insert("a".parse().unwrap());
        d.closed(WorkerKey(2), None);
        let is_asked = |job: &str| {
            let offer = d.jobs[&job.parse::<CallId>().unwrap()].offer().unwrap();
            matches!(offer.step, Step::Asking { .. })
        };
        assert_eq!(["a", "b"].map(is_asked), [false, true]);
    }
}
