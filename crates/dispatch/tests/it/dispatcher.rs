//! The dispatcher between simulated workers and a server with LiveKit's rules.

use std::time::Duration;

use prost::Message as _;
use segue_core::link::{CallOutcome, ToGateway};
use segue_core::route::point;
use segue_core::split::{Share, Split};
use tokio_tungstenite::tungstenite::Message;

use crate::control::{AGENT, Control, live, release};
use crate::sim::{Plan, Reply, Seen, Sim, connect, connect_as};
use crate::upstream::{Event, Loss, Outcome, Record, Rules, Upstream, job};
use crate::wire::{FromWorker, JobStatus, UpdateWorker, WorkerStatus};

pub(crate) async fn quick() -> Upstream {
    Upstream::open_with(Rules {
        choosing: Duration::ZERO,
        ..Rules::default()
    })
    .await
}

/// The server knows one worker of ours that takes jobs.
pub(crate) async fn ready(upstream: &Upstream) {
    upstream.until_registered(AGENT, 1).await;
    let told = |all: &[Record]| {
        let available = |record: &Record| {
            matches!(
                record.event,
                Event::Status {
                    status: Some(WorkerStatus::Available),
                    ..
                }
            )
        };
        all.iter().any(available).then_some(())
    };
    upstream.records().until("jobs are taken", told).await;
}

fn has(sim: &Sim, id: &str) -> bool {
    sim.jobs().iter().any(|job| job == id)
}

#[tokio::test]
async fn a_job_comes_with_its_bytes_its_token_and_the_servers_address() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    let wanted = job(AGENT, "hello");
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    let assignment = worker.assigned(&wanted.id).await;
    assert_eq!(assignment.url, Some(upstream.url()));
    let find = |all: &[Record]| {
        all.iter().find_map(|record| match &record.event {
            Event::Assigned { job, token, .. } if *job == wanted.id => Some(token.clone()),
            _ => None,
        })
    };
    let token = upstream.records().until("it is assigned", find).await;
    assert_eq!(assignment.token, token);
    let offered = upstream
        .records()
        .all()
        .into_iter()
        .find_map(|record| match record.event {
            Event::Offered { bytes, .. } => Some(bytes),
            _ => None,
        });
    // The server adds the worker to the job when it assigns it; what it offered came through whole.
    let seen = worker.seen().into_iter().find_map(|seen| match seen {
        Seen::Offered(bytes) => Some(bytes),
        _ => None,
    });
    assert_eq!(seen, offered);
    assert_eq!(
        crate::wire::Job::decode(&assignment.job[..])
            .unwrap()
            .of_tomorrow,
        wanted.of_tomorrow
    );
    control.live("v1", 1).await;
    worker.end(&wanted.id, JobStatus::Success);
    control.live("v1", 0).await;
    let told = control
        .until("its end is told", |told| told.ended.len() == 1)
        .await;
    let record = &told.ended[0];
    assert_eq!(record.outcome, CallOutcome::Completed);
    assert_eq!(record.release, release("v1"));
    assert!(record.setup_ms.is_some());
}

#[tokio::test]
async fn jobs_go_by_the_split_and_stay_where_they_are() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let mut plan = dispatcher.plan("v1");
    plan.load = 0.0;
    let old = Sim::start(&plan).await;
    let new = Sim::start(&dispatcher.plan("v2")).await;
    ready(&upstream).await;
    control
        .split(Split::ramp(release("v2"), Share(1_000), release("v1")))
        .await;
    let table = control.table();
    let mut canaries = 0;
    for _ in 0..60 {
        let wanted = job(AGENT, "");
        let room = wanted.room.clone().unwrap().name;
        let is_new = point(&table.agent, &table.salt, &room) < 1_000;
        canaries += u32::from(is_new);
        assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
        let at = if is_new { &new } else { &old };
        at.assigned(&wanted.id).await;
    }
    assert!(canaries > 0, "nothing was tried");
    control.split(Split::all(release("v2"))).await;
    let (stay, moved) = (old.jobs().len(), new.jobs().len());
    for _ in 0..5 {
        let wanted = job(AGENT, "");
        assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
        new.assigned(&wanted.id).await;
    }
    assert_eq!((old.jobs().len(), new.jobs().len()), (stay, moved + 5));
    control.live("v1", stay as u64).await;
    for id in old.jobs() {
        old.end(&id, JobStatus::Success);
    }
    control.live("v1", 0).await;
}

