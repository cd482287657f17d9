//! Rooms whose agent died while somebody is still there: they get another one.
//!
//! LiveKit does not do it: a job whose worker is lost stays where it was, and whoever called hears
//! nothing. Here it is done for agents that ask for it. A job whose worker's connection broke makes its
//! room *doubtful*: the server is asked who is there, every few seconds, for as long as the worker may
//! come back. Only when the agent itself is gone from the room, twice in a row, and a caller is not, is
//! another one asked for. One whose worker says that its process died needs no second look.
//!
//! To have asked is not to have got: the server forgets a job that nobody takes. So the job is over
//! only once another one has *begun* in its room, and a worker that comes back before keeps it: nobody
//! else is let in for it then. One that comes back later is told to end it. What is about to be
//! done is written down first; whether it was done the server is asked and not guessed. Two agents are
//! in a room at most from the beginning of the second until the first one's worker is back: one that was
//! cut off from us and from the server, and whose agent rejoins, nobody can tell before.

use super::CLAIM_WITHIN;
use super::dispatcher::{Alarm, Dispatcher};
use super::event::{Action, Entry, Note};
use super::facts::WorkerKey;
use super::job::{Gone, Job, Stage, Step};
use super::vacancy::{ABSENT_LOOKS, Again, Dispatched, RoomAsk, RoomSeen, Vacancy, VacancyStage};
use crate::link::CallOutcome;
use crate::names::{AgentName, CallId};
use crate::time::{Millis, Timestamp};

/// From a broken connection to the first look into its room: a worker that lives is back by then.
pub const LOOK_FIRST: Millis = Millis::from_secs(3);

/// From one look to the next. The server itself notices only after some ten seconds that a participant
/// is gone without a word.
pub const LOOK_EVERY: Millis = Millis::from_secs(3);

/// The same for a room whose agent is there, and where the server would have noticed by now if it was not.
pub const LOOK_SELDOM: Millis = Millis::from_secs(10);

/// Looks in a row that find an agent before it is looked for [seldom](LOOK_SELDOM): half a minute.
const THERE_LOOKS: u8 = 10;

/// How long a room is looked at: as long as its worker may come back.
pub const LOOKED_FOR: Millis = CLAIM_WITHIN;

/// How long a dispatch that the server has may be without a job that begins. The server gives up
/// after three seconds; who has promised it may take longer.
pub const TAKEN_WITHIN: Millis = Millis::from_secs(10);

/// How often a room is dispatched again for one job, each time only if nothing came of the last, and
/// once the server has it only while a worker here takes jobs.
pub const SENDS_MAX: u8 = 3;

/// Agents that one room gets anew within [`REMEMBERED_FOR`]: an agent that dies of what is said in it
/// would die for ever.
pub const REDISPATCHES_MAX: usize = 3;

/// How long a room is remembered that was answered again. Workers try to come back for 130 seconds.
pub const REMEMBERED_FOR: Millis = Millis::from_secs(600);

/// Rooms that are watched or remembered: each is a kilobyte or, with long metadata, some more.
pub const ROOMS_MAX: usize = 10_000;

impl Dispatcher {
    /// With the rooms that the process before this one watched or remembered.
    #[must_use]
    pub fn with_vacancies(mut self, vacancies: Vec<Vacancy>) -> Self {
        for vacancy in vacancies {
            let (id, stage) = (vacancy.job.clone(), vacancy.stage);
            let is_answered = stage == VacancyStage::Answered;
            // Whoever configures it no more, or not by this name, wants no agent of it.
            if !is_answered && !self.settings(&vacancy.agent).redispatch {
                self.out.push(Action::Write(Entry::Occupied { job: id }));
                continue;
            }
            let at = self.now + LOOK_FIRST;
            self.wake(at, Alarm::Room(id.clone()));
            self.vacancies.insert(vacancy, at, self.now);
            if let Some(job) = self.jobs.get_mut(&id).filter(|_| stage.is_sent()) {
                job.is_left = true;
                if let Stage::Away { until, gone } = &mut job.stage {
                    *gone = Gone::Broken;
                    if is_answered {
                        // Its end was to be the next line.
                        *until = at;
                        self.wake(at, Alarm::Job(id));
                    }
                }
            }
        }
        // What began in such a room, and was the last that the process before this one did.
        let begun: Vec<CallId> = self.jobs.keys().cloned().collect();
        for id in begun {
            self.succeeds(&id);
        }
        self
    }

