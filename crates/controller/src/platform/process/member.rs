//! The life of one process of a release, a worker or a component: started, ready, ended, started
//! again.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use segue_core::names::{AgentName, ComponentName, ReleaseId, WorkerId};
use segue_core::release::Release;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::left::{Left, Whose};
use super::port::{Port, Ports};
use super::ready::ready;
use super::remains::Remains;
use super::stack::{Role, Stack};
use super::{Exit, Handle, Record};
use crate::copies::Copies;
use crate::platform::{WorkerState, health_path};
use crate::state::StateDir;

/// Time to end by itself once it is told to. It holds no call then.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);

/// First wait before it is started again; it doubles each time.
const BACKOFF_MIN: Duration = Duration::from_millis(250);

/// Longest such wait: an operator who mends something does not want to wait longer.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// One that ran this long was healthy: its next end is the first one again.
const HEALTHY: Duration = Duration::from_mins(1);

/// Said of one that runs copies of the files its release was made of.
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

/// What the record of a process says beside the process. The two kinds have no field in common by
/// which a Segue that knows no components would take one for a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Note {
    /// Of a worker.
    Worker(WorkerNote),
    /// Of a component.
    Component(ComponentNote),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WorkerNote {
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

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ComponentNote {
    pub(super) agent: AgentName,
    pub(super) release: ReleaseId,
    pub(super) component: ComponentName,
    pub(super) port: u16,
    pub(super) restarts: u32,
    /// Whether it runs copies of its files.
    #[serde(default)]
    pub(super) copied: bool,
}

impl Note {
    /// What a record says, if it is of a process of a release.
    pub(super) fn of(record: &Record) -> Option<Self> {
        serde_json::from_value(record.note.clone()).ok()
    }

    pub(super) fn agent(&self) -> &AgentName {
        match self {
            Self::Worker(note) => &note.agent,
            Self::Component(note) => &note.agent,
        }
    }

    pub(super) fn release(&self) -> ReleaseId {
        match self {
            Self::Worker(note) => note.release,
            Self::Component(note) => note.release,
        }
    }

    pub(super) fn role(&self) -> Role {
        match self {
            Self::Worker(note) => Role::Worker(note.index),
            Self::Component(note) => Role::Component(note.component.clone()),
        }
    }

    pub(super) fn port(&self) -> u16 {
        match self {
            Self::Worker(note) => note.port,
            Self::Component(note) => note.port,
        }
    }

    pub(super) fn restarts(&self) -> u32 {
        match self {
            Self::Worker(note) => note.restarts,
            Self::Component(note) => note.restarts,
        }
    }

    pub(super) fn is_copied(&self) -> bool {
        match self {
            Self::Worker(note) => note.copied,
            Self::Component(note) => note.copied,
        }
    }
}

/// What is said of one.
#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) state: WorkerState,
    pub(super) addr: SocketAddr,
    /// How many calls it may hold; of no meaning to a component.
    pub(super) capacity: u32,
    pub(super) pid: Option<u32>,
    pub(super) adopted: bool,
    pub(super) restarts: u32,
    pub(super) log: PathBuf,
    pub(super) why: String,
    pub(super) ended: Option<String>,
}

impl Status {
    /// What is said of one that was not started yet.
    pub(super) fn unborn(port: u16, capacity: u32, log: PathBuf) -> Self {
        Self {
            state: WorkerState::Starting,
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            capacity,
            pid: None,
            adopted: false,
            restarts: 0,
            log,
            why: String::new(),
            ended: None,
        }
    }
}

/// One that was started, or found running.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) process: Handle,
    /// Where it listens.
    pub(super) number: u16,
    /// The same, if it is its own and not its release's.
    pub(super) port: Option<Port>,
    pub(super) copied: bool,
}

