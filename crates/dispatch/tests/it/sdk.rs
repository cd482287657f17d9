//! A worker with the SDK, the one of the examples: what begins its drain, and that no signal after
//! that cuts a call. LiveKit by itself ends at the second one.

use std::path::Path;

use rustix::process::Signal;

use crate::fleet::{Fleet, Program, Real};
use crate::judge::{Told, judge};
use crate::traffic::lasting;
use crate::upstream::{Event, Outcome, Record, Upstream, job};
use crate::wire::{JobStatus, WorkerStatus};

/// Has the worker begin a drain from inside, as an agent may: see `tests/rooms`.
const BEGIN_DRAIN: Signal = Signal::USR1;

fn start(fleet: &Fleet, name: &str, upstream: &Upstream) -> Real {
    let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rooms");
    let env = [
        ("PYTHONPATH", rooms.to_str().unwrap()),
        ("HEALTH_PORT", "0"),
    ];
    fleet.start(Program::Sdk, name, "v1", &upstream.url(), &env)
}

/// One call each, `first` and, once the worker says that it drains, `then`; the call goes on.
async fn a_call_outlives(first: Signal, then: &[Signal]) {
    let upstream = Upstream::open().await;
    let fleet = Fleet::new();
    let mut worker = start(&fleet, "a", &upstream);
    upstream.until_registered("", 1).await;
    let talks = job("", &lasting(6.0));
    assert_eq!(upstream.launch(&talks).await, Outcome::Assigned);
    let begun = |lines: &[serde_json::Value]| lines.len() == 1;
    fleet.until("the call has begun", begun).await;

    worker.signal(first);
    let records = upstream.records();
    let full = |record: &Record| {
        let status = Some(WorkerStatus::Full);
        matches!(record.event, Event::Status { status: is, .. } if is == status).then_some(())
    };
    let drains = records.until("it is full", |all| all.iter().find_map(full));
    drains.await;
    // It is asked something in between, so that they come one by one.
    let another = job("", &lasting(1.0));
    for signal in then {
        worker.signal(*signal);
        assert_ne!(upstream.launch(&another).await, Outcome::Assigned);
    }
    assert_eq!(fleet.jobs().len(), 1, "the call is still there");
    assert_eq!(worker.ended().await, Some(0), "{}", worker.said());
    let ended = |record: &Record| match &record.event {
        Event::Updated { job, status, .. } => {
            *job == talks.id && matches!(status, JobStatus::Success)
        }
        _ => false,
    };
    assert!(records.all().iter().any(ended), "{}", worker.said());
    let told = Told {
        url: upstream.url(),
        ..Told::default()
    };
    let verdict = judge(&records.all(), upstream.began_ms(), &fleet.jobs(), &told);
    assert!(verdict.problems.is_empty(), "{verdict:#?}");
    assert_eq!(verdict.finished, 1, "{verdict:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_from_inside_leaves_the_orchestrators_signal_harmless() {
    a_call_outlives(BEGIN_DRAIN, &[Signal::TERM, Signal::INT, Signal::TERM]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_from_inside_after_a_signal_is_no_second_signal() {
    a_call_outlives(Signal::TERM, &[BEGIN_DRAIN, Signal::TERM]).await;
}
