//! Everything that one dispatcher knows, and the way in.

use std::collections::{BTreeMap, BTreeSet};

use super::book::Book;
use super::event::{Action, Event, Note};
use super::facts::{JobRecord, LineKey, WorkerKey};
use super::job::{Job, Stage};
use super::line::{Line, Summary};
use super::vacancy::Vacancies;
use super::worker::{Hello, Worker};
use super::{HOLD, LINE_IDLE, STATUS_EVERY, STATUS_SETTLES, UNHEARD_MAX};
use crate::link::CallInfo;
use crate::names::{AgentName, CallId, ReleaseId, WorkerId};
use crate::plane::{ConnectedWorker, DrainedBy};
use crate::presence::AgentPresence;
use crate::table::{Epoch, RoutingTable};
use crate::time::{Millis, Timestamp};

/// What is configured for an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a job is held when every worker is busy.
    pub hold: Millis,
    /// Whether a room whose agent died gets another one.
    pub redispatch: bool,
    /// Whether a room says which release answers it.
    pub room_metadata: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            hold: HOLD,
            redispatch: false,
            room_metadata: false,
        }
    }
}

/// Something is to be looked at again. What it was set for may be gone by then.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    Job(CallId),
    Line(LineKey),
    /// Its silence makes a new worker available.
    Heard(LineKey),
    /// The room of a job whose worker is lost.
    Room(CallId),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Dispatcher {
    settings: BTreeMap<AgentName, Settings>,
    pub(super) now: Timestamp,
    pub(super) books: BTreeMap<AgentName, Book>,
    pub(super) workers: BTreeMap<WorkerKey, Worker>,
    /// Workers whose connections an operator ended, until they are closed: what one had said before
    /// it heard of that still counts.
    pub(super) kicked: BTreeMap<WorkerKey, Worker>,
    pub(super) crews: BTreeMap<(LineKey, ReleaseId), BTreeSet<WorkerKey>>,
    pub(super) lines: BTreeMap<LineKey, Line>,
    lines_made: u64,
    pub(super) jobs: BTreeMap<CallId, Job>,
    /// Jobs that are away, by the worker that had them.
    pub(super) away: BTreeMap<WorkerId, BTreeSet<CallId>>,
    pub(super) vacancies: Vacancies,
    pub(super) is_stopping: bool,
    alarms: BTreeSet<(Timestamp, Alarm)>,
    pub(super) out: Vec<Action>,
}

impl Dispatcher {
    /// A dispatcher without workers, which may have the jobs of one before it.
    pub fn new(
        settings: BTreeMap<AgentName, Settings>,
        jobs: Vec<JobRecord>,
        now: Timestamp,
    ) -> Self {
        let mut dispatcher = Self {
            settings,
            now,
            ..Self::default()
        };
        for record in jobs {
            let job = Job::restored(record, now);
            if let Stage::Away { until, .. } = job.stage {
                dispatcher.wake(until, Alarm::Job(job.id.clone()));
            }
            dispatcher.note_away(&job);
            if let Some(sid) = job.sid() {
                dispatcher.vacancies.note_job(sid, &job.id);
            }
            dispatcher.jobs.insert(job.id.clone(), job);
        }
        dispatcher
    }

    /// Takes in what happened, and says what is to be done about it, in this order.
    pub fn step(&mut self, now: Timestamp, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        match event {
            Event::Registered(hello) => self.register(&hello),
            Event::Status { worker, status } => self.hear(worker, status),
            Event::Answered { worker, answer } => self.answered(worker, answer),
            Event::JobUpdate {
                worker,
                job,
                ended_well,
                body,
            } => self.job_update(worker, &job, ended_well, body),
            Event::Claimed { worker, jobs } => self.claimed(worker, jobs),
            Event::Simulated { worker, body } => {
                if let Some(worker) = self.workers.get(&worker) {
                    let line = worker.line;
                    self.out.push(Action::ToServer { line, body });
                }
            }
            Event::Closed { worker, code } => {
                self.kicked.remove(&worker);
                self.closed(worker, code);
            }
            Event::Drain { worker, by } => self.drain(worker, by),
            Event::Undrain { worker, by } => self.undrain(worker, by),
            Event::Steer {
                agent,
                worker,
                what,
            } => self.steer(&agent, &worker, what),
            Event::LineUp { line } => self.line_up(line),
            Event::LineDown { line } => self.line_down(line),
            Event::Offered { line, ask } => self.offered(line, ask),
            Event::Assigned { job, body } => self.assigned(&job, body),
            Event::Terminated { job, body } => self.terminated(&job, body),
            Event::Table(table) => self.install(*table),
            Event::Agents { names } => self.keep_agents(&names),
            Event::EndCalls {
                agent,
                release,
                epoch,
                calls,
            } => self.end_calls(&agent, release, epoch, &calls),
            Event::RoomSeen { job, seen } => self.room_seen(&job, seen),
            Event::Redispatched { job, answer } => self.dispatched(&job, answer),
            Event::Stop => self.stop(),
            Event::Tick => {}
        }
        self.ring();
        std::mem::take(&mut self.out)
    }

