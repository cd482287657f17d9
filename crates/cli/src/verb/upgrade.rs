//! `segue upgrade`: gateway, controller and supervisor become another binary, under live calls.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::args::{Format, UpgradeArgs};
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;
use crate::reach::never_ran;
use crate::supervise::{self, Outcome, Progress, Request};

/// How often it is looked how far things are.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a supervisor may take to hear what it is asked.
const HEARD_MAX: Duration = Duration::from_secs(10);

/// What the upgrade came to.
#[derive(Serialize)]
struct View<'a> {
    binary: &'a PathBuf,
    told: &'a [String],
    #[serde(flatten)]
    end: &'a Outcome,
}

pub(crate) async fn run(home: &Home, format: Format, args: &UpgradeArgs) -> anyhow::Result<Exit> {
    if !home.run().is_dir() {
        return Err(never_ran(home).into());
    }
    let binary = binary(args)?;
    if supervise::lock(home)?.is_some() {
        let message = format!(
            "no `segue serve` runs with state in {}",
            home.path().display()
        );
        let hint = "start it with the new binary: it finds what runs. Then `segue upgrade` brings \
                    gateway and controller up to it";
        return Err(Trouble::new(Exit::Unreachable, message, hint).into());
    }
    if Progress::read(home).is_some_and(|last| last.end.is_none()) {
        let hint = "wait for it: `segue status` shows the gateways meanwhile";
        return Err(Trouble::new(Exit::Refused, "an upgrade is under way already", hint).into());
    }
    let id = format!("{}-{}", std::process::id(), segue_gateway::clock::now().0);
    let request = Request {
        id: id.clone(),
        binary,
    };
    request.ask(home)?;
    tokio::select! {
        done = watch(home, &id, Duration::from_secs(args.timeout)) => finish(format, &done?),
        _ = tokio::signal::ctrl_c() => {
            if Request::take_back(home) {
                output::say("taken back: nothing was changed");
            } else {
                output::say("stopped watching; the upgrade goes on: see `segue serve`'s own words");
            }
            Ok(Exit::Interrupted)
        }
    }
}

/// The file, by its whole name: the supervisor runs in another folder.
fn binary(args: &UpgradeArgs) -> anyhow::Result<PathBuf> {
    let Some(named) = &args.binary else {
        return Ok(std::env::current_exe()?);
    };
    let found = named.canonicalize().ok().filter(|path| path.is_file());
    found.ok_or_else(|| {
        let message = format!("there is no file {}", named.display());
        let hint = "name the new segue binary, or leave --binary out to upgrade to this one";
        Trouble::new(Exit::Usage, message, hint).into()
    })
}

/// Shows what the supervisor says, until it is over.
async fn watch(home: &Home, id: &str, patience: Duration) -> anyhow::Result<Progress> {
    let began = Instant::now();
    let (mut shown, mut heard) = (0, false);
    loop {
        if let Some(progress) = Progress::read(home).filter(|progress| progress.id == id) {
            heard = true;
            for line in progress.told.iter().skip(shown) {
                output::say(line);
            }
            shown = progress.told.len();
            if progress.end.is_some() {
                return Ok(progress);
            }
        }
        if !heard && began.elapsed() > HEARD_MAX && Request::take_back(home) {
            let message = "`segue serve` does not hear: it is ending, or of an early version";
            let hint = "nothing was changed. One that is of an early version is left with SIGTERM \
                        (calls go on), and started again from the new binary";
            return Err(Trouble::new(Exit::Refused, message, hint).into());
        }
        if began.elapsed() > patience {
            let message = format!("not done after {} s; it goes on", patience.as_secs());
            let hint = "see what `segue serve` says, and `segue logs gateway`";
            return Err(Trouble::new(Exit::Interrupted, message, hint).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn finish(format: Format, progress: &Progress) -> anyhow::Result<Exit> {
    let Some(end) = &progress.end else {
        return Ok(Exit::Interrupted);
    };
    let view = View {
        binary: &progress.binary,
        told: &progress.told,
        end,
    };
    match end {
        Outcome::Done => {
            output::data(format, &view, || {
                "upgraded; no call was interrupted".to_owned()
            });
            Ok(Exit::Ok)
        }
        Outcome::Failed {
            exit,
            message,
            hint,
        } => {
            if format != Format::Table {
                output::data(format, &view, String::new);
            }
            Err(Trouble {
                exit: Exit::of(*exit),
                message: message.clone(),
                hint: hint.clone(),
            }
            .into())
        }
    }
}
