//! What is asked of the server's API: another agent for a room whose agent died, and the release in a
//! room's metadata.

use std::time::Duration;

use rustix::process::Signal;
use segue_core::link::CallOutcome;
use segue_core::plane::PlaneEvent;
use segue_core::plane::Told::JobRedispatched as Redispatched;

use crate::control::{AGENT, Asks, Control, Told, release};
use crate::dispatcher::{quick, ready};
use crate::fleet::{Fleet, Program};
use crate::sim::{Seen, Sim, job_id};
use crate::traffic::lasting;
use crate::upstream::{Event, Outcome, PATIENCE, Record, Upstream};
use crate::wire::{Job, JobStatus};

/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

fn asking() -> Control {
    let mut control = Control::open();
    control.asks = Asks {
        redispatch: true,
        room_metadata: true,
    };
    control
}

fn room(job: &Job) -> String {
    job.room.as_ref().unwrap().name.clone()
}

/// Waits for something at the server that is no event.
async fn until(what: &str, is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, wait).await;
    assert!(came.is_ok(), "{what} did not come true");
}

/// Waits until the server was asked for something so many times.
async fn asked(upstream: &Upstream, method: &str, times: usize) {
    let is = |record: &&Record| matches!(&record.event, Event::Http { head, .. } if head.contains(method));
    let count = |all: &[Record]| (all.iter().filter(is).count() >= times).then_some(());
    let what = format!("{method} is asked for {times} times");
    upstream.records().until(&what, count).await;
}

/// Waits until a worker is assigned another job than this one.
async fn another(sim: &Sim, than: &str) -> String {
    let is = |seen: &Seen| matches!(seen, Seen::Assigned(a) if job_id(&a.job) != than);
    match sim.until("it gets another job", is).await {
        Seen::Assigned(assignment) => job_id(&assignment.job),
        other => unreachable!("{other:?}"),
    }
}

/// Two workers, the first of which has the room's job.
async fn answered(upstream: &Upstream, control: &Control) -> (Place, Job) {
    let dispatcher = control.start(upstream).await;
    let mut plan = dispatcher.plan("v1");
    plan.load = 0.0;
    let first = Sim::start(&plan).await;
    plan.load = 0.6;
    let second = Sim::start(&plan).await;
    ready(upstream).await;
    let job = upstream.open_room(AGENT, "{\"hello\":1}");
    assert_eq!(upstream.launch(&job).await, Outcome::Assigned);
    first.assigned(&job.id).await;
    control.live("v1", 1).await;
    let place = Place {
        dispatcher,
        first,
        second,
    };
    (place, job)
}

struct Place {
    dispatcher: crate::control::Dispatcher,
    first: Sim,
    second: Sim,
}

#[tokio::test]
async fn a_caller_whose_worker_died_is_answered_by_another_one() {
    let (upstream, control) = (quick().await, asking());
    let (place, job) = answered(&upstream, &control).await;
    let plan = place.dispatcher.plan("v1");
    place.first.disconnect();
    // As long as the agent is in the room, nobody else is to be.
    asked(&upstream, "ListParticipants", 2).await;
    assert_eq!(upstream.dispatches_of(&room(&job)), 1);
    upstream.leave(&room(&job), &format!("agent-{}", job.id));
    let next = another(&place.second, &job.id).await;
    until("it is there", || {
        upstream.agents_in(&room(&job)) == [next.clone()]
    })
    .await;
    let tells = |told: &Told| {
        let is = |event: &PlaneEvent| matches!(&event.what, Redispatched { job: of, .. } if of.as_str() == job.id);
        told.events.iter().any(is)
    };
    control.until("it is told for the audit log", tells).await;
    let told = control
        .until("its end is told", |told| told.ended.len() == 1)
        .await;
    let record = &told.ended[0];
    assert_eq!(record.call.as_str(), job.id);
    assert_eq!(record.outcome, CallOutcome::Dropped);
    assert_eq!(record.cause, "worker: died");
    assert_eq!(record.release, release("v1"));
    let metadata = place.second.seen().into_iter().find_map(|seen| match seen {
        Seen::Assigned(assignment) => Some(
            <Job as prost::Message>::decode(&assignment.job[..])
                .unwrap()
                .metadata,
        ),
        _ => None,
    });
    assert_eq!(metadata.as_deref(), Some("{\"hello\":1}"));
    // Its worker comes back after all, also to another dispatcher.
    place.dispatcher.kill();
    let _dispatcher = control.start(&upstream).await;
    let first = place.first.reconnect(&plan).await;
    let ends = |seen: &Seen| *seen == Seen::Terminated(job.id.clone());
    first.until("it is told to end it", ends).await;
    assert_eq!(upstream.dispatches_of(&room(&job)), 2);
}

