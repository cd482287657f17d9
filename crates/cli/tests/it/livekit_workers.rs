//! LiveKit workers for people: who was not let in, who is connected, and who is to take no more jobs.
//! `segue serve`, its dispatcher and the command line are the real ones.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::key;
use crate::sim::{Plan, Sim, connect};
use crate::site::{AGENT, SETTINGS, Site};
use crate::upstream::Upstream;
use crate::wire::FromWorker;

const MEMBERSHIP: &str = "environment = \"production\"\nkeys = \"membership/keys.jsonl\"\n\
                          manifest = \"membership/manifest.jws\"";

/// A site whose dispatcher is registered with that server.
fn site(upstream: &Upstream, admission: &str) -> Site {
    let livekit = format!(
        r#"
[agents.{AGENT}.livekit]
name = "{AGENT}"

[livekit]
url = "{}"
api_key = "{}"
secret_file = "livekit.secret"
listen = "127.0.0.1:0"
{admission}
"#,
        upstream.url(),
        key::KEY
    );
    let site = Site::prepare(SETTINGS, &livekit);
    fs::write(site.dir.join("livekit.secret"), key::SECRET).unwrap();
    site
}

/// Where workers connect.
async fn door(site: &Site) -> String {
    let addr = || site.state("run/dispatch.addr");
    site.until("workers are served", || addr().is_some()).await;
    format!("ws://{}", addr().unwrap().trim())
}

