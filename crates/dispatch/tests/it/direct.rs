//! Real workers at the test server, without a dispatcher: what is known of them from traces is
//! still so, and both sides of these tests speak the protocol that LiveKit's package speaks.

use rustix::process::Signal;
use serde_json::Value;

use crate::fleet::{Fleet, Program};
use crate::judge::{Told, judge};
use crate::traffic::lasting;
use crate::upstream::{Event, Loss, Outcome, Record, Upstream, job};
use crate::wire::{JobStatus, WorkerStatus};

/// The worker that is registered last.
fn last_worker(all: &[Record]) -> Option<String> {
    all.iter().rev().find_map(|record| match &record.event {
        Event::Registered { worker, .. } => Some(worker.clone()),
        _ => None,
    })
}

/// Waits until a job is reported so, and answers whether the server knew the job.
async fn reported(upstream: &Upstream, id: &str, wanted: JobStatus) -> bool {
    let find = |record: &Record| match &record.event {
        Event::Updated {
            job, status, known, ..
        } if job == id && *status == wanted => Some(*known),
        _ => None,
    };
    let records = upstream.records();
    let what = format!("{id} is {wanted:?}");
    records.until(&what, |all| all.iter().find_map(find)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_does_what_the_traces_say() {
    let upstream = Upstream::open().await;
    let fleet = Fleet::new();
    let env = [("AGENT_NAME", "desk")];
    let mut worker = fleet.start(Program::Python, "a", "v1", &upstream.url(), &env);
    upstream.until_registered("desk", 1).await;
    let records = upstream.records();

    // Its path, its registration, its first status.
    let all = records.all();
    let connected = all.iter().find_map(|record| match &record.event {
        Event::Connected { target, .. } => Some(target.as_str()),
        _ => None,
    });
    assert_eq!(connected, Some("/agent"));
    let first = records.until("it says how it is", |all| {
        all.iter().find_map(|record| match record.event {
            Event::Status {
                status, load, jobs, ..
            } => Some((status, load, jobs)),
            _ => None,
        })
    });
    let (status, load, jobs) = first.await;
    assert_eq!((status, jobs), (Some(WorkerStatus::Available), 0));
    assert!((load - 0.1).abs() < 0.001, "{load}");

    // Offer, assignment, running; a connection that is lost, with the job alive; its end.
    let (long, crash) = (
        job("desk", &lasting(8.0)),
        job("desk", r#"{"end": "crash"}"#),
    );
    assert_eq!(upstream.launch(&long).await, Outcome::Assigned);
    assert!(reported(&upstream, &long.id, JobStatus::Running).await);
    let before = last_worker(&records.all()).unwrap();
    upstream.cut(&before);
    upstream.until_registered("desk", 0).await;
    upstream.until_registered("desk", 1).await;
    let named = records.until("it names its job", |all| {
        all.iter().find_map(|record| match &record.event {
            Event::Migrated { worker, jobs } => Some((worker.clone(), jobs.clone())),
            _ => None,
        })
    });
    let (again, jobs) = named.await;
    assert_ne!(again, before);
    assert_eq!(jobs, std::slice::from_ref(&long.id));
    assert_eq!(upstream.launch(&crash).await, Outcome::Assigned);
    assert!(reported(&upstream, &crash.id, JobStatus::Failed).await);

    // Told to end: FULL with no load, no more jobs, and then it goes.
    let talks = job("desk", &lasting(3.0));
    assert_eq!(upstream.launch(&talks).await, Outcome::Assigned);
    assert!(reported(&upstream, &talks.id, JobStatus::Running).await);
    worker.signal(Signal::TERM);
    let full = |record: &Record| match record.event {
        Event::Status {
            status: Some(WorkerStatus::Full),
            load,
            jobs,
            ..
        } => Some((load, jobs)),
        _ => None,
    };
    let told = records
        .until("it is full", |all| all.iter().find_map(full))
        .await;
    assert_eq!(told.0.to_bits(), 0.0_f32.to_bits());
    assert!((1..=2).contains(&told.1), "{told:?}");
    let none = Outcome::Lost(Loss::NoAffinity);
    assert_eq!(upstream.launch(&job("desk", "")).await, none);
    assert!(!upstream.offer(&again, &job("desk", "")).await);
    // The server forgot the job with the connection on which it was given.
    assert!(!reported(&upstream, &long.id, JobStatus::Success).await);
    assert!(reported(&upstream, &talks.id, JobStatus::Success).await);
    let closed = records.until("it closes", |all| {
        all.iter().find_map(|record| match &record.event {
            Event::Closed { worker, code, .. } if *worker == again => Some(*code),
            _ => None,
        })
    });
    assert_eq!(closed.await, Some(1000));
    assert_eq!(worker.ended().await, Some(0), "{}", worker.said());

    // The judge finds no more than that one job was asked for in vain.
    let told = Told {
        url: upstream.url(),
        ..Told::default()
    };
    let verdict = judge(&records.all(), upstream.began_ms(), &fleet.jobs(), &told);
    assert!(verdict.problems.is_empty(), "{verdict:#?}");
    assert_eq!(
        (verdict.finished, verdict.lost.len()),
        (3, 1),
        "{verdict:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node and its packages: make livekit"]
async fn a_worker_of_node_never_says_that_a_job_is_over() {
    let upstream = Upstream::open().await;
    let fleet = Fleet::new();
    let env = [("AGENT_NAME", "desk")];
    // With a slash at its end: it puts "agent" behind whatever it is told.
    let url = format!("{}/", upstream.url());
    let mut worker = fleet.start(Program::Node, "a", "v1", &url, &env);
    upstream.until_registered("desk", 1).await;
    let records = upstream.records();
    let (first, second) = (job("desk", &lasting(6.0)), job("desk", &lasting(8.0)));
    assert_eq!(upstream.launch(&first).await, Outcome::Assigned);
    fleet
        .until("the call has begun", |lines| lines.len() == 1)
        .await;
    let before = last_worker(&records.all()).unwrap();
    upstream.cut(&before);
    upstream.until_registered("desk", 0).await;
    upstream.until_registered("desk", 1).await;
    let again = last_worker(&records.all()).unwrap();
    assert_eq!(upstream.launch(&second).await, Outcome::Assigned);
    let id = second.id.as_str();
    let began = |lines: &[Value]| lines.iter().any(|line| line["job"] == id);
    fleet.until("the second call has begun", began).await;
    worker.signal(Signal::TERM);
    let full = |record: &Record| {
        let status = Some(WorkerStatus::Full);
        matches!(record.event, Event::Status { status: is, .. } if is == status).then_some(())
    };
    records
        .until("it is full", |all| all.iter().find_map(full))
        .await;
    assert!(!upstream.offer(&again, &job("desk", "")).await);
    fleet
        .until("both calls have ended", |lines| lines.len() == 4)
        .await;
    // The agent has left the room, so the server ends the job; the worker has no more to say.
    assert!(upstream.terminate(&second.id));
    assert_eq!(worker.ended().await, Some(143), "{}", worker.said());
    let all = records.all();
    let words =
        |record: &&Record| matches!(record.event, Event::Updated { .. } | Event::Migrated { .. });
    assert_eq!(all.iter().filter(words).count(), 0, "{all:#?}");
    let told = Told {
        url,
        ..Told::default()
    };
    let verdict = judge(&all, upstream.began_ms(), &fleet.jobs(), &told);
    verdict.spotless(2);
}
