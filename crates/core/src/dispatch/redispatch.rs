//! Rooms whose agent died while somebody is still there: they get another one.
//!
//! LiveKit does not do it: a job whose worker is lost stays where it was, and whoever called hears
//! nothing. Here it is done for agents that ask for it. A job whose worker's connection broke makes its
//! room *doubtful*: the server is asked who is there, every few seconds, for as long as the worker may
//! come back. Only when the agent itself is gone from the room, twice in a row, and a caller is not, is
//! the job over and another one asked for. One whose worker says that its process died needs no
//! second look.
//!
//! Never two agents in a room: what is about to be done is written down first; whether it was done the
//! server is asked and not guessed; and a worker that comes back to a job that was dispatched again is told
//! to end it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CLAIM_WITHIN;
use super::dispatcher::{Alarm, Dispatcher};
use super::event::{Action, Entry, Note};
use super::facts::WorkerKey;
use super::job::{Gone, Stage};
use crate::link::CallOutcome;
use crate::names::{AgentName, CallId, ReleaseId};
use crate::time::{Millis, Timestamp};

/// From a broken connection to the first look into its room: a worker that lives is back by then.
pub const LOOK_FIRST: Millis = Millis::from_secs(3);

/// From one look to the next. The server itself notices only after some ten seconds that a participant
/// is gone without a word.
pub const LOOK_EVERY: Millis = Millis::from_secs(3);

/// How long a room is looked at: as long as its worker may come back.
pub const LOOKED_FOR: Millis = CLAIM_WITHIN;

/// Looks in a row that must find the agent gone: between two of them it may be on its way back.
const ABSENT_LOOKS: u8 = 2;

/// How often the same dispatch is tried, each time only if the server does not know of the last.
const SENDS_MAX: u8 = 3;

/// Dispatches of one room within [`REMEMBERED_FOR`]: an agent that dies of what is said in it would
/// die for ever.
pub const REDISPATCHES_MAX: u32 = 3;

/// How long a room is remembered that was answered again. Workers try to come back for 130 seconds.
pub const REMEMBERED_FOR: Millis = Millis::from_secs(600);

/// Rooms that are watched or remembered: each is a kilobyte or, with long metadata, some more.
pub const ROOMS_MAX: usize = 10_000;

/// What is needed to dispatch a job again. Only jobs of rooms have it, and only where it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// The room itself: another one may have its name later.
    pub sid: String,
    /// The dispatch that it came by.
    pub dispatch: String,
    /// Its metadata.
    pub metadata: String,
    /// Who its agent is in the room; empty until a worker has said it.
    #[serde(default)]
    pub identity: String,
}

/// A room whose agent may be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vacancy {
    /// The job that it had.
    pub job: CallId,
    /// Whose.
    pub agent: AgentName,
    /// Its room.
    pub room: String,
    /// The job's release.
    pub release: ReleaseId,
    /// What is needed to dispatch it again.
    pub again: Again,
    /// Since when.
    pub since: Timestamp,
    /// How far it is.
    pub stage: VacancyStage,
}

/// How far a room is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum VacancyStage {
    /// Its worker's connection broke. It may come back.
    Doubtful,
    /// Its worker says that the job's process died.
    Dead,
    /// Another dispatch was sent; the server has not said yet that it has it.
    Sent {
        /// How often.
        times: u8,
    },
    /// It is answered, or given up. A worker that comes back is told to end its job.
    Over,
}

/// What is to be looked for in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomAsk {
    /// The job that it had.
    pub job: CallId,
    /// Whose.
    pub agent: AgentName,
    /// Its room.
    pub room: String,
    /// What is known of it.
    pub again: Again,
}

/// What the server says of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomSeen {
    /// Nothing: it could not be asked.
    Unknown,
    /// It is closed, or is another one by now, or whoever dispatched the agent has taken that back.
    Closed,
    /// Another agent of the same name is there, or was dispatched since.
    Answered,
    /// It is open.
    Open {
        /// Whether its agent is there.
        agent: bool,
        /// Whether anybody is there to talk to.
        callers: bool,
    },
}

