//! The workers of an agent, whoever runs them, and what befalls them.

use segue_core::names::{ReleaseId, WorkerId};
use segue_core::plane::{ConnectedWorker, DrainedBy, PlaneEvent, Steer, Told};
use segue_core::spec::{NotifyFormat, NotifySpec};
use segue_core::time::Timestamp;
use serde_json::{Value, json};

use crate::gateway::{Gateway, now};
use crate::receiver::Receiver;
use crate::{Client, Directory, Running, desk, eventually, release, spec};

const WORKERS: &str = "/v1/agents/desk/workers";

fn connected(id: &str, release: ReleaseId, jobs: &[&str]) -> ConnectedWorker {
    ConnectedWorker {
        worker: id.parse().unwrap(),
        agent: desk(),
        release,
        since: Timestamp(now().0 - 60_000),
        available: true,
        drain: None,
        load: 250,
        slow: false,
        jobs: jobs.iter().map(|job| job.parse().unwrap()).collect(),
        library: "1.8.9".to_owned(),
        from: Some([10, 0, 0, 7].into()),
    }
}

/// The workers, by id.
async fn workers(client: &Client) -> Vec<Value> {
    let answer = client.ask("GET", WORKERS, None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let page = answer.json();
    assert_eq!(page["unknown"], json!([]), "{page}");
    page["workers"].as_array().unwrap().clone()
}

async fn entry(client: &Client, worker: &str) -> Value {
    let all = workers(client).await;
    let found = all.iter().find(|is| is["worker"] == worker);
    found.unwrap_or_else(|| panic!("{all:?}")).clone()
}

/// Entries of the audit log that are called so.
async fn told(client: &Client, name: &str) -> Vec<Value> {
    let answer = client.ask("GET", "/v1/audit?limit=1000", None).await;
    let entries = answer.json()["entries"].as_array().unwrap().clone();
    let is = |entry: &Value| entry["fact"]["fact"] == name;
    entries.into_iter().filter(is).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_listed_whoever_runs_them() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    let client = &running.client;
    let view = client.bring_in("v1").await;
    let v1 = release(&view, "v1").unwrap();
    let ours = v1.workers[0].id.to_string();
    {
        let mut mind = gateway.mind.lock().unwrap();
        let mut full = connected("AW_2", v1.id, &[]);
        full.available = false;
        mind.workers = vec![connected("AW_1", v1.id, &["AJ_1", "AJ_2"]), full];
    }
    let (_, token) = client.token("w", "worker", 600).await;
    let said = json!({ "instance": "a", "release": "v1", "active": 3, "draining": true });
    for worker in ["pod-7", &ours] {
        let path = format!("{WORKERS}/{worker}");
        let answer = client.with(&token).ask("PUT", &path, Some(&said)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    let is = entry(client, "AW_1").await;
    assert_eq!(
        (&is["kind"], &is["release"], &is["state"], &is["calls"]),
        (
            &json!("livekit"),
            &json!("v1"),
            &json!("allocated"),
            &json!(2)
        )
    );
    let connection = &is["connection"];
    assert_eq!(connection["gateway"], "gw-1");
    assert_eq!(connection["jobs"], json!(["AJ_1", "AJ_2"]));
    assert_eq!(connection["from"], "10.0.0.7");
    assert_eq!(entry(client, "AW_2").await["state"], "busy");
    let is = entry(client, &ours).await;
    assert_eq!(
        (&is["kind"], &is["state"]),
        (&json!("process"), &json!("ready"))
    );
    assert!(
        is["process"]["pid"].is_u64() && is["heard"][0]["active"] == 3,
        "{is}"
    );
    let is = entry(client, "pod-7").await;
    assert_eq!(
        (&is["kind"], &is["state"], &is["calls"]),
        (&json!("reported"), &json!("draining"), &json!(3))
    );

    let page = client.ask("GET", "/metrics", None).await.body;
    let counted = |state: &str, count: u32| {
        let labels = format!("agent=\"desk\",version=\"v1\",track=\"current\",state=\"{state}\"");
        let line = format!("segue_connected_workers{{{labels}}} {count}.0");
        assert!(page.lines().any(|is| is == line), "no {line} in\n{page}");
    };
    counted("allocated", 1);
    counted("busy", 1);
    counted("draining", 0);

    // Page by page they are the same.
    let (mut names, mut path) = (Vec::new(), format!("{WORKERS}?limit=1"));
    loop {
        let page = client.ask("GET", &path, None).await.json();
        let name = page["workers"][0]["worker"].as_str().unwrap();
        names.push(name.to_owned());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("{WORKERS}?limit=1&after={next}");
    }
    assert_eq!(names, ["AW_1", "AW_2", "pod-7", &ours]);
    let one = client.ask("GET", &format!("{WORKERS}/AW_1"), None).await;
    assert_eq!(one.json(), entry(client, "AW_1").await);
    let none = client.ask("GET", &format!("{WORKERS}/AW_9"), None).await;
    assert_eq!(
        (none.status, none.json()["type"].as_str().is_some()),
        (404, true)
    );

    // What is connected to one that is silent is not known.
    gateway.mind.lock().unwrap().mute = true;
    let page = client.ask("GET", WORKERS, None).await.json();
    assert_eq!(page["unknown"], json!(["gw-1"]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_steers_a_worker_is_written_down_first() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    let client = &running.client;
    let view = client.bring_in("v1").await;
    let v1 = release(&view, "v1").unwrap();
    gateway.mind.lock().unwrap().workers = vec![connected("AW_1", v1.id, &["AJ_1"])];
    let worker: WorkerId = "AW_1".parse().unwrap();
    let revision = client.agent().await.revision;
    let body = json!({ "actor": "ann", "reason": "it hangs" });
    for (number, (verb, what, state)) in [
        ("drain", Steer::Drain, "draining"),
        ("undrain", Steer::Undrain, "allocated"),
        ("kick", Steer::Kick, "draining"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("{WORKERS}/AW_1/{verb}");
        let answer = client.ask("POST", &path, Some(&body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["worker"]["state"], state, "{verb}");
        assert_eq!(
            gateway.mind.lock().unwrap().steered[number..],
            [(worker.clone(), what)]
        );
        let entries = told(client, "worker_steered").await;
        assert_eq!(entries.len(), number + 1);
        let entry = entries.last().unwrap();
        assert_eq!(entry["actor"], "operator:ann");
        let fact = &entry["fact"];
        assert_eq!(
            (&fact["worker"], &fact["what"], &fact["reason"]),
            (&json!("AW_1"), &json!(verb), &json!("it hangs"))
        );
    }
    assert_eq!(
        client.agent().await.revision,
        revision,
        "nothing else changed"
    );

    // One that Segue runs, one that only says how it is, and one that is not there.
    let ours = v1.workers[0].id.to_string();
    let (_, token) = client.token("w", "worker", 600).await;
    let said = json!({ "instance": "a", "active": 0 });
    let path = format!("{WORKERS}/pod-7");
    client.with(&token).ask("PUT", &path, Some(&said)).await;
    for (worker, status) in [(ours.as_str(), 409), ("pod-7", 409), ("AW_9", 404)] {
        let path = format!("{WORKERS}/{worker}/drain");
        let answer = client.ask("POST", &path, Some(&json!({}))).await;
        assert_eq!(answer.status, status, "{worker}: {answer:?}");
        assert!(answer.json()["hint"].is_string());
    }
    // Whoever does not answer may have heard of it: that it was asked for is in the log.
    let entries = told(client, "worker_steered").await.len();
    assert_eq!(entries, 3);
    running.stop().await;
}

fn event(at: u64, what: Told) -> PlaneEvent {
    PlaneEvent {
        at: Timestamp(at),
        agent: desk(),
        times: 4,
        what,
    }
}

#[expect(clippy::too_many_lines, reason = "one story of each kind of event")]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dispatcher_tells_is_in_the_log_once_and_told_on() {
    let directory = Directory::new();
    let receiver = Receiver::saying("").await;
    let mut config = directory.config(spec());
    config.notify = vec![NotifySpec {
        name: "ops".to_owned(),
        to: receiver.to("/"),
        format: NotifyFormat::Json,
        events: vec!["worker_rejected".to_owned()],
        template: None,
    }];
    let running = Running::start_with(&directory, config).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    let client = &running.client;
    let view = client.bring_in("v1").await;
    let v1 = release(&view, "v1").unwrap().id;
    let rejected = event(
        1,
        Told::WorkerRejected {
            reason: "signature".to_owned(),
            message: "no key that is known has signed it".to_owned(),
            release: Some("v9".parse().unwrap()),
            from: Some([10, 0, 0, 7].into()),
        },
    );
    let events = vec![
        rejected.clone(),
        event(
            2,
            Told::WorkerDraining {
                worker: "AW_1".parse().unwrap(),
                release: v1,
                jobs: 2,
                by: DrainedBy::Membership,
            },
        ),
        event(
            3,
            Told::MembershipRefused {
                document: "manifest".to_owned(),
                reason: "rollback".to_owned(),
                message: "its version is older".to_owned(),
            },
        ),
        event(
            4,
            Told::JobRedispatched {
                job: "AJ_secret".parse().unwrap(),
                release: v1,
            },
        ),
    ];
    // It could not know whether it arrived, and says it again.
    for _ in 0..2 {
        gateway.mind.lock().unwrap().events.clone_from(&events);
        eventually("it is said", async || {
            gateway.mind.lock().unwrap().events.is_empty().then_some(())
        })
        .await;
    }
    eventually("it is told that both were read", async || {
        (gateway.mind.lock().unwrap().read >= 2).then_some(())
    })
    .await;
    let last = eventually("the last event", async || {
        told(client, "job_redispatched").await.pop()
    })
    .await;
    assert_eq!(last["actor"], "gateway:gw-1");
    assert!(!last.to_string().contains("AJ_secret"), "{last}");
    for name in ["worker_rejected", "worker_draining", "membership_refused"] {
        assert_eq!(told(client, name).await.len(), 1, "{name}");
    }
    eventually("it is counted", async || {
        let line = "segue_worker_events_total{agent=\"desk\",event=\"worker_rejected\"} 4";
        let page = client.ask("GET", "/metrics", None).await.body;
        page.lines().any(|is| is == line).then_some(())
    })
    .await;
    let fact = &told(client, "worker_rejected").await[0]["fact"];
    assert_eq!(
        (
            &fact["reason"],
            &fact["label"],
            &fact["times"],
            &fact["from"]
        ),
        (
            &json!("signature"),
            &json!("v9"),
            &json!(4),
            &json!("10.0.0.7")
        )
    );
    let heard = eventually("a notification", async || receiver.heard().pop()).await;
    let body = heard.json();
    assert_eq!(
        (&body["event"], &body["actor"]),
        (&json!("worker_rejected"), &json!("gateway:gw-1"))
    );
    assert_eq!(body["reason"], "no key that is known has signed it");
    assert_eq!(body["release"], Value::Null, "nobody has proved it");

    // A flood ends in one entry that says what is missing.
    let flood = |number: u64| {
        let mut event = rejected.clone();
        event.at = Timestamp(100 + number);
        event
    };
    gateway.mind.lock().unwrap().events = (0..1_000).map(flood).collect();
    eventually("all that is written down of it", async || {
        let count = told(client, "worker_rejected").await.len();
        (count >= 150).then_some(())
    })
    .await;
    let verify = client.ask("GET", "/v1/audit/verify", None).await.json();
    assert_eq!(verify["ok"], true, "{verify}");
    assert!(verify["entries"].as_u64().unwrap() < 300, "{verify}");
    running.stop().await;
}
