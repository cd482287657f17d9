//! Where everything meets: what happens is decided here, in one place, and passed on.
//!
//! One lock. Under it a step of the decisions is taken and its actions are queued, which never
//! waits: a queue that is full belongs to a worker that does not read, and that one is let go. Only
//! lines of the file of jobs are written under it, because they must come before what they tell.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_core::dispatch::{
    Action, Dispatcher, Event, LineId, LineKey, LineStatus, Note, WorkerKey,
};
use segue_core::link::{CallInfo, CallRecord};
use segue_core::names::{AgentName, CallId, Label, ReleaseId, WorkerId};
use segue_core::plane::{ConnectedWorker, DrainedBy, Steer, Told};
use segue_core::presence::AgentPresence;
use segue_core::time::Timestamp;
use segue_gateway::clock;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;

use crate::admit::{Admit, NotBelieved, Pass};
use crate::config::Config;
use crate::events::Events;
use crate::job_file::JobFile;
use crate::line;
use crate::proto::{
    AvailabilityResponse, JobTermination, MigrateJobRequest, ServerMessage, UpdateWorkerStatus,
    WorkerMessage, WorkerStatus,
};
use crate::server_api::ServerApi;

/// Frames that wait for one worker: far more than one that reads ever has.
pub(crate) const WORKER_FRAMES_MAX: usize = 256;

/// Frames that wait for the server on one line: some seconds of many jobs.
const LINE_FRAMES_MAX: usize = 16_384;

/// Records that wait for the controller, as the gateway has it.
const RECORDS_MAX: usize = 4_096;

/// How often members are looked at again: a manifest may have changed.
const STANDING_EVERY: Duration = Duration::from_secs(2);

/// Everything of one dispatcher.
pub(crate) struct Hub {
    pub(crate) config: Config,
    pub(crate) admit: Arc<dyn Admit>,
    /// For the audit log. Takes no other lock.
    pub(crate) events: Arc<Events>,
    state: Mutex<State>,
    earlier: Notify,
    keys: AtomicU64,
    pub(crate) stop: watch::Sender<bool>,
    /// The server's API, for what concerns rooms.
    api: ServerApi,
}

struct State {
    dispatcher: Dispatcher,
    /// When the timer rings.
    rings_at: Option<Timestamp>,
    workers: HashMap<WorkerKey, Handle>,
    lines: HashMap<LineKey, mpsc::Sender<Vec<u8>>>,
    /// What the server last said of itself.
    server_info: Vec<u8>,
    file: JobFile,
    log: File,
    ended: Vec<CallRecord>,
    left_out: u64,
}

/// Why a label means no release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRelease {
    /// The controller has sent none yet.
    NoTable,
    NotInTable,
}

struct Handle {
    queue: mpsc::Sender<Vec<u8>>,
    pass: Arc<Pass>,
    /// Whether its membership was last seen to let it take jobs.
    stands: bool,
}

impl Hub {
    pub(crate) fn new(
        config: Config,
        admit: Arc<dyn Admit>,
        dispatcher: Dispatcher,
        file: JobFile,
        log: File,
    ) -> Arc<Self> {
        Arc::new(Self {
            config,
            admit,
            events: Arc::default(),
            state: Mutex::new(State {
                dispatcher,
                rings_at: None,
                workers: HashMap::new(),
                lines: HashMap::new(),
                server_info: Vec::new(),
                file,
                log,
                ended: Vec::new(),
                left_out: 0,
            }),
            earlier: Notify::new(),
            keys: AtomicU64::new(1),
            stop: watch::Sender::new(false),
            api: ServerApi::default(),
        })
    }

