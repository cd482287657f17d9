//! That the test server keeps the rules it is there for.

use std::sync::Arc;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use crate::sim::{Plan, Reply, Seen, Sim, job_id, refused};
use crate::upstream::{Event, Loss, Outcome, Record, Rules, Upstream, job};
use crate::wire::{FromWorker, JobStatus, Ping, UpdateWorker, WorkerStatus};

/// A server that loses no time with choosing a node.
async fn quick() -> Upstream {
    Upstream::open_with(Rules {
        choosing: Duration::ZERO,
        ..Rules::default()
    })
    .await
}

#[tokio::test]
async fn a_job_goes_to_a_worker_of_exactly_its_key() {
    let upstream = quick().await;
    let mut plan = Plan::new(&upstream.url(), "desk");
    let live = Sim::start(&plan).await;
    plan.register.deployment = "green".to_owned();
    let green = Sim::start(&plan).await;
    let mut wanted = job("desk", "");
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    let assignment = live.assigned(&wanted.id).await;
    assert_eq!(assignment.url, None);
    wanted = job("desk", "");
    wanted.deployment = "green".to_owned();
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    green.assigned(&wanted.id).await;
    wanted.deployment = "blue".to_owned();
    let nobody = Outcome::Lost(Loss::NobodyRegistered);
    assert_eq!(upstream.launch(&wanted).await, nobody);
    assert_eq!(upstream.launch(&job("other", "")).await, nobody);
}

#[tokio::test]
async fn the_less_loaded_is_drawn_more_often() {
    const DRAWS: u32 = 300;
    let upstream = quick().await;
    let mut plan = Plan::new(&upstream.url(), "desk");
    plan.load = 0.2;
    let idle = Sim::start(&plan).await;
    plan.load = 0.6;
    let busy = Sim::start(&plan).await;
    let both = |all: &[Record]| {
        let told = |record: &&Record| matches!(record.event, Event::Status { .. });
        (all.iter().filter(told).count() == 2).then_some(())
    };
    upstream
        .records()
        .until("both have said their load", both)
        .await;
    for _ in 0..DRAWS {
        assert_eq!(upstream.launch(&job("desk", "")).await, Outcome::Assigned);
    }
    let offers = |sim: &Sim| {
        let offered = |seen: &Seen| u32::from(matches!(seen, Seen::Offered(_)));
        sim.seen().iter().map(offered).sum::<u32>()
    };
    // 0.8 to 0.4, so two thirds; the draws are the seed's, so the numbers are always the same.
    let share = offers(&idle);
    assert!((180..=220).contains(&share), "{share} of {DRAWS}");
    assert_eq!(share + offers(&busy), DRAWS);
}

#[tokio::test]
async fn after_a_refusal_it_asks_the_next() {
    let upstream = quick().await;
    let mut plan = Plan::new(&upstream.url(), "desk");
    let willing = Sim::start(&plan).await;
    plan.reply = Reply::Refuse;
    let refuses = Sim::start(&plan).await;
    for _ in 0..20 {
        assert_eq!(upstream.launch(&job("desk", "")).await, Outcome::Assigned);
    }
    refuses
        .until("an offer", |seen| matches!(seen, Seen::Offered(_)))
        .await;
    willing.reply(Reply::Refuse);
    let nobody = Outcome::Lost(Loss::NobodyAvailable);
    assert_eq!(upstream.launch(&job("desk", "")).await, nobody);
    willing.reply(Reply::Terminate);
    refuses.disconnect();
    upstream.until_registered("desk", 1).await;
    assert_eq!(upstream.launch(&job("desk", "")).await, Outcome::Satisfied);
}

#[tokio::test]
async fn after_a_lost_connection_it_asks_the_next() {
    let upstream = Arc::new(quick().await);
    let mut plan = Plan::new(&upstream.url(), "desk");
    plan.reply = Reply::Silence;
    let silent = Sim::start(&plan).await;
    let launching = tokio::spawn({
        let upstream = Arc::clone(&upstream);
        async move { upstream.launch(&job("desk", "")).await }
    });
    silent
        .until("an offer", |seen| matches!(seen, Seen::Offered(_)))
        .await;
    plan.reply = Reply::Accept;
    let next = Sim::start(&plan).await;
    silent.disconnect();
    assert_eq!(launching.await.unwrap(), Outcome::Assigned);
    next.until("it has the job", |seen| matches!(seen, Seen::Assigned(_)))
        .await;
}

#[tokio::test]
async fn silence_loses_the_job() {
    let upstream = quick().await;
    let mut plan = Plan::new(&upstream.url(), "desk");
    plan.reply = Reply::Silence;
    let silent = Sim::start(&plan).await;
    let lost = upstream.launch(&job("desk", "")).await;
    assert_eq!(lost, Outcome::Lost(Loss::TimedOut));
    // An answer that comes when nobody waits any more is of an unknown job.
    let Seen::Offered(bytes) = silent
        .until("an offer", |seen| matches!(seen, Seen::Offered(_)))
        .await
    else {
        unreachable!("it was looked for");
    };
    silent.send(FromWorker::Availability(crate::wire::Answer {
        job_id: job_id(&bytes),
        available: true,
        ..crate::wire::Answer::default()
    }));
    let unknown = |record: &Record| {
        matches!(record.event, Event::Answered { known: false, .. }).then_some(())
    };
    let records = upstream.records();
    records
        .until("an unknown answer", |all| all.iter().find_map(unknown))
        .await;
}

