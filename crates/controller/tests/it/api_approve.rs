//! Approving: what was looked at, and nothing else.

use segue_core::spec::{Approval, Before};
use serde_json::json;

use crate::api::is_problem;
use crate::{Directory, Running, spec};

#[tokio::test(flavor = "multi_thread")]
async fn another_release_than_the_one_that_was_looked_at_is_not_approved() {
    let directory = Directory::new();
    let mut spec = spec();
    spec.plan.approval = Some(Approval {
        before: Before::Cutover,
    });
    let running = Running::start(&directory, spec).await;
    let client = &running.client;
    let deploy = |label: &str| json!({ "label": label, "env": { "V": label } });
    client.act("deploy", deploy("v2")).await;
    let seen = client.agent().await.rollout.unwrap().incoming_id;
    // Meanwhile somebody brings in another one.
    client.act("abort", json!({})).await;
    client.act("deploy", deploy("v3")).await;
    for (release, status, kind) in [
        ("v2".to_owned(), 409, "conflict"),
        (String::from(seen), 409, "conflict"),
        ("v9".to_owned(), 404, "not-found"),
    ] {
        let answer = client.post("approve", json!({ "release": release })).await;
        is_problem(&answer, status, kind);
    }
    // Had one of those been taken, nothing would be left to approve.
    let approved = client.act("approve", json!({ "release": "v3" })).await;
    assert_eq!(approved.facts, ["gate_passed"]);
    client
        .until("v3 to be current", |view| {
            crate::release(view, "v3").is_some_and(|is| is.state == "current")
        })
        .await;
    running.stop().await;
}