    /// When a [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// The report to the controller, by the decisions taken so far.
    pub fn presence(&mut self, now: Timestamp) -> BTreeMap<AgentName, AgentPresence> {
        let mut busy: BTreeMap<&AgentName, BTreeMap<WorkerId, u32>> = BTreeMap::new();
        for worker in self.workers.values().filter(|w| !w.jobs.is_empty()) {
            let jobs = u32::try_from(worker.jobs.len()).unwrap_or(u32::MAX);
            let ours = busy.entry(&worker.agent).or_default();
            ours.insert(worker.id.clone(), jobs);
        }
        let books = self.books.iter_mut();
        books
            .map(|(agent, book)| {
                book.purge(now);
                let workers = busy.remove(agent).unwrap_or_default();
                (agent.clone(), book.presence(workers))
            })
            .collect()
    }

    /// Jobs, oldest first; at most `limit`.
    pub fn list(&self, agent: Option<&AgentName>, limit: usize) -> Vec<CallInfo> {
        let ours = |job: &&Job| agent.is_none_or(|agent| *agent == job.agent);
        let mut jobs: Vec<&Job> = self.jobs.values().filter(ours).collect();
        jobs.sort_by_key(|job| (job.offered, job.id.clone()));
        let info = |job: &Job| {
            let decided = job.decided?;
            let nobody = || "none".parse().expect("a good id");
            Some(CallInfo {
                call: job.id.clone(),
                agent: job.agent.clone(),
                release: decided.release,
                worker: job.worker.clone().unwrap_or_else(nobody),
                epoch: decided.epoch,
                since: job.offered,
                state: job.state().to_owned(),
                reason: decided.reason.word().to_owned(),
                bytes_in: 0,
                bytes_out: 0,
            })
        };
        jobs.into_iter().filter_map(info).take(limit).collect()
    }

    /// Connected workers, by id; at most `limit`.
    pub fn connected(&self, agent: Option<&AgentName>, limit: usize) -> Vec<ConnectedWorker> {
        let ours = |worker: &&Worker| agent.is_none_or(|agent| *agent == worker.agent);
        let mut workers: Vec<&Worker> = self.workers.values().filter(ours).collect();
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        let workers = workers.into_iter().take(limit);
        workers.map(|worker| worker.shown(self.now)).collect()
    }

    /// A connected worker, as people see it.
    pub fn connected_as(&self, agent: &AgentName, id: &WorkerId) -> Option<ConnectedWorker> {
        let is_it = |worker: &&Worker| worker.id == *id && worker.agent == *agent;
        let worker = self.workers.values().find(is_it)?;
        Some(worker.shown(self.now))
    }

    /// What must be written down anew when the file of jobs is: those that run.
    pub fn records(&self) -> impl Iterator<Item = JobRecord> {
        self.jobs.values().filter_map(Job::record)
    }

    /// The installed table of an agent.
    pub fn table(&self, agent: &AgentName) -> Option<&RoutingTable> {
        self.books.get(agent).map(|book| &book.table)
    }

    pub(super) fn hold(&self, agent: &AgentName) -> Millis {
        self.settings(agent).hold
    }

    pub(super) fn settings(&self, agent: &AgentName) -> Settings {
        self.settings.get(agent).copied().unwrap_or_default()
    }

    pub(super) fn wake(&mut self, at: Timestamp, alarm: Alarm) {
        self.alarms.insert((at, alarm));
    }

    pub(super) fn note(&mut self, note: Note) {
        self.out.push(Action::Note(note));
    }

    fn ring(&mut self) {
        while let Some((at, _)) = self.alarms.first()
            && *at <= self.now
        {
            let Some((_, alarm)) = self.alarms.pop_first() else {
                return;
            };
            match alarm {
                Alarm::Job(job) => self.look_at_job(&job),
                Alarm::Line(line) => self.look_at_line(line),
                Alarm::Heard(line) => self.room_on(line),
                Alarm::Room(job) => self.look_at_room(&job),
            }
        }
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        let lines: Vec<LineKey> = self.lines.keys().copied().collect();
        for line in lines {
            self.tell(line);
            self.room_on(line);
        }
    }

    /// How many jobs there are, offers included.
    pub fn job_count(&self) -> usize {
        self.jobs.len()
    }

    fn register(&mut self, hello: &Hello) {
        let line = self.line_of(hello);
        let worker = Worker::new(hello, line, self.now);
        if let Some(ours) = self.lines.get_mut(&line) {
            ours.workers += 1;
            ours.idle_since = None;
        }
        let crew = self.crews.entry((line, hello.release)).or_default();
        crew.insert(hello.worker);
        self.workers.insert(hello.worker, worker);
        self.wake(self.now + UNHEARD_MAX, Alarm::Heard(line));
        self.tell_soon(line);
    }

    fn line_of(&mut self, hello: &Hello) -> LineKey {
        let known = self.lines.iter().find(|(_, line)| line.id == hello.line);
        if let Some((key, _)) = known {
            return *key;
        }
        self.lines_made += 1;
        let key = LineKey(self.lines_made);
        self.lines.insert(key, Line::new(hello.line.clone()));
        self.out.push(Action::Open {
            line: key,
            id: hello.line.clone(),
        });
        key
    }

