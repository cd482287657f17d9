//! What workers say: how they are, and how their calls went.

use serde_json::{Value, json};

use crate::api::is_problem;
use crate::gateway::Gateway;
use crate::http::Answer;
use crate::{Client, Directory, Running, release, spec};

const OUTCOME: &str = "/v1/agents/desk/calls/CA1/outcome";

async fn beat(client: &Client, worker: &str, body: Value) -> Answer {
    let path = format!("/v1/agents/desk/workers/{worker}");
    client.ask("PUT", &path, Some(&body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_hears_what_becomes_of_its_release() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let admin = &running.client;
    let (_, token) = admin.token("w", "worker", 600).await;
    let ours = admin.with(&token);
    let view = admin.bring_in("v1").await;
    let worker = release(&view, "v1").unwrap().workers[0].id.to_string();
    let says = |instance: &str| json!({ "instance": instance, "active": 2, "draining": false });
    let told = beat(&ours, &worker, says("a")).await;
    assert_eq!(told.status, 200, "{told:?}");
    let told = told.json();
    assert_eq!(
        (&told["release"], &told["state"]),
        (&json!("v1"), &json!("current"))
    );
    assert_eq!(
        (&told["retiring"], &told["rolled_back"]),
        (&json!(false), &json!(false))
    );
    assert!(told["every"].as_u64().unwrap() >= 1);

    admin.bring_in("v2").await;
    let told = beat(&ours, &worker, says("a")).await.json();
    assert_eq!(told["retiring"], true, "{told:?}");
    // One that Segue does not run says which release it is of.
    let mut elsewhere = says("b");
    elsewhere["release"] = json!("v2");
    let told = beat(&ours, "pod-7", elsewhere).await.json();
    assert_eq!(
        (&told["state"], &told["retiring"]),
        (&json!("current"), &json!(false))
    );
    let told = beat(&ours, "pod-8", says("c")).await.json();
    assert_eq!(
        (&told["state"], &told["retiring"]),
        (&Value::Null, &json!(false))
    );

    let back = admin.ask("POST", "/v1/agents/desk/rollback", None).await;
    assert_eq!(back.status, 200, "{back:?}");
    let mut elsewhere = says("b");
    elsewhere["release"] = json!("v2");
    let told = beat(&ours, "pod-7", elsewhere).await.json();
    assert_eq!(
        (&told["retiring"], &told["rolled_back"]),
        (&json!(true), &json!(true))
    );
    let told = beat(&ours, &worker, says("a")).await.json();
    assert_eq!(
        (&told["state"], &told["retiring"]),
        (&json!("current"), &json!(false))
    );

    // All of it can be read, page by page.
    let mut names = Vec::new();
    let mut path = "/v1/agents/desk/workers?limit=2".to_owned();
    loop {
        let page = admin.ask("GET", &path, None).await.json();
        for entry in page["workers"].as_array().unwrap() {
            // The others are processes that have said nothing.
            if let Some(said) = entry["heard"].get(0) {
                assert_eq!(said["active"], 2, "{entry}");
                names.push(entry["worker"].as_str().unwrap().to_owned());
            }
        }
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/agents/desk/workers?limit=2&after={next}");
    }
    let mut expected = vec![worker.clone(), "pod-7".to_owned(), "pod-8".to_owned()];
    expected.sort();
    assert_eq!(names, expected);
    for (worker, body, status) in [
        ("a%20b", says("a"), 400),
        ("w", says("a b"), 400),
        ("w", says(""), 400),
        ("w", json!({ "active": 1 }), 400),
        ("w", json!({ "instance": "a", "active": -1 }), 400),
        ("w", json!({ "instance": "a", "active": 100_001 }), 400),
        (
            "w",
            json!({ "instance": "a", "active": 1, "mood": "good" }),
            400,
        ),
    ] {
        let answer = beat(&ours, worker, body).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_call_went_is_kept_once_and_survives_the_controller() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let admin = &running.client;
    let (_, token) = admin.token("w", "worker", 600).await;
    let ours = admin.with(&token);
    is_problem(&admin.ask("GET", OUTCOME, None).await, 404, "not-found");
    let body = json!({
        "report": "r1", "verdict": "failure", "reason": "the model was away",
        "data": { "turns": 3 }, "release": "v1", "worker": "w1",
    });
    let made = ours.ask("POST", OUTCOME, Some(&body)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let again = ours.ask("POST", OUTCOME, Some(&body)).await;
    assert_eq!((again.status, again.json()), (200, made.json()));
    let mut other = body.clone();
    other["verdict"] = json!("success");
    is_problem(
        &ours.ask("POST", OUTCOME, Some(&other)).await,
        409,
        "conflict",
    );
    other["report"] = json!("r2");
    assert_eq!(ours.ask("POST", OUTCOME, Some(&other)).await.status, 201);
    for (field, value) in [
        ("verdict", json!("splendid")),
        ("report", json!("a b")),
        ("reason", json!("")),
        ("reason", json!("x".repeat(201))),
        ("reason", json!("a\nb")),
        ("data", json!([1])),
        ("more", json!(1)),
    ] {
        let mut bad = body.clone();
        bad[field] = value;
        let answer = ours.ask("POST", OUTCOME, Some(&bad)).await;
        is_problem(&answer, 400, "bad-request");
    }
    let mut large = body.clone();
    large["data"] = json!({ "a": "x".repeat(9_000) });
    is_problem(
        &ours.ask("POST", OUTCOME, Some(&large)).await,
        413,
        "too-large",
    );
    let theirs = "/v1/agents/other/calls/CA1/outcome";
    is_problem(
        &ours.ask("POST", theirs, Some(&body)).await,
        403,
        "forbidden",
    );
    is_problem(
        &admin.ask("POST", theirs, Some(&body)).await,
        404,
        "not-found",
    );

    running.stop().await;
    let running = Running::start(&directory, spec()).await;
    let kept = running.client.ask("GET", OUTCOME, None).await.json();
    let verdicts = kept["outcomes"].as_array().unwrap().iter();
    let verdicts: Vec<&str> = verdicts.map(|is| is["verdict"].as_str().unwrap()).collect();
    assert_eq!(
        (&kept["call"], verdicts),
        (&json!("CA1"), vec!["failure", "success"])
    );
    assert_eq!(kept["outcomes"][0], made.json());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outcomes_are_counted_per_release() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let admin = &running.client;
    admin.bring_in("v1").await;
    for (report, verdict, release) in [
        ("r1", "success", "v1"),
        ("r2", "success", "v1"),
        ("r2", "success", "v1"),
        ("r3", "failure", "v1"),
        ("r4", "failure", "v9"),
    ] {
        let body = json!({ "report": report, "verdict": verdict, "release": release });
        let answer = admin.ask("POST", OUTCOME, Some(&body)).await;
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
    }
    let page = admin.ask("GET", "/metrics", None).await.body;
    for line in [
        "segue_call_outcomes_total{agent=\"desk\",version=\"v1\",verdict=\"success\"} 2",
        "segue_call_outcomes_total{agent=\"desk\",version=\"v1\",verdict=\"failure\"} 1",
    ] {
        assert!(page.lines().any(|is| is == line), "{line}\n{page}");
    }
    assert!(!page.contains("v9"), "nobody runs that");
    running.stop().await;
}