#[tokio::test]
async fn a_worker_that_drains_gets_nothing_whatever_it_says() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let liar = Sim::start(&dispatcher.plan("v1")).await;
    let other = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    liar.drain();
    // As an older worker in JavaScript does, whose loop knows nothing of the drain.
    liar.reply(Reply::Accept);
    liar.send(FromWorker::UpdateWorker(UpdateWorker {
        status: Some(WorkerStatus::Available as i32),
        ..UpdateWorker::default()
    }));
    for _ in 0..10 {
        let wanted = job(AGENT, "");
        assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
        other.assigned(&wanted.id).await;
    }
    assert_eq!(liar.jobs(), Vec::<String>::new());
}

#[tokio::test]
async fn who_refuses_or_is_silent_is_followed_by_the_next() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let mut plan = dispatcher.plan("v1");
    plan.load = 0.0;
    plan.reply = Reply::Silence;
    let silent = Sim::start(&plan).await;
    plan.load = 0.1;
    plan.reply = Reply::Refuse;
    let refuses = Sim::start(&plan).await;
    plan.load = 0.6;
    plan.reply = Reply::Accept;
    let good = Sim::start(&plan).await;
    ready(&upstream).await;
    let first = job(AGENT, "");
    assert_eq!(upstream.launch(&first).await, Outcome::Assigned);
    good.assigned(&first.id).await;
    // Whoever was silent is remembered.
    let offers = |sim: &Sim| {
        sim.seen()
            .iter()
            .filter(|s| matches!(s, Seen::Offered(_)))
            .count()
    };
    let before = offers(&silent);
    for _ in 0..5 {
        let wanted = job(AGENT, "");
        assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
        good.assigned(&wanted.id).await;
    }
    assert_eq!((before, offers(&silent)), (1, 1));
    assert!(offers(&refuses) >= 1);
}

#[tokio::test]
async fn a_job_is_held_until_somebody_has_room_or_refused_in_time() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    worker.reply(Reply::Refuse);
    // Not one of the server's own three seconds' time-outs: those lose a job without a word.
    let refused = upstream.launch(&job(AGENT, "")).await;
    assert_eq!(refused, Outcome::Lost(Loss::NobodyAvailable));
    let wanted = job(AGENT, "");
    let launched = upstream.launch(&wanted);
    let asked = async {
        let again =
            |seen: &Seen| matches!(seen, Seen::Offered(b) if crate::sim::job_id(b) == wanted.id);
        worker.load(0.1);
        worker.until("it is asked again", again).await;
        worker.reply(Reply::Accept);
        worker.load(0.1);
    };
    let (outcome, ()) = tokio::join!(launched, asked);
    assert_eq!(outcome, Outcome::Assigned);
    worker.assigned(&wanted.id).await;
}

#[tokio::test]
async fn a_job_whose_worker_is_lost_before_it_begins_goes_to_another() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let mut plan = dispatcher.plan("v1");
    plan.load = 0.0;
    plan.reply = Reply::AcceptAndDrop;
    let drops = Sim::start(&plan).await;
    plan.load = 0.6;
    plan.reply = Reply::Accept;
    let good = Sim::start(&plan).await;
    ready(&upstream).await;
    let wanted = job(AGENT, "");
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    good.assigned(&wanted.id).await;
    drops
        .until("it is gone", |seen| matches!(seen, Seen::Closed(_)))
        .await;
    control.live("v1", 1).await;
}

