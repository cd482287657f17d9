//! Releases of several programs: one switch, one rollback, and no way from one release's programs
//! to another's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::site::{AGENT, SETTINGS, Site, reports};

/// A program of the stack: it tells its own name and release, and those that it reaches.
const PROGRAM: &str = r#"
import glob, http.server, json, os, signal, sys, time, urllib.request

name, release, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
below = sys.argv[4] if len(sys.argv) > 4 else None

def log(what, **more):
    line = {"what": what, "name": name, "release": release, **more}
    line["at"] = time.clock_gettime(time.CLOCK_BOOTTIME)
    with open(os.environ["STACK_LOG"], "a") as file:
        file.write(json.dumps(line) + "\n")

def agents():
    """How many workers of this release live."""
    found = 0
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            words = open(path, "rb").read().split(b"\0")
        except OSError:
            continue
        mine = b"sample-agent" in words and release.encode() in words
        found += mine and os.environ["STACK_LOG"].encode() in environ(path)
    return found

def environ(path):
    try:
        return open(path.replace("cmdline", "environ"), "rb").read()
    except OSError:
        return b""

def end(*_):
    log("end", workers=agents())
    os._exit(0)

signal.signal(signal.SIGTERM, end)
log("start")
if os.environ.get("STACK_FAULT") == "never":
    while True:
        time.sleep(1)
time.sleep(float(os.environ.get("STACK_SLOW", "0")))

class Program(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        chain = [f"{name}@{release}"]
        if below and self.path == "/chain":
            try:
                chain += json.load(urllib.request.urlopen(below + "/chain", timeout=5))
            except OSError:
                chain += ["down"]
        body = json.dumps(chain).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

log("ready")
http.server.ThreadingHTTPServer(("127.0.0.1", port), Program).serve_forever()
"#;

/// api → engine → license-proxy, below the agent.
fn stack(dir: &Path) -> String {
    let log = dir.join("stack.jsonl");
    let log = log.display();
    format!(
        r#"
[agents.desk.components.api]
command = ["python3", "stack.py", "api", "{{release}}", "{{port}}", "{{engine.url}}"]
env = {{ STACK_LOG = "{log}" }}
health = "/ready"
depends_on = ["engine"]

[agents.desk.components.engine]
command = ["python3", "stack.py", "engine", "{{release}}", "{{port}}", "{{license-proxy.url}}"]
env = {{ STACK_LOG = "{log}" }}
health = "/ready"
depends_on = ["license-proxy"]
version = "2.1"
requires = ["license-proxy >= 1.2"]

[agents.desk.components.license-proxy]
command = ["python3", "stack.py", "license-proxy", "{{release}}", "{{port}}"]
env = {{ STACK_LOG = "{log}", STACK_SLOW = "0.5" }}
version = "1.2"
"#
    )
}

/// A site whose agent needs the stack; it is started.
async fn open(settings: &str) -> Site {
    let settings = format!("{settings}depends_on = [\"api\"]\nrequires = [\"engine >= 2.0\"]\n");
    let mut site = Site::prepare(&settings, "");
    fs::write(site.dir.join("stack.py"), PROGRAM).unwrap();
    let path = site.dir.join("segue.toml");
    let config = fs::read_to_string(&path).unwrap();
    let told = format!(
        "STACK_LOG = \"{}\", CHAIN = \"{{api.url}}\", SAMPLE_CALL_LOG",
        site.dir.join("stack.jsonl").display()
    );
    let config = config.replacen("SAMPLE_CALL_LOG", &told, 1);
    fs::write(path, config + &stack(&site.dir)).unwrap();
    site.serve().await;
    site
}

impl Site {
    /// A component of a release, as it is shown.
    fn component(&self, label: &str, name: &str) -> Value {
        let release = self.release(label).unwrap_or_default();
        let components = release["components"].as_array().cloned();
        let is = |component: &Value| component["name"] == name;
        components
            .unwrap_or_default()
            .into_iter()
            .find(is)
            .unwrap_or_default()
    }

    fn kill_component(&self, label: &str, name: &str) -> i64 {
        let pid = self.component(label, name)["pid"].as_i64().unwrap();
        kill_process(
            Pid::from_raw(pid.try_into().unwrap()).unwrap(),
            Signal::KILL,
        )
        .unwrap();
        pid
    }

    /// Waits until a component that was killed is back; answers how it is shown then.
    async fn component_back(&self, label: &str, name: &str, was: i64) -> Value {
        let mut found = Value::Null;
        self.until(&format!("{name} of {label} is back"), || {
            found = self.component(label, name);
            found["state"] == "ready" && found["pid"].as_i64() != Some(was)
        })
        .await;
        found
    }

    /// What the programs of the stack wrote down.
    fn stack_log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.join("stack.jsonl")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Asks the admin API.
    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let (addr, token) = (self.state("run/api.addr"), self.state("api.token"));
        let url = format!("http://{}{path}", addr.unwrap());
        let authorization = format!("Bearer {}", token.unwrap());
        let request = agent.post(&url).header("Authorization", &authorization);
        let mut answer = request.send_json(body).unwrap();
        let status = answer.status().as_u16();
        (status, answer.body_mut().read_json().unwrap())
    }

    /// Deploys by the admin API; expects that it is begun.
    pub(crate) fn begin(&self, body: &Value) -> Value {
        let (status, answer) = self.post(&format!("/v1/agents/{AGENT}/deploy"), body);
        assert_eq!(status, 200, "{answer}");
        answer
    }
}

