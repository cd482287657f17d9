//! One dispatcher with its settings on, what it wrote down and what it did last.

use std::collections::BTreeMap;
use std::sync::Arc;

use segue_core::dispatch::{
    Action, Again, Answer, Ask, Dispatched, Dispatcher, Entry, Event, Hello, JobRecord, LOOK_EVERY,
    LineId, LineKey, Note, RoomSeen, Settings, Vacancy, WorkerKey, WorkerStatus,
};
use segue_core::link::CallOutcome;
use segue_core::names::{AgentName, CallId, ReleaseId};
use segue_core::rollout::Agent;
use segue_core::split::Split;
use segue_core::table::{Epoch, ReleaseRoute, RoutingTable};
use segue_core::time::{Millis, Timestamp};

pub(super) const LINE: LineKey = LineKey(1);

/// The agent is there and so is its caller; the caller alone; nobody.
pub(super) const BOTH: RoomSeen = RoomSeen::Open {
    agent: true,
    callers: true,
};
pub(super) const CALLER: RoomSeen = RoomSeen::Open {
    agent: false,
    callers: true,
};
pub(super) const NOBODY: RoomSeen = RoomSeen::Open {
    agent: false,
    callers: false,
};

/// A dispatcher with what it wrote down, and what it did last.
pub(super) struct Place {
    pub(super) d: Dispatcher,
    pub(super) now: Timestamp,
    pub(super) did: Vec<Action>,
    pub(super) jobs: BTreeMap<CallId, JobRecord>,
    pub(super) rooms: BTreeMap<CallId, Vacancy>,
    pub(super) table: RoutingTable,
    pub(super) settings: BTreeMap<AgentName, Settings>,
}

pub(super) fn agent() -> AgentName {
    "desk".parse().unwrap()
}

/// Another agent, which configures nothing.
pub(super) fn other() -> AgentName {
    "billing".parse().unwrap()
}

pub(super) fn release(label: &str) -> ReleaseId {
    ReleaseId::of(label.as_bytes())
}

pub(super) fn id(job: &str) -> CallId {
    job.parse().unwrap()
}

pub(super) fn settings() -> BTreeMap<AgentName, Settings> {
    let on = Settings {
        redispatch: true,
        room_metadata: true,
        ..Settings::default()
    };
    [(agent(), on)].into()
}

impl Place {
    pub(super) fn open() -> Self {
        let route = |label: &str| ReleaseRoute {
            label: label.parse().unwrap(),
            takes_new_calls: true,
            retiring: false,
        };
        let table = RoutingTable {
            epoch: Epoch(1),
            split: Split::all(release("v1")),
            releases: ["v1", "v2"]
                .map(|label| (release(label), route(label)))
                .into(),
            stickiness: Millis::from_secs(60),
            ..Agent::new(agent()).table()
        };
        let now = Timestamp(1_000);
        let mut place = Self {
            d: Dispatcher::new(settings(), Vec::new(), now),
            now,
            did: Vec::new(),
            jobs: BTreeMap::new(),
            rooms: BTreeMap::new(),
            table: table.clone(),
            settings: settings(),
        };
        place.step(Event::Table(Box::new(table)));
        place
    }

    /// The table of another agent.
    pub(super) fn opens(&mut self, agent: &AgentName) {
        let agent = agent.clone();
        let table = RoutingTable {
            agent,
            ..self.table.clone()
        };
        self.step(Event::Table(Box::new(table)));
    }

    pub(super) fn step(&mut self, event: Event) {
        self.did = self.d.step(self.now, event);
        for action in self.did.clone() {
            self.keep(action);
        }
    }

    pub(super) fn keep(&mut self, action: Action) {
        match action {
            Action::Write(Entry::Begun(record)) => {
                self.jobs.insert(record.job.clone(), record);
            }
            Action::Write(Entry::Spoken { job }) => self.jobs.get_mut(&job).unwrap().spoken = true,
            Action::Write(Entry::Ended { job }) => {
                self.jobs.remove(&job);
            }
            Action::Write(Entry::Vacant(room)) => {
                self.rooms.insert(room.job.clone(), *room);
            }
            Action::Write(Entry::Occupied { job }) => {
                self.rooms.remove(&job);
            }
            _ => {}
        }
    }

    /// The process is killed, and another one starts with what was written.
    pub(super) fn restart(&mut self) {
        let jobs = self.jobs.values().cloned().collect();
        let d = Dispatcher::new(self.settings.clone(), jobs, self.now);
        self.d = d.with_vacancies(self.rooms.values().cloned().collect());
        self.step(Event::Table(Box::new(self.table.clone())));
    }

    pub(super) fn wait(&mut self, time: Millis) {
        self.now = self.now + time;
        self.step(Event::Tick);
    }

    pub(super) fn connect(&mut self, worker: u64, label: &str) {
        self.connect_to(LINE, agent(), worker, label);
    }

    /// A worker of this agent, which is registered on this line.
    pub(super) fn connect_to(&mut self, line: LineKey, agent: AgentName, worker: u64, label: &str) {
        self.step(Event::Registered(Box::new(Hello {
            worker: WorkerKey(worker),
            id: format!("AW_{worker}").parse().unwrap(),
            release: release(label),
            line: LineId {
                agent,
                agent_name: "desk".to_owned(),
                kind: 0,
                namespace: String::new(),
                permissions: None,
            },
            draining: false,
            library: "1.8.9".to_owned(),
            from: None,
        })));
        self.step(Event::LineUp { line });
        let status = WorkerStatus {
            available: Some(true),
            load: 0.1,
            draining: false,
        };
        self.step(Event::Status {
            worker: WorkerKey(worker),
            status,
        });
    }

