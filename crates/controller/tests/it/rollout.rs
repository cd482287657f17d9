//! A whole rollout, with real processes.

use serde_json::json;

use crate::gateway::Gateway;
use crate::{Directory, Running, is_alive, pids, release, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_brought_in_and_the_one_before_retires_when_it_is_empty() {
    let directory = Directory::new();
    let mut spec = spec();
    spec.worker.count = 2;
    let running = Running::start(&directory, spec).await;
    let (client, gateway) = (
        running.client.clone(),
        Gateway::start(&directory.state(), "gw-1"),
    );
    let first = client.bring_in("v1").await;
    let old = release(&first, "v1").unwrap().id;
    let workers = pids(&first, "v1");
    assert_eq!(
        (workers.len(), first.phase.as_str()),
        (2, "complete"),
        "nothing was before it"
    );
    let table = gateway.table().unwrap();
    assert_eq!(table.workers.len(), 2);
    assert_eq!(table.override_digest.unwrap().len(), 64);

    gateway.set_live(old, 1);
    let second = client.bring_in("v2").await;
    assert_eq!(second.phase, "draining");
    let is = release(&second, "v1").unwrap();
    assert_eq!((is.live, is.live_share_bp, is.share_bp), (1, 10_000, 0));
    assert_eq!(
        (release(&second, "v2").unwrap().share_bp, second.live),
        (10_000, 1)
    );
    assert!(workers.iter().all(|pid| is_alive(*pid)), "it has a call");

    gateway.set_live(old, 0);
    client
        .until("v1 to stand by", |view| {
            release(view, "v1").unwrap().state == "drained"
        })
        .await;
    assert!(
        workers.iter().all(|pid| is_alive(*pid)),
        "a rollback may need it"
    );
    client
        .until("v1 to retire", |view| {
            release(view, "v1").unwrap().state == "retired"
        })
        .await;
    client
        .until("its workers to stop", |view| {
            release(view, "v1").unwrap().workers.is_empty()
        })
        .await;
    assert!(!workers.iter().any(|pid| is_alive(*pid)));
    gateway
        .until("v1 to be withdrawn", |table| {
            !table.releases.contains_key(&old)
        })
        .await;

    let facts = client.facts().await;
    let at = |name: &str| facts.iter().rposition(|fact| fact == name).unwrap();
    let order = [
        "deployed", "cut_over", "landed", "emptied", "drained", "retiring", "retired",
    ];
    assert!(order.is_sorted_by_key(|name| at(name)), "{facts:?}");
    let chain = client.ask("GET", "/v1/audit/verify", None).await.json();
    assert_eq!(
        (chain["ok"].as_bool(), chain["entries"].as_u64()),
        (Some(true), Some(facts.len() as u64))
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ramp_waits_and_is_rolled_back_in_one_step() {
    let directory = Directory::new();
    let mut spec = spec();
    spec.plan.steps = vec![segue_core::spec::Step {
        share: segue_core::split::Share(1_000),
        min_calls: 1,
        min_duration: segue_core::time::Millis(0),
        pause: true,
    }];
    let running = Running::start(&directory, spec).await;
    let (client, gateway) = (
        running.client.clone(),
        Gateway::start(&directory.state(), "gw-1"),
    );
    client.bring_in("v1").await;
    client
        .act("deploy", json!({ "label": "v2", "env": { "V": "2" } }))
        .await;
    let view = client
        .until("the ramp", |view| view.phase == "canary")
        .await;
    assert_eq!(release(&view, "v2").unwrap().share_bp, 1_000);
    assert_eq!(view.holds, ["0 of 1 calls ended in this step"]);
    let new = release(&view, "v2").unwrap().id;
    gateway
        .mind
        .lock()
        .unwrap()
        .counts
        .entry(new)
        .or_default()
        .totals
        .ended = 1;
    let view = client
        .until("the step to end", |view| {
            view.rollout.as_ref().unwrap().paused
        })
        .await;

    let stale = json!({ "revision": view.revision - 1 });
    let conflict = client.post("promote", stale).await;
    assert_eq!(
        (conflict.status, conflict.json()["type"].as_str()),
        (409, Some("conflict"))
    );
    let done = client
        .act(
            "rollback",
            json!({ "revision": view.revision, "reason": "it mumbles", "actor": "ann" }),
        )
        .await;
    let ack = done.ack.unwrap();
    assert_eq!(
        (done.facts, ack.unacked),
        (vec!["rollback_started".to_owned()], Vec::new())
    );
    assert_eq!(done.agent.phase, "rolled back");
    let reason = done.agent.rollout.unwrap().reason.unwrap();
    assert_eq!(reason, "rolled back by operator:ann: it mumbles");
    gateway
        .until("the split to go back", |table| {
            table.split.share(new).0 == 0
        })
        .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_get_ready_is_not_brought_in() {
    let directory = Directory::new();
    let mut spec = spec();
    spec.plan.ready_timeout = segue_core::time::Millis(1_000);
    let running = Running::start(&directory, spec).await;
    let client = running.client.clone();
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let body = json!({ "label": "v1", "command": ["sh", "-c", "exit 3", "{port}"] });
    client.act("deploy", body).await;
    let view = client
        .until("it to fail", |view| view.phase == "failed")
        .await;
    let reason = view.rollout.unwrap().reason.unwrap();
    let (count, trouble) = reason.split_once("; ").unwrap();
    assert_eq!(count, "0 of 1 workers ready after 1s");
    assert!(trouble.starts_with("v1-"), "{trouble}");
    for told in [
        "-1: it ended with status 3, ",
        " restart",
        "; see `segue logs v1`",
    ] {
        assert!(trouble.contains(told), "{trouble}");
    }
    let again = client.post("promote", json!({})).await;
    assert_eq!(
        (again.status, again.json()["type"].as_str()),
        (422, Some("not-now"))
    );
    running.stop().await;
}
