//! Workers as processes of this machine. They outlive the controller: each has its own process
//! group, writes to a file, and is found again by its record.

mod detached;
mod port;
mod proc;
mod ready;
mod worker;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segue_core::names::{AgentName, ReleaseId, WorkerId};
use segue_core::release::Release;
use segue_core::rollout::Want;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::port::Ports;
use self::worker::{Mode, Note, Started, Worker};
use super::{Platform, WorkerState, WorkerStatus};
use crate::copies::Copies;
use crate::state::{StateDir, short_label};

pub use detached::{Exit, Handle, MARKER, Record, Spawn};
pub use rustix::process::Signal;

/// Workers of one release; each is a process with a port of its own.
pub const WORKERS_PER_RELEASE_MAX: u32 = 1_000;

/// Digits of the digest in the name of a worker, so that two releases of one label differ.
const DIGITS: usize = 6;

/// Runs workers as processes of this machine.
#[derive(Debug)]
pub struct ProcessPlatform {
    state: StateDir,
    copies: Copies,
    ports: Ports,
    bell: Arc<Notify>,
    inner: Mutex<Inner>,
}

/// Agent, release and number.
type Key = (AgentName, ReleaseId, u32);

#[derive(Debug, Default)]
struct Inner {
    cells: BTreeMap<Key, Cell>,
    /// Ports of those that had ended before this controller began.
    former: BTreeMap<Key, u16>,
    /// Ended with the platform; the processes are not.
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Cell {
    status: Arc<Mutex<WorkerStatus>>,
    mode: watch::Sender<Mode>,
}

impl Cell {
    fn status(&self) -> WorkerStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many calls it may hold is no part of what it was started with: it follows at once.
    /// Answers whether it was another number.
    fn set_capacity(&self, capacity: u32) -> bool {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut status.capacity, capacity) != capacity
    }
}

impl ProcessPlatform {
    /// A platform that runs nothing yet. It rings `bell` when something about a worker changed.
    pub fn new(state: StateDir, copies: Copies, bell: Arc<Notify>) -> Self {
        Self {
            state,
            copies,
            ports: Ports::default(),
            bell,
            inner: Mutex::default(),
        }
    }

