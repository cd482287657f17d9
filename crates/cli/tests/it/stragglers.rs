//! Straggler policies, with calls that talk: who is told, who is ended, who comes back where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use segue_voice::caller::{CallEnd, call};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::permits::ask;
use crate::site::{SETTINGS, Site, reports};

const JITTER_MS: u64 = 2_000;
const PER_SECOND: u64 = 2;
const CALLS: u32 = 5;

fn settings() -> String {
    format!("{SETTINGS}notify = \"/segue/events\"\n")
}

fn policy(name: &str) -> String {
    format!(
        r#"
[agents.desk.smoke]
scenario = "hours"

[agents.desk.stragglers]
policy = "{name}"
ceiling = "2s"
jitter = "{JITTER_MS}ms"
per_second = {PER_SECOND}
"#
    )
}

/// Lines of the workers' log that tell of an event, as (time, call).
fn told(site: &Site, kind: &str) -> Vec<(u64, String)> {
    let text = fs::read_to_string(site.dir.join("logs/workers.jsonl")).unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["event"] == "worker.told" && line["kind"] == kind)
        .map(|line| {
            let call = line["call"].as_str().unwrap().to_owned();
            (line["t"].as_u64().unwrap(), call)
        })
        .collect()
}

fn entries(site: &Site, fact: &str) -> Vec<Value> {
    let (_, audit) = ask(site, "GET", "/v1/audit?limit=1000", None);
    let audit: Value = serde_json::from_str(&audit).unwrap_or_default();
    let entries = audit["entries"].as_array().cloned().unwrap_or_default();
    let of = entries
        .into_iter()
        .filter(|entry| entry["fact"]["fact"] == fact);
    of.collect()
}

async fn ceiling(site: &Site) -> u64 {
    let what = "the ceiling is reached";
    site.until(what, || !entries(site, "ceiling_reached").is_empty())
        .await;
    entries(site, "ceiling_reached")[0]["fact"]["at"]
        .as_u64()
        .unwrap()
}

/// A call's moment within the jitter: the first 64 bits of the SHA-256 of its id.
fn offset(call: &str) -> u64 {
    let digest = Sha256::digest(call);
    u64::from_be_bytes(digest[..8].try_into().unwrap()) % JITTER_MS
}

/// Nobody before their turn; and of the rate, what holds however late a machine is: the n-th not
/// before as many seconds have passed as the rate goes into n.
fn in_turn(since: u64, turns: &[(u64, String)]) {
    for (at, call) in turns {
        let turn = since + offset(call);
        assert!(*at >= turn, "{call} at {at}, its turn is {turn}");
    }
    let mut times: Vec<u64> = turns.iter().map(|(at, _)| *at).collect();
    times.sort_unstable();
    for (number, at) in times.iter().enumerate() {
        let earliest = since + number as u64 / PER_SECOND * 1_000;
        assert!(
            *at >= earliest,
            "number {number} at {at}, not before {earliest}"
        );
    }
}