    /// The state is whole after each step, so a panic elsewhere is no reason to lose it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn key(&self) -> WorkerKey {
        WorkerKey(self.keys.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a step and does what it says.
    pub(crate) fn step(self: &Arc<Self>, event: Event) {
        let mut state = self.lock();
        self.step_in(&mut state, event);
    }

    fn step_in(self: &Arc<Self>, state: &mut State, event: Event) {
        let actions = state.dispatcher.step(clock::now(), event);
        for action in actions {
            self.act(state, action);
        }
        if state.file.is_due() {
            state.file.compact(state.dispatcher.entries());
        }
        let due = state.dispatcher.next_deadline();
        if let Some(due) = due
            && state.rings_at.is_none_or(|rings| due < rings)
        {
            self.earlier.notify_one();
        }
    }

    /// A worker is in. Its first frame is queued before anything else can be. `None`: there is no room
    /// for one that registers so, see [`segue_core::dispatch::LINES_MAX`]; asked here, so that no two
    /// take the same room.
    pub(crate) fn enter(
        self: &Arc<Self>,
        hello: segue_core::dispatch::Hello,
        pass: Pass,
        first: impl FnOnce(Vec<u8>) -> ServerMessage,
    ) -> Option<mpsc::Receiver<Vec<u8>>> {
        let (queue, frames) = mpsc::channel(WORKER_FRAMES_MAX);
        let mut state = self.lock();
        if !state.dispatcher.has_room_for(&hello.line) {
            return None;
        }
        let first = first(state.server_info.clone()).encode();
        // There is room in an empty queue.
        let _ = queue.try_send(first);
        let handle = Handle {
            queue,
            pass: Arc::new(pass),
            stands: !hello.draining,
        };
        state.workers.insert(hello.worker, handle);
        self.step_in(&mut state, Event::Registered(Box::new(hello)));
        Some(frames)
    }

    /// Whether an operator ended its connection.
    pub(crate) fn is_kicked(&self, worker: WorkerKey) -> bool {
        self.lock().dispatcher.is_kicked(worker)
    }

    pub(crate) fn leave(self: &Arc<Self>, worker: WorkerKey, code: Option<u16>) {
        let mut state = self.lock();
        state.workers.remove(&worker);
        self.step_in(&mut state, Event::Closed { worker, code });
    }

    /// The release that a worker's label means, by the table of its agent.
    pub(crate) fn find_release(
        &self,
        agent: &AgentName,
        label: &Label,
    ) -> Result<ReleaseId, NoRelease> {
        let state = self.lock();
        let table = state.dispatcher.table(agent).ok_or(NoRelease::NoTable)?;
        let found = table.find_release(label.as_str());
        found.ok_or(NoRelease::NotInTable)
    }

    pub(crate) fn set_server_info(&self, info: Vec<u8>) {
        self.lock().server_info = info;
    }

    /// The report, taken under the lock that decides.
    pub(crate) fn presence(&self) -> std::collections::BTreeMap<AgentName, AgentPresence> {
        self.lock().dispatcher.presence(clock::now())
    }

    pub(crate) fn list(&self, agent: Option<&AgentName>, limit: usize) -> Vec<CallInfo> {
        self.lock().dispatcher.list(agent, limit)
    }

    /// Whether somebody still wants to know who is in the room of a job.
    pub(crate) fn awaits_look(&self, job: &CallId) -> bool {
        self.lock().dispatcher.awaits_look(job)
    }

    pub(crate) fn job_count(&self) -> usize {
        self.lock().dispatcher.job_count()
    }

    /// Connected workers, by id.
    pub(crate) fn list_workers(
        &self,
        agent: Option<&AgentName>,
        limit: usize,
    ) -> Vec<ConnectedWorker> {
        self.lock().dispatcher.connected(agent, limit)
    }

    /// Does what an operator wants done with a worker, and shows it as it is then: one that is kicked
    /// as it was when its connection was closed. `None`: it is not connected.
    pub(crate) fn steer(
        self: &Arc<Self>,
        agent: &AgentName,
        worker: &WorkerId,
        what: Steer,
    ) -> Option<ConnectedWorker> {
        let mut state = self.lock();
        let before = state.dispatcher.connected_as(agent, worker)?;
        let event = Event::Steer {
            agent: agent.clone(),
            worker: worker.clone(),
            what,
        };
        self.step_in(&mut state, event);
        let kicked = || ConnectedWorker {
            available: false,
            drain: before.drain.or(Some(DrainedBy::Operator)),
            ..before
        };
        let now = state.dispatcher.connected_as(agent, worker);
        Some(now.unwrap_or_else(kicked))
    }

    pub(crate) fn take_ended(&self) -> (Vec<CallRecord>, u64) {
        let mut state = self.lock();
        (std::mem::take(&mut state.ended), state.left_out)
    }

    /// Puts records back that could not be sent, ahead of those that came since.
    pub(crate) fn put_back_ended(&self, mut records: Vec<CallRecord>) {
        let mut state = self.lock();
        records.append(&mut state.ended);
        let beyond = records.len().saturating_sub(RECORDS_MAX);
        records.truncate(RECORDS_MAX);
        state.left_out += beyond as u64;
        state.ended = records;
    }

    /// Rings when something is due; never ends.
    pub(crate) async fn ring(self: Arc<Self>) {
        loop {
            let due = {
                let mut state = self.lock();
                state.rings_at = state.dispatcher.next_deadline();
                state.rings_at
            };
            let wait = async {
                match due {
                    Some(due) => sleep(Duration::from_millis(due.since(clock::now()).0)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => self.step(Event::Tick),
                () = self.earlier.notified() => {}
            }
        }
    }

    /// Looks whether members still are what they were; never ends.
    pub(crate) async fn watch_standing(self: Arc<Self>) {
        loop {
            sleep(STANDING_EVERY).await;
            let now = clock::now();
            let known: Vec<(WorkerKey, Arc<Pass>)> = {
                let state = self.lock();
                let workers = state.workers.iter();
                workers
                    .map(|(key, handle)| (*key, Arc::clone(&handle.pass)))
                    .collect()
            };
            let admit = Arc::clone(&self.admit);
            // It may read files, and write what it has seen.
            let looked = tokio::task::spawn_blocking(move || {
                let refused = admit.refresh(now);
                let stands = |(key, pass): (_, Arc<Pass>)| (key, admit.takes_jobs(&pass, now));
                (refused, known.into_iter().map(stands).collect::<Vec<_>>())
            });
            // What panicked there is looked at again.
            let (refused, looked) = looked.await.unwrap_or_default();
            for (worker, stands) in looked {
                self.stands(worker, stands);
            }
            for refused in refused {
                self.tell_all(now, &refused);
            }
        }
    }

    /// A document is about every agent.
    fn tell_all(&self, now: Timestamp, refused: &NotBelieved) {
        for agent in self.config.agents.keys() {
            let told = Told::MembershipRefused {
                document: refused.document.to_owned(),
                reason: refused.reason.to_owned(),
                message: refused.message.clone(),
            };
            self.events.tell(now, agent, told);
        }
    }

    /// A worker's membership lets it take jobs, or no longer does.
    fn stands(self: &Arc<Self>, worker: WorkerKey, stands: bool) {
        let mut state = self.lock();
        let handle = state.workers.get_mut(&worker);
        let was = handle.map(|handle| std::mem::replace(&mut handle.stands, stands));
        let by = DrainedBy::Membership;
        match (was, stands) {
            (Some(true), false) => self.step_in(&mut state, Event::Drain { worker, by }),
            (Some(false), true) => self.step_in(&mut state, Event::Undrain { worker, by }),
            _ => {}
        }
    }

    fn act(self: &Arc<Self>, state: &mut State, action: Action) {
        match action {
            Action::Write(entry) => state.file.write(&entry),
            Action::ToWorker { worker, body } => state.send_to_worker(worker, body.to_vec()),
            Action::Terminate { worker, job } => {
                let end = JobTermination {
                    job_id: job.to_string(),
                    ..Default::default()
                };
                state.send_to_worker(worker, ServerMessage::from(end).encode());
            }
            Action::Kick { worker } => {
                // Its connection ends when its queue is dropped.
                state.workers.remove(&worker);
            }
            Action::ToServer { line, body } => state.send_to_server(line, body.to_vec()),
            Action::Refuse { line, job } => {
                let refusal = AvailabilityResponse {
                    job_id: job.to_string(),
                    ..Default::default()
                };
                state.send_to_server(line, WorkerMessage::from(refusal).encode());
            }
            Action::Open { line, id } => self.open(state, line, id),
            Action::Close { line } => {
                state.lines.remove(&line);
            }
            Action::Status { line, status } => {
                state.send_to_server(line, WorkerMessage::from(told(status)).encode());
            }
            Action::Migrate { line, jobs } => {
                let has = MigrateJobRequest {
                    job_ids: jobs.iter().map(ToString::to_string).collect(),
                    ..Default::default()
                };
                state.send_to_server(line, WorkerMessage::from(has).encode());
            }
            Action::LookAtRoom(ask) => self.api.look(self, *ask),
            Action::Redispatch(ask) => self.api.redispatch(self, *ask),
            Action::Label { room, label } => self.api.label(self, room, label),
            Action::Ended(record) => state.record(*record),
            Action::Note(note) => {
                say(&note);
                if let Some((agent, told)) = for_audit(note) {
                    self.events.tell(clock::now(), &agent, told);
                }
            }
        }
    }

    fn open(self: &Arc<Self>, state: &mut State, key: LineKey, id: LineId) {
        let (queue, frames) = mpsc::channel(LINE_FRAMES_MAX);
        state.lines.insert(key, queue);
        tokio::spawn(line::run(Arc::clone(self), key, id, frames));
    }
}

impl State {
    /// A worker that does not read is let go: its connection ends when its queue is dropped.
    fn send_to_worker(&mut self, worker: WorkerKey, frame: Vec<u8>) {
        let sent = self.workers.get(&worker).map(|to| to.queue.try_send(frame));
        if matches!(sent, Some(Err(_))) {
            tracing::warn!(
                connection = worker.0,
                "a worker does not read, and is let go"
            );
            self.workers.remove(&worker);
        }
    }

    fn send_to_server(&mut self, line: LineKey, frame: Vec<u8>) {
        let sent = self.lines.get(&line).map(|queue| queue.try_send(frame));
        if matches!(sent, Some(Err(_))) {
            tracing::warn!(
                line = line.0,
                "the server does not read; a message is left out"
            );
        }
    }

    fn record(&mut self, record: CallRecord) {
        if let Err(error) = write_line(&mut self.log, &record) {
            tracing::warn!(%error, "the log of jobs cannot be written");
        }
        if self.ended.len() < RECORDS_MAX {
            self.ended.push(record);
        } else {
            self.left_out += 1;
        }
    }
}

fn write_line(log: &mut File, record: &CallRecord) -> io::Result<()> {
    let mut line = serde_json::to_vec(record).map_err(io::Error::other)?;
    line.push(b'\n');
    log.write_all(&line)
}

#[expect(clippy::cast_precision_loss, reason = "it lies within 0 and 1000")]
fn told(status: LineStatus) -> UpdateWorkerStatus {
    let word = if status.available {
        WorkerStatus::Available
    } else {
        WorkerStatus::Full
    };
    UpdateWorkerStatus {
        status: Some(word),
        load: status.load as f32 / 1_000.0,
        job_count: status.jobs,
        ..Default::default()
    }
}

/// What of it belongs into the audit log.
fn for_audit(note: Note) -> Option<(AgentName, Told)> {
    Some(match note {
        Note::WorkerDrains {
            worker,
            agent,
            release,
            jobs,
            by,
        } => {
            let told = Told::WorkerDraining {
                worker,
                release,
                jobs,
                by,
            };
            (agent, told)
        }
        Note::JobRedispatched {
            job,
            agent,
            release,
        } => (agent, Told::JobRedispatched { job, release }),
        _ => return None,
    })
}

fn say(note: &Note) {
    match note {
        Note::WorkerDrains {
            worker,
            agent,
            release,
            jobs,
            by,
        } => tracing::info!(%worker, %agent, %release, jobs, ?by, "a worker drains"),
        Note::WorkerServes {
            worker,
            agent,
            release,
        } => tracing::info!(%worker, %agent, %release, "a worker takes jobs again"),
        Note::WorkerSilent { worker, job } => {
            tracing::warn!(%worker, %job, "a worker did not answer in time");
        }
        Note::JobRefused { job, after, why } => {
            tracing::warn!(%job, %after, why, "nobody takes a job");
        }
        Note::JobAway { job, worker } => {
            tracing::warn!(%job, %worker, "a job's worker is away; it is waited for");
        }
        Note::JobClaimed { job, worker } => tracing::info!(%job, %worker, "a job goes on"),
        Note::JobReplaced { job } => {
            tracing::warn!(%job, "a job's worker was lost before it began; another one is asked");
        }
        Note::JobRedispatched { job, agent, .. } => {
            tracing::warn!(%job, %agent, "a room whose agent died gets another one");
        }
        Note::RoomLeft { job, why } => {
            tracing::error!(%job, why, "a room whose agent died stays without one");
        }
        other => tracing::info!(note = ?other, "job"),
    }
}
