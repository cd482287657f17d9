//! Acknowledgment: who has it is waited for, who has not is named.

use serde_json::json;

use crate::gateway::Gateway;
use crate::{Directory, Running, eventually, kill, pids, release, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_names_who_did_not_acknowledge_within_a_second() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = running.client.clone();
    let _good = Gateway::start(&directory.state(), "gw-1");
    let stuck = Gateway::start(&directory.state(), "gw-2");
    eventually("both gateways", async || {
        let known = client.status().await.gateways;
        (known.len() == 2 && known.iter().all(|known| known.leased)).then_some(())
    })
    .await;
    client.bring_in("v1").await;
    client.bring_in("v2").await;
    stuck.mind.lock().unwrap().stuck = true;
    let done = client.act("rollback", json!({})).await;
    let ack = done.ack.unwrap();
    assert_eq!(ack.unacked, ["gw-2".parse().unwrap()]);
    // Asked until answered; how much longer than the wait is for the machine to say.
    assert!(ack.waited_ms >= 900, "waited {} ms", ack.waited_ms);
    assert_eq!(release(&done.agent, "v1").unwrap().state, "current");
    let again = client.agent().await;
    assert_eq!(again.rollout.unwrap().unacked, ["gw-2".parse().unwrap()]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_is_answered_when_it_has_landed() {
    let directory = Directory::new();
    let mut spec = spec();
    spec.plan.steps = vec![segue_core::spec::Step {
        share: segue_core::split::Share(1),
        min_calls: 1,
        min_duration: segue_core::time::Millis(0),
        pause: false,
    }];
    let running = Running::start(&directory, spec).await;
    let client = running.client.clone();
    let slow = Gateway::start(&directory.state(), "gw-1");
    client.bring_in("v1").await;
    client
        .act("deploy", json!({ "label": "v2", "env": { "V": "2" } }))
        .await;
    client
        .until("the ramp", |view| view.phase == "canary")
        .await;
    slow.mind.lock().unwrap().stuck = true;
    let promote = tokio::spawn({
        let client = client.clone();
        async move { client.act("promote", json!({ "full": true })).await }
    });
    let view = client
        .until("the cutover", |view| view.phase == "promoting")
        .await;
    assert_eq!(view.holds[0], "not acknowledged by gw-1");
    assert!(!promote.is_finished());
    // A gateway that comes back is told everything again.
    slow.mind.lock().unwrap().stuck = false;
    drop(slow);
    let _again = Gateway::start(&directory.state(), "gw-1");
    let done = promote.await.unwrap();
    assert_eq!(done.facts, ["cut_over"]);
    let ack = done.ack.unwrap();
    assert_eq!((ack.unacked, ack.epoch), (Vec::new(), view.epoch));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_gateway_is_waited_for_until_it_is_forgotten() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = running.client.clone();
    let _good = Gateway::start(&directory.state(), "gw-1");
    let lost = Gateway::start(&directory.state(), "gw-2");
    eventually("both gateways", async || {
        let known = client.status().await.gateways;
        (known.len() == 2 && known.iter().all(|known| known.leased)).then_some(())
    })
    .await;
    client.bring_in("v1").await;
    let forget = async |body| {
        client
            .ask("POST", "/v1/gateways/gw-2/forget", Some(&body))
            .await
    };
    let alive = forget(json!({ "reason": "gone" })).await;
    assert_eq!(alive.status, 422, "{alive:?}");
    drop(lost);
    eventually("its lease to run out", async || {
        client
            .status()
            .await
            .gateways
            .iter()
            .any(|known| !known.leased)
            .then_some(())
    })
    .await;
    let view = client.agent().await;
    assert_eq!(
        release(&view, "v1").unwrap().unknown,
        ["gw-2".parse().unwrap()]
    );
    assert_eq!(forget(json!({})).await.status, 422, "a reason is needed");
    let done = forget(json!({ "reason": "its machine burned down", "actor": "ann" })).await;
    assert_eq!(
        (done.status, done.json()["agents"].clone()),
        (200, json!(["desk"]))
    );
    let view = client.agent().await;
    assert!(release(&view, "v1").unwrap().unknown.is_empty());
    assert_eq!(forget(json!({ "reason": "again" })).await.status, 404);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_says_goodbye_is_forgotten_and_one_that_just_leaves_is_not() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = running.client.clone();
    let gateway = Gateway::start(&directory.state(), "gw-1");
    let parting = Gateway::start(&directory.state(), "gw-1.7");
    let leaving = Gateway::start(&directory.state(), "gw-1.8");
    let first = client.bring_in("v1").await;
    let v1 = release(&first, "v1").unwrap().id;
    gateway.set_live(v1, 1);
    parting.mind.lock().unwrap().parting = true;
    drop(leaving);
    eventually("who is still waited for", async || {
        let known = client.status().await.gateways;
        let names: Vec<String> = known.iter().map(|k| k.gateway.to_string()).collect();
        (names == ["gw-1", "gw-1.8"]).then_some(())
    })
    .await;
    let unknown = eventually("an unknown count", async || {
        let view = client.agent().await;
        let unknown = release(&view, "v1").unwrap().unknown.clone();
        (!unknown.is_empty()).then_some(unknown)
    });
    assert_eq!(unknown.await, ["gw-1.8".parse().unwrap()]);
    let entries = client.ask("GET", "/v1/audit?limit=1000", None).await.body;
    assert_eq!(entries.matches("said goodbye with no calls").count(), 1);
    // Whoever it was may come back.
    parting.mind.lock().unwrap().parting = false;
    eventually("it back", async || {
        (client.status().await.gateways.len() == 3).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_acts_by_an_older_table_is_named_in_every_phase() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = running.client.clone();
    let gateway = Gateway::start(&directory.state(), "gw-1");
    let landed = client.bring_in("v1").await;
    let had = client
        .until("nothing to wait for", |view| {
            view.phase == "complete" && view.holds.is_empty()
        })
        .await;
    gateway.mind.lock().unwrap().stuck = true;
    kill(pids(&landed, "v1")[0]);
    let view = client
        .until("it to be named", |view| {
            release(view, "v1").unwrap().workers_ready == 1 && !view.holds.is_empty()
        })
        .await;
    assert_eq!(view.phase, "complete");
    let wanted = format!("gw-1 still acts by epoch {} of {}", had.epoch, view.epoch);
    assert_eq!(view.holds, [wanted]);
    drop(gateway);
    let wanted = format!(
        "gw-1 is silent; it last acted by epoch {} of {}",
        had.epoch, view.epoch
    );
    client
        .until("it to be silent", |view| view.holds == [wanted.clone()])
        .await;
    let _again = Gateway::start(&directory.state(), "gw-1");
    client
        .until("it to be back", |view| view.holds.is_empty())
        .await;
    running.stop().await;
}
