//! The controller from outside: its API, its socket, its files and its processes.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod ack;
mod api;
mod api_approve;
mod api_events;
mod api_keys;
mod api_roles;
mod api_secrets;
mod api_state;
mod api_tls;
mod copies;
mod crash;
mod fleet;
mod gateway;
mod helper;
mod http;
mod journal;
mod link;
mod metrics;
mod notify;
mod outsiders;
mod permits;
mod receiver;
mod reports;
mod rollout;
mod smoke;
mod store;
mod stragglers;
mod traces;
mod webhooks;
mod workers;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use segue_controller::api::wire::{ActionView, AgentView, ReleaseView, StatusView};
use segue_controller::api::{ApiConfig, Rate};
use segue_controller::state::StateDir;
use segue_controller::{ControllerConfig, RunError, run};
use segue_core::names::AgentName;
use segue_core::spec::{AgentSpec, Ingress, Plan, Policy, TelemetrySpec, WorkerSpec};
use segue_core::time::Millis;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::http::{Answer, request};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(25);

/// A directory of its own for one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // A path of a socket is short.
        let path = std::env::temp_dir().join(format!("sgc-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn state(&self) -> StateDir {
        StateDir::new(&self.0)
    }

    fn config(&self, spec: AgentSpec) -> ControllerConfig {
        ControllerConfig {
            state_dir: self.0.clone(),
            api: ApiConfig {
                // Tests look again every few milliseconds.
                rate: Rate::per_second(10_000),
                ..ApiConfig::on(SocketAddr::from(([127, 0, 0, 1], 0)))
            },
            agents: BTreeMap::from([(desk(), spec)]),
            config_dir: self.0.clone(),
            gateway_tls: None,
            notify: Vec::new(),
            telemetry: TelemetrySpec::default(),
            membership: None,
            source: None,
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        helper::kill_workers(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn desk() -> AgentName {
    "desk".parse().unwrap()
}

/// An agent whose windows are short, without smoke calls and without a ramp.
fn spec() -> AgentSpec {
    AgentSpec {
        worker: WorkerSpec {
            command: helper::worker_command(),
            env: helper::worker_env(),
            health_path: Some("/healthz".to_owned()),
            ..WorkerSpec::default()
        },
        ingress: Ingress::default(),
        policy: Policy {
            stickiness: Millis(100),
            straggler_buffer: Millis(200),
            standby: Millis(300),
            ..Policy::default()
        },
        plan: Plan {
            ready_timeout: Millis(20_000),
            ..Plan::default()
        },
        ..AgentSpec::default()
    }
}

/// A controller in this process.
struct Running {
    client: Client,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), RunError>>,
}

impl Running {
    async fn start(directory: &Directory, spec: AgentSpec) -> Self {
        Self::start_with(directory, directory.config(spec)).await
    }

    async fn start_with(directory: &Directory, config: ControllerConfig) -> Self {
        let state = directory.state();
        let _ = fs::remove_file(state.api_addr());
        eventually("the lock of the one before", async || {
            let (stop, stopped) = oneshot::channel::<()>();
            let config = config.clone();
            let mut ended = tokio::spawn(async move {
                run(config, async { stopped.await.unwrap_or_default() }).await
            });
            tokio::select! {
                client = Client::connect(&state) => Some(Self { client, stop, ended }),
                ended = &mut ended => match ended.unwrap() {
                    // Another test starts a process at this moment, which has the lock's descriptor
                    // until it becomes another program.
                    Err(RunError::Locked { .. }) => None,
                    ended => panic!("the controller has ended: {ended:?}"),
                },
            }
        })
        .await
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let ended = timeout(PATIENCE, self.ended).await.unwrap();
        ended.unwrap().unwrap();
    }
}

/// Who asks the admin API.
#[derive(Clone)]
struct Client {
    addr: SocketAddr,
    token: String,
}

impl Client {
    async fn connect(state: &StateDir) -> Self {
        let addr = eventually("the API to listen", async || {
            let text = fs::read_to_string(state.api_addr()).ok()?;
            text.trim().parse().ok()
        })
        .await;
        let token = fs::read_to_string(state.api_token()).unwrap();
        let token = token.trim().to_owned();
        Self { addr, token }
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let authorization = format!("Bearer {}", self.token);
        let headers = [("Authorization", authorization.as_str())];
        request(self.addr, method, path, &headers, body).await
    }

    async fn status(&self) -> StatusView {
        let answer = self.ask("GET", "/v1/status", None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_value(answer.json()).unwrap()
    }

    async fn agent(&self) -> AgentView {
        let answer = self.ask("GET", "/v1/agents/desk", None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_value(answer.json()).unwrap()
    }

    async fn post(&self, verb: &str, body: Value) -> Answer {
        self.ask("POST", &format!("/v1/agents/desk/{verb}"), Some(&body))
            .await
    }

    async fn act(&self, verb: &str, body: Value) -> ActionView {
        let answer = self.post(verb, body).await;
        assert_eq!(answer.status, 200, "{verb}: {answer:?}");
        serde_json::from_value(answer.json()).unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&AgentView) -> bool) -> AgentView {
        eventually(what, async || {
            let view = self.agent().await;
            holds(&view).then_some(view)
        })
        .await
    }

    /// Deploys a release and waits until it takes every new call.
    async fn bring_in(&self, label: &str) -> AgentView {
        self.act("deploy", json!({ "label": label, "env": { "V": label } }))
            .await;
        let landed = ["draining", "settling", "standby", "complete"];
        self.until(&format!("{label} to land"), |view| {
            release(view, label).is_some_and(|is| is.state == "current")
                && landed.contains(&view.phase.as_str())
        })
        .await
    }

    /// Facts in the journal, by name.
    async fn facts(&self) -> Vec<String> {
        let answer = self.ask("GET", "/v1/audit?limit=1000", None).await;
        let entries = answer.json()["entries"].as_array().unwrap().clone();
        let name = |entry: &Value| entry["fact"]["fact"].as_str().unwrap().to_owned();
        entries.iter().map(name).collect()
    }
}

fn release<'a>(view: &'a AgentView, label: &str) -> Option<&'a ReleaseView> {
    view.releases.iter().find(|is| is.label.as_str() == label)
}

fn pids(view: &AgentView, label: &str) -> Vec<u32> {
    let workers = &release(view, label).unwrap().workers;
    workers.iter().filter_map(|worker| worker.pid).collect()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| {
        !stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
    })
}

/// Waits until there is an answer.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
