//! Calls that are ended by policy.

use segue_core::link::{CallInfo, CallOutcome, ToController, ToGateway};
use segue_core::names::CallId;
use segue_core::table::{Epoch, RoutingTable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::agent::{Manner, Stream};
use crate::support::rig::Rig;
use crate::support::table::{desk, release, table};
use crate::support::ws::{self, ACCEPT, BINARY, CLOSE, read_head, upgrade};
use crate::support::{Dir, soon, until};

/// What both sides are told.
const RETIRED: &[u8] = b"\x03\xe9retired";

/// A table by which no release is to stay.
fn retiring(mut table: RoutingTable) -> RoutingTable {
    for route in table.releases.values_mut() {
        route.retiring = true;
    }
    table
}

fn end_calls(label: &str, calls: impl IntoIterator<Item = String>) -> ToGateway {
    ToGateway::EndCalls {
        agent: desk(),
        release: release(label),
        epoch: Epoch(2),
        calls: calls.into_iter().map(|id| id.parse().unwrap()).collect(),
    }
}

/// Streams calls until they are told to hang up or the other side closes; answers the close frame
/// that each got.
struct Talkers {
    tasks: JoinSet<Result<(Vec<u8>, bool), String>>,
    hang_up: watch::Sender<bool>,
    heard: watch::Receiver<u64>,
}

impl Talkers {
    async fn start(rig: &Rig, name: &str, calls: usize) -> Self {
        let (hang_up, wished) = watch::channel(false);
        let (hears, heard) = watch::channel(0);
        let mut tasks = JoinSet::new();
        for number in 0..calls {
            let ws = ws::call(rig.gateway.addr, &format!("/ws/{name}-{number}"), "").await;
            let (wished, hears) = (wished.clone(), hears.clone());
            tasks.spawn(async move {
                let mut stream = Stream::new(ws);
                let talk = stream.run(|_| {
                    hears.send_modify(|frames| *frames += 1);
                    *wished.borrow()
                });
                talk.await?;
                stream.end().await?;
                stream.closed.ok_or_else(|| "no close frame".to_owned())
            });
        }
        Self {
            tasks,
            hang_up,
            heard,
        }
    }

    /// Waits until so many more frames were heard by all of them together.
    async fn flow(&mut self, frames: u64) {
        let goal = *self.heard.borrow() + frames;
        let heard = self.heard.wait_for(|heard| *heard >= goal);
        soon("frames", heard).await.unwrap();
    }

    async fn ended(self) -> Vec<(Vec<u8>, bool)> {
        let ends = soon("the end of every call", self.tasks.join_all()).await;
        ends.into_iter().collect::<Result<_, _>>().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_flowing_calls_are_closed_in_order_and_no_other() {
    const CALLS: usize = 50;
    let mut rig = Rig::start(Manner::Stream, Manner::Stream).await;
    let mut ending = Talkers::start(&rig, "ends", CALLS).await;
    let mut staying = Talkers::start(&rig, "stays", 5).await;
    rig.controller.install(retiring(rig.table(2, "v2"))).await;
    let mut new = Talkers::start(&rig, "new", 3).await;
    ending.flow(1_000).await;
    let pinned = ws::call(rig.gateway.addr, "/ws/pinned", "").await;
    drop(pinned);
    rig.counts(release("v2"), |counts| counts.pinned == 1).await;

    let names = |name: &str, calls| {
        (0..calls)
            .map(|n| format!("{name}-{n}"))
            .collect::<Vec<_>>()
    };
    // Of another release, of no release, and not live: left alone.
    rig.controller.tell(end_calls("v2", names("stays", 5)));
    rig.controller.tell(end_calls("v1", names("new", 3)));
    let mut all = names("ends", CALLS);
    all.push("never-was".to_owned());
    // Again is no change.
    for _ in 0..3 {
        rig.controller.tell(end_calls("v1", all.clone()));
    }
    rig.controller.tell(end_calls("v2", ["pinned".to_owned()]));

    for close in ending.ended().await {
        assert_eq!(close, (RETIRED.to_vec(), false), "to a caller");
    }
    let counts = rig.counts(release("v1"), |counts| counts.live == 5).await;
    let totals = &counts.totals;
    assert_eq!((totals.started, totals.policy), (55, 50));
    assert_eq!((totals.ended, totals.dropped, totals.errors), (0, 0, 0));
    assert_eq!(totals.closes, [("policy:1001".to_owned(), 50)].into());
    assert_eq!(counts.pinned, 0, "nothing is kept for reconnects");
    {
        let seen = rig.v1.seen.lock().unwrap();
        assert_eq!(seen.faults, Vec::<String>::new());
        assert_eq!(seen.closes, vec![(RETIRED.to_vec(), true); CALLS]);
    }
    let told = |ended: &crate::support::controller::Ended| ended.records.len() == CALLS + 1;
    let records = rig.controller.ended("fifty records", told).await;
    let of_policy = records.iter().filter(|r| r.outcome == CallOutcome::Policy);
    assert!(
        of_policy
            .clone()
            .all(|r| r.cause == "policy:1001" && r.bytes_in > 0 && r.bytes_out > 0)
    );
    assert_eq!(of_policy.count(), CALLS);

    // The others talk on, and end as calls do.
    staying.flow(50).await;
    new.flow(30).await;
    let counts = rig.counts(release("v2"), |counts| counts.live == 3).await;
    assert_eq!((counts.pinned, counts.totals.policy), (1, 0));
    for talkers in [staying, new] {
        talkers.hang_up.send_replace(true);
        for (code, _) in talkers.ended().await {
            assert_eq!(code, 1000u16.to_be_bytes());
        }
    }
    let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
    assert_eq!((counts.totals.ended, counts.totals.dropped), (5, 0));
    let log = rig.dir.path().join("log/calls.jsonl");
    let by_policy = until("the call log", || {
        let text = std::fs::read_to_string(&log).ok()?;
        (text.lines().count() == CALLS + 9).then(|| text.matches("ended by policy").count())
    });
    assert_eq!(by_policy.await, CALLS);
    // Who comes back is decided anew.
    let before = rig.v2.heads().len();
    let _again = ws::call(rig.gateway.addr, "/ws/ends-0", "").await;
    assert_eq!(rig.v2.heads().len(), before + 1);
    assert!(!rig.v2.heads()[before].contains("X-Segue-Resume"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_call_is_closed_in_order_too() {
    let certs = Dir::new();
    let (files, trusted) = crate::tls::identity(certs.path());
    let mut rig = Rig::start_with(Manner::Stream, Manner::Echo, |config| {
        config.tls = Some(files);
    })
    .await;
    let addr = rig.gateway.addr;
    let mut calls = JoinSet::new();
    for number in 0..5 {
        let (_, ws) = crate::tls::call(addr, &trusted, &format!("/ws/tls-{number}")).await;
        calls.spawn(async move {
            let mut stream = Stream::new(ws);
            stream.run(|_| false).await.unwrap();
            // Behind the close frame comes the end of the TLS session, in order.
            stream.end().await.unwrap();
            stream.closed.unwrap()
        });
    }
    let (_, mut other) = crate::tls::call(addr, &trusted, "/ws/other").await;
    rig.counts(release("v1"), |counts| counts.live == 6).await;
    rig.controller.install(retiring(rig.table(2, "v1"))).await;
    let names = (0..5).map(|number| format!("tls-{number}"));
    rig.controller.tell(end_calls("v1", names));
    for close in soon("the ends", calls.join_all()).await {
        assert_eq!(close, (RETIRED.to_vec(), false));
    }
    let counts = rig.counts(release("v1"), |counts| counts.live == 1).await;
    assert_eq!((counts.totals.policy, counts.totals.ended), (5, 0));
    assert_eq!(counts.pinned, 0);
    let seen = until("the worker's side", || {
        let seen = rig.v1.seen.lock().unwrap();
        (seen.closes.len() == 5).then(|| (seen.closes.clone(), seen.faults.clone()))
    });
    let (closes, faults) = seen.await;
    assert_eq!(closes, vec![(RETIRED.to_vec(), true); 5]);
    assert_eq!(faults, Vec::<String>::new());
    let more = soon("a frame of the other call", other.next()).await;
    assert!(matches!(more, Ok(Some((BINARY, _)))), "{more:?}");
}

/// A worker that does nothing by itself.
struct Puppet(TcpListener);

impl Puppet {
    async fn start(rig: &mut Rig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let workers = [("puppet", "v1", listener.local_addr().unwrap())];
        let table = retiring(table(2, "v1", &workers));
        rig.controller.install(table).await;
        Self(listener)
    }

    /// The next connection that asks for something.
    async fn asked(&self) -> TcpStream {
        loop {
            // Health checks connect and say nothing.
            let (mut worker, _) = self.0.accept().await.unwrap();
            if soon("a head", read_head(&mut worker)).await.is_ok() {
                return worker;
            }
        }
    }
}

async fn accept(worker: &mut TcpStream) {
    let accepted = format!(
        "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    worker.write_all(accepted.as_bytes()).await.unwrap();
}

/// Messages are heard in their order, so this one's answer shows that those before were heard.
async fn calls(rig: &Rig) -> Vec<CallInfo> {
    let question = ToGateway::ListCalls {
        request: 1,
        agent: None,
        limit: 1,
    };
    match rig.controller.ask(question).await {
        ToController::Calls { calls, .. } => calls,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_stands_still_within_a_frame_is_cut_and_the_other_is_told() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let puppet = Puppet::start(&mut rig).await;
    let addr = rig.gateway.addr;
    let caller = tokio::spawn(async move { ws::call(addr, "/ws/a", "").await });
    let mut worker = puppet.asked().await;
    accept(&mut worker).await;
    let mut caller = soon("the call", caller).await.unwrap();
    // Half a frame, and no more of it: the worker must not be sent a close frame inside it.
    let half = &ws::frame(BINARY, &[7; 100], true)[..60];
    caller.stream.write_all(half).await.unwrap();
    let mut arrived = vec![0; half.len()];
    soon("half a frame", worker.read_exact(&mut arrived))
        .await
        .unwrap();
    rig.controller.tell(end_calls("v1", ["a".to_owned()]));
    let close = soon("a close frame", caller.next()).await.unwrap();
    assert_eq!(close, Some((CLOSE, RETIRED.to_vec())));
    let mut behind = Vec::new();
    soon("the end", worker.read_to_end(&mut behind))
        .await
        .unwrap();
    assert_eq!((&arrived[..], &behind[..]), (half, &[][..]));
    let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
    assert_eq!((counts.totals.policy, counts.totals.dropped), (1, 0));
    assert_eq!(counts.pinned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_under_way_is_finished_and_nothing_behind_it_is_relayed() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let puppet = Puppet::start(&mut rig).await;
    let addr = rig.gateway.addr;
    let caller = tokio::spawn(async move { ws::call(addr, "/ws/a", "").await });
    let mut worker = puppet.asked().await;
    accept(&mut worker).await;
    let mut caller = soon("the call", caller).await.unwrap();
    let frame = ws::frame(BINARY, &[7; 100], false);
    worker.write_all(&frame[..60]).await.unwrap();
    while calls(&rig).await[0].bytes_out < 60 {}
    rig.controller.tell(end_calls("v1", ["a".to_owned()]));
    // The worker's side is between frames: once it has its close frame, the relay knows.
    let mut worker = ws::Ws::new(worker, Vec::new(), false);
    let close = soon("a close frame", worker.next()).await.unwrap();
    assert_eq!(close, Some((CLOSE, RETIRED.to_vec())));
    assert_eq!(calls(&rig).await.len(), 1, "not over yet");
    // The rest of it, a whole one, and the answer to the close frame, all at once.
    let mut rest = frame[60..].to_vec();
    rest.extend(ws::frame(BINARY, b"too late", false));
    rest.extend(ws::frame(CLOSE, &1001u16.to_be_bytes(), false));
    worker.stream.write_all(&rest).await.unwrap();
    let whole = soon("a whole frame", caller.next()).await.unwrap();
    assert_eq!(whole, Some((BINARY, vec![7; 100])));
    let close = soon("a close frame", caller.next()).await.unwrap();
    assert_eq!(
        close,
        Some((CLOSE, RETIRED.to_vec())),
        "ours, not the worker's"
    );
    caller.close(1001).await.unwrap();
    let end = soon("the end", caller.next()).await.unwrap();
    assert_eq!(end, None);
    assert_eq!(soon("the end", worker.next()).await.unwrap(), None);
    let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
    assert_eq!((counts.totals.policy, counts.totals.ended), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_under_way_in_a_tls_call_is_finished_too() {
    let certs = Dir::new();
    let (files, trusted) = crate::tls::identity(certs.path());
    let mut rig = Rig::start_with(Manner::Echo, Manner::Echo, |config| {
        config.tls = Some(files);
    })
    .await;
    let puppet = Puppet::start(&mut rig).await;
    let addr = rig.gateway.addr;
    let caller = tokio::spawn(async move { crate::tls::call(addr, &trusted, "/ws/a").await });
    let mut worker = puppet.asked().await;
    accept(&mut worker).await;
    let (_, mut caller) = soon("the call", caller).await.unwrap();
    let frame = ws::frame(BINARY, &[7; 100], true);
    caller.stream.write_all(&frame[..60]).await.unwrap();
    let mut arrived = vec![0; 60];
    soon("half a frame", worker.read_exact(&mut arrived))
        .await
        .unwrap();
    rig.controller.tell(end_calls("v1", ["a".to_owned()]));
    let close = soon("a close frame", caller.next()).await.unwrap();
    assert_eq!(close, Some((CLOSE, RETIRED.to_vec())));
    // The rest of it, a whole one, and the answer to the close frame, all at once.
    let mut rest = frame[60..].to_vec();
    rest.extend(ws::frame(BINARY, b"too late", true));
    rest.extend(ws::frame(CLOSE, &1001u16.to_be_bytes(), true));
    caller.stream.write_all(&rest).await.unwrap();
    let mut worker = ws::Ws::new(worker, arrived, false);
    let whole = soon("a whole frame", worker.next()).await.unwrap();
    assert_eq!(whole, Some((BINARY, vec![7; 100])));
    let close = soon("a close frame", worker.next()).await.unwrap();
    assert_eq!(close, Some((CLOSE, RETIRED.to_vec())), "ours");
    assert!(worker.was_masked);
    worker.close(1001).await.unwrap();
    assert_eq!(soon("the end", worker.next()).await.unwrap(), None);
    assert_eq!(soon("the end", caller.next()).await.unwrap(), None);
    let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
    assert_eq!((counts.totals.policy, counts.totals.ended), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_being_dialled_is_refused_instead() {
    let mut rig = Rig::start(Manner::Echo, Manner::Echo).await;
    let puppet = Puppet::start(&mut rig).await;
    let mut caller = TcpStream::connect(rig.gateway.addr).await.unwrap();
    let request = upgrade("/ws/a", "");
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut worker = puppet.asked().await;
    rig.controller.tell(end_calls("v1", ["a".to_owned()]));
    assert_eq!(calls(&rig).await[0].state, "dialling");
    accept(&mut worker).await;
    let mut answer = String::new();
    soon("an answer", caller.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("Retry-After: 0\r\n"), "{answer}");
    let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
    let totals = &counts.totals;
    assert_eq!((totals.errors, totals.ended, counts.pinned), (0, 0, 0));
    let records = rig.controller.ended("a record", |e| e.records.len() == 1);
    let record = records.await.pop().unwrap();
    assert_eq!(record.call, "a".parse::<CallId>().unwrap());
    assert_eq!(record.outcome, CallOutcome::Policy);
    assert_eq!(record.setup_ms, None);
}
