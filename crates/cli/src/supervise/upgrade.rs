//! An upgrade: gateway, controller and supervisor become another binary, and no call notices.
//!
//! In this order, because each part can be gone back on as long as the next one has not begun: the
//! binary is tried, the gateway hands over (see `segue_gateway::handoff`), the controller is started
//! anew and has to answer, and at last the supervisor becomes the new binary itself, with the same
//! process id. Each step is written down before it is done, so that a supervisor that is killed on
//! the way goes on where it was.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use segue_controller::platform::process::Handle;
use segue_gateway::handoff::Misfit;

use super::binary::Binary;
use super::child::{Child, Program, Turn, last_words};
use super::draining::Draining;
use super::hand_over::{self, Handed};
use super::journey::{Journey, Outcome, Step};
use super::keeper;
use super::try_out::{TriedOut, try_out};
use super::wishes::Request;
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;

/// How long a controller may take to end by itself: it writes everything down as it goes.
const CONTROLLER_GRACE: Duration = Duration::from_secs(5);

/// How long a new controller may take to answer: it replays its journal first.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// How long the supervisor waits for the gateway before it becomes another program: a gateway that
/// crashed is back within a second, or its binary is of no use.
const SETTLED_MAX: Duration = Duration::from_secs(30);

/// What is upgraded.
pub(super) struct Parts<'a> {
    pub(super) home: &'a Home,
    pub(super) config: &'a Path,
    pub(super) controller: &'a mut Child,
    pub(super) gateway: &'a mut Child,
    pub(super) draining: &'a mut Draining,
}

impl Parts<'_> {
    /// Waits until the gateway was started again, or another one beside it. May be dropped while it
    /// waits.
    pub(super) async fn keep_gateway(&mut self) -> anyhow::Result<()> {
        match self.gateway.keep(self.home, self.config).await {
            Turn::Restarted => Ok(()),
            Turn::Closed => self.next_gateway(),
        }
    }

    /// Leaves the gateway alone, which takes no new calls, and starts another one.
    pub(super) fn next_gateway(&mut self) -> anyhow::Result<()> {
        self.draining.take(self.home, self.gateway)?;
        let id = self.draining.free_id(self.home)?;
        *self.gateway = Child::find_or_start(self.home, self.config, Program::gateway(id))?;
        Ok(())
    }
}

/// The binary that this process is to become, as soon as nobody loses anything by it.
pub(super) struct Becoming {
    binary: PathBuf,
    deadline: Instant,
    is_told: bool,
}

/// Upgrades everything but this process. `Some`: what it is to become.
pub(super) async fn upgrade(parts: Parts<'_>, request: Request) -> Option<Becoming> {
    let mut journey = Journey::begin(parts.home, request);
    journey.say(&format!("upgrading to {}", journey.binary().display()));
    go_on(parts, journey).await
}

/// Goes on with an upgrade that an earlier supervisor had begun.
pub(super) async fn resume(parts: Parts<'_>) -> Option<Becoming> {
    let mut journey = Journey::find(parts.home)?;
    match journey.step() {
        Step::Trying => {
            journey.end(Outcome::failed(
                Exit::Failed,
                "the supervisor was started again before anything was changed",
                "ask again with `segue upgrade`",
            ));
            None
        }
        Step::Supervisor => {
            let version = env!("CARGO_PKG_VERSION");
            journey.say(&format!(
                "supervisor: runs {version} (pid {})",
                std::process::id()
            ));
            journey.end(Outcome::Done);
            None
        }
        Step::Gateway | Step::Controller => {
            journey.say("the supervisor was started again, and goes on with the upgrade");
            go_on(parts, journey).await
        }
    }
}

async fn go_on(mut parts: Parts<'_>, mut journey: Journey) -> Option<Becoming> {
    match steps(&mut parts, &mut journey).await {
        Ok(()) => {
            journey.enter(Step::Supervisor);
            Some(Becoming {
                binary: journey.binary().to_owned(),
                deadline: Instant::now() + SETTLED_MAX,
                is_told: false,
            })
        }
        Err(error) => {
            let trouble = error.downcast_ref::<Trouble>();
            journey.end(Outcome::Failed {
                exit: trouble.map_or(Exit::Failed, |trouble| trouble.exit).code(),
                message: format!("{error:#}"),
                hint: trouble.and_then(|trouble| trouble.hint.clone()),
            });
            None
        }
    }
}

async fn steps(parts: &mut Parts<'_>, journey: &mut Journey) -> anyhow::Result<()> {
    if journey.step() == Step::Trying {
        fits(parts, journey).await?;
        journey.enter(Step::Gateway);
    }
    if journey.step() == Step::Gateway {
        let handed = hand_over::run(parts, journey.binary()).await?;
        journey.say(&said(&handed));
        journey.enter(Step::Controller);
    }
    controller(parts, journey).await
}

fn said(handed: &Handed) -> String {
    let with = match handed.calls {
        Some(1) => " with 1 live call".to_owned(),
        Some(calls) => format!(" with {calls} live calls"),
        None => String::new(),
    };
    let moved = format!("gateway: pid {} took over{with}", handed.pid);
    match handed.stays {
        Some(pid) => format!(
            "{moved}; pid {pid} keeps the calls that cannot move (TLS) until they end, hands on \
             those that are being set up, and takes no new ones"
        ),
        None => moved,
    }
}

