use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use segue_core::time::Timestamp;
use tokio::sync::watch;

use crate::config::Limits;
use crate::ledger::Ledger;
use crate::ledger::tests::{old, table};
use crate::relay::Relay;

use super::*;

/// How long anything may take before a test fails. Never part of what is asserted.
const PATIENCE: Duration = Duration::from_secs(30);

const UPGRADE: &[u8] = b"GET /ws/a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct Rig {
    front: Arc<Front>,
    /// Where the only worker listens.
    worker: TcpListener,
}

fn rig() -> Rig {
    rig_of(1)
}

fn rig_of(shards: usize) -> Rig {
    let worker = TcpListener::bind("127.0.0.1:0").unwrap();
    let front = front(shards, worker.local_addr().unwrap());
    Rig { front, worker }
}

fn front(shards: usize, worker: SocketAddr) -> Arc<Front> {
    let mut table = table(1, old());
    table.workers.retain(|name, _| name.as_str() == "old-1");
    for route in table.workers.values_mut() {
        route.addr = worker;
    }
    let ledger = Ledger::new(None);
    ledger.install(table, Timestamp(0)).unwrap();
    let relay = Arc::new(Relay::start(shards).unwrap());
    Front::new(ledger, relay, Arc::default(), None, Limits::default())
}

fn patient(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Our end of a connection, and a caller's.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, patient(theirs))
}

fn wait_for(socket: &TcpStream, what: PollFlags) {
    let mut asked = [PollFd::new(socket, what)];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut asked, Some(&patience)), Ok(1), "in vain");
}

fn read_head(mut socket: &TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

async fn becomes(mut watched: watch::Receiver<usize>, wished: usize) {
    let becomes = watched.wait_for(|now| *now == wished);
    let waited = tokio::time::timeout(PATIENCE, becomes).await;
    waited.expect("in vain").unwrap();
}

impl Rig {
    fn left(&self) -> usize {
        *self.front.left.borrow()
    }

    /// A caller who has said this, and its next step.
    fn hear(&self, said: &[u8]) -> (Next, TcpStream) {
        let (ours, mut caller) = pair();
        let peer = caller.local_addr().unwrap();
        let arriving = self.front.take_up(ours, peer).unwrap();
        caller.write_all(said).unwrap();
        (step(*arriving, Side::Caller), caller)
    }

    /// A call whose worker has its head, and the worker's end.
    fn asked(&self) -> (Arriving, TcpStream, TcpStream) {
        let (mut next, caller) = self.hear(UPGRADE);
        loop {
            let arriving = waits(next);
            match arriving.awaits() {
                Awaits::NoWorker => panic!("an ordinary call has a worker"),
                Awaits::Connected => next = step(arriving, Side::Worker),
                Awaits::Bytes => {
                    let worker = patient(self.worker.accept().unwrap().0);
                    assert!(read_head(&worker).contains("X-Segue-Call-Id: a\r\n"));
                    return (arriving, caller, worker);
                }
            }
        }
    }
}

/// Once there is something to be done on that side.
fn step(arriving: Arriving, side: Side) -> Next {
    match (side, arriving.awaits()) {
        (Side::Worker, Awaits::Connected) => wait_for(arriving.worker().unwrap(), PollFlags::OUT),
        (Side::Worker, _) => wait_for(arriving.worker().unwrap(), PollFlags::IN),
        (Side::Caller, _) => wait_for(arriving.caller(), PollFlags::IN),
    }
    arriving.step(side, &mut [0; 1_024])
}

fn waits(next: Next) -> Arriving {
    match next {
        Next::Waits(arriving) => *arriving,
        Next::Stands(..) => panic!("it stands"),
        Next::Leaves(_) => panic!("it leaves"),
        Next::Gone => panic!("it is gone"),
    }
}

fn leaves(next: Next) -> Leaving {
    match next {
        Next::Leaves(leaving) => leaving,
        Next::Waits(_) => panic!("it waits"),
        Next::Stands(..) => panic!("it stands"),
        Next::Gone => panic!("it is gone"),
    }
}

/// The worker says 101, and bytes go both ways.
async fn goes_on(rig: &Rig, mut caller: &TcpStream, mut worker: &TcpStream) {
    worker.write_all(ACCEPTED).unwrap();
    stands(rig, caller, worker).await;
    caller.write_all(b"up").unwrap();
    let mut heard = [0; 2];
    worker.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"up");
}

