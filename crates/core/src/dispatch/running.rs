//! Jobs that run, and connections that end under them.

use std::collections::BTreeSet;

use super::dispatcher::{Alarm, Dispatcher};
use super::event::{Action, Entry, Note};
use super::facts::{Body, WorkerKey};
use super::job::{Decided, Gone, Job, Stage, Step, claim_within};
use super::worker::{Drain, Worker};
use super::{CLAIMS_MAX, JOBS_MAX, TAIL};
use crate::link::{CallOutcome, CallRecord};
use crate::names::{AgentName, CallId, ReleaseId, WorkerId};
use crate::route::Reason;
use crate::table::Epoch;

/// The code of a close frame that says that all is well.
const IN_ORDER: u16 = 1_000;

impl Dispatcher {
    /// What a worker says counts if the job is its own, or its release's while its worker is away:
    /// a worker that was away says the last words of its jobs on its next connection.
    pub(super) fn job_update(
        &mut self,
        key: WorkerKey,
        id: &CallId,
        ended_well: Option<bool>,
        body: Body,
    ) {
        let Some((job, worker)) = self.jobs.get(id).zip(self.workers.get(&key)) else {
            return;
        };
        let is_its = match &job.stage {
            Stage::Running(has) => *has == key,
            Stage::Away { .. } => is_of(job, worker),
            Stage::Offering(_) => false,
        };
        if !is_its {
            return;
        }
        let line = job.line.filter(|line| self.lines.contains_key(line));
        if let Some(job) = self.jobs.get_mut(id)
            && !job.spoken
        {
            job.spoken = true;
            self.out
                .push(Action::Write(Entry::Spoken { job: id.clone() }));
        }
        let ends = self.jobs.get(id).is_some_and(|job| job.ends);
        if let Some(line) = line {
            self.out.push(Action::ToServer { line, body });
        }
        match ended_well {
            None => {}
            _ if ends => self.finish(id, CallOutcome::Policy, "policy: ended", false),
            Some(true) => self.finish(id, CallOutcome::Completed, "worker: success", false),
            Some(false) => self.finish(id, CallOutcome::Dropped, "worker: failed", true),
        }
    }

    /// The server does so when the agent has left the room, too: from some workers nobody else hears
    /// that a job is over.
    pub(super) fn terminated(&mut self, id: &CallId, body: Body) {
        let by = self.now + TAIL;
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        match job.stage {
            Stage::Running(worker) => {
                job.over_by = Some(by);
                self.out.push(Action::ToWorker { worker, body });
                self.wake(by, Alarm::Job(id.clone()));
            }
            Stage::Away { .. } => self.over(id),
            Stage::Offering(_) => {}
        }
    }

    /// The server's word is the last one.
    fn over(&mut self, id: &CallId) {
        match self.jobs.get(id).map(|job| job.ends) {
            Some(true) => self.finish(id, CallOutcome::Policy, "policy: ended", false),
            _ => self.finish(id, CallOutcome::Completed, "server: ended", false),
        }
    }

    pub(super) fn end_calls(
        &mut self,
        agent: &AgentName,
        release: ReleaseId,
        epoch: Epoch,
        calls: &[CallId],
    ) {
        if !self.may_end(agent, release, epoch) {
            return;
        }
        let by = self.now + TAIL;
        for id in calls {
            let Some(job) = self.jobs.get_mut(id) else {
                continue;
            };
            if job.agent != *agent || job.decided.is_none_or(|of| of.release != release) {
                continue;
            }
            match job.stage {
                Stage::Running(worker) => {
                    job.ends = true;
                    job.over_by = Some(by);
                    self.wake(by, Alarm::Job(id.clone()));
                    let job = id.clone();
                    self.out.push(Action::Terminate { worker, job });
                }
                Stage::Away { .. } => job.ends = true,
                Stage::Offering(_) => {}
            }
        }
    }

