//! A place to try things: a folder, a configuration, `segue serve`, people who call, and the judge.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use segue_voice::caller::{CallPlan, CallReport, call};
use segue_voice::calllog::{CallLog, OperatorLog, Switch};
use segue_voice::judge::{Verdict, judge_dir};
use serde_json::Value;
use tokio::task::JoinSet;

/// The binary under test.
pub(crate) const SEGUE: &str = env!("CARGO_BIN_EXE_segue");

/// The agent of the tests.
pub(crate) const AGENT: &str = "desk";

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

static SITES: AtomicU32 = AtomicU32::new(0);

/// A place to try things. Dropping it ends everything it started, by force.
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    serve: Option<Child>,
    pub(crate) operator: OperatorLog,
    log: Arc<CallLog>,
}

/// What the agent's table holds beside the command; tests replace lines of it.
pub(crate) const SETTINGS: &str = r#"
workers = 2
capacity = 50
health = "/healthz"
stickiness = "1s"
straggler_buffer = "1s"
standby = "5m"
ready_timeout = "15s"
"#;

/// Gate and ramp of most tests.
pub(crate) const RAMP: &str = r#"
[agents.desk.smoke]
scenario = "hours"

[[agents.desk.steps]]
share = "50%"
min_duration = "1s"
"#;