async fn stands(rig: &Rig, caller: &TcpStream, mut worker: &TcpStream) {
    assert!(read_head(caller).starts_with("HTTP/1.1 101 "));
    becomes(rig.front.open(), 0).await;
    assert_eq!(*rig.front.ledger.open().borrow(), 1);
    worker.write_all(b"down").unwrap();
    let mut heard = [0; 4];
    { caller }.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"down");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_call_is_set_up_by_a_shard_alone() {
    let rig = rig();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listening = rig.front.relay.listen(&listener, &rig.front).unwrap();
    let addr = listener.local_addr().unwrap();
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let before = rig.left();
        let caller = patient(TcpStream::connect(addr).unwrap());
        (&caller).write_all(UPGRADE).unwrap();
        let worker = patient(rig.worker.accept().unwrap().0);
        read_head(&worker);
        goes_on(&rig, &caller, &worker).await;
        drop((caller, worker));
        becomes(rig.front.ledger.open(), 0).await;
        // On a machine that is busy, this test itself may answer too late for a shard.
        if rig.left() == before {
            break;
        }
        assert!(std::time::Instant::now() < until, "each one left");
    }
    listening.stop().wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_arriving_when_a_gateway_stops_goes_on() {
    let rig = rig();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listening = rig.front.relay.listen(&listener, &rig.front).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut silent = patient(TcpStream::connect(addr).unwrap());
    let caller = patient(TcpStream::connect(addr).unwrap());
    (&caller).write_all(UPGRADE).unwrap();
    let worker = patient(rig.worker.accept().unwrap().0);
    read_head(&worker);
    listening.stop().wait();
    becomes(rig.front.left.subscribe(), 2).await;
    (&worker).write_all(ACCEPTED).unwrap();
    assert!(read_head(&caller).starts_with("HTTP/1.1 101 "));
    silent.write_all(UPGRADE).unwrap();
    let other = patient(rig.worker.accept().unwrap().0);
    read_head(&other);
    (&other).write_all(ACCEPTED).unwrap();
    assert!(read_head(&silent).starts_with("HTTP/1.1 101 "));
    becomes(rig.front.ledger.open(), 2).await;
    // Whoever calls now waits for the next gateway.
    let _waiting = TcpStream::connect(addr).unwrap();
    wait_for_listener(&listener);
    becomes(rig.front.open(), 0).await;
}

