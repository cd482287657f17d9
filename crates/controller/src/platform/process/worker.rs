//! The life of one worker: started, ready, ended, started again.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use segue_core::names::{AgentName, ReleaseId, WorkerId};
use segue_core::release::Release;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::port::{Port, Ports};
use super::ready::ready;
use super::{Exit, Handle, Record, Spawn};
use crate::copies::Copies;
use crate::platform::{WorkerState, WorkerStatus, health_path};
use crate::state::StateDir;

/// Time to end by itself once it is told to. It holds no call then.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// First wait before a worker is started again; it doubles each time.
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// Longest such wait: an operator who mends something does not want to wait longer.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A worker that ran this long was healthy: its next end is the first one again.
const HEALTHY: Duration = Duration::from_mins(1);

/// Said of a worker that runs copies of the files its release was made of.
const COPIED: &str = "its files changed since it was deployed; running the copy kept at deploy";

/// What is wanted of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// It runs; when it ends it is started again.
    Run,
    /// It runs on, if it runs.
    Keep,
    /// It does not run.
    Stop,
}

/// Waits until it is. When nobody is left to say what is wanted, nothing changes any more: a
/// controller that ends must not take its workers along.
async fn until(mode: &mut watch::Receiver<Mode>, wanted: impl Fn(Mode) -> bool) {
    if mode.wait_for(|mode| wanted(*mode)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What its record says beside its process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) agent: AgentName,
    pub(super) release: ReleaseId,
    pub(super) worker: WorkerId,
    pub(super) index: u32,
    pub(super) port: u16,
    pub(super) restarts: u32,
    /// Whether it runs copies of its files.
    #[serde(default)]
    pub(super) copied: bool,
}

impl Note {
    /// What a record says, if it is of a worker.
    pub(super) fn of(record: &Record) -> Option<Self> {
        serde_json::from_value(record.note.clone()).ok()
    }
}

/// One that was started, or found running.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) process: Handle,
    pub(super) port: Port,
    pub(super) copied: bool,
}

/// One worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) agent: AgentName,
    pub(super) release: Release,
    pub(super) index: u32,
    pub(super) state: StateDir,
    pub(super) copies: Copies,
    /// The port on which it was last ready. Where it did not get ready, it does not try again.
    pub(super) former: Option<u16>,
    pub(super) status: Arc<Mutex<WorkerStatus>>,
    pub(super) mode: watch::Receiver<Mode>,
    pub(super) ports: Ports,
    /// Rung when its status changed.
    pub(super) bell: Arc<Notify>,
}

impl Worker {
    /// What is said of one that was not started yet.
    pub(super) fn unborn(worker: WorkerId, release: &Release, log: PathBuf) -> WorkerStatus {
        WorkerStatus {
            worker,
            release: release.id,
            state: WorkerState::Starting,
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            capacity: release.capacity,
            health_path: health_path(release),
            pid: None,
            adopted: false,
            restarts: 0,
            log,
            why: String::new(),
            ended: None,
        }
    }

    fn set(&self, change: impl FnOnce(&mut WorkerStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.notify_one();
    }

    fn get(&self) -> WorkerStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Lives until it is told to stop, or has ended and is not to be started again.
    pub(super) async fn live(mut self, mut adopted: Option<Started>) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let started = match adopted.take() {
                Some(adopted) => Ok(adopted),
                None => self.start().await,
            };
            let began = Instant::now();
            let why = match started {
                Ok(started) => self.attend(started).await,
                Err(error) => format!("it could not be started: {error}"),
            };
            tracing::info!(agent = %self.agent, worker = %self.get().worker, why, "worker ended");
            if began.elapsed() >= HEALTHY {
                backoff = BACKOFF_MIN;
            }
            let next = match self.mode() {
                Mode::Run => WorkerState::BackingOff,
                Mode::Keep | Mode::Stop => WorkerState::Gone,
            };
            self.set(|status| {
                status.state = next;
                status.pid = None;
                status.adopted = false;
                status.ended = Some(why.clone());
                status.why = why;
            });
            if !self.still_wanted_after(backoff).await {
                break;
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
            self.set(|status| {
                status.state = WorkerState::Starting;
                status.restarts += 1;
            });
        }
        self.set(|status| status.state = WorkerState::Gone);
    }