/// What `segue membership` prints, in a folder of the site.
fn membership(site: &Site, folder: &str, args: &[&str]) -> String {
    let output = site
        .command(&["membership"])
        .args(args)
        .current_dir(site.dir.join(folder))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Keys and a manifest of somebody who signs for this environment, and a worker's token of them.
fn token_of(site: &Site, folder: &str) -> String {
    fs::create_dir_all(site.dir.join(folder)).unwrap();
    for key in ["root.pem", "m.pem", "w.pem"] {
        membership(site, folder, &["keygen", key]);
    }
    let keys = [
        ["--env", "production"],
        ["--root", "root.jwk"],
        ["--manifest", "m.jwk"],
        ["--worker", "w.jwk"],
        ["--sign", "root.pem"],
    ];
    let rotate = [&["rotate"][..], keys.as_flattened()].concat();
    membership(site, folder, &rotate);
    let admit = format!("{AGENT}:v1:{}:active:10000", "ab".repeat(32));
    let sign = ["sign", "--key", "m.pem", "--admit", &admit];
    membership(site, folder, &sign);
    let of = ["--release", "v1", "--manifest", "manifest.jws"];
    let token = [&["token", "--key", "w.pem", "--agent", AGENT][..], &of].concat();
    membership(site, folder, &token).trim().to_owned()
}

/// A log that is followed, as a pipeline would; ended with the test, however that ends.
struct Tail(Child);

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_token_is_in_the_audit_log() {
    let upstream = Upstream::open().await;
    let mut site = site(&upstream, MEMBERSHIP);
    token_of(&site, "membership");
    // Somebody else's keys, and everything else as it should be.
    let forged = token_of(&site, "forger");
    site.serve().await;
    site.deploy("v1");
    let url = door(&site).await;

    let mut tail = site
        .command(&["audit", "tail", "--event", "worker.rejected", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .map(Tail)
        .unwrap();
    let said = BufReader::new(tail.0.stdout.take().unwrap());
    let lines = std::thread::spawn(move || said.lines().map_while(Result::ok).next());

    let path = format!("{url}/w/{forged}");
    let mut socket = connect(&path).await.unwrap();
    let register = Plan::new(&path, AGENT).register;
    let frame = FromWorker::Register(register).frame();
    socket.send(Message::binary(frame)).await.unwrap();
    let answer = socket.next().await;
    let is_refused =
        matches!(&answer, Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == 1008);
    assert!(is_refused, "{answer:?}");

    let rejected = || -> Vec<Value> {
        let all = site.ok(&["audit", "--event", "worker.rejected", "-o", "json"]);
        let read = |line| serde_json::from_str(line).unwrap();
        all.lines().map(read).collect()
    };
    site.until("it is in the log", || !rejected().is_empty())
        .await;
    let event = &rejected()[0];
    assert_eq!(event["openrtc"], "worker.rejected", "{event}");
    assert_eq!(event["type"], "dev.segue.worker_rejected.v1");
    let entry = &event["data"];
    assert_eq!(entry["actor"], "gateway:dispatch-1", "{event}");
    assert_eq!(entry["fact"]["from"], "127.0.0.1");
    let text = event.to_string();
    assert!(!text.contains(&forged), "a token is nothing to write down");
    let followed = lines.join().unwrap().expect("the tail has a line");
    assert_eq!(&serde_json::from_str::<Value>(&followed).unwrap(), event);
    site.ok(&["audit", "verify"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_listed_drained_and_kicked() {
    let upstream = Upstream::open().await;
    let mut site = site(&upstream, "unsigned = true");
    site.serve().await;
    site.deploy("v1");
    let path = format!("{}/w/v1", door(&site).await);
    let _worker = Sim::start(&Plan::new(&path, AGENT)).await;
    let livekit = || -> Option<Value> {
        let page = site.json(&["workers"]);
        let workers = page["workers"].as_array()?;
        assert!(workers.iter().any(|is| is["kind"] == "process"), "{page}");
        workers.iter().find(|is| is["kind"] == "livekit").cloned()
    };
    let is = |state: &str| livekit().is_some_and(|worker| worker["state"] == state);
    site.until("it is ready", || is("ready")).await;
    let worker = livekit().unwrap();
    let id = worker["worker"].as_str().unwrap().to_owned();
    assert_eq!(
        (&worker["release"], &worker["calls"]),
        (&"v1".into(), &0.into())
    );
    assert_eq!(worker["connection"]["library"], "1.8.9");

    let shown = site.ok(&["workers", AGENT, "--release", "v1"]);
    assert!(
        shown.starts_with("WORKER") && shown.contains(&id),
        "{shown}"
    );
    let none = site.ok(&["workers", "--release", "v9"]);
    assert!(!none.contains(&id), "{none}");
    let shown = site.ok(&["workers", "inspect", &id]);
    assert!(
        shown.contains("dispatch-1") && shown.contains("127.0.0.1"),
        "{shown}"
    );

    let said = site.ok(&["workers", "drain", &id, "--reason", "a reboot"]);
    assert!(said.contains("gets no more jobs"), "{said}");
    assert_eq!(livekit().unwrap()["connection"]["drained_by"], "operator");
    site.ok(&["workers", "undrain", &id]);
    site.until("it is ready again", || is("ready")).await;
    let refused = site.run(&["workers", "kick", &id]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("--yes"),
        "{said}"
    );
    assert!(is("ready"), "nothing was done");
    site.ok(&["workers", "kick", &id, "--yes"]);
    site.until("its connection is closed", || livekit().is_none())
        .await;

    let steered = site.ok(&["audit", "--event", "worker_steered", "-o", "json"]);
    let steered: Vec<Value> = steered
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["data"].take())
        .collect();
    let what: Vec<&Value> = steered.iter().map(|is| &is["fact"]["what"]).collect();
    assert_eq!(what, ["drain", "undrain", "kick"]);
    assert_eq!(steered[0]["fact"]["reason"], "a reboot");

    // A process of a release is not drained alone, and nobody's is not there.
    let page = site.json(&["workers"]);
    let process = page["workers"][0]["worker"].as_str().unwrap();
    for (worker, why) in [(process, "one process alone"), ("AW_none", "no worker")] {
        let refused = site.run(&["workers", "drain", worker]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{said}");
        assert!(said.contains(why) && said.contains("hint: "), "{said}");
    }
}
