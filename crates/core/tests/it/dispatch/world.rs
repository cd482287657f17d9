//! The world and what must be true in it.

mod fleet;
mod operators;
mod rooms;
mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use segue_core::dispatch::{
    ANSWER_WITHIN, Action, Ask, Dispatcher, Entry, Event, JobRecord, LineKey, LineStatus, Note,
    Settings, WorkerKey,
};
use segue_core::link::CallOutcome;
use segue_core::names::{AgentName, CallId, ReleaseId};
use segue_core::plane::DrainedBy;
use segue_core::rollout::Agent;
use segue_core::split::Split;
use segue_core::table::{Epoch, ReleaseRoute, RoutingTable};
use segue_core::time::{Millis, Timestamp};

use self::rooms::Rooms;
use super::process::{Manner, Process};
use crate::sim::rng::Rng;

/// How long jobs keep coming.
const BUSY_MS: u64 = 60_000;

/// Until the last of them is over, in any case.
const ALL_MS: u64 = BUSY_MS + 4_000_000;

/// On the way between dispatcher and server.
const TO_SERVER_MS: u64 = 1;

#[derive(Debug, Clone)]
enum Happens {
    ToDispatcher {
        life: u64,
        event: Event,
    },
    ToWorker {
        worker: WorkerKey,
        body: String,
    },
    ToServer {
        life: u64,
        line: LineKey,
        job: CallId,
        takes: bool,
    },
    LineUp {
        life: u64,
        line: LineKey,
    },
    GivesUp(CallId),
    JobEnds {
        process: usize,
        job: CallId,
    },
    Status(usize),
    /// The server would see that an agent is gone.
    Noticed {
        process: usize,
        job: CallId,
    },
    Rejoins(usize),
    /// A job of a room that there is.
    JobIn {
        room: String,
    },
    Connects(usize),
    Replacement(usize),
    Restart,
    Job,
    Trouble,
    /// Who says nothing of its jobs has forgotten ones, which only its own end ends.
    MuteEnd,
}

/// What the dispatcher was told of a connection.
#[derive(Debug)]
struct View {
    process: usize,
    release: ReleaseId,
    available: bool,
    drains: BTreeSet<DrainedBy>,
    refused: bool,
}

#[derive(Debug)]
struct Offered {
    at: u64,
    line: LineKey,
    room: String,
    asked: BTreeSet<WorkerKey>,
    asked_last: Option<WorkerKey>,
    answered: bool,
}

pub(super) struct World {
    rng: Rng,
    now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Happens>,
    d: Option<Dispatcher>,
    life: u64,
    keys: u64,
    jobs_made: u64,
    table: RoutingTable,
    releases: [ReleaseId; 2],
    agent: AgentName,
    processes: Vec<Process>,
    views: BTreeMap<WorkerKey, View>,
    lines: BTreeMap<LineKey, Option<LineStatus>>,
    offered: BTreeMap<CallId, Offered>,
    durable: BTreeMap<CallId, JobRecord>,
    holder: BTreeMap<CallId, usize>,
    killed: BTreeSet<CallId>,
    ended: BTreeSet<CallId>,
    rooms: Rooms,
    counts: BTreeMap<&'static str, u64>,
    traced: bool,
}

fn body(text: &str) -> Arc<[u8]> {
    text.as_bytes().into()
}