    /// A connection is closed. Its jobs run on, as far as anybody knows.
    pub(super) fn closed(&mut self, key: WorkerKey, code: Option<u16>) {
        let Some(worker) = self.workers.remove(&key) else {
            return;
        };
        if let Some(crew) = self.crews.get_mut(&(worker.line, worker.release)) {
            crew.remove(&key);
            if crew.is_empty() {
                self.crews.remove(&(worker.line, worker.release));
            }
        }
        if let Some(line) = self.lines.get_mut(&worker.line) {
            line.workers -= 1;
            line.idle_since = (line.workers == 0).then_some(self.now);
        }
        self.tell_soon(worker.line);
        let drained = worker.drain != Drain::No;
        let in_order = drained && code == Some(IN_ORDER);
        for id in worker.jobs {
            if let Some(job) = self.jobs.get_mut(&id) {
                let (gone, within) = if in_order || job.over_by.is_some() {
                    (Gone::Over, TAIL)
                } else {
                    (Gone::Broken, claim_within(job.spoken))
                };
                let until = self.now + within;
                job.stage = Stage::Away {
                    until,
                    drained,
                    gone,
                };
                self.wake(until, Alarm::Job(id.clone()));
                self.note(Note::JobAway {
                    job: id,
                    worker: worker.id.clone(),
                });
            }
        }
        self.replace_at(key);
    }

