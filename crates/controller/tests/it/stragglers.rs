//! Stragglers: each policy, with workers that write down what they are told and a gateway that
//! ends what it is told to end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use segue_controller::Source;
use segue_core::link::CallInfo;
use segue_core::names::{CallId, ReleaseId};
use segue_core::spec::{AgentSpec, StragglerPolicy, Stragglers, parse};
use segue_core::table::Epoch;
use segue_core::time::{Millis, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::gateway::{Gateway, now};
use crate::{Client, Directory, Running, eventually, helper, release, spec};

const JITTER: u64 = 1_500;
const PER_SECOND: u32 = 3;
const CALLS: usize = 8;

fn straggling(directory: &Directory, policy: StragglerPolicy) -> AgentSpec {
    let mut spec = spec();
    let heard = directory.0.join("heard.jsonl");
    let heard = heard.to_string_lossy().into_owned();
    spec.worker.env.insert("IT_HEARD".to_owned(), heard);
    spec.worker.notify_path = Some("/segue/events".to_owned());
    spec.policy.standby = Millis(60_000);
    spec.policy.stragglers = Stragglers {
        policy,
        ceiling: (policy != StragglerPolicy::Wait).then_some(Millis(500)),
        jitter: Millis(JITTER),
        per_second: PER_SECOND,
    };
    spec
}

/// What workers were told, by type.
fn told(directory: &Directory, kind: &str) -> Vec<(u64, Value)> {
    let text = fs::read_to_string(directory.0.join("heard.jsonl")).unwrap_or_default();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_kind = lines.filter(|line| line["event"]["type"] == kind);
    of_kind
        .map(|line| {
            let head = line["head"].as_str().unwrap().to_ascii_lowercase();
            assert!(head.starts_with("post /segue/events "), "{head}");
            assert!(
                head.contains("content-type: application/cloudevents+json"),
                "{head}"
            );
            (line["at"].as_u64().unwrap(), line["event"].clone())
        })
        .collect()
}

/// A call's place in the jitter, as the documentation says it: the first 64 bits of the SHA-256 of
/// its id, modulo the jitter in milliseconds.
fn offset(call: &str) -> u64 {
    let digest = Sha256::digest(call);
    u64::from_be_bytes(digest[..8].try_into().unwrap()) % JITTER
}

/// v1 with calls on it, replaced by v2.
async fn stranded(directory: &Directory, running: &Running) -> (Gateway, ReleaseId) {
    let gateway = Gateway::start(&directory.state(), "gw-1");
    let view = running.client.bring_in("v1").await;
    let v1 = release(&view, "v1").unwrap();
    let (id, worker) = (v1.id, v1.workers[0].id.clone());
    {
        let mut mind = gateway.mind.lock().unwrap();
        let call = |number: usize| CallInfo {
            call: format!("CA{number}").parse().unwrap(),
            agent: crate::desk(),
            release: id,
            worker: worker.clone(),
            epoch: Epoch(1),
            since: now(),
            state: if number < CALLS { "live" } else { "pinned" }.to_owned(),
            reason: "split".to_owned(),
            bytes_in: 0,
            bytes_out: 0,
        };
        mind.calls = (0..=CALLS).map(call).collect();
    }
    gateway.set_live(id, CALLS as u64);
    running.client.bring_in("v2").await;
    (gateway, id)
}

/// Another live call beside the first of a gateway.
fn join(gateway: &Gateway, call: &str) {
    let mut mind = gateway.mind.lock().unwrap();
    let late = CallInfo {
        call: call.parse().unwrap(),
        state: "live".to_owned(),
        ..mind.calls[0].clone()
    };
    mind.calls.push(late);
}

async fn entries(client: &Client, fact: &str) -> Vec<Value> {
    let answer = client.ask("GET", "/v1/audit?limit=1000", None).await.json();
    let entries = answer["entries"].as_array().unwrap().clone();
    let of = entries
        .into_iter()
        .filter(|entry| entry["fact"]["fact"] == fact);
    of.collect()
}

/// When the ceiling was reached.
async fn ceiling(client: &Client) -> u64 {
    eventually("the ceiling", async || {
        let found = entries(client, "ceiling_reached").await;
        found
            .first()
            .map(|entry| entry["fact"]["at"].as_u64().unwrap())
    })
    .await
}

/// Nobody before their turn, and in any second no more than the rate: the n-th not before as many
/// whole seconds have passed as the rate goes into n. Both hold however late a machine is.
fn in_turn(since: u64, turns: &[(u64, String)]) {
    let mut times: Vec<u64> = turns.iter().map(|(at, _)| *at).collect();
    for (at, call) in turns {
        let turn = since + offset(call);
        assert!(*at >= turn, "{call} at {at}, and its turn is {turn}");
    }
    times.sort_unstable();
    for (number, at) in times.iter().enumerate() {
        let seconds = number as u64 / u64::from(PER_SECOND);
        let earliest = since + seconds * 1_000;
        assert!(
            *at >= earliest,
            "number {number} at {at}, not before {earliest}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn announce_and_hand_off_tell_each_call_once_in_its_turn() {
    for (policy, kind, word) in [
        (
            StragglerPolicy::Announce,
            "dev.segue.call.announce",
            "announce",
        ),
        (
            StragglerPolicy::HandOff,
            "dev.segue.call.hand-off",
            "hand-off",
        ),
    ] {
        let directory = Directory::new();
        let running = Running::start(&directory, straggling(&directory, policy)).await;
        let (gateway, v1) = stranded(&directory, &running).await;
        let since = ceiling(&running.client).await;
        eventually("all are told", async || {
            (told(&directory, kind).len() >= CALLS).then_some(())
        })
        .await;
        // Two who come later, one after the other, and are told: so all were looked at twice more.
        for late in ["CA-late-1", "CA-late-2"] {
            join(&gateway, late);
            eventually("who comes later is told, too", async || {
                let events = told(&directory, kind);
                let of = |(_, event): &(u64, Value)| event["data"]["call"] == late;
                events.iter().any(of).then_some(())
            })
            .await;
        }
        let mut events = told(&directory, kind);
        let all = events.len();
        events.retain(|(_, event)| !event["data"]["call"].to_string().contains("late"));
        assert_eq!(all, events.len() + 2, "nobody twice");
        let calls: Vec<(u64, String)> = events
            .iter()
            .map(|(at, event)| (*at, event["data"]["call"].as_str().unwrap().to_owned()))
            .collect();
        let live: BTreeSet<String> = (0..CALLS).map(|number| format!("CA{number}")).collect();
        assert_eq!(calls.len(), CALLS, "each once: {calls:?}");
        let of: BTreeSet<String> = calls.iter().map(|(_, call)| call.clone()).collect();
        assert_eq!(of, live, "the live ones and no others");
        in_turn(since, &calls);
        let ids: BTreeSet<String> = events
            .iter()
            .map(|(_, event)| event["id"].to_string())
            .collect();
        assert_eq!(ids.len(), CALLS);
        let (_, event) = &events[0];
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["source"], "/segue/agents/desk");
        assert_eq!(event["data"]["release"], "v1");
        assert_eq!(event["data"]["agent"], "desk");
        assert_eq!(event["data"]["policy"], word);
        assert!(
            gateway.mind.lock().unwrap().ended.is_empty(),
            "nobody is ended"
        );
        // Only a call that is handed off goes elsewhere when it comes back.
        let table = gateway.table().unwrap();
        let handed = table.handed_off.contains(&v1);
        assert_eq!(handed, policy == StragglerPolicy::HandOff);
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn end_is_written_down_first_and_names_no_call() {
    let directory = Directory::new();
    let policy = StragglerPolicy::End;
    let running = Running::start(&directory, straggling(&directory, policy)).await;
    let (gateway, _) = stranded(&directory, &running).await;
    let since = ceiling(&running.client).await;
    eventually("all are ended", async || {
        let ended = gateway.mind.lock().unwrap().ended.len();
        (ended >= CALLS).then_some(())
    })
    .await;
    let ended: Vec<(CallId, Timestamp)> = gateway.mind.lock().unwrap().ended.clone();
    let turns: Vec<(u64, String)> = ended
        .iter()
        .map(|(call, at)| (at.0, call.to_string()))
        .collect();
    assert_eq!(turns.len(), CALLS, "{turns:?}");
    in_turn(since, &turns);
    // By then as many were written down as had been ended, and with whose policy.
    let written = entries(&running.client, "calls_ending").await;
    let mut audited: Vec<u64> = Vec::new();
    let mut names = BTreeSet::new();
    for entry in &written {
        assert_eq!(entry["actor"], "segue");
        assert!(
            entry["fact"]["reason"].as_str().unwrap().contains("end"),
            "{entry}"
        );
        for name in entry["fact"]["calls"].as_array().unwrap() {
            audited.push(entry["at"].as_u64().unwrap());
            names.insert(name.as_str().unwrap().to_owned());
        }
    }
    assert_eq!((audited.len(), names.len()), (CALLS, CALLS), "each once");
    let mut times: Vec<u64> = turns.iter().map(|(at, _)| *at).collect();
    audited.sort_unstable();
    times.sort_unstable();
    let before = audited
        .iter()
        .zip(&times)
        .all(|(audited, ended)| audited <= ended);
    assert!(before, "{audited:?} {times:?}");
    let whole = running
        .client
        .ask("GET", "/v1/audit?limit=1000", None)
        .await
        .body;
    assert!((0..CALLS).all(|number| !whole.contains(&format!("\"CA{number}\""))));
    assert!(told(&directory, "dev.segue.call.announce").is_empty());
    // One that goes on, because its gateway is not well, is ended once more, and that needs no
    // decision.
    gateway.mind.lock().unwrap().deaf = true;
    join(&gateway, "CA-late");
    eventually("it is ended again", async || {
        let ended = gateway.mind.lock().unwrap().ended.clone();
        let again = ended.iter().filter(|(call, _)| call.as_str() == "CA-late");
        (again.count() >= 2).then_some(())
    })
    .await;
    let after = entries(&running.client, "calls_ending").await;
    assert_eq!(after.len(), written.len() + 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_does_nothing() {
    let directory = Directory::new();
    let policy = StragglerPolicy::Wait;
    let running = Running::start(&directory, straggling(&directory, policy)).await;
    let (gateway, v1) = stranded(&directory, &running).await;
    // Its worker has its turn, as a call would have had.
    eventually("its worker is told", async || {
        (!told(&directory, "dev.segue.worker.retiring").is_empty()).then_some(())
    })
    .await;
    let view = running.client.agent().await;
    assert_eq!(release(&view, "v1").unwrap().state, "draining");
    gateway.set_live(v1, 0);
    running
        .client
        .until("v1 is empty", |view| {
            release(view, "v1").is_some_and(|is| is.state == "drained")
        })
        .await;
    // All of its drain is in the log, and no ceiling before its end.
    assert!(entries(&running.client, "ceiling_reached").await.is_empty());
    assert!(told(&directory, "dev.segue.call.announce").is_empty());
    assert!(gateway.mind.lock().unwrap().ended.is_empty());
    running.stop().await;
}

/// Names of calls of which the log says that they end.
async fn audited(client: &Client) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for entry in entries(client, "calls_ending").await {
        let at = entry["at"].as_u64().unwrap();
        let names = entry["fact"]["calls"].as_array().unwrap();
        let name = |name: &Value| (at, name.as_str().unwrap().to_owned());
        all.extend(names.iter().map(name));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_away_is_asked_again() {
    let directory = Directory::new();
    let policy = StragglerPolicy::End;
    let running = Running::start(&directory, straggling(&directory, policy)).await;
    let (gateway, v1) = stranded(&directory, &running).await;
    // It hears nothing of it, and then says nothing either.
    gateway.mind.lock().unwrap().deaf = true;
    eventually("all are asked to end", async || {
        let mind = gateway.mind.lock().unwrap();
        let of: BTreeSet<&CallId> = mind.ended.iter().map(|(call, _)| call).collect();
        (of.len() >= CALLS).then_some(())
    })
    .await;
    let looks = {
        let mut mind = gateway.mind.lock().unwrap();
        mind.mute = true;
        mind.asked
    };
    let before = gateway.mind.lock().unwrap().ended.len();
    eventually("its silence is seen more than once", async || {
        (gateway.mind.lock().unwrap().asked >= looks + 3).then_some(())
    })
    .await;
    let during = gateway.mind.lock().unwrap().ended.len();
    assert!(
        during <= before + PER_SECOND as usize,
        "nothing piles up for one that is silent: {before}, {during}"
    );
    {
        let mut mind = gateway.mind.lock().unwrap();
        (mind.mute, mind.deaf) = (false, false);
    }
    eventually("all calls are ended", async || {
        let mind = gateway.mind.lock().unwrap();
        mind.calls.iter().all(|is| is.state != "live").then_some(())
    })
    .await;
    gateway.set_live(v1, 0);
    running
        .client
        .until("v1 is empty", |view| {
            release(view, "v1").is_some_and(|is| is.state == "drained")
        })
        .await;
    // It was decided once for each; that it is asked again is no decision.
    let audited = audited(&running.client).await;
    let names: BTreeSet<&String> = audited.iter().map(|(_, name)| name).collect();
    assert_eq!((audited.len(), names.len()), (CALLS, CALLS));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_could_not_be_written_is_no_reason_to_hurry() {
    let directory = Directory::new();
    let mut spec = straggling(&directory, StragglerPolicy::End);
    spec.policy.stragglers.jitter = Millis(3_000);
    spec.policy.stragglers.per_second = 2;
    let running = Running::start(&directory, spec).await;
    let (gateway, _) = stranded(&directory, &running).await;
    let since = ceiling(&running.client).await;
    let mut locker = helper::play("locker", &directory, &[]);
    helper::hear(&mut locker, "locked");
    // Everybody's turn comes and goes meanwhile.
    eventually("all turns have come", async || {
        (now().0 > since + 3_500).then_some(())
    })
    .await;
    let early = gateway.mind.lock().unwrap().ended.len();
    assert!(early < CALLS - 2, "the log was locked too late: {early}");
    locker.kill().unwrap();
    locker.wait().unwrap();
    eventually("all are ended", async || {
        let ended = gateway.mind.lock().unwrap().ended.len();
        (ended >= CALLS).then_some(())
    })
    .await;
    // Decisions are as far apart as the rate says, however late a machine is.
    let mut times: Vec<u64> = audited(&running.client)
        .await
        .iter()
        .map(|is| is.0)
        .collect();
    times.sort_unstable();
    assert_eq!(times.len(), CALLS);
    for (first, third) in times.iter().zip(&times[2..]) {
        assert!(third - first >= 990, "three within a second: {times:?}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_rate_holds_for_those_who_wait() {
    let directory = Directory::new();
    let mut spec = straggling(&directory, StragglerPolicy::Announce);
    spec.policy.stragglers.jitter = Millis(0);
    spec.policy.stragglers.per_second = 1;
    spec.policy.stragglers.ceiling = Some(Millis(1_000));
    let file = directory.0.join("segue.toml");
    let faster = r#"
        [agents.desk]
        command = ["bot", "{port}"]
        [agents.desk.stragglers]
        policy = "announce"
        ceiling = "1s"
        jitter = "0s"
        per_second = 1000
    "#;
    fs::write(&file, faster).unwrap();
    let source = Source {
        spec: parse("segue.toml", faster).unwrap(),
        file,
    };
    let mut config = directory.config(spec);
    config.source = Some(source);
    let running = Running::start_with(&directory, config).await;
    let (gateway, _) = stranded(&directory, &running).await;
    let kind = "dev.segue.call.announce";
    // With one in a second these would take longer than anybody waits here.
    for number in 0..100 {
        join(&gateway, &format!("CA-more-{number}"));
    }
    eventually("the first is told", async || {
        (!told(&directory, kind).is_empty()).then_some(())
    })
    .await;
    let reload = running.client.ask("POST", "/v1/reload", None).await;
    assert_eq!(reload.status, 200, "{reload:?}");
    eventually("all are told", async || {
        (told(&directory, kind).len() >= 100 + CALLS).then_some(())
    })
    .await;
    assert_eq!(entries(&running.client, "ceiling_reached").await.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_does_not_listen_hears_of_it_when_it_does() {
    let directory = Directory::new();
    let spec = straggling(&directory, StragglerPolicy::Announce);
    let closed = directory.0.join("heard.jsonl.closed");
    fs::write(&closed, "").unwrap();
    let running = Running::start(&directory, spec.clone()).await;
    let (gateway, _) = stranded(&directory, &running).await;
    ceiling(&running.client).await;
    // More often than five times each, calls and worker.
    eventually("it is tried many times", async || {
        let tries = fs::read_to_string(&closed)
            .unwrap_or_default()
            .lines()
            .count();
        (tries > 5 * (CALLS + 1)).then_some(())
    })
    .await;
    assert!(told(&directory, "dev.segue.worker.retiring").is_empty());
    fs::remove_file(&closed).unwrap();
    for (kind, count) in [("worker.retiring", 1), ("call.announce", CALLS)] {
        let kind = format!("dev.segue.{kind}");
        eventually("it hears", async || {
            (told(&directory, &kind).len() >= count).then_some(())
        })
        .await;
    }
    // A controller that begins does not know what was heard, and says how things stand.
    running.client.act("rollback", json!({})).await;
    let resumed = "dev.segue.worker.resumed";
    eventually("it hears that it goes on", async || {
        (!told(&directory, resumed).is_empty()).then_some(())
    })
    .await;
    running.stop().await;
    let before = told(&directory, resumed).len();
    let running = Running::start(&directory, spec).await;
    eventually("it hears so from the next one", async || {
        (told(&directory, resumed).len() > before).then_some(())
    })
    .await;
    drop(gateway);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_told_that_they_retire_and_that_they_do_not() {
    let directory = Directory::new();
    let mut spec = straggling(&directory, StragglerPolicy::Wait);
    spec.worker.count = 2;
    let running = Running::start(&directory, spec).await;
    let (gateway, _) = stranded(&directory, &running).await;
    let retiring = "dev.segue.worker.retiring";
    eventually("both are told", async || {
        (told(&directory, retiring).len() >= 2).then_some(())
    })
    .await;
    let drain = running.client.agent().await;
    let view = release(&drain, "v1").unwrap().clone();
    let since = entries(&running.client, "cut_over").await;
    let since = since.last().unwrap()["fact"]["at"].as_u64().unwrap();
    for (at, event) in told(&directory, retiring) {
        assert_eq!(event["data"]["release"], "v1");
        let worker = event["data"]["worker"].as_str().unwrap();
        assert!(
            view.workers.iter().any(|is| is.id.as_str() == worker),
            "{event}"
        );
        assert!(at >= since + offset(worker), "{worker} before its moment");
    }
    // One that is empty is retired at once, and nobody tells it anything.
    let v2 = release(&drain, "v2").unwrap().id;
    gateway.set_live(v2, 1);
    eventually("v2 has a call", async || {
        let view = running.client.agent().await;
        release(&view, "v2").filter(|is| is.live == 1).map(drop)
    })
    .await;
    running.client.act("rollback", json!({})).await;
    let resumed = "dev.segue.worker.resumed";
    eventually("both are told that they go on", async || {
        (told(&directory, resumed).len() >= 2).then_some(())
    })
    .await;
    eventually("those of v2 are told that they retire", async || {
        let mut of = BTreeMap::new();
        for (_, event) in told(&directory, retiring) {
            let label = event["data"]["release"].as_str().unwrap().to_owned();
            *of.entry(label).or_insert(0) += 1;
        }
        assert!(of.values().all(|count| *count <= 2), "{of:?}");
        (of == BTreeMap::from([("v1".to_owned(), 2), ("v2".to_owned(), 2)])).then_some(())
    })
    .await;
    assert_eq!(told(&directory, resumed).len(), 2);
    running.stop().await;
}
