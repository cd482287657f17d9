//! Requests that are sent again with their idempotency key.

use serde_json::{Value, json};

use crate::api::is_problem;
use crate::helper::play;
use crate::http::{Answer, request};
use crate::{Client, Directory, Running, spec};

async fn ask(client: &Client, method: &str, path: &str, key: &str, body: &Value) -> Answer {
    let authorization = format!("Bearer {}", client.token);
    let headers = [
        ("Authorization", authorization.as_str()),
        ("Idempotency-Key", key),
    ];
    request(client.addr, method, path, &headers, Some(body)).await
}

const DEPLOY: &str = "/v1/agents/desk/deploy";

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_carried_out_once_and_answered_again() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let body = json!({ "label": "v1" });
    let first = ask(client, "POST", DEPLOY, "k1", &body).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = ask(client, "POST", DEPLOY, "k1", &body).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.header("content-type"), Some("application/json"));
    let deployed = |facts: Vec<String>| facts.iter().filter(|fact| *fact == "deployed").count();
    assert_eq!(deployed(client.facts().await), 1);

    // The key belongs to that request alone.
    let other = json!({ "label": "v2" });
    for (path, body) in [(DEPLOY, &other), ("/v1/agents/desk/abort", &body)] {
        let answer = ask(client, "POST", path, "k1", body).await;
        is_problem(&answer, 422, "idempotency-mismatch");
    }
    // And to who used it.
    let (_, token) = client.token("ann", "operator", 3_600).await;
    let ann = client.with(&token);
    let answer = ask(&ann, "POST", "/v1/agents/nobody/pause", "k1", &json!({})).await;
    is_problem(&answer, 404, "not-found");
    // Refusals are answers, too.
    let answer = ask(&ann, "POST", "/v1/agents/nobody/pause", "k1", &json!({})).await;
    is_problem(&answer, 404, "not-found");
    assert_eq!(answer.header("idempotency-replayed"), Some("true"));
    for bad in ["", "a b", &"x".repeat(129)] {
        let answer = ask(client, "POST", DEPLOY, bad, &body).await;
        is_problem(&answer, 400, "bad-request");
    }
    running.stop().await;

    // The next controller answers the same.
    let running = Running::start(&directory, spec()).await;
    let again = ask(&running.client, "POST", DEPLOY, "k1", &body).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_tokens_secret_is_not_answered_again() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let body = json!({ "name": "ann", "role": "viewer" });
    let first = ask(&running.client, "POST", "/v1/tokens", "k", &body).await;
    assert_eq!(first.status, 201, "{first:?}");
    let again = ask(&running.client, "POST", "/v1/tokens", "k", &body).await;
    assert_eq!(again.status, 201, "{again:?}");
    let mut expected = first.json();
    assert!(expected["token"].is_string());
    expected["token"] = Value::Null;
    assert_eq!(again.json(), expected);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once_only_one_is_carried_out() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = running.client.clone();
    let mut both = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = client.clone();
        let body = json!({ "label": "v1" });
        both.spawn(async move { ask(&client, "POST", DEPLOY, "k", &body).await });
    }
    let (mut done, mut progress) = (Vec::new(), 0);
    while let Some(answer) = both.join_next().await {
        let answer = answer.unwrap();
        if answer.status == 200 {
            done.push(answer);
            continue;
        }
        is_problem(&answer, 409, "in-progress");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        progress += 1;
    }
    let replayed = |answer: &&Answer| answer.header("idempotency-replayed").is_some();
    let new = done.len() - done.iter().filter(replayed).count();
    assert_eq!((new, done.len() + progress), (1, 8));
    let facts = client.facts().await;
    assert_eq!(facts.iter().filter(|fact| *fact == "deployed").count(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_whose_outcome_is_unknown_goes_back_once() {
    const ROLLBACK: &str = "/v1/agents/desk/rollback";
    let directory = Directory::new();
    let mut spec = spec();
    spec.policy.standby = segue_core::time::Millis::from_secs(600);
    let running = Running::start(&directory, spec).await;
    let _gateway = crate::gateway::Gateway::start(&directory.state(), "gw-1");
    let client = &running.client;
    for label in ["v1", "v2", "v3"] {
        client.bring_in(label).await;
    }
    let is_current = async |label: &str| {
        let view = client
            .until("the rollback to land", |view| view.phase != "rolling_back")
            .await;
        let current = view.releases.iter().find(|is| is.state == "current");
        assert_eq!(current.unwrap().label.as_str(), label);
    };
    let forget = || {
        let control = rusqlite::Connection::open(directory.state().control()).unwrap();
        let forget = "UPDATE keys SET state = 'unknown', status = NULL";
        control.execute(forget, []).unwrap();
    };
    // It goes back from whatever is current: a second time that is another release.
    let first = ask(client, "POST", ROLLBACK, "r", &json!({})).await;
    assert_eq!(first.status, 200, "{first:?}");
    is_current("v2").await;
    forget();
    let again = ask(client, "POST", ROLLBACK, "r", &json!({})).await;
    is_problem(&again, 409, "outcome-unknown");
    is_current("v2").await;
    // Of a part alone it is a deploy.
    let only = json!({ "release": "v2", "only": "prompt" });
    ask(client, "POST", ROLLBACK, "o", &only).await;
    forget();
    let again = ask(client, "POST", ROLLBACK, "o", &only).await;
    is_problem(&again, 409, "outcome-unknown");
    // One that names what it leaves is carried out again, and there is nothing left to do.
    let named = json!({ "release": "v3" });
    for _ in 0..2 {
        let answer = ask(client, "POST", ROLLBACK, "n", &named).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("idempotency-replayed"), None);
        is_current("v2").await;
        forget();
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_call_is_not_kept_with_a_key() {
    const CANARY: &str = "card 4111-canary";
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let path = "/v1/calls/CA1/state";
    for status in [201, 200] {
        let body = json!({ "said": CANARY });
        let put = ask(client, "PUT", path, "s", &body).await;
        assert_eq!(put.status, status, "{put:?}");
        assert_eq!(put.header("idempotency-replayed"), None);
    }
    let control = rusqlite::Connection::open(directory.state().control()).unwrap();
    let keys = control.query_row("SELECT count(*) FROM keys", [], |row| row.get(0));
    assert_eq!(keys, Ok(0));
    running.stop().await;
}

/// A controller that is killed between taking the key and the answer.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_nobody_guesses_but_a_rollback_goes_on() {
    let directory = Directory::new();
    let spec_text = serde_json::to_string(&spec()).unwrap();
    let mut controller = play("controller", &directory, &[("IT_SPEC", &spec_text)]);
    let client = Client::connect(&directory.state()).await;
    let rollback = "/v1/agents/desk/rollback";
    for (path, key) in [(DEPLOY, "d"), (rollback, "r")] {
        let body = json!({ "label": "v1" });
        let body = if path == DEPLOY {
            body
        } else {
            json!({ "release": "v1" })
        };
        ask(&client, "POST", path, key, &body).await;
    }
    controller.kill().unwrap();
    controller.wait().unwrap();
    std::fs::remove_file(directory.state().api_addr()).unwrap();
    // As it is when the kill comes before the answer is kept.
    let control = rusqlite::Connection::open(directory.state().control()).unwrap();
    let cut = control.execute("UPDATE keys SET state = 'begun', status = NULL", []);
    assert_eq!(cut.unwrap(), 2);
    drop(control);

    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let body = json!({ "label": "v1" });
    let deploy = ask(client, "POST", DEPLOY, "d", &body).await;
    is_problem(&deploy, 409, "outcome-unknown");
    // There is nothing to go back to, which only the driver can know: it was asked.
    let named = json!({ "release": "v1" });
    let answer = ask(client, "POST", rollback, "r", &named).await;
    assert_eq!(answer.header("idempotency-replayed"), None, "{answer:?}");
    is_problem(&answer, 422, "not-now");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_taken_only_on_the_revision_that_was_seen() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let post = async |tag: &str, body: Value| {
        let authorization = format!("Bearer {}", client.token);
        let headers = [("Authorization", authorization.as_str()), ("If-Match", tag)];
        let path = "/v1/agents/desk/deploy";
        request(client.addr, "POST", path, &headers, Some(&body)).await
    };
    let seen = client.ask("GET", "/v1/agents/desk", None).await;
    let tag = seen.header("etag").unwrap().to_owned();
    let revision = seen.json()["revision"].as_u64().unwrap();
    assert_eq!(tag, format!("\"{revision}\""));
    let body = json!({ "label": "v1" });
    is_problem(&post("x", body.clone()).await, 400, "bad-request");
    for other in ["\"999\"", "\"\"", "W/\"1\""] {
        is_problem(&post(other, body.clone()).await, 412, "precondition-failed");
    }
    let differ = json!({ "label": "v1", "revision": revision + 1 });
    is_problem(&post(&tag, differ).await, 412, "precondition-failed");
    let others = post("\"7\", \"8\"", body.clone()).await;
    is_problem(&others, 412, "precondition-failed");
    let two = format!("\"7\", {tag}");
    let done = post(&two, body.clone()).await;
    assert_eq!(done.status, 200, "{done:?}");
    is_problem(&post(&tag, body).await, 412, "precondition-failed");
    running.stop().await;
}
