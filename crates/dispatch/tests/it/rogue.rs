//! Workers that are broken, slow or lie: they are let go or not listened to, and a good one beside
//! them takes every job meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use segue_core::link::CallOutcome;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::control::{AGENT, Control, Dispatcher};
use crate::dispatcher::{quick, ready};
use crate::key;
use crate::sim::{Seen, Sim, connect};
use crate::upstream::{Event, Outcome, PATIENCE, Record, Upstream, job};
use crate::wire::{
    Answer, FromWorker, JobStatus, MigrateJob, Ping, UpdateJob, UpdateWorker, WorkerStatus,
};

/// Of a connection that nobody reads: small, so that it is soon full.
const RECEIVE_BYTES: u32 = 4 * 1024;

/// How often it is looked who is still there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

struct Stage {
    upstream: Upstream,
    control: Control,
    dispatcher: Dispatcher,
    good: Sim,
}

impl Stage {
    async fn open() -> Self {
        let (upstream, control) = (quick().await, Control::open());
        let dispatcher = control.start(&upstream).await;
        let good = Sim::start(&dispatcher.plan("v1")).await;
        ready(&upstream).await;
        Self {
            upstream,
            control,
            dispatcher,
            good,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.dispatcher.running.as_ref().unwrap().addr
    }

    fn workers(&self) -> usize {
        self.dispatcher.running.as_ref().unwrap().workers().len()
    }

    /// A job comes in, and the good worker has it.
    async fn serves(&self) {
        let wanted = job(AGENT, "");
        assert_eq!(self.upstream.launch(&wanted).await, Outcome::Assigned);
        self.good.assigned(&wanted.id).await;
    }
}

/// Everything a worker may say.
fn everything(job: &str, stage: &Stage) -> Vec<FromWorker> {
    vec![
        FromWorker::Register(stage.dispatcher.plan("v1").register),
        FromWorker::Availability(Answer {
            job_id: job.to_owned(),
            available: true,
            ..Answer::default()
        }),
        FromWorker::UpdateWorker(UpdateWorker {
            status: Some(WorkerStatus::Available.into()),
            load: 0.1,
            job_count: 1,
        }),
        FromWorker::UpdateJob(UpdateJob {
            job_id: job.to_owned(),
            status: JobStatus::Success.into(),
            error: String::new(),
        }),
        FromWorker::Ping(Ping { timestamp: 7 }),
        FromWorker::MigrateJob(MigrateJob {
            job_ids: vec![job.to_owned()],
        }),
    ]
}

/// Waits until a worker's messages so far were read: they are, in order.
async fn heard(worker: &Sim) {
    let pongs = |seen: &[Seen]| {
        let pongs = seen.iter().filter(|seen| matches!(seen, Seen::Pong(_)));
        pongs.count()
    };
    let before = pongs(&worker.seen());
    let timestamp = i64::try_from(before).unwrap() + 1_000;
    worker.send(FromWorker::Ping(Ping { timestamp }));
    let answered = |seen: &Seen| *seen == Seen::Pong(timestamp);
    worker.until("it is answered", answered).await;
}

#[tokio::test]
async fn a_message_that_is_cut_off_anywhere_ends_its_connection_alone() {
    let stage = Stage::open().await;
    let malformed = Seen::Closed(Some(1002));
    for message in everything("AJ_other", &stage) {
        let whole = message.frame();
        // As the first message, and behind a registration.
        for cut in 1..whole.len() {
            let mut socket = connect(&stage.dispatcher.url).await.unwrap();
            let frame = Message::binary(whole[..cut].to_vec());
            socket.send(frame).await.unwrap();
            let answer = timeout(PATIENCE, socket.next()).await.unwrap();
            let Some(Ok(Message::Close(Some(close)))) = answer else {
                panic!("{cut} bytes of {whole:?}: {answer:?}");
            };
            assert_eq!(u16::from(close.code), 1002, "{cut} bytes of {whole:?}");
        }
        let bad = Sim::start(&stage.dispatcher.plan("v1")).await;
        bad.send_frame(Message::binary(whole[..whole.len() - 1].to_vec()));
        let is = |seen: &Seen| *seen == malformed;
        bad.until("it is refused", is).await;
        stage.serves().await;
    }
}

/// A worker of the same release is believed that a job is its own, since it may have come back
/// before its old connection is known to be broken; no other one is.
#[tokio::test]
async fn nobody_has_a_say_in_the_jobs_of_another_worker() {
    let stage = Stage::open().await;
    let wanted = job(AGENT, "");
    assert_eq!(stage.upstream.launch(&wanted).await, Outcome::Assigned);
    stage.good.assigned(&wanted.id).await;
    let beside = Sim::start(&stage.dispatcher.plan("v1")).await;
    let other = Sim::start(&stage.dispatcher.plan("v2")).await;
    for lie in everything(&wanted.id, &stage).into_iter().skip(1) {
        if !matches!(lie, FromWorker::MigrateJob(_)) {
            beside.send(lie.clone());
        }
        other.send(lie);
    }
    // Once more, now that it has claimed it.
    other.send(FromWorker::UpdateJob(UpdateJob {
        job_id: wanted.id.clone(),
        status: JobStatus::Failed.into(),
        error: "a lie".to_owned(),
    }));
    heard(&beside).await;
    heard(&other).await;
    assert!(stage.upstream.terminate(&wanted.id), "it was ended");
    let told = |seen: &Seen| *seen == Seen::Terminated(wanted.id.clone());
    stage.good.until("it is asked to end it", told).await;
    if stage.good.jobs().contains(&wanted.id) {
        stage.good.end(&wanted.id, JobStatus::Success);
    }
    let ended = stage.control.until("its end is told", |told| {
        assert!(told.ended.len() < 2);
        told.ended.len() == 1
    });
    assert_eq!(ended.await.ended[0].outcome, CallOutcome::Completed);
    for liar in [beside, other] {
        assert!(!liar.seen().iter().any(told));
    }
}

#[tokio::test]
async fn what_is_no_number_is_no_load() {
    let stage = Stage::open().await;
    let odd = Sim::start(&stage.dispatcher.plan("v1")).await;
    for load in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, f32::MAX] {
        for (status, job_count) in [(Some(0), u32::MAX), (Some(99), 0), (None, 0)] {
            odd.send(FromWorker::UpdateWorker(UpdateWorker {
                status,
                load,
                job_count,
            }));
            heard(&odd).await;
            let wanted = job(AGENT, "");
            let outcome = stage.upstream.launch(&wanted).await;
            assert_eq!(outcome, Outcome::Assigned, "{status:?} {load}");
        }
    }
    for Record { event, .. } in stage.upstream.records().all() {
        if let Event::Status { load, .. } = event {
            assert!((0.0..=1.0).contains(&load), "{load} was passed on");
        }
    }
}

