//! Jobs that run, and connections that end under them.

use super::TAIL;
use super::claims::is_of;
use super::dispatcher::{Alarm, Dispatcher};
use super::event::{Action, Entry, Note};
use super::facts::{Body, WorkerKey};
use super::job::{Gone, Job, Stage, Step, claim_within};
use super::worker::Worker;
use crate::link::{CallOutcome, CallRecord};
use crate::names::{AgentName, CallId, ReleaseId};
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
        let worker = self.workers.get(&key).or_else(|| self.kicked.get(&key));
        let Some((job, worker)) = self.jobs.get(id).zip(worker) else {
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
        match ended_well {
            None => self.heard_of(key, id),
            // A last word says nothing of what its like say before.
            Some(_) => {
                if let Some(job) = self.jobs.get_mut(id) {
                    self.out.extend(job.speaks());
                }
            }
        }
        let ends = self.jobs.get(id).is_some_and(|job| job.ends);
        if let Some(line) = line {
            self.out.push(Action::ToServer { line, body });
        }
        match ended_well {
            None => {}
            _ if ends => self.finish(id, CallOutcome::Policy, "policy: ended", false),
            Some(true) => self.finish(id, CallOutcome::Completed, "worker: success", false),
            Some(false) => {
                // What the server has ended was over already, however its process went then.
                if self.jobs.get(id).is_some_and(|job| job.over_by.is_none()) {
                    self.vacate(id, true);
                }
                self.finish(id, CallOutcome::Dropped, "worker: failed", true);
            }
        }
    }

    /// A worker says how its jobs are, so this one it will say, too, and those of its like.
    pub(super) fn heard_of(&mut self, key: WorkerKey, id: &CallId) {
        let worker = self.workers.get(&key);
        if let Some((worker, book)) = worker.and_then(|w| Some((w, self.books.get_mut(&w.agent)?)))
        {
            book.hear(worker.release, &worker.library);
        }
        if let Some(job) = self.jobs.get_mut(id) {
            self.out.extend(job.speaks());
        }
    }

    /// The server does so when the agent has left the room, too: from some workers nobody else hears
    /// that a job is over.
    pub(super) fn terminated(&mut self, id: &CallId, body: Body) {
        let by = self.now + TAIL;
        if self.vacancies.is_sent(id) {
            // That its agent is gone is why.
            return;
        }
        let is_watched = self.look_again(id);
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        match &mut job.stage {
            Stage::Running(worker) => {
                let worker = *worker;
                job.over_by = Some(by);
                self.out.push(Action::ToWorker { worker, body });
                self.wake(by, Alarm::Job(id.clone()));
            }
            // The agent has left the room perhaps, and its caller has not.
            Stage::Away { until, gone } if is_watched => {
                (*until, *gone) = (by.min(*until), Gone::Over);
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
                // Nobody can be told, and what holds now may not hold when its worker is back. Who
                // decides finds it there again, and asks again.
                Stage::Away { .. } | Stage::Offering(_) => {}
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
        let in_order = !worker.drains.is_empty() && code == Some(IN_ORDER);
        let book = self.books.get(&worker.agent);
        let speaks = book.is_some_and(|book| book.speaks(worker.release, &worker.library));
        for id in &worker.jobs {
            if let Some(job) = self.jobs.get_mut(id) {
                if speaks {
                    self.out.extend(job.speaks());
                }
                let (gone, within) = if in_order || job.over_by.is_some() {
                    (Gone::Over, TAIL)
                } else {
                    (Gone::Broken, claim_within(job.spoken))
                };
                let until = self.now + within;
                job.stage = Stage::Away { until, gone };
                let ours = self.away.entry(worker.id.clone()).or_default();
                ours.insert(id.clone());
                self.wake(until, Alarm::Job(id.clone()));
                self.note(Note::JobAway {
                    job: id.clone(),
                    worker: worker.id.clone(),
                });
            }
            // Also one that the server has ended: it does so when a machine is gone without a word,
            // which we may notice later than it.
            if !in_order {
                self.vacate(id, false);
            }
        }
        self.replace_at(key, &worker);
    }

    /// Offers that a lost worker had promised, or was asked for, go on elsewhere.
    fn replace_at(&mut self, key: WorkerKey, worker: &Worker) {
        let mut lost = Vec::new();
        for id in worker.asked.union(&worker.promised) {
            let Some(offer) = self.jobs.get_mut(id).and_then(Job::offer_mut) else {
                continue;
            };
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
        }
        for (id, had_promised) in lost {
            if had_promised {
                self.note(Note::JobReplaced { job: id.clone() });
            }
            self.offer_on(id);
        }
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
        self.occupy(id);
        let Some(mut job) = self.jobs.remove(id) else {
            return;
        };
        if let Some(sid) = job.sid() {
            self.vacancies.forget_job(sid, &job.agent, id);
        }
        match &job.stage {
            Stage::Running(worker) => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.jobs.remove(id);
                }
            }
            Stage::Away { .. } => self.forget_away(job.worker.as_ref(), id),
            Stage::Offering(_) => {}
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
            if job.begun.is_some() && !job.is_left {
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
        "worker: never came back" | "worker: died" => 1_006,
        _ => IN_ORDER,
    };
    format!("worker:{code}")
}