impl World {
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let agent: AgentName = "desk".parse().unwrap();
        let releases = [ReleaseId::of(b"v1"), ReleaseId::of(b"v2")];
        let route = |label: &str| ReleaseRoute {
            label: label.parse().unwrap(),
            takes_new_calls: true,
            retiring: false,
        };
        let table = RoutingTable {
            epoch: Epoch(1),
            split: Split::all(releases[0]),
            releases: [(releases[0], route("v1")), (releases[1], route("v2"))].into(),
            stickiness: Millis::from_secs(5),
            ..Agent::new(agent.clone()).table()
        };
        let fleet = rng.between(2, 7);
        let processes = (0..fleet).map(|_| {
            let release = usize::from(rng.chance(500));
            Process::new(release, &mut rng)
        });
        let processes = processes.collect();
        let mut world = Self {
            rng,
            now: 1_000,
            sequence: 0,
            queue: BTreeMap::new(),
            d: None,
            life: 0,
            keys: 0,
            jobs_made: 0,
            table,
            releases,
            agent,
            processes,
            views: BTreeMap::new(),
            lines: BTreeMap::new(),
            offered: BTreeMap::new(),
            durable: BTreeMap::new(),
            holder: BTreeMap::new(),
            killed: BTreeSet::new(),
            ended: BTreeSet::new(),
            rooms: Rooms::default(),
            counts: BTreeMap::new(),
            traced,
        };
        world.rooms.on = seed.is_multiple_of(3);
        world.restart();
        for process in 0..world.processes.len() {
            world.after(10, Happens::Connects(process));
        }
        world.after(700, Happens::Job);
        world.after(900, Happens::Trouble);
        world.after(BUSY_MS + 100_000, Happens::MuteEnd);
        world
    }

    pub(super) fn run(mut self) -> BTreeMap<&'static str, u64> {
        loop {
            let due = self.d.as_ref().and_then(Dispatcher::next_deadline);
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let tick = due.map(|at| at.0.max(self.now));
            let Some(at) = [next, tick].into_iter().flatten().min() else {
                break;
            };
            if at > ALL_MS {
                break;
            }
            self.now = at;
            if tick.is_some_and(|tick| tick <= at) {
                self.step(Event::Tick);
            }
            if next == Some(at)
                && let Some((_, what)) = self.queue.pop_first()
            {
                self.happens(what);
            }
        }
        self.rest();
        self.counts
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn after(&mut self, ms: u64, what: Happens) {
        self.sequence += 1;
        self.queue.insert((self.now + ms, self.sequence), what);
    }

    fn tell(&mut self, ms: u64, event: Event) {
        let life = self.life;
        self.after(ms, Happens::ToDispatcher { life, event });
    }

    fn happens(&mut self, what: Happens) {
        match what {
            // What was under way to a dispatcher that is dead is lost.
            Happens::ToDispatcher { life, .. }
            | Happens::ToServer { life, .. }
            | Happens::LineUp { life, .. }
                if life != self.life => {}
            Happens::ToDispatcher { event, .. } => self.step(event),
            Happens::ToWorker { worker, body } => self.reaches_worker(worker, &body),
            Happens::ToServer {
                line, job, takes, ..
            } => self.reaches_server(line, job, takes),
            Happens::LineUp { line, .. } => self.step(Event::LineUp { line }),
            Happens::GivesUp(job) => {
                let offer = &self.offered[&job];
                assert!(offer.answered, "{job}: no answer within {ANSWER_WITHIN}");
            }
            Happens::JobEnds { process, job } => self.job_ends(process, &job),
            Happens::Status(process) => self.says_status(process, true),
            Happens::Connects(process) => self.connects(process),
            Happens::Noticed { process, job } => self.noticed(process, &job),
            Happens::Rejoins(process) => self.rejoins(process),
            Happens::JobIn { room } => self.job_in(Some(room)),
            Happens::Replacement(release) => {
                let process = Process::new(release, &mut self.rng);
                self.processes.push(process);
                self.after(1, Happens::Connects(self.processes.len() - 1));
            }
            Happens::Restart => self.restart(),
            Happens::Job => self.new_job(),
            Happens::Trouble => self.trouble(),
            Happens::MuteEnd => {
                for index in 0..self.processes.len() {
                    if self.processes[index].manner == Manner::Mute {
                        self.kill(index);
                    }
                }
            }
        }
    }

    fn restart(&mut self) {
        let settings = Settings {
            hold: Millis(*self.rng.pick(&[0, 500, 1_500])),
            redispatch: self.rooms.on,
            ..Settings::default()
        };
        let records = self.durable.values().cloned().collect();
        let settings = [(self.agent.clone(), settings)].into();
        let d = Dispatcher::new(settings, records, Timestamp(self.now));
        let rooms = self.rooms.written.values().cloned().collect();
        self.d = Some(d.with_vacancies(rooms));
        self.step(Event::Table(Box::new(self.table.clone())));
    }

    /// Everything behind a kill is forgotten; what was written stays.
    fn crash(&mut self) {
        self.count("crashed");
        if self.rng.chance(100) {
            // With its disk.
            self.durable.clear();
            // What is replaced is taken for a job again.
            for job in std::mem::take(&mut self.rooms.written).into_keys() {
                self.rooms.cut.insert(job);
            }
        }
        self.life += 1;
        self.d = None;
        self.views.clear();
        self.lines.clear();
        for offer in self.offered.values_mut() {
            offer.answered = true;
        }
        for index in 0..self.processes.len() {
            if self.processes[index].connection.take().is_some() {
                let wait = *self.rng.pick(&[2, 300, 2_000]);
                self.after(wait, Happens::Connects(index));
            }
        }
        let wait = self.rng.between(1, 1_500);
        self.after(wait, Happens::Restart);
    }

    #[expect(clippy::print_stdout, reason = "the trace of one seed")]
    fn step(&mut self, event: Event) {
        if self.d.is_none() {
            return;
        }
        self.observe(&event);
        let traced = self.traced.then(|| format!("{event:?}"));
        let d = self.d.as_mut().expect("it is up");
        let actions = d.step(Timestamp(self.now), event);
        if let Some(event) = traced {
            println!("{} {event} {actions:?}", self.now);
        }
        for action in actions {
            self.act(action);
        }
    }

    #[expect(clippy::too_many_lines, reason = "an arm for each action")]
    fn act(&mut self, action: Action) {
        match action {
            Action::Write(Entry::Begun(record)) => {
                self.rooms.begins(&record.job);
                self.durable.insert(record.job.clone(), record);
            }
            Action::Write(Entry::Vacant(room)) => {
                self.rooms.written.insert(room.job.clone(), *room);
            }
            Action::Write(Entry::Occupied { job }) => {
                self.rooms.written.remove(&job);
            }
            Action::LookAtRoom(ask) => self.looks(&ask),
            Action::Redispatch(ask) => {
                self.count("dispatched again");
                self.rooms.again.insert(ask.job.clone());
                self.dispatches(&ask);
            }
            Action::Write(Entry::Spoken { job }) => {
                self.durable.get_mut(&job).expect("it began").spoken = true;
            }
            Action::Write(Entry::Moved { job, worker }) => {
                self.durable.get_mut(&job).expect("it began").worker = worker;
            }
            Action::Write(Entry::Drained { job, drains }) => {
                self.durable.get_mut(&job).expect("it began").drains = drains;
            }
            Action::Write(Entry::Ended { job }) => {
                self.durable.remove(&job).expect("it began");
            }
            Action::ToWorker { worker, body } => {
                let view = self.views.get(&worker).expect("a connection that is open");
                let process = view.process;
                let body = String::from_utf8(body.to_vec()).unwrap();
                if let Some(job) = body.strip_prefix("offer:") {
                    let offer = self.offered.get_mut(&job.parse::<CallId>().unwrap());
                    let offer = offer.expect("it was offered");
                    offer.asked.insert(worker);
                    offer.asked_last = Some(worker);
                }
                let latency = self.processes[process].latency;
                self.after(latency, Happens::ToWorker { worker, body });
            }
            Action::Terminate { worker, job } => {
                self.check_end(&job);
                let body = format!("end:{job}");
                self.after(1, Happens::ToWorker { worker, body });
            }
            Action::Kick { worker } => self.kicked(worker),
            Action::ToServer { line, body } => {
                let text = std::str::from_utf8(&body).unwrap();
                if let Some(rest) = text.strip_prefix("yes:") {
                    let (job, worker) = rest.split_once(':').unwrap();
                    let job: CallId = job.parse().unwrap();
                    self.check_promise(&job, WorkerKey(worker.parse().unwrap()));
                    self.answered(line, job, true);
                }
                if let Some(rest) = text.strip_prefix("never:") {
                    let (job, worker) = rest.split_once(':').unwrap();
                    let job: CallId = job.parse().unwrap();
                    self.check_rejection(&job, WorkerKey(worker.parse().unwrap()));
                    self.count("not wanted");
                    self.answered(line, job, false);
                }
            }
            Action::Refuse { line, job } => {
                self.check_refusal(&job);
                self.answered(line, job, false);
            }
            Action::Open { line, .. } => {
                self.lines.insert(line, None);
                let life = self.life;
                let wait = self.rng.between(1, 40);
                self.after(wait, Happens::LineUp { life, line });
            }
            Action::Close { line } => {
                self.lines.remove(&line);
            }
            Action::Status { line, status } => {
                self.lines.insert(line, Some(status));
            }
            // Not configured here: `again.rs` is about them.
            Action::Label { .. } => {
                panic!("{action:?} was not asked for")
            }
            Action::Migrate { .. } => {}
            Action::Ended(record) => {
                if record.setup_ms.is_some() {
                    let is_new = self.ended.insert(record.call.clone());
                    // Who was cut off may come back to what the server had ended.
                    let was_cut = self.rooms.cut.contains(&record.call);
                    assert!(is_new || was_cut, "{} ended twice", record.call);
                }
                match record.outcome {
                    CallOutcome::Completed => self.count("completed"),
                    CallOutcome::Dropped | CallOutcome::Lost if record.setup_ms.is_some() => {
                        let replaced = self.rooms.has_successor(&record.call);
                        let has =
                            |p: &Process| p.alive && p.jobs.contains(&record.call) && !replaced;
                        assert!(!self.processes.iter().any(has), "{record:?} is alive");
                        self.count("lost");
                    }
                    CallOutcome::Policy => self.count("terminated"),
                    _ if record.cause == "server: never assigned" => self.count("never assigned"),
                    _ => {}
                }
                if record.cause == "server: ended" {
                    self.count("ended by the server");
                }
                if record.cause.contains("last status") {
                    self.count("drained away");
                }
                if record.reason == "pin" {
                    self.count("pinned");
                }
            }
            Action::Note(Note::JobClaimed { job, .. }) if self.rooms.again.contains(&job) => {
                self.count("back in time");
            }
            Action::Note(note) => self.count(match note {
                Note::JobRedispatched { .. } => "replaced by another",
                Note::RoomLeft { .. } => "left",
                Note::WorkerDrains { .. } => "drained",
                Note::WorkerServes { .. } => "undrained",
                Note::WorkerSilent { .. } => "silent",
                Note::JobClaimed { .. } => "claimed",
                Note::JobAdopted { .. } => "adopted",
                Note::JobAway { .. } => "away",
                Note::JobReplaced { .. } => "replaced",
                Note::JobElsewhere { .. } => "elsewhere",
                Note::JobRefused { after, .. } if after.0 > 400 => "held",
                Note::JobRefused { .. } => "refused",
                _ => "other",
            }),
        }
    }

    fn answered(&mut self, line: LineKey, job: CallId, takes: bool) {
        let offer = self.offered.get_mut(&job).expect("it was offered");
        assert!(!offer.answered, "{job} was answered twice");
        let took = self.now - offer.at;
        assert!(
            took <= ANSWER_WITHIN.0,
            "{job} was answered after {took} ms"
        );
        offer.answered = true;
        let life = self.life;
        self.after(
            TO_SERVER_MS,
            Happens::ToServer {
                life,
                line,
                job,
                takes,
            },
        );
    }

    fn reaches_server(&mut self, line: LineKey, job: CallId, takes: bool) {
        if takes && self.lines.contains_key(&line) {
            if self.rng.chance(20) {
                return;
            }
            let body = body(&format!("assign:{job}"));
            let wait = self.rng.between(1, 30);
            self.tell(wait, Event::Assigned { job, body });
        }
    }

    fn job_in(&mut self, room: Option<String>) {
        let up: Vec<LineKey> = self
            .lines
            .iter()
            .filter(|(_, status)| status.is_some_and(|status| status.available))
            .map(|(line, _)| *line)
            .collect();
        if !up.is_empty() && self.d.is_some() {
            self.jobs_made += 1;
            let job: CallId = format!("AJ_{}", self.jobs_made).parse().unwrap();
            let room = room.unwrap_or_else(|| match self.rng.below(10) {
                0 => format!("shared-{}", self.rng.below(3)),
                _ => format!("room-{job}"),
            });
            let line = *self.rng.pick(&up);
            let offer = Offered {
                at: self.now,
                line,
                room: room.clone(),
                asked: BTreeSet::new(),
                asked_last: None,
                answered: false,
            };
            self.offered.insert(job.clone(), offer);
            let ask = Ask {
                body: body(&format!("offer:{job}")),
                again: self.rooms.offers(&job, &room),
                job: job.clone(),
                room,
                fields: BTreeMap::new(),
            };
            self.after(ANSWER_WITHIN.0 + 5, Happens::GivesUp(job));
            self.step(Event::Offered { line, ask });
        }
    }

    fn new_job(&mut self) {
        self.job_in(None);
        if self.now < BUSY_MS {
            let wait = self.rng.heavy(60, 900);
            self.after(wait, Happens::Job);
        }
        self.look();
    }
}
