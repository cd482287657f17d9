//! Releases replaced under live calls.

use std::time::Duration;

use crate::site::{SETTINGS, Site, reports};

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_replaced_under_live_calls_and_brought_back() {
    let site = Site::open().await;
    site.deploy("v1");
    let first = site.crowd("a", 12, 9_000);
    site.live(12).await;
    site.deploy("v2");
    let second = site.crowd("b", 6, 4_000);
    site.becomes("v1", "draining").await;
    let calls = site.json(&["calls"]);
    assert!(!calls["calls"].as_array().unwrap().is_empty());
    reports(first).await;
    reports(second).await;
    site.becomes("v1", "drained").await;
    // Warm, and back at once.
    let workers = site.workers("v1");
    assert_eq!(workers.len(), 2);
    site.rollback("v2", "v1").await;
    let third = site.crowd("c", 6, 3_000);
    reports(third).await;
    assert_eq!(site.workers("v1"), workers, "the standby was started anew");
    let verdict = site.judge();
    assert_eq!(verdict.started, 24, "{verdict:?}");
    assert!(verdict.is_clean(), "{verdict:?}");
    assert!(verdict.by_release["v1"] >= 18, "{verdict:?}");
    assert_eq!(site.json(&["audit", "--verify"])["ok"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_release_keeps_every_call_when_one_of_them_ends() {
    let site = Site::open_with(&SETTINGS.replace("workers = 2", "workers = 1"), "").await;
    site.deploy("v1");
    let short = site.crowd("s", 3, 2_000);
    let long = site.crowd("l", 3, 9_000);
    site.live(6).await;
    site.deploy("v2");
    reports(short).await;
    site.live(3).await;
    assert_eq!(site.release("v1").unwrap()["state"], "draining");
    reports(long).await;
    site.spotless(6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_release_does_not_wait_for_the_first_to_drain() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 4, 14_000);
    site.live(4).await;
    site.deploy("v2");
    site.deploy("v3");
    let v1 = site.release("v1").unwrap();
    assert_eq!(
        (&v1["state"], &v1["slot"]),
        (&"draining".into(), &serde_json::Value::Null)
    );
    assert_eq!(site.release("v3").unwrap()["state"], "current");
    reports(crowd).await;
    site.becomes("v1", "drained").await;
    site.spotless(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_garbled_and_wrong_agents_fail_smoke_and_get_no_call() {
    let site = Site::open().await;
    site.deploy("v1");
    let crowd = site.crowd("a", 4, 30_000);
    site.live(4).await;
    for fault in ["silent", "garbled", "wrong"] {
        site.deploy_broken(fault, fault);
        site.phase("failed").await;
        let agent = site.agent().unwrap();
        let reason = agent["rollout"]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("smoke"), "{fault}: {reason}");
        assert_eq!(site.release("v1").unwrap()["share_bp"], 10_000);
    }
    reports(crowd).await;
    site.spotless(4);
    let verdict = site.judge();
    assert_eq!(
        verdict.by_release.keys().collect::<Vec<_>>(),
        ["v1"],
        "{verdict:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_never_gets_ready_or_crashes_is_given_up() {
    let site = Site::open_with(&SETTINGS.replace("15s", "3s"), "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 9_000);
    for fault in ["never-ready", "crash"] {
        site.deploy_broken(fault, fault);
        site.phase("failed").await;
        let agent = site.agent().unwrap();
        let reason = agent["rollout"]["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("0 of 2 workers ready"), "{fault}: {reason}");
    }
    reports(crowd).await;
    site.spotless(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_passes_smoke_and_fails_under_calls_is_rolled_back() {
    // It breaks calls after 17 s; the smoke call is shorter than that.
    let ramp = r#"
[agents.desk.smoke]
scenario = "hours"

[[agents.desk.steps]]
share = "50%"
min_calls = 200
min_duration = "1s"
"#;
    let site = Site::open_with(SETTINGS, ramp).await;
    site.deploy("v1");
    site.deploy_broken("v2", "drop:17000");
    site.phase("canary").await;
    let crowd = site.crowd("a", 12, 25_000);
    site.phase("rolled back").await;
    let agent = site.agent().unwrap();
    let reason = agent["rollout"]["reason"].as_str().unwrap();
    assert!(reason.contains("dropped, limit 2 %"), "{reason}");
    assert_eq!(site.release("v1").unwrap()["share_bp"], 10_000);
    reports(crowd).await;
    let verdict = site.judge();
    // What v2 broke is counted and never hidden; nobody else was cut off.
    assert!(verdict.dropped >= 1, "{verdict:?}");
    assert_eq!(verdict.started, 12);
    assert_eq!(verdict.dropped + verdict.completed, 12, "{verdict:?}");
    assert!(verdict.by_release["v2"] >= verdict.dropped, "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_is_the_same_release_and_a_changed_variable_is_another() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let same = site.run(&["deploy", "v1"]);
    assert_eq!(
        same.status.code(),
        Some(7),
        "{}",
        String::from_utf8_lossy(&same.stderr)
    );
    let before = site.release("v1").unwrap()["id"].clone();
    site.ok(&["deploy", "v1", "--env", "PROMPT=shorter"]);
    let agent = site.agent().unwrap();
    assert_ne!(
        agent["releases"][0]["id"], before,
        "a re-used label is a new release"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_comes_back_keeps_its_release() {
    let site = Site::open_with(
        &SETTINGS
            .replace("stickiness = \"1s\"", "stickiness = \"20s\"")
            .replace("straggler_buffer = \"1s\"", "straggler_buffer = \"20s\""),
        "",
    )
    .await;
    site.deploy("v1");
    let first = segue_voice::caller::call(&site.plan("CAback", 1_500)).await;
    site.deploy("v2");
    let v1 = site.release("v1").unwrap();
    assert_eq!(v1["pinned"], 1, "{v1}");
    // The same call id again: it belongs to v1, although v2 takes every new call.
    let again = segue_voice::caller::call(&site.plan("CAback", 1_500)).await;
    assert_eq!(
        (first.turns_heard() > 0, again.turns_heard() > 0),
        (true, true)
    );
    let log = std::fs::read_to_string(site.dir.join("logs/workers.jsonl")).unwrap();
    let releases: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("CAback") && line.contains("call.started"))
        .map(|line| {
            if line.contains("\"release\":\"v1\"") {
                "v1"
            } else {
                "v2"
            }
        })
        .collect();
    assert_eq!(releases, ["v1", "v1"]);
    tokio::time::timeout(Duration::from_secs(30), reports(site.crowd("n", 1, 1_000)))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_under_calls_is_counted_and_replaced() {
    let site = Site::open().await;
    site.deploy("v1");
    let crowd = site.crowd("a", 8, 6_000);
    site.live(8).await;
    let workers = site.workers("v1");
    rustix::process::kill_process(workers[0], rustix::process::Signal::KILL).unwrap();
    let lost = reports(crowd).await.len();
    assert_eq!(lost, 8);
    let verdict = site.judge();
    assert!(verdict.dropped >= 1 && verdict.dropped < 8, "{verdict:?}");
    site.until("a new worker is ready", || {
        let now = site.workers("v1");
        now.len() == 2 && now[0] != workers[0]
    })
    .await;
    let release = site.release("v1").unwrap();
    assert_eq!(
        release["dropped"], verdict.dropped,
        "the gateway's count is not the judge's"
    );
    reports(site.crowd("b", 4, 1_500)).await;
}
