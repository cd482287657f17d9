//! `segue serve`: runs the gateway and the controller, and starts again what ends.
//!
//! They are processes of their own, found again by their records: the supervisor can be killed,
//! restarted or upgraded, and neither a call nor a rollout notices.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};
use segue_controller::platform::process::{Handle, Spawn};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::ConfigArgs;
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output::{self, Progress};
use crate::verb::process::configuration;

/// First wait before a process is started again, and the longest: a crash loop must not eat the
/// machine, and a single crash must not be felt.
const RESTART_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A process that ran this long was well; the next wait is the first one again.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// How long the processes may take to listen before that is worth a word.
const LISTEN_MAX: Duration = Duration::from_secs(15);

/// How long a worker without calls, or the controller, may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// How often things are looked at that do not announce themselves.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The two processes; the controller first, so that the gateway finds it at once.
const PROCESSES: [&str; 2] = ["controller", "gateway"];

pub(crate) async fn serve(home: &Home, args: &ConfigArgs) -> anyhow::Result<Exit> {
    configuration(&args.config)?;
    home.create()
        .with_context(|| format!("the state folder {} cannot be made", home.path().display()))?;
    let _lock = lock(home)?;
    raise_descriptor_limit();
    let config = std::path::absolute(&args.config)?;
    let mut children = Vec::new();
    for name in PROCESSES {
        children.push(Child::find_or_start(home, &config, name)?);
    }
    let [mut controller, mut gateway]: [Child; 2] = children
        .try_into()
        .ok()
        .context("there are two processes")?;
    announce(home).await;
    let mut term = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            () = controller.keep(home, &config) => {}
            () = gateway.keep(home, &config) => {}
            _ = tokio::signal::ctrl_c() => return wind_down(home, Some(controller), Some(gateway)).await,
            _ = term.recv() => {
                output::say("leaving: gateway, controller and workers go on; `segue serve` finds them again");
                return Ok(Exit::Ok);
            }
        }
    }
}

/// Ends what runs with this state folder: through its supervisor if there is one, else by itself.
pub(crate) async fn stop(home: &Home) -> anyhow::Result<Exit> {
    if let Ok(_lock) = lock(home) {
        let controller = Child::adopt(home, "controller")?;
        let gateway = Child::adopt(home, "gateway")?;
        if controller.is_none() && gateway.is_none() {
            output::say("nothing is running");
        }
        return wind_down(home, controller, gateway).await;
    }
    let text = fs::read_to_string(home.run().join("serve.pid"))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw);
    kill_process(pid.context("serve.pid holds no process")?, Signal::INT)?;
    output::say("asked `segue serve` to end; it waits for its live calls");
    while lock(home).is_err() {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
    Ok(Exit::Ok)
}

/// One supervisor per state folder.
fn lock(home: &Home) -> anyhow::Result<fs::File> {
    let file = fs::File::create(home.path().join("serve.lock"))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let message = format!(
            "another `segue serve` runs with state in {}",
            home.path().display()
        );
        let hint = "look at it with `segue status`, end it with `segue stop`, or give this one \
                    another --home";
        return Err(Trouble::new(Exit::Failed, message, hint).into());
    }
    let mut pid = fs::File::create(home.run().join("serve.pid"))?;
    writeln!(pid, "{}", std::process::id())?;
    Ok(file)
}

/// A call is two descriptors; the usual soft limit of 1024 would be 500 calls.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
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

/// A supervised process.
struct Child {
    name: &'static str,
    handle: Handle,
    started: Instant,
    wait: Duration,
}

impl Child {
    fn adopt(home: &Home, name: &'static str) -> anyhow::Result<Option<Self>> {
        let handle = Handle::adopt(&record(home, name))
            .with_context(|| format!("cannot tell whether a {name} still runs"))?;
        let (started, wait) = (Instant::now(), RESTART_AFTER.0);
        Ok(handle.map(|handle| Self {
            name,
            handle,
            started,
            wait,
        }))
    }

    fn find_or_start(home: &Home, config: &Path, name: &'static str) -> anyhow::Result<Self> {
        if let Some(child) = Self::adopt(home, name)? {
            output::say(&format!(
                "found the running {name} (pid {})",
                child.handle.pid()
            ));
            return Ok(child);
        }
        let handle = start(home, config, name)?;
        Ok(Self {
            name,
            handle,
            started: Instant::now(),
            wait: RESTART_AFTER.0,
        })
    }