/// Whether the binary is one that can take over, before anything is touched.
async fn fits(parts: &Parts<'_>, journey: &mut Journey) -> Result<(), Trouble> {
    let TriedOut { versions } = try_out(journey.binary(), parts.config).await?;
    let ours = segue_gateway::handoff::Versions::ours();
    ours.agree(&versions)
        .map_err(|misfit| Trouble::new(Exit::Refused, misfit.to_string(), Misfit::HINT))?;
    journey.say(&format!("from {} to {}", ours.binary, versions.binary));
    Ok(())
}

/// Starts the controller anew. One that does not come up is replaced by the old one.
async fn controller(parts: &mut Parts<'_>, journey: &mut Journey) -> anyhow::Result<()> {
    let before = parts.controller.binary().clone();
    let failed = match restart(parts, Binary::named(journey.binary())).await {
        Ok(()) => {
            let pid = parts.controller.pid();
            journey.say(&format!("controller: pid {pid} answers"));
            return Ok(());
        }
        Err(error) => error,
    };
    journey.say(&format!(
        "controller: {failed:#}; the one before is started again"
    ));
    let again = restart(parts, before).await;
    let now = match again {
        Ok(()) => "the controller before runs again",
        Err(_) => "the controller before does not answer either",
    };
    let message = format!("the new controller does not answer: {failed:#}; {now}");
    let hint = "the gateway runs the new binary, and calls go on; see `segue logs controller`";
    Err(Trouble::new(Exit::Failed, message, hint).into())
}

async fn restart(parts: &mut Parts<'_>, binary: Binary) -> anyhow::Result<()> {
    let program = Program::controller();
    parts.controller.stop(CONTROLLER_GRACE).await;
    let log_from = program.log_length(parts.home);
    let handle = program.start_from(&binary, parts.home, parts.config)?;
    parts.controller.becomes(handle, binary, log_from);
    let deadline = Instant::now() + ANSWER_MAX;
    let mut answer = std::pin::pin!(answers(parts.home, deadline));
    loop {
        tokio::select! {
            answered = &mut answer => {
                anyhow::ensure!(answered, "it did not answer for {} s", ANSWER_MAX.as_secs());
                parts.controller.hold_binary();
                return Ok(());
            }
            exit = parts.controller.exited() => {
                let words = parts.controller.last_words().join(" ");
                anyhow::bail!("{exit}: {words}");
            }
            // Calls come before controllers.
            turn = parts.gateway.keep(parts.home, parts.config) => {
                if turn == Turn::Closed {
                    parts.next_gateway()?;
                }
            }
        }
    }
}

async fn answers(home: &Home, deadline: Instant) -> bool {
    while Instant::now() < deadline {
        let home = home.clone();
        let ask = move || {
            Client::find(&home)
                .and_then(|client| client.status())
                .is_ok()
        };
        if tokio::task::spawn_blocking(ask).await.unwrap_or(false) {
            return true;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    false
}

impl Becoming {
    /// Waits until the gateway `pid` serves and nothing of one that crashed waits in our keeping, which
    /// ends with this program. False: it did not come to that in time. May be dropped while it waits.
    pub(super) async fn is_due(&mut self, home: &Home, pid: u32) -> bool {
        while !(hand_over::serves(home, pid).is_some() && keeper::is_idle(home).await) {
            if Instant::now() >= self.deadline {
                return false;
            }
            if !self.is_told {
                self.is_told = true;
                if let Some(mut journey) = Journey::find(home) {
                    journey.say("supervisor: waits until the gateway has its calls back");
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        true
    }

    /// Becomes it, with the same process id and arguments. Returns only if it cannot.
    pub(super) fn now(self, home: &Home) -> anyhow::Error {
        use std::os::unix::process::CommandExt as _;
        let error = std::process::Command::new(&self.binary)
            .args(std::env::args_os().skip(1))
            .exec();
        let why = format!("the supervisor cannot become the new binary: {error}");
        stays(home, &why);
        anyhow::Error::new(error).context("the supervisor stays what it is")
    }

    /// Gives it up.
    pub(super) fn never(self, home: &Home) {
        let why = format!(
            "the supervisor does not become {}: the gateway crashed, and has not had its calls back \
             for {} s",
            self.binary.display(),
            SETTLED_MAX.as_secs()
        );
        stays(home, &why);
    }
}

fn stays(home: &Home, why: &str) {
    if let Some(mut journey) = Journey::find(home) {
        journey.end(Outcome::failed(
            Exit::Failed,
            why,
            "gateway and controller run the new binary already; start `segue serve` anew at your \
             leisure",
        ));
    }
}

/// Last words of a process that ended on the way, as one error: with its own hint if it gave one.
pub(super) fn ended(what: &str, handle: &Handle, log_from: u64) -> Trouble {
    let words = last_words(&handle.record().log, log_from);
    let strip = |prefix: &str| {
        let mut of = words.iter().filter_map(|line| line.strip_prefix(prefix));
        of.next().map(str::to_owned)
    };
    let message = strip("error: ").unwrap_or_else(|| words.join(" "));
    Trouble {
        exit: Exit::Failed,
        message: format!("{what}: {message}"),
        hint: strip("hint: ").or_else(|| {
            Some("nothing was changed, and calls go on; see `segue logs gateway`".to_owned())
        }),
    }
}
