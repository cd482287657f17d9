//! Releases of real LiveKit workers are replaced under two hundred calls: `segue serve` starts them
//! itself, its dispatcher is a process of its own, and each of them is killed once.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::key;
use crate::python;
use crate::site::{AGENT, Site};
use crate::traffic::Traffic;

/// Calls in each part; with those of the canary 200.
const CALLS: usize = 12;

/// Calls while there is a canary: enough that a share of a half, or none at all, is seen.
const TRIED: usize = 104;

/// What it gets.
const CANARY: f64 = 0.1;

/// Where a port is looked for: below those that the system gives to whoever asks for any, since it
/// must still be free when the dispatcher is started for the second time.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// `segue serve`, the server, and the calls.
struct Place {
    site: Site,
    traffic: Traffic,
}

/// A worker that Segue has started.
struct Worker {
    name: String,
    pid: Pid,
}

impl Worker {
    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }
}

fn free_port() -> u16 {
    let mut ports = PORTS.skip(usize::from(
        u16::try_from(std::process::id() % 9_000).unwrap(),
    ));
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(is_free).expect("a free port")
}

/// The worker of the examples, with `{release}` and `{worker}` for its log.
fn settings(port: u16, url: &str, log: &str) -> String {
    let python = python::livekit();
    let (python, worker) = (
        python.display(),
        python::example("livekit-worker/worker.py"),
    );
    format!(
        r#"
[gateway]
listen = "127.0.0.1:0"

[api]
listen = "127.0.0.1:0"

[livekit]
url = "{url}"
api_key = "{}"
secret_file = "livekit.secret"
listen = "127.0.0.1:{port}"
unsigned = true

[agents.{AGENT}]
command = ["{python}", "{}", "start"]
workers = 2
health = "/"
stickiness = "1s"
straggler_buffer = "1s"
standby = "10m"

[agents.{AGENT}.env]
LIVEKIT_URL = "ws://127.0.0.1:{port}/w/{{release}}/"
LIVEKIT_API_KEY = "{}"
LIVEKIT_API_SECRET = "{}"
HEALTH_PORT = "{{port}}"
AGENT_NAME = "{AGENT}"
AGENT_RELEASE = "{{release}}"
AGENT_WORKER = "{{worker}}"
AGENT_CALL_LOG = "{log}"

[agents.{AGENT}.livekit]
name = "{AGENT}"

[[agents.{AGENT}.steps]]
share = "10%"
pause = true
"#,
        key::KEY,
        worker.display(),
        key::KEY,
        key::SECRET,
    )
}

impl Place {
    async fn open() -> Self {
        let mut site = Site::prepare("", "");
        let log = site.dir.join("logs/workers.jsonl");
        let traffic = Traffic::open(AGENT, log.clone()).await;
        let (url, log) = (traffic.upstream.url(), log.display().to_string());
        let settings = settings(free_port(), &url, &log);
        fs::write(site.dir.join("segue.toml"), settings).unwrap();
        fs::write(site.dir.join("livekit.secret"), key::SECRET).unwrap();
        site.serve().await;
        Self { site, traffic }
    }

    /// A release's workers, as `segue status` has them.
    fn workers(&self, label: &str) -> Vec<Worker> {
        let release = self.site.release(label).unwrap_or_default();
        let workers = release["workers"].as_array().cloned().unwrap_or_default();
        let running = workers.iter().filter_map(|worker| {
            let pid = i32::try_from(worker["pid"].as_i64()?).ok()?;
            Some(Worker {
                name: worker["id"].as_str()?.to_owned(),
                pid: Pid::from_raw(pid)?,
            })
        });
        running.collect()
    }

