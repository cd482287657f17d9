//! What the controller is told of calls that ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use segue_core::link::{CallOutcome, CallRecord};
use segue_core::names::CallId;
use segue_core::route::CallFacts;
use segue_core::time::Timestamp;
use segue_gateway::ledger::{Asking, By, Closed, End, Ledger, Purpose, RECORDS_MAX};

use crate::support::agent::{Agent, Manner};
use crate::support::controller::{Controller, Ended};
use crate::support::gateway::{Gateway, Process, config};
use crate::support::rig::Rig;
use crate::support::table::{TOKEN, desk, release, table};
use crate::support::ws::{BINARY, call, exchange, upgrade};
use crate::support::{Dir, soon, until};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn by_call(records: Vec<CallRecord>) -> BTreeMap<String, CallRecord> {
    let named = |record: CallRecord| (record.call.to_string(), record);
    records.into_iter().map(named).collect()
}

fn told(count: usize) -> impl Fn(&Ended) -> bool {
    move |ended| ended.records.len() >= count
}

#[tokio::test(flavor = "multi_thread")]
async fn every_outcome_has_a_whole_record() {
    let mut rig = Rig::start(Manner::Echo, Manner::Close(vec![0x88, 2, 0x03, 0xf4])).await;
    let addr = rig.gateway.addr;
    let trace = format!("traceparent: {TRACE}\r\n");

    let mut completed = call(addr, "/ws/completed", &trace).await;
    completed.send(BINARY, b"1234").await.unwrap();
    soon("an echo", completed.next()).await.unwrap();
    completed.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end", completed.next()).await {}
    drop(completed);
    assert!(rig.v1.heads()[0].contains(&trace), "as it came");
    // Neither made up nor mended.
    let bad = "traceparent: 00-nonsense\r\n";
    let smoke = format!("{bad}X-Segue-Override: v1\r\nX-Segue-Override-Token: {TOKEN}\r\n");
    drop(call(addr, "/ws/smoke", &smoke).await);
    assert!(rig.v1.heads()[1].contains(bad));

    rig.controller.install(rig.table(2, "v2")).await;
    let mut dropped = call(addr, "/ws/dropped", "").await;
    while let Ok(Some(_)) = soon("the end", dropped.next()).await {}
    drop(dropped);

    let busy = Agent::start(Manner::Answer("HTTP/1.1 503 Busy\r\n\r\n".to_owned())).await;
    let gone = {
        let gone = Agent::start(Manner::Echo).await;
        gone.addr
    };
    for (epoch, name, workers) in [
        (3, "busy", vec![("w3", "v1", busy.addr)]),
        (4, "undialled", vec![("w4", "v1", gone)]),
        (5, "nobody", vec![]),
    ] {
        rig.controller.install(table(epoch, "v1", &workers)).await;
        let request = upgrade(&format!("/ws/{name}"), &trace);
        let answer = exchange(addr, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    let records = rig.controller.ended("six records", told(6)).await;
    assert_eq!(records.len(), 6);
    let records = by_call(records);

    let record = &records["completed"];
    assert_eq!((&record.agent, record.release), (&desk(), release("v1")));
    assert_eq!(record.worker.as_ref().unwrap().as_str(), "w1");
    assert_eq!(record.outcome, CallOutcome::Completed);
    assert_eq!(record.cause, "caller:1000");
    assert_eq!(record.reason, "split");
    assert_eq!((record.bytes_in, record.bytes_out), (10 + 8, 6 + 4));
    assert_eq!(record.traceparent.as_deref(), Some(TRACE));
    let lasted = record.ended.since(record.started).0;
    assert!(record.started.0 > 0 && record.setup_ms.unwrap() <= lasted);

    let record = &records["smoke"];
    assert_eq!(record.reason, "override");
    assert_eq!(
        (record.outcome, record.cause.as_str()),
        (CallOutcome::Completed, "caller:none")
    );
    assert_eq!(record.traceparent, None);

    let record = &records["dropped"];
    assert_eq!(
        (record.outcome, record.cause.as_str()),
        (CallOutcome::Dropped, "worker:1012")
    );
    assert_eq!(record.release, release("v2"));
    assert!(record.setup_ms.is_some());

    for (name, worker, cause) in [
        ("busy", Some("w3"), "503"),
        ("undialled", Some("w4"), "no worker could be connected"),
        ("nobody", None, "no worker of the release is up"),
    ] {
        let record = &records[name];
        assert_eq!(record.outcome, CallOutcome::Failed, "{name}");
        assert_eq!(record.cause, cause);
        assert_eq!(
            record
                .worker
                .as_ref()
                .map(segue_core::names::WorkerId::as_str),
            worker
        );
        assert_eq!((record.setup_ms, record.bytes_out), (None, 0));
        assert_eq!(record.traceparent.as_deref(), Some(TRACE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_lost_with_a_killed_gateway_are_told_by_the_next_one() {
    let dir = Dir::new();
    let v1 = Agent::start(Manner::Echo).await;
    let workers = [("w1", "v1", v1.addr)];
    let mut controller = Controller::start(dir.path(), table(1, "v1", &workers));
    let mut first = Process::start(dir.path(), false).await;
    controller.report("the table", |r| r.epoch.0 == 1).await;
    let trace = format!("traceparent: {TRACE}\r\n");
    let _live = call(first.addr, "/ws/live", &trace).await;
    let smoke = format!("X-Segue-Override: v1\r\nX-Segue-Override-Token: {TOKEN}\r\n");
    let _smoke = call(first.addr, "/ws/smoke", &smoke).await;
    let journal = config(dir.path()).journal_file();
    until("the journal of both", || {
        let text = std::fs::read_to_string(&journal).ok()?;
        (text.matches(r#""is":"connected""#).count() == 2).then_some(())
    })
    .await;
    first.child.kill().await.unwrap();
    let _second = Process::start(dir.path(), false).await;
    let records = by_call(controller.ended("two records", told(2)).await);
    for (name, reason, trace) in [("live", "split", Some(TRACE)), ("smoke", "override", None)] {
        let record = &records[name];
        assert_eq!(
            (record.outcome, record.cause.as_str()),
            (CallOutcome::Lost, "gateway died")
        );
        assert_eq!(record.reason, reason);
        assert_eq!(record.traceparent.as_deref(), trace);
        assert_eq!(record.worker.as_ref().unwrap().as_str(), "w1");
        assert!(record.setup_ms.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_wait_for_a_controller_and_for_the_next_process() {
    let rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let table = rig.table(1, "v1");
    let (dir, gateway) = (rig.dir, rig.gateway);
    drop(rig.controller);
    for name in ["a", "b"] {
        let mut ws = call(gateway.addr, &format!("/ws/{name}"), "").await;
        ws.close(1000).await.unwrap();
        while let Ok(Some(_)) = soon("the end", ws.next()).await {}
    }
    let log = config(dir.path()).call_log_file();
    until("both ends", || {
        let text = std::fs::read_to_string(&log).ok()?;
        (text.lines().count() == 2).then_some(())
    })
    .await;
    let mut taking = config(dir.path());
    taking.takeover = Some(taking.handoff_socket());
    let _next = Gateway::start(taking).await;
    soon("the end of the old process", gateway.ended())
        .await
        .unwrap()
        .unwrap();
    let mut controller = Controller::start(dir.path(), table);
    let records = controller.ended("both records", told(2)).await;
    let calls: Vec<&str> = records.iter().map(|r| r.call.as_str()).collect();
    assert_eq!(calls, ["a", "b"]);
}

/// More ends than wait for a controller, straight at the ledger.
#[test]
fn records_beyond_the_queue_are_left_out_and_counted() {
    const MORE: usize = 904;
    let ledger: Arc<Ledger> = Ledger::new(None);
    let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let table = table(1, "v1", &[("w1", "v1", addr)]);
    ledger.install(table, Timestamp(1)).unwrap();
    let end = |number: usize| {
        let call: CallId = format!("c{number}").parse().unwrap();
        let facts = CallFacts {
            call: &call,
            cohort: None,
            caller: None,
            tenant: None,
            headers: &[],
            pin: None,
            connected: false,
            version_override: None,
        };
        let asking = Asking {
            agent: &desk(),
            facts,
            purpose: Purpose::Call,
            traceparent: None,
        };
        let ticket = ledger.begin(asking, &|_, _| true, Timestamp(1)).unwrap();
        ticket.connected(Timestamp(4));
        let by = By::Caller;
        let closed = Closed {
            by,
            code: Some(1000),
        };
        ticket.finish(End::Closed(closed), Timestamp(9));
    };
    (0..RECORDS_MAX + MORE).for_each(end);
    let ended = ledger.take_ended();
    assert_eq!((ended.records.len(), ended.left_out), (RECORDS_MAX, 904));
    assert_eq!(ended.records[0].setup_ms, Some(3));
    assert_eq!(ended.records[RECORDS_MAX - 1].call.as_str(), "c4095");

    // What could not be sent comes first again, and fills the queue with what came since.
    end(9_000);
    let first = ended.records[1..].to_vec();
    ledger.put_back_ended(first);
    end(9_001);
    let again = ledger.take_ended();
    assert_eq!((again.records.len(), again.left_out), (RECORDS_MAX, 905));
    assert_eq!(again.records[0].call.as_str(), "c1");
    assert_eq!(again.records[RECORDS_MAX - 1].call.as_str(), "c9000");
    let empty = ledger.take_ended();
    assert_eq!(
        (empty.records.len(), empty.left_out),
        (0, 905),
        "it goes on counting"
    );
}
