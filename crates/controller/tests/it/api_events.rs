//! Decisions as they are taken.

use serde_json::json;
use tokio::time::timeout;

use crate::api::is_problem;
use crate::http::{Stream, request};
use crate::{Client, Directory, PATIENCE, Running, spec};

async fn listen(client: &Client, path: &str, headers: &[(&str, &str)]) -> Stream {
    let authorization = format!("Bearer {}", client.token);
    let mut all = vec![("Authorization", authorization.as_str())];
    all.extend(headers);
    let stream = Stream::open(client.addr, path, &all).await;
    assert_eq!(stream.answer.status, 200, "{:?}", stream.answer);
    assert_eq!(
        stream.answer.header("content-type"),
        Some("text/event-stream")
    );
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn every_decision_is_heard_once_and_in_order_also_across_a_gap() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let mut whole = listen(client, "/v1/events?after=0", &[]).await;
    let view = client.bring_in("v1").await;
    let label = &view.releases[0].label;
    client.act("drain", json!({ "release": label })).await;
    let journal = client.ask("GET", "/v1/audit?limit=1000", None).await.json();
    let entries = journal["entries"].as_array().unwrap();

    let hear = async |stream: &mut Stream, after: usize| {
        for entry in &entries[after..] {
            let event = timeout(PATIENCE, stream.event())
                .await
                .expect("another event");
            let (id, name, data) = event.unwrap();
            assert_eq!(id, entry["seq"].as_u64().unwrap());
            assert_eq!(name, entry["fact"]["fact"].as_str().unwrap());
            assert_eq!(data, *entry);
        }
    };
    hear(&mut whole, 0).await;
    // Who comes back goes on after the last event, whatever the path said at first.
    let half = entries.len() / 2;
    let id = half.to_string();
    let back = [("Last-Event-ID", id.as_str())];
    let mut resumed = listen(client, "/v1/events?after=0&agent=desk", &back).await;
    hear(&mut resumed, half).await;
    // Who says nothing hears what comes from now on.
    let mut fresh = listen(client, "/v1/events", &[]).await;
    let last = entries.len() as u64;
    client
        .act("deploy", json!({ "label": "v2", "env": { "V": "2" } }))
        .await;
    for stream in [&mut whole, &mut resumed, &mut fresh] {
        let event = timeout(PATIENCE, stream.event())
            .await
            .expect("a new event");
        assert!(event.unwrap().0 > last);
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_listeners_and_a_place_is_free_again() {
    let directory = Directory::new();
    let mut config = directory.config(spec());
    config.api.rate = segue_controller::api::Rate::per_second(10_000);
    let running = Running::start_with(&directory, config).await;
    let client = &running.client;
    let mut listeners = Vec::new();
    for _ in 0..64 {
        listeners.push(listen(client, "/v1/events", &[]).await);
    }
    let refused = client.ask("GET", "/v1/events", None).await;
    is_problem(&refused, 503, "busy");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert_eq!(client.ask("GET", "/v1/status", None).await.status, 200);
    listeners.pop();
    let authorization = format!("Bearer {}", client.token);
    let headers = [("Authorization", authorization.as_str())];
    crate::eventually("a place to be free", async || {
        let stream = Stream::open(client.addr, "/v1/events", &headers).await;
        (stream.answer.status == 200).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_hear_nothing() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let authorization = format!("Bearer {}", client.token);
    for header in [
        ("Origin", "http://evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
    ] {
        let headers = [("Authorization", authorization.as_str()), header];
        let answer = request(client.addr, "GET", "/v1/events", &headers, None).await;
        is_problem(&answer, 403, "forbidden");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_lost_the_token_hears_no_more() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let (id, token) = client.token("ann", "viewer", 3_600).await;
    let mut stream = listen(&client.with(&token), "/v1/events", &[]).await;
    let revoked = client
        .ask("DELETE", &format!("/v1/tokens/{id}"), None)
        .await;
    assert_eq!(revoked.status, 204);
    client.act("deploy", json!({ "label": "v1" })).await;
    // What was decided before may still be on its way.
    let (name, data) = loop {
        let event = timeout(PATIENCE, stream.event()).await.expect("an event");
        let (_, name, data) = event.unwrap();
        assert_ne!(name, "deployed");
        if name != "configured" {
            break (name, data);
        }
    };
    assert_eq!(name, "cut-off");
    assert_eq!(data["type"], "unauthorized");
    let end = timeout(PATIENCE, stream.event()).await.expect("the end");
    assert!(end.is_none(), "{end:?}");
    running.stop().await;
}
