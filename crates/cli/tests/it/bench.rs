//! `segue bench`: that it measures, that it notices what must not happen to a call, and that
//! nothing is left of it. Whether anything is fast is not for a test to say.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::site::SEGUE;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// As little as shows anything.
const SMALL: [&str; 8] = [
    "--against",
    "relay",
    "--rounds",
    "1",
    "--seconds",
    "1",
    "--calls",
    "20",
];

fn bench(args: &[&str]) -> Output {
    let output = Command::new(SEGUE)
        .arg("bench")
        .args(args)
        .args(SMALL)
        .output();
    output.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where a run keeps its files, and its processes are.
fn folder(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("segue-bench-{pid}"))
}

/// Processes that work in there.
fn processes(folder: &PathBuf) -> usize {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let places = entries.filter_map(|entry| fs::read_link(entry.path().join("cwd")).ok());
    places.filter(|place| place.starts_with(folder)).count()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    // Nothing ever comes; it is waited for between two looks.
    let (_open, nothing) = channel::<()>();
    while !holds() {
        assert!(Instant::now() < end, "in vain: {what}");
        let _ = nothing.recv_timeout(LOOK_EVERY);
    }
}

#[test]
fn a_run_ends_with_one_line_for_a_machine() {
    let output = bench(&["load", "rate", "idle", "--output", "json"]);
    let (said, told) = (text(&output.stderr), text(&output.stdout));
    assert!(output.status.success(), "{said}{told}");
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    let figures = [
        "load20_cpu_s_per_m_frames",
        "load20_p99_us",
        "rate_calls_per_s",
        "idle_rss_mb",
    ];
    for figure in figures {
        for target in ["segue", "relay"] {
            let value = last[figure][target].as_f64();
            assert!(value.unwrap() > 0.0, "{figure} {target}: {last}");
        }
        for peer in ["haproxy", "nginx", "envoy"] {
            assert!(last[figure][peer].is_null(), "{figure} {peer}: {last}");
        }
    }
    let details: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    assert_eq!(details["versions"]["segue"], env!("CARGO_PKG_VERSION"));
    assert_eq!(details["faults"], Value::Array(Vec::new()));
    assert!(said.contains("round 1 of 1: load relay"), "{said}");
    assert!(said.contains("this takes about "), "{said}");
}

/// A script has its own defaults, and whoever runs it the last word.
#[test]
fn slow_connections_are_measured_for_as_long_as_they_are_slow() {
    let output = bench(&[
        "slow",
        "--rounds",
        "3",
        "--slow-seconds",
        "2",
        "--output",
        "json",
    ]);
    let (said, told) = (text(&output.stderr), text(&output.stdout));
    assert!(output.status.success(), "{said}{told}");
    assert!(said.contains("round 1 of 1: slow segue"), "{said}");
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    for target in ["segue", "relay"] {
        let ratio = last["slow_p99_ratio"][target].as_f64();
        assert!(ratio.unwrap() > 0.0, "{target}: {last}");
    }
}

#[test]
fn calls_over_tls_are_those_of_proxies_that_speak_it() {
    let output = bench(&["load", "--tls", "--output", "json"]);
    let (said, told) = (text(&output.stderr), text(&output.stdout));
    assert!(output.status.success(), "{said}{told}");
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert!(last["tls_load20_p99_us"]["segue"].as_f64().unwrap() > 0.0);
    assert!(last["tls_load20_p99_us"]["relay"].is_null(), "{last}");
}

#[test]
fn live_calls_are_watched_while_they_change_hands() {
    let output = bench(&["handoff", "--output", "json"]);
    let (said, told) = (text(&output.stderr), text(&output.stdout));
    assert!(output.status.success(), "{said}{told}");
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    for figure in ["handoff_lost", "handoff_storm_refused"] {
        assert_eq!(last[figure]["segue"], 0.0, "{last}");
    }
    for figure in ["handoff_first_gap_max_ms", "handoff_storm_new_calls"] {
        assert!(last[figure]["segue"].as_f64().unwrap() > 0.0, "{last}");
    }
}

#[test]
fn live_calls_are_watched_while_their_gateway_is_killed() {
    let output = bench(&["crash", "--output", "json"]);
    let (said, told) = (text(&output.stderr), text(&output.stdout));
    assert!(output.status.success(), "{said}{told}");
    let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(last["crash_going_on_percent"]["segue"], 100.0, "{last}");
    assert!(last["crash_new_call_after_ms"]["segue"].as_f64().unwrap() > 0.0);
}

/// A bench that cannot fail proves nothing: the yardstick is made to do wrong.
fn notices(damage: &str, words: &str) {
    let output = bench(&["load", "--damage", damage]);
    let (said, told) = (text(&output.stderr), text(&output.stdout));
    assert_eq!(output.status.code(), Some(1), "{said}{told}");
    let named = said
        .lines()
        .any(|line| line.contains("load 20 relay: ") && line.contains(words));
    assert!(named, "{said}");
    assert!(!said.contains("load 20 segue: "), "{said}");
    assert!(told.contains("FAULT: "), "{told}");
}

#[test]
fn a_changed_byte_is_noticed() {
    notices("flip", "payloads were wrong");
}

#[test]
fn a_lost_frame_is_noticed() {
    notices("drop", "frames were lost");
}

#[test]
fn a_frame_that_comes_twice_is_noticed() {
    notices("twice", "frames came twice");
}

#[test]
fn a_cut_call_is_noticed() {
    notices("cut", "calls were cut");
}

/// A long run in which calls flow, and what it says.
fn long_run() -> (Child, PathBuf) {
    let mut run = Command::new(SEGUE)
        .args([
            "bench",
            "load",
            "--against",
            "relay",
            "--seconds",
            "600",
            "--calls",
            "20",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let folder = folder(run.id());
    let mut said = BufReader::new(run.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("load segue")));
    // Agents, keeper, gateway and generator.
    until("everything runs", || processes(&folder) >= 4);
    // Nobody may be held up by a line that is not read.
    std::thread::spawn(move || said.for_each(drop));
    (run, folder)
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    let (mut run, folder) = long_run();
    kill_process(Pid::from_child(&run), Signal::INT).unwrap();
    let status = run.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(processes(&folder), 0);
    assert!(!folder.exists());
}

#[test]
fn a_run_that_is_killed_takes_its_processes_with_it() {
    let (mut run, folder) = long_run();
    run.kill().unwrap();
    run.wait().unwrap();
    until("they are gone", || processes(&folder) == 0);
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_peer_that_is_asked_for_and_missing_is_said() {
    let output = Command::new(SEGUE)
        .args([
            "bench",
            "load",
            "--against",
            "envoy",
            "--envoy",
            "/nonexistent/envoy",
        ])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("envoy is not installed"), "{said}");
    assert!(said.contains("hint: "), "{said}");
}