/// What the server says to a dispatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dispatched {
    /// It is made.
    Made,
    /// It is refused, and would be again.
    Refused,
    /// Nothing, or that something failed: it may be made, or not.
    Unknown,
}

/// A vacancy and what need not outlive the process.
#[derive(Debug, Clone)]
struct Watch {
    vacancy: Vacancy,
    /// Looks in a row that found the agent gone and somebody else there.
    absent: u8,
    /// When the next look is due; `None`: the server is being asked.
    next: Option<Timestamp>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Vacancies {
    of: BTreeMap<CallId, Watch>,
    /// How often a room was answered again, as far as that is remembered.
    answered: BTreeMap<String, u32>,
}

impl Vacancies {
    fn insert(&mut self, vacancy: Vacancy, next: Timestamp) {
        if vacancy.stage.is_sent() {
            *self.answered.entry(vacancy.again.sid.clone()).or_default() += 1;
        }
        let watch = Watch {
            vacancy,
            absent: 0,
            next: Some(next),
        };
        self.of.insert(watch.vacancy.job.clone(), watch);
    }

    fn remove(&mut self, id: &CallId) -> Option<Vacancy> {
        let vacancy = self.of.remove(id)?.vacancy;
        if vacancy.stage.is_sent()
            && let Some(times) = self.answered.get_mut(&vacancy.again.sid)
        {
            *times -= 1;
            if *times == 0 {
                self.answered.remove(&vacancy.again.sid);
            }
        }
        Some(vacancy)
    }

    /// A vacancy is further. What is to be written down.
    fn advance(&mut self, id: &CallId, stage: VacancyStage) -> Option<Entry> {
        let watch = self.of.get_mut(id)?;
        if stage.is_sent() && !watch.vacancy.stage.is_sent() {
            let sid = watch.vacancy.again.sid.clone();
            *self.answered.entry(sid).or_default() += 1;
        }
        watch.vacancy.stage = stage;
        if stage == VacancyStage::Over {
            // It is not needed any more, and may be long.
            watch.vacancy.again.metadata.clear();
        }
        Some(Entry::Vacant(Box::new(watch.vacancy.clone())))
    }
}

impl Vacancy {
    /// Whether its job is over, and another one is there or may be.
    pub fn has_successor(&self) -> bool {
        self.stage.is_sent()
    }
}

impl VacancyStage {
    /// Whether a job that is claimed now has, or may have, a successor.
    fn is_sent(self) -> bool {
        matches!(self, Self::Sent { .. } | Self::Over)
    }
}

impl Dispatcher {
    /// With the rooms that the process before this one watched or remembered.
    #[must_use]
    pub fn with_vacancies(mut self, vacancies: Vec<Vacancy>) -> Self {
        for vacancy in vacancies {
            let at = self.now + LOOK_FIRST;
            self.wake(at, Alarm::Room(vacancy.job.clone()));
            self.vacancies.insert(vacancy, at);
        }
        self
    }

    /// What must be written down anew when the file is: the jobs that run, and such rooms.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let rooms = self
            .vacancies
            .of
            .values()
            .map(|watch| watch.vacancy.clone());
        let jobs = self.records().map(Entry::Begun);
        jobs.chain(rooms.map(|room| Entry::Vacant(Box::new(room))))
    }

    /// A job's worker is lost, or says that its process died (`dead`).
    pub(super) fn vacate(&mut self, id: &CallId, dead: bool) {
        let Some(job) = self.jobs.get(id) else {
            return;
        };
        let (Some(again), Some(of)) = (&job.again, job.decided) else {
            return;
        };
        // Who says nothing of its jobs does not claim them either: nobody would know whether one lives.
        let is_lost = dead
            || matches!(
                job.stage,
                Stage::Away {
                    gone: Gone::Broken,
                    ..
                }
            );
        if !is_lost || !job.spoken || job.ends || self.is_stopping {
            return;
        }
        if self.vacancies.of.len() >= ROOMS_MAX {
            let job = id.clone();
            self.note(Note::RoomLeft {
                job,
                why: "too many rooms are watched",
            });
            return;
        }
        let stage = if dead {
            VacancyStage::Dead
        } else {
            VacancyStage::Doubtful
        };
        let vacancy = Vacancy {
            job: id.clone(),
            agent: job.agent.clone(),
            room: job.room.clone(),
            release: of.release,
            again: Again::clone(again),
            since: self.now,
            stage,
        };
        let at = self.now + if dead { Millis(0) } else { LOOK_FIRST };
        let entry = Entry::Vacant(Box::new(vacancy.clone()));
        self.out.push(Action::Write(entry));
        self.vacancies.remove(id);
        self.vacancies.insert(vacancy, at);
        self.wake(at, Alarm::Room(id.clone()));
    }