/// One process of a release.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) agent: AgentName,
    pub(super) release: Release,
    pub(super) role: Role,
    /// Its name among workers, or the component's.
    pub(super) name: String,
    pub(super) state: StateDir,
    pub(super) copies: Copies,
    pub(super) stack: Arc<Stack>,
    /// The port on which a worker was last ready. Where it did not get ready, it does not try
    /// again.
    pub(super) former: Option<u16>,
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) mode: watch::Receiver<Mode>,
    pub(super) ports: Ports,
    /// What processes left behind.
    pub(super) left: Arc<Left>,
    /// See [`super::ProcessPlatform::tell`].
    pub(super) told: super::Told,
    /// Rung when its status changed.
    pub(super) bell: Arc<Notify>,
}

impl Member {
    fn set(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
        self.bell.notify_one();
    }

    pub(super) fn get(&self) -> Status {
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
            if adopted.is_none() && !self.may_start().await {
                break;
            }
            self.stack.set_running(&self.role, true);
            let started = match adopted.take() {
                Some(adopted) => Ok(adopted),
                // Said before it was marked as running, or those it needs would have waited.
                None if self.mode() == Mode::Stop => break,
                None => self.start().await,
            };
            let began = Instant::now();
            let why = match started {
                Ok(started) => self.attend(started).await,
                Err(error) => format!("it could not be started: {error}"),
            };
            self.stack.set_running(&self.role, false);
            tracing::info!(agent = %self.agent, name = self.name, why, "process ended");
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
        self.stack.set_running(&self.role, false);
        self.set(|status| status.state = WorkerState::Gone);
    }

    async fn still_wanted_after(&mut self, wait: Duration) -> bool {
        tokio::select! {
            () = sleep(wait) => true,
            () = until(&mut self.mode, |mode| mode != Mode::Run) => false,
        }
    }

    /// Waits for what it depends on. Answers whether it is still wanted then.
    async fn may_start(&mut self) -> bool {
        let needs = self.stack.needs(&self.role);
        loop {
            let missing = self.stack.missing(&needs);
            if missing.is_empty() {
                return true;
            }
            let names: Vec<&str> = missing.iter().map(ComponentName::as_str).collect();
            let why = format!("it waits for {}", names.join(", "));
            self.set(|status| status.why = why);
            let first: std::collections::BTreeSet<_> = missing.into_iter().take(1).collect();
            tokio::select! {
                () = self.stack.until_ready(&first) => {}
                () = until(&mut self.mode, |mode| mode != Mode::Run) => return false,
            }
        }
    }

    async fn start(&self) -> io::Result<Started> {
        let (ready, restarts) = (self.stand_ins().await?, self.get().restarts);
        if ready.is_copied {
            tracing::warn!(agent = %self.agent, name = self.name, "{COPIED}");
        }
        if matches!(self.role, Role::Component(_)) {
            // What it left behind may still listen on its port, and it has no other.
            let of = (self.release.id, self.role.clone());
            self.left.make_way(&self.agent, &of).await;
        }
        let (number, port) = self.place()?;
        let (agent, release, copied) = (self.agent.clone(), self.release.id, ready.is_copied);
        let note = match &self.role {
            Role::Worker(index) => Note::Worker(WorkerNote {
                agent,
                release,
                worker: self.name.parse().map_err(io::Error::other)?,
                index: *index,
                port: number,
                restarts,
                copied,
            }),
            Role::Component(component) => Note::Component(ComponentNote {
                agent,
                release,
                component: component.clone(),
                port: number,
                restarts,
                copied,
            }),
        };
        let (spawn, name) = self.spawn(&note, &ready);
        let process = spawn.start_as(&name)?;
        Ok(Started {
            process,
            number,
            port,
            copied,
        })
    }

    /// Where it is going to listen. A component is always found where it was: whoever else is
    /// there now has to go.
    fn place(&self) -> io::Result<(u16, Option<Port>)> {
        let Role::Component(component) = &self.role else {
            let port = self.ports.pick(self.release.id, self.former)?;
            return Ok((port.number, Some(port)));
        };
        let number = self.stack.port(component).unwrap_or_default();
        if Ports::is_free(number) {
            return Ok((number, None));
        }
        let what = format!("another program listens on its port {number}");
        Err(io::Error::new(io::ErrorKind::AddrInUse, what))
    }

