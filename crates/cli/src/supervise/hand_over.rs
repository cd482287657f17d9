//! The gateway's part of an upgrade: a new process beside the old one, until it has everything.
//!
//! The new one has a record of its own until it serves, and then the old one's place. Whichever
//! supervisor looks, at whatever moment, finds both: see [`run`].

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use segue_controller::platform::process::{Handle, Signal};
use segue_gateway::Up;

use super::child::{Child, Program};
use super::draining::{Draining, first_id};
use super::upgrade::{Parts, ended};
use crate::exit::{Exit, Trouble};
use crate::home::Home;

/// How long the new gateway may take to serve: it starts, and the old one waits half a second at
/// most for connections that are being set up.
const TAKE_MAX: Duration = Duration::from_secs(20);

/// How long the old one may take to end once it has nothing left.
const END_MAX: Duration = Duration::from_secs(1);

/// How often it is looked whether the new one serves.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What became of the gateway.
pub(super) struct Handed {
    pub(super) pid: u32,
    pub(super) calls: usize,
    /// The old process, if it has calls that cannot move.
    pub(super) stays: Option<u32>,
}

/// Record of a gateway that takes over and does not serve yet.
fn next(home: &Home) -> PathBuf {
    home.run().join("gateway-next.json")
}

/// Hands the gateway over to a process of the new binary; or finds that an earlier supervisor has
/// begun to, and sees it through.
pub(super) async fn run(parts: &mut Parts<'_>, binary: &Path) -> anyhow::Result<Handed> {
    let home = parts.home;
    let program = Program::gateway(parts.gateway.id());
    let log_from = program.log_length(home);
    let taker = match Handle::adopt(&next(home))? {
        Some(taker) => taker,
        // The step was written down and not begun, or it was done and only that not written down.
        None if serves(home, parts.gateway.pid()).is_some()
            && runs(parts.gateway.pid(), binary) =>
        {
            return Ok(handed(home, parts.gateway.pid(), None));
        }
        None => {
            let socket = home.run().join("handoff.sock");
            let binary = binary.display().to_string();
            program.take_over(&binary, home, parts.config, &socket, next(home))?
        }
    };
    if let Err(trouble) = wait(home, &taker, parts.gateway, log_from).await {
        taker.forget()?;
        return Err(trouble.into());
    }
    let (pid, old) = (taker.pid(), parts.gateway.pid());
    drop(taker);
    // A call that cannot move keeps the old process, and then it says so; else it is gone.
    let _ = tokio::time::timeout(END_MAX, parts.gateway.exited()).await;
    let stays = parts.gateway.is_running().then_some(old);
    if stays.is_some() {
        parts.draining.stays_behind(home, parts.gateway)?;
    }
    std::fs::rename(next(home), home.run().join("gateway.json"))?;
    let found = Child::find(home, program)?;
    *parts.gateway = found.ok_or_else(|| {
        let hint = "calls are in the keeping of the supervisor, which starts it again";
        Trouble::new(
            Exit::Failed,
            "the new gateway ended right behind the handoff",
            hint,
        )
    })?;
    Ok(handed(home, pid, stays))
}

/// Sees a handoff through that an earlier supervisor had begun, so that there is one gateway to be
/// found.
pub(super) async fn see_through(home: &Home, draining: &mut Draining) -> anyhow::Result<()> {
    let Some(taker) = Handle::adopt(&next(home))? else {
        let _ = std::fs::remove_file(next(home));
        return Ok(());
    };
    let old = Child::find(home, Program::gateway(first_id()))?;
    let began = Instant::now();
    while serves(home, taker.pid()).is_none() {
        if !taker.is_running() || began.elapsed() > TAKE_MAX {
            let _ = taker.signal(Signal::KILL);
            return Ok(taker.forget()?);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if let Some(old) = old.filter(Child::is_running) {
        draining.stays_behind(home, &old)?;
    }
    Ok(std::fs::rename(
        next(home),
        home.run().join("gateway.json"),
    )?)
}

/// Waits until the new one serves.
async fn wait(home: &Home, taker: &Handle, old: &Child, log_from: u64) -> Result<(), Trouble> {
    let began = Instant::now();
    loop {
        if serves(home, taker.pid()).is_some() {
            return Ok(());
        }
        if !taker.is_running() {
            return Err(ended("the new gateway did not take over", taker, log_from));
        }
        if began.elapsed() > TAKE_MAX && old.is_running() {
            // The old one has everything: it would have ended, or have been told that it may go.
            let _ = taker.signal(Signal::KILL);
            taker.exited().await;
            let message = format!("the new gateway did not serve for {} s", TAKE_MAX.as_secs());
            let hint = "it was ended; the one before serves on. See `segue logs gateway`";
            return Err(Trouble::new(Exit::Failed, message, hint));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How many calls a process began with, if it is the one that serves.
fn serves(home: &Home, pid: u32) -> Option<usize> {
    let up = std::fs::read(home.run().join("gateway.up")).ok()?;
    let up: Up = serde_json::from_slice(&up).ok()?;
    (up.pid == pid).then_some(up.calls)
}

/// Whether a process runs the file of this name.
fn runs(pid: u32, binary: &Path) -> bool {
    let runs = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    runs.is_some() && runs == binary.canonicalize().ok()
}

fn handed(home: &Home, pid: u32, stays: Option<u32>) -> Handed {
    Handed {
        pid,
        calls: serves(home, pid).unwrap_or_default(),
        stays,
    }
}