/// The chain that each release was asked for, in the order of asking.
type Answers = Vec<(String, Vec<String>)>;

/// Asks the stacks of releases for their chains, over and over, and remembers every answer.
struct Asker {
    doors: Arc<Mutex<BTreeMap<String, u16>>>,
    answers: Arc<Mutex<Answers>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Asker {
    fn new() -> Self {
        let (doors, answers) = (Arc::default(), Arc::default());
        let ends = Arc::new(AtomicBool::new(false));
        let (of, to, stop) = (Arc::clone(&doors), Arc::clone(&answers), Arc::clone(&ends));
        let thread = std::thread::spawn(move || ask(&of, &to, &stop));
        Self {
            doors,
            answers,
            ends,
            thread: Some(thread),
        }
    }

    /// From now on this release is asked, too.
    fn add(&self, site: &Site, label: &str) {
        let port = site.component(label, "api")["port"].as_u64().unwrap();
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        doors.insert(label.to_owned(), port.try_into().unwrap());
    }

    fn count(&self, label: &str, wanted: &[&str]) -> usize {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |(of, chain): &&(String, Vec<String>)| of == label && chain == wanted;
        answers.iter().filter(is).count()
    }

    /// Waits for another answer of a whole chain.
    async fn whole_again(&self, site: &Site, label: &str) {
        let chain = whole(label);
        let chain: Vec<&str> = chain.iter().map(String::as_str).collect();
        let before = self.count(label, &chain);
        let what = format!("{label} reaches all of its stack");
        site.until(&what, || self.count(label, &chain) > before)
            .await;
    }

    /// Every answer so far.
    fn end(mut self) -> Vec<(String, Vec<String>)> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.clone()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn ask(
    doors: &Mutex<BTreeMap<String, u16>>,
    answers: &Mutex<Vec<(String, Vec<String>)>>,
    ends: &AtomicBool,
) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .into();
    while !ends.load(Ordering::Relaxed) {
        let all = doors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (label, port) in all {
            let url = format!("http://127.0.0.1:{port}/chain");
            let chain = match agent.get(&url).header("Connection", "close").call() {
                Ok(mut answer) => answer.body_mut().read_json().unwrap(),
                Err(_) => vec!["down".to_owned()],
            };
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.push((label, chain));
        }
        // Nobody wakes it: it asks again in a moment.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn whole(label: &str) -> Vec<String> {
    ["api", "engine", "license-proxy"]
        .map(|name| format!("{name}@{label}"))
        .into()
}

/// Whom the workers of a release are told to ask.
fn told(site: &Site, label: &str) -> Vec<String> {
    let environ = |pid: &Pid| fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap();
    let chain = |environ: Vec<u8>| {
        let text = String::from_utf8(environ).unwrap();
        let mut entries = text.split('\0');
        let chain = entries
            .find_map(|entry| entry.strip_prefix("CHAIN="))
            .unwrap();
        chain.to_owned()
    };
    site.workers(label).iter().map(environ).map(chain).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_releases_programs_reach_each_other_and_no_other_releases() {
    let site = open(SETTINGS).await;
    let asker = Asker::new();
    site.deploy("v1");
    asker.add(&site, "v1");
    let crowd = site.crowd("a", 6, 25_000);
    site.live(6).await;
    site.deploy("v2");
    asker.add(&site, "v2");
    assert_eq!(site.release("v1").unwrap()["state"], "draining");
    for label in ["v1", "v2"] {
        let port = site.component(label, "api")["port"].as_u64().unwrap();
        let url = format!("http://127.0.0.1:{port}");
        assert_eq!(told(&site, label), [url.clone(), url], "{label}");
        asker.whole_again(&site, label).await;
    }
    // An engine that dies comes back where it was, also beside one that dies at the same time.
    let ports =
        |site: &Site| ["v1", "v2"].map(|label| site.component(label, "engine")["port"].clone());
    let before = ports(&site);
    let (one, other) = (
        site.kill_component("v1", "engine"),
        site.kill_component("v2", "engine"),
    );
    let back = site.component_back("v1", "engine", one).await;
    assert_eq!(back["restarts"], 1, "{back}");
    site.component_back("v2", "engine", other).await;
    assert_eq!(ports(&site), before);
    asker.whole_again(&site, "v1").await;
    // So it does when nobody is there to see it die.
    site.kill("run/controller.json");
    let one = site.kill_component_unseen("v1", "engine");
    site.component_back("v1", "engine", one).await;
    assert_eq!(ports(&site), before);
    for label in ["v1", "v2"] {
        asker.whole_again(&site, label).await;
    }
    // A third release comes between, under the same calls.
    site.deploy("v3");
    asker.add(&site, "v3");
    let one = site.kill_component("v1", "engine");
    site.component_back("v1", "engine", one).await;
    for label in ["v1", "v2", "v3"] {
        asker.whole_again(&site, label).await;
    }
    reports(crowd).await;
    let answers = asker.end();
    assert!(answers.len() >= 300, "{} answers", answers.len());
    for (label, chain) in &answers {
        let (down, reached) = match chain.split_last() {
            Some((last, reached)) if last == "down" => (true, reached),
            _ => (false, chain.as_slice()),
        };
        assert!(whole(label).starts_with(reached), "{label}: {chain:?}");
        assert!(down || *chain == whole(label), "{label}: {chain:?}");
    }
    let good = answers
        .iter()
        .filter(|(label, chain)| *chain == whole(label));
    assert!(good.count() >= 200, "of {} answers", answers.len());
    site.spotless(6);
}

impl Site {
    /// Kills a component by its record, while no controller may be there to ask.
    fn kill_component_unseen(&self, label: &str, name: &str) -> i64 {
        let records = fs::read_dir(self.home().join("workers").join(AGENT)).unwrap();
        let record = records
            .flatten()
            .map(|entry| entry.path())
            .find(|path| {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                file.starts_with(&format!("{label}-")) && file.ends_with(&format!(".{name}.json"))
            })
            .unwrap();
        let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        let pid = record["pid"].as_i64().unwrap();
        kill_process(
            Pid::from_raw(pid.try_into().unwrap()).unwrap(),
            Signal::KILL,
        )
        .unwrap();
        pid
    }
}

/// When a process was started, in seconds since the boot.
fn started(pid: Pid) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let ticks = rest.split_whitespace().nth(19).unwrap();
    ticks.parse::<f64>().unwrap() / 100.0
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_start_in_order_and_end_in_the_other() {
    let site = open(&SETTINGS.replace("5m", "1s")).await;
    site.deploy("v1");
    let worker = site
        .workers("v1")
        .into_iter()
        .map(started)
        .fold(f64::MAX, f64::min);
    let at = |what: &str, name: &str| {
        let log = site.stack_log();
        let is =
            |line: &&Value| line["what"] == what && line["name"] == name && line["release"] == "v1";
        log.iter().find(is).unwrap()["at"].as_f64().unwrap()
    };
    assert!(at("start", "engine") > at("ready", "license-proxy"));
    assert!(at("start", "api") > at("ready", "engine"));
    // The kernel counts in hundredths of a second.
    assert!(worker + 0.01 > at("ready", "api"), "a worker came first");
    site.deploy("v2");
    site.becomes("v1", "retired").await;
    let ended = |site: &Site| -> Vec<Value> {
        let log = site.stack_log().into_iter();
        log.filter(|line| line["what"] == "end").collect()
    };
    site.until("v1 has ended", || ended(&site).len() == 3).await;
    let ended = ended(&site);
    let names: Vec<&str> = ended
        .iter()
        .filter_map(|line| line["name"].as_str())
        .collect();
    assert_eq!(names, ["api", "engine", "license-proxy"]);
    for line in ended {
        assert_eq!(
            (&line["workers"], &line["release"]),
            (&json!(0), &json!("v1"))
        );
    }
    // Its ports are free for others then.
    site.until("its ports are given back", || {
        let records = fs::read_dir(site.home().join("workers").join(AGENT)).unwrap();
        let ports = records
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|end| end == "ports"));
        ports.count() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_ready_only_with_all_of_its_programs() {
    let site = open(&SETTINGS.replace("15s", "6s")).await;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 12_000);
    site.live(3).await;
    site.begin(&json!({ "label": "v2", "env": { "engine:STACK_FAULT": "never" } }));
    site.until("v2 waits", || {
        let waits = site.component("v2", "api");
        waits["why"] == "it waits for engine"
    })
    .await;
    assert!(site.workers("v2").is_empty(), "workers come last");
    site.phase("failed").await;
    let reason = site.agent().unwrap()["rollout"]["reason"].clone();
    let reason = reason.as_str().unwrap();
    assert!(
        reason.contains("0 of 2 workers ready") && reason.contains("component engine"),
        "{reason}"
    );
    assert_eq!(site.release("v1").unwrap()["share_bp"], 10_000);
    reports(crowd).await;
    site.spotless(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_do_not_go_together_are_refused() {
    let site = open(SETTINGS).await;
    site.deploy("v1");
    let decided = |site: &Site| site.json(&["status"])["journal"]["entries"].clone();
    let before = decided(&site);
    for (component, version, why) in [
        ("engine", "1.9", "the worker requires engine >=2.0"),
        (
            "license-proxy",
            "1.0",
            "engine requires license-proxy >=1.2",
        ),
    ] {
        let body = json!({ "label": "v2", "component_versions": { component: version } });
        let (status, problem) = site.post(&format!("/v1/agents/{AGENT}/deploy"), &body);
        assert_eq!(status, 422, "{problem}");
        let title = problem["title"].as_str().unwrap();
        assert!(title.contains(why), "{title}");
        assert!(
            problem["hint"]
                .as_str()
                .is_some_and(|hint| !hint.is_empty())
        );
    }
    assert_eq!(decided(&site), before, "nothing was decided");
    let good = json!({ "label": "v2", "component_versions": { "engine": "3.0" } });
    assert_eq!(site.begin(&good)["made_from"], "v1");
    site.becomes("v2", "current").await;
}
