//! The smoke test tells a sound agent from each broken one.

use std::sync::Arc;

use segue_voice::calllog::CallLog;
use segue_voice::scenario::{Scenario, ScenarioReport, Verdict, run};
use tokio::net::TcpListener;

use crate::Running;

async fn smoke(url: &str) -> ScenarioReport {
    run(
        &Scenario::hours(),
        url,
        &[],
        None,
        "SMOKE1",
        &Arc::new(CallLog::none()),
    )
    .await
}

async fn check(fault: &str, reason: &str) {
    let agent = Running::start(fault).await;
    let report = smoke(&agent.url()).await;
    agent.stop().await;
    let Verdict::Failed { reasons } = &report.verdict else {
        panic!("{fault} passed: {report:?}");
    };
    assert!(
        reasons.iter().any(|r| r.contains(reason)),
        "{fault}: {reasons:?}"
    );
}

#[tokio::test]
async fn a_sound_agent_passes() {
    let agent = Running::start("none").await;
    let report = smoke(&agent.url()).await;
    agent.stop().await;
    assert!(report.passed(), "{report:?}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["verdict"], "passed");
    assert_eq!(json["call"]["turns"][1]["said"], "ask-address");
    assert!(json["call"]["turns"][0]["similarity"].as_f64().unwrap() > 0.9);
}

#[tokio::test]
async fn a_silent_agent_fails() {
    check(
        "silent",
        "greeting: no voice within 3000 ms after the call connected",
    )
    .await;
}

#[tokio::test]
async fn a_garbled_agent_fails() {
    check("garbled", "greeting: ").await;
}

#[tokio::test]
async fn an_agent_with_wrong_answers_fails() {
    check(
        "wrong",
        "turn 1: heard speech unlike the expected answer: similarity 0.",
    )
    .await;
}

#[tokio::test]
async fn an_agent_that_drops_calls_fails() {
    check("drop:1000", "call dropped by the agent, without a close").await;
}

#[tokio::test]
async fn an_agent_that_refuses_calls_fails() {
    check("refuse", "call refused with status 503").await;
}

#[tokio::test]
async fn no_agent_at_all_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let report = smoke(&format!("ws://{address}/")).await;
    let reasons = vec!["connection refused".to_owned()];
    assert_eq!(report.verdict, Verdict::Failed { reasons });
}
