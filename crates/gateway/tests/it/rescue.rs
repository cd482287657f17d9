//! Calls whose workers die.

use std::time::Duration;

use segue_core::link::{CallOutcome, ToController, ToGateway};
use segue_core::spec::Rescue;
use segue_core::table::RoutingTable;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::controller::Controller;
use crate::support::fleet::{Fleet, Stream, Taken, hears};
use crate::support::gateway::{Gateway, Process, config};
use crate::support::table::{release, table};
use crate::support::ws::{BINARY, CLOSE, Ws, call, exchange, frame, upgrade};
use crate::support::{Dir, soon};
use crate::tls;

const TEXT: u8 = 1;
const PING: u8 = 9;

pub(crate) struct Rig {
    pub(crate) gateway: Gateway,
    pub(crate) controller: Controller,
    pub(crate) fleet: Fleet,
    _dir: Dir,
}

pub(crate) fn rescued_table(epoch: u64, fleet: &Fleet, workers: &[usize]) -> RoutingTable {
    let names = ["w1", "w2", "w3", "w4"];
    let workers: Vec<_> = workers
        .iter()
        .map(|worker| (names[*worker], "v1", fleet.addrs[*worker]))
        .collect();
    let mut table = table(epoch, "v1", &workers);
    table.rescue = Some(Rescue {
        opening_messages: 2,
    });
    table
}

impl Rig {
    /// A gateway that rescues, with so many workers.
    pub(crate) async fn start(workers: usize) -> Self {
        Self::with(Fleet::start(workers).await, |_| ()).await
    }

    async fn with(fleet: Fleet, adjust: impl FnOnce(&mut segue_gateway::Config)) -> Self {
        let dir = Dir::new();
        let all: Vec<usize> = (0..fleet.addrs.len()).collect();
        let table = rescued_table(1, &fleet, &all);
        let mut controller = Controller::start(dir.path(), table);
        let mut config = config(dir.path());
        adjust(&mut config);
        let gateway = Gateway::start(config).await;
        controller
            .report("the first table", |report| report.epoch.0 == 1)
            .await;
        Self {
            gateway,
            controller,
            fleet,
            _dir: dir,
        }
    }

    /// A call whose caller has said `connected` and `start`, and whose worker has heard both.
    pub(crate) async fn talk(&mut self, id: &str) -> (Ws<TcpStream>, Taken) {
        let mut caller = call(self.gateway.addr, &format!("/ws/{id}"), "X-Own: kept\r\n").await;
        caller.send(TEXT, b"connected").await.unwrap();
        caller.send(TEXT, b"start").await.unwrap();
        let mut taken = self.fleet.take().await;
        taken.expect(b"connected").await;
        taken.expect(b"start").await;
        (caller, taken)
    }

    /// The call where it goes on: behind its opening.
    pub(crate) async fn rescued(&mut self) -> Taken {
        let mut taken = self.fleet.take().await;
        taken.expect(b"connected").await;
        taken.expect(b"start").await;
        taken
    }

    pub(crate) async fn states(&mut self) -> Vec<String> {
        let question = ToGateway::ListCalls {
            request: 1,
            agent: None,
            limit: 100,
        };
        match self.controller.ask(question).await {
            ToController::Calls { calls, .. } => calls.into_iter().map(|c| c.state).collect(),
            other => panic!("{other:?}"),
        }
    }
}

/// The close frame that ends it, and the end behind it.
async fn closes(mut caller: Ws<impl Stream>) -> Vec<u8> {
    let next = soon("a close frame", caller.next()).await.unwrap();
    let Some((CLOSE, payload)) = next else {
        panic!("no close frame: {next:?}");
    };
    caller.send(CLOSE, &payload).await.unwrap();
    let end = soon("the end", caller.next()).await.unwrap();
    assert_eq!(end, None);
    payload
}

/// The caller says goodbye. Without it, whichever is gone first decides whether the other one is
/// looked after.
pub(crate) async fn hang_up(mut caller: Ws<TcpStream>, mut taken: Taken) {
    caller.send(CLOSE, b"\x03\xe8").await.unwrap();
    taken.expect(b"\x03\xe8").await;
}