#[tokio::test]
async fn a_full_or_loaded_fleet_is_no_fleet() {
    let upstream = quick().await;
    let worker = Sim::start(&Plan::new(&upstream.url(), "desk")).await;
    worker.load(0.7);
    let said = |all: &[Record], load: f32| {
        let is = |record: &Record| matches!(record.event, Event::Status { load: told, .. } if told.to_bits() == load.to_bits());
        all.iter().any(is).then_some(())
    };
    let records = upstream.records();
    records.until("its load", |all| said(all, 0.7)).await;
    let none = Outcome::Lost(Loss::NoAffinity);
    assert_eq!(upstream.launch(&job("desk", "")).await, none);
    worker.load(0.3);
    records.until("its load", |all| said(all, 0.3)).await;
    assert_eq!(upstream.launch(&job("desk", "")).await, Outcome::Assigned);
    worker.drain();
    records.until("that it is full", |all| said(all, 0.0)).await;
    assert_eq!(upstream.launch(&job("desk", "")).await, none);
}

#[tokio::test]
async fn a_lost_connection_forgets_its_jobs_and_naming_them_changes_nothing() {
    let upstream = quick().await;
    let plan = Plan::new(&upstream.url(), "desk");
    let worker = Sim::start(&plan).await;
    let wanted = job("desk", "");
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    worker.assigned(&wanted.id).await;
    worker.disconnect();
    upstream.until_registered("desk", 0).await;
    let worker = worker.reconnect(&plan).await;
    let named = |record: &Record| match &record.event {
        Event::Migrated { jobs, .. } => Some(jobs.clone()),
        _ => None,
    };
    let records = upstream.records();
    let jobs = records
        .until("it names its job", |all| all.iter().find_map(named))
        .await;
    assert_eq!(jobs, std::slice::from_ref(&wanted.id));
    assert!(!upstream.terminate(&wanted.id));
    worker.end(&wanted.id, JobStatus::Success);
    let ended = |record: &Record| match record.event {
        Event::Updated {
            status: JobStatus::Success,
            known,
            ..
        } => Some(known),
        _ => None,
    };
    assert!(
        !records
            .until("its end", |all| all.iter().find_map(ended))
            .await
    );
}

#[tokio::test]
async fn a_server_that_comes_back_knows_nobody() {
    let upstream = quick().await;
    let plan = Plan::new(&upstream.url(), "desk");
    let worker = Sim::start(&plan).await;
    upstream.restart().await;
    worker
        .until("it is cut off", |seen| matches!(seen, Seen::Closed(_)))
        .await;
    let nobody = Outcome::Lost(Loss::NobodyRegistered);
    assert_eq!(upstream.launch(&job("desk", "")).await, nobody);
    let _worker = worker.reconnect(&plan).await;
    assert_eq!(upstream.launch(&job("desk", "")).await, Outcome::Assigned);
}

#[tokio::test]
async fn whoever_breaks_the_rules_is_cut_off() {
    let upstream = quick().await;
    let status = FromWorker::UpdateWorker(UpdateWorker {
        status: Some(WorkerStatus::Available.into()),
        load: 0.0,
        job_count: 0,
    });
    let plan = Plan::new(&upstream.url(), "desk");
    let again = FromWorker::Register(plan.register.clone());
    let frames = [
        ("twice", Message::Binary(again.frame().into())),
        ("invalid", Message::Binary(vec![0xff, 0xff, 0xff].into())),
        ("no known kind", Message::Binary(vec![].into())),
        ("text", Message::text("{}")),
        ("too long", Message::Binary(vec![0; (2 << 20) + 1].into())),
    ];
    for (rule, frame) in frames {
        let worker = Sim::start(&plan).await;
        worker.send_frame(frame);
        worker
            .until(rule, |seen| matches!(seen, Seen::Closed(_)))
            .await;
    }
    let mut early = crate::sim::connect(&upstream.url()).await.unwrap();
    let ping = FromWorker::Ping(Ping { timestamp: 1 });
    for message in [ping, status] {
        let frame = Message::Binary(message.frame().into());
        futures_util::SinkExt::send(&mut early, frame)
            .await
            .unwrap();
    }
    let broke = |all: &[Record]| {
        let of = |record: &&Record| matches!(record.event, Event::Broke { .. });
        (all.iter().filter(of).count() == 6).then_some(())
    };
    upstream
        .records()
        .until("all six broke a rule", broke)
        .await;
}

#[tokio::test]
async fn only_workers_get_in() {
    let upstream = quick().await;
    assert_eq!(refused(&format!("{}/elsewhere", upstream.url())).await, 404);
    let other =
        crate::key::sign(&serde_json::json!({ "iss": "nobody", "video": { "agent": true } }));
    let person = crate::key::sign(&serde_json::json!({ "iss": crate::key::KEY, "video": {} }));
    let forged = format!("{}x", crate::key::of_worker());
    for token in [other, person, forged] {
        let claimed = crate::sim::connect_as(&upstream.url(), &token).await;
        let Err(error) = claimed else {
            panic!("{token} got in");
        };
        assert!(error.to_string().contains("401"), "{error}");
    }
}
