//! A pool with its threads, its sink, and a Segue that is there, away, or wrong.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex};

use serde_json::json;

use super::*;
use crate::membership::{Shown, Stands};
use crate::outcome::Verdict;
use crate::segue::Environment;

/// Longer than any machine needs; nothing waits for it to pass.
const SOON: Duration = Duration::from_secs(30);

fn pool() -> AgentPool {
    AgentPool::builder("v2").build()
}

/// The words of events as they come.
fn listen(pool: &AgentPool) -> Receiver<String> {
    let (to, from) = channel();
    pool.on_event(move |event| {
        let calls = event.calls().iter().map(ToString::to_string);
        let calls: Vec<String> = calls.collect();
        let _ = to.send(
            format!("{} {}", event.word(), calls.join(" "))
                .trim()
                .to_owned(),
        );
    });
    from
}

/// A Segue that was started again knows nobody, and a second process has only the token that ended.
#[test]
fn a_token_that_has_ended_sends_nobody_away_who_was_in() {
    let stands = |pool: &AgentPool, word: &str| {
        let stands = match word {
            "serving" => Stands::Serving,
            why => Stands::Draining {
                why: Some(why.to_owned()),
            },
        };
        pool.owner.0.stand(None, Some(Shown::Taken(stands.clone())));
        pool.takes_calls()
    };
    let new = pool();
    assert!(!stands(&new, "expired"), "it comes to end its calls");
    assert!(stands(&new, "serving"));
    assert!(stands(&new, "expired"));
    let refused = || {
        Some(Shown::Refused {
            why: "expired".to_owned(),
        })
    };
    new.owner.0.stand(None, refused());
    assert!(new.takes_calls());
    assert!(!stands(&new, "fell-out"));
}

#[test]
fn a_drain_refuses_new_calls_at_once_and_waits_for_the_others() {
    let pool = pool();
    let events = listen(&pool);
    let first = pool.enter("CA1").unwrap();
    pool.begin_drain("SIGTERM");
    pool.begin_drain("SIGTERM");
    assert_eq!(pool.enter("CA2").unwrap_err(), Refused::Draining);
    let again = pool.enter("CA1").unwrap();
    let assigned = pool.enter_assigned("AJ_1").unwrap();
    assert!(!pool.wait_drained(Some(Duration::ZERO)));
    drop((first, assigned));
    assert_eq!(
        pool.runtime_snapshot().active_sessions,
        1,
        "one more connection"
    );
    drop(again);
    assert!(pool.wait_drained(None));
    assert_eq!(
        events.try_iter().collect::<Vec<_>>(),
        ["draining", "drained"]
    );
    let snapshot = pool.runtime_snapshot();
    assert_eq!(
        (
            snapshot.total_sessions_started,
            snapshot.total_sessions_refused
        ),
        (2, 1)
    );
    assert!(matches!(pool.enter("a call"), Err(Refused::BadCall(_))));
}

