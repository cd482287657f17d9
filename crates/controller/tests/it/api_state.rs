//! The state of calls.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::api::is_problem;
use crate::helper::play;
use crate::http::{Answer, send};
use crate::{Client, Directory, Running, spec};

const PATH: &str = "/v1/calls/CA1/state";

async fn ask(client: &Client, method: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let authorization = format!("Bearer {}", client.token);
    let mut all = vec![("Authorization", authorization.as_str())];
    all.extend(headers);
    send(client.addr, method, PATH, &all, body).await
}

fn tag(answer: &Answer) -> String {
    let version = answer.json()["version"].as_u64().unwrap();
    let tag = answer.header("etag").unwrap().to_owned();
    assert_eq!(tag, format!("\"{version}\""), "{answer:?}");
    tag
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_written_only_on_the_version_that_was_meant() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let only_new = [("If-None-Match", "*")];
    let made = ask(client, "PUT", &only_new, "{\"a\":1}").await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.json()["call"], "CA1");
    let left = made.json()["expires_at"].as_u64().unwrap();
    let now = client.status().await.at.0;
    assert!(
        left > now + 1_700_000 && left <= now + 1_800_000,
        "{left} at {now}"
    );
    let first = tag(&made);
    let again = ask(client, "PUT", &only_new, "{}").await;
    is_problem(&again, 412, "precondition-failed");

    let changed = ask(
        client,
        "PATCH",
        &[("If-Match", &first)],
        "{\"b\":{\"c\":2}}",
    )
    .await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let second = tag(&changed);
    assert_eq!(changed.json()["state"], json!({ "a": 1, "b": { "c": 2 } }));
    for (method, body) in [("PUT", "{}"), ("PATCH", "{}"), ("DELETE", "")] {
        let weak = format!("W/{second}");
        for old in [first.as_str(), "\"x\"", weak.as_str()] {
            let stale = ask(client, method, &[("If-Match", old)], body).await;
            is_problem(&stale, 412, "precondition-failed");
        }
        let bad = ask(client, method, &[("If-Match", "1")], body).await;
        is_problem(&bad, 400, "bad-request");
    }
    let read = ask(client, "GET", &[], "").await;
    assert_eq!((read.json(), tag(&read)), (changed.json(), second.clone()));
    let same = ask(client, "GET", &[("If-None-Match", &second)], "").await;
    assert_eq!((same.status, same.body.as_str()), (304, ""));
    assert_eq!(same.header("etag"), Some(second.as_str()));

    let several = format!("{first}, {second}");
    let replaced = ask(client, "PUT", &[("If-Match", &several)], "{\"z\":0}").await;
    assert_eq!(replaced.json()["state"], json!({ "z": 0 }), "{replaced:?}");
    let any = ask(client, "DELETE", &[("If-Match", "*")], "").await;
    assert_eq!(any.status, 204);
    let none = ask(client, "PUT", &[("If-Match", "*")], "{}").await;
    is_problem(&none, 412, "precondition-failed");
    is_problem(&ask(client, "GET", &[], "").await, 404, "not-found");
    let both = [("If-Match", "*"), ("If-None-Match", "*")];
    let neither = ask(client, "PUT", &both, "{}").await;
    is_problem(&neither, 412, "precondition-failed");
    let made = ask(client, "PUT", &[("If-None-Match", &second)], "{}").await;
    let not_this = [("If-None-Match", made.header("etag").unwrap())];
    let same = ask(client, "PUT", &not_this, "{}").await;
    is_problem(&same, 412, "precondition-failed");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_an_object_of_a_bounded_size_and_the_right_type() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let json = ("Content-Type", "application/json");
    let merge = ("Content-Type", "application/merge-patch+json");
    let text = ("Content-Type", "text/plain");
    for (method, headers, body, status) in [
        ("PUT", &[json][..], "{}", 201),
        ("PUT", &[merge], "{}", 415),
        ("PATCH", &[json], "{}", 200),
        ("PATCH", &[merge], "{}", 200),
        (
            "PATCH",
            &[("Content-Type", "application/json; charset=utf-8")],
            "{}",
            200,
        ),
        ("PATCH", &[text], "{}", 415),
        ("PUT", &[json], "", 400),
        ("PUT", &[json], "null", 400),
        ("PUT", &[json], "[]", 400),
        ("PUT", &[json], "\"x\"", 400),
        ("PATCH", &[merge], "7", 400),
        ("PUT", &[json], "{\"secret-of-caller\":", 400),
    ] {
        let answer = ask(client, method, headers, body).await;
        assert_eq!(
            answer.status, status,
            "{method} {headers:?} {body}: {answer:?}"
        );
        assert!(!answer.body.contains("secret-of-caller"), "{answer:?}");
    }
    let largest = format!("{{\"x\":\"{}\"}}", "x".repeat(64 * 1024 - 8));
    assert_eq!(ask(client, "PUT", &[json], &largest).await.status, 200);
    let more = ask(client, "PATCH", &[merge], "{\"y\":1}").await;
    is_problem(&more, 413, "too-large");
    let larger = ask(client, "PUT", &[json], &format!("{largest} ")).await;
    is_problem(&larger, 413, "too-large");
    let read = ask(client, "GET", &[], "").await.json();
    assert_eq!(
        read["state"],
        serde_json::from_str::<Value>(&largest).unwrap()
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_at_once_lose_nothing() {
    let directory = Directory::new();
    let mut config = directory.config(spec());
    config.api.rate = segue_controller::api::Rate::per_second(10_000);
    let running = Running::start_with(&directory, config).await;
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let client = running.client.clone();
        writers.spawn(async move {
            let mut versions = Vec::new();
            for n in 0..25 {
                let body = format!("{{\"w{writer}-{n}\":{n}}}");
                let answer = ask(&client, "PATCH", &[], &body).await;
                assert!(matches!(answer.status, 200 | 201), "{answer:?}");
                versions.push(answer.json()["version"].as_u64().unwrap());
            }
            versions
        });
    }
    let mut versions: Vec<u64> = writers.join_all().await.concat();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 200, "every write has a version of its own");
    let read = ask(&running.client, "GET", &[], "").await.json();
    assert_eq!(read["state"].as_object().unwrap().len(), 200);
    assert_eq!(read["version"].as_u64(), versions.last().copied());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_outlives_a_controller_that_is_killed() {
    let directory = Directory::new();
    let spec = serde_json::to_string(&spec()).unwrap();
    let mut controller = play("controller", &directory, &[("IT_SPEC", &spec)]);
    let client = Client::connect(&directory.state()).await;
    let made = ask(&client, "PUT", &[], "{\"asked\":\"hours\"}").await;
    assert_eq!(made.status, 201, "{made:?}");
    let patched = ask(&client, "PATCH", &[], "{\"turn\":2}").await;
    assert_eq!(patched.status, 200, "{patched:?}");
    controller.kill().unwrap();
    controller.wait().unwrap();
    std::fs::remove_file(directory.state().api_addr()).unwrap();

    let mut next = play("controller", &directory, &[("IT_SPEC", &spec)]);
    let client = Client::connect(&directory.state()).await;
    let read = ask(&client, "GET", &[], "").await;
    assert_eq!(read.json(), patched.json());
    next.kill().unwrap();
    next.wait().unwrap();
}