    fn hear(&mut self, key: WorkerKey, status: super::WorkerStatus) {
        let Some(worker) = self.workers.get_mut(&key) else {
            return;
        };
        let drains = worker.hear(status);
        let has_room = worker.is_available(self.now);
        let line = worker.line;
        self.tell_soon(line);
        if drains {
            self.drain(key, DrainedBy::Worker);
        } else if has_room {
            self.room_on(line);
        }
    }

    fn install(&mut self, table: RoutingTable) {
        let agent = table.agent.clone();
        match self.books.get_mut(&agent) {
            Some(book) if book.table.epoch >= table.epoch => {
                // As it is named again it is not withdrawn.
                book.withdrawn = false;
                return;
            }
            Some(book) => book.install(table),
            None => {
                self.books.insert(agent.clone(), Book::new(table));
                self.count_restored(&agent);
            }
        }
        self.reconsider(&agent);
        let ours = |(_, line): &(&LineKey, &Line)| line.id.agent == agent;
        let lines: Vec<LineKey> = self
            .lines
            .iter()
            .filter(ours)
            .map(|(key, _)| *key)
            .collect();
        for line in lines {
            self.tell_soon(line);
            self.room_on(line);
        }
    }

    /// Jobs of the process before this one are counted once there is a book for them.
    fn count_restored(&mut self, agent: &AgentName) {
        let Some(book) = self.books.get_mut(agent) else {
            return;
        };
        for job in self.jobs.values().filter(|job| job.agent == *agent) {
            if let (Some(decided), Some(worker)) = (job.decided, &job.worker) {
                book.counts(decided.release).live += 1;
                if !job.is_left {
                    book.enter(&job.room, decided.release, worker);
                }
            }
        }
    }

    fn keep_agents(&mut self, names: &[AgentName]) {
        for (agent, book) in &mut self.books {
            book.withdrawn = !names.contains(agent);
        }
        let now = self.now;
        self.books.retain(|_, book| {
            book.purge(now);
            !book.withdrawn || !book.is_empty()
        });
    }

    fn line_up(&mut self, key: LineKey) {
        let Some(line) = self.lines.get_mut(&key) else {
            return;
        };
        line.is_up = true;
        line.told = None;
        let ours = |job: &&Job| job.line == Some(key) && job.offer().is_none();
        let jobs: Vec<CallId> = self
            .jobs
            .values()
            .filter(ours)
            .map(|j| j.id.clone())
            .collect();
        if !jobs.is_empty() {
            self.out.push(Action::Migrate { line: key, jobs });
        }
        self.tell(key);
    }

    /// The server hears of a line soon: with what else changes until then.
    pub(super) fn tell_soon(&mut self, key: LineKey) {
        let at = self.now + STATUS_SETTLES;
        if let Some(line) = self.lines.get_mut(&key)
            && line.tell_at.is_none_or(|told| told > at)
        {
            line.tell_at = Some(at);
            self.wake(at, Alarm::Line(key));
        }
    }

    fn look_at_line(&mut self, key: LineKey) {
        let Some(line) = self.lines.get(&key) else {
            return;
        };
        if line.tell_at.is_none_or(|at| at > self.now) {
            return;
        }
        if line.workers == 0 {
            let since = line.idle_since.unwrap_or(self.now);
            if self.now.since(since) >= LINE_IDLE && line.held.is_empty() && line.jobs == 0 {
                self.lines.remove(&key);
                self.out.push(Action::Close { line: key });
                return;
            }
        }
        self.tell(key);
    }

    fn tell(&mut self, key: LineKey) {
        let Some(line) = self.lines.get(&key) else {
            return;
        };
        let mut summary = Summary::default();
        if self.is_stopping {
            // Nobody is there for a job any more.
        } else if let Some(book) = self
            .books
            .get(&line.id.agent)
            .filter(|book| !book.withdrawn)
        {
            let shares = book.table.split.shares().into_iter();
            for (release, _) in shares.filter(|(_, share)| share.0 > 0) {
                let crew = self.crew(key, release).into_iter().flatten();
                for worker in crew.filter_map(|key| self.workers.get(key)) {
                    summary.add(worker, self.now);
                }
            }
        }
        let holds = self.hold(&line.id.agent).0 > 0;
        let status = summary.status(holds, line.jobs);
        let (now, is_up) = (self.now, line.is_up);
        let is_news = is_up && line.is_news(status, now);
        let again = now + STATUS_EVERY;
        if let Some(line) = self.lines.get_mut(&key) {
            line.tell_at = Some(again);
            if is_news {
                line.told = Some((status, now));
            }
        }
        if is_news {
            self.out.push(Action::Status { line: key, status });
        }
        self.wake(again, Alarm::Line(key));
    }

    /// Whether the table says that calls of a release may be ended.
    pub(super) fn may_end(&self, agent: &AgentName, release: ReleaseId, epoch: Epoch) -> bool {
        let book = self.books.get(agent);
        book.is_some_and(|book| book.table.may_end(release, epoch))
    }
}