#[tokio::test]
async fn a_job_whose_process_died_is_dispatched_at_once_and_only_once() {
    let (upstream, control) = (quick().await, asking());
    let (place, job) = answered(&upstream, &control).await;
    // It is made, and nobody hears it.
    upstream.lose_answers(1);
    place.first.end(&job.id, JobStatus::Failed);
    until("it is dispatched", || {
        upstream.dispatches_of(&room(&job)) == 2
    })
    .await;
    // That its job begins says that it was made.
    let tells = |told: &Told| {
        let is = |event: &PlaneEvent| matches!(event.what, Redispatched { .. });
        told.events.iter().any(is)
    };
    control.until("it is told for the audit log", tells).await;
    assert_eq!(upstream.agents_in(&room(&job)).len(), 1);
    assert_eq!(upstream.dispatches_of(&room(&job)), 2);
}

#[tokio::test]
async fn a_room_that_nobody_is_in_any_more_is_left_alone() {
    let (upstream, control) = (quick().await, asking());
    let (place, job) = answered(&upstream, &control).await;
    upstream.leave(&room(&job), "caller");
    place.first.end(&job.id, JobStatus::Failed);
    asked(&upstream, "ListParticipants", 2).await;
    assert_eq!(upstream.dispatches_of(&room(&job)), 1);
    // Whoever comes back finds somebody.
    upstream.join(&room(&job), "caller");
    until("it is dispatched", || {
        upstream.dispatches_of(&room(&job)) == 2
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_only_lost_its_connection_keeps_its_call() {
    let (upstream, control) = (quick().await, asking());
    let (place, job) = answered(&upstream, &control).await;
    let plan = place.dispatcher.plan("v1");
    place.first.disconnect();
    asked(&upstream, "ListParticipants", 1).await;
    let first = place.first.reconnect(&plan).await;
    control.live("v1", 1).await;
    first.end(&job.id, JobStatus::Success);
    control.live("v1", 0).await;
    assert_eq!(upstream.dispatches_of(&room(&job)), 1);
}

#[tokio::test]
async fn a_worker_that_is_back_before_anybody_took_its_place_keeps_its_call() {
    let (upstream, control) = (quick().await, asking());
    let (place, job) = answered(&upstream, &control).await;
    let plan = place.dispatcher.plan("v1");
    // Nobody else is free.
    place.second.close();
    place.first.disconnect();
    let identity = format!("agent-{}", job.id);
    upstream.leave(&room(&job), &identity);
    until("it is dispatched", || {
        upstream.dispatches_of(&room(&job)) == 2
    })
    .await;
    // The network is back: the agent rejoins, and its worker connects.
    upstream.rejoin(&room(&job), &identity, &job);
    let first = place.first.reconnect(&plan).await;
    let running = place.dispatcher.running.as_ref().unwrap();
    until("it has its job", || {
        let workers = running.workers();
        workers
            .iter()
            .any(|worker| worker.jobs.iter().any(|of| of.as_str() == job.id))
    })
    .await;
    first.end(&job.id, JobStatus::Success);
    // The job that came in its place, and was refused, may be told of before.
    let its_end = |told: &Told| {
        let mut ended = told.ended.iter();
        ended.find(|is| is.call.as_str() == job.id).cloned()
    };
    let told = control
        .until("its end is told", |told| its_end(told).is_some())
        .await;
    let end = its_end(&told).expect("it was seen");
    assert_eq!(end.outcome, CallOutcome::Completed);
    assert!(!first.seen().contains(&Seen::Terminated(job.id.clone())));
    assert_eq!(upstream.dispatches_of(&room(&job)), 2);
    let is = |event: &PlaneEvent| matches!(event.what, Redispatched { .. });
    assert!(!told.events.iter().any(is), "nobody else answered");
}

#[tokio::test]
async fn a_room_says_which_release_answers_it() {
    let (upstream, control) = (quick().await, asking());
    let dispatcher = control.start(&upstream).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    for (before, after) in [
        ("", "{\"agent_version\":\"v1\"}"),
        ("{\"a\":[1]}", "{\"a\":[1],\"agent_version\":\"v1\"}"),
        ("{\"agent_version\":\"v0\"}", "{\"agent_version\":\"v1\"}"),
    ] {
        let job = upstream.open_room(AGENT, "");
        upstream.set_room_metadata(&room(&job), before);
        // A server that fails for a moment is asked again.
        upstream.fail_requests(1);
        assert_eq!(upstream.launch(&job).await, Outcome::Assigned);
        worker.assigned(&job.id).await;
        until("its release is there", || {
            upstream.room_metadata(&room(&job)) == after
        })
        .await;
    }
    // What is no object is nobody's to change: it is looked at, and nothing more.
    let job = upstream.open_room(AGENT, "");
    upstream.set_room_metadata(&room(&job), "mine");
    assert_eq!(upstream.launch(&job).await, Outcome::Assigned);
    worker.assigned(&job.id).await;
    let last = upstream.open_room(AGENT, "");
    assert_eq!(upstream.launch(&last).await, Outcome::Assigned);
    let labelled = || upstream.room_metadata(&room(&last)) == "{\"agent_version\":\"v1\"}";
    until("the next room is labelled", labelled).await;
    assert_eq!(upstream.room_metadata(&room(&job)), "mine");
}

#[tokio::test]
async fn nothing_is_asked_of_the_server_unless_it_is_configured() {
    let (upstream, mut control) = (quick().await, Control::open());
    let (place, job) = answered(&upstream, &control).await;
    place.first.end(&job.id, JobStatus::Failed);
    control.live("v1", 0).await;
    // Whatever would have been asked comes before what the next dispatcher asks for another room.
    place.dispatcher.kill();
    control.asks = asking().asks;
    let dispatcher = control.start(&upstream).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    let next = upstream.open_room(AGENT, "");
    assert_eq!(upstream.launch(&next).await, Outcome::Assigned);
    worker.assigned(&next.id).await;
    until("the next room is labelled", || {
        upstream.room_metadata(&room(&next)) == "{\"agent_version\":\"v1\"}"
    })
    .await;
    assert_eq!(upstream.room_metadata(&room(&job)), "");
    assert_eq!(upstream.dispatches_of(&room(&job)), 1);
    let looks = |record: &Record| matches!(&record.event, Event::Http { head, .. } if head.contains("ListParticipants"));
    assert!(!upstream.records().all().iter().any(looks));
}

/// With LiveKit's own package: a worker is killed while a caller is there, and another one answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_worker_that_is_killed_is_replaced_by_another_one() {
    let (upstream, control) = (Upstream::open().await, asking());
    let dispatcher = control.start(&upstream).await;
    let fleet = Fleet::new();
    let url = format!("{}/", dispatcher.url);
    let env = [("AGENT_NAME", AGENT), ("LIVEKIT_AGENT_DEPLOYMENT", "v1")];
    let mut workers = ["a", "b"].map(|name| fleet.start(Program::Python, name, "v1", &url, &env));
    let running = dispatcher.running.as_ref().unwrap();
    fleet
        .until("two workers", |_| running.workers().len() == 2)
        .await;
    ready(&upstream).await;
    let job = upstream.open_room(AGENT, &lasting(30.0));
    assert_eq!(upstream.launch(&job).await, Outcome::Assigned);
    fleet
        .until("the call has begun", |lines| lines.len() == 1)
        .await;
    let had = fleet.jobs()[0]["worker"].as_str().unwrap().to_owned();
    let killed = workers.iter_mut().find(|worker| worker.name == had);
    let killed = killed.unwrap();
    killed.signal(Signal::KILL);
    killed.ended().await;
    // The server notices that the agent's media is gone.
    upstream.leave(&room(&job), &format!("agent-{}", job.id));
    let answers = |line: &serde_json::Value| {
        line["event"] == "job.started" && line["worker"] != *had && line["room"] == *room(&job)
    };
    fleet
        .until("another worker answers", |lines| lines.iter().any(answers))
        .await;
    assert_eq!(upstream.dispatches_of(&room(&job)), 2);
    assert_eq!(upstream.agents_in(&room(&job)).len(), 1);
}
