//! The processes of a run: started together, ended together, whatever happens.
//!
//! Each leads a process group of its own, so that a peer's workers end with it. Whoever interrupts
//! the run stops the crew from another thread; every wait of the director then ends.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::BenchError;
use crate::drive::{Order, Reply};
use crate::part::{Part, PartSpec};

/// How much of what a part wrote is told when it fails.
const LAST_WORDS_BYTES: usize = 600;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    running: Vec<Pid>,
}

/// See the module.
#[derive(Clone, Default)]
pub struct Crew(Arc<Shared>);

impl Crew {
    /// Ends every process, and the run with them.
    pub fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        for pid in &state.running {
            let _ = kill_process_group(*pid, Signal::KILL);
        }
        self.0.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, but not for a run that was stopped.
    pub(crate) fn wait(&self, time: Duration) -> Result<(), BenchError> {
        let end = Instant::now() + time;
        let mut state = self.state();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if state.stopped {
                return Err(BenchError::Stopped);
            }
            if left.is_zero() {
                return Ok(());
            }
            let waited = self.0.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// `part` as a process of this program, or of the one that it becomes.
    pub(crate) fn start(&self, start: &Start<'_>, part: Part) -> Result<Started, BenchError> {
        let log = start.dir.join(format!("{}.log", start.name));
        let failed = |source| BenchError::Start {
            name: start.name.to_owned(),
            source,
        };
        let file = File::create(&log).map_err(failed)?;
        let talks = matches!(part, Part::Drive(_));
        let pipe = |file: File| if talks { Stdio::piped() } else { file.into() };
        let spec = PartSpec {
            cpu: start.cpu,
            part,
        };
        let spec = serde_json::to_string(&spec).expect("plain data");
        let mut command = Command::new(start.program);
        command
            .args(["bench-part", &spec])
            .envs(start.env.iter().copied())
            .current_dir(start.dir)
            .stdin(if talks { Stdio::piped() } else { Stdio::null() })
            .stdout(pipe(file.try_clone().map_err(failed)?))
            .stderr(file)
            .process_group(0);
        // Under the lock, so that a run that is stopped meanwhile does not miss it.
        let mut state = self.state();
        if state.stopped {
            return Err(BenchError::Stopped);
        }
        let child = command.spawn().map_err(failed)?;
        state.running.push(Pid::from_child(&child));
        drop(state);
        Ok(Started {
            crew: self.clone(),
            name: start.name.to_owned(),
            child,
            log,
        })
    }
}

/// How a process is started.
#[derive(Clone, Copy)]
pub(crate) struct Start<'a> {
    /// For people and the log.
    pub(crate) name: &'a str,
    /// This program.
    pub(crate) program: &'a Path,
    pub(crate) dir: &'a Path,
    pub(crate) cpu: Option<usize>,
    pub(crate) env: &'a [(&'a str, &'a str)],
}

/// A process. Ended when dropped.
pub(crate) struct Started {
    crew: Crew,
    name: String,
    child: Child,
    log: PathBuf,
}

impl Started {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // One that is gone already needs no signal.
        let _ = kill_process(self.pid(), signal);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end, which is not brought about here. `None`: it has not ended in time.
    pub(crate) fn ended_within(&mut self, time: Duration) -> Result<Option<Duration>, BenchError> {
        let started = Instant::now();
        while started.elapsed() < time {
            if !self.is_running() {
                return Ok(Some(started.elapsed()));
            }
            self.crew.wait(Duration::from_millis(1))?;
        }
        Ok(None)
    }

    /// That it failed, with what it said last.
    pub(crate) fn failure(&self, what: &str) -> BenchError {
        let said = std::fs::read(&self.log).unwrap_or_default();
        let said = &said[said.len().saturating_sub(LAST_WORDS_BYTES)..];
        BenchError::Part {
            name: self.name.clone(),
            what: what.to_owned(),
            said: String::from_utf8_lossy(said).trim().to_owned(),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let pid = self.pid();
        let mut state = self.crew.state();
        // Not reaped yet, so the number is still its own.
        let _ = kill_process_group(pid, Signal::KILL);
        state.running.retain(|running| *running != pid);
        drop(state);
        let _ = self.child.wait();
    }
}

/// The generator, and the way to talk to it.
pub(crate) struct Driver {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    started: Started,
}

impl Driver {
    pub(crate) fn new(mut started: Started) -> Self {
        let orders = started.child.stdin.take().expect("piped");
        let answers = started.child.stdout.take().expect("piped");
        Self {
            orders,
            answers: BufReader::new(answers),
            started,
        }
    }

    /// Has something done, and waits until it is.
    pub(crate) fn ask(&mut self, order: Order) -> Result<Reply, BenchError> {
        self.tell(order)?;
        self.hear()
    }

    /// Has something done.
    pub(crate) fn tell(&mut self, order: Order) -> Result<(), BenchError> {
        let mut line = serde_json::to_vec(&order).expect("plain data");
        line.push(b'\n');
        let written = self.orders.write_all(&line);
        written.map_err(|_| self.trouble())
    }

    /// Waits until it is done.
    pub(crate) fn hear(&mut self) -> Result<Reply, BenchError> {
        let mut line = String::new();
        let read: io::Result<usize> = self.answers.read_line(&mut line);
        match read.map(|_| serde_json::from_str(&line)) {
            Ok(Ok(reply)) => Ok(reply),
            _ => Err(self.trouble()),
        }
    }

    fn trouble(&self) -> BenchError {
        if self.started.crew.state().stopped {
            return BenchError::Stopped;
        }
        self.started.failure("does not answer")
    }
}