    /// Offers that a lost worker had promised, or was asked for, go on elsewhere.
    fn replace_at(&mut self, key: WorkerKey) {
        let mut lost = Vec::new();
        for job in self.jobs.values_mut() {
            let id = job.id.clone();
            let Some(offer) = job.offer_mut() else {
                continue;
            };
            let was_tried = offer.tried.contains_key(&key);
            match &mut offer.step {
                Step::Asking { worker, .. } if *worker == key => {
                    offer.at_fault = true;
                    lost.push((id, false));
                }
                Step::Promised {
                    worker,
                    identity,
                    until,
                } if *worker == key => {
                    offer.step = Step::Replacing {
                        identity: std::mem::take(identity),
                        assignment: None,
                        asking: None,
                        until: *until,
                    };
                    // Whoever refused before may be the only one left.
                    offer.tried.retain(|_, words| words.is_none());
                    offer.asks = 0;
                    offer.at_fault = true;
                    lost.push((id, true));
                }
                Step::Replacing {
                    asking: Some((worker, _)),
                    ..
                } if *worker == key => lost.push((id, false)),
                _ => {}
            }
            if was_tried {
                offer.tried.remove(&key);
            }
        }
        for (id, had_promised) in lost {
            if had_promised {
                self.note(Note::JobReplaced { job: id.clone() });
            }
            self.offer_on(&id);
        }
    }

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
            let Some(job) = self.jobs.get(&id) else {
                self.adopt(key, id);
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
                    self.hand(key, id);
                }
                Stage::Away { drained, .. } => {
                    before.extend(job.worker.clone());
                    if drained {
                        self.drain(key, Drain::Told);
                    }
                    self.hand(key, id);
                }
            }
        }
        self.unclaimed(&before);
    }

    /// A worker that is back with some of its jobs has ended the others. It says so next, if it
    /// has not said it before.
    fn unclaimed(&mut self, before: &BTreeSet<WorkerId>) {
        let by = self.now + TAIL;
        let mut over = Vec::new();
        for job in self.jobs.values_mut() {
            let is_its = job.worker.as_ref().is_some_and(|id| before.contains(id));
            if let Stage::Away { until, gone, .. } = &mut job.stage
                && is_its
            {
                (*until, *gone) = (by.min(*until), Gone::Over);
                over.push((*until, job.id.clone()));
            }
        }
        for (until, id) in over {
            self.wake(until, Alarm::Job(id));
        }
    }

    fn hand(&mut self, key: WorkerKey, id: CallId) {
        let Some((job, worker)) = self.jobs.get_mut(&id).zip(self.workers.get_mut(&key)) else {
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
        let (worker, ends) = (worker.id.clone(), job.ends);
        let by = self.now + TAIL;
        job.over_by = ends.then_some(by);
        self.out.push(Action::Write(Entry::Moved {
            job: id.clone(),
            worker: worker.clone(),
        }));
        self.note(Note::JobClaimed {
            job: id.clone(),
            worker,
        });
        if ends {
            self.wake(by, Alarm::Job(id.clone()));
            self.out.push(Action::Terminate {
                worker: key,
                job: id,
            });
        }
    }

    /// A job that only its worker knows: it was given by somebody else, or the file is lost.
    fn adopt(&mut self, key: WorkerKey, id: CallId) {
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
        self.jobs.insert(id, job);
        self.out
            .extend(record.map(|r| Action::Write(Entry::Begun(r))));
        self.note(note);
    }

    pub(super) fn look_at_job(&mut self, id: &CallId) {
        let Some(job) = self.jobs.get(id) else {
            return;
        };
        match job.stage {
            Stage::Offering(_) => self.look_at_offer(id),
            Stage::Away { until, gone, .. } if self.now >= until => match (job.ends, gone) {
                (true, _) => self.finish(id, CallOutcome::Policy, "policy: ended", false),
                (false, Gone::Over) => {
                    let cause = "worker: last status not told";
                    self.finish(id, CallOutcome::Completed, cause, false);
                }
                (false, Gone::Broken) => {
                    self.finish(id, CallOutcome::Dropped, "worker: never came back", true);
                }
                (false, Gone::Unheard) => {
                    self.finish(id, CallOutcome::Lost, "dispatcher died", true);
                }
            },
            Stage::Running(_) if job.over_by.is_some_and(|by| self.now >= by) => self.over(id),
            Stage::Away { .. } | Stage::Running(_) => {}
        }
    }

    /// A job is over, or never began. `keeps`: its room keeps its release for a while.
    pub(super) fn finish(&mut self, id: &CallId, outcome: CallOutcome, cause: &str, keeps: bool) {
        self.let_go(id);
        let Some(mut job) = self.jobs.remove(id) else {
            return;
        };
        if let Stage::Running(worker) = job.stage
            && let Some(worker) = self.workers.get_mut(&worker)
        {
            worker.jobs.remove(id);
        }
        if let Some(line) = job.line.and_then(|line| self.lines.get_mut(&line)) {
            line.jobs -= 1;
            line.held.remove(&(job.offered, id.clone()));
        }
        let at_fault = job.offer_mut().is_some_and(|offer| offer.at_fault);
        if job.begun.is_some() {
            self.out
                .push(Action::Write(Entry::Ended { job: id.clone() }));
        }
        let Some(of) = job.decided else {
            return;
        };
        if let Some(book) = self.books.get_mut(&job.agent) {
            book.counts(of.release).live -= 1;
            if job.begun.is_some() {
                book.leave(&job.room, keeps, self.now);
            }
            if !of.is_override {
                let totals = book.totals(of.release);
                match (job.begun, outcome) {
                    (None, _) => totals.errors += u64::from(at_fault),
                    (Some(_), CallOutcome::Policy) => totals.policy += 1,
                    (Some(_), CallOutcome::Lost) => totals.lost += 1,
                    (Some(_), _) => {
                        totals.ended += 1;
                        totals.dropped += u64::from(outcome == CallOutcome::Dropped);
                        *totals.closes.entry(close_key(cause)).or_default() += 1;
                    }
                }
            }
        }
        self.out.push(Action::Ended(Box::new(CallRecord {
            call: job.id,
            agent: job.agent,
            release: of.release,
            worker: job.worker,
            started: job.offered,
            ended: self.now,
            setup_ms: job.begun.map(|begun| begun.since(job.offered).0),
            outcome,
            cause: cause.to_owned(),
            reason: of.reason.word().to_owned(),
            bytes_in: 0,
            bytes_out: 0,
            traceparent: None,
            rescued: None,
        })));
    }
}

/// Jobs have no close codes; these say the same.
fn close_key(cause: &str) -> String {
    let code = match cause {
        "worker: failed" => 1_011,
        "worker: never came back" => 1_006,
        _ => IN_ORDER,
    };
    format!("worker:{code}")
}

fn is_of(job: &Job, worker: &Worker) -> bool {
    job.agent == worker.agent && job.decided.is_some_and(|of| of.release == worker.release)
}
