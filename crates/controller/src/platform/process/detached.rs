//! A process that outlives the one that started it, and is found again.
//!
//! It has its own process group, so that a Ctrl-C at the terminal is not its own; it writes to a
//! file and never to a pipe, whose reader may die; and a record on disk says who it is: pid, start
//! time and boot, because a pid alone may be somebody else's by now.
//!
//! The record is written twice. First as an intent with a random marker, which the process gets in
//! its environment; then, once it runs, with its pid. A crash between the two leaves a process that
//! is found by its marker. So there is no instant at which one is started and lost.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep, timeout_at};

use super::proc;
use crate::secret::{random_hex, write_private};

/// Variable by which a process is found whose pid was never written down.
pub const MARKER: &str = "SEGUE_SPAWN";

/// Random bytes of a marker.
const MARKER_BYTES: usize = 16;

/// How often a process group is looked at whose leader has ended: nothing tells when it is empty.
const GROUP_POLL: Duration = Duration::from_millis(20);

/// What is to be started.
#[derive(Debug, Clone)]
pub struct Spawn {
    /// Program, absolute or found by `PATH`.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to the environment it inherits.
    pub env: BTreeMap<String, String>,
    /// Its working directory; `None`: ours.
    pub dir: Option<PathBuf>,
    /// File that its output is appended to; its directory is made.
    pub log: PathBuf,
    /// Where it is written down; its directory is made.
    pub record_path: PathBuf,
    /// Whatever the starter wants to find in the record.
    pub note: serde_json::Value,
}

/// What is written down about a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its process; `None`: it was about to be started.
    pub pid: Option<u32>,
    /// When it was started, in clock ticks since the boot.
    pub start_time: Option<u64>,
    /// The boot it was started in.
    pub boot: String,
    /// Value of [`MARKER`] in its environment.
    pub marker: String,
    /// Program and arguments. The environment may hold secrets and is left out.
    pub command: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
    /// See [`Spawn::note`].
    pub note: serde_json::Value,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody can tell: it was adopted, and only a parent learns that.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "it ended with status {code}"),
            Self::Signal(signal) => write!(f, "it was ended by signal {signal}"),
            Self::Unknown => write!(f, "it ended"),
        }
    }
}

/// A running process, started or adopted. Dropping it leaves the process alone.
#[derive(Debug)]
pub struct Handle {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    exit: OnceLock<Exit>,
    record: Record,
    record_path: PathBuf,
}

impl Spawn {
    /// Starts it. Must be called within a Tokio runtime.
    ///
    /// A crash before the first write leaves nothing; between the writes, a process that
    /// [`Handle::adopt`] finds by its marker; after the second, one that it finds by its pid.
    ///
    /// # Errors
    ///
    /// When the log or the record cannot be written, or the program cannot be run. Nothing runs
    /// and no record is left then.
    pub fn start(self) -> io::Result<Handle> {
        let name = self.program.clone();
        self.start_as(&name)
    }

    /// Starts it, and has it believe that it is called `name`: what it looks for beside itself is
    /// there.
    ///
    /// # Errors
    ///
    /// See [`start`](Self::start).
    pub fn start_as(self, name: &str) -> io::Result<Handle> {
        self.start_with(name, None)
    }

    /// The same, with something to read as its standard input, such as a socket that is there
    /// before it.
    ///
    /// # Errors
    ///
    /// See [`start`](Self::start).
    pub fn start_with(self, name: &str, stdin: Option<OwnedFd>) -> io::Result<Handle> {
        for path in [&self.log, &self.record_path] {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let mut record = Record {
            pid: None,
            start_time: None,
            boot: proc::boot_id()?,
            marker: random_hex(MARKER_BYTES)?,
            command: std::iter::once(&self.program)
                .chain(&self.args)
                .cloned()
                .collect(),
            log: self.log.clone(),
            note: self.note.clone(),
        };
        record.write(&self.record_path)?;
        let ran = self.run(name, &log, &record.marker, stdin);
        let started = ran.and_then(|pid| {
            record.pid = Some(pid);
            record.start_time = proc::stat(pid)?.map(|stat| stat.start_time);
            Ok(())
        });
        if let Err(error) = started {
            fs::remove_file(&self.record_path)?;
            return Err(error);
        }
        // Should this write fail, the process is still found by its marker.
        record.write(&self.record_path)?;
        Handle::open(record, self.record_path)
    }

    fn run(
        &self,
        name: &str,
        log: &fs::File,
        marker: &str,
        stdin: Option<OwnedFd>,
    ) -> io::Result<u32> {
        let mut command = Command::new(&self.program);
        command
            .arg0(name)
            .args(&self.args)
            .envs(&self.env)
            .env(MARKER, marker)
            .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .process_group(0);
        if let Some(directory) = &self.dir {
            command.current_dir(directory);
        }
        // It is reaped through its pidfd, when somebody waits for it.
        let child = command.spawn()?;
        Ok(child.id())
    }
}

impl Record {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// When there is none, or it is not a record.
    pub fn read(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).expect("a record is plain data");
        write_private(path, &bytes)
    }
}

