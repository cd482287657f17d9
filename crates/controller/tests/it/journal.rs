//! A journal that cannot be written: nothing is decided, nothing is forgotten, calls go on.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::gateway::Gateway;
use crate::{Directory, Running, helper, pids, release, spec};

#[tokio::test(flavor = "multi_thread")]
async fn while_the_journal_is_locked_the_old_state_serves() {
    let directory = Directory::new();
    let mut spec = spec();
    spec.plan.steps = vec![segue_core::spec::Step {
        share: segue_core::split::Share(1_000),
        min_calls: 0,
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
    let before = client
        .until("the step", |view| view.rollout.as_ref().unwrap().paused)
        .await;
    let table = gateway.table().unwrap();

    let mut locker = helper::play("locker", &directory, &[]);
    helper::hear(&mut locker, "locked");
    for verb in ["promote", "rollback"] {
        let refused = client.post(verb, json!({})).await;
        let problem = refused.json();
        assert_eq!(
            (refused.status, problem["type"].as_str()),
            (503, Some("journal"))
        );
        assert!(
            problem["title"]
                .as_str()
                .unwrap()
                .contains("locked by another program")
        );
        assert!(problem["hint"].as_str().unwrap().contains("calls go on"));
    }
    let status = client.status().await;
    assert!(
        status.journal.error.unwrap().contains("locked"),
        "the error is shown"
    );
    // What happens meanwhile is not lost.
    let pid = pids(&before, "v1")[0];
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let during = client
        .until("the worker to be back", |view| {
            let is = &release(view, "v1").unwrap().workers[0];
            is.restarts == 1 && is.state == "ready"
        })
        .await;
    let was = release(&before, "v1").unwrap().workers[0].port;
    assert_eq!(
        release(&during, "v1").unwrap().workers[0].port,
        was,
        "that table still finds it"
    );
    assert_eq!(
        (during.revision, during.epoch),
        (before.revision, before.epoch)
    );
    assert_eq!(
        gateway.table().unwrap(),
        table,
        "gateways go on by the table they have"
    );

    locker.kill().unwrap();
    locker.wait().unwrap();
    client
        .until("the new worker to count", |view| {
            let is = release(view, "v1").unwrap();
            is.workers_ready == 1 && is.workers[0].state == "ready"
        })
        .await;
    let done = client.act("rollback", json!({ "reason": "enough" })).await;
    assert_eq!(done.ack.unwrap().unacked, []);
    assert_eq!(client.status().await.journal.error, None);
    let chain = client.ask("GET", "/v1/audit/verify", None).await.json();
    assert_eq!(chain["ok"], true);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_one_wrote_is_replayed_before_anything_is_decided() {
    use segue_controller::store::{Journal as _, SqliteJournal};
    use segue_core::audit::Entry;
    use segue_core::rollout::Fact;

    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = running.client.clone();
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    client.bring_in("v1").await;
    let journal = SqliteJournal::open(&directory.state().journal()).unwrap();
    let head = journal.head().unwrap();
    let fact = Fact::GatewayJoined {
        gateway: "gw-9".parse().unwrap(),
    };
    let entry = Entry::after(
        (head.seq, &head.hash),
        segue_core::time::Timestamp(1),
        crate::desk(),
        "segue".to_owned(),
        serde_json::to_value(fact).unwrap(),
        json!({}),
    );
    journal.append(head.seq, &[entry]).unwrap();
    client
        .act("deploy", json!({ "label": "v2", "env": { "V": "2" } }))
        .await;
    client
        .until("v2 to be up", |view| {
            release(view, "v2").unwrap().workers_ready == 1
        })
        .await;
    let names: Vec<_> = client
        .status()
        .await
        .gateways
        .into_iter()
        .map(|known| known.gateway.to_string())
        .collect();
    assert_eq!(names, ["gw-1", "gw-9"]);
    let chain = client.ask("GET", "/v1/audit/verify", None).await.json();
    assert_eq!(chain["ok"], true, "{chain}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_starts_while_the_journal_is_locked() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let before = running.client.bring_in("v1").await;
    running.stop().await;
    let mut locker = helper::play("locker", &directory, &[]);
    helper::hear(&mut locker, "locked");
    let running = Running::start(&directory, spec()).await;
    let client = running.client.clone();
    let gateway = Gateway::start(&directory.state(), "gw-1");
    gateway
        .until("the table", |table| {
            table.epoch == before.epoch && table.workers.len() == 1
        })
        .await;
    let status = client.status().await;
    assert_eq!(pids(&status.agents[0], "v1"), pids(&before, "v1"));
    assert!(
        status.journal.error.unwrap().contains("locked"),
        "the gateway could not be noted"
    );
    locker.kill().unwrap();
    locker.wait().unwrap();
    crate::eventually("the journal to be written again", async || {
        client.status().await.journal.error.is_none().then_some(())
    })
    .await;
    assert!(client.facts().await.contains(&"gateway_joined".to_owned()));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_decided_on_a_journal_older_than_what_gateways_do() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = running.client.clone();
    let gateway = Gateway::start(&directory.state(), "gw-1");
    client.bring_in("v1").await;
    gateway.run_ahead();
    crate::eventually("its report", async || {
        let known = client.status().await.gateways;
        (known[0].epochs[&crate::desk()].0 == 1_000).then_some(())
    })
    .await;
    // It is told before anybody asks for anything.
    let error = client.status().await.journal.error.unwrap();
    for told in [
        "gw-1 acts by table 1000",
        "journal.db back",
        "gateway/tables.json",
    ] {
        assert!(error.contains(told), "{error}");
    }
    let refused = client.post("drain", json!({})).await;
    assert_eq!(refused.status, 503);
    assert!(
        refused
            .body
            .contains("an older journal was put in its place"),
        "{refused:?}"
    );
    running.stop().await;
}
