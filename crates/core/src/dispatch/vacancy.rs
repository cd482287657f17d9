//! Rooms whose agent may be gone, and how far each of them is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::event::Entry;
use crate::names::{AgentName, CallId, ReleaseId};
use crate::time::{Millis, Timestamp};

/// Looks in a row that must find the agent gone: between two of them it may be on its way back.
pub(super) const ABSENT_LOOKS: u8 = 2;

/// How long an offer for a room whose own agent is back is not taken: the server gives a job up
/// after three seconds, and may have heard of it late.
const KEPT_FOR: Millis = Millis::from_secs(10);

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
    /// The server has it, which does not mean that anybody takes it.
    Made {
        /// How often it was sent.
        times: u8,
    },
    /// Another job has begun there. A worker that comes back is told to end the one before.
    Answered,
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
    /// Another agent of the same name is there.
    Answered,
    /// None is there, but one was dispatched since: it comes, or nobody took it, or it was here and
    /// has gone.
    Asked {
        /// Whether anybody is there to talk to.
        callers: bool,
    },
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
pub(super) struct Watch {
    pub(super) vacancy: Vacancy,
    /// Looks in a row that found the agent gone and somebody else there.
    pub(super) absent: u8,
    /// Looks in a row that found it.
    pub(super) there: u8,
    /// When the next look is due; `None`: the server is being asked.
    pub(super) next: Option<Timestamp>,
    /// Since when the looks say that somebody dispatched its agent.
    pub(super) asked: Option<Timestamp>,
    /// When it was last dispatched, as far as this process knows.
    pub(super) sent: Timestamp,
    /// Whether it was said that nothing is done for it while the dispatcher stops.
    pub(super) is_left: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Vacancies {
    of: BTreeMap<CallId, Watch>,
    /// The same by the room itself.
    by_room: BTreeMap<String, BTreeSet<CallId>>,
    /// Jobs that are there, begun or not, by the room itself.
    jobs: BTreeMap<String, BTreeSet<CallId>>,
    /// Rooms whose own agent is back, by the room itself and the agent, and until when nobody else
    /// is let in for it.
    kept: BTreeMap<(String, AgentName), (CallId, Timestamp)>,
    /// When the last of them were dropped whose time is over.
    swept: Timestamp,
}

impl Vacancies {
    pub(super) fn insert(&mut self, vacancy: Vacancy, next: Timestamp, now: Timestamp) {
        let absent = if vacancy.stage.is_sent() {
            ABSENT_LOOKS
        } else {
            0
        };
        let of = self.by_room.entry(vacancy.again.sid.clone()).or_default();
        of.insert(vacancy.job.clone());
        let watch = Watch {
            vacancy,
            absent,
            there: 0,
            next: Some(next),
            asked: None,
            sent: now,
            is_left: false,
        };
        self.of.insert(watch.vacancy.job.clone(), watch);
    }

    pub(super) fn remove(&mut self, id: &CallId) -> Option<Vacancy> {
        let vacancy = self.of.remove(id)?.vacancy;
        forget(&mut self.by_room, &vacancy.again.sid, id);
        Some(vacancy)
    }

    pub(super) fn get(&self, id: &CallId) -> Option<&Vacancy> {
        self.of.get(id).map(|watch| &watch.vacancy)
    }

    pub(super) fn watched(&self, id: &CallId) -> Option<&Watch> {
        self.of.get(id)
    }

    pub(super) fn watch(&mut self, id: &CallId) -> Option<&mut Watch> {
        self.of.get_mut(id)
    }

    pub(super) fn stage(&self, id: &CallId) -> Option<VacancyStage> {
        self.get(id).map(|vacancy| vacancy.stage)
    }

    /// Whether a job was dispatched again, as far as that is remembered.
    pub(super) fn is_sent(&self, id: &CallId) -> bool {
        self.stage(id).is_some_and(VacancyStage::is_sent)
    }

    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Vacancy> {
        self.of.values().map(|watch| &watch.vacancy)
    }

