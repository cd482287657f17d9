//! The receptionist: an agent that hears, answers and speaks, deployed and called.

use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::python::{Caller, example, prepare, python, size};
use crate::site::{AGENT, Site};

/// Calls that one worker may hold: as many as it can answer at real time on half a small machine.
const CAPACITY: u32 = 20;

const PROGRAM: &str = "receptionist/receptionist.py";

/// For all tests.
fn settings(workers: u32) -> String {
    format!(
        "workers = {workers}\ncapacity = {CAPACITY}\nstickiness = \"20s\"\nstraggler_buffer = \"20s\""
    )
}

fn address(site: &Site) -> String {
    site.state("run/gateway.addr").expect("the gateway listens")
}

/// Lines of the agent's log about a call.
fn lines(site: &Site, event: &str, call: &str) -> Vec<Value> {
    let log = fs::read_to_string(site.dir.join("logs/workers.jsonl")).unwrap_or_default();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|line: &Value| line["event"] == event && line["call"] == call)
        .collect()
}

/// What the agent understood of a call: the sentences, without what it did not understand.
fn understood(site: &Site, call: &str) -> Vec<String> {
    let turns = lines(site, "call.turn", call);
    let heard = turns.iter().filter_map(|turn| turn["heard"].as_str());
    heard.map(str::to_owned).collect()
}