#[test]
fn a_listener_may_use_the_pool() {
    let pool = pool();
    let events = listen(&pool);
    let calls = Mutex::new(vec![pool.enter("CA1").unwrap()]);
    let within = pool.clone();
    pool.on_event(move |event| match event {
        Event::Retiring => within.begin_drain("its release retires"),
        Event::Draining { .. } => calls.lock().unwrap().clear(),
        _ => {}
    });
    assert!(pool.notified(br#"{"type":"dev.segue.worker.retiring","data":{}}"#));
    assert!(pool.wait_drained(Some(Duration::ZERO)));
    assert_eq!(
        events.try_iter().collect::<Vec<_>>(),
        ["retiring", "draining", "drained"]
    );
}

#[test]
fn what_segue_tells_is_an_event_and_refuses_nothing() {
    let pool = pool();
    let events = listen(&pool);
    let tell = |kind: &str, call: &str| {
        let body = json!({ "type": format!("dev.segue.{kind}"), "data": { "call": call } });
        pool.notified(body.to_string().as_bytes())
    };
    for _ in 0..2 {
        assert!(tell("worker.retiring", ""));
    }
    assert!(pool.runtime_snapshot().retiring);
    pool.enter("CA1")
        .expect("a call that comes back belongs here");
    assert!(tell("worker.resumed", ""));
    assert!(tell("call.announce", "CA1") && tell("call.hand-off", "CA1"));
    assert!(!tell("call.announce", "a call") && !tell("call.sing", "CA1"));
    assert!(!pool.notified(b"<html>"));
    let expected = ["retiring", "resumed", "announce CA1", "hand-off CA1"];
    assert_eq!(events.try_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn at_the_ceiling_calls_are_named_and_ended_only_if_that_was_asked_for() {
    for (action, expected) in [
        (OnStraggler::Wait, &["draining", "overdue CA1"][..]),
        (OnStraggler::End, &["draining", "overdue CA1", "end CA1"]),
    ] {
        let pool = AgentPool::builder("v2")
            .drain_timeout(Duration::from_millis(1))
            .on_straggler(action)
            .build();
        pool.start().unwrap();
        let events = listen(&pool);
        let call = pool.enter("CA1").unwrap();
        pool.begin_drain("a new release");
        for expected in expected {
            assert_eq!(&events.recv_timeout(SOON).unwrap(), expected);
        }
        assert!(!pool.runtime_snapshot().drained);
        drop(call);
        assert_eq!(events.recv_timeout(SOON).unwrap(), "drained", "{action:?}");
    }
}

#[test]
fn a_sink_that_fails_gets_every_event_in_the_end_and_all_can_see_it() {
    let (to, from) = channel();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let shut = Arc::clone(&gate);
    let pool = AgentPool::builder("v2")
        .audit_sink(move |event| {
            if !*shut.0.lock().unwrap() {
                shut.1.notify_all();
                return Err("the disk is full".into());
            }
            Ok(to.send(event.clone())?)
        })
        .build();
    pool.start().unwrap();
    pool.begin_drain("a new release");
    let fields = json!({ "why": "loud", "seq": 9 })
        .as_object()
        .unwrap()
        .clone();
    pool.audit("agent.muted", "ann", "CA1", "ok", None, fields);
    let failed = |pool: &AgentPool| pool.runtime_snapshot().audit.last_error.is_some();
    let mut open = gate.0.lock().unwrap();
    while !failed(&pool) {
        (open, _) = gate
            .1
            .wait_timeout(open, Duration::from_millis(50))
            .unwrap();
    }
    let audit = pool.runtime_snapshot().audit;
    assert_eq!((audit.pending, audit.delivered, audit.lost), (4, 0, 0));
    assert_eq!(audit.last_error.as_deref(), Some("the disk is full"));
    *open = true;
    drop(open);
    assert!(pool.close(Some(SOON)));
    let events: Vec<AuditEvent> = from.try_iter().collect();
    let names: Vec<(u64, &str)> = events
        .iter()
        .map(|is| (is.seq, is.event.as_str()))
        .collect();
    let expected = [
        (1, "deployment.started"),
        (2, "deployment.drain_started"),
        (3, "drain.completed"),
        (4, "agent.muted"),
    ];
    assert_eq!(names, expected);
    assert_eq!(serde_json::to_value(&events[3]).unwrap()["why"], "loud");
    assert_eq!(events[1].version.as_deref(), Some("v2"));
}

/// A Segue that answers what it is told to, and says what it was asked.
struct Fake {
    url: String,
    asked: Receiver<(String, Value)>,
}

/// Answers each request with the next of `answers`, then with the last one.
fn fake(answers: Vec<(u16, Value)>) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (to, asked) = channel();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter().peekable();
        for stream in listener.incoming() {
            let answer = answers.next_if(|_| true).unwrap();
            if answers.peek().is_none() {
                answers = vec![answer.clone()].into_iter().peekable();
            }
            if serve(stream.unwrap(), &answer, &to).is_none() {
                return;
            }
        }
    });
    Fake { url, asked }
}

fn serve(mut stream: TcpStream, answer: &(u16, Value), to: &Sender<(String, Value)>) -> Option<()> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let mut some = [0; 4_096];
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "a request ends");
        bytes.extend(&some[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, rest)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().unwrap())
        });
        if rest.len() >= length.unwrap_or(0) {
            break (head.to_owned(), rest.to_owned());
        }
    };
    let line = head
        .lines()
        .next()
        .unwrap()
        .trim_end_matches(" HTTP/1.1")
        .to_owned();
    let body = answer.1.to_string();
    let text = format!(
        "HTTP/1.1 {} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        answer.0,
        body.len()
    );
    stream.write_all(text.as_bytes()).unwrap();
    to.send((line, serde_json::from_str(&length).unwrap_or_default()))
        .ok()
}

fn segue(url: &str, worker: Option<&str>) -> Segue {
    let environment = Environment {
        agent: Some("desk".to_owned()),
        worker: worker.map(ToOwned::to_owned),
        release: Some("v2".to_owned()),
        api_url: Some(url.to_owned()),
        ..Environment::default()
    };
    Segue::new(&environment).unwrap()
}

#[test]
fn an_outcome_reaches_segue_once_it_is_back_and_the_call_never_waits() {
    let busy = json!({ "title": "the controller has too much to do" });
    let fake = fake(vec![(503, busy.clone()), (429, busy), (201, json!({}))]);
    let pool = AgentPool::builder("v2")
        .segue(segue(&fake.url, None))
        .build();
    pool.start().unwrap();
    let call = pool.enter("CA1").unwrap();
    let outcome = Outcome::new(Verdict::Failure)
        .because("the model was away")
        .unwrap();
    call.report(outcome);
    drop(call);
    let mut reports = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (line, body) = fake.asked.recv_timeout(SOON).unwrap();
        assert_eq!(line, "POST /v1/agents/desk/calls/CA1/outcome");
        assert_eq!(
            (&body["verdict"], &body["release"]),
            (&json!("failure"), &json!("v2"))
        );
        assert_eq!(body["reason"], "the model was away");
        reports.insert(body["report"].as_str().unwrap().to_owned());
    }
    assert_eq!(reports.len(), 1, "the same one each time");
    assert!(pool.flush(Some(SOON)));
    let snapshot = pool.runtime_snapshot();
    assert_eq!(
        (snapshot.reports.delivered, snapshot.reports.failed_tries),
        (1, 2)
    );
    assert_eq!(snapshot.last_error.as_deref(), Some("the model was away"));
}

