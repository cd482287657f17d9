//! Permits of outbound calls: they count, they last, they end, and a drain gives none.

use serde_json::{Value, json};

use crate::gateway::Gateway;
use crate::{Client, Directory, Running, release, spec};

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
    // Many times the straggler buffer later it still drains.
    let buffer = spec().policy.straggler_buffer;
    tokio::time::sleep(std::time::Duration::from_millis(5 * buffer.0)).await;
    let view = admin.agent().await;
    assert_eq!(release(&view, "v1").unwrap().state, "draining");
    let facts = admin.facts().await;
    assert!(!facts.contains(&"emptied".to_owned()), "{facts:?}");
    assert_eq!(end(&dialler, &first).await, 204);
    admin
        .until("v1 is empty", |view| {
            release(view, "v1").is_none_or(|is| is.state != "draining")
        })
        .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_that_nobody_returns_expires() {
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