/// As after a handoff that failed while a relay thread was slow.
#[tokio::test(flavor = "multi_thread")]
async fn a_door_that_was_opened_again_stays_open_when_an_earlier_stop_is_over() {
    let rig = rig_of(2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let before = rig.front.relay.listen(&listener, &rig.front).unwrap();
    let stopping = before.stop();
    let _again = rig.front.relay.listen(&listener, &rig.front).unwrap();
    stopping.wait();
    // Each shard has done all that it was told until now.
    assert!(rig.front.relay.give_all().is_empty());
    let caller = patient(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    (&caller).write_all(UPGRADE).unwrap();
    wait_for_listener(&rig.worker);
    let worker = patient(rig.worker.accept().unwrap().0);
    read_head(&worker);
    goes_on(&rig, &caller, &worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_have_about_as_many_calls_each() {
    const CALLS: usize = 200;
    // What one may have more than the other, and what both accept before they say so.
    const APART_MAX: usize = 64 + 2 * 16;
    let rig = rig_of(2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listening = rig.front.relay.listen(&listener, &rig.front).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut ends = Vec::new();
    for _ in 0..CALLS {
        let caller = patient(TcpStream::connect(addr).unwrap());
        (&caller).write_all(UPGRADE).unwrap();
        let mut worker = patient(rig.worker.accept().unwrap().0);
        read_head(&worker);
        worker.write_all(ACCEPTED).unwrap();
        assert!(read_head(&caller).starts_with("HTTP/1.1 101 "));
        ends.push((caller, worker));
    }
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let loads = listening.loads();
        let (most, least) = (*loads.iter().max().unwrap(), *loads.iter().min().unwrap());
        if loads.iter().sum::<usize>() == CALLS && most - least <= APART_MAX {
            break;
        }
        assert!(std::time::Instant::now() < until, "{loads:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(ends);
    becomes(rig.front.ledger.open(), 0).await;
    listening.stop().wait();
}

fn wait_for_listener(listener: &TcpListener) {
    let mut asked = [PollFd::new(listener, PollFlags::IN)];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut asked, Some(&patience)), Ok(1), "nobody waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_may_come_in_pieces() {
    let rig = rig();
    let (next, mut caller) = rig.hear(&UPGRADE[..40]);
    let arriving = waits(next);
    assert_eq!(arriving.awaits(), Awaits::NoWorker);
    caller.write_all(&UPGRADE[40..]).unwrap();
    let mut next = step(arriving, Side::Caller);
    let arriving = loop {
        let arriving = waits(next);
        match arriving.awaits() {
            Awaits::Bytes => break arriving,
            _ => next = step(arriving, Side::Worker),
        }
    };
    let mut worker = patient(rig.worker.accept().unwrap().0);
    read_head(&worker);
    worker.write_all(&ACCEPTED[..40]).unwrap();
    let arriving = waits(step(arriving, Side::Worker));
    worker.write_all(&ACCEPTED[40..]).unwrap();
    worker.write_all(b"down").unwrap();
    let Next::Stands(call, guest) = step(arriving, Side::Worker) else {
        panic!("it does not stand");
    };
    assert_eq!(*rig.front.open().borrow(), 1, "until it is relayed");
    rig.front.relay.adopt(*call);
    drop(guest);
    assert!(read_head(&caller).starts_with("HTTP/1.1 101 "));
    let mut heard = [0; 4];
    caller.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"down");
    assert_eq!(rig.left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_ordinary_call_leaves_with_all_it_said() {
    let long = [b"GET / HTTP/1.1\r\nHost: a\r\nA: ", &[b'a'; 900][..]].concat();
    for (said, answer) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "HTTP/1.1 200 "),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", "HTTP/1.1 400 "),
        (b"GET /\r\n\r\n", "HTTP/1.1 400 "),
        (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let rig = rig();
        let (next, caller) = rig.hear(said);
        leaves(next).go();
        if answer == "HTTP/1.1 200 " {
            let mut worker = patient(rig.worker.accept().unwrap().0);
            read_head(&worker);
            worker
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
        }
        let head = read_head(&caller);
        assert!(head.starts_with(answer), "{head}");
        drop(caller);
        becomes(rig.front.open(), 0).await;
    }
    let rig = rig();
    let (next, mut caller) = rig.hear(&long);
    leaves(Next::Leaves(waits(next).leave())).go();
    let rest = vec![b'a'; HEAD_BYTES_MAX];
    // It is answered before all of it was read.
    let _ = caller.write_all(&rest);
    assert!(read_head(&caller).starts_with("HTTP/1.1 431 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_is_refused_once() {
    let rig = rig();
    rig.front.ledger.stop();
    let (next, caller) = rig.hear(UPGRADE);
    leaves(next).go();
    assert!(read_head(&caller).starts_with("HTTP/1.1 503 "));
    let refusals: u64 = rig.front.ledger.refusals().values().sum();
    assert_eq!(refusals, 1);
    drop(caller);
    becomes(rig.front.open(), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_waited_for_by_a_task() {
    let rig = rig();
    let (arriving, caller, worker) = rig.asked();
    arriving.leave().go();
    goes_on(&rig, &caller, &worker).await;
    assert_eq!(rig.left(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_accepts_late_is_waited_for_by_a_task() {
    let rig = rig();
    let (ours, caller) = pair();
    let peer = caller.local_addr().unwrap();
    let guest = rig.front.admit(peer).unwrap_or_else(|why| panic!("{why}"));
    let call = guest.take_on(UPGRADE).unwrap().unwrap();
    let dialling = Arriving {
        guest,
        caller: ours,
        phase: Phase::Dialling {
            worker: dial(call.addr()).unwrap(),
            call,
            early: Vec::new(),
        },
    };
    dialling.leave().go();
    let worker = patient(rig.worker.accept().unwrap().0);
    read_head(&worker);
    goes_on(&rig, &caller, &worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_speaks_ahead_of_the_answer_is_heard() {
    let rig = rig();
    let (arriving, mut caller, mut worker) = rig.asked();
    caller.write_all(b"early").unwrap();
    leaves(step(arriving, Side::Caller)).go();
    worker.write_all(ACCEPTED).unwrap();
    stands(&rig, &caller, &worker).await;
    let mut heard = [0; 5];
    worker.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"early");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_ahead_of_the_answer_is_uncounted() {
    let rig = rig();
    let (arriving, caller, _worker) = rig.asked();
    caller.shutdown(Shutdown::Both).unwrap();
    leaves(step(arriving, Side::Caller)).go();
    becomes(rig.front.ledger.open(), 0).await;
    becomes(rig.front.open(), 0).await;
}

/// Its answer is judged by a task, which says what is wrong with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_does_not_accept_is_answered_for() {
    let wrong = String::from_utf8(ACCEPTED.to_vec()).unwrap();
    let wrong = wrong.replace("s3pP", "S3pP");
    for (said, answer) in [
        ("", "HTTP/1.1 502 "),
        ("nonsense\r\n\r\n", "HTTP/1.1 502 "),
        (&wrong, "HTTP/1.1 502 "),
        (
            "HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 404 ",
        ),
    ] {
        let rig = rig();
        let (arriving, caller, mut worker) = rig.asked();
        worker.write_all(said.as_bytes()).unwrap();
        if said.is_empty() {
            drop(worker);
        }
        leaves(step(arriving, Side::Worker)).go();
        let head = read_head(&caller);
        assert!(head.starts_with(answer), "{head}");
        becomes(rig.front.ledger.open(), 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_not_there_is_answered_for() {
    // It has its port, so that nobody else gets it, and does not listen.
    let deaf = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let deaf = deaf.unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    rustix::net::bind(&deaf, &any).unwrap();
    let there = rustix::net::getsockname(&deaf).unwrap();
    let rig = Rig {
        front: front(1, there.try_into().unwrap()),
        worker: TcpListener::bind("127.0.0.1:0").unwrap(),
    };
    let (mut next, caller) = rig.hear(UPGRADE);
    // The kernel may say so at once or in a moment.
    while let Next::Waits(arriving) = next {
        next = step(*arriving, Side::Worker);
    }
    leaves(next).go();
    assert!(read_head(&caller).starts_with("HTTP/1.1 503 "));
    becomes(rig.front.ledger.open(), 0).await;
}
