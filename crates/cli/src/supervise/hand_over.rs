//! The gateway's part of an upgrade: a new process beside the old one, until it has everything.
//!
//! The new one has a record of its own until it serves, and then the old one's place. Whichever
//! supervisor looks, at whatever moment, finds both: see [`run`].
//!
//! Every wait here has an end, and behind each there is a gateway that takes calls: the new one; or
//! the old one; or, should one have died over it that already had the calls, the next one, which
//! takes them out of our keeping.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use segue_controller::platform::process::{Exit as Ended, Handle, Signal};
use segue_gateway::Up;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::binary::Binary;
use super::child::{Child, Program};
use super::draining::{Draining, first_id};
use super::keeper;
use super::upgrade::{Parts, ended};
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

/// How long the new gateway may take to serve: it starts, and the old one waits half a second at
/// most for connections that are being set up.
const TAKE_MAX: Duration = Duration::from_secs(20);

/// The same once the old one is gone and calls stand still in our keeping: either the new one takes
/// them within milliseconds, or another one must.
const ALONE_MAX: Duration = Duration::from_secs(2);

/// How long the old one may take to end once it has nothing left.
const END_MAX: Duration = Duration::from_secs(1);

/// How long the old one may take to say that it still serves: it first finds out what became of the
/// new one.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether the new one serves.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What became of the gateway.
pub(super) struct Handed {
    pub(super) pid: u32,
    /// With how many calls, if it could say so.
    pub(super) calls: Option<usize>,
    /// The old process, if it has calls that cannot move.
    pub(super) stays: Option<u32>,
}

/// Record of a gateway that takes over and does not serve yet.
fn next(home: &Home) -> PathBuf {
    home.run().join("gateway-next.json")
}

/// Where a gateway gives to the next one.
fn socket(home: &Home) -> PathBuf {
    home.run().join("handoff.sock")
}

/// Hands the gateway over to a process of the new binary; or finds that an earlier supervisor has
/// begun to, and sees it through.
pub(super) async fn run(parts: &mut Parts<'_>, binary: &Path) -> anyhow::Result<Handed> {
    let home = parts.home;
    let program = Program::gateway(parts.gateway.id());
    let log_from = program.log_length(home);
    let binary = Binary::named(binary);
    let taker = match Handle::adopt(&next(home))? {
        Some(taker) => taker,
        // The step was written down and not begun, or it was done and only that not written down.
        None if serves(home, parts.gateway.pid()).is_some()
            && runs(parts.gateway.pid(), &binary) =>
        {
            return Ok(handed(home, parts.gateway.pid(), None));
        }
        None => program.take_over(&binary, home, parts.config, &socket(home), next(home))?,
    };
    let served = {
        let mut waiting = std::pin::pin!(wait(home, &taker, Some(&*parts.gateway), log_from));
        loop {
            tokio::select! {
                served = &mut waiting => break served,
                // Rollouts go on meanwhile.
                _ = parts.controller.keep(home, parts.config) => {}
            }
        }
    };
    if let Err(trouble) = served {
        taker.forget()?;
        return Err(fall_back(parts, program, binary, trouble).await?.into());
    }
    let (pid, old) = (taker.pid(), parts.gateway.pid());
    drop(taker);
    // A call that cannot move keeps the old process, and then it says so; else it is gone.
    let _ = timeout(END_MAX, parts.gateway.exited()).await;
    let stays = parts.gateway.is_running().then_some(old);
    if stays.is_some() {
        parts.draining.stays_behind(home, parts.gateway)?;
    }
    std::fs::rename(next(home), home.run().join("gateway.json"))?;
    if let Some(found) = Child::find(home, program.clone())? {
        *parts.gateway = found;
        return Ok(handed(home, pid, stays));
    }
    let trouble = Trouble::new(
        Exit::Failed,
        "the new gateway ended right behind the handoff",
        "its calls are in the keeping of the supervisor, which starts it again",
    );
    start(parts, &program, binary)?;
    Err(trouble.into())
}

/// There is no new gateway. If the old one does not serve on either, another one is started, which
/// takes what is in our keeping. Answers what to say.
async fn fall_back(
    parts: &mut Parts<'_>,
    program: Program,
    binary: Binary,
    trouble: Trouble,
) -> anyhow::Result<Trouble> {
    let home = parts.home;
    if parts.gateway.is_running() && still_serves(home).await {
        return Ok(trouble);
    }
    match timeout(END_MAX, parts.gateway.exited()).await {
        // It had nothing left.
        Ok(Ended::Code(0)) => {}
        // It is started again like any that crashed.
        Ok(_) => return Ok(trouble),
        Err(_) => parts.draining.stays_behind(home, parts.gateway)?,
    }
    let old = parts.gateway.pid();
    output::say(&format!(
        "the gateway (pid {old}) had handed over already; another one is started"
    ));
    // The new binary once more: it can read what the one that died has left.
    start(parts, &program, binary)?;
    let hint = "its calls were in the keeping of the supervisor, and another gateway of the new \
                binary was started for them; see `segue logs gateway`";
    Ok(Trouble {
        hint: Some(hint.to_owned()),
        ..trouble
    })
}

