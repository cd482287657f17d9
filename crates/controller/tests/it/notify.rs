//! Notifications: in order, at least once, whoever dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use segue_controller::ControllerConfig;
use segue_core::spec::{NotifyFormat, NotifySpec};
use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::receiver::{Heard, Receiver};
use crate::{Directory, Running, eventually, release, spec};

fn target(name: &str, receiver: &Receiver, format: NotifyFormat) -> NotifySpec {
    NotifySpec {
        name: name.to_owned(),
        to: receiver.to("/services/T0/hush"),
        format,
        events: Vec::new(),
        template: None,
    }
}

fn config(directory: &Directory, notify: Vec<NotifySpec>) -> ControllerConfig {
    let mut config = directory.config(spec());
    config.notify = notify;
    config
}

fn events(heard: &[Heard]) -> Vec<String> {
    let event = |heard: &Heard| heard.json()["event"].as_str().unwrap().to_owned();
    heard.iter().map(event).collect()
}

async fn until(what: &str, receiver: &Receiver, count: usize) -> Vec<Heard> {
    eventually(what, async || {
        let heard = receiver.heard();
        (heard.len() >= count).then_some(heard)
    })
    .await
}

#[expect(clippy::too_many_lines, reason = "one story, told three times")]
#[tokio::test(flavor = "multi_thread")]
async fn each_hears_in_its_own_form_what_was_decided() {
    let directory = Directory::new();
    std::fs::write(directory.0.join("ops.secret"), "s3cret").unwrap();
    let (plain, chat, events_of) = (
        Receiver::saying("").await,
        Receiver::saying("ok").await,
        Receiver::saying("").await,
    );
    let mut first = target("ops", &plain, NotifyFormat::Json);
    first.to.secret_file = Some("ops.secret".to_owned());
    let mut slack = target("chat", &chat, NotifyFormat::Slack);
    slack.events = ["landed", "rolled_back"].map(str::to_owned).into();
    slack.template = Some("{agent}: {event} {release} ({reason}) by {actor}".to_owned());
    let mut cd = target("cd", &events_of, NotifyFormat::Cdevents);
    cd.events = ["deployed", "landed", "rolled_back", "retired"]
        .map(str::to_owned)
        .into();
    let config = config(&directory, vec![first, slack, cd]);
    let running = Running::start_with(&directory, config).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let body = json!({ "label": "v1", "env": { "API_KEY": "k-hush-1" } });
    running.client.act("deploy", body).await;
    running
        .client
        .until("v1", |view| {
            release(view, "v1").is_some_and(|is| is.state == "current")
        })
        .await;
    running.client.bring_in("v2").await;
    let why = json!({ "reason": "worse {agent}" });
    running.client.act("rollback", why).await;
    running
        .client
        .until("v2 is gone", |view| {
            release(view, "v2").is_some_and(|is| is.state == "retired")
        })
        .await;

    let heard = until("all is told", &plain, 6).await;
    let expected = [
        "deployed",
        "landed",
        "deployed",
        "landed",
        "rollback_started",
        "rolled_back",
    ];
    assert_eq!(events(&heard), expected);
    let back = heard[5].json();
    assert_eq!(back["release"]["label"], "v2", "{back}");
    assert_eq!(back["other"]["label"], "v1");
    assert_eq!(back["rollout"], 2);
    assert!(
        back["reason"].as_str().unwrap().contains("worse {agent}"),
        "{back}"
    );
    assert!(
        back["text"]
            .as_str()
            .unwrap()
            .starts_with("desk: rolled back v2 (back to v1)")
    );
    assert!(heard[5].headers["x-segue-signature"].starts_with("t="));
    let order: Vec<u64> = heard
        .iter()
        .map(|is| is.json()["seq"].as_u64().unwrap())
        .collect();
    assert!(order.is_sorted(), "{order:?}");

    let said: Vec<Value> = until("chat", &chat, 3)
        .await
        .iter()
        .map(Heard::json)
        .collect();
    assert_eq!(said[0], json!({ "text": "desk: landed v1 (-) by segue" }));
    let last = said[2]["text"].as_str().unwrap();
    assert!(
        last.starts_with("desk: rolled_back v2 (") && last.contains("worse {agent}"),
        "{last}"
    );

    let cd: Vec<Value> = until("cd", &events_of, 6)
        .await
        .iter()
        .map(Heard::json)
        .collect();
    let types: Vec<&str> = cd
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        [
            "dev.segue.rollout.deployed.v1",
            "dev.cdevents.service.deployed.0.3.0",
            "dev.segue.rollout.deployed.v1",
            "dev.cdevents.service.upgraded.0.3.0",
            "dev.cdevents.service.rolledback.0.3.0",
            "dev.cdevents.service.removed.0.3.0",
        ]
    );
    let kind = &events_of.heard()[0].headers["content-type"];
    assert_eq!(kind, "application/cloudevents+json");
    cdevents_fit_their_schema(&cd);
    let upgraded = &cd[3]["data"]["subject"]["content"]["artifactId"];
    assert!(
        upgraded
            .as_str()
            .unwrap()
            .starts_with("pkg:generic/desk@v2?checksum=sha256:")
    );
    let back = &cd[4]["data"]["subject"]["content"]["artifactId"];
    assert!(
        back.as_str().unwrap().starts_with("pkg:generic/desk@v1?"),
        "what serves then"
    );
    let chain = |at: usize| &cd[at]["data"]["context"]["chainId"];
    assert_eq!(chain(3), chain(4), "one rollout, one chain");
    assert_ne!(chain(1), chain(3));

    for receiver in [&plain, &chat, &events_of] {
        for heard in receiver.heard() {
            assert!(!heard.body.contains("hush"), "{}", heard.body);
            assert!(!heard.body.contains("s3cret"));
        }
    }
    let metrics = running.client.ask("GET", "/metrics", None).await.body;
    let line = "segue_notifications_total{target=\"ops\",outcome=\"delivered\"} 6";
    assert!(metrics.contains(line), "{metrics}");
    running.stop().await;
}