    /// A job goes on, or is over by itself: nobody else is to take it.
    pub(super) fn occupy(&mut self, id: &CallId) {
        let stage = self.vacancies.of.get(id).map(|watch| watch.vacancy.stage);
        if stage == Some(VacancyStage::Doubtful) {
            self.forget_room(id);
        }
    }

    /// The server has ended a job whose worker is away. If that is because the agent has left the room,
    /// its caller is looked after. Says whether somebody looks.
    pub(super) fn look_again(&mut self, id: &CallId) -> bool {
        let Some(watch) = self.vacancies.of.get_mut(id) else {
            return false;
        };
        if watch.vacancy.stage != VacancyStage::Doubtful {
            return false;
        }
        // The server's word counts as one look.
        watch.absent = watch.absent.max(ABSENT_LOOKS - 1);
        if let Some(next) = &mut watch.next {
            *next = self.now;
        }
        self.wake(self.now, Alarm::Room(id.clone()));
        true
    }

    /// A worker claims a job that somebody else has by now: it is to end it. Says whether it is one.
    pub(super) fn end_replaced(&mut self, worker: WorkerKey, id: &CallId) -> bool {
        let watch = self.vacancies.of.get(id);
        let has_successor = watch.is_some_and(|watch| watch.vacancy.stage.is_sent());
        if has_successor {
            let job = id.clone();
            self.out.push(Action::Terminate { worker, job });
        }
        has_successor
    }

    /// An alarm of a room.
    pub(super) fn look_at_room(&mut self, id: &CallId) {
        let Some(watch) = self.vacancies.of.get_mut(id) else {
            return;
        };
        let (vacancy, now) = (&watch.vacancy, self.now);
        if vacancy.stage == VacancyStage::Over {
            let until = vacancy.since + REMEMBERED_FOR;
            if now >= until {
                self.forget_room(id);
            } else {
                self.wake(until, Alarm::Room(id.clone()));
            }
            return;
        }
        if watch.next.is_none_or(|next| next > now) {
            return;
        }
        if now >= vacancy.since + LOOKED_FOR {
            match vacancy.stage {
                VacancyStage::Sent { .. } => {
                    self.give_up(id, "the server never said that it has it");
                }
                _ => self.forget_room(id),
            }
            return;
        }
        watch.next = None;
        let ask = RoomAsk {
            job: id.clone(),
            agent: vacancy.agent.clone(),
            room: vacancy.room.clone(),
            again: vacancy.again.clone(),
        };
        self.out.push(Action::LookAtRoom(Box::new(ask)));
    }

    pub(super) fn room_seen(&mut self, id: &CallId, seen: RoomSeen) {
        let Some(watch) = self.vacancies.of.get_mut(id) else {
            return;
        };
        if watch.next.is_some() {
            return;
        }
        let stage = watch.vacancy.stage;
        match seen {
            RoomSeen::Closed => {
                return match stage {
                    VacancyStage::Sent { .. } => self.give_up(id, "the room is closed"),
                    _ => self.forget_room(id),
                };
            }
            RoomSeen::Answered => {
                return match stage {
                    VacancyStage::Sent { .. } => self.is_redispatched(id),
                    _ => self.forget_room(id),
                };
            }
            RoomSeen::Open { agent: true, .. } => watch.absent = 0,
            // Whoever was there may come back, as one whose connection broke does.
            RoomSeen::Unknown | RoomSeen::Open { callers: false, .. } => {}
            RoomSeen::Open { .. } => {
                watch.absent += 1;
                let is_certain = stage != VacancyStage::Doubtful || watch.absent >= ABSENT_LOOKS;
                if is_certain && !self.is_stopping {
                    return self.redispatch(id, stage);
                }
            }
        }
        self.look_later(id);
    }

