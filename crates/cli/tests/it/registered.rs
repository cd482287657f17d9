//! `[membership] workers = "registered"`: workers in Python that show a token and prove that its key is
//! theirs, over the real API. Who does not, or shows what is another's, gets no new call.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::python::{example, python};
use crate::site::Site;

type Call = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A place whose workers find their token and their key by their name, if they are there.
async fn open(workers: u32) -> Site {
    let mut site = Site::prepare("", "");
    let papers = site.dir.join("papers");
    fs::create_dir_all(&papers).unwrap();
    let config = format!(
        r#"
[gateway]
listen = "127.0.0.1:0"

[api]
listen = "127.0.0.1:0"

[agents.desk]
command = ["{python}", "{agent}", "{{port}}"]
env = {{ SEGUE_MEMBERSHIP_TOKEN_FILE = "{papers}/{{worker}}.jws", SEGUE_MEMBERSHIP_KEY_FILE = "{papers}/{{worker}}.pem", AGENT_LABEL = "{{release}}" }}
health = "/healthz"
workers = {workers}
stickiness = "1s"
straggler_buffer = "1s"

[membership]
environment = "production"
keys = "keys.jsonl"
manifest = "manifest.jws"
workers = "registered"
"#,
        python = python().display(),
        agent = example("fastapi-agent/agent.py").display(),
        papers = papers.display(),
    );
    fs::write(site.dir.join("segue.toml"), config).unwrap();
    for key in ["root.pem", "m.pem", "w.pem"] {
        signer(&site, &["keygen", key]);
    }
    let rotate = "rotate --env production --root root.jwk --manifest m.jwk --worker w.jwk --sign \
                  root.pem";
    signer(&site, &rotate.split_whitespace().collect::<Vec<_>>());
    site.serve().await;
    site
}

fn signer(site: &Site, args: &[&str]) -> String {
    site.ok(&[&["membership"], args].concat())
}

/// Deploys, waits until its workers are up and barred, and has the manifest admit them; answers their
/// names.
async fn bring_in(site: &Site, label: &str, workers: usize) -> Vec<String> {
    site.ok(&["deploy", label, "--wait", "none"]);
    site.until("its workers wait to register", || {
        let barred = |is: &Value| is["state"] == "ready" && is["barred"] == "unregistered";
        let all = views(site, label);
        all.len() == workers && all.iter().all(barred)
    })
    .await;
    signer(site, &["sign", "--key", "m.pem"]);
    let all = views(site, label).into_iter();
    all.map(|is| is["id"].as_str().unwrap().to_owned())
        .collect()
}

fn views(site: &Site, label: &str) -> Vec<Value> {
    let release = site.release(label).unwrap_or_default();
    release["workers"].as_array().cloned().unwrap_or_default()
}

fn view(site: &Site, worker: &str) -> Value {
    let labels = site.agent().unwrap_or_default()["releases"].take();
    let releases = labels.as_array().cloned().unwrap_or_default();
    let mut workers = releases
        .iter()
        .filter_map(|release| release["workers"].as_array())
        .flatten();
    workers
        .find(|is| is["id"] == worker)
        .cloned()
        .unwrap_or_default()
}

/// A key for a worker.
fn key(site: &Site, worker: &str) {
    signer(site, &["keygen", &format!("papers/{worker}.pem")]);
}

/// A token of that release, bound to the key of a worker.
fn token(site: &Site, label: &str, worker: &str) -> String {
    let key = format!("papers/{worker}.jwk");
    let of = ["--agent", "desk", "--release", label, "--bind", &key];
    signer(site, &[&["token", "--key", "w.pem"][..], &of].concat())
}

/// Gives it to a worker, whole.
fn give(site: &Site, worker: &str, token: &str) {
    let file = site.dir.join(format!("papers/{worker}.jws"));
    let beside = file.with_extension("new");
    fs::write(&beside, token).unwrap();
    fs::rename(beside, file).unwrap();
}

/// Waits until every gateway goes by what is decided now.
async fn acted(site: &Site) {
    let decided = site.agent().unwrap()["epoch"].as_u64().unwrap();
    site.until("the gateway acts by it", || {
        let gateways = site.json(&["status"])["gateways"].take();
        let acts = |is: &Value| is["epochs"]["desk"].as_u64() >= Some(decided);
        (gateways.as_array()).is_some_and(|all| !all.is_empty() && all.iter().all(acts))
    })
    .await;
}

/// What the SDK says of itself.
fn snapshot(site: &Site, worker: &str) -> Value {
    let port = view(site, worker)["port"].as_u64().unwrap_or_default();
    let url = format!("http://127.0.0.1:{port}/snapshot");
    let Ok(mut answer) = ureq::get(&url).call() else {
        return Value::Null;
    };
    answer.body_mut().read_json().unwrap_or_default()
}

async fn call(site: &Site, id: &str) -> Call {
    let gateway = site.state("run/gateway.addr").unwrap();
    let called = connect_async(format!("ws://{gateway}/ws/{id}")).await;
    called.unwrap().0
}

/// Says something and hears how many turns it was.
async fn turn(call: &mut Call, expected: u32) {
    call.send(Message::text("hello")).await.unwrap();
    let heard = call.next().await.unwrap().unwrap();
    assert_eq!(heard, Message::text(format!("{expected}: you said hello")));
}