    /// Those of one room.
    pub(super) fn of_room(&self, sid: &str) -> impl Iterator<Item = &Vacancy> {
        let ids = self.by_room.get(sid).into_iter().flatten();
        ids.filter_map(|id| self.get(id))
    }

    /// A vacancy is further. What is to be written down.
    pub(super) fn advance(&mut self, id: &CallId, stage: VacancyStage) -> Option<Entry> {
        let vacancy = &mut self.of.get_mut(id)?.vacancy;
        vacancy.stage = stage;
        if stage == VacancyStage::Answered {
            // It is not needed any more, and may be long.
            vacancy.again.metadata.clear();
        }
        Some(Entry::Vacant(Box::new(vacancy.clone())))
    }

    /// A job is offered, or known, for a room.
    pub(super) fn note_job(&mut self, sid: &str, id: &CallId) {
        let of = self.jobs.entry(sid.to_owned()).or_default();
        of.insert(id.clone());
    }

    /// It is over.
    pub(super) fn forget_job(&mut self, sid: &str, agent: &AgentName, id: &CallId) {
        forget(&mut self.jobs, sid, id);
        let key = (sid.to_owned(), agent.clone());
        if self.kept.get(&key).is_some_and(|(by, _)| by == id) {
            self.kept.remove(&key);
        }
    }

    /// The jobs of a room, but for this one.
    pub(super) fn others(&self, sid: &str, than: &CallId) -> Vec<CallId> {
        let all = self.jobs.get(sid).into_iter().flatten();
        all.filter(|id| *id != than).cloned().collect()
    }

    pub(super) fn keep(&mut self, sid: &str, agent: &AgentName, by: &CallId, now: Timestamp) {
        // Nobody hears of the end of a job that only its worker knew. Not each time: there may be many.
        if now >= self.swept + KEPT_FOR {
            self.swept = now;
            self.kept.retain(|_, (_, until)| now < *until);
        }
        let key = (sid.to_owned(), agent.clone());
        self.kept.insert(key, (by.clone(), now + KEPT_FOR));
    }

    pub(super) fn keep_no_more(&mut self, sid: &str, agent: &AgentName) {
        self.kept.remove(&(sid.to_owned(), agent.clone()));
    }

    /// The job that keeps a room for its agent.
    pub(super) fn keeper(&self, sid: &str, agent: &AgentName, now: Timestamp) -> Option<&CallId> {
        let (by, until) = self.kept.get(&(sid.to_owned(), agent.clone()))?;
        (now < *until).then_some(by)
    }
}

fn forget(of: &mut BTreeMap<String, BTreeSet<CallId>>, sid: &str, id: &CallId) {
    if let Some(ids) = of.get_mut(sid) {
        ids.remove(id);
        if ids.is_empty() {
            of.remove(sid);
        }
    }
}

impl VacancyStage {
    /// Whether another dispatch was sent.
    pub(super) fn is_sent(self) -> bool {
        matches!(self, Self::Sent { .. } | Self::Made { .. } | Self::Answered)
    }

    /// How often it was sent.
    pub(super) fn times(self) -> u8 {
        match self {
            Self::Sent { times } | Self::Made { times } => times,
            Self::Doubtful | Self::Dead | Self::Answered => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_kept_for_ever() {
        let agent: AgentName = "desk".parse().unwrap();
        let mut vacancies = Vacancies::default();
        let mut now = Timestamp(1_000);
        for room in 0..100 {
            let job = format!("a{room}").parse().unwrap();
            vacancies.keep(&format!("RM_{room}"), &agent, &job, now);
            assert!(
                vacancies
                    .keeper(&format!("RM_{room}"), &agent, now)
                    .is_some()
            );
            now = now + Millis(KEPT_FOR.0 / 5);
        }
        let kept = vacancies.kept.len();
        assert!(kept <= 10, "{kept}");
    }
}
