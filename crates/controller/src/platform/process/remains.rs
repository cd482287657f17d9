//! What is left of a process group whose leader has ended. A launcher that is killed leaves the
//! agent that it launched, and that may speak with callers for an hour.
//!
//! A process belongs to it that has the marker in its environment, also in a session of its own;
//! or that is in the process group, also if it has overwritten its environment.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep};

use super::detached::{Handle, MARKER, Record};
use super::proc::{self, Group, Stat};

/// How often it is looked for what is left, while it is being ended.
const ENDING_POLL: Duration = Duration::from_millis(50);

/// So often in a row nothing must be found. One that forks while it is looked for may be missed
/// once, and its child too.
pub(super) const EMPTY_LOOKS: u32 = 2;

/// Everything that a process was the start of.
#[derive(Debug, Clone)]
pub(crate) struct Remains {
    boot: String,
    group: Group,
}

impl Remains {
    pub(crate) fn of(record: &Record) -> Self {
        let group = Group {
            marker: format!("{MARKER}={}", record.marker),
            leader: record.pid.map(|pid| (pid, record.start_time)),
        };
        Self {
            boot: record.boot.clone(),
            group,
        }
    }

    /// Those that live. Reads all of `/proc`.
    fn look(&self) -> io::Result<Vec<Stat>> {
        if self.boot != proc::boot_id()? {
            return Ok(Vec::new());
        }
        proc::members(&self.group, MARKER)
    }

    /// Whether any lives. Reads all of `/proc`.
    ///
    /// # Errors
    ///
    /// When that cannot be told, which is not the same as none.
    pub(crate) fn any(&self) -> io::Result<bool> {
        for _ in 0..EMPTY_LOOKS {
            if !self.look()?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// As [`any`](Self::any), beside what else is to be done. Those that cannot be looked for may
    /// live.
    pub(crate) async fn may_live(&self) -> bool {
        let remains = self.clone();
        let looked = tokio::task::spawn_blocking(move || remains.any()).await;
        match looked {
            Ok(Ok(any)) => any,
            Ok(Err(error)) => {
                tracing::warn!(%error, "what is left of a process cannot be looked for");
                true
            }
            Err(_) => true,
        }
    }

    /// Asks all to end, and ends by force what is left after `grace`. Returns once all are gone.
    pub(crate) async fn end(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let (mut asked, mut empty) = (BTreeSet::new(), 0);
        while empty < EMPTY_LOOKS {
            let remains = self.clone();
            let looked = tokio::task::spawn_blocking(move || remains.look()).await;
            match looked {
                Ok(Ok(members)) => {
                    empty = if members.is_empty() { empty + 1 } else { 0 };
                    for member in members {
                        if Instant::now() >= deadline {
                            signal(member, Signal::KILL);
                        } else if asked.insert((member.pid, member.start_time)) {
                            signal(member, Signal::TERM);
                        }
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "what is left of a process cannot be looked for");
                }
                Err(_) => {}
            }
            sleep(ENDING_POLL).await;
        }
    }
}

/// Ends the process of a record and everything that it started, and removes the record.
///
/// # Errors
///
/// When it cannot be told whether it runs, or the record cannot be removed.
pub async fn stop_recorded(record_path: &Path, grace: Duration) -> io::Result<()> {
    if let Some(process) = Handle::adopt(record_path)? {
        process.stop(grace).await;
    }
    match Record::read(record_path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        record => Remains::of(&record?).end(grace).await,
    }
    match fs::remove_file(record_path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Signals this very process, and no other that got its pid since.
fn signal(to: Stat, signal: Signal) {
    let sent = || -> io::Result<()> {
        let pid = i32::try_from(to.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(Errno::SRCH)?;
        // The descriptor first: it holds on to whoever has the pid now. Then who that is.
        let descriptor = pidfd_open(pid, PidfdFlags::empty())?;
        if proc::stat(to.pid)?.is_some_and(|is| is.start_time == to.start_time) {
            pidfd_send_signal(&descriptor, signal)?;
        }
        Ok(())
    };
    if let Err(error) = sent() {
        tracing::debug!(pid = to.pid, %error, "a process took no signal");
    }
}
