//! Webhook gates, from segue.toml to the far end and back.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::receiver::Receiver;
use crate::site::{SETTINGS, Site};

fn webhook(receiver: &Receiver, allow: &str) -> String {
    format!(
        r#"
[[agents.desk.webhooks]]
name = "board"
url = "http://{}/gate?token=t-hush"
secret_file = "board.secret"
allow = [{allow}]
timeout = "1s"
retries = 1
"#,
        receiver.addr
    )
}

async fn open(receiver: &Receiver, allow: &str) -> Site {
    let mut site = Site::prepare(SETTINGS, &webhook(receiver, allow));
    fs::write(site.dir.join("board.secret"), "s-hush\n").unwrap();
    site.serve().await;
    site
}

/// Everything that Segue wrote in its folder, and the binary of nobody.
fn written(site: &Site) -> String {
    let mut all = String::new();
    let mut folders = vec![site.home()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && entry.file_name() != "releases" {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                all.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }
    all + &site.said()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_lets_releases_in_or_keeps_them_out_and_no_secret_is_kept() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let board = Receiver::start(move |_| {
        let body = match count.fetch_add(1, Ordering::Relaxed) {
            0 => r#"{"verdict":"successful","reason":"CHG-7"}"#,
            _ => r#"{"verdict":"failed","reason":"no change during freeze"}"#,
        };
        (200, body.to_owned())
    });
    let site = open(&board, "\"127.0.0.1\"").await;
    site.deploy("v1");
    let no = site.run(&["deploy", "v2"]);
    assert_ne!(no.status.code(), Some(0));
    site.phase("failed").await;
    let agent = site.agent().unwrap();
    let reason = agent["rollout"]["reason"].as_str().unwrap();
    assert!(reason.contains("no change during freeze"), "{reason}");
    let serving = site.release("v1").unwrap();
    assert_eq!(serving["state"], "current");
    let heard = board.heard();
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[1].path, "/gate?token=t-hush");
    assert_eq!(heard[1].body["release"]["label"], "v2");
    assert_eq!(heard[1].body["from"]["label"], "v1");
    let signature = heard[1].header("x-segue-signature").unwrap();
    assert!(signature.starts_with("t="), "{signature}");
    let audit = site.ok(&["audit", "--output", "json"]);
    assert!(audit.contains("CHG-7"));
    let all = written(&site);
    assert!(
        all.contains("CHG-7") && !all.contains("hush"),
        "a secret was written down"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_this_machine_is_called_only_when_it_is_allowed() {
    let inner = Receiver::start(|_| (200, String::new()));
    let site = open(&inner, "\"10.0.0.0/8\"").await;
    site.ok(&["deploy", "v1", "--wait", "none"]);
    let paused = |site: &Site| {
        site.agent()
            .is_some_and(|agent| agent["rollout"]["paused"] == true)
    };
    site.until("a person is asked", || paused(&site)).await;
    let holds = site.agent().unwrap()["holds"].to_string();
    assert!(holds.contains("not a public address"), "{holds}");
    assert!(inner.heard().is_empty());
    let view: Value = site.json(&["status"]);
    assert!(!view.to_string().contains("hush"));
}
