//! The world and what must be true in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use segue_core::dispatch::{
    ANSWER_WITHIN, ASKED_MAX, Action, Answer, Ask, Dispatcher, Entry, Event, Hello, JobRecord,
    LineId, LineKey, LineStatus, Note, Settings, WorkerKey, WorkerStatus,
};
use segue_core::link::CallOutcome;
use segue_core::names::{AgentName, CallId, ReleaseId};
use segue_core::rollout::Agent;
use segue_core::split::{Share, Split};
use segue_core::table::{Epoch, ReleaseRoute, RoutingTable};
use segue_core::time::{Millis, Timestamp};

use super::process::{Manner, Process};
use crate::sim::rng::Rng;

/// How long jobs keep coming.
const BUSY_MS: u64 = 60_000;

/// Until the last of them is over, in any case.
const ALL_MS: u64 = BUSY_MS + 400_000;

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
    Connects(usize),
    Replacement(usize),
    Restart,
    Job,
    Trouble,
}

/// What the dispatcher was told of a connection.
#[derive(Debug)]
struct View {
    process: usize,
    release: ReleaseId,
    available: bool,
    draining: bool,
    refused: bool,
}

#[derive(Debug)]
struct Offered {
    at: u64,
    line: LineKey,
    room: String,
    asked: BTreeSet<WorkerKey>,
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
            counts: BTreeMap::new(),
            traced,
        };
        world.restart();
        for process in 0..world.processes.len() {
            world.after(10, Happens::Connects(process));
        }
        world.after(700, Happens::Job);
        world.after(900, Happens::Trouble);
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

    /// When all is over nothing is left.
    fn rest(&mut self) {
        let now = Timestamp(self.now);
        let d = self.d.as_mut().expect("it is up at the end");
        assert_eq!(d.list(None, 10), []);
        assert_eq!(self.durable, BTreeMap::new());
        for presence in d.presence(now + Millis(60_000)).values() {
            for counts in presence.releases.values() {
                assert_eq!((counts.live, counts.pinned), (0, 0), "{presence:?}");
            }
        }
        for (job, offer) in &self.offered {
            assert!(offer.answered, "{job} was never answered");
        }
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
            Happens::ToDispatcher { life, event } if life == self.life => self.step(event),
            Happens::ToDispatcher { .. } => {}
            Happens::ToWorker { worker, body } => self.to_worker(worker, &body),
            Happens::ToServer {
                life,
                line,
                job,
                takes,
            } if life == self.life => {
                self.to_server(line, job, takes);
            }
            Happens::ToServer { .. } => {}
            Happens::LineUp { life, line } if life == self.life => {
                self.step(Event::LineUp { line })
            }
            Happens::LineUp { .. } => {}
            Happens::GivesUp(job) => {
                let offer = &self.offered[&job];
                assert!(offer.answered, "{job}: no answer within {ANSWER_WITHIN}");
            }
            Happens::JobEnds { process, job } => self.job_ends(process, job),
            Happens::Status(process) => self.says_status(process, true),
            Happens::Connects(process) => self.connects(process),
            Happens::Replacement(release) => {
                let process = Process::new(release, &mut self.rng);
                self.processes.push(process);
                self.after(1, Happens::Connects(self.processes.len() - 1));
            }
            Happens::Restart => self.restart(),
            Happens::Job => self.new_job(),
            Happens::Trouble => self.trouble(),
        }
    }

    fn restart(&mut self) {
        let settings = Settings {
            hold: Millis(*self.rng.pick(&[0, 500, 1_500])),
        };
        let records = self.durable.values().cloned().collect();
        let settings = [(self.agent.clone(), settings)].into();
        self.d = Some(Dispatcher::new(settings, records, Timestamp(self.now)));
        self.step(Event::Table(Box::new(self.table.clone())));
    }

    /// Everything behind a kill is forgotten; what was written stays.
    fn crash(&mut self) {
        self.count("crashed");
        if self.rng.chance(100) {
            // With its disk.
            self.durable.clear();
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

    /// What the dispatcher is told, the world knows that it knows.
    fn observe(&mut self, event: &Event) {
        match event {
            Event::Status { worker, status } => {
                if let Some(view) = self.views.get_mut(worker) {
                    view.available = status.available == Some(true);
                    view.refused = false;
                    view.draining |= status.draining || (!view.available && status.load == 0.0);
                }
            }
            Event::Answered { worker, answer } => {
                if let Some(view) = self.views.get_mut(worker) {
                    view.refused |= !answer.available;
                }
            }
            Event::Closed { worker, .. } => {
                self.views.remove(worker);
            }
            Event::Drain { worker } => {
                if let Some(view) = self.views.get_mut(worker) {
                    view.draining = true;
                }
            }
            Event::LineDown { line } => {
                for offer in self
                    .offered
                    .values_mut()
                    .filter(|offer| offer.line == *line)
                {
                    offer.answered = true;
                }
            }
            _ => {}
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Write(Entry::Begun(record)) => {
                self.durable.insert(record.job.clone(), record);
            }
            Action::Write(Entry::Moved { job, worker }) => {
                self.durable.get_mut(&job).expect("it began").worker = worker;
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
                    offer.expect("it was offered").asked.insert(worker);
                }
                let latency = self.processes[process].latency;
                self.after(latency, Happens::ToWorker { worker, body });
            }
            Action::Terminate { worker, job } => {
                let body = format!("end:{job}");
                self.after(1, Happens::ToWorker { worker, body });
            }
            Action::ToServer { line, body } => {
                let text = std::str::from_utf8(&body).unwrap();
                if let Some(rest) = text.strip_prefix("yes:") {
                    let (job, worker) = rest.split_once(':').unwrap();
                    let job: CallId = job.parse().unwrap();
                    self.check_promise(&job, WorkerKey(worker.parse().unwrap()));
                    self.answered(line, job, true);
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
            Action::Migrate { .. } => {}
            Action::Ended(record) => {
                if record.setup_ms.is_some() {
                    let is_new = self.ended.insert(record.call.clone());
                    assert!(is_new, "{} ended twice", record.call);
                }
                match record.outcome {
                    CallOutcome::Completed => self.count("completed"),
                    CallOutcome::Dropped | CallOutcome::Lost if record.setup_ms.is_some() => {
                        let has = |p: &Process| p.alive && p.jobs.contains(&record.call);
                        assert!(!self.processes.iter().any(has), "{record:?} is alive");
                        self.count("lost");
                    }
                    CallOutcome::Policy => self.count("terminated"),
                    _ if record.cause == "server: never assigned" => self.count("never assigned"),
                    _ => {}
                }
                if record.cause.contains("last status") {
                    self.count("drained away");
                }
                if record.reason == "pin" {
                    self.count("pinned");
                }
            }
            Action::Note(note) => self.count(match note {
                Note::WorkerDrains { .. } => "drained",
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

    fn is_sent_jobs(&self, release: ReleaseId) -> bool {
        self.table.split.share(release) > Share::NONE
    }

    /// Nobody is promised a job to who should have none.
    fn check_promise(&self, job: &CallId, worker: WorkerKey) {
        let view = &self.views[&worker];
        assert!(!view.draining, "{job} goes to a worker that drains");
        let room = &self.offered[job].room;
        let pinned = self
            .durable
            .values()
            .any(|record| record.room == *room && record.release == view.release);
        // A room that was pinned rests for a while.
        assert!(
            self.is_sent_jobs(view.release) || pinned || room.starts_with("shared"),
            "{job} goes to a release that drains"
        );
    }

    /// Nobody who could have taken it was left out.
    fn check_refusal(&self, job: &CallId) {
        let offer = &self.offered[job];
        if self.now - offer.at + 60 > ANSWER_WITHIN.0 || offer.asked.len() >= ASKED_MAX {
            return;
        }
        for (key, view) in &self.views {
            let could = view.available
                && !view.draining
                && !view.refused
                && !self.processes[view.process].draining
                && self.is_sent_jobs(view.release)
                && !offer.asked.contains(key);
            assert!(!could, "{job} is refused, but {view:?} was not asked");
        }
    }

    fn to_server(&mut self, line: LineKey, job: CallId, takes: bool) {
        if takes && self.lines.contains_key(&line) {
            if self.rng.chance(20) {
                return;
            }
            let body = body(&format!("assign:{job}"));
            let wait = self.rng.between(1, 30);
            self.tell(wait, Event::Assigned { job, body });
        }
    }

    fn to_worker(&mut self, worker: WorkerKey, body: &str) {
        let found = self
            .processes
            .iter()
            .position(|p| p.alive && p.connection == Some(worker));
        let Some(index) = found else {
            return;
        };
        let (what, job) = body.split_once(':').unwrap();
        let job: CallId = job.parse().unwrap();
        match what {
            "offer" => self.asked(index, worker, job),
            "assign" => {
                let promised = self.processes[index].promised.remove(&job);
                let promised = promised.expect("a job comes to who promised it");
                if self.now - promised > 7_500 {
                    return;
                }
                let before = self.holder.insert(job.clone(), index);
                assert_eq!(before, None, "{job} has two workers");
                self.count("begun");
                self.processes[index].jobs.insert(job.clone());
                self.says_job(index, &job, None);
                let ends = self.rng.heavy(4_000, 50_000);
                self.after(
                    ends,
                    Happens::JobEnds {
                        process: index,
                        job,
                    },
                );
            }
            _ => self.job_ends(index, job),
        }
    }

    fn asked(&mut self, index: usize, worker: WorkerKey, job: CallId) {
        let mut wait = self.processes[index].latency;
        if self.processes[index].manner == Manner::Slow && self.rng.chance(500) {
            if self.rng.chance(500) {
                return;
            }
            wait += self.rng.between(500, 2_500);
        }
        let process = &mut self.processes[index];
        let available = process.takes();
        let identity = process.identity(index, &job);
        if available {
            process.promised.insert(job.clone(), self.now);
        }
        let word = if available { "yes" } else { "no" };
        let answer = Answer {
            body: body(&format!("{word}:{job}:{}", worker.0)),
            job,
            available,
            terminate: false,
            identity,
        };
        self.tell(wait, Event::Answered { worker, answer });
        self.says_status(index, false);
    }

    fn says_job(&mut self, index: usize, job: &CallId, ended_well: Option<bool>) {
        let process = &mut self.processes[index];
        let Some(worker) = process.connection else {
            if ended_well.is_some() {
                process.unsaid.push(job.clone());
            }
            return;
        };
        let (job, latency) = (job.clone(), process.latency);
        let event = Event::JobUpdate {
            worker,
            job,
            ended_well,
            body: body("update"),
        };
        self.tell(latency, event);
    }

    fn says_status(&mut self, index: usize, again: bool) {
        let process = &self.processes[index];
        if !process.alive {
            return;
        }
        if let Some(worker) = process.connection {
            let (available, load) = process.status();
            let status = WorkerStatus {
                available: Some(available),
                load,
                draining: false,
            };
            self.tell(process.latency, Event::Status { worker, status });
        }
        if again {
            self.after(2_500, Happens::Status(index));
        }
    }

    fn job_ends(&mut self, index: usize, job: CallId) {
        if !self.processes[index].alive || !self.processes[index].jobs.remove(&job) {
            return;
        }
        self.says_job(index, &job, Some(true));
        let process = &mut self.processes[index];
        if process.draining && process.jobs.is_empty() {
            process.alive = false;
            if let Some(worker) = process.connection.take() {
                let (latency, code) = (process.latency, Some(1_000));
                self.tell(latency, Event::Closed { worker, code });
            }
        }
    }

    fn connects(&mut self, index: usize) {
        if !self.processes[index].alive || self.processes[index].connection.is_some() {
            return;
        }
        if self.d.is_none() {
            self.after(500, Happens::Connects(index));
            return;
        }
        self.keys += 1;
        let key = WorkerKey(self.keys);
        let process = &mut self.processes[index];
        process.connection = Some(key);
        let release = self.releases[process.release];
        let (latency, jobs) = (process.latency, process.jobs.clone());
        let unsaid = std::mem::take(&mut process.unsaid);
        let view = View {
            process: index,
            release,
            available: false,
            draining: false,
            refused: false,
        };
        self.views.insert(key, view);
        let hello = Hello {
            worker: key,
            id: format!("AW_{}", key.0).parse().unwrap(),
            release,
            line: LineId {
                agent: self.agent.clone(),
                agent_name: "demo".to_owned(),
                kind: 0,
                namespace: String::new(),
                permissions: None,
            },
            draining: false,
        };
        self.step(Event::Registered(Box::new(hello)));
        if !jobs.is_empty() {
            let jobs = jobs.into_iter().collect();
            self.tell(latency, Event::Claimed { worker: key, jobs });
        }
        self.says_status(index, false);
        for job in unsaid {
            self.says_job(index, &job, Some(true));
        }
        self.after(2_500, Happens::Status(index));
    }

    fn new_job(&mut self) {
        let up: Vec<LineKey> = self
            .lines
            .iter()
            .filter(|(_, status)| status.is_some_and(|status| status.available))
            .map(|(line, _)| *line)
            .collect();
        if !up.is_empty() && self.d.is_some() {
            self.jobs_made += 1;
            let job: CallId = format!("AJ_{}", self.jobs_made).parse().unwrap();
            let room = match self.rng.below(10) {
                0 => format!("shared-{}", self.rng.below(3)),
                _ => format!("room-{job}"),
            };
            let line = *self.rng.pick(&up);
            let offer = Offered {
                at: self.now,
                line,
                room: room.clone(),
                asked: BTreeSet::new(),
                answered: false,
            };
            self.offered.insert(job.clone(), offer);
            let ask = Ask {
                body: body(&format!("offer:{job}")),
                job: job.clone(),
                room,
                fields: BTreeMap::new(),
            };
            self.after(ANSWER_WITHIN.0 + 5, Happens::GivesUp(job));
            self.step(Event::Offered { line, ask });
        }
        if self.now < BUSY_MS {
            let wait = self.rng.heavy(60, 900);
            self.after(wait, Happens::Job);
        }
        self.look();
    }

    fn trouble(&mut self) {
        let index = self.rng.index(self.processes.len());
        let release = self.processes[index].release;
        match self.rng.below(12) {
            0 if self.d.is_some() => self.crash(),
            1 => {
                let lines: Vec<LineKey> = self.lines.keys().copied().collect();
                for line in lines {
                    self.count("server away");
                    self.lines.insert(line, None);
                    self.step(Event::LineDown { line });
                    let life = self.life;
                    let wait = self.rng.between(5, 3_000);
                    self.after(wait, Happens::LineUp { life, line });
                }
            }
            2 => self.kill(index),
            3..6 => {
                // Its socket breaks.
                if let Some(worker) = self.processes[index].connection.take() {
                    let code = None;
                    self.tell(0, Event::Closed { worker, code });
                    let wait = *self.rng.pick(&[2, 2, 2_000, 6_000]);
                    self.after(wait, Happens::Connects(index));
                }
            }
            6 if self.processes[index].alive && !self.processes[index].draining => {
                self.processes[index].draining = true;
                if let (Manner::Liar, Some(worker)) = (
                    self.processes[index].manner,
                    self.processes[index].connection,
                ) {
                    self.tell(0, Event::Drain { worker });
                }
                self.says_status(index, false);
                let wait = self.rng.between(100, 5_000);
                self.after(wait, Happens::Replacement(release));
                if self.processes[index].jobs.is_empty() {
                    self.kill(index);
                }
            }
            7 => {
                // It drains, and leaves before its jobs have said their last word.
                let process = &mut self.processes[index];
                if process.alive && process.manner == Manner::Good && !process.draining {
                    process.draining = true;
                    self.says_status(index, false);
                    let process = &mut self.processes[index];
                    process.alive = false;
                    self.killed.extend(process.jobs.iter().cloned());
                    let latency = process.latency;
                    if let Some(worker) = process.connection.take() {
                        let code = Some(1_000);
                        self.tell(latency, Event::Closed { worker, code });
                    }
                    self.after(500, Happens::Replacement(release));
                }
            }
            8 if self.d.is_some() => {
                let calls: Vec<CallId> = self.durable.keys().take(2).cloned().collect();
                let release = self.releases[self.rng.index(2)];
                let event = Event::EndCalls {
                    agent: self.agent.clone(),
                    release,
                    epoch: Epoch(0),
                    calls,
                };
                self.step(event);
            }
            _ => {
                let [v1, v2] = self.releases;
                self.table.epoch = self.table.epoch.next();
                self.table.split = match self.rng.below(4) {
                    0 => Split::all(v1),
                    1 => Split::all(v2),
                    2 => Split::ramp(v2, Share(1_000), v1),
                    _ => Split::ramp(v1, Share(5_000), v2),
                };
                for (release, route) in &mut self.table.releases {
                    let share = self.table.split.share(*release);
                    route.takes_new_calls = share > Share::NONE;
                    route.retiring = !route.takes_new_calls;
                }
                self.step(Event::Table(Box::new(self.table.clone())));
            }
        }
        if self.now < BUSY_MS {
            let wait = self.rng.heavy(1_500, 20_000);
            self.after(wait, Happens::Trouble);
        }
    }

    fn kill(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if !process.alive {
            return;
        }
        process.alive = false;
        self.killed.extend(process.jobs.iter().cloned());
        self.killed.extend(process.promised.keys().cloned());
        self.killed.extend(process.unsaid.iter().cloned());
        let release = process.release;
        if let Some(worker) = process.connection.take() {
            self.tell(0, Event::Closed { worker, code: None });
        }
        self.count("killed");
        let wait = self.rng.between(100, 4_000);
        self.after(wait, Happens::Replacement(release));
    }

    /// Counts, list and file say the same.
    fn look(&mut self) {
        let now = Timestamp(self.now);
        let Some(d) = &mut self.d else {
            return;
        };
        let mut listed: BTreeMap<ReleaseId, u64> = BTreeMap::new();
        for info in d.list(None, usize::MAX) {
            *listed.entry(info.release).or_default() += 1;
        }
        let presence = &d.presence(now)[&self.agent];
        assert_eq!(presence.epoch, self.table.epoch);
        for (release, counts) in &presence.releases {
            let listed = listed.get(release).copied().unwrap_or_default();
            assert_eq!(counts.live, listed, "{release:?}");
        }
        let running: BTreeMap<CallId, JobRecord> = d
            .records()
            .map(|record| (record.job.clone(), record))
            .collect();
        assert_eq!(running, self.durable);
        for worker in d.workers() {
            for job in &worker.jobs {
                assert_eq!(self.durable[job].worker, worker.id, "{job}");
            }
        }
    }
}