    fn look_later(&mut self, id: &CallId) {
        let at = self.now + LOOK_EVERY;
        if let Some(watch) = self.vacancies.of.get_mut(id) {
            watch.next = Some(at);
            self.wake(at, Alarm::Room(id.clone()));
        }
    }

    /// Written first, then done.
    fn redispatch(&mut self, id: &CallId, stage: VacancyStage) {
        let Some(vacancy) = self.vacancies.of.get(id).map(|watch| watch.vacancy.clone()) else {
            return;
        };
        let times = match stage {
            VacancyStage::Sent { times } => times,
            _ => 0,
        };
        let before = self.vacancies.answered.get(&vacancy.again.sid);
        if times == 0 && before.is_some_and(|before| *before >= REDISPATCHES_MAX) {
            let job = id.clone();
            self.note(Note::RoomLeft {
                job,
                why: "its agents die again and again",
            });
            self.forget_room(id);
            return;
        }
        if times >= SENDS_MAX {
            self.give_up(id, "the server did not take it");
            return;
        }
        let sent = VacancyStage::Sent { times: times + 1 };
        let entry = self.vacancies.advance(id, sent);
        self.out.extend(entry.map(Action::Write));
        if self.jobs.contains_key(id) {
            self.finish(id, CallOutcome::Dropped, "worker: died", true);
        }
        self.unpin(&vacancy);
        self.out.push(Action::Redispatch(Box::new(RoomAsk {
            job: vacancy.job,
            agent: vacancy.agent,
            room: vacancy.room,
            again: vacancy.again,
        })));
    }

    /// The room keeps its release only if that takes jobs: its next one is a new one.
    fn unpin(&mut self, vacancy: &Vacancy) {
        if let Some(book) = self.books.get_mut(&vacancy.agent) {
            let route = book.table.releases.get(&vacancy.release);
            if !route.is_some_and(|route| route.takes_new_calls) {
                book.unpin(&vacancy.room);
            }
        }
    }

    pub(super) fn dispatched(&mut self, id: &CallId, answer: Dispatched) {
        let stage = self.vacancies.of.get(id).map(|watch| watch.vacancy.stage);
        if !matches!(stage, Some(VacancyStage::Sent { .. })) {
            return;
        }
        match answer {
            Dispatched::Made => self.is_redispatched(id),
            Dispatched::Refused => self.give_up(id, "the server refuses it"),
            // It is asked what it has.
            Dispatched::Unknown => self.look_later(id),
        }
    }

    fn is_redispatched(&mut self, id: &CallId) {
        if let Some(watch) = self.vacancies.of.get(id) {
            let note = Note::JobRedispatched {
                job: id.clone(),
                agent: watch.vacancy.agent.clone(),
                release: watch.vacancy.release,
            };
            self.note(note);
        }
        self.is_over(id);
    }

    fn give_up(&mut self, id: &CallId, why: &'static str) {
        let job = id.clone();
        self.note(Note::RoomLeft { job, why });
        self.is_over(id);
    }

    /// Nothing more is done for it; it is remembered.
    fn is_over(&mut self, id: &CallId) {
        let entry = self.vacancies.advance(id, VacancyStage::Over);
        self.out.extend(entry.map(Action::Write));
        if let Some(watch) = self.vacancies.of.get(id) {
            self.wake(
                watch.vacancy.since + REMEMBERED_FOR,
                Alarm::Room(id.clone()),
            );
        }
    }

    fn forget_room(&mut self, id: &CallId) {
        if self.vacancies.remove(id).is_some() {
            let job = id.clone();
            self.out.push(Action::Write(Entry::Occupied { job }));
        }
    }
}
