//! `segue serve`: runs the gateway and the controller, and starts again what ends.
//!
//! They are processes of their own, found again by their records: the supervisor can be killed,
//! restarted or upgraded, and neither a call nor a rollout notices.

mod binary;
mod child;
mod dispatching;
mod door;
mod draining;
mod ending;
mod hand_over;
mod journey;
pub(crate) mod keeper;
mod try_out;
mod upgrade;
mod wishes;

use std::fs;
use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};

use self::child::{Child, Program, Turn};
use self::dispatching::Dispatching;
use self::draining::Draining;
use self::ending::{Ending, wind_down};
pub(crate) use self::journey::{Outcome, Progress};
use self::upgrade::Parts;
pub(crate) use self::wishes::Request;
use self::wishes::{Wish, Wishes};
use crate::args::ConfigArgs;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;
use crate::reach::never_ran;
use crate::verb::process::configuration;

/// How long the processes may take to listen before that is worth a word.
const LISTEN_MAX: Duration = Duration::from_secs(15);

/// How often the lock is tried by a supervisor that has just become another binary.
const LOCK_TRIES: usize = 10;

/// How long a supervisor that is asked to go waits for a gateway that has just crashed: some
/// milliseconds are enough, and systemd ends this process after ten seconds.
const SETTLED_MAX: Duration = Duration::from_secs(5);

/// How often things are looked at that do not announce themselves.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) async fn serve(home: &Home, args: &ConfigArgs) -> anyhow::Result<Exit> {
    configuration(&args.config)?;
    home.create()
        .with_context(|| format!("the state folder {} cannot be made", home.path().display()))?;
    let _lock = lock_soon(home).await?.ok_or_else(|| taken(home))?;
    // Before anything is started: from here on no signal ends this without its children.
    let mut wishes = Wishes::listen(home)?;
    wishes.clear()?;
    segue_gateway::descriptors::make_room();
    // Before the gateway: it looks for it when it starts.
    let _keeper = keeper::start(home);
    let config = std::path::absolute(&args.config)?;
    let mut draining = Draining::find(home)?;
    hand_over::see_through(home, &mut draining).await?;
    // The controller first, so that the gateway finds it at once.
    let mut controller = Child::find_or_start(home, &config, Program::controller())?;
    let id = draining.free_id(home)?;
    let mut gateway = Child::find_or_start(home, &config, Program::gateway(id))?;
    let mut dispatching = Dispatching::find_or_start(home, &config).await?;
    let mut announced = pin!(announce(home));
    let mut is_announced = false;
    let resumed = upgrade::resume(Parts {
        home,
        config: &config,
        controller: &mut controller,
        gateway: &mut gateway,
        draining: &mut draining,
    });
    let mut becomes = resumed.await;
    loop {
        let pid = gateway.pid();
        let due = async {
            match &mut becomes {
                Some(becoming) => becoming.is_due(home, pid).await,
                None => std::future::pending().await,
            }
        };
        // What more than one part is needed for is done outside, where all of them are free.
        let next = tokio::select! {
            () = &mut announced, if !is_announced => {
                is_announced = true;
                None
            }
            _ = controller.keep(home, &config) => None,
            () = draining.keep(home) => None,
            () = dispatching.keep(home, &config) => None,
            turn = gateway.keep(home, &config) => (turn == Turn::Closed).then_some(Next::Gateway),
            is_due = due => Some(Next::Becomes { is_due }),
            wish = wishes.next() => Some(Next::Wish(wish)),
        };
        let mut parts = Parts {
            home,
            config: &config,
            controller: &mut controller,
            gateway: &mut gateway,
            draining: &mut draining,
        };
        match next {
            None => {}
            Some(Next::Gateway) => parts.next_gateway()?,
            Some(Next::Becomes { is_due }) => {
                let becoming = becomes.take();
                match (wishes.now().await, becoming) {
                    // Whoever wants it to end does not want it to begin again.
                    (Some(wish), _) => wishes.put_back(wish),
                    (None, Some(becoming)) if is_due => output::trouble(&becoming.now(home)),
                    (None, Some(becoming)) => becoming.never(home),
                    (None, None) => {}
                }
            }
            Some(Next::Wish(Wish::End)) => {
                settle(parts).await?;
                let ending = Ending {
                    controller: Some(controller),
                    gateway: Some(gateway),
                    dispatching,
                    draining,
                };
                return wind_down(home, &mut wishes, ending).await;
            }
            Some(Next::Wish(Wish::Leave)) => {
                settle(parts).await?;
                output::say(
                    "leaving: gateway, controller and workers go on; `segue serve` finds them again",
                );
                return Ok(Exit::Ok);
            }
            Some(Next::Wish(Wish::Upgrade(_))) if becomes.is_some() => {
                output::say("an upgrade is under way already");
            }
            Some(Next::Wish(Wish::Upgrade(request))) => {
                becomes = upgrade::upgrade(parts, request).await;
            }
            Some(Next::Wish(Wish::Reload)) => {
                controller.hang_up();
                gateway.hang_up();
                output::say(
                    "the configuration is read again: see what came of it with `segue logs controller`",
                );
            }
        }
    }
}