fn ids() -> BTreeSet<String> {
    (0..CALLS).map(|person| format!("CAs{person:04}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn announce_tells_the_worker_of_each_call_once_and_cuts_nobody_off() {
    let site = Site::open_with(&settings(), &policy("announce")).await;
    site.deploy("v1");
    let crowd = site.crowd("s", CALLS, 14_000);
    site.live(u64::from(CALLS)).await;
    site.deploy("v2");
    let since = ceiling(&site).await;
    let reports = reports(crowd).await;
    assert!(
        reports.iter().all(|report| report.end == CallEnd::HungUp),
        "{reports:?}"
    );
    let announced = told(&site, "dev.segue.call.announce");
    let of: BTreeSet<String> = announced.iter().map(|(_, call)| call.clone()).collect();
    assert_eq!((announced.len(), of), (CALLS as usize, ids()), "each once");
    in_turn(since, &announced);
    assert!(!told(&site, "dev.segue.worker.retiring").is_empty());
    site.spotless(u64::from(CALLS));
    site.becomes("v1", "drained").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hand_off_brings_each_caller_back_to_the_current_release() {
    let site = Site::open_with(&settings(), &policy("hand-off")).await;
    site.deploy("v1");
    let crowd = site.crowd("s", CALLS, 60_000);
    site.live(u64::from(CALLS)).await;
    site.deploy("v2");
    let since = ceiling(&site).await;
    let mut again = tokio::task::JoinSet::new();
    for report in reports(crowd).await {
        assert_eq!(
            report.end,
            CallEnd::Remote { code: Some(1000) },
            "{report:?}"
        );
        // A provider that is told to call back calls with the same id.
        let plan = site.plan(&report.call_id, 1_000);
        again.spawn(async move { call(&plan).await });
    }
    let back = reports(again).await;
    assert!(
        back.iter().all(|report| report.end == CallEnd::HungUp),
        "{back:?}"
    );
    let handed = told(&site, "dev.segue.call.hand-off");
    let of: BTreeSet<String> = handed.iter().map(|(_, call)| call.clone()).collect();
    assert_eq!((handed.len(), of), (CALLS as usize, ids()), "each once");
    in_turn(since, &handed);
    let verdict = site.judge();
    let both = BTreeMap::from([("v1", u64::from(CALLS)), ("v2", u64::from(CALLS))]);
    let by: BTreeMap<&str, u64> = verdict
        .by_release
        .iter()
        .map(|(release, count)| (release.as_str(), *count))
        .collect();
    // Every call spoke with both, one after the other, and nothing else is wrong with any.
    assert_eq!(by, both, "{verdict:?}");
    assert_eq!(verdict.moved, u64::from(CALLS));
    assert_eq!(
        (verdict.refused, verdict.unanswered, verdict.unaccounted),
        (0, 0, 0)
    );
    assert_eq!(
        (
            verdict.reached_unproven,
            verdict.wrong_release_after_cutover
        ),
        (0, 0)
    );
    site.becomes("v1", "drained").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn end_is_audited_first_and_counts_as_policy() {
    let site = Site::open_with(&settings(), &policy("end")).await;
    site.deploy("v1");
    let crowd = site.crowd("s", CALLS, 60_000);
    site.live(u64::from(CALLS)).await;
    site.deploy("v2");
    let since = ceiling(&site).await;
    let reports = reports(crowd).await;
    let gone = CallEnd::Remote { code: Some(1001) };
    assert!(
        reports.iter().all(|report| report.end == gone),
        "{reports:?}"
    );
    let ends: Vec<(u64, String)> = reports
        .iter()
        .map(|report| (report.ended_unix_ms, report.call_id.clone()))
        .collect();
    in_turn(since, &ends);
    let written = entries(&site, "calls_ending");
    let mut audited = Vec::new();
    for entry in &written {
        let count = entry["fact"]["calls"].as_array().unwrap().len();
        audited.extend(vec![entry["at"].as_u64().unwrap(); count]);
    }
    let mut times: Vec<u64> = ends.iter().map(|(at, _)| *at).collect();
    audited.sort_unstable();
    times.sort_unstable();
    assert_eq!(audited.len(), times.len());
    let first = audited
        .iter()
        .zip(&times)
        .all(|(audited, ended)| audited <= ended);
    assert!(first, "written down {audited:?}, ended {times:?}");
    let (_, audit) = ask(&site, "GET", "/v1/audit?limit=1000", None);
    assert!(
        ids().iter().all(|id| !audit.contains(id.as_str())),
        "the log names a call"
    );
    site.until("they count as ended by policy", || {
        site.release("v1").is_some_and(|is| is["policy"] == CALLS)
    })
    .await;
    let v1 = site.release("v1").unwrap();
    assert_eq!(
        (&v1["dropped"], &v1["errors"]),
        (&Value::from(0), &Value::from(0))
    );
    assert!(told(&site, "dev.segue.call.announce").is_empty());
    site.becomes("v1", "drained").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_leaves_everybody_alone() {
    let smoke = "\n[agents.desk.smoke]\nscenario = \"hours\"\n";
    let site = Site::open_with(&settings(), smoke).await;
    site.deploy("v1");
    let crowd = site.crowd("s", CALLS, 10_000);
    site.live(u64::from(CALLS)).await;
    site.deploy("v2");
    reports(crowd).await;
    site.spotless(u64::from(CALLS));
    assert!(entries(&site, "ceiling_reached").is_empty());
    for kind in ["dev.segue.call.announce", "dev.segue.call.hand-off"] {
        assert!(told(&site, kind).is_empty(), "{kind}");
    }
    site.becomes("v1", "drained").await;
}
