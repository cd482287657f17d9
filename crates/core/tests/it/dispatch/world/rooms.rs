//! Rooms as the server has them: whose agents are there, and what is dispatched again. A caller is in
//! each of them all the time.

use std::collections::{BTreeMap, BTreeSet};

use segue_core::dispatch::{Again, Dispatched, Event, RoomAsk, RoomSeen, Vacancy, VacancyStage};
use segue_core::names::CallId;

use super::{Happens, World};
use crate::dispatch::process::Manner;

/// The server notices so late that an agent is gone without a word.
const NOTICED_MS: (u64, u64) = (9_000, 15_000);

#[derive(Debug, Default)]
pub(super) struct Rooms {
    /// Whether agents are dispatched again in this world.
    pub(super) on: bool,
    /// What the dispatcher wrote down.
    pub(super) written: BTreeMap<CallId, Vacancy>,
    /// Jobs whose agents are in their rooms.
    there: BTreeSet<CallId>,
    room: BTreeMap<CallId, String>,
    /// Jobs in the order in which they began, by room.
    begun: BTreeMap<String, Vec<CallId>>,
    /// Dispatches in their order, by room.
    dispatches: BTreeMap<String, Vec<String>>,
    /// Jobs that were dispatched again.
    pub(super) again: BTreeSet<CallId>,
    /// Jobs whose agents were cut off from everybody: the server has ended them perhaps, and they go on.
    pub(super) cut: BTreeSet<CallId>,
}

impl Rooms {
    /// What the server says of a job that it offers.
    pub(super) fn offers(&mut self, job: &CallId, room: &str) -> Option<Box<Again>> {
        self.room.insert(job.clone(), room.to_owned());
        let dispatch = format!("AD_{job}");
        let all = self.dispatches.entry(room.to_owned()).or_default();
        all.push(dispatch.clone());
        self.on.then(|| {
            Box::new(Again {
                sid: room.to_owned(),
                dispatch,
                metadata: "hello".to_owned(),
                identity: String::new(),
            })
        })
    }

    pub(super) fn begins(&mut self, job: &CallId) {
        if let Some(room) = self.room.get(job) {
            let all = self.begun.entry(room.clone()).or_default();
            if !all.contains(job) {
                all.push(job.clone());
            }
        }
    }

    pub(super) fn joins(&mut self, job: &CallId) {
        self.there.insert(job.clone());
    }

    pub(super) fn leaves(&mut self, job: &CallId) -> bool {
        self.there.remove(job)
    }

    /// Whether another one has begun in the room of a job behind it.
    pub(super) fn has_successor(&self, job: &CallId) -> bool {
        let all = self.room.get(job).and_then(|room| self.begun.get(room));
        all.is_some_and(|all| all.last() != Some(job))
    }

    /// Whether it was told to end because of that.
    pub(super) fn is_replaced(&self, job: &CallId) -> bool {
        let written = self.written.get(job);
        written.is_some_and(|written| written.stage == VacancyStage::Answered)
    }

    fn seen(&self, ask: &RoomAsk) -> RoomSeen {
        let callers = true;
        if self.there.contains(&ask.job) {
            let agent = true;
            return RoomSeen::Open { agent, callers };
        }
        let is_here = |job: &&CallId| self.room.get(*job) == Some(&ask.room);
        if self.there.iter().any(|job| is_here(&job)) {
            return RoomSeen::Answered;
        }
        let last = self.dispatches[&ask.room].last();
        if last != Some(&ask.again.dispatch) {
            return RoomSeen::Asked { callers };
        }
        let agent = false;
        RoomSeen::Open { agent, callers }
    }
}

impl World {
    pub(super) fn looks(&mut self, ask: &RoomAsk) {
        let seen = match self.rng.below(20) {
            0 | 1 => RoomSeen::Unknown,
            2 if !self.rooms.there.contains(&ask.job) => RoomSeen::Closed,
            _ => self.rooms.seen(ask),
        };
        let wait = self.rng.between(1, 200);
        let job = ask.job.clone();
        self.tell(wait, Event::RoomSeen { job, seen });
    }

    pub(super) fn dispatches(&mut self, ask: &RoomAsk) {
        let (makes, answer) = match self.rng.below(10) {
            0 => (false, Dispatched::Refused),
            1 => (false, Dispatched::Unknown),
            2 => (true, Dispatched::Unknown),
            _ => (true, Dispatched::Made),
        };
        if makes {
            // Sometimes no line takes it, or the server asks another one first.
            if !self.rng.chance(200) {
                let wait = self.rng.between(1, 3_000);
                let room = ask.room.clone();
                self.after(wait, Happens::JobIn { room });
            }
            let dispatches = self.rooms.dispatches.get_mut(&ask.room).unwrap();
            dispatches.push(format!("AD_{}", self.now));
        }
        let (job, wait) = (ask.job.clone(), self.rng.between(1, 300));
        self.tell(wait, Event::Redispatched { job, answer });
    }

    /// The server notices that the agents of a process are gone, if they are.
    pub(super) fn noticed(&mut self, index: usize, job: &CallId) {
        let process = &self.processes[index];
        let is_back = process.alive && !process.cut && process.jobs.contains(job);
        if !is_back && self.rooms.leaves(job) {
            self.leaves(job);
        }
    }

    pub(super) fn notices(&mut self, index: usize) {
        for job in self.processes[index].jobs.clone() {
            let wait = self.rng.between(NOTICED_MS.0, NOTICED_MS.1);
            self.after(
                wait,
                Happens::Noticed {
                    process: index,
                    job,
                },
            );
        }
    }

    /// A process is cut off from everybody for a while, and goes on.
    pub(super) fn cut(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if !process.alive || process.manner == Manner::Mute {
            return;
        }
        let Some(worker) = process.connection.take() else {
            return;
        };
        process.cut = true;
        self.rooms.cut.extend(process.jobs.iter().cloned());
        self.count("cut");
        // Something resets its socket, or nothing does.
        let silent = *self.rng.pick(&[0, 0, 18_000]);
        self.tell(silent, Event::Closed { worker, code: None });
        self.notices(index);
        let wait = self.rng.between(19_000, 90_000);
        self.after(wait, Happens::Rejoins(index));
    }

    pub(super) fn rejoins(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.cut = false;
        if process.alive {
            for job in &process.jobs {
                self.rooms.joins(job);
            }
            let wait = self.rng.between(1, 10_000);
            self.after(wait, Happens::Connects(index));
        }
    }
}
