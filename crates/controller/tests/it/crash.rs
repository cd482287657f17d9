//! kill -9 of the controller, and what is there afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::process::Child;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::gateway::Gateway;
use crate::{Client, Directory, Running, eventually, helper, is_alive, pids, release, spec};

async fn start(directory: &Directory, spec: &segue_core::spec::AgentSpec) -> (Child, Client) {
    let _ = fs::remove_file(directory.state().api_addr());
    let spec = serde_json::to_string(spec).unwrap();
    let child = helper::play("controller", directory, &[("IT_SPEC", &spec)]);
    (child, Client::connect(&directory.state()).await)
}

fn kill(mut controller: Child) {
    controller.kill().unwrap();
    controller.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_controller_is_taken_over_in_the_middle_of_a_rollout() {
    let directory = Directory::new();
    let mut spec = spec();
    spec.worker.count = 2;
    spec.plan.steps = vec![segue_core::spec::Step {
        share: segue_core::split::Share(5_000),
        min_calls: 0,
        min_duration: segue_core::time::Millis(0),
        pause: true,
    }];
    let (first, client) = start(&directory, &spec).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    client.bring_in("v1").await;
    client
        .act("deploy", json!({ "label": "v2", "env": { "V": "2" } }))
        .await;
    let before = client
        .until("the step", |view| view.rollout.as_ref().unwrap().paused)
        .await;
    let workers = [pids(&before, "v1"), pids(&before, "v2")].concat();
    assert_eq!(workers.len(), 4);
    let table = gateway.table().unwrap();
    kill(first);
    assert!(workers.iter().all(|pid| is_alive(*pid)), "workers run on");

    let (second, client) = start(&directory, &spec).await;
    let after = client
        .until("the workers to be found", |view| {
            ["v1", "v2"]
                .iter()
                .all(|label| pids(view, label).len() == 2)
        })
        .await;
    assert_eq!([pids(&after, "v1"), pids(&after, "v2")].concat(), workers);
    assert_eq!(
        (after.phase.as_str(), after.revision),
        ("canary", before.revision)
    );
    assert_eq!(after.epoch, table.epoch, "nothing about calls has changed");
    kill(second);

    // One worker dies while nobody looks.
    let dead = workers[0];
    let dead = rustix::process::Pid::from_raw(dead.cast_signed()).unwrap();
    rustix::process::kill_process(dead, rustix::process::Signal::KILL).unwrap();
    let running = Running::start(&directory, spec).await;
    let client = running.client.clone();
    let port = release(&after, "v1").unwrap().workers[0].port;
    let after = client
        .until("the dead one to be replaced", |view| {
            let is = release(view, "v1").unwrap();
            is.workers_ready == 2 && !pids(view, "v1").contains(&workers[0])
        })
        .await;
    assert_eq!(release(&after, "v1").unwrap().workers[0].port, port);
    // What the gateways hold is known only once they have reported again.
    let promoted = eventually("promotion", async || {
        let answer = client.post("promote", json!({})).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!(promoted["ack"]["unacked"], json!([]));
    assert_eq!(pids(&client.agent().await, "v2"), workers[2..]);
    let chain = client.ask("GET", "/v1/audit/verify", None).await.json();
    assert_eq!(chain["ok"], true, "{chain}");
    running.stop().await;
}

/// Processes that have this in their environment.
fn processes_with(entry: &str) -> BTreeSet<u32> {
    let has = |pid: &u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ
            .split(|byte| *byte == 0)
            .any(|it| it == entry.as_bytes())
    };
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| has(pid) && is_alive(*pid)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_instant_it_loses_no_decision_and_no_worker() {
    let directory = Directory::new();
    let mark = ("IT_MARK", directory.0.to_str().unwrap());
    let mut spec = spec();
    spec.worker.count = 2;
    spec.worker.env.insert(mark.0.to_owned(), mark.1.to_owned());
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let mut entries = 0;
    for round in 0..16_u64 {
        let (controller, client) = start(&directory, &spec).await;
        let chain = client.ask("GET", "/v1/audit/verify", None).await.json();
        assert_eq!(chain["ok"], true, "{chain}");
        let are = chain["entries"].as_u64().unwrap();
        assert!(are >= entries, "entries were lost: {are} after {entries}");
        entries = are;
        let body = json!({ "label": format!("v{round}"), "env": { "V": round.to_string() } });
        // Another one may be under way, and the answer may never come.
        let asked = tokio::spawn(async move { client.post("deploy", body).await });
        sleep(Duration::from_millis(round * 37 % 331)).await;
        kill(controller);
        let _ = asked.await;
    }
    let running = Running::start(&directory, spec).await;
    let client = running.client.clone();
    client
        .until("the last rollout to end", |view| {
            ["draining", "settling", "standby", "complete"].contains(&view.phase.as_str())
        })
        .await;
    let entry = format!("{}={}", mark.0, mark.1);
    eventually("every process to be somebody's worker", async || {
        let view = client.agent().await;
        let workers = view.releases.iter().flat_map(|is| &is.workers);
        let known: BTreeSet<u32> = workers.filter_map(|worker| worker.pid).collect();
        let whole = view.releases[0].workers_ready == 2;
        (whole && processes_with(&entry) == known).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controllers_do_not_share_a_directory() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let second = segue_controller::run(directory.config(spec()), std::future::pending()).await;
    let error = second.unwrap_err();
    assert!(
        error.to_string().contains("another controller uses"),
        "{error}"
    );
    assert!(error.hint().contains("--state"));
    running.client.status().await;
    running.stop().await;
    Running::start(&directory, spec()).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_configured_any_more_is_kept() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    let before = running.client.bring_in("v1").await;
    running.stop().await;
    let mut config = directory.config(spec());
    config.agents.clear();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    fs::remove_file(directory.state().api_addr()).unwrap();
    let ended = tokio::spawn(segue_controller::run(config, async {
        stopped.await.unwrap_or_default();
    }));
    let client = Client::connect(&directory.state()).await;
    let after = client
        .until("the agent", |view| !pids(view, "v1").is_empty())
        .await;
    assert_eq!(pids(&after, "v1"), pids(&before, "v1"));
    gateway
        .until("its table", |table| table.workers.len() == 1)
        .await;
    let refused = client.post("deploy", json!({ "label": "v2" })).await;
    assert_eq!(refused.status, 404, "{refused:?}");
    stop.send(()).unwrap();
    ended.await.unwrap().unwrap();
}
