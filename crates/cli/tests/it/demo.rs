//! The demo is the product's promise: it must hold, and its judge must bite.

use std::process::{Command, Output};

use crate::site::SEGUE;

fn demo(args: &[&str]) -> (Output, serde_json::Value) {
    let output = Command::new(SEGUE)
        .args(["demo", "--output", "json"])
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().last().unwrap_or_default();
    let report = serde_json::from_str(last)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output, report)
}

#[test]
fn the_demo_drops_nothing() {
    let (output, report) = demo(&["--callers", "24"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{report}\n{said}");
    let calls = &report["calls"];
    for count in ["dropped", "wrong_release_after_cutover", "reached_unproven"] {
        assert_eq!(calls[count], 0, "{report}");
    }
    assert!(calls["started"].as_u64().unwrap() >= 24, "{report}");
    assert_eq!(calls["started"], calls["completed"], "{report}");
    assert_eq!(report["audit_verified"], true);
    let ended: Vec<&str> = report["rollouts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rollout| rollout["ended"].as_str().unwrap())
        .collect();
    assert_eq!(ended, ["landed", "landed", "stopped", "rolled back to"]);
}

/// A judge that cannot find anything proves nothing.
fn caught(sabotage: &str, count: &str) {
    let (output, report) = demo(&["--callers", "12", "--seconds", "60", "--sabotage", sabotage]);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(
        report["calls"][count].as_u64().unwrap() > 0,
        "{sabotage}: {report}"
    );
}

#[test]
fn a_killed_worker_is_noticed() {
    caught("kill-worker", "dropped");
}

#[test]
fn a_misrouted_call_is_noticed() {
    caught("misroute", "wrong_release_after_cutover");
}

#[test]
fn an_early_cutover_is_noticed() {
    caught("early-cutover", "reached_unproven");
}