#[test]
fn a_report_that_is_refused_for_good_holds_up_no_other() {
    let fake = fake(vec![(422, json!({ "title": "full" })), (201, json!({}))]);
    let pool = AgentPool::builder("v2")
        .segue(segue(&fake.url, None))
        .build();
    for call in ["CA1", "CA2"] {
        pool.report(call, Outcome::new(Verdict::Success)).unwrap();
    }
    pool.start().unwrap();
    assert!(pool.close(Some(SOON)));
    let reports = pool.runtime_snapshot().reports;
    assert_eq!(
        (reports.delivered, reports.lost, reports.pending),
        (1, 1, 0)
    );
}

#[test]
fn heartbeats_say_at_once_that_it_drains_and_hear_what_becomes_of_the_release() {
    let told = |state: &str, retiring: bool, back: bool| {
        let told =
            json!({ "state": state, "retiring": retiring, "rolled_back": back, "every": 300 });
        (200, told)
    };
    let answers = vec![
        told("ramping", false, false),
        told("current", false, false),
        told("draining", true, true),
    ];
    let fake = fake(answers);
    let (to, audited) = channel();
    let pool = AgentPool::builder("v2")
        .segue(segue(&fake.url, Some("w1")))
        .audit_sink(move |event| Ok(to.send(event.event.clone())?))
        .build();
    let events = listen(&pool);
    pool.start().unwrap();
    let beat = || {
        let (line, body) = fake.asked.recv_timeout(SOON).unwrap();
        assert_eq!(line, "PUT /v1/agents/desk/workers/w1");
        body
    };
    let first = beat();
    assert_eq!(
        (&first["draining"], &first["release"]),
        (&json!(false), &json!("v2"))
    );
    // Though the next one is five minutes away.
    let call = pool.enter("CA1").unwrap();
    pool.begin_drain("SIGTERM");
    let second = beat();
    assert_eq!(
        (&second["draining"], &second["active"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(second["instance"], first["instance"]);
    drop(call);
    assert_eq!(beat()["active"], 0);
    let mut heard = Vec::new();
    while heard.len() < 3 {
        heard.push(events.recv_timeout(SOON).unwrap());
    }
    assert_eq!(heard, ["draining", "drained", "retiring"]);
    let mut audit = Vec::new();
    while audit.len() < 5 {
        audit.push(audited.recv_timeout(SOON).unwrap());
    }
    for name in [
        "deployment.started",
        "deployment.completed",
        "deployment.rolled_back",
    ] {
        assert!(audit.iter().any(|is| is == name), "{name}: {audit:?}");
    }
    let contact = pool.runtime_snapshot().segue;
    assert!(contact.last_contact.is_some() && contact.last_error.is_none());
}

#[test]
fn a_segue_that_is_away_is_seen_and_stops_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let pool = AgentPool::builder("v2")
        .segue(segue(&url, Some("w1")))
        .build();
    pool.start().unwrap();
    let call = pool.enter("CA1").unwrap();
    call.report(Outcome::new(Verdict::Success));
    assert!(matches!(
        pool.segue().unwrap().state(call.id()),
        Err(crate::SegueError::Unreachable(_))
    ));
    drop(call);
    pool.begin_drain("SIGTERM");
    assert!(pool.wait_drained(Some(Duration::ZERO)));
    assert!(!pool.close(Some(Duration::from_millis(1))), "it is said");
    assert_eq!(pool.runtime_snapshot().reports.pending, 1);
}

#[test]
fn the_state_of_a_call_is_written_on_the_version_that_was_meant() {
    let state = |version: u64| json!({ "call": "CA1", "version": version, "state": { "a": 1 }, "expires_at": 0 });
    let fake = fake(vec![
        (404, json!({ "title": "this call has no state" })),
        (201, state(1)),
        (412, json!({})),
        (200, state(2)),
        (204, json!({})),
        (
            403,
            json!({ "title": "this token is not for workers of desk" }),
        ),
    ]);
    let segue = segue(&fake.url, Some("w1"));
    let call: CallId = "CA1".parse().unwrap();
    let object = json!({ "a": 1 }).as_object().unwrap().clone();
    assert_eq!(segue.state(&call).unwrap(), None);
    assert_eq!(segue.put_state(&call, &object, Some(0)).unwrap(), 1);
    let stale = segue.patch_state(&call, &object, Some(7));
    assert!(matches!(stale, Err(crate::SegueError::Stale)));
    assert_eq!(segue.state(&call).unwrap().unwrap().version, 2);
    segue.remove_state(&call).unwrap();
    let refused = segue.remove_state(&call).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Segue refused with 403: this token is not for workers of desk"
    );
    let asked: Vec<String> = fake.asked.try_iter().map(|(line, _)| line).collect();
    assert_eq!(asked[1], "PUT /v1/calls/CA1/state?agent=desk");
}
