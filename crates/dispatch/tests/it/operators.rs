//! What operators see of workers, and what they may do with one.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::SinkExt as _;
use segue_core::link::{CallOutcome, ToGateway};
use segue_core::names::WorkerId;
use segue_core::plane::{ConnectedWorker, DrainedBy, Steer, Told as Happened};
use tokio_tungstenite::tungstenite::Message;

use crate::control::{AGENT, Control, release};
use crate::dispatcher::{exchange, quick, ready};
use crate::sim::{Seen, Sim, connect};
use crate::upstream::{Event, Outcome, Record, Upstream, job};
use crate::wire::{FromWorker, JobStatus, MigrateJob, UpdateJob, WorkerStatus};

static REQUESTS: AtomicU64 = AtomicU64::new(1);

async fn answer(control: &Control, ask: impl Fn(u64) -> ToGateway) -> Vec<ConnectedWorker> {
    let request = REQUESTS.fetch_add(1, Ordering::Relaxed);
    control.order(ask(request));
    let told = control
        .until("it is answered", |told| told.workers.contains_key(&request))
        .await;
    told.workers[&request].clone()
}

async fn list(control: &Control) -> Vec<ConnectedWorker> {
    list_as(control, false).await
}

async fn list_as(control: &Control, brief: bool) -> Vec<ConnectedWorker> {
    let list = |request| ToGateway::ListWorkers {
        request,
        agent: Some(AGENT.parse().unwrap()),
        limit: 10,
        brief,
    };
    answer(control, list).await
}

async fn steer(control: &Control, worker: &WorkerId, what: Steer) -> Vec<ConnectedWorker> {
    let steer = |request| ToGateway::SteerWorker {
        request,
        agent: AGENT.parse().unwrap(),
        worker: worker.clone(),
        what,
    };
    answer(control, steer).await
}

fn id(worker: &Sim) -> WorkerId {
    let ids = worker.seen().into_iter().find_map(|seen| match seen {
        Seen::Registered(id) => Some(id),
        _ => None,
    });
    ids.unwrap().parse().unwrap()
}

async fn has_job(upstream: &Upstream, worker: &Sim) -> String {
    let wanted = job(AGENT, "");
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    worker.assigned(&wanted.id).await;
    wanted.id
}

/// The last that the server heard is that jobs are taken.
pub(crate) async fn available(upstream: &Upstream) {
    let find = |all: &[Record]| {
        let status = all.iter().rev().find_map(|record| match record.event {
            Event::Status { status, .. } => status,
            _ => None,
        });
        (status == Some(WorkerStatus::Available)).then_some(())
    };
    upstream.records().until("jobs are taken again", find).await;
}

#[tokio::test]
async fn workers_are_listed_and_one_is_drained_and_taken_back() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    let first = has_job(&upstream, &worker).await;

    let [shown] = &list(&control).await[..] else {
        panic!("one worker is connected");
    };
    assert_eq!(shown.worker, id(&worker));
    assert_eq!((shown.release, shown.drain), (release("v1"), None));
    assert_eq!(shown.jobs, [first.parse().unwrap()]);
    assert_eq!(shown.library, "1.8.9");
    assert!(shown.from.is_some_and(|from| from.is_loopback()));

    let [drained] = &steer(&control, &shown.worker, Steer::Drain).await[..] else {
        panic!("it is connected");
    };
    assert_eq!(
        (drained.available, drained.drain),
        (false, Some(DrainedBy::Operator))
    );
    assert!(matches!(
        upstream.launch(&job(AGENT, "")).await,
        Outcome::Lost(_)
    ));
    let told = control
        .until("that it drains is told", |told| !told.events.is_empty())
        .await;
    let happened = Happened::WorkerDraining {
        worker: shown.worker.clone(),
        release: release("v1"),
        jobs: 1,
        by: DrainedBy::Operator,
    };
    assert_eq!(told.events[0].what, happened);

    let [back] = &steer(&control, &shown.worker, Steer::Undrain).await[..] else {
        panic!("it is connected");
    };
    assert_eq!(back.drain, None);
    available(&upstream).await;
    has_job(&upstream, &worker).await;
    let jobs = |shown: Vec<ConnectedWorker>| shown[0].jobs.len();
    let listed = (
        jobs(list(&control).await),
        jobs(list_as(&control, true).await),
    );
    assert_eq!(listed, (2, 1), "who counts workers is not sent every job");

    let nobody = "AW_nobody".parse().unwrap();
    assert_eq!(steer(&control, &nobody, Steer::Kick).await, []);
}

#[tokio::test]
async fn who_is_kicked_comes_back_with_its_jobs_and_drains() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let plan = dispatcher.plan("v1");
    let worker = Sim::start(&plan).await;
    ready(&upstream).await;
    let first = has_job(&upstream, &worker).await;

    let [shown] = &steer(&control, &id(&worker), Steer::Kick).await[..] else {
        panic!("it was connected");
    };
    assert_eq!(
        (shown.available, shown.drain),
        (false, Some(DrainedBy::Operator))
    );
    let closed = |seen: &Seen| matches!(seen, Seen::Closed(Some(1_001)));
    worker.until("its connection is closed", closed).await;
    control.live("v1", 1).await;
    assert_eq!(
        worker.jobs(),
        std::slice::from_ref(&first),
        "nothing ends its job"
    );

    let worker = worker.reconnect(&plan).await;
    let drains = |workers: &[ConnectedWorker]| {
        workers
            .iter()
            .any(|w| w.drain == Some(DrainedBy::Operator) && w.worker == id(&worker))
    };
    // It is known again by what it names next.
    let known = async { while !drains(&list(&control).await) {} };
    tokio::time::timeout(crate::upstream::PATIENCE, known)
        .await
        .unwrap();
    assert!(matches!(
        upstream.launch(&job(AGENT, "")).await,
        Outcome::Lost(_)
    ));
    worker.end(&first, JobStatus::Success);
    control.live("v1", 0).await;
}

#[tokio::test]
async fn the_last_word_of_who_is_kicked_is_heard() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    // One that reads nothing, so that it does not know yet.
    let mut socket = connect(&dispatcher.url).await.unwrap();
    let register = FromWorker::Register(dispatcher.plan("v1").register);
    let answer = exchange(&mut socket, Message::binary(register.frame())).await;
    assert!(matches!(answer, Some(Ok(Message::Binary(_)))), "{answer:?}");
    let id = "AJ_last".to_owned();
    let claim = FromWorker::MigrateJob(MigrateJob {
        job_ids: vec![id.clone()],
    });
    socket.send(Message::binary(claim.frame())).await.unwrap();
    control.live("v1", 1).await;
    let [shown] = &list(&control).await[..] else {
        panic!("one worker is connected");
    };
    steer(&control, &shown.worker, Steer::Kick).await;
    assert_eq!(list(&control).await, []);
    let over = FromWorker::UpdateJob(UpdateJob {
        job_id: id.clone(),
        status: JobStatus::Success.into(),
        error: String::new(),
    });
    socket.send(Message::binary(over.frame())).await.unwrap();
    let told = control
        .until("the job is over", |told| !told.ended.is_empty())
        .await;
    let ended = &told.ended[0];
    assert_eq!(
        (ended.call.as_str(), ended.outcome, &*ended.cause),
        (&*id, CallOutcome::Completed, "worker: success")
    );
}