impl Handle {
    /// Finds the process of a record again, if it still runs. Must be called within a Tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// When that cannot be told. It is not the same as `None`: a second one might be started.
    pub fn adopt(record_path: &Path) -> io::Result<Option<Self>> {
        let mut record = match Record::read(record_path) {
            Ok(record) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if record.boot != proc::boot_id()? {
            return Ok(None);
        }
        if record.pid.is_none() {
            let Some(found) = proc::find_by_env(MARKER, &record.marker)? else {
                return Ok(None);
            };
            // Its leader may have ended, and only what it started be left.
            let leader = proc::stat(found.group)?.filter(|is| is.group == is.pid);
            let start_time = leader.map(|leader| leader.start_time);
            (record.pid, record.start_time) = (Some(found.group), start_time);
            record.write(record_path)?;
        }
        let start_time = record.start_time;
        let pid = record.pid.unwrap_or_default();
        // The descriptor first: it holds on to whoever has the pid now. Then who that is.
        let handle = match Self::open(record, record_path.to_owned()) {
            Ok(handle) => handle,
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let same = proc::stat(pid)?
            .is_some_and(|stat| Some(stat.start_time) == start_time && !stat.is_zombie);
        Ok(same.then_some(handle))
    }

    fn open(record: Record, record_path: PathBuf) -> io::Result<Self> {
        let pid = record
            .pid
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the record has no pid"))?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an OwnedFd stays open for as long as it lives"
        )]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        Ok(Self {
            pid,
            pidfd,
            exit: OnceLock::new(),
            record,
            record_path,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Where that is written down.
    pub fn record_path(&self) -> &Path {
        &self.record_path
    }

    /// What was written down about it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Waits until it has ended. May be called again, and may be dropped while it waits.
    pub async fn exited(&self) -> Exit {
        if let Some(exit) = self.exit.get() {
            return *exit;
        }
        // An error here means that the runtime ends; then nobody waits any more.
        let Ok(guard) = self.pidfd.readable().await else {
            return std::future::pending().await;
        };
        drop(guard);
        *self.exit.get_or_init(|| self.reap())
    }

    fn reap(&self) -> Exit {
        let id = WaitId::PidFd(self.pidfd.get_ref().as_fd());
        match rustix::process::waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => status
                .exit_status()
                .map(Exit::Code)
                .or_else(|| status.terminating_signal().map(Exit::Signal))
                .unwrap_or(Exit::Unknown),
            Ok(None) | Err(_) => Exit::Unknown,
        }
    }

    /// Sends it a signal, and never to another process that got its pid since.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(
            self.pidfd.get_ref(),
            signal,
        )?)
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        let mut descriptors = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        let ended = rustix::event::poll(&mut descriptors, Some(&Timespec::default()));
        matches!(ended, Ok(0) | Err(_))
    }

    /// Asks it, and everything it started that stayed in its process group, to end; ends by force
    /// what is left after `grace`. Returns once all are gone.
    pub async fn stop(&self, grace: Duration) -> Exit {
        let deadline = Instant::now() + grace;
        if self.is_running() || self.has_group() {
            self.signal_group(Signal::TERM);
        }
        let by_itself = timeout_at(deadline, self.pidfd.readable()).await.is_ok();
        // Its number stays its own while its group has members.
        while by_itself && self.has_group() && Instant::now() < deadline {
            sleep(GROUP_POLL).await;
        }
        if self.has_group() {
            self.signal_group(Signal::KILL);
        }
        self.exited().await
    }

    fn has_group(&self) -> bool {
        let alone = self.exit.get().is_none() && !self.is_running();
        // One that waits to be reaped is still counted as a member.
        if alone {
            self.exit.get_or_init(|| self.reap());
        }
        rustix::process::test_kill_process_group(self.pid).is_ok()
    }

    fn signal_group(&self, signal: Signal) {
        if let Err(error) = rustix::process::kill_process_group(self.pid, signal) {
            tracing::debug!(pid = self.pid(), %error, "a process group took no signal");
        }
    }

    /// Removes the record: the process has ended, or is nobody's business any more.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed.
    pub fn forget(self) -> io::Result<()> {
        match fs::remove_file(&self.record_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawn(directory: &Path, script: &str) -> Spawn {
        Spawn {
            program: "/bin/sh".to_owned(),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: BTreeMap::new(),
            dir: None,
            log: directory.join("log/out.log"),
            record_path: directory.join("records/one.json"),
            note: serde_json::json!({ "port": 1 }),
        }
    }

    fn directory(name: &str) -> PathBuf {
        let name = format!("segue-detached-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[tokio::test]
    async fn a_process_is_found_again_by_its_record() {
        let directory = directory("adopt");
        let first = spawn(&directory, "echo hello; exec sleep 60")
            .start()
            .unwrap();
        let (pid, record_path) = (first.pid(), first.record_path.clone());
        drop(first);
        let again = Handle::adopt(&record_path).unwrap().unwrap();
        assert_eq!(
            (again.pid(), &again.record().note["port"]),
            (pid, &1.into())
        );
        // A crash before the pid was written down: only the marker is left.
        let mut intent = again.record().clone();
        (intent.pid, intent.start_time) = (None, None);
        intent.write(&record_path).unwrap();
        let found = Handle::adopt(&record_path).unwrap().unwrap();
        assert_eq!(found.pid(), pid);
        // Another process that has the pid now is none of ours.
        let mut stranger = found.record().clone();
        stranger.start_time = stranger.start_time.map(|time| time + 1);
        stranger.write(&record_path).unwrap();
        assert!(Handle::adopt(&record_path).unwrap().is_none());
        assert_eq!(again.stop(Duration::from_secs(5)).await, Exit::Signal(15));
        assert!(!found.is_running());
        assert_eq!(
            fs::read_to_string(directory.join("log/out.log")).unwrap(),
            "hello\n"
        );
        assert!(found.signal(Signal::TERM).is_err());
        found.forget().unwrap();
        assert!(Handle::adopt(&record_path).unwrap().is_none());
        fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn an_end_tells_its_status_and_a_bad_program_leaves_nothing() {
        let directory = directory("end");
        let handle = spawn(&directory, "exit 3").start().unwrap();
        assert_eq!(handle.exited().await, Exit::Code(3));
        assert_eq!(handle.exited().await, Exit::Code(3));
        let mut missing = spawn(&directory, "");
        missing.program = "/nonexistent/bot".to_owned();
        missing.record_path = directory.join("records/two.json");
        assert!(missing.clone().start().is_err());
        assert!(!missing.record_path.exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn what_ignores_the_wish_to_end_is_ended_with_its_children() {
        let directory = directory("stubborn");
        let script = "trap '' TERM; sleep 60 & echo $!; wait; sleep 60";
        let handle = spawn(&directory, script).start().unwrap();
        let child = loop {
            let text = fs::read_to_string(directory.join("log/out.log")).unwrap();
            match text.trim().parse::<u32>() {
                Ok(pid) if text.ends_with('\n') => break pid,
                _ => sleep(Duration::from_millis(5)).await,
            }
        };
        let grace = Duration::from_millis(200);
        assert_eq!(handle.stop(grace).await, Exit::Signal(9));
        while proc::stat(child)
            .unwrap()
            .is_some_and(|stat| !stat.is_zombie)
        {
            sleep(Duration::from_millis(5)).await;
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