    /// Copies of files that are not any more what was deployed. Looked at before every start: a
    /// release never runs other bytes than those it is named after.
    async fn stand_ins(&self) -> io::Result<super::spawn::Files> {
        let (copies, release, role) =
            (self.copies.clone(), self.release.clone(), self.role.clone());
        let look = move || super::spawn::Files::of(&copies, &release, &role);
        let looked = tokio::task::spawn_blocking(look).await;
        looked.map_err(io::Error::other)?.map_err(io::Error::other)
    }

    fn health_path(&self) -> Option<String> {
        match &self.role {
            Role::Worker(_) => health_path(&self.release),
            Role::Component(name) => {
                let component = self.release.content.components.get(name);
                component.and_then(|component| component.health_path.clone())
            }
        }
    }

    /// Stays with a process until it has ended; answers why it did.
    async fn attend(&mut self, started: Started) -> String {
        let Started {
            process,
            number,
            mut port,
            copied,
        } = started;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, number));
        self.set(|status| {
            status.state = WorkerState::Starting;
            status.addr = addr;
            status.pid = Some(process.pid());
            if copied { COPIED } else { "" }.clone_into(&mut status.why);
        });
        let health_path = self.health_path();
        let mut mode = self.mode.clone();
        let told_to_stop = async {
            until(&mut mode, |mode| mode == Mode::Stop).await;
            self.stack.until_unused(&self.role).await;
        };
        let mut was_ready = false;
        let exit = tokio::select! {
            exit = process.exited() => exit,
            () = self.announce_when_ready(addr, health_path.as_deref()) => Exit::Unknown,
            () = told_to_stop => {
                was_ready = self.get().state == WorkerState::Ready;
                // Its release may be deployed again while it ends: it is no worker of that one.
                self.set(|status| status.state = WorkerState::Starting);
                process.stop(STOP_GRACE).await
            }
        };
        if let Role::Component(name) = &self.role {
            self.stack.set_ready(name, false);
        }
        was_ready |= self.get().state == WorkerState::Ready;
        if let Some(port) = &mut port {
            port.told |= was_ready;
            self.former = port.told.then_some(port.number);
        }
        self.leave(process).await;
        exit.to_string()
    }

    /// Forgets a process that has ended; but not what it started and left behind, which may hold
    /// calls.
    async fn leave(&self, process: Handle) {
        let record = process.record();
        if Remains::of(record).may_live().await {
            let (agent, of) = (self.agent.clone(), (self.release.id, self.role.clone()));
            let whose = Whose {
                agent,
                of: Some(of),
                is_stray: false,
            };
            let ends = self.mode() == Mode::Stop;
            if !ends {
                tracing::warn!(agent = %self.agent, name = self.name, pid = process.pid(), "a process has ended, and what it started runs on; it is left alone until its release is retired");
            }
            let path = process.record_path();
            self.left.follow(record, path, whose, ends);
        } else if let Err(error) = process.forget() {
            tracing::warn!(%error, "the record of a process could not be removed");
        }
    }

    /// Never returns: one that was ready is watched for its end only. Whether a worker may be
    /// given calls is for the gateways to see; that a component of it ends later is told and takes
    /// no worker away.
    async fn announce_when_ready(&self, addr: SocketAddr, health_path: Option<&str>) {
        ready(addr, health_path).await;
        match &self.role {
            Role::Component(name) => {
                self.set(|status| status.state = WorkerState::Ready);
                self.stack.set_ready(name, true);
            }
            Role::Worker(_) => {
                let needs = self.stack.needs(&self.role);
                self.stack.until_ready(&needs).await;
                self.set(|status| status.state = WorkerState::Ready);
            }
        }
        std::future::pending::<()>().await;
    }
}

/// What a process that is no worker of a release is told about itself.
pub(super) fn env_of(note: &Note, release: &Release, name: &str) -> BTreeMap<String, String> {
    let kind = match note {
        Note::Worker(_) => "SEGUE_WORKER_ID",
        Note::Component(_) => "SEGUE_COMPONENT",
    };
    [
        ("SEGUE_AGENT", note.agent().as_str()),
        ("SEGUE_RELEASE", release.label.as_str()),
        (kind, name),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}