/// A worker that has registered, says that it takes jobs, and then reads nothing.
async fn deaf(stage: &Stage) -> WebSocketStream<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BYTES).unwrap();
    let stream = socket.connect(stage.addr()).await.unwrap();
    let url = format!("{}/agent", stage.dispatcher.url);
    let mut request = url.into_client_request().unwrap();
    let bearer = format!("Bearer {}", key::of_worker());
    let headers = request.headers_mut();
    headers.insert("authorization", bearer.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap();
    let [register, _, available, ..] = &everything("", stage)[..] else {
        unreachable!("there are six");
    };
    for message in [register, available] {
        let frame = Message::binary(message.clone().frame());
        socket.send(frame).await.unwrap();
    }
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_slow_is_let_go_and_holds_up_nobody() {
    let stage = Stage::open().await;
    let mut half = TcpStream::connect(stage.addr()).await.unwrap();
    half.write_all(b"GET /agent HTTP/1.1\r\nHost: ")
        .await
        .unwrap();
    let half = tokio::spawn(async move { half.read(&mut [0; 64]).await.unwrap_or_default() });
    let mut silent = connect(&stage.dispatcher.url).await.unwrap();
    let silent = tokio::spawn(async move { silent.next().await });
    let mut deaf = deaf(&stage).await;
    let began = Instant::now();
    while stage.workers() < 2 {
        assert!(began.elapsed() < PATIENCE, "it does not get in");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // It asks and asks, and never reads an answer, until whoever answers has enough.
    let asks = tokio::spawn(async move {
        let frame = || Message::binary(FromWorker::Ping(Ping { timestamp: 1 }).frame());
        while deaf.send(frame()).await.is_ok() {}
    });
    while stage.workers() > 1 || !half.is_finished() || !silent.is_finished() {
        assert!(began.elapsed() < PATIENCE, "somebody is not let go");
        stage.serves().await;
    }
    assert_eq!(half.await.unwrap(), 0, "a head that never ends");
    let Some(Ok(Message::Close(Some(close)))) = silent.await.unwrap() else {
        panic!("a worker that never registers is told why");
    };
    assert_eq!(u16::from(close.code), 1002);
    asks.abort();
}