impl Site {
    /// A folder with a configuration; nothing runs yet.
    pub(crate) fn prepare(settings: &str, rest: &str) -> Self {
        let number = SITES.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("segue-it-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("logs")).unwrap();
        let config = format!(
            r#"[gateway]
listen = "127.0.0.1:0"

[api]
listen = "127.0.0.1:0"

[agents.{AGENT}]
command = ["segue", "sample-agent", "--port", "{{port}}", "--release", "{{release}}"]
env = {{ SAMPLE_CALL_LOG = "{}" }}
{settings}
{rest}"#,
            dir.join("logs/workers.jsonl").display()
        );
        fs::write(dir.join("segue.toml"), config).unwrap();
        let operator = OperatorLog::open(&dir.join("logs/operator.jsonl")).unwrap();
        let log = Arc::new(CallLog::open(&dir.join("logs/callers.jsonl")).unwrap());
        Self {
            dir,
            serve: None,
            operator,
            log,
        }
    }

    /// The usual place, with `segue serve` running.
    pub(crate) async fn open() -> Self {
        Self::open_with(SETTINGS, RAMP).await
    }

    /// A place with other settings.
    pub(crate) async fn open_with(settings: &str, rest: &str) -> Self {
        let mut site = Self::prepare(settings, rest);
        site.serve().await;
        site
    }

    /// Starts `segue serve` and waits until it answers.
    pub(crate) async fn serve(&mut self) {
        self.spawn_serve();
        self.until("segue serve answers", || {
            self.state("run/gateway.addr").is_some() && self.try_json(&["status"]).is_some()
        })
        .await;
    }

    /// Starts `segue serve` and waits for nothing.
    pub(crate) fn spawn_serve(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("serve.log"))
            .unwrap();
        let serve = self
            .command(&["serve"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.serve = Some(serve);
    }

    /// What `segue serve` has said, in all its lives.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.dir.join("serve.log")).unwrap_or_default()
    }

    /// Sends the supervisor a signal, and does not wait.
    pub(crate) fn signal_serve(&self, signal: Signal) {
        let serve = self.serve.as_ref().expect("segue serve runs");
        kill_process(Pid::from_child(serve), signal).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SEGUE);
        command
            .args(args)
            .current_dir(&self.dir)
            .env("SEGUE_HOME", self.home())
            .env("USER", "tester")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// A file of the state folder, trimmed; `None` if it is missing or empty.
    pub(crate) fn state(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.home().join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Runs `segue` with these arguments to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it and expects success; answers what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "segue {args:?}: {:?}\n{error}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it with `--output json`.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[args, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn try_json(&self, args: &[&str]) -> Option<Value> {
        let output = self.run(&[args, &["--output", "json"]].concat());
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).ok())?
    }

    /// The agent's part of the status; `None` while no controller answers.
    pub(crate) fn agent(&self) -> Option<Value> {
        let mut status = self.try_json(&["status"])?;
        Some(status["agents"][0].take())
    }

    /// A release of the agent, by label.
    pub(crate) fn release(&self, label: &str) -> Option<Value> {
        let agent = self.agent()?;
        agent["releases"]
            .as_array()?
            .iter()
            .find(|release| release["label"] == label)
            .cloned()
    }

    /// Waits for something to become true.
    pub(crate) async fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is() {
            if began.elapsed() > PATIENCE {
                let serve = fs::read_to_string(self.dir.join("serve.log")).unwrap_or_default();
                panic!(
                    "{what} did not come true\nstatus: {:?}\nserve: {serve}",
                    self.agent()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for a phase of the rollout.
    pub(crate) async fn phase(&self, phase: &str) {
        let is = || self.agent().is_some_and(|agent| agent["phase"] == phase);
        self.until(&format!("phase {phase}"), is).await;
    }

    /// Waits for a state of a release.
    pub(crate) async fn becomes(&self, label: &str, state: &str) {
        let is = || {
            self.release(label)
                .is_some_and(|release| release["state"] == state)
        };
        self.until(&format!("{label} becomes {state}"), is).await;
    }

    /// Deploys and waits until it lands; expects that it does.
    pub(crate) fn deploy(&self, label: &str) {
        self.ok(&["deploy", label]);
    }

    /// Deploys a broken release without watching it.
    pub(crate) fn deploy_broken(&self, label: &str, fault: &str) {
        self.ok(&[
            "deploy",
            label,
            "--wait",
            "none",
            "--env",
            &format!("SAMPLE_FAULT={fault}"),
        ]);
    }

    /// Promotes to all new calls, and writes down when that was acknowledged.
    pub(crate) fn promote(&self, from: &str, to: &str) -> Value {
        let view = self.json(&["promote", "--full"]);
        self.operator.acked(Switch::Cutover, AGENT, from, to);
        view
    }

    /// Rolls back, and writes down when that was acknowledged: at once, or on a machine whose disk
    /// is busy for longer than a rollback waits, a little later.
    pub(crate) async fn rollback(&self, from: &str, to: &str) {
        let output = self.run(&["rollback", "--output", "json"]);
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 5)), "{code:?}: {output:?}");
        let view: Value = serde_json::from_slice(&output.stdout).unwrap();
        let epoch = view["ack"]["epoch"].as_u64().unwrap();
        self.until("every gateway acts by the rollback", || {
            let status = self.try_json(&["status"]).unwrap_or_default();
            let gateways = status["gateways"].as_array().cloned().unwrap_or_default();
            let acts = |gateway: &Value| gateway["epochs"][AGENT].as_u64() >= Some(epoch);
            !gateways.is_empty() && gateways.iter().all(acts)
        })
        .await;
        self.operator.acked(Switch::Rollback, AGENT, from, to);
    }

    /// The process of a record in the state folder.
    pub(crate) fn pid(&self, record: &str) -> Option<Pid> {
        let record: Value = serde_json::from_str(&self.state(record)?).ok()?;
        Pid::from_raw(i32::try_from(record["pid"].as_i64()?).ok()?)
    }

    /// Kills the process of a record with SIGKILL. Answers whether there was one.
    pub(crate) fn kill(&self, record: &str) -> bool {
        self.pid(record)
            .is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }

    /// Pids of the workers of a release.
    pub(crate) fn workers(&self, label: &str) -> Vec<Pid> {
        let release = self.release(label).unwrap_or_default();
        let workers = release["workers"].as_array().cloned().unwrap_or_default();
        workers
            .iter()
            .filter_map(|worker| Pid::from_raw(i32::try_from(worker["pid"].as_i64()?).ok()?))
            .collect()
    }

    /// Kills the supervisor with SIGKILL.
    pub(crate) fn kill_serve(&mut self) {
        if let Some(mut serve) = self.serve.take() {
            serve.kill().unwrap();
            serve.wait().unwrap();
        }
    }

    /// Sends the supervisor a signal and waits for its end.
    pub(crate) async fn end_serve(&mut self, signal: Signal) {
        if self.serve.is_some() {
            self.signal_serve(signal);
            self.serve_ends().await;
        }
    }

    /// Waits for the end of the supervisor; answers its exit code.
    pub(crate) async fn serve_ends(&mut self) -> Option<i32> {
        let mut serve = self.serve.take()?;
        let mut ended = None;
        self.until("segue serve ends", || {
            ended = serve.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended?.code()
    }

    /// A call of about `talk_ms`.
    pub(crate) fn plan(&self, id: &str, talk_ms: u64) -> CallPlan {
        let addr = self.state("run/gateway.addr").expect("the gateway listens");
        let mut plan = CallPlan::new(&format!("ws://{addr}/ws/{{call}}"), id, talk_ms);
        plan.log = Arc::clone(&self.log);
        plan.listen = false;
        plan
    }

    /// `count` people call at once, each for about `talk_ms`.
    pub(crate) fn crowd(&self, name: &str, count: u32, talk_ms: u64) -> JoinSet<CallReport> {
        let mut people = JoinSet::new();
        for person in 0..count {
            let mut plan = self.plan(&format!("CA{name}{person:04}"), talk_ms);
            plan.seed = u64::from(person);
            people.spawn(async move { call(&plan).await });
        }
        people
    }

    /// Waits until the gateway counts this many live calls.
    pub(crate) async fn live(&self, count: u64) {
        let is = || self.agent().is_some_and(|agent| agent["live"] == count);
        self.until(&format!("{count} live calls"), is).await;
    }

    /// Waits until so many calls would outlive their gateway.
    pub(crate) async fn kept(&self, calls: u64) {
        let said = format!("calls kept: {calls} of {calls}");
        self.until(&said, || {
            // It warns of other things in a place for tests, and says so by its exit code.
            String::from_utf8_lossy(&self.run(&["doctor", "--all"]).stdout).contains(&said)
        })
        .await;
    }

    /// What callers and workers logged.
    pub(crate) fn judge(&self) -> Verdict {
        let smoke = self.home().join("log/smoke.jsonl");
        if smoke.exists() {
            fs::copy(smoke, self.dir.join("logs/smoke.jsonl")).unwrap();
        }
        judge_dir(&self.dir.join("logs")).unwrap()
    }

    /// The judge has nothing to say against it, and `started` calls were made.
    pub(crate) fn spotless(&self, started: u64) {
        let verdict = self.judge();
        assert_eq!(verdict.started, started, "{verdict:?}");
        if self.home().join("log/smoke.jsonl").exists() {
            assert!(verdict.is_clean(), "{verdict:?}");
            return;
        }
        // Without a smoke gate no release is ever proven, and every problem says just that.
        assert_eq!(
            verdict.problems_found, verdict.reached_unproven,
            "{verdict:?}"
        );
        assert_eq!(verdict.completed, started, "{verdict:?}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.kill_serve();
        let records = fs::read_dir(self.home().join("run"));
        for record in records.into_iter().flatten().flatten() {
            if record.path().extension().is_some_and(|end| end == "json") {
                kill_record(&record.path());
            }
        }
        let agents = fs::read_dir(self.home().join("workers"));
        for agent in agents.into_iter().flatten().flatten() {
            let records = fs::read_dir(agent.path());
            for worker in records.into_iter().flatten().flatten() {
                kill_record(&worker.path());
            }
        }
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn kill_record(path: &Path) {
    let record: Value = fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    let pid = record["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
        // What it launched, too.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// What every call of a crowd came to.
pub(crate) async fn reports(mut crowd: JoinSet<CallReport>) -> Vec<CallReport> {
    let mut reports = Vec::new();
    while let Some(report) = crowd.join_next().await {
        reports.push(report.unwrap());
    }
    reports
}
