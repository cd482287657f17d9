//! Webhook gates: asked, answered, refused, silent, given up.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use segue_core::spec::{AgentSpec, Webhook};
use segue_core::time::Millis;
use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::receiver::Receiver;
use crate::{Directory, Running, eventually, release, spec};

fn asking(receivers: &[(&str, &Receiver)]) -> AgentSpec {
    let mut spec = spec();
    let webhook = |(name, receiver): &(&str, &Receiver)| Webhook {
        name: (*name).to_owned(),
        to: receiver.to("/gate?token=hush"),
        timeout: Millis(500),
        retries: 2,
    };
    spec.plan.webhooks = receivers.iter().map(webhook).collect();
    spec
}

async fn entry(running: &Running, fact: &str) -> Value {
    let answer = running.client.ask("GET", "/v1/audit?limit=1000", None);
    let entries = answer.await.json()["entries"].as_array().unwrap().clone();
    let found = entries.iter().rfind(|entry| entry["fact"]["fact"] == fact);
    found.unwrap_or_else(|| panic!("no {fact}")).clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_are_asked_must_agree_and_what_they_read_is_signed() {
    let directory = Directory::new();
    fs::write(directory.0.join("board.secret"), "s3cret\n").unwrap();
    let board = Receiver::saying(r#"{"verdict":"successful","reason":"CHG-1"}"#).await;
    let silent = Receiver::start(|_, _| Some((204, String::new()))).await;
    let mut spec = asking(&[("board", &board), ("silent", &silent)]);
    spec.plan.webhooks[0].to.secret_file = Some("board.secret".to_owned());
    let running = Running::start(&directory, spec).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.bring_in("v1").await;
    running.client.bring_in("v2").await;
    let heard = board.heard();
    assert_eq!(
        (heard.len(), silent.heard().len()),
        (2, 2),
        "each once per rollout"
    );
    let asked = heard[1].json();
    assert_eq!(heard[1].path, "/gate?token=hush");
    assert_eq!(asked["agent"], "desk");
    assert_eq!(asked["webhook"], "board");
    assert_eq!(asked["release"]["label"], "v2");
    assert_eq!(asked["from"]["label"], "v1");
    assert_eq!(
        (&asked["rollout"], &asked["attempt"]),
        (&json!(2), &json!(1))
    );
    assert!(asked["inputs"]["releases"].is_object(), "{asked}");
    assert_eq!(heard[0].json()["from"], Value::Null);
    let deliveries = [0, 1].map(|at| heard[at].headers["x-segue-delivery"].clone());
    assert_ne!(deliveries[0], deliveries[1]);
    let signature = &heard[1].headers["x-segue-signature"];
    assert!(
        signature.starts_with("t=") && signature.contains(",v1="),
        "{signature}"
    );
    assert!(!silent.heard()[0].headers.contains_key("x-segue-signature"));
    let passed = entry(&running, "gate_passed").await;
    let gate = &passed["fact"]["gate"]["webhook"];
    assert!(gate == "board" || gate == "silent", "{passed}");
    // Nothing of the address but what the gate is called is ever written down.
    let journal = running
        .client
        .ask("GET", "/v1/audit?limit=1000", None)
        .await;
    let whole = fs::read(directory.0.join("journal.db")).unwrap();
    let log = fs::read(directory.0.join("journal.db-wal")).unwrap_or_default();
    assert!(journal.body.contains("CHG-1"));
    for text in [journal.body.as_bytes(), &whole, &log] {
        let text = String::from_utf8_lossy(text);
        assert!(!text.contains("s3cret"), "the secret was written down");
    }
    // The way back asks nobody.
    running.client.act("rollback", json!({})).await;
    running
        .client
        .until("v1 again", |view| {
            release(view, "v1").is_some_and(|is| is.state == "current")
        })
        .await;
    assert_eq!((board.heard().len(), silent.heard().len()), (2, 2));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_ends_the_rollout_and_its_words_are_told() {
    let directory = Directory::new();
    let board = Receiver::saying(r#"{"verdict":"failed","reason":"freeze week"}"#).await;
    let running = Running::start(&directory, asking(&[("board", &board)])).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.act("deploy", json!({ "label": "v1" })).await;
    let failed = running
        .client
        .until("no", |view| view.phase == "failed")
        .await;
    let reason = failed.rollout.unwrap().reason.unwrap();
    assert!(
        reason.contains("board") && reason.contains("freeze week"),
        "{reason}"
    );
    assert_eq!(board.heard().len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_asked_again_and_then_a_person_decides() {
    let directory = Directory::new();
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let flaky = Receiver::start(move |number, _| match number {
        _ if is_well.load(Ordering::Relaxed) => Some((200, String::new())),
        0 => Some((503, "{\"verdict\":\"successful\"}".to_owned())),
        1 => None,
        _ => Some((429, String::new())),
    })
    .await;
    let running = Running::start(&directory, asking(&[("board", &flaky)])).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.act("deploy", json!({ "label": "v1" })).await;
    let paused = |view: &segue_controller::api::wire::AgentView| {
        view.rollout.as_ref().is_some_and(|is| is.paused)
    };
    let view = running.client.until("a person is needed", paused).await;
    let holds = view.holds.join("; ");
    assert!(holds.contains("board") && holds.contains("429"), "{holds}");
    let heard = flaky.heard();
    assert_eq!(heard.len(), 3, "once, and two more");
    let ids: Vec<&String> = heard
        .iter()
        .map(|is| &is.headers["x-segue-delivery"])
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one delivery: {ids:?}");
    // A person who lets it go on lets it be asked again.
    well.store(true, Ordering::Relaxed);
    running.client.act("resume", json!({})).await;
    running
        .client
        .until("v1", |view| {
            release(view, "v1").is_some_and(|is| is.state == "current")
        })
        .await;
    assert_eq!(flaky.heard().len(), 4);
    assert_ne!(&flaky.heard()[3].headers["x-segue-delivery"], ids[0]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_allowed_is_not_called() {
    let directory = Directory::new();
    let inner = Receiver::saying("").await;
    let mut spec = asking(&[("board", &inner)]);
    spec.plan.webhooks[0].to.allow = vec!["10.0.0.0/8".to_owned()];
    let running = Running::start(&directory, spec).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.act("deploy", json!({ "label": "v1" })).await;
    let view = running
        .client
        .until("a person is needed", |view| {
            view.rollout.as_ref().is_some_and(|is| is.paused)
        })
        .await;
    let holds = view.holds.join("; ");
    assert!(
        holds.contains("not a public address") && !holds.contains("hush"),
        "{holds}"
    );
    assert!(inner.heard().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_journal_and_an_aborted_rollout_for_none() {
    let directory = Directory::new();
    let slow = Receiver::start(|number, _| (number > 0).then(|| (200, String::new()))).await;
    let mut spec = asking(&[("board", &slow)]);
    spec.plan.webhooks[0].timeout = Millis(10_000);
    let running = Running::start(&directory, spec.clone()).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.act("deploy", json!({ "label": "v1" })).await;
    eventually("it is asked", async || {
        (slow.heard().len() == 1).then_some(())
    })
    .await;
    // The controller ends while it waits for the answer; the next one asks again.
    running.stop().await;
    drop(gateway);
    let running = Running::start(&directory, spec).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    running
        .client
        .until("v1", |view| {
            release(view, "v1").is_some_and(|is| is.state == "current")
        })
        .await;
    let heard = slow.heard();
    assert_eq!(heard.len(), 2);
    let id = |at: usize| &heard[at].headers["x-segue-delivery"];
    assert_eq!(id(0), id(1), "the same question");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_not_configured_any_more_is_not_asked_and_says_no_to_nothing() {
    let directory = Directory::new();
    // Without its query it would refuse.
    let board = Receiver::start(|_, heard| {
        let whole = heard.path.contains("token=hush");
        (!whole).then(|| (401, String::new()))
    })
    .await;
    let mut asked = asking(&[("board", &board)]);
    asked.plan.webhooks[0].timeout = Millis(20_000);
    let running = Running::start(&directory, asked).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.act("deploy", json!({ "label": "v1" })).await;
    eventually("it is asked", async || {
        (board.heard().len() == 1).then_some(())
    })
    .await;
    running.stop().await;
    drop(gateway);
    let renamed = asking(&[("council", &board)]);
    let running = Running::start(&directory, renamed).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let view = running
        .client
        .until("a person is needed", |view| {
            view.rollout.as_ref().is_some_and(|is| is.paused)
        })
        .await;
    let holds = view.holds.join("; ");
    assert!(
        holds.contains("webhook board is not in the configuration any more"),
        "{holds}"
    );
    assert_eq!(board.heard().len(), 1, "it is not called");
    assert_eq!(view.phase, "verifying", "and nothing has failed");
    running.stop().await;
}