/// What the supervisor does next.
enum Next {
    /// Another gateway beside one that takes no new calls.
    Gateway,
    /// It becomes another binary, or gives that up.
    Becomes {
        is_due: bool,
    },
    Wish(Wish),
}

/// Keeps the gateway until nothing of one that crashed waits in our keeping, which ends with us.
async fn settle(mut parts: Parts<'_>) -> anyhow::Result<()> {
    let home = parts.home;
    if keeper::is_idle(home).await {
        return Ok(());
    }
    output::say("a gateway has crashed; first its calls are taken back");
    let mut idle = pin!(async {
        while !keeper::is_idle(home).await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    let mut late = pin!(tokio::time::sleep(SETTLED_MAX));
    loop {
        tokio::select! {
            biased;
            () = &mut idle => return Ok(()),
            () = &mut late => {
                output::say("warning: the calls of a gateway that crashed were not taken back, and end");
                return Ok(());
            }
            kept = parts.keep_gateway() => kept?,
        }
    }
}

/// Ends what runs with this state folder: through its supervisor if there is one, and by itself
/// what is left then.
pub(crate) async fn stop(home: &Home) -> anyhow::Result<Exit> {
    if !home.run().is_dir() {
        return Err(never_ran(home).into());
    }
    let mut wishes = Wishes::listen(home)?;
    let mut is_asked = false;
    let _lock = loop {
        if let Some(lock) = lock(home)? {
            break lock;
        }
        // Again and again: a supervisor that has only just started clears what was asked before.
        wishes.ask()?;
        if !is_asked {
            output::say("asked `segue serve` to end; it waits for its live calls");
            is_asked = true;
        }
        tokio::select! {
            () = wishes.leave() => return Ok(Exit::Interrupted),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    };
    wishes.clear()?;
    let controller = Child::find(home, Program::controller())?;
    let mut draining = Draining::find(home)?;
    hand_over::see_through(home, &mut draining).await?;
    let gateway = Child::find(home, Program::gateway(draining::first_id()))?;
    let dispatching = Dispatching::find(home)?;
    let is_quiet = !draining.has_live() && !dispatching.is_running();
    if controller.is_none() && gateway.is_none() && is_quiet {
        if is_asked {
            output::say("everything has ended; `segue serve` goes on where it was");
            return Ok(Exit::Ok);
        }
        output::say("nothing is running");
    }
    let ending = Ending {
        controller,
        gateway,
        dispatching,
        draining,
    };
    wind_down(home, &mut wishes, ending).await
}

/// One supervisor per state folder. `None`: there is another.
pub(crate) fn lock(home: &Home) -> io::Result<Option<fs::File>> {
    let file = fs::File::create(home.path().join("serve.lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(error) if error == rustix::io::Errno::WOULDBLOCK => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same for a supervisor that has just become another binary: who looked whether one runs held
/// the lock for a moment.
async fn lock_soon(home: &Home) -> io::Result<Option<fs::File>> {
    let became = Progress::read(home).is_some_and(|progress| progress.end.is_none());
    for _ in 0..if became { LOCK_TRIES } else { 0 } {
        if let Some(lock) = lock(home)? {
            return Ok(Some(lock));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    lock(home)
}

fn taken(home: &Home) -> Trouble {
    let message = format!(
        "another `segue serve` runs with state in {}",
        home.path().display()
    );
    let hint = "look at it with `segue status`, end it with `segue stop`, or give this one \
                another --home";
    Trouble::new(Exit::Failed, message, hint)
}

/// Says where things are, once they are there.
async fn announce(home: &Home) {
    let began = Instant::now();
    while began.elapsed() < LISTEN_MAX {
        if let (Some(calls), Some(api)) = (home.gateway_addr(), home.api_addr()) {
            output::say(&format!("calls: ws://{calls}    admin API: http://{api}"));
            output::say(&format!("state: {}", home.path().display()));
            output::say(
                "hint: `segue deploy LABEL` brings a release in; Ctrl-C ends this once calls have ended",
            );
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    output::say(
        "warning: nothing listens yet; see `segue logs gateway` and `segue logs controller`",
    );
}