#[tokio::test]
async fn a_dispatcher_that_is_killed_loses_no_job() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    let jobs: Vec<_> = (0..3).map(|_| job(AGENT, "")).collect();
    for wanted in &jobs {
        assert_eq!(upstream.launch(wanted).await, Outcome::Assigned);
        worker.assigned(&wanted.id).await;
    }
    control.live("v1", 3).await;
    dispatcher.kill();
    worker
        .until("its connection broke", |seen| {
            matches!(seen, Seen::Closed(_))
        })
        .await;
    let dispatcher = control.start(&upstream).await;
    // Before anybody claims them they count, so that nothing is retired under them.
    control.live("v1", 3).await;
    let worker = worker.reconnect(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    for wanted in &jobs {
        assert!(has(&worker, &wanted.id));
        worker.end(&wanted.id, JobStatus::Success);
    }
    control.live("v1", 0).await;
    let all = |told: &crate::control::Told| told.ended.len() == 3;
    let told = control.until("their ends are told", all).await;
    let completed =
        |record: &segue_core::link::CallRecord| record.outcome == CallOutcome::Completed;
    assert!(told.ended.iter().all(completed), "{:?}", told.ended);
    let next = job(AGENT, "");
    assert_eq!(upstream.launch(&next).await, Outcome::Assigned);
    worker.assigned(&next.id).await;
}

#[tokio::test]
async fn workers_outlive_the_server() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    let first = job(AGENT, "");
    assert_eq!(upstream.launch(&first).await, Outcome::Assigned);
    worker.assigned(&first.id).await;
    upstream.restart().await;
    ready(&upstream).await;
    let claimed = |all: &[Record]| {
        let is = |record: &Record| matches!(&record.event, Event::Migrated { jobs, .. } if *jobs == [first.id.clone()]);
        all.iter().any(is).then_some(())
    };
    upstream
        .records()
        .until("the server hears what runs", claimed)
        .await;
    let registered = worker
        .seen()
        .iter()
        .filter(|s| matches!(s, Seen::Registered(_)))
        .count();
    assert_eq!(registered, 1, "its connection stayed");
    let next = job(AGENT, "");
    assert_eq!(upstream.launch(&next).await, Outcome::Assigned);
    worker.assigned(&next.id).await;
    control.live("v1", 2).await;
}

#[tokio::test]
async fn policy_ends_jobs_by_asking_their_workers() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    let wanted = job(AGENT, "");
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    worker.assigned(&wanted.id).await;
    control.split(Split::all(release("v2"))).await;
    control.order(ToGateway::EndCalls {
        agent: AGENT.parse().unwrap(),
        release: release("v1"),
        epoch: control.table().epoch,
        calls: vec![wanted.id.parse().unwrap()],
    });
    let told = |seen: &Seen| *seen == Seen::Terminated(wanted.id.clone());
    worker.until("it is asked to end it", told).await;
    if has(&worker, &wanted.id) {
        worker.end(&wanted.id, JobStatus::Success);
    }
    let told = control
        .until("its end is told", |told| told.ended.len() == 1)
        .await;
    assert_eq!(told.ended[0].outcome, CallOutcome::Policy);
    assert_eq!(live(&told, "v1") + live(&told, "v2"), 0);
}

#[tokio::test]
async fn who_breaks_the_rules_is_refused_and_nobody_else_disturbed() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let good = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    let too_long = vec![0u8; segue_dispatch::proto::MESSAGE_BYTES_MAX + 1];
    for (frame, code) in [
        (Message::binary(vec![0x0a, 0xff]), Some(1002)),
        (Message::text("{}"), Some(1003)),
        (Message::binary(too_long), None),
        // A second registration.
        (
            Message::binary(FromWorker::Register(dispatcher.plan("v1").register).frame()),
            Some(1002),
        ),
    ] {
        let bad = Sim::start(&dispatcher.plan("v1")).await;
        bad.send_frame(frame);
        let closed = bad
            .until("it is refused", |seen| matches!(seen, Seen::Closed(_)))
            .await;
        if code.is_some() {
            assert_eq!(closed, Seen::Closed(code));
        }
    }
    for plan in [
        dispatcher.plan("v3"),
        dispatcher.plan(""),
        Plan::new(&dispatcher.url, "other"),
    ] {
        let mut socket = connect(&plan.url).await.unwrap();
        let frame = FromWorker::Register(plan.register).frame();
        let answer = exchange(&mut socket, Message::binary(frame)).await;
        assert!(
            matches!(answer, Some(Ok(Message::Close(Some(_))))),
            "{answer:?}"
        );
    }
    let mut early = connect(&dispatcher.url).await.unwrap();
    let frame = FromWorker::UpdateWorker(UpdateWorker::default()).frame();
    let answer = exchange(&mut early, Message::binary(frame)).await;
    assert!(
        matches!(answer, Some(Ok(Message::Close(Some(_))))),
        "{answer:?}"
    );
    assert!(
        connect_as(&dispatcher.url, "forged.token.here")
            .await
            .is_err()
    );
    let wanted = job(AGENT, "");
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    good.assigned(&wanted.id).await;
}

