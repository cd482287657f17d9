//! Where the demo plays: a folder, a configuration, and a `segue serve` of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use segue_controller::api::wire::AgentView;
use segue_core::names::AgentName;
use segue_core::table::Epoch;

use crate::args::DemoArgs;
use crate::client::Client;
use crate::demo::crowd::CALL_MS_MAX;
use crate::exit::Exit;
use crate::home::Home;
use crate::output::{self, Progress};
use crate::verb::act::shares;
use crate::verb::status::phase;

/// The agent of the demo.
pub(crate) const AGENT: &str = "receptionist";

/// How long `segue serve` may take to answer.
const START_MAX: Duration = Duration::from_secs(20);

/// How long it may take to end once the callers are gone.
const END_MAX: Duration = Duration::from_secs(20);

/// How long a gateway may take to act by a table.
const ACK_MAX: Duration = Duration::from_secs(10);

/// How often the rollout is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The stage.
pub(crate) struct Stage {
    dir: PathBuf,
    home: Home,
    serve: Child,
    progress: Progress,
    began: Instant,
}

impl Stage {
    /// Makes the folder, writes the configuration and starts `segue serve`.
    pub(crate) fn build(args: &DemoArgs) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("segue-demo-{}", std::process::id()));
        fs::create_dir_all(dir.join("logs")).context("the demo needs a folder for its logs")?;
        let config = dir.join("segue.toml");
        fs::write(&config, configuration(&dir, args))?;
        let home = Home::find(Some(&dir.join("state")))?;
        let log = fs::File::create(dir.join("serve.log"))?;
        let serve = Command::new(std::env::current_exe()?)
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .arg("--home")
            .arg(home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the demo, which then ends this in order.
            .process_group(0)
            .spawn()
            .context("`segue serve` cannot be started")?;
        Ok(Self {
            dir,
            home,
            serve,
            progress: Progress::new(),
            began: Instant::now(),
        })
    }

    /// Waits until calls and the API are taken.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        while self.began.elapsed() < START_MAX {
            if let Some(status) = self.serve.try_wait()? {
                anyhow::bail!(
                    "`segue serve` ended with {status}; see {}",
                    self.serve_log()
                );
            }
            if self.home.gateway_addr().is_some()
                && self.client().is_ok_and(|client| client.status().is_ok())
            {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::bail!(
            "`segue serve` did not answer in time; see {}",
            self.serve_log()
        )
    }

    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::find(&self.home)?)
    }

    /// Where callers call.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        let addr = self
            .home
            .gateway_addr()
            .context("the gateway does not listen")?;
        Ok(format!("ws://{addr}/ws/{{call}}"))
    }

    /// What a caller must send to be let through to a release that takes no new calls.
    pub(crate) fn override_headers(&self, release: &str) -> anyhow::Result<Vec<(String, String)>> {
        let token = self
            .home
            .override_token()
            .context("there is no override token")?;
        Ok(vec![
            ("X-Segue-Override".to_owned(), release.to_owned()),
            ("X-Segue-Override-Token".to_owned(), token),
        ])
    }

    /// The folder the judge reads.
    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    fn serve_log(&self) -> String {
        self.dir.join("serve.log").display().to_string()
    }

    /// Says one line, with the time since the demo began.
    pub(crate) fn say(&mut self, text: &str) {
        let at = self.began.elapsed().as_secs_f64();
        self.progress.say(&format!("[{at:5.1} s] {text}"));
    }

    /// Looks at the rollout until `done` says so, showing it meanwhile.
    pub(crate) async fn watch(
        &mut self,
        what: &str,
        within: Duration,
        mut done: impl FnMut(&AgentView) -> bool,
    ) -> anyhow::Result<AgentView> {
        let deadline = Instant::now() + within;
        let mut last = None;
        while Instant::now() < deadline {
            match self.client()?.agent(AGENT) {
                Ok(view) => {
                    self.show(&view);
                    if done(&view) {
                        return Ok(view);
                    }
                    last = Some(view);
                }
                Err(error) if error.exit == Exit::Unreachable => {
                    self.progress
                        .show("         controller away", "calls go on");
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let was = last.map_or_else(|| "nothing".to_owned(), |view| phase(&view));
        anyhow::bail!(
            "{what} did not come within {} s; last seen: {was}",
            within.as_secs()
        )
    }

    /// Waits until every gateway acts by an epoch.
    pub(crate) async fn acted_by(&mut self, epoch: Epoch) -> anyhow::Result<()> {
        let deadline = Instant::now() + ACK_MAX;
        while Instant::now() < deadline {
            let status = self.client()?.status()?;
            let acts = |epochs: &BTreeMap<AgentName, Epoch>| epochs.values().all(|is| *is >= epoch);
            if status.gateways.iter().all(|gateway| acts(&gateway.epochs)) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::bail!(
            "a gateway did not acknowledge within {} s",
            ACK_MAX.as_secs()
        )
    }

    /// Shows the rollout for a while.
    pub(crate) async fn linger(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            if let Ok(view) = self.client()?.agent(AGENT) {
                self.show(&view);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn show(&mut self, view: &AgentView) {
        let at = self.began.elapsed().as_secs_f64();
        let text = format!("{}  [{at:.0} s]", shares(view));
        self.progress
            .show(&format!("         {}", phase(view)), &text);
    }

    /// Kills the controller with SIGKILL; the supervisor starts it again.
    pub(crate) fn kill_controller(&mut self) -> anyhow::Result<()> {
        let record = fs::read_to_string(self.home.run().join("controller.json"))?;
        let record: serde_json::Value = serde_json::from_str(&record)?;
        let pid = record["pid"]
            .as_u64()
            .context("the controller's record names no process")?;
        kill(u32::try_from(pid)?)
    }

    /// Whether the chain of the audit log holds.
    pub(crate) fn audit_verified(&self) -> bool {
        self.client()
            .is_ok_and(|client| client.verify().is_ok_and(|view| view.ok))
    }

    /// Ends `segue serve`, in order while it answers.
    pub(crate) async fn end(&mut self) {
        self.progress.clear();
        let pid = Pid::from_child(&self.serve);
        let _ = kill_process(pid, Signal::INT);
        let deadline = Instant::now() + END_MAX;
        while Instant::now() < deadline {
            if matches!(self.serve.try_wait(), Ok(Some(_))) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        output::say(&format!(
            "warning: `segue serve` did not end; see {}",
            self.serve_log()
        ));
        let _ = self.serve.kill();
    }

    /// Copies what the smoke calls logged to where the judge reads.
    pub(crate) fn collect(&self) -> anyhow::Result<()> {
        let smoke = self.home.log().join("smoke.jsonl");
        if smoke.exists() {
            fs::copy(smoke, self.logs().join("smoke.jsonl"))?;
        }
        Ok(())
    }

    /// Takes the folder away, unless it is worth a look.
    pub(crate) fn leave(&self, keep: bool) {
        if keep {
            output::say(&format!("logs and state are in {}", self.dir.display()));
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Kills a process with SIGKILL.
pub(crate) fn kill(pid: u32) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no such process")?;
    kill_process(pid, Signal::KILL)?;
    Ok(())
}

fn configuration(dir: &Path, args: &DemoArgs) -> String {
    // Every release has room for everybody, so that the capacity gate has something to grant.
    let capacity = args.callers;
    let call_s = CALL_MS_MAX / 1_000;
    format!(
        r#"# Written by `segue demo`. Windows are shortened: calls last at most {call_s} s.
[gateway]
listen = "127.0.0.1:0"

[api]
listen = "127.0.0.1:0"

[agents.{AGENT}]
command = ["segue", "sample-agent", "--port", "{{port}}", "--release", "{{release}}"]
env = {{ SAMPLE_CALL_LOG = "{log}" }}
workers = 2
capacity = {capacity}
health = "/healthz"
stickiness = "2s"
straggler_buffer = "3s"
standby = "5m"

[agents.{AGENT}.smoke]
scenario = "hours"

[[agents.{AGENT}.steps]]
share = "10%"
min_duration = "3s"

[[agents.{AGENT}.steps]]
share = "50%"
min_calls = 3
min_duration = "3s"
pause = true
"#,
        log = dir.join("logs").join("workers.jsonl").display(),
    )
}
