//! Processes that relay flowing calls are killed at any instant, and no byte is wrong.
//!
//! This binary starts itself as the process that is killed. The parent plays the keeper, which has
//! the memory and the sockets, and both peers of every call, which check every byte.

use std::io::{IoSlice, IoSliceMut, Read, Write as _};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::ledger::tests::{begin, ledger};
use crate::ledger::{By, Purpose};
use crate::relay::{LiveCall, MovedCall, Relay};
use crate::rescue::{Lifeline, Way};

use super::*;

/// Gateways killed in all, if [`KILLS_ASKED`] does not say how many.
const KILLS: u64 = 60;

/// In the environment: how many gateways are killed.
const KILLS_ASKED: &str = "SEGUE_TEST_KILLS";

/// What calls are like in a world of gateways that are killed one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    /// Bytes go on as they come.
    Plain,
    /// Messages go on whole.
    HeldBack,
}

impl World {
    /// Has the calls relayed by the next gateway as they were by those before.
    fn prepare(self, calls: &mut [MovedCall], tracked: &mut [Tracked]) {
        if self == Self::HeldBack {
            for (call, tracked) in calls.iter_mut().zip(tracked) {
                call.lifeline = Some(tracked.lifeline(call));
            }
        }
    }
}

const WORLDS: [World; 2] = [World::Plain, World::HeldBack];

/// Calls in a world. One floods both ways, so that bytes wait, and one answers message by message.
const CALLS: usize = 2;

/// For a byte to come, and for all of it to end.
const PATIENCE: Duration = Duration::from_mins(1);

const CHILD: &str = "SEGUE_TEST_CRASH";

fn random(seed: &mut u64) -> u64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

/// Bytes that went through a world, for whoever waits for more.
#[derive(Default)]
struct Progress {
    bytes: Mutex<u64>,
    more: Condvar,
}

impl Progress {
    fn add(&self, bytes: usize) {
        *self.bytes.lock().unwrap() += bytes as u64;
        self.more.notify_all();
    }

    fn wait_for(&self, further: u64) {
        let bytes = self.bytes.lock().unwrap();
        let enough = *bytes + further;
        let waited = self
            .more
            .wait_timeout_while(bytes, PATIENCE, |bytes| *bytes < enough);
        assert!(!waited.unwrap().1.timed_out(), "a call stands still");
    }
}

/// A direction of a call: messages of changing length, of bytes that follow from their place.
struct Stream {
    seed: u64,
    large: bool,
}

impl Stream {
    fn next(&mut self) -> Vec<u8> {
        let most = if self.large { 30_000 } else { 700 };
        let length = u16::try_from(random(&mut self.seed) % most).unwrap();
        let mut message = vec![0x82, 126];
        message.extend(length.to_be_bytes());
        let [from, step, ..] = random(&mut self.seed).to_le_bytes();
        let byte = |n: u16| from.wrapping_add(step.wrapping_mul(n.to_le_bytes()[0]));
        message.extend((0..length).map(byte));
        message
    }
}

const GOODBYE: [u8; 4] = [0x88, 2, 0x03, 0xe8];

impl Stream {
    fn new(call: usize, side: Side) -> Self {
        Self {
            seed: (2 * call + side.index()) as u64,
            large: call.is_multiple_of(2),
        }
    }
}

/// How far a call has come in its messages, so that a lifeline can be made for it as it is.
struct Tracked([(Stream, Vec<u8>, u64); 2]);

impl Tracked {
    fn new(call: usize) -> Self {
        Self(Side::BOTH.map(|side| (Stream::new(call, side), Vec::new(), 0)))
    }

    /// The lifeline of a gateway that had the call from its beginning.
    fn lifeline(&mut self, moved: &MovedCall) -> Box<Lifeline> {
        let mut line = Lifeline::bare();
        let read = [moved.connection.bytes_in, moved.connection.bytes_out];
        for (way, ((stream, message, from), read)) in [Way::Up, Way::Down]
            .into_iter()
            .zip(self.0.iter_mut().zip(read))
        {
            while *from + message.len() as u64 <= read {
                *from += message.len() as u64;
                *message = stream.next();
            }
            let part = usize::try_from(read - *from).expect("less than a message");
            line.see(way, &message[..part]);
        }
        Box::new(line)
    }
}

