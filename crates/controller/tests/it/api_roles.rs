//! Roles and tokens: every endpoint with every role, and tokens that are no good.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::is_problem;
use crate::http::{Answer, request, send};
use crate::{Client, Directory, Running, spec};

const ROLES: [&str; 5] = ["viewer", "operator", "approver", "admin", "worker"];

const WORKER: &str = "/v1/agents/{agent}/workers/{worker}";
const DRAIN: &str = "/v1/agents/{agent}/workers/{worker}/drain";
const UNDRAIN: &str = "/v1/agents/{agent}/workers/{worker}/undrain";
const KICK: &str = "/v1/agents/{agent}/workers/{worker}/kick";

/// Each endpoint and who may use it, in the order of `ROLES`: written down by hand, so that the
/// table of the code is checked against something else than itself.
const MATRIX: &[(&str, &str, [bool; 5])] = &[
    ("GET", "/v1/openapi.json", [true, true, true, true, true]),
    ("GET", "/v1/status", [true, true, true, true, false]),
    ("GET", "/v1/events", [true, true, true, true, false]),
    ("GET", "/v1/audit", [true, true, true, true, false]),
    ("GET", "/v1/audit/verify", [true, true, true, true, false]),
    ("GET", "/v1/agents/{agent}", [true, true, true, true, false]),
    (
        "GET",
        "/v1/agents/{agent}/calls",
        [true, true, true, true, false],
    ),
    (
        "GET",
        "/v1/agents/{agent}/releases/{release}",
        [true, true, true, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/deploy",
        [false, true, false, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/pause",
        [false, true, false, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/resume",
        [false, true, false, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/promote",
        [false, true, false, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/abort",
        [false, true, false, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/contract",
        [false, true, false, true, false],
    ),
    (
        "GET",
        "/v1/agents/{agent}/diff",
        [true, true, true, true, false],
    ),
    ("POST", "/v1/reload", [false, true, false, true, false]),
    (
        "POST",
        "/v1/agents/{agent}/rollback",
        [false, true, false, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/drain",
        [false, true, false, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/retire",
        [false, true, false, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/approve",
        [false, false, true, true, false],
    ),
    (
        "POST",
        "/v1/gateways/{gateway}/forget",
        [false, true, false, true, false],
    ),
    ("GET", "/metrics", [true, true, true, true, false]),
    (
        "GET",
        "/v1/agents/{agent}/permits",
        [true, true, true, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/permits",
        [false, true, false, true, true],
    ),
    (
        "PUT",
        "/v1/agents/{agent}/permits/{permit}",
        [false, true, false, true, true],
    ),
    (
        "DELETE",
        "/v1/agents/{agent}/permits/{permit}",
        [false, true, false, true, true],
    ),
    (
        "GET",
        "/v1/agents/{agent}/workers",
        [true, true, true, true, false],
    ),
    (
        "PUT",
        "/v1/agents/{agent}/workers/{worker}",
        [false, false, false, true, true],
    ),
    (
        "POST",
        "/v1/agents/{agent}/workers/{worker}/membership",
        [false, false, false, true, true],
    ),
    ("GET", WORKER, [true, true, true, true, false]),
    ("POST", DRAIN, [false, true, false, true, false]),
    ("POST", UNDRAIN, [false, true, false, true, false]),
    ("POST", KICK, [false, true, false, true, false]),
    (
        "GET",
        "/v1/agents/{agent}/calls/{call}/outcome",
        [true, true, true, true, false],
    ),
    (
        "POST",
        "/v1/agents/{agent}/calls/{call}/outcome",
        [false, false, false, true, true],
    ),
    ("GET", "/v1/tokens", [false, false, false, true, false]),
    ("POST", "/v1/tokens", [false, false, false, true, false]),
    (
        "GET",
        "/v1/tokens/events",
        [false, false, false, true, false],
    ),
    (
        "DELETE",
        "/v1/tokens/{id}",
        [false, false, false, true, false],
    ),
    (
        "GET",
        "/v1/calls/{id}/state",
        [false, false, false, true, true],
    ),
    (
        "PUT",
        "/v1/calls/{id}/state",
        [false, false, false, true, true],
    ),
    (
        "PATCH",
        "/v1/calls/{id}/state",
        [false, false, false, true, true],
    ),
    (
        "DELETE",
        "/v1/calls/{id}/state",
        [false, false, false, true, true],
    ),
];

impl Client {
    /// Makes a token; answers its id and itself.
    pub(crate) async fn token(&self, name: &str, role: &str, expires_in: u64) -> (String, String) {
        let mut body = json!({ "name": name, "role": role, "expires_in": expires_in });
        if role == "worker" {
            body["agent"] = json!("desk");
        }
        let answer = self.ask("POST", "/v1/tokens", Some(&body)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let made = answer.json();
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        (text("id"), text("token"))
    }

    /// The same API, asked with another token.
    pub(crate) fn with(&self, token: &str) -> Self {
        Self {
            addr: self.addr,
            token: token.to_owned(),
        }
    }
}

/// The status of an answer that may never end.
async fn status(client: &Client, method: &str, path: &str) -> u16 {
    let authorization = format!("Bearer {}", client.token);
    let headers = [("Authorization", authorization.as_str())];
    if path == "/v1/events" {
        return crate::http::head(client.addr, path, &headers).await.status;
    }
    send(client.addr, method, path, &headers, "").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_may_do_what_the_matrix_says() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let mut clients = Vec::new();
    for role in ROLES {
        let (_, token) = client.token(role, role, 3_600).await;
        clients.push(client.with(&token));
    }
    for (method, path, allowed) in MATRIX {
        let filled = path
            .replace(
                "{agent}",
                if ["permits", "workers", "outcome"]
                    .iter()
                    .any(|of| path.contains(of))
                {
                    "desk"
                } else {
                    "nobody"
                },
            )
            .replace("{release}", "v1")
            .replace("{gateway}", "gw-9")
            .replace("{permit}", "0123456789abcdef0123456789abcdef")
            .replace("{worker}", "w1")
            .replace("{call}", "CA1")
            .replace("{id}", "CA1");
        for ((role, client), allowed) in ROLES.iter().zip(&clients).zip(allowed) {
            let status = status(client, method, &filled).await;
            assert_ne!(status, 401, "{role}: {method} {path}");
            assert_ne!(status, 405, "{role}: {method} {path}");
            assert_eq!(status != 403, *allowed, "{role}: {method} {path}: {status}");
        }
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_to_do_with_the_calls_of_its_own_agent_alone() {
    let directory = Directory::new();
    let mut config = directory.config(spec());
    config.agents.insert("other".parse().unwrap(), spec());
    let running = Running::start_with(&directory, config).await;
    let admin = &running.client;
    for (body, status) in [
        (json!({ "name": "w", "role": "worker" }), 422),
        (
            json!({ "name": "w", "role": "worker", "agent": "nobody" }),
            404,
        ),
        (
            json!({ "name": "w", "role": "worker", "agent": "a b" }),
            400,
        ),
        (
            json!({ "name": "w", "role": "viewer", "agent": "desk" }),
            422,
        ),
    ] {
        let answer = admin.ask("POST", "/v1/tokens", Some(&body)).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
    }
    let (_, token) = admin.token("ours", "worker", 600).await;
    let ours = admin.with(&token);
    let body = json!({ "name": "theirs", "role": "worker", "agent": "other" });
    let made = admin.ask("POST", "/v1/tokens", Some(&body)).await.json();
    assert_eq!(made["agent"], "other");
    let theirs = admin.with(made["token"].as_str().unwrap());

    // Both have a call of the same name, and each its own state.
    let path = "/v1/calls/CA1/state";
    let state = async |client: &Client, path: &str| {
        let answer = client.ask("GET", path, None).await;
        (answer.status == 200).then(|| answer.json()["state"].clone())
    };
    for (client, name) in [(&ours, "desk"), (&theirs, "other")] {
        let put = client.ask("PUT", path, Some(&json!({ "of": name }))).await;
        assert_eq!(put.status, 201, "{put:?}");
    }
    assert_eq!(state(&ours, path).await, Some(json!({ "of": "desk" })));
    let named = "/v1/calls/CA1/state?agent=desk";
    assert_eq!(state(&ours, named).await, state(&ours, path).await);
    for (method, body) in [("GET", None), ("PUT", Some(json!({}))), ("DELETE", None)] {
        let answer = theirs.ask(method, named, body.as_ref()).await;
        is_problem(&answer, 403, "forbidden");
    }
    assert_eq!(theirs.ask("DELETE", path, None).await.status, 204);
    assert_eq!(state(&ours, path).await, Some(json!({ "of": "desk" })));
    // Who is no worker says whose call it is.
    is_problem(&admin.ask("GET", path, None).await, 400, "bad-request");
    assert_eq!(state(admin, named).await, Some(json!({ "of": "desk" })));
    assert_eq!(state(admin, "/v1/calls/CA1/state?agent=other").await, None);
    let nobody = "/v1/calls/CA1/state?agent=nobody";
    let refused = admin.ask("PUT", nobody, Some(&json!({}))).await;
    is_problem(&refused, 404, "not-found");

    let permits = "/v1/agents/other/permits";
    let permit = format!("{permits}/0123456789abcdef0123456789abcdef");
    for (method, path) in [("POST", permits), ("PUT", &permit), ("DELETE", &permit)] {
        let body = (method != "DELETE").then(|| json!({}));
        let answer = ours.ask(method, path, body.as_ref()).await;
        is_problem(&answer, 403, "forbidden");
        let answer = theirs.ask(method, path, body.as_ref()).await;
        assert_ne!(answer.status, 403, "{answer:?}");
    }
    running.stop().await;

    // The next controller knows whose they are.
    let mut config = directory.config(spec());
    config.agents.insert("other".parse().unwrap(), spec());
    let running = Running::start_with(&directory, config).await;
    let ours = running.client.with(&token);
    assert_eq!(state(&ours, path).await, Some(json!({ "of": "desk" })));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_leaves_no_endpoint_out() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let document = request(running.client.addr, "GET", "/v1/openapi.json", &[], None).await;
    assert_eq!(document.status, 200, "without a token");
    let document = document.json();
    let mut told: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let roles = serde_json::from_value(operation["x-segue-roles"].clone()).unwrap();
            told.insert((method.to_ascii_uppercase(), path.clone()), roles);
        }
    }
    let matrix: BTreeMap<(String, String), Vec<String>> = MATRIX
        .iter()
        .map(|(method, path, allowed)| {
            let roles = ROLES.iter().zip(allowed).filter(|(_, allowed)| **allowed);
            let roles = roles.map(|(role, _)| (*role).to_owned()).collect();
            (((*method).to_owned(), (*path).to_owned()), roles)
        })
        .collect();
    assert_eq!(told, matrix);
    running.stop().await;
}

fn is_unauthorized(answer: &Answer, title: &str) {
    is_problem(answer, 401, "unauthorized");
    assert_eq!(answer.json()["title"], title, "{answer:?}");
    assert_eq!(
        answer.header("www-authenticate"),
        Some("bearer realm=\"segue\"")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_no_good_open_nothing() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let (id, good) = client.token("ann", "viewer", 3_600).await;
    let (other, _) = client.token("bob", "viewer", 3_600).await;
    assert_eq!(
        client
            .with(&good)
            .ask("GET", "/v1/status", None)
            .await
            .status,
        200
    );

    let secret = good.rsplit('_').next().unwrap();
    for wrong in [
        String::new(),
        "segue".to_owned(),
        "segue_".to_owned(),
        format!("segue_{id}"),
        format!("segue_{id}_"),
        format!("segue_{other}_{secret}"),
        format!("segue_{id}_{}", secret.to_ascii_uppercase()),
        format!("segue_{id}_{}", &secret[1..]),
        format!("{good}0"),
        format!("SEGUE_{id}_{secret}"),
        secret.to_owned(),
    ] {
        let answer = client.with(&wrong).ask("GET", "/v1/status", None).await;
        is_unauthorized(&answer, "the token is missing or wrong");
    }
    let twice = format!("Bearer {good}");
    let twice = [
        ("Authorization", twice.as_str()),
        ("Authorization", "Bearer x"),
    ];
    let answer = request(client.addr, "GET", "/v1/status", &twice, None).await;
    is_unauthorized(&answer, "the token is missing or wrong");

    let (_, short) = client.token("short", "viewer", 1).await;
    crate::eventually("the token to expire", async || {
        let answer = client.with(&short).ask("GET", "/v1/status", None).await;
        (answer.status == 401).then(|| is_unauthorized(&answer, "the token has expired"))
    })
    .await;

    let path = format!("/v1/tokens/{id}");
    assert_eq!(client.ask("DELETE", &path, None).await.status, 204);
    is_problem(&client.ask("DELETE", &path, None).await, 404, "not-found");
    let answer = client.with(&good).ask("GET", "/v1/status", None).await;
    is_unauthorized(&answer, "the token was revoked");
    running.stop().await;

    // The next controller knows them, too; and the files hold no secret.
    let running = Running::start(&directory, spec()).await;
    let answer = running
        .client
        .with(&good)
        .ask("GET", "/v1/status", None)
        .await;
    is_unauthorized(&answer, "the token was revoked");
    running.stop().await;
    for name in ["control.db", "control.db-wal"] {
        let bytes = std::fs::read(directory.0.join(name)).unwrap_or_default();
        let found = bytes
            .windows(secret.len())
            .any(|part| part == secret.as_bytes());
        assert!(!found, "{name} holds the secret of a token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_listed_and_what_became_of_them_is_written_down() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(client.token(name, "operator", 3_600).await);
    }
    let taken = json!({ "name": "b", "role": "admin" });
    let answer = client.ask("POST", "/v1/tokens", Some(&taken)).await;
    is_problem(&answer, 409, "name-taken");

    let page = |path: String| async move { client.ask("GET", &path, None).await.json() };
    let first = page("/v1/tokens?limit=2".to_owned()).await;
    let names = |page: &Value| -> Vec<String> {
        let tokens = page["tokens"].as_array().unwrap().iter();
        tokens
            .map(|token| token["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let next = first["next"].as_str().unwrap();
    let second = page(format!("/v1/tokens?limit=2&after={next}")).await;
    let mut all = names(&first);
    all.extend(names(&second));
    all.sort();
    assert_eq!(all, ["a", "b", "c"]);
    assert_eq!(second["next"], Value::Null);
    assert!(
        !first.to_string().contains(&ids[0].1),
        "no list shows a secret"
    );

    client.with(&ids[2].1).ask("GET", "/v1/status", None).await;
    let (admin, token) = client.token("root", "admin", 3_600).await;
    let by = client.with(&token);
    let path = format!("/v1/tokens/{}", ids[0].0);
    assert_eq!(by.ask("DELETE", &path, None).await.status, 204);
    let events = page("/v1/tokens/events?limit=3".to_owned()).await;
    let rest = page(format!("/v1/tokens/events?after={}", events["next"])).await;
    let told = |event: &Value| format!("{} {} {}", event["event"], event["name"], event["actor"]);
    let of = |page: &Value| {
        page["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(told)
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&events)[0], "\"created\" \"a\" \"api\"");
    assert_eq!(
        of(&rest),
        ["\"created\" \"root\" \"api\"", "\"revoked\" \"a\" \"root\"",]
    );
    assert!(!admin.is_empty());
    let used = page("/v1/tokens".to_owned()).await;
    let used = used["tokens"].as_array().unwrap().iter();
    let used: BTreeMap<String, bool> = used
        .map(|token| (token["name"].to_string(), token["used_at"].is_u64()))
        .collect();
    assert!(used["\"c\""] && !used["\"b\""], "{used:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_decided_is_the_tokens_name_and_not_what_it_says() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = &running.client;
    let (_, token) = client.token("ann", "operator", 3_600).await;
    let body = json!({ "label": "v1", "actor": "somebody-else" });
    let deploy = client.with(&token).post("deploy", body.clone()).await;
    assert_eq!(deploy.status, 200, "{deploy:?}");
    let entries = client.ask("GET", "/v1/audit", None).await.json();
    let entries = entries["entries"].as_array().unwrap();
    let actors: Vec<&str> = entries
        .iter()
        .filter_map(|entry| entry["actor"].as_str())
        .collect();
    assert!(actors.contains(&"operator:ann"), "{actors:?}");
    assert!(
        !actors.iter().any(|actor| actor.contains("somebody")),
        "{actors:?}"
    );
    let pause = client
        .post("abort", json!({ "actor": "somebody-else" }))
        .await;
    assert_eq!(pause.status, 200, "{pause:?}");
    let entries = client.ask("GET", "/v1/audit", None).await.body;
    assert!(
        entries.contains("operator:somebody-else"),
        "the local token speaks for others"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_is_told_when_to_come_back_but_may_roll_back() {
    let directory = Directory::new();
    let mut config = directory.config(spec());
    config.api.rate = segue_controller::api::Rate::per_second(3);
    let running = Running::start_with(&directory, config).await;
    let client = &running.client;
    let (_, token) = client.token("ann", "operator", 3_600).await;
    let ann = client.with(&token);
    let mut refused = None;
    for _ in 0..100 {
        let answer = ann.ask("GET", "/v1/audit/verify", None).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let refused = refused.expect("100 requests at once are too many");
    is_problem(&refused, 429, "too-often");
    assert_eq!(refused.header("retry-after"), Some("1"));
    for _ in 0..20 {
        let rollback = ann.post("rollback", json!({})).await;
        assert_eq!(
            rollback.status, 422,
            "there is nothing to go back to: {rollback:?}"
        );
    }
    // The limit is each token's own; strangers have one by address.
    let (_, other) = eventually_token(client).await;
    assert_eq!(
        client
            .with(&other)
            .ask("GET", "/v1/status", None)
            .await
            .status,
        200
    );
    let mut last = 0;
    for _ in 0..100 {
        last = client
            .with("nobody")
            .ask("GET", "/v1/status", None)
            .await
            .status;
        if last != 401 {
            break;
        }
    }
    assert_eq!(last, 429);
    running.stop().await;
}

/// A token, as soon as the limit of who makes it allows.
async fn eventually_token(client: &Client) -> (String, String) {
    crate::eventually("a token", async || {
        let body = json!({ "name": "other", "role": "viewer" });
        let answer = client.ask("POST", "/v1/tokens", Some(&body)).await;
        let made = (answer.status == 201).then(|| answer.json())?;
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        Some((text("id"), text("token")))
    })
    .await
}