    /// How often the workers of a release have said that they are connected, in all their lives.
    /// Their health does not tell: they answer before they are.
    fn registered(&self, label: &str) -> usize {
        let folder = self.site.home().join("log/workers").join(AGENT);
        let of_release = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&format!("{label}-"))
        };
        let entries = |path: PathBuf| -> Vec<PathBuf> {
            let found = fs::read_dir(path).into_iter().flatten().flatten();
            found.map(|entry| entry.path()).collect()
        };
        let logs = entries(folder).into_iter().filter(of_release);
        let said = logs
            .flat_map(entries)
            .map(|log| fs::read_to_string(log).unwrap_or_default());
        said.map(|text| text.matches("registered worker").count())
            .sum()
    }

    /// Waits until a release's workers have registered so many times.
    async fn until_registered(&self, label: &str, times: usize) {
        let what = format!("workers of {label} have registered {times} times");
        let is = || self.registered(label) >= times;
        self.site.until(&what, is).await;
    }

    /// Everything goes to the new release from when that is acknowledged.
    fn cutover(&mut self, from: &str) {
        self.traffic.ends_draining();
        self.site.ok(&["promote", "--full"]);
        self.traffic.drains(from);
    }

    /// Kills the dispatcher; waits for the next one, and its workers.
    async fn kill_dispatcher(&mut self, workers: &[(&str, usize)]) {
        let record = "run/dispatch.json";
        let before: Vec<usize> = workers.iter().map(|(of, _)| self.registered(of)).collect();
        let pid = self.site.pid(record);
        assert!(self.site.kill(record), "there is a dispatcher");
        let another = || self.site.pid(record).is_some_and(|now| Some(now) != pid);
        self.site.until("another dispatcher", another).await;
        for ((label, count), before) in workers.iter().zip(before) {
            self.until_registered(label, before + count).await;
        }
        self.traffic.until_taken().await;
    }

    /// The calls of Segue's own log, by id.
    fn told(&self) -> BTreeMap<String, Value> {
        let text = self.site.state("log/jobs.jsonl").unwrap_or_default();
        let lines = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["call"].as_str().unwrap().to_owned(), line)
        });
        lines.collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_of_processes_is_replaced_without_a_lost_call() {
    let mut place = Place::open().await;
    place.site.deploy("v1");
    place.until_registered("v1", 2).await;
    place.traffic.until_taken().await;
    place.traffic.calls(CALLS, 4.0).await;

    // A canary.
    place.site.ok(&["deploy", "v2", "--wait", "none"]);
    place.site.phase("canary").await;
    place.until_registered("v2", 2).await;
    let canary = place.traffic.calls(TRIED, 2.0).await;

    // The cutover, with calls in the air; a worker of the old release is told to end.
    place.traffic.calls(CALLS, 8.0).await;
    place.cutover("v1");
    let old = place.workers("v1").swap_remove(0);
    assert!(!place.traffic.calls_of(&old.name).is_empty());
    old.signal(Signal::TERM);
    place.traffic.calls(CALLS, 6.0).await;
    // Before the next part: whoever ends while there is no dispatcher cannot say of its last calls
    // how they ended, which is then found out after minutes.
    let is_over = || place.workers("v1").iter().all(|now| now.pid != old.pid);
    place.site.until("the old worker has ended", is_over).await;

    // The dispatcher is killed, and so is what keeps it; the workers come back with their calls.
    place.traffic.begun().await;
    place.kill_dispatcher(&[("v2", 2)]).await;
    place.traffic.calls(CALLS, 6.0).await;
    place.site.kill_serve();
    place.traffic.calls(CALLS, 6.0).await;
    place.site.serve().await;

    // The old release has drained and stands by, with the worker that ended started again.
    place.site.becomes("v1", "drained").await;
    place.until_registered("v1", 4).await;
    place.traffic.ends_draining();
    place.site.rollback("v2", "v1").await;
    place.traffic.drains("v2");
    place.traffic.calls(CALLS, 6.0).await;

    // The server crashes, and its memory with it. Calls are not its memory.
    place.traffic.begun().await;
    place.traffic.upstream.restart().await;
    place.traffic.until_taken().await;
    place.traffic.calls(CALLS, 6.0).await;

    // A worker is killed. What it had is gone with it; nothing else is.
    place.traffic.begun().await;
    let killed = &place.workers("v1")[0];
    place.traffic.kills(&killed.name);
    killed.signal(Signal::KILL);
    place.traffic.calls(CALLS, 1.0).await;
    place.traffic.silence().await;

    let log = place.traffic.jobs();
    let mut verdict = place.traffic.judge();
    verdict.check_share("v2", &place.traffic.calls[canary], CANARY);
    assert_eq!(place.traffic.calls.len(), 200);
    let finished = place.traffic.calls.len() - verdict.killed.len();
    verdict.spotless(finished);
    assert!(!verdict.killed.is_empty(), "the worker had no calls");

    // What was told of the calls is what was seen of them.
    let all = || place.told().len() >= place.traffic.survivors();
    place.site.until("their ends are told", all).await;
    let id = |label: &str| place.site.release(label).unwrap()["id"].clone();
    let ids = ["v1", "v2"].map(|label| (label, id(label)));
    for (call, record) in place.told() {
        let of = log.iter().find(|line| line["job"] == *call);
        let label = &of.expect("a call that began")["release"];
        let release = ids.iter().find(|(of, _)| label == of);
        assert_eq!(release.map(|(_, id)| id), Some(&record["release"]));
        let lost = place.traffic.is_lost(&call);
        assert_eq!(record["outcome"] == "completed", !lost, "{record}");
    }
    eprintln!(
        "200 calls: {finished} finished, {} killed; by release {:?}; nobody took calls for {:?}",
        verdict.killed.len(),
        verdict.by_release,
        place.traffic.gaps(),
    );
}
