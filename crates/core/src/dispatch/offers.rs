//! From the server's offer to the job's beginning.

use super::choose::Choice;
use super::dispatcher::{Alarm, Dispatcher, Settings};
use super::event::{Action, Answer, Entry, Note};
use super::facts::{Ask, Body, LineKey, WorkerKey};
use super::job::{Decided, Job, Stage, Step};
use super::{
    ANSWER_WITHIN, ASK_FOR, ASK_LEAST, ASKED_MAX, ASSIGNED_WITHIN, JOBS_MAX, REPLACED_WITHIN,
    SLOW_FOR,
};
use crate::link::CallOutcome;
use crate::names::{AgentName, CallId};
use crate::time::Timestamp;

impl Dispatcher {
    pub(super) fn offered(&mut self, key: LineKey, ask: Ask) {
        let refuse = |ask: Ask| Action::Refuse {
            line: key,
            job: ask.job,
        };
        let Some(agent) = self.lines.get(&key).map(|line| &line.id.agent) else {
            self.out.push(refuse(ask));
            return;
        };
        let redispatch = self.settings(agent).redispatch;
        // One that runs already would have two workers, and a room whose agent is back two agents.
        if self.is_kept(agent, ask.again.as_deref(), &ask.job)
            || self.jobs.contains_key(&ask.job)
            || self.jobs.len() >= JOBS_MAX
        {
            self.out.push(refuse(ask));
            return;
        }
        let id = ask.job.clone();
        if let Some(again) = ask.again.as_ref().filter(|_| redispatch) {
            self.vacancies.note_job(&again.sid, &id);
        }
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        line.jobs += 1;
        line.held.insert((self.now, id.clone()));
        let job = Job::offering(ask, line.id.agent.clone(), key, self.now);
        self.jobs.insert(id.clone(), job);
        self.offer_on(&id);
    }

    /// Looks for the next worker of an offer of which nobody is asked.
    pub(super) fn offer_on(&mut self, id: &CallId) {
        let Some((job, line)) = self.jobs.get(id).and_then(|job| Some((job, job.line?))) else {
            return;
        };
        let Some(offer) = job.offer() else {
            return;
        };
        let (choice, now) = (self.choose(job, line), self.now);
        let (offered, asked) = (job.offered, offer.asks);
        if let Step::Replacing { until, .. } = offer.step {
            match choice {
                Choice::Ask { of, worker, .. } if asked < ASKED_MAX => {
                    self.recount(id, of);
                    self.ask(id, worker, (now + ASK_FOR).min(until));
                }
                // Whoever is free next is asked.
                _ => self.hold_for(id, until),
            }
            return;
        }
        let answer_by = offered + ANSWER_WITHIN;
        let is_late = now + ASK_LEAST > answer_by;
        let held_until = answer_by.min(offered + self.hold(&job.agent));
        match choice {
            Choice::Ask { first, of, worker } if !is_late && asked < ASKED_MAX => {
                if first.release != of.release {
                    self.recount(id, first);
                    self.blame_if_empty(id, line, first);
                    self.note(Note::JobElsewhere {
                        job: id.clone(),
                        release: first.release,
                        instead: of.release,
                    });
                }
                self.recount(id, of);
                self.ask(id, worker, (now + ASK_FOR).min(answer_by));
            }
            Choice::Nobody(of) if now < held_until => {
                if let Some(of) = of {
                    self.recount(id, of);
                }
                self.hold_for(id, held_until);
            }
            Choice::Never(why) => self.refuse(id, why),
            Choice::Nobody(None) => self.refuse(id, "nothing serves"),
            Choice::Nobody(Some(of)) => {
                self.recount(id, of);
                self.blame_if_empty(id, line, of);
                self.refuse(id, "every worker is busy or gone");
            }
            Choice::Ask { .. } => self.refuse(id, "no worker answered in time"),
        }
    }

    fn ask(&mut self, id: &CallId, key: WorkerKey, until: Timestamp) {
        let now = self.now;
        let Some((job, worker)) = self.jobs.get_mut(id).zip(self.workers.get_mut(&key)) else {
            return;
        };
        let (offered, line) = (job.offered, job.line);
        job.worker = Some(worker.id.clone());
        worker.asked.insert(id.clone());
        let words = worker.words;
        let Some(offer) = job.offer_mut() else {
            return;
        };
        offer.tried.insert(key, Some(words));
        offer.asks += 1;
        match &mut offer.step {
            Step::Replacing { asking, .. } => *asking = Some((key, until)),
            step => *step = Step::Asking { worker: key, until },
        }
        let body = offer.ask.body.clone();
        self.out.push(Action::ToWorker { worker: key, body });
        if let Some(line) = line.and_then(|line| self.lines.get_mut(&line)) {
            line.held.remove(&(offered, id.clone()));
        }
        self.wake(until.max(now), Alarm::Job(id.clone()));
    }