const LOST: &[u8] = b"\x03\xf3worker lost";

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_at_another_worker_of_its_release() {
    let mut rig = Rig::start(2).await;
    for (number, death) in [&b""[..], b"\x03\xe9", b"\x03\xf3", b"\x03\xf4"]
        .into_iter()
        .enumerate()
    {
        let (mut caller, mut first) = rig.talk(&format!("a{number}")).await;
        first.ws.send(TEXT, b"hello").await.unwrap();
        hears(&mut caller, b"hello").await;
        if !death.is_empty() {
            first.ws.send(CLOSE, death).await.unwrap();
        }
        let at = first.worker;
        drop(first);

        let mut next = rig.rescued().await;
        assert_ne!(next.worker, at);
        for line in [
            "X-Segue-Resume: true",
            "X-Segue-Rescue: 1",
            &format!("X-Segue-Call-Id: a{number}"),
            "X-Segue-Release: v1",
            "X-Forwarded-Host: desk.example",
            "X-Own: kept",
        ] {
            assert!(next.says(line), "{line}\n{}", next.head);
        }
        let keys = next.head.matches("Sec-WebSocket-Key").count();
        assert_eq!(keys, 1, "{}", next.head);
        // Neither side knows of anything.
        next.ws.send(TEXT, b"are you there").await.unwrap();
        hears(&mut caller, b"are you there").await;
        caller.send(TEXT, b"yes").await.unwrap();
        next.expect(b"yes").await;
        assert_eq!(rig.states().await.first().unwrap(), "rescued");

        caller.send(CLOSE, b"\x03\xe8").await.unwrap();
        next.expect(b"\x03\xe8").await;
        next.ws.send(CLOSE, b"\x03\xe8").await.unwrap();
        drop(next);
        assert_eq!(closes(caller).await, b"\x03\xe8");
        let ended = rig
            .controller
            .ended("its record", |ended| ended.records.len() > number)
            .await;
        let record = &ended[number];
        assert_eq!(record.outcome, CallOutcome::Completed);
        assert_eq!(record.rescued.unwrap().times, 1);
    }
    let report = rig
        .controller
        .report("all is over", |report| {
            let counts = report.releases.get(&release("v1"));
            counts.is_some_and(|counts| counts.live == 0)
        })
        .await;
    let totals = &report.releases[&release("v1")].totals;
    assert_eq!((totals.ended, totals.dropped, totals.rescued), (4, 0, 4));
    assert!(report.workers.is_empty(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_within_a_message_has_not_begun_it() {
    let mut rig = Rig::start(2).await;
    let two = frame(TEXT, b"two", false);
    // The last one is whole.
    for cut in 0..=two.len() {
        let (mut caller, mut first) = rig.talk(&format!("down{cut}")).await;
        let mut said = frame(TEXT, b"one", false);
        said.extend(&two[..cut]);
        first.ws.stream.write_all(&said).await.unwrap();
        // All of it has reached the gateway.
        hears(&mut caller, b"one").await;
        drop(first);
        let mut next = rig.rescued().await;
        next.ws.send(TEXT, b"three").await.unwrap();
        if cut == two.len() {
            hears(&mut caller, b"two").await;
        }
        hears(&mut caller, b"three").await;
        hang_up(caller, next).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_within_a_message_says_it_whole_to_the_next_worker() {
    let mut rig = Rig::start(2).await;
    // In two fragments, with a ping between them.
    let mut message = frame(TEXT, b"hel", true);
    message[0] = TEXT;
    message.extend(frame(PING, b"p", true));
    let mut last = frame(0, b"lo", true);
    message.append(&mut last);
    for cut in 0..=message.len() {
        let (mut caller, mut first) = rig.talk(&format!("up{cut}")).await;
        caller.stream.write_all(&message[..cut]).await.unwrap();
        if cut == message.len() {
            // Then the dead worker had it.
            for part in [&b"hel"[..], b"p", b"lo"] {
                first.expect(part).await;
            }
        }
        drop(first);
        let mut next = rig.rescued().await;
        caller.stream.write_all(&message[cut..]).await.unwrap();
        caller.send(TEXT, b"next").await.unwrap();
        if cut < message.len() {
            for part in [&b"hel"[..], b"p", b"lo"] {
                next.expect(part).await;
            }
        }
        next.expect(b"next").await;
        hang_up(caller, next).await;
    }
}

/// Fifty callers that send and hear a frame every 20 ms, and a worker that is gone at once.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_calls_outlive_their_worker() {
    const CALLS: usize = 50;
    let mut rig = Rig::with(Fleet::start(2).await, |_| ()).await;
    let one = rescued_table(2, &rig.fleet, &[0]);
    rig.controller.install(one).await;
    let (died, deaths) = tokio::sync::watch::channel(None::<Instant>);
    let mut callers = tokio::task::JoinSet::new();
    let mut echoes = tokio::task::JoinSet::new();
    for number in 0..CALLS {
        let mut caller = call(rig.gateway.addr, &format!("/ws/c{number}"), "").await;
        caller.send(TEXT, b"connected").await.unwrap();
        caller.send(TEXT, b"start").await.unwrap();
        callers.spawn(talks(caller, deaths.clone()));
        echoes.spawn(echo(rig.fleet.take().await));
    }
    let both = rescued_table(3, &rig.fleet, &[0, 1]);
    rig.controller.install(both).await;
    // All of them flow.
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.fleet.stop(0).await;
    died.send(Some(Instant::now())).unwrap();
    echoes.shutdown().await;
    let mut rescued = Vec::new();
    for _ in 0..CALLS {
        let taken = rig.fleet.take().await;
        assert_eq!(taken.worker, 1);
        assert!(taken.says("X-Segue-Rescue: 1"), "{}", taken.head);
        echoes.spawn(echo(taken));
    }
    let mut gaps = Vec::new();
    while let Some(gap) = soon("every caller", callers.join_next()).await {
        gaps.push(gap.unwrap());
    }
    while let Some(opening) = soon("every worker", echoes.join_next()).await {
        rescued.push(opening.unwrap());
    }
    assert_eq!(rescued, vec![2; CALLS], "each was told its opening once");
    assert!(rig.fleet.is_idle(), "no call was rescued twice");
    gaps.sort();
    let (p50, p99, max) = (gaps[CALLS / 2], gaps[CALLS * 99 / 100], gaps[CALLS - 1]);
    println!("rescue gap of {CALLS} calls: p50 {p50:?} p99 {p99:?} max {max:?}");
    let report = rig
        .controller
        .report("all is over", |report| {
            let counts = report.releases.get(&release("v1"));
            counts.is_some_and(|counts| counts.live == 0)
        })
        .await;
    let totals = &report.releases[&release("v1")].totals;
    assert_eq!((totals.ended, totals.dropped, totals.rescued), (50, 0, 50));
    let ended = rig
        .controller
        .ended("their records", |ended| ended.records.len() == CALLS)
        .await;
    let mut gaps: Vec<u64> = ended.iter().map(|is| is.rescued.unwrap().gap_ms).collect();
    gaps.sort_unstable();
    println!(
        "as recorded: p50 {} ms, max {} ms",
        gaps[CALLS / 2],
        gaps[CALLS - 1]
    );
}

/// Sends numbers, and hears them in order, none twice, until enough were heard after the death.
/// Answers the longest silence around that.
async fn talks(
    mut caller: Ws<TcpStream>,
    deaths: tokio::sync::watch::Receiver<Option<Instant>>,
) -> Duration {
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let (mut sent, mut heard, mut after) = (0u64, None, 0);
    let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
    while after < 20 {
        tokio::select! {
            _ = tick.tick() => {
                caller.send(BINARY, &sent.to_be_bytes()).await.unwrap();
                sent += 1;
            }
            next = caller.next() => {
                let (opcode, payload) = next.unwrap().expect("the caller's socket stays open");
                assert_eq!(opcode, BINARY);
                let number = u64::from_be_bytes(payload.try_into().unwrap());
                assert!(number < sent && Some(number) > heard, "{number} after {heard:?}");
                heard = Some(number);
                let now = Instant::now();
                if let Some(died) = *deaths.borrow() {
                    // What was under way when it died does not count.
                    if now > died + Duration::from_millis(1) {
                        after += 1;
                        gap = gap.max(now - last.max(died));
                    }
                }
                last = now;
            }
        }
    }
    caller.send(CLOSE, b"\x03\xe8").await.unwrap();
    loop {
        match caller.next().await.unwrap().unwrap() {
            (CLOSE, _) => return gap,
            (opcode, _) => assert_eq!(opcode, BINARY),
        }
    }
}

/// Sends audio back. Answers how many text messages came, all of which come first.
async fn echo(mut taken: Taken) -> u32 {
    let mut opening = 0;
    let mut audio = false;
    loop {
        match taken.ws.next().await.unwrap() {
            Some((TEXT, _)) => {
                assert!(!audio, "the opening comes first");
                opening += 1;
            }
            Some((opcode, payload)) => {
                audio = true;
                taken.ws.send(opcode, &payload).await.unwrap();
                if opcode == CLOSE {
                    return opening;
                }
            }
            None => return opening,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_kills_its_workers_does_not_walk_through_the_fleet() {
    let mut rig = Rig::start(4).await;
    let (caller, first) = rig.talk("a").await;
    drop(first);
    for number in 1..=2 {
        let next = rig.rescued().await;
        assert!(next.says(&format!("X-Segue-Rescue: {number}")));
        drop(next);
    }
    assert_eq!(closes(caller).await, LOST);
    assert!(rig.fleet.is_idle(), "no fourth worker");
    let ended = rig
        .controller
        .ended("its record", |ended| !ended.records.is_empty())
        .await;
    assert_eq!(ended[0].outcome, CallOutcome::Dropped);
    assert_eq!(ended[0].cause, "worker:none");
    assert_eq!(ended[0].rescued.unwrap().times, 2);
}

/// Takes as long as a worker is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_for_whom_no_worker_is_left_is_told_so() {
    let mut rig = Rig::start(1).await;
    let (mut caller, mut first) = rig.talk("a").await;
    rig.fleet.stop(0).await;
    let half = frame(TEXT, b"never whole", false);
    first.ws.send(TEXT, b"whole").await.unwrap();
    first.ws.stream.write_all(&half[..5]).await.unwrap();
    hears(&mut caller, b"whole").await;
    drop(first);
    assert_eq!(closes(caller).await, LOST);
    let report = rig
        .controller
        .report("its end", |report| {
            let counts = report.releases.get(&release("v1"));
            counts.is_some_and(|counts| counts.totals.ended == 1)
        })
        .await;
    let totals = &report.releases[&release("v1")].totals;
    assert_eq!((totals.dropped, totals.rescued), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_started_again_has_its_call_back() {
    let mut rig = Rig::start(1).await;
    let (mut caller, first) = rig.talk("a").await;
    rig.fleet.stop(0).await;
    drop(first);
    loop {
        if rig.states().await == ["rescuing"] {
            break;
        }
        tokio::task::yield_now().await;
    }
    // Nothing of this is lost: nobody reads it before there is somebody for it.
    caller.send(TEXT, b"still here").await.unwrap();
    rig.fleet.restart(0).await;
    let mut again = rig.rescued().await;
    again.expect(b"still here").await;
    again.ws.send(TEXT, b"welcome").await.unwrap();
    hears(&mut caller, b"welcome").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_is_not_offered_and_not_taken() {
    const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let mut rig = Rig::start(1).await;
    let _caller = call(rig.gateway.addr, "/ws/a", OFFER).await;
    let taken = rig.fleet.take().await;
    assert!(!taken.head.contains("Extensions"), "{}", taken.head);

    let rig = Rig::with(Fleet::accepting(1, OFFER).await, |_| ()).await;
    let got = exchange(rig.gateway.addr, upgrade("/ws/a", OFFER).as_bytes()).await;
    assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
    assert!(got.contains("extension"), "{got}");

    // Who does not ask for rescue is left alone.
    let mut rig = Rig::with(Fleet::accepting(1, OFFER).await, |_| ()).await;
    let mut plain = rescued_table(2, &rig.fleet, &[0]);
    plain.rescue = None;
    rig.controller.install(plain).await;
    let _caller = call(rig.gateway.addr, "/ws/a", OFFER).await;
    let taken = rig.fleet.take().await;
    assert!(taken.head.contains(OFFER.trim_end()), "{}", taken.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_not_to_be_rescued_ends_with_its_worker() {
    let mut rig = Rig::start(2).await;
    let mut plain = rescued_table(2, &rig.fleet, &[0, 1]);
    plain.rescue = None;
    rig.controller.install(plain).await;
    let (mut caller, mut first) = rig.talk("a").await;
    // Half a message goes on at once.
    let half = frame(BINARY, b"never whole", false);
    first.ws.stream.write_all(&half[..5]).await.unwrap();
    drop(first);
    let mut got = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut caller.stream, &mut got);
    let _ = soon("the end", read).await;
    assert_eq!(got, half[..5]);
    assert!(rig.fleet.is_idle());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_again_is_not_rescued_but_said_goodbye_to() {
    let mut rig = Rig::start(2).await;
    // It opens with more than is kept.
    let mut caller = call(rig.gateway.addr, "/ws/a", "").await;
    let long = vec![b'x'; 40_000];
    for _ in 0..2 {
        caller.send(TEXT, &long).await.unwrap();
    }
    let mut taken = rig.fleet.take().await;
    for _ in 0..2 {
        taken.expect(&long).await;
    }
    drop(taken);
    assert_eq!(closes(caller).await, LOST);

    // Its worker dies within a message that is too long to be held back.
    let (mut caller, mut taken) = rig.talk("b").await;
    let long = frame(BINARY, &long, false);
    taken.ws.stream.write_all(&long[..39_000]).await.unwrap();
    drop(taken);
    let mut got = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut caller.stream, &mut got);
    let _ = soon("the end", read).await;
    assert!(got == long[..39_000], "all that came, and nothing in it");
    assert!(rig.fleet.is_idle());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_is_a_goodbye() {
    let mut rig = Rig::start(2).await;
    for (number, by_worker) in [true, false].into_iter().enumerate() {
        let (mut caller, mut first) = rig.talk(&format!("a{number}")).await;
        if by_worker {
            first.ws.send(CLOSE, b"\x03\xe8").await.unwrap();
            drop(first);
            assert_eq!(closes(caller).await, b"\x03\xe8");
        } else {
            caller.send(CLOSE, b"\x03\xe8").await.unwrap();
            first.expect(b"\x03\xe8").await;
            drop(first);
            let end = soon("the end", caller.next()).await.unwrap();
            assert_eq!(end, None);
        }
        assert!(rig.fleet.is_idle());
    }
    let report = rig
        .controller
        .report("both ends", |report| {
            let counts = report.releases.get(&release("v1"));
            counts.is_some_and(|counts| counts.totals.ended == 2)
        })
        .await;
    assert_eq!(report.releases[&release("v1")].totals.dropped, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_caller_is_rescued_like_any_other() {
    let certs = Dir::new();
    let (files, trusted) = tls::identity(certs.path());
    let fleet = Fleet::start(2).await;
    let mut rig = Rig::with(fleet, |config| config.tls = Some(files)).await;
    let (_, mut caller) = tls::call(rig.gateway.addr, &trusted, "/ws/a").await;
    caller.send(TEXT, b"connected").await.unwrap();
    caller.send(TEXT, b"start").await.unwrap();
    let mut first = rig.rescued().await;
    let half = frame(TEXT, b"never whole", false);
    first.ws.stream.write_all(&half[..5]).await.unwrap();
    drop(first);
    let mut next = rig.rescued().await;
    next.ws.send(TEXT, b"here").await.unwrap();
    hears(&mut caller, b"here").await;
    caller.send(TEXT, b"good").await.unwrap();
    next.expect(b"good").await;
}

/// The lifeline travels in a handoff, and what is held back on either way travels with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_moved_to_another_process_is_rescued_there() {
    let mut fleet = Fleet::start(2).await;
    let dir = Dir::new();
    let mut controller = Controller::start(dir.path(), rescued_table(1, &fleet, &[0, 1]));
    let mut old = Process::start(dir.path(), false).await;
    controller
        .report("the first table", |report| report.epoch.0 == 1)
        .await;
    let mut caller = call(old.addr, "/ws/a", "").await;
    caller.send(TEXT, b"connected").await.unwrap();
    let mut first = fleet.take().await;
    first.expect(b"connected").await;
    let (start, half) = (
        frame(TEXT, b"start", true),
        frame(TEXT, b"never whole", false),
    );
    caller.stream.write_all(&start[..4]).await.unwrap();
    let mut said = frame(TEXT, b"whole", false);
    said.extend(&half[..4]);
    first.ws.stream.write_all(&said).await.unwrap();
    hears(&mut caller, b"whole").await;

    let mut new = Process::start(dir.path(), true).await;
    assert!(old.ended().await.success());
    drop(first);
    let mut next = fleet.take().await;
    assert!(next.says("X-Segue-Rescue: 1"), "{}", next.head);
    // All that it had heard whole.
    next.expect(b"connected").await;
    caller.stream.write_all(&start[4..]).await.unwrap();
    next.expect(b"start").await;
    next.ws.send(TEXT, b"here").await.unwrap();
    hears(&mut caller, b"here").await;

    // And once more, with what was recorded since.
    drop(next);
    let mut next = fleet.take().await;
    next.expect(b"connected").await;
    next.expect(b"start").await;
    assert!(next.says("X-Segue-Rescue: 2"), "{}", next.head);
    drop((next, caller));
    new.terminate();
    assert!(new.ended().await.success());
}
