//! Permits of outbound calls: they count, they last, they end, and a drain gives none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use segue_core::time::Millis;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::gateway::Gateway;
use crate::{Client, Directory, Running, eventually, kill, pids, release, spec};

const PERMITS: &str = "/v1/agents/desk/permits";

async fn permit(client: &Client, body: Value) -> Value {
    let answer = client.ask("POST", PERMITS, Some(&body)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

async fn end(client: &Client, permit: &Value) -> u16 {
    let path = format!("{PERMITS}/{}", permit["permit"].as_str().unwrap());
    client.ask("DELETE", &path, None).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_with_a_permit_out_is_not_drained() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let admin = &running.client;
    let (_, token) = admin.token("dialler", "worker", 600).await;
    let dialler = admin.with(&token);
    let view = admin.bring_in("v1").await;
    let worker = release(&view, "v1").unwrap().workers[0].id.clone();
    let first = permit(&dialler, json!({ "worker": worker, "call": "CA1" })).await;
    assert_eq!(
        (&first["call"], &first["release"]),
        (&json!("CA1"), &json!("v1"))
    );
    assert_eq!(first["holder"], "dialler");
    let lasts = first["expires_at"].as_u64().unwrap() - first["granted_at"].as_u64().unwrap();
    assert_eq!(lasts, 4 * 3_600_000, "four hours unless it says otherwise");
    let second = permit(&dialler, json!({ "release": "v1", "ttl": 60 })).await;
    let listed = admin.ask("GET", PERMITS, None).await.json();
    assert_eq!(listed["permits"], json!([first, second]));

    admin.bring_in("v2").await;
    // Both count; draining, and nobody dials with it any more.
    for body in [json!({ "worker": worker }), json!({ "release": "v1" })] {
        let refused = dialler.ask("POST", PERMITS, Some(&body)).await;
        assert_eq!(refused.status, 422, "{refused:?}");
        assert_eq!(refused.json()["type"], "draining");
        assert!(refused.json()["hint"].is_string());
    }
    // Restarted, the controller still knows them, and one may be renewed while its release drains.
    running.stop().await;
    let running = Running::start(&directory, spec()).await;
    let admin = &running.client;
    let dialler = admin.with(&token);
    let path = format!("{PERMITS}/{}", first["permit"].as_str().unwrap());
    let renewed = dialler
        .ask("PUT", &path, Some(&json!({ "ttl": 86_400 })))
        .await;
    assert_eq!(renewed.status, 200, "{renewed:?}");
    assert!(renewed.json()["expires_at"].as_u64() > first["expires_at"].as_u64());
    assert_eq!(end(&dialler, &second).await, 204);
    assert_eq!(end(&dialler, &second).await, 404, "it is over");
    // One that began to drain after it, and has no permit out, is empty by now.
    admin.bring_in("v3").await;
    admin
        .until("v2 is empty", |view| {
            release(view, "v2").is_none_or(|is| is.state != "draining")
        })
        .await;
    let view = admin.agent().await;
    assert_eq!(release(&view, "v1").unwrap().state, "draining");
    let facts = admin.facts().await;
    let emptied = facts.iter().filter(|fact| *fact == "emptied").count();
    assert_eq!(emptied, 1, "{facts:?}");
    assert_eq!(end(&dialler, &first).await, 204);
    admin
        .until("v1 is empty", |view| {
            release(view, "v1").is_none_or(|is| is.state != "draining")
        })
        .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_does_not_renew_may_still_talk() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let client = &running.client;
    let view = client.bring_in("v1").await;
    let worker = release(&view, "v1").unwrap().workers[0].id.clone();
    let given = permit(client, json!({ "worker": worker, "ttl": 1 })).await;
    assert_eq!(
        (&given["worker"], &given["overdue"]),
        (&json!(worker), &json!(false))
    );
    client.bring_in("v2").await;
    let listed = async |client: &Client| {
        let listed = client.ask("GET", PERMITS, None).await.json();
        listed["permits"].as_array().unwrap().clone()
    };
    eventually("the permit to be overdue", async || {
        (listed(client).await.first()?["overdue"] == true).then_some(())
    })
    .await;
    // The next controller goes by the same process.
    running.stop().await;
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let view = client
        .until("v1's worker to be found", |view| {
            release(view, "v1").is_some() && !pids(view, "v1").is_empty()
        })
        .await;
    assert_eq!(release(&view, "v1").unwrap().state, "draining");
    assert_eq!(listed(client).await.len(), 1);
    let facts = client.facts().await;
    assert!(!facts.contains(&"emptied".to_owned()), "{facts:?}");
    // Nobody talks any more.
    kill(pids(&view, "v1")[0]);
    client
        .until("v1 is empty", |view| {
            release(view, "v1").is_none_or(|is| is.state != "draining")
        })
        .await;
    assert_eq!(listed(client).await, Vec::<Value>::new());
    running.stop().await;
}

/// Whoever dials waits for the disk. The way back does not wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_goes_before_permits_that_cannot_be_written_down() {
    const DIALLERS: usize = 90;
    const PENDING_MIN: usize = 50;
    let directory = Directory::new();
    let mut spec = spec();
    spec.policy.standby = Millis::from_secs(600);
    let running = Running::start(&directory, spec).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let client = &running.client;
    client.bring_in("v1").await;
    client.bring_in("v2").await;
    let locker = rusqlite::Connection::open(directory.state().control()).unwrap();
    locker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (pending, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let over = Arc::new(AtomicBool::new(false));
    let mut diallers = JoinSet::new();
    for _ in 0..DIALLERS {
        let (client, pending, refused) =
            (client.clone(), Arc::clone(&pending), Arc::clone(&refused));
        let over = Arc::clone(&over);
        diallers.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                pending.fetch_add(1, Ordering::Relaxed);
                let body = json!({ "release": "v2" });
                let answer = client.ask("POST", PERMITS, Some(&body)).await;
                pending.fetch_sub(1, Ordering::Relaxed);
                // After the rollback it takes no calls any more.
                assert!(matches!(answer.status, 422 | 503), "{answer:?}");
                refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    eventually("permits to wait for the disk", async || {
        let waits = pending.load(Ordering::Relaxed) >= PENDING_MIN;
        (waits && refused.load(Ordering::Relaxed) >= DIALLERS).then_some(())
    })
    .await;
    let back = client.post("rollback", json!({ "release": "v2" })).await;
    assert_eq!(back.status, 200, "{back:?}");
    let waits = pending.load(Ordering::Relaxed);
    assert!(waits >= PENDING_MIN, "only {waits} of {DIALLERS} waited");
    over.store(true, Ordering::Relaxed);
    let view = client.agent().await;
    assert_eq!(release(&view, "v1").unwrap().state, "current");
    while let Some(dialler) = diallers.join_next().await {
        dialler.unwrap();
    }
    locker.execute_batch("ROLLBACK").unwrap();
    let listed = client.ask("GET", PERMITS, None).await.json();
    assert_eq!(listed["permits"], json!([]), "none was given");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_of_nobody_expires() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.bring_in("v1").await;
    let permit = permit(&running.client, json!({ "release": "v1", "ttl": 2 })).await;
    running.client.bring_in("v2").await;
    running
        .client
        .until("v1 is empty", |view| {
            release(view, "v1").is_none_or(|is| is.state != "draining")
        })
        .await;
    let answer = running
        .client
        .ask("GET", "/v1/audit?limit=1000", None)
        .await
        .json();
    let entries = answer["entries"].as_array().unwrap().clone();
    let emptied = entries
        .iter()
        .find(|entry| entry["fact"]["fact"] == "emptied")
        .unwrap();
    assert!(
        emptied["at"].as_u64() >= permit["expires_at"].as_u64(),
        "{emptied} before {permit}"
    );
    let listed = running.client.ask("GET", PERMITS, None).await.json();
    assert_eq!(listed["permits"], json!([]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let client = &running.client;
    client.bring_in("v1").await;
    for (body, status) in [
        (json!({}), 422),
        (json!({ "worker": "w1", "release": "v1" }), 422),
        (json!({ "release": "v1", "ttl": 0 }), 400),
        (json!({ "release": "v1", "ttl": 86_401 }), 400),
        (json!({ "release": "v1", "ttl": "1h" }), 400),
        (json!({ "release": "v1", "call": "not a call" }), 400),
        (json!({ "release": "v1", "more": 1 }), 400),
        (json!({ "release": "v9" }), 404),
        (json!({ "worker": "w-9" }), 404),
    ] {
        let answer = client.ask("POST", PERMITS, Some(&body)).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
    }
    let body = json!({ "release": "v1" });
    let answer = client
        .ask("POST", "/v1/agents/nobody/permits", Some(&body))
        .await;
    assert_eq!(answer.status, 404);
    // Pages.
    for _ in 0..3 {
        permit(client, json!({ "release": "v1", "ttl": 60 })).await;
    }
    let page = client
        .ask("GET", &format!("{PERMITS}?limit=2"), None)
        .await
        .json();
    assert_eq!(page["permits"].as_array().unwrap().len(), 2);
    let next = page["next"].as_str().unwrap();
    let path = format!("{PERMITS}?limit=2&after={next}");
    let page = client.ask("GET", &path, None).await.json();
    assert_eq!(page["permits"].as_array().unwrap().len(), 1);
    assert_eq!(page["next"], Value::Null);
    running.stop().await;
}