    async fn still_wanted_after(&mut self, wait: Duration) -> bool {
        tokio::select! {
            () = sleep(wait) => true,
            () = until(&mut self.mode, |mode| mode != Mode::Run) => false,
        }
    }

    async fn start(&self) -> io::Result<Started> {
        let status = self.get();
        let moved = self.stand_ins().await?;
        let copied = !moved.is_empty();
        if copied {
            tracing::warn!(agent = %self.agent, worker = %status.worker, "{COPIED}");
        }
        let port = self.ports.pick(self.release.id, self.former)?;
        let note = Note {
            agent: self.agent.clone(),
            release: self.release.id,
            worker: status.worker.clone(),
            index: self.index,
            port: port.number,
            restarts: status.restarts,
            copied,
        };
        let process = self.spawn(&note, status.log, &moved);
        let name = self.release.content.command.first();
        let process = process.start_as(name.map_or("", String::as_str))?;
        Ok(Started {
            process,
            port,
            copied,
        })
    }

    /// Copies of files that are not any more what was deployed. Looked at before every start: a
    /// release never runs other bytes than those it is named after.
    async fn stand_ins(&self) -> io::Result<BTreeMap<String, PathBuf>> {
        let (copies, content) = (self.copies.clone(), self.release.content.clone());
        let looked = tokio::task::spawn_blocking(move || copies.stand_ins(&content)).await;
        looked.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    fn spawn(&self, note: &Note, log: PathBuf, moved: &BTreeMap<String, PathBuf>) -> Spawn {
        let content = &self.release.content;
        let (port, worker) = (note.port.to_string(), note.worker.as_str());
        let fill = |text: &String| text.replace("{port}", &port).replace("{worker}", worker);
        let word = |text: &String| match moved.get(text) {
            Some(copy) => copy.to_string_lossy().into_owned(),
            None => fill(text),
        };
        let mut command = content.command.iter().map(word);
        let mut env = BTreeMap::from([("PORT".to_owned(), port.clone())]);
        env.extend(
            content
                .env
                .iter()
                .map(|(name, value)| (name.clone(), fill(value))),
        );
        for (name, value) in [
            ("SEGUE_AGENT", self.agent.as_str()),
            ("SEGUE_RELEASE", self.release.label.as_str()),
            ("SEGUE_WORKER_ID", worker),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
        Spawn {
            program: command.next().unwrap_or_default(),
            args: command.collect(),
            env,
            dir: Some(PathBuf::from(&content.directory)),
            log,
            record_path: self.state.worker_record(&self.agent, &note.worker),
            note: serde_json::to_value(note).expect("a note is plain data"),
        }
    }

    /// Stays with a process until it has ended; answers why it did.
    async fn attend(&mut self, started: Started) -> String {
        let Started {
            process,
            mut port,
            copied,
        } = started;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number));
        self.set(|status| {
            status.state = WorkerState::Starting;
            status.addr = addr;
            status.pid = Some(process.pid());
            if copied { COPIED } else { "" }.clone_into(&mut status.why);
        });
        let health_path = health_path(&self.release);
        let mut mode = self.mode.clone();
        let exit = tokio::select! {
            exit = process.exited() => exit,
            () = self.announce_when_ready(addr, health_path.as_deref()) => Exit::Unknown,
            () = until(&mut mode, |mode| mode == Mode::Stop) => process.stop(STOP_GRACE).await,
        };
        port.told |= self.get().state == WorkerState::Ready;
        self.former = port.told.then_some(port.number);
        if let Err(error) = process.forget() {
            tracing::warn!(%error, "the record of a worker could not be removed");
        }
        exit.to_string()
    }

    /// Never returns: a worker that was ready is watched for its end only. Whether it may be
    /// given calls is for the gateways to see.
    async fn announce_when_ready(&self, addr: SocketAddr, health_path: Option<&str>) {
        ready(addr, health_path).await;
        self.set(|status| status.state = WorkerState::Ready);
        std::future::pending::<()>().await;
    }
}