    /// Waits for its end, then for a while, then starts it again.
    async fn keep(&mut self, home: &Home, config: &Path) {
        let exit = self.handle.exited().await;
        if self.started.elapsed() >= WELL_AFTER {
            self.wait = RESTART_AFTER.0;
        }
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(RESTART_AFTER.1);
        output::say(&format!("{}: {exit}; starting it again", self.name));
        match start(home, config, self.name) {
            Ok(handle) => {
                self.handle = handle;
                self.started = Instant::now();
            }
            // The next turn tries again, after a longer wait.
            Err(error) => output::say(&format!("{}: {error:#}", self.name)),
        }
    }
}

fn record(home: &Home, name: &str) -> PathBuf {
    home.run().join(format!("{name}.json"))
}

fn start(home: &Home, config: &Path, name: &str) -> anyhow::Result<Handle> {
    let addr = if name == "gateway" {
        "gateway.addr"
    } else {
        "api.addr"
    };
    let _ = fs::remove_file(home.run().join(addr));
    let spawn = Spawn {
        program: std::env::current_exe()?.display().to_string(),
        args: vec![
            name.to_owned(),
            "--config".to_owned(),
            config.display().to_string(),
            "--home".to_owned(),
            home.path().display().to_string(),
        ],
        env: BTreeMap::new(),
        dir: None,
        log: home.log().join(format!("{name}.log")),
        record_path: record(home, name),
        note: serde_json::Value::Null,
    };
    spawn
        .start()
        .with_context(|| format!("the {name} cannot be started"))
}

/// Ends everything, calls first by themselves.
async fn wind_down(
    home: &Home,
    controller: Option<Child>,
    gateway: Option<Child>,
) -> anyhow::Result<Exit> {
    if let Some(gateway) = &gateway {
        gateway.handle.signal(Signal::TERM).ok();
        if !calls_end(home, &gateway.handle).await {
            output::say("left running in the background; `segue serve` finds it again");
            return Ok(Exit::Interrupted);
        }
    }
    if let Some(gateway) = gateway {
        gateway.handle.forget()?;
    }
    if let Some(controller) = controller {
        controller.handle.stop(GRACE).await;
        controller.handle.forget()?;
    }
    // No gateway, no calls: nobody is cut off.
    stop_workers(&home.path().join("workers")).await?;
    output::say("everything has ended; `segue serve` goes on where it was");
    Ok(Exit::Ok)
}

/// Waits until the gateway, which takes no new calls any more, has ended. Answers whether it has.
async fn calls_end(home: &Home, gateway: &Handle) -> bool {
    let mut progress = Progress::new();
    loop {
        let live: Option<u64> = Client::find(home)
            .and_then(|client| client.status())
            .map(|status| status.agents.iter().map(|agent| agent.live).sum())
            .ok();
        if let Some(live) = live.filter(|live| *live > 0) {
            let detail = "Ctrl-C again leaves it running in the background";
            progress.show(
                &format!("no new calls; {live} live calls end by themselves"),
                detail,
            );
        }
        tokio::select! {
            _ = gateway.exited() => {
                progress.clear();
                return true;
            }
            _ = tokio::signal::ctrl_c() => {
                progress.clear();
                return false;
            }
            () = tokio::time::sleep(LOOK_EVERY * 5) => {}
        }
    }
}

/// Stops every worker that is on record: one folder for each agent.
async fn stop_workers(records: &Path) -> anyhow::Result<()> {
    let mut stopping = tokio::task::JoinSet::new();
    let agents = fs::read_dir(records).into_iter().flatten().flatten();
    for record in agents
        .filter_map(|agent| fs::read_dir(agent.path()).ok())
        .flatten()
    {
        let path = record?.path();
        let is_record = path
            .extension()
            .is_some_and(|extension| extension == "json");
        if is_record && let Some(worker) = Handle::adopt(&path)? {
            stopping.spawn(async move {
                worker.stop(GRACE).await;
                worker.forget()
            });
        }
    }
    while let Some(stopped) = stopping.join_next().await {
        stopped??;
    }
    Ok(())
}