/// What the schemas of `CDEvents` 0.5 ask for: these fields, and no others.
fn cdevents_fit_their_schema(events: &[Value]) {
    let keys =
        |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let mut seen = 0;
    for event in events {
        assert_eq!(event["specversion"], "1.0");
        let kind = event["type"].as_str().unwrap();
        if !kind.starts_with("dev.cdevents.") {
            continue;
        }
        seen += 1;
        let data = &event["data"];
        assert_eq!(
            keys(data),
            ["context", "customData", "customDataContentType", "subject"]
        );
        let context = &data["context"];
        assert_eq!(
            keys(context),
            [
                "chainId",
                "id",
                "source",
                "specversion",
                "timestamp",
                "type"
            ]
        );
        assert_eq!(context["specversion"], "0.5.0");
        for field in ["id", "source", "type"] {
            assert_eq!(context[field], event[field], "{field}");
        }
        assert_eq!(context["timestamp"], event["time"]);
        let subject = &data["subject"];
        assert_eq!(keys(subject), ["content", "id", "source"]);
        let content = keys(&subject["content"]);
        if kind.contains("removed") {
            assert_eq!(content, ["environment"]);
        } else {
            assert_eq!(content, ["artifactId", "environment"]);
        }
    }
    assert_eq!(seen, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_down_misses_nothing_and_delays_nobody() {
    let directory = Directory::new();
    let up = Arc::new(AtomicBool::new(false));
    let is_up = Arc::clone(&up);
    let down = Receiver::start(move |_, _| {
        let status = if is_up.load(Ordering::Relaxed) {
            200
        } else {
            503
        };
        Some((status, String::new()))
    })
    .await;
    let well = Receiver::saying("").await;
    let targets = || {
        vec![
            target("down", &down, NotifyFormat::Json),
            target("well", &well, NotifyFormat::Json),
        ]
    };
    let running = Running::start_with(&directory, config(&directory, targets())).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.bring_in("v1").await;
    until("the other is told", &well, 2).await;
    until("it is tried", &down, 2).await;
    assert!(
        events(&down.heard())
            .iter()
            .all(|event| event == "deployed"),
        "in order"
    );
    // The controller ends, and much is decided by the next one, before it is up again.
    running.stop().await;
    drop(gateway);
    let running = Running::start_with(&directory, config(&directory, targets())).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.bring_in("v2").await;
    let before = down.heard().len();
    up.store(true, Ordering::Relaxed);
    let heard = eventually("all of it arrives", async || {
        let heard = down.heard();
        let last = heard
            .last()
            .map(|heard| heard.json()["release"]["label"].clone());
        let landed = events(&heard).last().is_some_and(|event| event == "landed");
        (last == Some(json!("v2")) && landed).then_some(heard)
    })
    .await;
    let taken = &heard[before.saturating_sub(1)..];
    let mut taken: Vec<u64> = taken
        .iter()
        .map(|is| is.json()["seq"].as_u64().unwrap())
        .collect();
    taken.dedup();
    assert!(taken.is_sorted(), "{taken:?}");
    let wanted: Vec<u64> = well
        .heard()
        .iter()
        .map(|is| is.json()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(taken, wanted, "the same as the one that was up");
    // The same thing has the same id each time it is tried.
    let first: Vec<&String> = heard
        .iter()
        .filter(|is| is.json()["seq"] == wanted[0])
        .map(|is| &is.headers["x-segue-delivery"])
        .collect();
    assert!(
        first.len() > 2 && first.iter().all(|id| *id == first[0]),
        "{first:?}"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_receiver_is_not_told_of_the_past() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.bring_in("v1").await;
    running.stop().await;
    drop(gateway);
    let receiver = Receiver::saying("").await;
    let targets = vec![target("new", &receiver, NotifyFormat::Json)];
    let running = Running::start_with(&directory, config(&directory, targets)).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.bring_in("v2").await;
    let heard = until("v2", &receiver, 2).await;
    assert_eq!(heard[0].json()["release"]["label"], "v2");
    running.stop().await;
}