fn start(parts: &mut Parts<'_>, program: &Program, binary: Binary) -> anyhow::Result<()> {
    let log_from = program.log_length(parts.home);
    let handle = program.start_from(&binary, parts.home, parts.config)?;
    parts.gateway.becomes(handle, binary, log_from);
    Ok(())
}

/// Sees a handoff through that an earlier supervisor had begun, so that there is one gateway to be
/// found.
pub(super) async fn see_through(home: &Home, draining: &mut Draining) -> anyhow::Result<()> {
    let Some(taker) = Handle::adopt(&next(home))? else {
        let _ = std::fs::remove_file(next(home));
        return Ok(());
    };
    let old = Child::find(home, Program::gateway(first_id()))?;
    let log_from = Program::gateway(first_id()).log_length(home);
    let served = wait(home, &taker, old.as_ref(), log_from).await;
    let serves_on = served.is_err() && still_serves(home).await;
    if let Some(old) = old.filter(Child::is_running)
        && !serves_on
    {
        draining.stays_behind(home, &old)?;
        let _ = std::fs::remove_file(home.run().join("gateway.json"));
    }
    if served.is_err() {
        return Ok(taker.forget()?);
    }
    Ok(std::fs::rename(
        next(home),
        home.run().join("gateway.json"),
    )?)
}

/// Waits until the new one serves. If it does not, it is gone when this returns.
async fn wait(
    home: &Home,
    taker: &Handle,
    old: Option<&Child>,
    log_from: u64,
) -> Result<(), Trouble> {
    let began = Instant::now();
    let mut alone = None;
    loop {
        if serves(home, taker.pid()).is_some() {
            return Ok(());
        }
        if !taker.is_running() {
            return Err(ended("the new gateway did not take over", taker, log_from));
        }
        if !old.is_some_and(Child::is_running) {
            alone.get_or_insert_with(Instant::now);
        }
        let waited = began.elapsed();
        let is_alone = alone.is_some_and(|since| since.elapsed() > ALONE_MAX);
        if waited > TAKE_MAX || is_alone && !keeper::is_idle(home).await {
            // It may serve and only not be able to write that down.
            if who_gives(home).await == Some(taker.pid()) {
                return Ok(());
            }
            // Whatever it has by now is in our keeping.
            let _ = taker.signal(Signal::KILL);
            taker.exited().await;
            let waited = waited.as_secs();
            let message = format!("the new gateway did not serve for {waited} s");
            let hint = "it was ended, and calls go on without it. See `segue logs gateway`";
            return Err(Trouble::new(Exit::Failed, message, hint));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The process that would hand over to the next one, if there is any: the one that serves.
async fn who_gives(home: &Home) -> Option<u32> {
    let stream = UnixStream::connect(socket(home)).await.ok()?;
    u32::try_from(stream.peer_cred().ok()?.pid()?).ok()
}

/// Whether the old gateway serves on, asked when the new one is no more. It is asked as by one that
/// wants to take over, and says no to that; one that has handed over is not there to be asked.
async fn still_serves(home: &Home) -> bool {
    let ask = async {
        let mut stream = UnixStream::connect(socket(home)).await?;
        stream.shutdown().await?;
        stream.read_u8().await
    };
    match timeout(ANSWER_MAX, ask).await {
        Ok(answer) => answer.is_ok(),
        // It is there, and busy.
        Err(_) => true,
    }
}

/// How many calls a process began with, if it is the one that serves.
pub(super) fn serves(home: &Home, pid: u32) -> Option<usize> {
    let up = std::fs::read(home.run().join("gateway.up")).ok()?;
    let up: Up = serde_json::from_slice(&up).ok()?;
    (up.pid == pid).then_some(up.calls)
}

/// Whether a process runs the file of this name.
fn runs(pid: u32, binary: &Binary) -> bool {
    let runs = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    runs.is_some() && runs == Path::new(&binary.program()).canonicalize().ok()
}

fn handed(home: &Home, pid: u32, stays: Option<u32>) -> Handed {
    Handed {
        pid,
        calls: serves(home, pid),
        stays,
    }
}
