//! What `segue serve` is asked: by signals, and by `segue stop` through a file.
//!
//! `segue stop` sends no signal. A second Ctrl-C means something else than the first, so a wish
//! that is repeated must not be one; and a file may be asked for again until it is heard, with no
//! process id that could be somebody else's by then.

use std::fs;
use std::io;
use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::LOOK_EVERY;
use crate::home::Home;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Ctrl-C or `segue stop`: end everything, calls first by themselves.
    End,
    /// SIGTERM: leave everything running.
    Leave,
    /// SIGHUP: read the configuration and the certificates again.
    Reload,
}

/// Hears what is asked. From its making on, none of these signals ends the process.
pub(super) struct Wishes {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    request: PathBuf,
}

impl Wishes {
    pub(super) fn listen(home: &Home) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            request: home.run().join("stop"),
        })
    }

    /// The next wish. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Wish {
        loop {
            if self.request.exists() {
                return Wish::End;
            }
            tokio::select! {
                _ = self.interrupt.recv() => return Wish::End,
                _ = self.terminate.recv() => return Wish::Leave,
                _ = self.hangup.recv() => return Wish::Reload,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// While everything ends: a wish not to wait for that. `segue stop` never has it.
    pub(super) async fn leave(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Asks the supervisor to end everything.
    pub(super) fn ask(&self) -> io::Result<()> {
        fs::write(&self.request, "")
    }

    /// Takes back what was asked before.
    pub(super) fn clear(&self) -> io::Result<()> {
        match fs::remove_file(&self.request) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
