//! A Pipecat bot with its stock transport: what a deployment does to it with Segue, and without.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use segue_voice::caller::{CallEnd, CallPlan, CallReport, call};
use segue_voice::calllog::CallLog;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::python::{Caller, example, prepare, python, size};
use crate::site::{AGENT, Site, reports};

/// A bot without Segue. Dropping it ends it, by force.
struct Bot(Child);

impl Drop for Bot {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls of which the bot has answered a question.
fn answered(site: &Site) -> BTreeSet<String> {
    let log = fs::read_to_string(site.dir.join("logs/workers.jsonl")).unwrap_or_default();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let turns = lines.filter(|line: &Value| line["event"] == "call.turn");
    turns.map(|line| line["call"].to_string()).collect()
}

/// A bot without Segue, and two people who are in full swing with it.
async fn talking(site: &Site, program: &str, talk_ms: u64) -> (Bot, JoinSet<CallReport>) {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let bot = Command::new(python())
        .arg(example(program))
        .args(["--port", &port.to_string()])
        .env("AGENT_CALL_LOG", site.dir.join("logs/workers.jsonl"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let bot = Bot(bot);
    let listens = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
    site.until("the bot listens", listens).await;
    let mut people = JoinSet::new();
    let log = Arc::new(CallLog::open(&site.dir.join("logs/callers.jsonl")).unwrap());
    for person in 0..2 {
        let url = format!("ws://127.0.0.1:{port}/ws/{{call}}");
        let mut plan = CallPlan::new(&url, &format!("CAbare{person}"), talk_ms);
        (plan.log, plan.listen) = (Arc::clone(&log), false);
        people.spawn(async move { call(&plan).await });
    }
    let talk = || answered(site).len() == 2;
    site.until("both calls are in full swing", talk).await;
    (bot, people)
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_drops_its_calls() {
    let site = Site::prepare("", "");
    let (bot, people) = talking(&site, "pipecat-bot/bot.py", 60_000).await;
    kill_process(Pid::from_child(&bot.0), Signal::TERM).unwrap();
    for report in reports(people).await {
        assert!(
            matches!(
                report.end,
                CallEnd::Remote {
                    code: Some(1001 | 1012)
                }
            ),
            "{report:?}"
        );
    }
    let verdict = site.judge();
    assert_eq!((verdict.started, verdict.dropped), (2, 2), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_with_the_sdk_it_ends_with_its_last_call() {
    let site = Site::prepare("", "");
    let (mut bot, people) = talking(&site, "pipecat-bot/patient.py", 20_000).await;
    // Nor does a second one cut anything short.
    for _ in 0..2 {
        kill_process(Pid::from_child(&bot.0), Signal::TERM).unwrap();
    }
    for report in reports(people).await {
        assert_eq!(report.end, CallEnd::HungUp, "{report:?}");
    }
    let ended = tokio::task::spawn_blocking(move || bot.0.wait());
    assert!(ended.await.unwrap().unwrap().success());
    let verdict = site.judge();
    assert_eq!((verdict.started, verdict.dropped), (2, 0), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_segue_it_is_replaced_without_a_dropped_call() {
    let (calls, seconds) = size(3, 22);
    // Pipecat takes an eighth of a core for each call.
    let (calls, talk_ms) = (calls.min(8), 1_000 * u64::from(seconds));
    let settings = "stickiness = \"1s\"\nstraggler_buffer = \"1s\"\nstandby = \"1s\"";
    let mut site = prepare("pipecat-bot/bot.py", &[(AGENT, settings)]);
    site.serve().await;
    site.deploy("v1");
    let old = site.crowd("old", calls, talk_ms);
    site.live(calls.into()).await;
    let workers = site.workers("v1");
    assert_eq!(workers.len(), 1);
    site.deploy("v2");
    // It has calls, so it is not told to end: that would end them.
    assert_eq!(site.release("v1").unwrap()["state"], "draining");
    test_kill_process(workers[0]).unwrap();
    let url = format!(
        "ws://{}/ws/{{call}}",
        site.state("run/gateway.addr").unwrap()
    );
    let new = Caller::start(&site, "hours", &["--url", &url, "--prefix", "CAnew"]);
    let new = new.end().await;
    assert!(new.well, "{new:?}");
    for report in reports(old).await {
        assert_eq!(report.end, CallEnd::HungUp, "{report:?}");
        assert_eq!(report.turns_heard(), report.turns.len(), "{report:?}");
    }
    site.becomes("v1", "retired").await;
    let gone = || test_kill_process(workers[0]).is_err();
    site.until("the old worker is gone", gone).await;
    site.spotless(u64::from(calls) + 1);
    let by_release = site.judge().by_release;
    assert_eq!(
        (by_release["v1"], by_release["v2"]),
        (calls.into(), 1),
        "{by_release:?}"
    );
}