pub(crate) async fn exchange(
    socket: &mut crate::sim::Socket,
    message: Message,
) -> Option<Result<Message, tokio_tungstenite::tungstenite::Error>> {
    use futures_util::{SinkExt as _, StreamExt as _};
    socket.send(message).await.unwrap();
    let answer = tokio::time::timeout(crate::upstream::PATIENCE, socket.next()).await;
    answer.expect("an answer in time")
}

/// LiveKit's library for Node never says how its jobs are, and names none when it is back.
#[tokio::test]
async fn the_server_says_that_a_job_is_over_whose_worker_never_does() {
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let mut plan = dispatcher.plan("v1");
    plan.mute = true;
    let worker = Sim::start(&plan).await;
    ready(&upstream).await;
    let (first, second) = (job(AGENT, ""), job(AGENT, ""));
    for wanted in [&first, &second] {
        assert_eq!(upstream.launch(wanted).await, Outcome::Assigned);
        worker.assigned(&wanted.id).await;
    }
    worker.disconnect();
    worker
        .until("it is gone", |seen| matches!(seen, Seen::Closed(_)))
        .await;
    let _back = Sim::start(&plan).await;
    // Nobody claims them, and nobody takes them for lost.
    control.live("v1", 2).await;
    assert!(upstream.terminate(&first.id));
    control.live("v1", 1).await;
    let told = control
        .until("its end is told", |told| told.ended.len() == 1)
        .await;
    assert_eq!(told.ended[0].outcome, CallOutcome::Completed);
    assert_eq!(told.ended[0].call.as_str(), first.id);
}

#[tokio::test]
async fn what_jobs_ask_the_server_is_passed_on_without_the_path_of_their_worker() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (upstream, control) = (quick().await, Control::open());
    let dispatcher = control.start(&upstream).await;
    let addr = dispatcher.running.as_ref().unwrap().addr;
    let ask = async |token: &str| {
        let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let request = format!(
            "POST /w/v1/twirp/livekit.RoomService/ListRooms HTTP/1.1\r\nHost: x\r\n\
             Authorization: Bearer {token}\r\nContent-Type: application/protobuf\r\n\
             Content-Length: 5\r\n\r\n\n\x03abc"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let claims = serde_json::json!({ "iss": crate::key::KEY, "video": { "roomList": true } });
    let answer = ask(&crate::key::sign(&claims)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let find = |all: &[Record]| {
        all.iter().find_map(|record| match &record.event {
            Event::Http { head, body, .. } => Some((head.clone(), body.clone())),
            _ => None,
        })
    };
    let (head, body) = upstream.records().until("it is asked", find).await;
    assert!(
        head.starts_with("POST /twirp/livekit.RoomService/ListRooms HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains(&format!("Host: {}", upstream.addr)), "{head}");
    assert_eq!(body, b"\n\x03abc");
    let answer = ask("forged.token.here").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn a_dispatcher_that_is_to_end_ends_with_its_last_job() {
    let (upstream, control) = (quick().await, Control::open());
    let mut dispatcher = control.start(&upstream).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    let first = job(AGENT, "");
    assert_eq!(upstream.launch(&first).await, Outcome::Assigned);
    worker.assigned(&first.id).await;
    let running = dispatcher.running.take().unwrap();
    let ending = tokio::spawn(async move {
        running.drain().await;
        running
    });
    let full = |all: &[Record]| {
        let last = all.iter().rev().find_map(|record| match record.event {
            Event::Status { status, .. } => Some(status),
            _ => None,
        });
        (last == Some(Some(WorkerStatus::Full))).then_some(())
    };
    upstream.records().until("no job is taken", full).await;
    assert!(!ending.is_finished());
    worker.end(&first.id, JobStatus::Success);
    let running = tokio::time::timeout(crate::upstream::PATIENCE, ending)
        .await
        .unwrap()
        .unwrap();
    dispatcher.running = Some(running);
    control.live("v1", 0).await;
}