/// How a caller's sentence is written down by who recognised it.
fn spelled(sentence: &Value) -> String {
    sentence.as_str().unwrap().to_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_understood_both_ways_and_a_new_prompt_reaches_new_calls_only() {
    let (calls, seconds) = size(2, 14);
    let mut site = prepare(PROGRAM, &[(AGENT, &settings(calls.div_ceil(CAPACITY)))]);
    site.serve().await;
    site.deploy("v1");
    let webhook = format!("http://{}/voice", address(&site));
    let webhook = ["--webhook", &webhook, "--plain"];
    let call =
        |scenario: &str, more: &[&str]| Caller::start(&site, scenario, &[&webhook, more].concat());
    let (count, talk) = (calls.to_string(), seconds.to_string());
    let many = ["--calls", &count, "--concurrency", &count, "--talk", &talk];
    let talks_on = call("hours", &[&["--prefix", "CAold"], &many[..]].concat());
    site.live(calls.into()).await;
    // The same program, and another file of what it knows.
    let prompt = example("receptionist/prompts/holidays.toml");
    site.ok(&["deploy", "v2", "--prompt", prompt.to_str().unwrap()]);
    let new = call("holidays", &["--prefix", "CAnew"]).end().await;
    let old = talks_on.end().await;
    for (heard, release, turns) in [(&old, "v1", 4), (&new, "v2", 2)] {
        assert!(heard.well, "{release}: {heard:?}");
        assert_eq!(heard.summary["dropped"], 0, "{heard:?}");
        for report in &heard.calls {
            let id = report["call"].as_str().unwrap();
            let asked: Vec<String> = report["turns"]
                .as_array()
                .unwrap()
                .iter()
                .map(|turn| spelled(&turn["said"]))
                .collect();
            assert!(asked.len() >= turns, "{report}");
            assert_eq!(understood(&site, id), asked, "{report}");
            let releases = lines(&site, "call.started", id);
            assert_eq!(releases[0]["release"], release, "{releases:?}");
            let stages = &report["turns"][0]["stages"];
            for stage in ["stt_ms", "llm_ms", "tts_ttfb_ms"] {
                assert!(stages[stage].is_f64(), "{stage}: {report}");
            }
        }
    }
    site.spotless(u64::from(calls) + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_notices_every_fault() {
    let faults = ["stt", "llm", "tts", "wrong", "slow:900"];
    let names: Vec<String> = faults.iter().map(|fault| fault.replace(':', "")).collect();
    let settings: Vec<String> = names
        .iter()
        .map(|name| format!("hosts = [\"{name}.test\"]\n"))
        .collect();
    let agents: Vec<(&str, &str)> = names
        .iter()
        .map(String::as_str)
        .zip(settings.iter().map(String::as_str))
        .collect();
    let mut site = prepare(PROGRAM, &agents);
    site.serve().await;
    let url = format!("ws://{}/ws/{{call}}", address(&site));
    let mut callers = Vec::new();
    for (fault, name) in faults.iter().zip(&names) {
        let env = format!("RECEPTIONIST_FAULT={fault}");
        site.ok(&["deploy", "v1", "--agent", name, "--env", &env]);
        let args = [
            "--url",
            &url,
            "--host",
            &format!("{name}.test"),
            "--prefix",
            &format!("CA{name}"),
            "--within",
            "3",
        ];
        callers.push(Caller::start(&site, "hours", &args));
    }
    for (fault, caller) in faults.iter().zip(callers) {
        let heard = caller.end().await;
        let all = &heard.summary;
        assert_eq!(
            (&all["turns"], &all["dropped"]),
            (&2.into(), &0.into()),
            "{fault}: {heard:?}"
        );
        let turn = &heard.calls[0]["turns"][0];
        let greeted = heard.calls[0]["greeting"]["answer_wer"] == 0.0;
        match *fault {
            // It speaks, and says the wrong thing: only who listens notices.
            "stt" | "wrong" => {
                assert!(greeted && !heard.well, "{heard:?}");
                assert_eq!(turn["heard"], "sorry could you say that again", "{heard:?}");
                assert_eq!(all["turns_understood"], 0, "{heard:?}");
            }
            "llm" | "tts" => {
                assert!(!heard.well && greeted == (*fault == "llm"), "{heard:?}");
                assert_eq!(all["silent"], 2, "{heard:?}");
                assert_eq!(turn["stages"]["error"], *fault, "{heard:?}");
            }
            _ => {
                assert!(heard.well, "{heard:?}");
                assert!(turn["turn_e2e_ms"].as_u64() >= Some(900 + 400), "{heard:?}");
                assert!(
                    turn["stages"]["llm_ms"].as_f64() >= Some(900.0),
                    "{heard:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_worker_died_goes_on_with_another_one() {
    let mut site = prepare(PROGRAM, &[(AGENT, &settings(2))]);
    site.serve().await;
    site.deploy("v1");
    let url = format!("ws://{}/ws/{{call}}", address(&site));
    let args = ["--url", &url, "--break-after", "1", "--away", "3"];
    let caller = Caller::start(&site, "booking", &args);
    let call = "CA0000";
    site.until("the caller's line is lost", || {
        !lines(&site, "call.ended", call).is_empty()
    })
    .await;
    let first = lines(&site, "call.started", call)[0]["pid"]
        .as_i64()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    let heard = caller.end().await;
    assert!(heard.well, "{heard:?}");
    assert_eq!(
        heard.calls[0]["welcome_back"]["heard"],
        "welcome back you asked for a table how many people will you be"
    );
    assert_eq!(
        heard.calls[0]["turns"][1]["heard"],
        "your table for four is booked for tonight"
    );
    let resumed = lines(&site, "call.resumed", call);
    assert_eq!(resumed.len(), 1, "{resumed:?}");
    assert_eq!(
        (&resumed[0]["turns"], &resumed[0]["release"]),
        (&1.into(), &"v1".into())
    );
    assert_ne!(
        resumed[0]["pid"], first,
        "it is the process that was killed"
    );
}

/// Its worker is killed under it, and the caller notices a pause at most.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_rescued_from_a_worker_that_is_killed() {
    let rescued = format!("{}\nrescue = {{}}", settings(2));
    let mut site = prepare(PROGRAM, &[(AGENT, &rescued)]);
    site.serve().await;
    site.deploy("v1");
    let url = format!("ws://{}/ws/{{call}}", address(&site));
    let caller = Caller::start(&site, "hours", &["--url", &url, "--talk", "20"]);
    let call = "CA0000";
    // By then what was first understood is stored.
    site.until("two questions are answered", || {
        understood(&site, call).len() >= 2
    })
    .await;
    let first = lines(&site, "call.started", call)[0]["pid"]
        .as_i64()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(first).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    site.until("the call is rescued", || {
        site.json(&["calls"])["calls"]
            .as_array()
            .is_some_and(|calls| calls.iter().any(|call| call["state"] == "rescued"))
    })
    .await;
    let before = understood(&site, call).len();
    let heard = caller.end().await;
    // What was said while nobody was there is gone; but nobody hung up, and the rest is understood.
    assert_eq!(heard.summary["dropped"], 0, "{heard:?}");
    let turns = heard.calls[0]["turns"].as_array().unwrap();
    assert_eq!(turns.last().unwrap()["answer_wer"], 0.0, "{heard:?}");
    assert!(understood(&site, call).len() > before, "{heard:?}");
    assert_eq!(heard.calls[0]["welcome_back"], Value::Null, "{heard:?}");

    let started = lines(&site, "call.started", call);
    assert_eq!(started.len(), 2, "{started:?}");
    assert_ne!(started[1]["pid"], first);
    let resumed = lines(&site, "call.resumed", call);
    assert!(resumed[0]["turns"].as_u64() >= Some(1), "{resumed:?}");
    let log = fs::read_to_string(site.home().join("log/calls.jsonl")).unwrap();
    let line = log.lines().find(|line| line.contains(call)).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["rescued"]["times"], 1, "{line}");
    assert_eq!(line["end"]["dropped"], false, "{line}");
    println!(
        "the caller heard nothing for {} ms",
        line["rescued"]["gap_ms"]
    );
    let v1 = site.release("v1").unwrap();
    assert_eq!(
        (&v1["rescued"], &v1["dropped"]),
        (&1.into(), &0.into()),
        "{v1}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_release_that_drains_it_takes_leave_of_its_callers() {
    let stragglers = |policy: &str| {
        let host = format!("hosts = [\"{policy}.test\"]\nnotify = \"/segue/events\"");
        // Late enough that the caller has heard the last answer to its end.
        let when = format!("{{ policy = \"{policy}\", ceiling = \"5s\", jitter = \"1s\" }}");
        format!("{}\n{host}\nstragglers = {when}", settings(1))
    };
    let agents = ["announce", "hand-off"].map(|policy| (policy, stragglers(policy)));
    let agents = agents.each_ref().map(|(name, rest)| (*name, rest.as_str()));
    let mut site = prepare(PROGRAM, &agents);
    site.serve().await;
    let url = format!("ws://{}/ws/{{call}}", address(&site));
    let mut callers = Vec::new();
    for (name, _) in agents {
        site.ok(&["deploy", "v1", "--agent", name]);
        let (host, prefix) = (format!("{name}.test"), format!("CA{name}"));
        let args = ["--url", &url, "--host", &host, "--prefix", &prefix];
        // Long enough to be told, and to hear it.
        let args = [&args[..], &["--linger", "18"]].concat();
        callers.push(Caller::start(&site, "booking", &args));
    }
    for (name, _) in agents {
        let call = format!("CA{name}0000");
        site.until("both turns are done", || {
            understood(&site, &call).len() == 2
        })
        .await;
        site.ok(&["deploy", "v2", "--agent", name]);
    }
    let mut heard = Vec::new();
    for caller in callers {
        let caller = caller.end().await;
        assert!(caller.well, "{caller:?}");
        heard.push(caller.calls[0].clone());
    }
    let (announced, handed_off) = (&heard[0], &heard[1]);
    let sentence = "excuse me this line closes soon please come to an end";
    assert_eq!(announced["unasked"][0]["heard"], sentence, "{announced}");
    assert_eq!(
        announced["end"]["by"], "caller",
        "nobody but the caller ends it"
    );
    let sentence = "one moment please i will connect you";
    assert_eq!(handed_off["unasked"][0]["heard"], sentence, "{handed_off}");
    let end = serde_json::json!({ "by": "remote", "code": 1_000 });
    assert_eq!(handed_off["end"], end, "{handed_off}");
}

#[test]
fn its_own_tests_pass() {
    let output = Command::new(python())
        .args(["-m", "unittest", "discover", "-s", "tests", "-t", "."])
        .current_dir(example("receptionist"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // Found none is a success to unittest.
    assert!(!said.contains("\nRan 0 tests"), "{said}");
}