/// Reads messages of `stream` until its goodbye; answers how many.
fn check(mut socket: &TcpStream, mut stream: Stream, progress: &Progress, each: &mut dyn FnMut()) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = vec![0; 4];
    loop {
        got.resize(4, 0);
        socket.read_exact(&mut got).expect("a message begins");
        if got == GOODBYE {
            break;
        }
        let expected = stream.next();
        assert_eq!(got, expected[..4]);
        got.resize(expected.len(), 0);
        socket.read_exact(&mut got[4..]).expect("a message goes on");
        assert!(got == expected, "bytes are wrong");
        progress.add(got.len());
        each();
    }
    assert_eq!(
        socket.read(&mut [0]).expect("an end"),
        0,
        "more than was sent"
    );
}

/// The two peers of a call. Each ends the call once it is told so.
fn peers(
    number: usize,
    [caller, worker]: [TcpStream; 2],
    shared: &Arc<(Progress, std::sync::atomic::AtomicBool)>,
) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    for (side, socket) in [(Side::Caller, caller), (Side::Worker, worker)] {
        let (ours, theirs) = (Stream::new(number, side), Stream::new(number, side.other()));
        let large = ours.large;
        let shared = Arc::clone(shared);
        let socket = Arc::new(socket);
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let sender = (Arc::clone(&socket), Arc::clone(&shared), ours);
        threads.push(std::thread::spawn(move || {
            let (socket, shared, mut stream) = sender;
            let is_over = || shared.1.load(Ordering::Relaxed);
            while !is_over() {
                (&*socket).write_all(&stream.next()).unwrap();
                if !large && told.recv().is_err() {
                    break;
                }
            }
            (&*socket).write_all(&GOODBYE).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
        }));
        threads.push(std::thread::spawn(move || {
            // Whoever sends message by message sends the next one when one came.
            check(&socket, theirs, &shared.0, &mut || {
                // It may have said its last one.
                let _ = tell.send(());
            });
        }));
    }
    threads
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    (ours, theirs)
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(fds)));
    let iov = [IoSlice::new(bytes)];
    let sent = rustix::net::sendmsg(stream, &iov, &mut ancillary, SendFlags::NOSIGNAL);
    assert_eq!(sent.unwrap(), bytes.len());
}

fn receive(stream: &UnixStream, bytes: &mut [u8]) -> (usize, Vec<std::os::fd::OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(bytes)];
    let received = rustix::net::recvmsg(stream, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let length = received.unwrap().bytes;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    (length, fds)
}

/// The process that is killed: gets calls from its standard input, says where their memory is, and
/// relays them until it is no more.
#[test]
#[ignore = "a child process of another test"]
fn relays_until_it_is_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut length = [0; 4];
    let (read, fds) = receive(&stream, &mut length);
    assert_eq!(read, 4);
    let mut json = vec![0; u32::from_be_bytes(length) as usize];
    (&stream).read_exact(&mut json).unwrap();
    let moved: Vec<MovedCall> = serde_json::from_slice(&json).unwrap();
    let ledger = ledger();
    let relay = Relay::start(2).unwrap();
    let mut fds = fds.into_iter().map(TcpStream::from);
    let mut calls: Vec<LiveCall> = moved
        .into_iter()
        .map(|moved| {
            let sockets = (fds.next().unwrap(), fds.next().unwrap());
            LiveCall::moved(&ledger, moved, sockets, Timestamp(2)).unwrap()
        })
        .collect();
    for call in &mut calls {
        call.enroll(relay.slots()).unwrap();
    }
    send(&stream, &[1], &[relay.slots().memory().unwrap()]);
    for call in calls {
        relay.adopt(call);
    }
    loop {
        std::thread::park();
    }
}

struct Gateway {
    child: Child,
    memory: std::os::fd::OwnedFd,
}

