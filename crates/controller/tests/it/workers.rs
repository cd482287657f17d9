//! Workers: started again when they end, left alone otherwise.

use std::collections::BTreeMap;

use rustix::process::{Pid, Signal, kill_process};
use segue_controller::platform::process::Spawn;
use serde_json::json;

use crate::gateway::Gateway;
use crate::{Directory, Running, is_alive, pids, release, spec};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_is_started_again() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let (client, gateway) = (
        running.client.clone(),
        Gateway::start(&directory.state(), "gw-1"),
    );
    let view = client.bring_in("v1").await;
    let worker = release(&view, "v1").unwrap().workers[0].clone();
    assert!(worker.id.as_str().starts_with("v1-"), "{worker:?}");
    for restarts in 1..=2 {
        let pid = pids(&client.agent().await, "v1")[0];
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        let view = client
            .until("the worker to be back", |view| {
                let is = &release(view, "v1").unwrap().workers[0];
                is.restarts == restarts && is.state == "ready"
            })
            .await;
        let again = &release(&view, "v1").unwrap().workers[0];
        assert_eq!(again.id, worker.id, "its name is its own");
        assert_ne!(again.pid, Some(pid));
        let port = again.port;
        assert_eq!(port, worker.port, "an old table finds it too");
        gateway
            .until("its new address", |table| {
                table
                    .workers
                    .values()
                    .any(|route| route.addr.port() == port)
            })
            .await;
    }
    let facts = client.facts().await;
    let count = |name: &str| facts.iter().filter(|fact| *fact == name).count();
    assert_eq!(
        (count("worker_gone"), count("worker_ready")),
        (2, 3),
        "{facts:?}"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_backs_off_and_says_so() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let client = running.client.clone();
    let body = json!({ "label": "v1", "command": ["sh", "-c", "exit 3", "{port}"] });
    client.act("deploy", body).await;
    let view = client
        .until("it to have tried", |view| {
            release(view, "v1").unwrap().workers[0].restarts >= 2
        })
        .await;
    let worker = &release(&view, "v1").unwrap().workers[0];
    assert!(
        ["starting", "backing-off"].contains(&worker.state.as_str()),
        "{worker:?}"
    );
    assert!(std::path::Path::new(&worker.log).exists(), "{worker:?}");
    client
        .until("it to say why", |view| {
            let worker = &release(view, "v1").unwrap().workers[0];
            worker.why.as_deref() == Some("it ended with status 3")
        })
        .await;
    let waits = client.agent().await.holds;
    assert!(
        waits[0].starts_with("0 of 1 workers ready; v1-"),
        "{waits:?}"
    );
    assert!(
        waits[0].contains("-1: it ended with status 3, "),
        "{waits:?}"
    );
    assert!(
        waits[0].ends_with(" restarts; see `segue logs v1`"),
        "{waits:?}"
    );
    client.act("abort", json!({})).await;
    client
        .until("it to be given up", |view| {
            release(view, "v1")
                .unwrap()
                .workers
                .iter()
                .all(|worker| worker.state == "gone")
        })
        .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_an_unknown_release_is_left_alone() {
    let directory = Directory::new();
    let state = directory.state();
    let stranger = Spawn {
        program: "/bin/sleep".to_owned(),
        args: vec!["60".to_owned()],
        env: BTreeMap::new(),
        dir: None,
        log: directory.0.join("stranger.log"),
        record_path: state.worker_record(&crate::desk(), &"stranger".parse().unwrap()),
        note: json!({ "whatever": true }),
    };
    let stranger = stranger.start().unwrap();
    let running = Running::start(&directory, spec()).await;
    let _gateway = Gateway::start(&state, "gw-1");
    running.client.bring_in("v1").await;
    running.stop().await;
    assert!(is_alive(stranger.pid()));
}

#[tokio::test(flavor = "multi_thread")]
async fn deployed_again_with_other_numbers_the_record_follows_and_no_worker_is_stopped() {
    let directory = Directory::new();
    let mut spec = spec();
    spec.worker.count = 2;
    spec.policy.standby = segue_core::time::Millis(60_000);
    let running = Running::start(&directory, spec).await;
    let (client, gateway) = (
        running.client.clone(),
        Gateway::start(&directory.state(), "gw-1"),
    );
    client.bring_in("v1").await;
    client.bring_in("v2").await;
    let before = client.agent().await;
    let old = release(&before, "v1").unwrap();
    assert_eq!((old.workers_ready, old.workers_want), (2, 2));
    let body = json!({ "label": "v1", "env": { "V": "v1" }, "workers": 1, "capacity": 3 });
    client.act("deploy", body).await;
    let after = client
        .until("the capacity to follow", |view| {
            release(view, "v1").unwrap().capacity == 6
        })
        .await;
    let new = release(&after, "v1").unwrap();
    assert_eq!((new.workers_ready, new.workers_want), (2, 1));
    assert_eq!(
        pids(&after, "v1"),
        pids(&before, "v1"),
        "they may have calls"
    );
    gateway
        .until("the capacity to be told", |table| {
            let ours = table.workers.values().filter(|is| is.release == new.id);
            ours.map(|is| is.capacity).collect::<Vec<_>>() == [3, 3]
        })
        .await;
    running.stop().await;
}