/// The next refusal that a log says that is followed, as a pipeline would.
fn next_rejected(site: &Site) -> std::thread::JoinHandle<Value> {
    let mut tail = site
        .command(&["audit", "tail", "--event", "worker.rejected", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(tail.stdout.take().unwrap());
    std::thread::spawn(move || {
        let line = said.lines().map_while(Result::ok).next();
        tail.kill().unwrap();
        tail.wait().unwrap();
        serde_json::from_str(&line.unwrap()).unwrap()
    })
}

/// Waits for what it says.
async fn rejected(site: &Site, tail: std::thread::JoinHandle<Value>) -> Value {
    site.until("a refusal is in the log", || tail.is_finished())
        .await;
    let mut line = tail.join().unwrap();
    assert_eq!(line["openrtc"], "worker.rejected", "{line}");
    line["data"]["fact"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_proves_its_key_serves_and_who_copied_a_token_does_not() {
    let site = open(2).await;
    let workers = bring_in(&site, "v1", 2).await;
    let [honest, thief] = workers.as_slice() else {
        panic!("{workers:?}");
    };
    let listed = site.ok(&["workers"]);
    assert_eq!(
        listed.matches("barred (unregistered)").count(),
        2,
        "{listed}"
    );

    key(&site, honest);
    key(&site, thief);
    let good = token(&site, "v1", honest);
    give(&site, honest, &good);
    site.until("it has registered", || {
        view(&site, honest)["barred"].is_null()
    })
    .await;
    // A copy of the token, and a key of its own.
    let tail = next_rejected(&site);
    give(&site, thief, &good);
    let fact = rejected(&site, tail).await;
    assert_eq!(
        (&fact["worker"], &fact["reason"]),
        (&thief.as_str().into(), &"proof".into())
    );
    site.until("the SDK has heard it", || {
        snapshot(&site, thief)["membership"]["barred"] == "proof"
    })
    .await;
    let log = fs::read_to_string(view(&site, thief)["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("worker.rejected"), "{log}");
    assert_eq!(view(&site, thief)["barred"], "unregistered");
    let release = site.release("v1").unwrap();
    assert_eq!(release["workers_ready"], 1, "{release}");

    // With a token of its own it is as good as the other one.
    give(&site, thief, &token(&site, "v1", thief));
    site.becomes("v1", "current").await;
    acted(&site).await;
    site.until("both take calls", || {
        let takes = |is: &String| snapshot(&site, is)["membership"]["barred"].is_null();
        workers.iter().all(takes)
    })
    .await;

    let mut talking = [call(&site, "CA1").await, call(&site, "CA2").await];
    for call in &mut talking {
        turn(call, 1).await;
    }
    let calls = |worker: &str| snapshot(&site, worker)["active_sessions"].clone();
    assert_eq!((calls(honest), calls(thief)), (1.into(), 1.into()));
    let shown = view(&site, thief)["token"].as_str().unwrap().to_owned();
    signer(&site, &["revoke", "--token", &shown, "--sign", "m.pem"]);
    site.until("it is barred", || view(&site, thief)["barred"] == "revoked")
        .await;
    acted(&site).await;
    site.until("the SDK has heard it", || {
        snapshot(&site, thief)["membership"]["barred"] == "revoked"
    })
    .await;
    let page = site.ok(&["workers", "inspect", thief]);
    assert!(
        page.contains("Barred:") && page.contains("revoked"),
        "{page}"
    );
    let started = |worker: &str| snapshot(&site, worker)["total_sessions_started"].clone();
    let before = started(thief);
    for id in ["CA3", "CA4", "CA5"] {
        talk_of(&site, id).await;
    }
    assert_eq!(started(thief), before, "a barred worker gets no new call");
    for call in &mut talking {
        turn(call, 2).await;
    }
    for mut call in talking {
        call.close(None).await.unwrap();
    }
    site.live(0).await;
}

/// A call with one turn.
async fn talk_of(site: &Site, id: &str) {
    let mut call = call(site, id).await;
    turn(&mut call, 1).await;
    call.close(None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_release_brings_no_release_in() {
    let site = open(1).await;
    let old = bring_in(&site, "v1", 1).await.remove(0);
    key(&site, &old);
    give(&site, &old, &token(&site, "v1", &old));
    site.becomes("v1", "current").await;
    acted(&site).await;
    let new = bring_in(&site, "v2", 1).await.remove(0);
    key(&site, &new);
    let tail = next_rejected(&site);
    give(&site, &new, &token(&site, "v1", &new));
    let fact = rejected(&site, tail).await;
    assert_eq!(fact["worker"], new, "{fact}");
    assert_eq!(fact["reason"], "contradiction", "{fact}");
    let message = fact["message"].as_str().unwrap();
    assert!(message.contains("of release v1"), "{fact}");
    talk_of(&site, "CA1").await;
    assert_eq!(snapshot(&site, &old)["total_sessions_started"], 1);
    assert_eq!(snapshot(&site, &new)["total_sessions_started"], 0);
    let holds = site.agent().unwrap()["holds"].to_string();
    assert!(holds.contains("bars 1 of its workers"), "{holds}");

    give(&site, &new, &token(&site, "v2", &new));
    site.becomes("v2", "current").await;
    acted(&site).await;
    talk_of(&site, "CA2").await;
    assert_eq!(snapshot(&site, &new)["total_sessions_started"], 1);
}