impl Gateway {
    fn start(calls: &[MovedCall], sockets: &[[TcpStream; 2]]) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "slots::crash::relays_until_it_is_killed",
                "--ignored",
            ])
            .env(CHILD, "yes")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let json = serde_json::to_vec(calls).unwrap();
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().flatten().map(AsFd::as_fd).collect();
        let length = u32::try_from(json.len()).unwrap();
        send(&ours, &length.to_be_bytes(), &fds);
        (&ours).write_all(&json).unwrap();
        let (_, mut fds) = receive(&ours, &mut [0]);
        let memory = fds.pop().expect("the memory");
        Self { child, memory }
    }

    fn kill(mut self) -> Vec<Found> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        recover(self.memory).unwrap()
    }
}

/// Answers how many calls were in a shard's hand.
fn world(world: World, kills: u64) -> usize {
    let shared = Arc::new((
        Progress::default(),
        std::sync::atomic::AtomicBool::default(),
    ));
    let ours = ledger();
    let (mut calls, mut sockets, mut threads) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..CALLS {
        let ticket = begin(&ours, &format!("call-{number}"), Purpose::Call, 1).unwrap();
        let ((caller, at_caller), (worker, at_worker)) = (pair(), pair());
        let clone = |socket: &TcpStream| socket.try_clone().unwrap();
        let call = LiveCall::new(ticket, clone(&caller), clone(&worker), vec![], vec![]).unwrap();
        calls.push(call.describe());
        call.given();
        sockets.push([caller, worker]);
        threads.extend(peers(number, [at_caller, at_worker], &shared));
    }
    let mut tracked: Vec<Tracked> = (0..CALLS).map(Tracked::new).collect();
    let (mut seed, mut in_hand) = (world as u64 + 1, 0);
    for _ in 0..kills {
        world.prepare(&mut calls, &mut tracked);
        let gateway = Gateway::start(&calls, &sockets);
        // As it begins, or anywhere within.
        shared
            .0
            .wait_for((random(&mut seed) % 4) * random(&mut seed) % 50_000);
        let found = gateway.kill();
        assert_eq!(found.len(), CALLS, "every call is found");
        for found in found {
            in_hand += usize::from(found.was_in_hand());
            let id = found.identity().expect("it has a name").call;
            let number: usize = id.as_str()["call-".len()..].parse().unwrap();
            let [caller, worker] = &sockets[number];
            let moved = found.reconcile(caller, worker);
            let mut moved = moved.unwrap_or_else(|error| panic!("{id}: {error}"));
            // Two crashes in a row are what this is about.
            moved.strikes = 0;
            calls[number] = moved;
        }
    }
    world.prepare(&mut calls, &mut tracked);
    shared.1.store(true, Ordering::Relaxed);
    let last = ledger();
    let relay = Relay::start(1).unwrap();
    for (moved, [caller, worker]) in calls.into_iter().zip(sockets) {
        let call = LiveCall::moved(&last, moved, (caller, worker), Timestamp(3)).unwrap();
        relay.adopt(call);
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while *last.open().borrow() > 0 {
        assert!(Instant::now() < deadline, "calls end in time");
        std::thread::yield_now();
    }
    // The goodbye was understood, so the frames were followed through every crash.
    let report = last.snapshot(Timestamp(4));
    let closes = report.values().flat_map(|agent| agent.releases.values());
    for (key, count) in closes.flat_map(|release| &release.totals.closes) {
        assert!(key.ends_with(":1000"), "{count} of {key}");
        assert!(key.starts_with(By::Caller.word()) || key.starts_with(By::Worker.word()));
    }
    in_hand
}

#[test]
fn no_byte_is_wrong_however_often_gateways_are_killed() {
    let asked = std::env::var(KILLS_ASKED).ok();
    let kills = asked.map_or(KILLS, |kills| kills.parse().expect("a number"));
    let each = kills.div_ceil(WORLDS.len() as u64);
    let worlds: Vec<_> = WORLDS
        .map(|kind| std::thread::spawn(move || world(kind, each)))
        .into();
    let in_hand: usize = worlds.into_iter().map(|world| world.join().unwrap()).sum();
    println!("in hand when killed: {in_hand} of {kills} gateways");
    assert!(in_hand > 0, "the test never met a call in hand");
}