    /// What must be written down anew when the file is: the jobs that run, and such rooms.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let jobs = self.records().map(Entry::Begun);
        let rooms = self.vacancies.all().cloned().map(Box::new);
        jobs.chain(rooms.map(Entry::Vacant))
    }

    /// A job's worker is lost, or says that its process died (`dead`).
    pub(super) fn vacate(&mut self, id: &CallId, dead: bool) {
        // Who says nothing of its jobs does not claim them either: nobody would know whether one lives.
        let Some(job) = self.jobs.get(id).filter(|job| job.spoken && !job.ends) else {
            return;
        };
        let (stage, first) = if dead {
            (VacancyStage::Dead, Millis(0))
        } else {
            (VacancyStage::Doubtful, LOOK_FIRST)
        };
        let is_known = self.vacancies.stage(id);
        if is_known.is_some_and(VacancyStage::is_sent) {
            return;
        }
        let Some(vacancy) = vacancy(job, stage, self.now) else {
            return;
        };
        let is_ended = job.over_by.is_some();
        if is_known.is_none() && self.vacancies.len() >= ROOMS_MAX {
            self.leave_room(id, "too many rooms are watched");
            return;
        }
        let at = self.now + first;
        let entry = Entry::Vacant(Box::new(vacancy.clone()));
        self.out.push(Action::Write(entry));
        self.vacancies.remove(id);
        self.vacancies.insert(vacancy, at, self.now);
        self.wake(at, Alarm::Room(id.clone()));
        if is_ended {
            self.count_as_look(id);
        }
    }

    /// A job goes on, or is over by itself: nobody else is to take it.
    pub(super) fn occupy(&mut self, id: &CallId) {
        if self.vacancies.stage(id) == Some(VacancyStage::Doubtful) {
            self.forget_room(id);
        }
    }

    /// The server's word that an agent has left counts as one look.
    fn count_as_look(&mut self, id: &CallId) {
        if let Some(watch) = self.vacancies.watch(id) {
            watch.absent = watch.absent.max(ABSENT_LOOKS - 1);
        }
    }

    /// The server has ended a job whose worker is away. If that is because the agent has left the room,
    /// its caller is looked after. Says whether somebody looks.
    pub(super) fn look_again(&mut self, id: &CallId) -> bool {
        if self.vacancies.stage(id) != Some(VacancyStage::Doubtful) {
            return false;
        }
        self.count_as_look(id);
        let now = self.now;
        if let Some(next) = self.vacancies.watch(id).and_then(|w| w.next.as_mut()) {
            *next = now;
        }
        self.wake(now, Alarm::Room(id.clone()));
        true
    }

    /// A worker claims a job. If another one has begun in its room it is to end it. Says whether that
    /// is so.
    pub(super) fn end_replaced(&mut self, worker: WorkerKey, id: &CallId) -> bool {
        if self.vacancies.stage(id) != Some(VacancyStage::Answered) {
            return false;
        }
        if self.jobs.contains_key(id) {
            self.finish(id, CallOutcome::Dropped, "worker: died", true);
        }
        let job = id.clone();
        self.out.push(Action::Terminate { worker, job });
        true
    }

    /// Its worker is back before anybody else has begun: it keeps the room.
    pub(super) fn retake(&mut self, id: &CallId) {
        if self.vacancies.is_sent(id) {
            self.keep_room(id);
        }
        self.forget_room(id);
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        if std::mem::take(&mut job.is_left)
            && let (Some(of), Some(worker)) = (job.decided, &job.worker)
            && let Some(book) = self.books.get_mut(&job.agent)
        {
            book.enter(&job.room, of.release, worker);
        }
    }

    /// The agent of a room is there again: what was dispatched meanwhile nobody takes.
    fn keep_room(&mut self, id: &CallId) {
        let Some(vacancy) = self.vacancies.get(id) else {
            return;
        };
        let (sid, agent) = (vacancy.again.sid.clone(), vacancy.agent.clone());
        self.vacancies.keep(&sid, &agent, id, self.now);
        for other in self.vacancies.others(&sid, id) {
            let is_open = |job: &Job| {
                let step = job.offer().map(|offer| &offer.step);
                job.agent == agent && matches!(step, Some(Step::Held | Step::Asking { .. }))
            };
            if self.jobs.get(&other).is_some_and(is_open) {
                self.refuse(&other, "the agent that it replaces is back");
            }
        }
    }

    /// Whether a job is for a room whose own agent is back. Other agents may come as before.
    pub(super) fn is_kept(&self, agent: &AgentName, again: Option<&Again>, job: &CallId) -> bool {
        let keeper = again.and_then(|again| self.vacancies.keeper(&again.sid, agent, self.now));
        keeper.is_some_and(|keeper| keeper != job && self.jobs.contains_key(keeper))
    }

    /// A job has begun. If it is the successor of another one, that is over.
    pub(super) fn succeeds(&mut self, id: &CallId) {
        let Some(job) = self.jobs.get(id).filter(|job| !job.is_left) else {
            return;
        };
        let Some(again) = &job.again else {
            return;
        };
        let waits = |of: &&Vacancy| {
            let is_waiting = of.stage.is_sent() && of.stage != VacancyStage::Answered;
            is_waiting && of.agent == job.agent && of.job != *id
        };
        let watched = self.vacancies.of_room(&again.sid).filter(waits);
        let mut before: Vec<CallId> = watched.map(|of| of.job.clone()).collect();
        // Also one that was given up: the server took its time.
        before.extend(self.vacancies.others(&again.sid, id));
        before.retain(|id| {
            let other = self.jobs.get(id);
            let waits = other.is_none_or(|other| other.is_left && other.agent == job.agent);
            waits && self.vacancies.stage(id) != Some(VacancyStage::Answered)
        });
        before.sort();
        before.dedup();
        for id in before {
            self.is_answered(&id);
        }
    }

    /// An alarm of a room.
    pub(super) fn look_at_room(&mut self, id: &CallId) {
        let now = self.now;
        let Some(watch) = self.vacancies.watch(id) else {
            return;
        };
        let vacancy = &watch.vacancy;
        let until = match vacancy.stage {
            VacancyStage::Answered => vacancy.since + REMEMBERED_FOR,
            VacancyStage::Sent { .. } | VacancyStage::Made { .. } => watch.sent + LOOKED_FOR,
            VacancyStage::Doubtful | VacancyStage::Dead => vacancy.since + LOOKED_FOR,
        };
        if now >= until {
            return match vacancy.stage {
                VacancyStage::Sent { .. } => {
                    self.give_up(id, "the server never said that it has it");
                }
                VacancyStage::Made { .. } => self.give_up(id, "nobody takes it"),
                _ => self.forget_room(id),
            };
        }
        if vacancy.stage == VacancyStage::Answered {
            self.wake(until, Alarm::Room(id.clone()));
            return;
        }
        if watch.next.is_none_or(|next| next > now) {
            return;
        }
        watch.next = None;
        let ask = ask(vacancy);
        self.out.push(Action::LookAtRoom(Box::new(ask)));
    }

    /// Whether somebody still wants to know who is in the room of a job.
    pub fn awaits_look(&self, id: &CallId) -> bool {
        let watch = self.vacancies.watched(id);
        watch.is_some_and(|watch| watch.next.is_none())
    }

    pub(super) fn room_seen(&mut self, id: &CallId, seen: RoomSeen) {
        let has_job = self.jobs.contains_key(id);
        let Some(watch) = self
            .vacancies
            .watch(id)
            .filter(|watch| watch.next.is_none())
        else {
            return;
        };
        let stage = watch.vacancy.stage;
        match seen {
            // The server lists a dispatch for as long as the room is open, whatever became of it.
            RoomSeen::Asked { .. } => _ = watch.asked.get_or_insert(self.now),
            RoomSeen::Open { agent: false, .. } => watch.asked = None,
            _ => {}
        }
        match seen {
            RoomSeen::Answered if stage.is_sent() => return self.is_answered(id),
            RoomSeen::Closed | RoomSeen::Answered => return self.forget_room(id),
            RoomSeen::Open { agent: true, .. } => {
                watch.absent = 0;
                watch.there = watch.there.saturating_add(1);
                if stage.is_sent() && has_job {
                    self.keep_room(id);
                }
            }
            RoomSeen::Open { callers: true, .. } | RoomSeen::Asked { callers: true } => {
                watch.absent = watch.absent.saturating_add(1);
                watch.there = 0;
            }
            // Whoever was there may come back, as one whose connection broke does.
            _ => {}
        }
        if let (RoomSeen::Asked { .. }, VacancyStage::Sent { times }) = (seen, stage) {
            self.is_made(id, times);
        }
        let callers_alone = matches!(
            seen,
            RoomSeen::Asked { callers: true }
                | RoomSeen::Open {
                    agent: false,
                    callers: true
                }
        );
        if callers_alone && self.is_due(id) {
            if !self.is_stopping {
                return self.redispatch(id);
            }
            // The next dispatcher may.
            if let Some(watch) = self.vacancies.watch(id)
                && !std::mem::replace(&mut watch.is_left, true)
            {
                self.leave_room(id, "the dispatcher is stopping");
            }
        }
        self.look_later(id);
    }

    /// Whether a room whose caller is alone is to be dispatched, or once more.
    fn is_due(&self, id: &CallId) -> bool {
        let Some(watch) = self.vacancies.watched(id) else {
            return false;
        };
        let is_gone = watch.absent >= ABSENT_LOOKS;
        match watch.vacancy.stage {
            VacancyStage::Dead => self.is_untaken(id, watch.asked),
            VacancyStage::Doubtful => is_gone && self.is_untaken(id, watch.asked),
            // Not known of: it was never made.
            VacancyStage::Sent { .. } => is_gone,
            VacancyStage::Made { times } => {
                // Once is for those who are registered beside us. Ours may all be about to come back.
                let has_takers = times >= SENDS_MAX || self.has_takers(&watch.vacancy.agent);
                is_gone && has_takers && self.is_untaken(id, Some(watch.sent))
            }
            VacancyStage::Answered => false,
        }
    }

    /// Whether the server was told that workers here take jobs.
    fn has_takers(&self, agent: &AgentName) -> bool {
        let mut ours = self.lines.values().filter(|line| line.id.agent == *agent);
        ours.any(|line| line.is_up && line.told.is_some_and(|(status, _)| status.available))
    }

    /// Whether nobody comes by a dispatch that the server has since then.
    fn is_untaken(&self, id: &CallId, since: Option<Timestamp>) -> bool {
        let Some((since, room)) = since.zip(self.vacancies.get(id)) else {
            return true;
        };
        let comes = |job: &Job| {
            let is_new = |begun: Timestamp| self.now < begun + TAKEN_WITHIN;
            job.agent == room.agent && (job.offer().is_some() || job.begun.is_some_and(is_new))
        };
        let others = self.vacancies.others(&room.again.sid, id);
        let mut others = others.iter().filter_map(|id| self.jobs.get(id));
        self.now >= since + TAKEN_WITHIN && !others.any(comes)
    }

    fn look_later(&mut self, id: &CallId) {
        let now = self.now;
        if let Some(watch) = self.vacancies.watch(id) {
            let is_there = watch.there >= THERE_LOOKS;
            let at = now + if is_there { LOOK_SELDOM } else { LOOK_EVERY };
            watch.next = Some(at);
            self.wake(at, Alarm::Room(id.clone()));
        }
    }

    /// Written first, then done.
    fn redispatch(&mut self, id: &CallId) {
        let Some(vacancy) = self.vacancies.get(id).cloned() else {
            return;
        };
        let (times, sid) = (vacancy.stage.times(), &vacancy.again.sid);
        let before = self.vacancies.of_room(sid);
        let before = before.filter(|of| of.stage.is_sent()).count();
        if times == 0 && before >= REDISPATCHES_MAX {
            self.give_up(id, "its agents die again and again");
            return;
        }
        if times >= SENDS_MAX {
            let why = match vacancy.stage {
                VacancyStage::Made { .. } => "nobody takes it",
                _ => "the server did not take it",
            };
            self.give_up(id, why);
            return;
        }
        let sent = VacancyStage::Sent { times: times + 1 };
        let entry = self.vacancies.advance(id, sent);
        self.out.extend(entry.map(Action::Write));
        self.vacancies.keep_no_more(sid, &vacancy.agent);
        let now = self.now;
        if let Some(watch) = self.vacancies.watch(id) {
            watch.sent = now;
        }
        self.leave_job(&vacancy);
        self.out.push(Action::Redispatch(Box::new(ask(&vacancy))));
    }

    /// The job's place is offered to another one. Its worker may still come back to it. The room keeps
    /// its release only if that takes jobs: its next one is a new one.
    fn leave_job(&mut self, vacancy: &Vacancy) {
        let book = self.books.get_mut(&vacancy.agent);
        if let Some(job) = self.jobs.get_mut(&vacancy.job)
            && !std::mem::replace(&mut job.is_left, true)
            && let Stage::Away { until, gone } = &mut job.stage
        {
            *gone = Gone::Broken;
            *until = (*until).max(vacancy.since + CLAIM_WITHIN);
            let until = *until;
            if let Some(book) = book {
                book.leave(&vacancy.room, true, self.now);
            }
            self.wake(until, Alarm::Job(vacancy.job.clone()));
        }
        if let Some(book) = self.books.get_mut(&vacancy.agent) {
            let route = book.table.releases.get(&vacancy.release);
            if !route.is_some_and(|route| route.takes_new_calls) {
                book.unpin(&vacancy.room);
            }
        }
    }

    pub(super) fn dispatched(&mut self, id: &CallId, answer: Dispatched) {
        let Some(VacancyStage::Sent { times }) = self.vacancies.stage(id) else {
            return;
        };
        match answer {
            Dispatched::Made => self.is_made(id, times),
            Dispatched::Refused => return self.give_up(id, "the server refuses it"),
            // It is asked what it has.
            Dispatched::Unknown => {}
        }
        self.look_later(id);
    }

    fn is_made(&mut self, id: &CallId, times: u8) {
        let entry = self.vacancies.advance(id, VacancyStage::Made { times });
        self.out.extend(entry.map(Action::Write));
    }

    /// Another job has begun in its room. It is remembered.
    fn is_answered(&mut self, id: &CallId) {
        if self.vacancies.get(id).is_none()
            && let Some(job) = self.jobs.get(id)
            && let Some(vacancy) = vacancy(job, VacancyStage::Answered, self.now)
        {
            self.vacancies.insert(vacancy, self.now, self.now);
        }
        let entry = self.vacancies.advance(id, VacancyStage::Answered);
        self.out.extend(entry.map(Action::Write));
        if self.jobs.contains_key(id) {
            self.finish(id, CallOutcome::Dropped, "worker: died", true);
        }
        if let Some(vacancy) = self.vacancies.get(id) {
            let note = Note::JobRedispatched {
                job: id.clone(),
                agent: vacancy.agent.clone(),
                release: vacancy.release,
            };
            let until = vacancy.since + REMEMBERED_FOR;
            self.wake(until, Alarm::Room(id.clone()));
            self.note(note);
        }
    }

    /// Nothing more is done for it. Its worker may come back all the same.
    fn give_up(&mut self, id: &CallId, why: &'static str) {
        self.leave_room(id, why);
        self.forget_room(id);
    }

    fn leave_room(&mut self, id: &CallId, why: &'static str) {
        let job = id.clone();
        self.note(Note::RoomLeft { job, why });
    }

    fn forget_room(&mut self, id: &CallId) {
        if self.vacancies.remove(id).is_some() {
            let job = id.clone();
            self.out.push(Action::Write(Entry::Occupied { job }));
        }
    }
}

fn ask(vacancy: &Vacancy) -> RoomAsk {
    RoomAsk {
        job: vacancy.job.clone(),
        agent: vacancy.agent.clone(),
        room: vacancy.room.clone(),
        again: vacancy.again.clone(),
    }
}

/// Only of a job that can be dispatched again.
fn vacancy(job: &Job, stage: VacancyStage, since: Timestamp) -> Option<Vacancy> {
    let again = Again::clone(job.again.as_ref()?);
    Some(Vacancy {
        job: job.id.clone(),
        agent: job.agent.clone(),
        room: job.room.clone(),
        release: job.decided?.release,
        again,
        since,
        stage,
    })
}
