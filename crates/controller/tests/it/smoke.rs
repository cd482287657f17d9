//! Smoke calls, through a listener that sends each call to the release it names.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use segue_controller::secret;
use segue_core::spec::{AgentSpec, Smoke};
use segue_core::time::Millis;
use segue_voice::agent::{AgentConfig, serve_on};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::gateway::Gateway;
use crate::{Client, Directory, Running, release, spec};

/// Where the calls of each release go, by digest; and the heads of all.
#[derive(Default)]
struct Lines {
    agents: BTreeMap<String, SocketAddr>,
    heads: Vec<String>,
}

struct Exchange {
    lines: Arc<Mutex<Lines>>,
    tasks: JoinSet<()>,
}

impl Exchange {
    async fn start(directory: &Directory) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        fs::write(directory.state().gateway_addr(), format!("{addr}\n")).unwrap();
        let lines = Arc::new(Mutex::new(Lines::default()));
        let mut tasks = JoinSet::new();
        let ours = Arc::clone(&lines);
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connect(Arc::clone(&ours), stream));
            }
        });
        Self { lines, tasks }
    }

    /// Sends the calls of a release to a sample agent that is broken in this way.
    async fn agent(&mut self, client: &Client, label: &str, fault: &str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut config = AgentConfig::new(addr, label, "w1");
        config.fault = fault.parse().unwrap();
        self.tasks.spawn(async move {
            let _ = serve_on(config, listener, std::future::pending()).await;
        });
        let view = client.agent().await;
        let digest = String::from(release(&view, label).unwrap().id);
        self.lines.lock().unwrap().agents.insert(digest, addr);
    }
}

async fn connect(lines: Arc<Mutex<Lines>>, mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let text = String::from_utf8(head.clone()).unwrap();
    lines.lock().unwrap().heads.push(text.clone());
    // The call may come before the test has said who answers it.
    let addr = loop {
        if let Some(addr) = answers(&lines, &text) {
            break addr;
        }
        sleep(Duration::from_millis(10)).await;
    };
    let mut worker = TcpStream::connect(addr).await.unwrap();
    worker.write_all(&head).await.unwrap();
    let _ = copy_bidirectional(&mut stream, &mut worker).await;
}

fn answers(lines: &Mutex<Lines>, head: &str) -> Option<SocketAddr> {
    let lines = lines.lock().unwrap();
    let named = |(digest, _): &(&String, &SocketAddr)| head.contains(digest.as_str());
    lines.agents.iter().find(named).map(|(_, addr)| *addr)
}

fn smoked() -> AgentSpec {
    let mut spec = spec();
    spec.plan.smoke = Some(Smoke {
        scenario: "hours".to_owned(),
        path: "/ws/{call_id}?x=1".to_owned(),
        calls: 1,
        timeout: Millis(60_000),
    });
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_takes_calls_only_after_its_smoke_calls() {
    let directory = Directory::new();
    let running = Running::start(&directory, smoked()).await;
    let client = running.client.clone();
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let mut exchange = Exchange::start(&directory).await;
    client.act("deploy", json!({ "label": "v1" })).await;
    exchange.agent(&client, "v1", "none").await;
    let unproven = client.post("promote", json!({})).await;
    assert_eq!(
        (unproven.status, unproven.json()["type"].as_str()),
        (422, Some("unproven"))
    );
    let view = client
        .until("the cutover", |view| view.phase == "complete")
        .await;
    let digest = String::from(release(&view, "v1").unwrap().id);
    let head = exchange.lines.lock().unwrap().heads[0].to_ascii_lowercase();
    assert!(head.starts_with("get /ws/smoke-1-1-1-"), "{head}");
    assert!(
        head.contains(&format!("x-segue-override: {digest}")),
        "{head}"
    );
    let token = fs::read_to_string(directory.state().override_token()).unwrap();
    assert!(
        head.contains(&format!("x-segue-override-token: {}", token.trim())),
        "{head}"
    );
    assert_eq!(secret::digest(token.trim()).len(), 64);
    let log = fs::read_to_string(directory.state().smoke_log()).unwrap();
    assert!(
        log.contains("call.connected") && log.contains("smoke.passed"),
        "{log}"
    );
    let entries = client
        .ask("GET", "/v1/audit?limit=1000&agent=desk", None)
        .await
        .json();
    let passed =
        entries["entries"].as_array().unwrap().iter().find(|entry| {
            entry["fact"]["fact"] == "gate_passed" && entry["fact"]["gate"] == "smoke"
        });
    let report = &passed.expect("the gate is in the log")["fact"]["report"];
    assert_eq!(report["calls"][0]["verdict"], "passed", "{report}");
    let chain = client.ask("GET", "/v1/audit/verify", None).await.json();
    assert_eq!(chain["ok"], true, "numbers are read as they were written");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_current_release_fails_too_a_person_is_asked() {
    let directory = Directory::new();
    let running = Running::start(&directory, smoked()).await;
    let client = running.client.clone();
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let mut exchange = Exchange::start(&directory).await;
    client.act("deploy", json!({ "label": "v1" })).await;
    exchange.agent(&client, "v1", "silent").await;
    let view = client
        .until("v1 to fail", |view| view.phase == "failed")
        .await;
    let reason = view.rollout.unwrap().reason.unwrap();
    assert!(reason.contains("no voice within"), "{reason}");

    skip_the_gates(&client, &mut exchange).await;
    client
        .act("deploy", json!({ "label": "v2", "env": { "V": "2" } }))
        .await;
    exchange.agent(&client, "v2", "refuse").await;
    let view = client
        .until("a person to be asked", |view| {
            view.rollout.as_ref().unwrap().paused
        })
        .await;
    let why = &view.holds[0];
    assert!(
        why.contains("503") && why.contains("but the current release fails too"),
        "{why}"
    );
    running.stop().await;
}

/// Brings v1 in without smoke calls, once it is not running any more.
async fn skip_the_gates(client: &Client, exchange: &mut Exchange) {
    client
        .until("v1 to retire", |view| {
            release(view, "v1").is_none_or(|is| is.state == "retired")
        })
        .await;
    client.act("deploy", json!({ "label": "v1" })).await;
    exchange.agent(client, "v1", "silent").await;
    client
        .until("v1 to be up", |view| view.phase == "verifying")
        .await;
    let skip = json!({ "skip_gates": true, "reason": "known", "full": true });
    let done = client.act("promote", skip).await;
    assert_eq!(done.facts, ["gates_skipped", "cut_over"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_current_release_passes_the_new_one_is_to_blame() {
    let directory = Directory::new();
    let running = Running::start(&directory, smoked()).await;
    let client = running.client.clone();
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let mut exchange = Exchange::start(&directory).await;
    skip_the_gates(&client, &mut exchange).await;
    exchange.agent(&client, "v1", "none").await;
    client
        .act("deploy", json!({ "label": "v2", "env": { "V": "2" } }))
        .await;
    exchange.agent(&client, "v2", "refuse").await;
    let view = client
        .until("v2 to fail", |view| view.phase == "failed")
        .await;
    let reason = view.rollout.as_ref().unwrap().reason.clone().unwrap();
    assert_eq!(reason, "smoke failed: call refused with status 503");
    assert_eq!(release(&view, "v1").unwrap().state, "current");
    running.stop().await;
}
