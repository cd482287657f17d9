//! The admin API is asked by the wrong ones, in the wrong way.

use serde_json::json;

use crate::http::{Answer, request, send};
use crate::{Directory, Running, spec};

pub(crate) fn is_problem(answer: &Answer, status: u16, kind: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert!(
        answer
            .head
            .contains("content-type: application/problem+json"),
        "{answer:?}"
    );
    let problem = answer.json();
    assert_eq!(
        (problem["type"].as_str(), problem["status"].as_u64()),
        (Some(kind), Some(status.into()))
    );
    assert!(
        problem["hint"]
            .as_str()
            .is_some_and(|hint| !hint.is_empty()),
        "{problem}"
    );
    assert!(
        problem["title"]
            .as_str()
            .is_some_and(|title| !title.is_empty()),
        "{problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_hold_the_token_are_answered() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let good = format!("Bearer {}", client.token);
    for (path, authorization, status) in [
        ("/healthz", None, 200),
        ("/v1/status", None, 401),
        ("/v1/nothing", None, 401),
        ("/v1/status", Some("Bearer "), 401),
        ("/v1/status", Some("Bearer 00"), 401),
        ("/v1/status", Some(client.token.as_str()), 401),
        ("/v1/status", Some(&good), 200),
    ] {
        let headers: Vec<_> = authorization
            .map(|text| ("Authorization", text))
            .into_iter()
            .collect();
        let answer = request(client.addr, "GET", path, &headers, None).await;
        assert_eq!(answer.status, status, "{path} {authorization:?}");
        if status == 401 {
            is_problem(&answer, 401, "unauthorized");
        }
    }
    let token = ("Authorization", good.as_str());
    for (host, status) in [
        ("localhost", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:1", 200),
        ("segue.evil.example", 403),
        ("127.0.0.1.nip.io", 403),
    ] {
        let answer = request(
            client.addr,
            "GET",
            "/v1/status",
            &[token, ("Host", host)],
            None,
        )
        .await;
        assert_eq!(answer.status, status, "{host}");
    }
    let origin = ("Origin", "http://localhost:3000");
    let read = request(client.addr, "GET", "/v1/status", &[token, origin], None).await;
    assert_eq!(read.status, 200);
    let write = request(
        client.addr,
        "POST",
        "/v1/agents/desk/pause",
        &[token, origin],
        None,
    )
    .await;
    is_problem(&write, 403, "forbidden");
    running.stop().await;
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test(flavor = "multi_thread")]
async fn every_error_says_what_to_do() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    for (method, path, body, status, kind) in [
        ("GET", "/", json!(null), 404, "not-found"),
        ("GET", "/v1/agents/nobody", json!(null), 404, "not-found"),
        ("GET", "/v1/agents/no%20body", json!(null), 404, "not-found"),
        (
            "GET",
            "/v1/agents/nobody/calls",
            json!(null),
            404,
            "not-found",
        ),
        ("POST", "/v1/status", json!({}), 405, "bad-request"),
        (
            "GET",
            "/v1/agents/desk/deploy",
            json!(null),
            405,
            "bad-request",
        ),
        ("POST", "/v1/agents/desk/fly", json!({}), 404, "not-found"),
        (
            "POST",
            "/v1/agents/nobody/pause",
            json!({}),
            404,
            "not-found",
        ),
        (
            "POST",
            "/v1/agents/nobody/deploy",
            json!({ "label": "v1" }),
            404,
            "not-found",
        ),
        (
            "POST",
            "/v1/agents/desk/pause",
            json!([1]),
            400,
            "bad-request",
        ),
        (
            "POST",
            "/v1/agents/desk/pause",
            json!({ "fulll": true }),
            400,
            "bad-request",
        ),
        (
            "POST",
            "/v1/agents/desk/pause",
            json!({ "reason": " " }),
            400,
            "bad-request",
        ),
        (
            "POST",
            "/v1/agents/desk/pause",
            json!({ "actor": "a\nb" }),
            400,
            "bad-request",
        ),
        ("POST", "/v1/agents/desk/pause", json!({}), 422, "not-now"),
        (
            "POST",
            "/v1/agents/desk/rollback",
            json!({}),
            422,
            "not-now",
        ),
        (
            "POST",
            "/v1/agents/desk/promote",
            json!({ "skip_gates": true }),
            422,
            "reason-needed",
        ),
        ("POST", "/v1/agents/desk/drain", json!({}), 422, "not-now"),
        (
            "POST",
            "/v1/agents/desk/retire",
            json!({ "release": "v9" }),
            404,
            "not-found",
        ),
        (
            "POST",
            "/v1/agents/desk/deploy",
            json!({}),
            400,
            "bad-request",
        ),
        (
            "POST",
            "/v1/agents/desk/deploy",
            json!({ "label": "a b" }),
            422,
            "bad-release",
        ),
        (
            "POST",
            "/v1/agents/desk/deploy",
            json!({ "label": "v1", "command": ["no-such-bot", "{port}"] }),
            422,
            "bad-release",
        ),
        (
            "POST",
            "/v1/agents/desk/pause",
            json!({ "revision": 99 }),
            409,
            "conflict",
        ),
        (
            "POST",
            "/v1/gateways/gw-1/forget",
            json!({ "reason": "x" }),
            404,
            "not-found",
        ),
        ("GET", "/v1/agents/%FF", json!(null), 400, "bad-request"),
        ("POST", "/healthz", json!({}), 405, "bad-request"),
        ("GET", "/v1/audit?after=x", json!(null), 400, "bad-request"),
        ("GET", "/v1/audit?limit=0", json!(null), 400, "bad-request"),
        (
            "GET",
            "/v1/audit?limit=1001",
            json!(null),
            400,
            "bad-request",
        ),
        (
            "GET",
            "/v1/audit?after=9223372036854775808",
            json!(null),
            400,
            "bad-request",
        ),
        (
            "GET",
            "/v1/agents/desk/calls?after=x",
            json!(null),
            400,
            "bad-request",
        ),
        ("GET", "/v1/events?after=x", json!(null), 400, "bad-request"),
        (
            "GET",
            "/v1/agents/desk/releases/v9",
            json!(null),
            404,
            "not-found",
        ),
        (
            "GET",
            "/v1/agents/nobody/releases/v9",
            json!(null),
            404,
            "not-found",
        ),
        (
            "POST",
            "/v1/gateways/gw-1/forget",
            json!({}),
            422,
            "reason-needed",
        ),
        (
            "GET",
            "/v1/calls/a%20b/state",
            json!(null),
            400,
            "bad-request",
        ),
        ("GET", "/v1/calls/CA1/state", json!(null), 404, "not-found"),
        ("PUT", "/v1/calls/CA1/state", json!([1]), 400, "bad-request"),
        (
            "DELETE",
            "/v1/calls/CA1/state",
            json!(null),
            404,
            "not-found",
        ),
        ("DELETE", "/v1/tokens/0", json!(null), 404, "not-found"),
        ("GET", "/v1/tokens?after=x", json!(null), 400, "bad-request"),
        (
            "POST",
            "/v1/tokens",
            json!({ "name": "a b", "role": "viewer" }),
            400,
            "bad-request",
        ),
        (
            "POST",
            "/v1/tokens",
            json!({ "name": "ab", "role": "root" }),
            400,
            "bad-request",
        ),
        (
            "POST",
            "/v1/tokens",
            json!({ "name": "ab", "role": "viewer", "expires_in": 0 }),
            400,
            "bad-request",
        ),
    ] {
        let body = (!body.is_null()).then_some(body);
        let answer = client.ask(method, path, body.as_ref()).await;
        assert_eq!(
            answer.status, status,
            "{method} {path} {body:?}: {answer:?}"
        );
        is_problem(&answer, status, kind);
    }
    let authorization = format!("Bearer {}", client.token);
    let headers = [("Authorization", authorization.as_str())];
    let broken = send(client.addr, "POST", "/v1/agents/desk/pause", &headers, "{").await;
    is_problem(&broken, 400, "bad-request");
    let large = format!("{{\"reason\":\"{}\"}}", "x".repeat(1_200_000));
    let large = send(
        client.addr,
        "POST",
        "/v1/agents/desk/pause",
        &headers,
        &large,
    )
    .await;
    is_problem(&large, 413, "too-large");
    let form = [
        headers[0],
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    let form = send(client.addr, "POST", "/v1/agents/desk/pause", &form, "{}").await;
    is_problem(&form, 415, "bad-request");
    let allow = client.ask("PUT", "/v1/status", None).await;
    is_problem(&allow, 405, "bad-request");
    assert!(allow.head.contains("allow: get,head"), "{allow:?}");
    let empty = send(client.addr, "POST", "/v1/agents/desk/pause", &headers, "").await;
    is_problem(&empty, 422, "not-now");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_on_loopback_only() {
    let directory = Directory::new();
    let mut config = directory.config(spec());
    config.api.listen = "0.0.0.0:0".parse().unwrap();
    let error = segue_controller::run(config, std::future::pending())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("loopback only"), "{error}");
    assert!(!error.hint().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_with_an_unknown_scenario_is_refused() {
    let directory = Directory::new();
    let mut spec = spec();
    spec.plan.smoke = Some(segue_core::spec::Smoke {
        scenario: "nothing".to_owned(),
        path: "/ws/{call_id}".to_owned(),
        calls: 1,
        timeout: segue_core::time::Millis(1_000),
    });
    let running = Running::start(&directory, spec).await;
    let refused = running
        .client
        .post("deploy", json!({ "label": "v1" }))
        .await;
    is_problem(&refused, 422, "bad-release");
    assert!(refused.json()["hint"].as_str().unwrap().contains("hours"));
    running.stop().await;
}