    /// Finds the workers again that an earlier controller started, before anything is reconciled.
    /// One whose release `known` does not know is left alone: it may hold calls.
    ///
    /// # Errors
    ///
    /// When it cannot be told whether a worker still runs: a second one might be started.
    pub fn adopt(
        &self,
        known: &dyn Fn(&AgentName, ReleaseId) -> Option<Release>,
    ) -> io::Result<()> {
        for path in records(&self.state.workers())? {
            let dead = Record::read(&path)
                .ok()
                .and_then(|record| Note::of(&record));
            let process = match Handle::adopt(&path) {
                Ok(Some(process)) => process,
                Ok(None) => {
                    if let Some(note) = dead {
                        self.remember(note);
                    }
                    fs::remove_file(&path)?;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(path = %path.display(), %error, "a worker record is damaged; its worker, if there is one, is left alone");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let known = Note::of(process.record()).and_then(|note| {
                let release = known(&note.agent, note.release)?;
                Some((note, release))
            });
            let Some((note, release)) = known else {
                let (pid, path) = (process.pid(), path.display());
                tracing::warn!(pid, %path, "a worker of an unknown release runs; it is left alone");
                continue;
            };
            tracing::info!(agent = %note.agent, worker = %note.worker, pid = process.pid(), "worker adopted");
            let mut inner = self.lock();
            self.add(&mut inner, &release, note, Some(process));
        }
        Ok(())
    }

    /// A worker that ended while nobody looked comes back where it was, and nobody else does.
    fn remember(&self, note: Note) {
        self.ports.keep_apart(note.port, note.release);
        let key = (note.agent, note.release, note.index);
        self.lock().former.insert(key, note.port);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, inner: &mut Inner, release: &Release, note: Note, process: Option<Handle>) {
        let label = (&release.label, release.id);
        let log = self.state.worker_log(&note.agent, label, &note.worker);
        let mut status = Worker::unborn(note.worker, release, log);
        status.restarts = note.restarts;
        // An adopted one is left as it is until the driver has said what it wants.
        let first = if process.is_some() {
            Mode::Keep
        } else {
            Mode::Run
        };
        let adopted = process.map(|process| {
            status.addr.set_port(note.port);
            status.pid = Some(process.pid());
            status.log.clone_from(&process.record().log);
            status.adopted = true;
            let port = self.ports.adopt(note.port, release.id);
            Started {
                process,
                port,
                copied: note.copied,
            }
        });
        let (mode, wanted) = watch::channel(first);
        let status = Arc::new(Mutex::new(status));
        let worker = Worker {
            agent: note.agent.clone(),
            release: release.clone(),
            index: note.index,
            state: self.state.clone(),
            copies: self.copies.clone(),
            former: Some(note.port).filter(|port| *port != 0),
            status: Arc::clone(&status),
            mode: wanted,
            ports: self.ports.clone(),
            bell: Arc::clone(&self.bell),
        };
        let key = (note.agent, release.id, note.index);
        inner.cells.insert(key, Cell { status, mode });
        inner.tasks.spawn(worker.live(adopted));
    }

    /// Starts the workers that a release should have and has not.
    fn fill(&self, inner: &mut Inner, agent: &AgentName, release: &Release, count: u32) {
        for index in 1..=count.min(WORKERS_PER_RELEASE_MAX) {
            let key = (agent.clone(), release.id, index);
            if inner
                .cells
                .get(&key)
                .is_some_and(|cell| !cell.mode.is_closed())
            {
                continue;
            }
            let before = inner.cells.get(&key).map(Cell::status);
            let (port, restarts) = match before {
                Some(status) => (status.addr.port(), status.restarts),
                None => (inner.former.remove(&key).unwrap_or(0), 0),
            };
            let digits = &release.id.short()[..DIGITS];
            let name = format!("{}-{digits}-{index}", short_label(&release.label));
            let worker: WorkerId = name.parse().expect("a label with a suffix is a name");
            let note = Note {
                agent: agent.clone(),
                release: release.id,
                worker,
                index,
                port,
                copied: false,
                restarts,
            };
            self.add(inner, release, note, None);
        }
    }
}

impl Platform for ProcessPlatform {
    fn reconcile(&self, agent: &AgentName, release: &Release, want: Want) {
        let mut inner = self.lock();
        while inner.tasks.try_join_next().is_some() {}
        let mode = |index| match want {
            // Deployed again with fewer workers: the surplus may hold calls, so it runs on.
            Want::Run(count) if index > count => Mode::Keep,
            Want::Run(_) => Mode::Run,
            Want::Keep => Mode::Keep,
            Want::Stop => Mode::Stop,
        };
        let from = (agent.clone(), release.id, 0);
        let to = (agent.clone(), release.id, u32::MAX);
        for ((_, _, index), cell) in inner.cells.range(from..=to) {
            let mode = mode(*index);
            if cell.set_capacity(release.capacity) {
                self.bell.notify_one();
            }
            cell.mode
                .send_if_modified(|is| std::mem::replace(is, mode) != mode);
        }
        if let Want::Run(count) = want {
            self.fill(&mut inner, agent, release, count);
        }
    }

    fn workers(&self, agent: &AgentName) -> Vec<WorkerStatus> {
        let mut inner = self.lock();
        // One that was stopped is not spoken of any more.
        inner.cells.retain(|_, cell| {
            *cell.mode.borrow() != Mode::Stop || cell.status().state != WorkerState::Gone
        });
        let ours = inner.cells.iter().filter(|((of, _, _), _)| of == agent);
        ours.map(|(_, cell)| cell.status()).collect()
    }
}

fn records(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for agent in fs::read_dir(directory)? {
        let agent = agent?.path();
        if !agent.is_dir() {
            continue;
        }
        for entry in fs::read_dir(agent)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                found.push(path);
            }
        }
    }
    Ok(found)
}
