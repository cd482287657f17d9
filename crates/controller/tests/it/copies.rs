//! A release runs the bytes it was deployed with, whatever lies in their place now.

use std::fs;

use segue_core::spec::AgentSpec;
use segue_core::time::Millis;
use serde_json::json;

use crate::gateway::Gateway;
use crate::http::request;
use crate::{Directory, Running, eventually, kill, pids, release, spec};

/// An agent whose program is built in place.
fn scripted() -> AgentSpec {
    let mut spec = spec();
    spec.worker.command = ["sh", "bot.sh", "{port}"].map(str::to_owned).into();
    spec.policy.standby = Millis(60_000);
    spec
}

fn build(directory: &Directory, version: &str) {
    let run = "exec \"$IT_EXE\" helper::worker --exact --ignored --nocapture";
    let script = format!("export IT_SAYS={version}\n{run}\n");
    fs::write(directory.0.join("bot.sh"), script).unwrap();
}

/// Kills the worker of a release, and answers what the next one says of itself and we of it.
async fn replaced(running: &Running, label: &str) -> (String, Option<String>) {
    let before = running.client.agent().await;
    let old = pids(&before, label)[0];
    kill(old);
    let view = running
        .client
        .until("the worker to be back", |view| {
            let is = &release(view, label).unwrap().workers[0];
            is.state == "ready" && is.pid != Some(old)
        })
        .await;
    let worker = &release(&view, label).unwrap().workers[0];
    let addr = ([127, 0, 0, 1], worker.port).into();
    let says = request(addr, "GET", "/", &[], None).await.body;
    (says, worker.why.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_started_again_runs_what_was_deployed() {
    let directory = Directory::new();
    build(&directory, "one");
    let mut running = Running::start(&directory, scripted()).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.bring_in("v1").await;
    assert_eq!(replaced(&running, "v1").await, ("one".to_owned(), None));
    build(&directory, "two");
    running.client.bring_in("v2").await;
    running.client.act("rollback", json!({})).await;
    let (says, why) = replaced(&running, "v1").await;
    assert_eq!(says, "one");
    let why = why.unwrap();
    assert!(why.contains("running the copy kept at deploy"), "{why}");
    // What v2 was made of is not needed any more; of v1 the program and the script are.
    let copies = || fs::read_dir(directory.state().releases()).unwrap().count();
    eventually("copies to be collected", async || {
        (copies() == 2).then_some(())
    })
    .await;
    // The next controller knows of them too.
    running.stop().await;
    running = Running::start(&directory, scripted()).await;
    assert_eq!(replaced(&running, "v1").await.0, "one");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_would_run_something_else_is_not_started() {
    let directory = Directory::new();
    build(&directory, "one");
    let running = Running::start(&directory, scripted()).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    let before = running.client.bring_in("v1").await;
    build(&directory, "two");
    for copy in fs::read_dir(directory.state().releases()).unwrap() {
        fs::remove_file(copy.unwrap().path()).unwrap();
    }
    kill(pids(&before, "v1")[0]);
    running
        .client
        .until("it to say why", |view| {
            let worker = &release(view, "v1").unwrap().workers[0];
            let why = worker.why.as_deref().unwrap_or_default();
            why.contains("bot.sh is not any more what was deployed") && worker.pid.is_none()
        })
        .await;
    build(&directory, "one");
    running
        .client
        .until("it to be back", |view| {
            release(view, "v1").unwrap().workers[0].state == "ready"
        })
        .await;
    running.stop().await;
}