    fn hold_for(&mut self, id: &CallId, until: Timestamp) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let (offered, line) = (job.offered, job.line);
        if let Some(offer) = job.offer_mut() {
            match &mut offer.step {
                Step::Replacing { asking, .. } => *asking = None,
                step => *step = Step::Held,
            }
        }
        if let Some(line) = line.and_then(|line| self.lines.get_mut(&line)) {
            line.held.insert((offered, id.clone()));
        }
        self.wake(until, Alarm::Job(id.clone()));
    }

    /// A worker may have room: whoever waits on its line is offered again, oldest first.
    pub(super) fn room_on(&mut self, line: LineKey) {
        let Some(line) = self.lines.get(&line) else {
            return;
        };
        let held: Vec<CallId> = line.held.iter().map(|(_, id)| id.clone()).collect();
        for id in held {
            self.offer_on(&id);
        }
    }

    /// Counts an offer at its release, and no longer at another one.
    fn recount(&mut self, id: &CallId, of: Decided) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        let Some(book) = self.books.get_mut(&job.agent) else {
            return;
        };
        let before = job.decided.replace(of);
        if before.is_some_and(|before| before.release == of.release) {
            return;
        }
        let at_fault = job
            .offer_mut()
            .is_some_and(|o| std::mem::take(&mut o.at_fault));
        if let Some(before) = before {
            let counts = book.counts(before.release);
            counts.live -= 1;
            counts.totals.errors += u64::from(at_fault && !before.is_override);
        }
        let counts = book.counts(of.release);
        counts.live += 1;
        counts.totals.started += u64::from(!of.is_override);
    }

    /// A release without any worker is at fault; one whose workers are busy is not.
    fn blame_if_empty(&mut self, id: &CallId, line: LineKey, of: Decided) {
        let is_empty = self.crew(line, of.release).is_none();
        if let Some(offer) = self.jobs.get_mut(id).and_then(Job::offer_mut) {
            offer.at_fault |= is_empty;
        }
    }

    pub(super) fn answered(&mut self, key: WorkerKey, answer: Answer) {
        let Some(worker) = self.workers.get_mut(&key) else {
            return;
        };
        if !worker.asked.remove(&answer.job) {
            return;
        }
        worker.slow_until = Timestamp::default();
        let (release, is_draining) = (worker.release, !worker.drains.is_empty());
        if !answer.available && !answer.terminate {
            worker.refuse();
            let line = worker.line;
            self.tell_soon(line);
        }
        let Some(job) = self.jobs.get(&answer.job) else {
            return;
        };
        let (Some(offer), Some(line)) = (job.offer(), job.line) else {
            return;
        };
        let asked_now = match &offer.step {
            Step::Asking { worker, .. } => *worker == key,
            Step::Replacing { asking, .. } => asking.is_some_and(|(worker, _)| worker == key),
            Step::Held => false,
            Step::Promised { .. } => return,
        };
        let may = !is_draining && self.is_permitted(job, line, release);
        let takes = answer.available && !answer.terminate && may;
        match &offer.step {
            Step::Replacing { identity, .. } => {
                if takes && *identity == answer.identity {
                    self.replaced(key, &answer.job);
                    return;
                }
                if let Some(offer) = self.jobs.get_mut(&answer.job).and_then(Job::offer_mut)
                    && answer.available
                {
                    // It would give the same answer again.
                    offer.tried.insert(key, None);
                }
                if asked_now {
                    self.offer_on(&answer.job);
                }
            }
            // "Nobody is to take it" from one who is to take none himself, or from one who is not waited
            // for any more, is a refusal like any other.
            _ if answer.terminate && asked_now && may => {
                let body = answer.body;
                self.out.push(Action::ToServer { line, body });
                self.finish(
                    &answer.job,
                    CallOutcome::Completed,
                    "worker: not wanted",
                    false,
                );
            }
            _ if takes => self.promised(key, line, answer),
            _ if asked_now => self.offer_on(&answer.job),
            _ => {}
        }
    }

    /// A worker takes it: the server may sign.
    fn promised(&mut self, key: WorkerKey, line: LineKey, answer: Answer) {
        let of = self.decided_for(key, &answer.job);
        if let Some(of) = of {
            self.recount(&answer.job, of);
        }
        let until = self.now + ASSIGNED_WITHIN;
        let Some((job, worker)) = self
            .jobs
            .get_mut(&answer.job)
            .zip(self.workers.get_mut(&key))
        else {
            return;
        };
        worker.promised.insert(answer.job.clone());
        job.worker = Some(worker.id.clone());
        let offered = job.offered;
        if let Some(offer) = job.offer_mut() {
            offer.step = Step::Promised {
                worker: key,
                identity: answer.identity,
                until,
            };
        }
        if let Some(line) = self.lines.get_mut(&line) {
            line.held.remove(&(offered, answer.job.clone()));
        }
        self.out.push(Action::ToServer {
            line,
            body: answer.body,
        });
        self.wake(until, Alarm::Job(answer.job));
    }

    /// What a job was decided for, at the release of a worker that may be another one's.
    fn decided_for(&self, key: WorkerKey, job: &CallId) -> Option<Decided> {
        let release = self.workers.get(&key)?.release;
        let decided = self.jobs.get(job)?.decided?;
        Some(Decided { release, ..decided })
    }

    /// Another worker takes the place of one that was lost.
    fn replaced(&mut self, key: WorkerKey, id: &CallId) {
        if let Some(of) = self.decided_for(key, id) {
            self.recount(id, of);
        }
        let Some(offer) = self.jobs.get_mut(id).and_then(Job::offer_mut) else {
            return;
        };
        let Step::Replacing {
            identity,
            assignment,
            until,
            ..
        } = &mut offer.step
        else {
            return;
        };
        if let Some(body) = assignment.take() {
            self.begin(id, key, body);
            return;
        }
        offer.step = Step::Promised {
            worker: key,
            identity: std::mem::take(identity),
            until: *until,
        };
        if let Some(worker) = self.workers.get_mut(&key) {
            worker.promised.insert(id.clone());
        }
        let held = self.jobs.get(id).map(|job| (job.offered, id.clone()));
        let line = self.jobs.get(id).and_then(|job| job.line);
        if let (Some(held), Some(line)) = (held, line.and_then(|key| self.lines.get_mut(&key))) {
            line.held.remove(&held);
        }
    }

    pub(super) fn assigned(&mut self, id: &CallId, body: Body) {
        let later = self.now + REPLACED_WITHIN;
        let Some(offer) = self.jobs.get_mut(id).and_then(Job::offer_mut) else {
            self.note(Note::AssignmentUnexpected { job: id.clone() });
            return;
        };
        match &mut offer.step {
            Step::Promised { worker, .. } => {
                let worker = *worker;
                self.begin(id, worker, body);
            }
            Step::Replacing {
                assignment, until, ..
            } => {
                *assignment = Some(body);
                *until = later;
                self.wake(later, Alarm::Job(id.clone()));
            }
            Step::Held | Step::Asking { .. } => {
                self.note(Note::AssignmentUnexpected { job: id.clone() });
            }
        }
    }

    /// Whoever was asked and has not answered need not any more.
    pub(super) fn let_go(&mut self, id: &CallId) {
        let Some(offer) = self.jobs.get(id).and_then(Job::offer) else {
            return;
        };
        let mut whom: Vec<WorkerKey> = offer.tried.keys().copied().collect();
        if let Step::Promised { worker, .. } = offer.step {
            whom.push(worker);
        }
        for key in whom {
            if let Some(worker) = self.workers.get_mut(&key) {
                worker.asked.remove(id);
                worker.promised.remove(id);
            }
        }
    }

    /// The job is written down, and then given.
    fn begin(&mut self, id: &CallId, key: WorkerKey, body: Body) {
        let is_kept = self.jobs.get(id).is_some_and(|job| {
            let again = job.offer().and_then(|offer| offer.ask.again.as_deref());
            self.is_kept(&job.agent, again, id)
        });
        if is_kept {
            // Its worker waits for it in vain, and then no more.
            let cause = "server: assigned too late";
            self.finish(id, CallOutcome::Failed, cause, false);
            return;
        }
        self.let_go(id);
        let now = self.now;
        let agent = self.jobs.get(id).map(|job| job.agent.clone());
        let settings = agent.map_or_else(Settings::default, |agent| self.settings(&agent));
        let Some((job, worker)) = self.jobs.get_mut(id).zip(self.workers.get_mut(&key)) else {
            return;
        };
        if settings.redispatch {
            job.again = job.again();
        }
        worker.begin(id.clone());
        job.worker = Some(worker.id.clone());
        job.begun = Some(now);
        // It may have begun to drain since it promised.
        job.drains = worker.drains.lasting();
        let (offered, line, release) = (job.offered, job.line, worker.release);
        job.stage = Stage::Running(key);
        if let Some(book) = self.books.get_mut(&job.agent) {
            book.enter(&job.room, release, &worker.id);
            job.spoken = book.speaks(release, &worker.library);
        }
        let record = job.record();
        let table = self.books.get(&job.agent).map(|book| &book.table);
        let label = table.and_then(|table| Some(table.releases.get(&release)?.label.clone()));
        let label = label.filter(|_| settings.room_metadata && !job.room.is_empty());
        let label = label.map(|label| Action::Label {
            room: job.room.clone(),
            label,
        });
        if let Some(line) = line.and_then(|line| self.lines.get_mut(&line)) {
            line.held.remove(&(offered, id.clone()));
        }
        self.out
            .extend(record.map(|r| Action::Write(Entry::Begun(r))));
        self.out.push(Action::ToWorker { worker: key, body });
        self.out.extend(label);
        self.succeeds(id);
    }

    /// An alarm of an offer. Says whether it was one.
    pub(super) fn look_at_offer(&mut self, id: &CallId) {
        let now = self.now;
        let Some(job) = self.jobs.get(id) else {
            return;
        };
        let Some(offer) = job.offer() else {
            return;
        };
        match &offer.step {
            Step::Held => {
                let by = job.offered + ANSWER_WITHIN.min(self.hold(&job.agent));
                if now >= by {
                    self.offer_on(id);
                }
            }
            Step::Asking { worker, until } if now >= *until => {
                let worker = *worker;
                self.silent(id, worker);
                self.offer_on(id);
            }
            Step::Promised { until, .. } if now >= *until => {
                self.finish(id, CallOutcome::Failed, "server: never assigned", false);
            }
            Step::Replacing { until, .. } if now >= *until => {
                self.finish(
                    id,
                    CallOutcome::Dropped,
                    "worker: lost before it began",
                    true,
                );
            }
            Step::Replacing {
                asking: Some((worker, until)),
                ..
            } if now >= *until => {
                let worker = *worker;
                self.silent(id, worker);
                self.offer_on(id);
            }
            _ => {}
        }
    }

    fn silent(&mut self, id: &CallId, key: WorkerKey) {
        if let Some(offer) = self.jobs.get_mut(id).and_then(Job::offer_mut) {
            offer.at_fault = true;
            offer.tried.insert(key, None);
        }
        if let Some(worker) = self.workers.get_mut(&key) {
            worker.slow_until = self.now + SLOW_FOR;
            let worker = worker.id.clone();
            let job = id.clone();
            self.note(Note::WorkerSilent { worker, job });
        }
    }

    /// After a table: an offer that is asked of a release that takes none any more goes on.
    pub(super) fn reconsider(&mut self, agent: &AgentName) {
        let astray = |job: &&Job| {
            let asked = match &job.offer()?.step {
                Step::Asking { worker, .. } => worker,
                Step::Replacing { asking, .. } => &asking.as_ref()?.0,
                Step::Held | Step::Promised { .. } => return None,
            };
            let worker = self.workers.get(asked)?;
            let permitted = self.is_permitted(job, job.line?, worker.release);
            (job.agent == *agent && !permitted).then_some(())
        };
        let jobs: Vec<CallId> = self
            .jobs
            .values()
            .filter(|job| astray(job).is_some())
            .map(|job| job.id.clone())
            .collect();
        for id in jobs {
            self.offer_on(&id);
        }
    }

    /// The server hears that nobody takes it.
    pub(super) fn refuse(&mut self, id: &CallId, why: &'static str) {
        let Some(job) = self.jobs.get(id) else {
            return;
        };
        let after = self.now.since(job.offered);
        if let Some(line) = job.line {
            let job = id.clone();
            self.out.push(Action::Refuse { line, job });
        }
        self.note(Note::JobRefused {
            job: id.clone(),
            after,
            why,
        });
        self.finish(id, CallOutcome::Failed, why, true);
    }

    /// The server is away: what it offered it has forgotten. What it has assigned goes on.
    pub(super) fn line_down(&mut self, key: LineKey) {
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        line.is_up = false;
        let forgotten = |job: &&Job| {
            let is_ours = job.line == Some(key);
            is_ours
                && job.offer().is_some_and(|offer| {
                    !matches!(
                        offer.step,
                        Step::Replacing {
                            assignment: Some(_),
                            ..
                        }
                    )
                })
        };
        let jobs = self.jobs.values().filter(forgotten);
        let jobs: Vec<CallId> = jobs.map(|job| job.id.clone()).collect();
        for id in jobs {
            self.finish(&id, CallOutcome::Failed, "server: away", false);
        }
    }
}
