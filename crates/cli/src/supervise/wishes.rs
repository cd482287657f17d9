//! What `segue serve` is asked: by signals, and by `segue stop` through a file.
//!
//! `segue stop` sends no signal. A second Ctrl-C means something else than the first, so a wish
//! that is repeated must not be one; and a file may be asked for again until it is heard, with no
//! process id that could be somebody else's by then.

use std::fs;
use std::io;
use std::path::PathBuf;

use segue_controller::secret::write_private;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::LOOK_EVERY;
use super::binary::in_place;
use crate::home::Home;
use crate::output;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    /// Ctrl-C or `segue stop`: end everything, calls first by themselves.
    End,
    /// SIGTERM: leave everything running.
    Leave,
    /// SIGHUP: read the configuration and the certificates again.
    Reload,
    /// `segue upgrade`, or SIGUSR2: become another binary.
    Upgrade(Request),
}

/// An upgrade that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Tells it from others: who asks again for the same one has asked once.
    pub(crate) id: String,
    /// What everything is to become.
    pub(crate) binary: PathBuf,
}

impl Request {
    /// Where it is put.
    fn file(home: &Home) -> PathBuf {
        home.run().join("upgrade")
    }

    /// Asks the supervisor.
    pub(crate) fn ask(&self, home: &Home) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        write_private(&Self::file(home), &bytes)
    }

    /// Takes back what was asked, if nobody has heard it. Answers whether that is so.
    pub(crate) fn take_back(home: &Home) -> bool {
        fs::remove_file(Self::file(home)).is_ok()
    }
}

/// Hears what is asked. From its making on, none of these signals ends the process.
pub(super) struct Wishes {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user: Signal,
    /// Upgrades that were asked for by signal.
    heard: u64,
    back: Option<Wish>,
    request: PathBuf,
    upgrade: PathBuf,
}

impl Wishes {
    pub(super) fn listen(home: &Home) -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined2())?,
            heard: 0,
            back: None,
            request: home.run().join("stop"),
            upgrade: Request::file(home),
        })
    }

    /// The next wish. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Wish {
        if let Some(wish) = self.back.take() {
            return wish;
        }
        loop {
            if self.request.exists() {
                return Wish::End;
            }
            if let Some(request) = self.upgrade() {
                return Wish::Upgrade(request);
            }
            tokio::select! {
                _ = self.interrupt.recv() => return Wish::End,
                _ = self.terminate.recv() => return Wish::Leave,
                _ = self.hangup.recv() => return Wish::Reload,
                _ = self.user.recv() => {
                    let binary = in_place();
                    output::say(&format!("asked to become what is now at {}", binary.display()));
                    let id = format!("signal-{}", self.heard);
                    self.heard += 1;
                    return Wish::Upgrade(Request { id, binary });
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// An upgrade that was asked for. Heard once.
    fn upgrade(&self) -> Option<Request> {
        let asked = fs::read(&self.upgrade).ok()?;
        fs::remove_file(&self.upgrade).ok()?;
        serde_json::from_slice(&asked).ok()
    }

    /// A wish to end or to leave that is there already. Heard by nobody else.
    pub(super) async fn now(&mut self) -> Option<Wish> {
        if self.request.exists() {
            return Some(Wish::End);
        }
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Some(Wish::End),
            _ = self.terminate.recv() => Some(Wish::Leave),
            () = std::future::ready(()) => None,
        }
    }

    /// Has it heard again.
    pub(super) fn put_back(&mut self, wish: Wish) {
        self.back = Some(wish);
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
        let _ = fs::remove_file(&self.upgrade);
        match fs::remove_file(&self.request) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