    /// A worker gets a job in a room, and says that it runs.
    pub(super) fn run(&mut self, worker: u64, job: &str, room: &str) {
        self.begin(worker, job, room);
        self.says(worker, job, None);
    }

    /// The server offers a job, and the worker that is asked promises it.
    pub(super) fn promise(&mut self, worker: u64, job: &str, room: &str) {
        self.promise_on(LINE, worker, job, room);
    }

    pub(super) fn promise_on(&mut self, line: LineKey, worker: u64, job: &str, room: &str) {
        let body: Arc<[u8]> = job.as_bytes().into();
        self.offer_on(line, job, room);
        self.step(Event::Answered {
            worker: WorkerKey(worker),
            answer: Answer {
                job: id(job),
                available: true,
                terminate: false,
                identity: format!("agent-{job}"),
                body,
            },
        });
    }

    pub(super) fn begin(&mut self, worker: u64, job: &str, room: &str) {
        self.promise(worker, job, room);
        self.assign(job);
    }

    pub(super) fn assign(&mut self, job: &str) {
        let body = job.as_bytes().into();
        self.step(Event::Assigned { job: id(job), body });
    }

    pub(super) fn offer(&mut self, job: &str, room: &str) {
        self.offer_on(LINE, job, room);
    }

    fn offer_on(&mut self, line: LineKey, job: &str, room: &str) {
        let body: Arc<[u8]> = job.as_bytes().into();
        let again = Again {
            sid: format!("RM_{room}"),
            dispatch: format!("AD_{job}"),
            metadata: "hello".to_owned(),
            identity: String::new(),
        };
        self.step(Event::Offered {
            line,
            ask: Ask {
                job: id(job),
                room: room.to_owned(),
                fields: BTreeMap::new(),
                again: Some(Box::new(again)),
                body,
            },
        });
    }

    pub(super) fn answers(&mut self, answer: Dispatched) {
        self.step(Event::Redispatched {
            job: id("a"),
            answer,
        });
    }

    pub(super) fn terminate(&mut self, job: &str) {
        self.step(Event::Terminated {
            job: id(job),
            body: b"end".as_slice().into(),
        });
    }

    pub(super) fn claims(&mut self, worker: u64, job: &str) {
        self.step(Event::Claimed {
            worker: WorkerKey(worker),
            jobs: vec![id(job)],
        });
    }

    /// Whether a worker was just told to end a job.
    pub(super) fn ends(&self, worker: u64, job: &str) -> bool {
        self.did.contains(&Action::Terminate {
            worker: WorkerKey(worker),
            job: id(job),
        })
    }

    /// Whether the server just heard that nobody takes a job.
    pub(super) fn refuses(&self, job: &str) -> bool {
        let is =
            |action: &Action| matches!(action, Action::Refuse { job: of, .. } if *of == id(job));
        self.did.iter().any(is)
    }

    pub(super) fn is_left(&self) -> bool {
        let is = |action: &Action| matches!(action, Action::Note(Note::RoomLeft { .. }));
        self.did.iter().any(is)
    }

    /// Whether a worker that is connected has a job.
    pub(super) fn runs(&self, job: &str) -> bool {
        let all = self.d.list(None, usize::MAX);
        all.iter()
            .any(|info| info.call == id(job) && info.state == "live")
    }

    /// A room that was dispatched again, which the server has noted.
    pub(super) fn made() -> Self {
        let mut place = Self::broken();
        place.sees("a", CALLER);
        place.sees("a", CALLER);
        assert!(place.dispatches());
        place.answers(Dispatched::Made);
        place
    }

    pub(super) fn says(&mut self, worker: u64, job: &str, ended_well: Option<bool>) {
        self.step(Event::JobUpdate {
            worker: WorkerKey(worker),
            job: id(job),
            ended_well,
            body: job.as_bytes().into(),
        });
    }

    pub(super) fn breaks(&mut self, worker: u64) {
        self.step(Event::Closed {
            worker: WorkerKey(worker),
            code: None,
        });
    }

    /// A job whose worker's connection broke.
    pub(super) fn broken() -> Self {
        let mut place = Self::open();
        place.connect(1, "v1");
        place.run(1, "a", "room");
        place.breaks(1);
        place
    }

    pub(super) fn looks(&self) -> bool {
        let is = |action: &Action| matches!(action, Action::LookAtRoom(_));
        self.did.iter().any(is)
    }

    pub(super) fn dispatches(&self) -> bool {
        let is = |action: &Action| matches!(action, Action::Redispatch(_));
        self.did.iter().any(is)
    }

    pub(super) fn says_redispatched(&self) -> bool {
        let is = |action: &Action| matches!(action, Action::Note(Note::JobRedispatched { .. }));
        self.did.iter().any(is)
    }

    pub(super) fn ended(&self) -> Option<CallOutcome> {
        self.did.iter().find_map(|action| match action {
            Action::Ended(record) => Some(record.outcome),
            _ => None,
        })
    }

    /// The next look is due, and finds this.
    pub(super) fn sees(&mut self, job: &str, seen: RoomSeen) {
        self.wait(LOOK_EVERY);
        assert!(self.looks(), "nobody looks: {:?}", self.did);
        self.finds(job, seen);
    }

    pub(super) fn finds(&mut self, job: &str, seen: RoomSeen) {
        self.step(Event::RoomSeen { job: id(job), seen });
    }
}
