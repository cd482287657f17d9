//! The keeper and gateways of one process; those that die are in the integration tests.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::session::{KeeperError, Session};
use super::wire::{Message as _, ToGateway, ToKeeper};
use super::{CallKey, Figures, Keeper, Recovered, census};
use crate::ledger::Purpose;
use crate::ledger::tests::{begin, ledger};
use crate::relay::LiveCall;
use crate::slots::Slots;

/// A socket path of its own for each test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let name = format!("keeper-{}", uuid::Uuid::now_v7().simple());
        Self(std::env::temp_dir().join(name))
    }
}

/// Two ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn key(slot: u32) -> CallKey {
    CallKey {
        slot,
        generation: 1,
    }
}

/// What it holds, once that is as wished.
fn until(place: &Place, wished: impl Fn(&Figures) -> bool) -> Figures {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let figures = census(&place.0).unwrap();
        if wished(&figures) {
            return figures;
        }
        assert!(Instant::now() < deadline, "in vain: {figures:?}");
    }
}

#[test]
fn calls_survive_the_hands_that_held_them() {
    let place = Place::new();
    let keeper = Keeper::start(&place.0).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let memory = std::fs::File::open("/dev/null").unwrap();
    let first = Session::connect(&place.0).unwrap();
    assert!(first.claim().unwrap().is_empty());
    let fds = (Some(memory.as_fd()), Some(listener.as_fd()));
    first.open(fds.0, fds.1).unwrap();
    let calls: Vec<_> = (0..200).map(|slot| (key(slot), pair(), pair())).collect();
    let held = calls
        .iter()
        .map(|(key, caller, worker)| (*key, [caller.1.as_fd(), worker.1.as_fd()]));
    first.hold_all(held, &mut Duration::from_secs(1)).unwrap();
    first.say(&ToKeeper::Own(vec![])).unwrap();
    first.say(&ToKeeper::Release(vec![key(7)])).unwrap();
    until(&place, |figures| figures.held == 199);
    first.say(&ToKeeper::Give).unwrap();
    let (mut nears, fars): (Vec<_>, Vec<_>) = calls
        .into_iter()
        .map(|(_, caller, worker)| ((caller.0, worker.0), (caller.1, worker.1)))
        .unzip();
    drop((first, fars, listener, memory));

    let second = Session::connect(&place.0).unwrap();
    let mut orphans = second.claim().unwrap();
    assert_eq!(orphans.len(), 1);
    let orphan = orphans.remove(0);
    assert!(orphan.memory.is_some());
    let listener = TcpListener::from(orphan.listener.unwrap());
    assert!(TcpStream::connect(listener.local_addr().unwrap()).is_ok());
    assert_eq!(orphan.calls.len(), 199);
    let third = Session::connect(&place.0).unwrap();
    assert!(third.claim().unwrap().is_empty(), "one takes it over");
    // What was said while nobody relayed is still there.
    nears[3].0.write_all(b"caller").unwrap();
    nears[3].1.write_all(b"worker").unwrap();
    for (end, said) in orphan.calls[&key(3)].iter().zip([b"caller", b"worker"]) {
        let mut heard = [0; 6];
        let end = end.try_clone().unwrap();
        TcpStream::from(end).read_exact(&mut heard).unwrap();
        assert_eq!(&heard, said);
    }
    second.open(None, None).unwrap();
    second.say(&ToKeeper::Own(vec![orphan.ward])).unwrap();
    let figures = until(&place, |figures| figures.orphaned == 0);
    assert_eq!((figures.held, figures.gateways), (0, 1));
    drop(orphan.calls);
    let mut end = Vec::new();
    assert_eq!(
        nears[4].0.read_to_end(&mut end).unwrap(),
        0,
        "nobody has it"
    );
    drop(keeper);
    assert!(!place.0.exists());
}

#[test]
fn one_that_wants_to_hear_of_orphans_does() {
    let place = Place::new();
    let _keeper = Keeper::start(&place.0).unwrap();
    let (first, second) = (
        Session::connect(&place.0).unwrap(),
        Session::connect(&place.0).unwrap(),
    );
    first.open(None, None).unwrap();
    first.say(&ToKeeper::Own(vec![])).unwrap();
    second.say(&ToKeeper::Watch(true)).unwrap();
    first.say(&ToKeeper::Give).unwrap();
    let soon = Instant::now() + Duration::from_secs(10);
    assert_eq!(second.next(soon).unwrap().message, ToGateway::Orphaned);
    // One who asks later hears of it at once.
    let third = Session::connect(&place.0).unwrap();
    third.say(&ToKeeper::Watch(true)).unwrap();
    assert_eq!(third.next(soon).unwrap().message, ToGateway::Orphaned);
}

#[test]
fn calls_beyond_the_descriptors_go_on_unheld() {
    let place = Place::new();
    let _keeper = Keeper::bounded(&place.0, 6).unwrap();
    let gateway = Session::connect(&place.0).unwrap();
    gateway.open(None, None).unwrap();
    let calls: Vec<_> = (0..5).map(|slot| (key(slot), pair(), pair())).collect();
    let held = calls
        .iter()
        .map(|(key, caller, worker)| (*key, [caller.1.as_fd(), worker.1.as_fd()]));
    gateway.hold_all(held, &mut Duration::from_secs(1)).unwrap();
    gateway.say(&ToKeeper::Own(vec![])).unwrap();
    let figures = until(&place, |figures| figures.gateways == 1);
    assert_eq!((figures.held, figures.unheld), (3, 2));
    let soon = Instant::now() + Duration::from_secs(10);
    let said = gateway.next(soon).unwrap().message;
    assert_eq!(said, ToGateway::Unheld(vec![key(3), key(4)]));
    // There is room again once a call has ended.
    gateway.say(&ToKeeper::Release(vec![key(0)])).unwrap();
    let (_, caller, worker) = &calls[4];
    let one = (key(4), [caller.1.as_fd(), worker.1.as_fd()]);
    gateway
        .hold_all(std::iter::once(one), &mut Duration::from_secs(1))
        .unwrap();
    until(&place, |figures| (figures.held, figures.unheld) == (3, 2));
}

/// A gateway that takes over has the same sockets. There is room for them once.
#[test]
fn calls_that_change_hands_need_no_second_descriptors() {
    let place = Place::new();
    let _keeper = Keeper::bounded(&place.0, 9).unwrap();
    let calls: Vec<_> = (0..4).map(|slot| (slot, pair(), pair())).collect();
    let fill = |session: &Session, slots_from: u32| {
        session.open(None, None).unwrap();
        let held = calls.iter().map(|(slot, caller, worker)| {
            let ends = [caller.1.as_fd(), worker.1.as_fd()];
            (key(slots_from + slot), ends)
        });
        session.hold_all(held, &mut Duration::from_secs(1)).unwrap();
    };
    let first = Session::connect(&place.0).unwrap();
    fill(&first, 0);
    first.say(&ToKeeper::Own(vec![])).unwrap();
    until(&place, |figures| figures.held == 4);
    let second = Session::connect(&place.0).unwrap();
    fill(&second, 10);
    second.say(&ToKeeper::Own(vec![first.ward()])).unwrap();
    let figures = until(&place, |figures| figures.gateways == 1);
    assert_eq!((figures.held, figures.unheld), (4, 0));
    // One that ends makes room for another one.
    second.say(&ToKeeper::Release(vec![key(10)])).unwrap();
    let (caller, worker) = (pair(), pair());
    let one = (key(20), [caller.1.as_fd(), worker.1.as_fd()]);
    let held = second.hold_all(std::iter::once(one), &mut Duration::from_secs(1));
    held.unwrap();
    second.say(&ToKeeper::Give).unwrap();
    until(&place, |figures| figures.orphaned == 4);
    let third = Session::connect(&place.0).unwrap();
    let mut orphans = third.claim().unwrap();
    let mut orphan = orphans.remove(0);
    for (slot, caller, _) in &calls[1..] {
        let [end, _] = orphan.calls.remove(&key(10 + slot)).unwrap();
        (&caller.0).write_all(&[7]).unwrap();
        let mut heard = [0];
        TcpStream::from(end).read_exact(&mut heard).unwrap();
        assert_eq!(heard, [7]);
    }
    assert!(orphan.calls.contains_key(&key(20)));
}

/// Its connection broke, and it was killed before it had told everything again.
#[test]
fn a_gateway_that_dies_between_two_connections_leaves_all_its_calls() {
    let place = Place::new();
    let _keeper = Keeper::start(&place.0).unwrap();
    let (ledger, slots) = (ledger(), Slots::create(8).unwrap());
    let mut peers = Vec::new();
    let calls = ["a", "b"].map(|name| {
        let ticket = begin(&ledger, name, Purpose::Call, 1).unwrap();
        let ((caller, at_caller), (worker, at_worker)) = (pair(), pair());
        peers.push((at_caller, at_worker));
        let mut call = LiveCall::new(ticket, caller, worker, Vec::new(), Vec::new()).unwrap();
        call.enroll(&slots).unwrap();
        call
    });
    let fill = |session: &Session, calls: &[LiveCall]| {
        session.open(slots.memory(), None).unwrap();
        session.say(&ToKeeper::Own(vec![])).unwrap();
        let held = calls.iter().filter_map(LiveCall::to_hold).map(|call| {
            let key = CallKey {
                slot: call.slot,
                generation: call.generation,
            };
            (key, [call.caller, call.worker])
        });
        session.hold_all(held, &mut Duration::from_secs(1)).unwrap();
    };
    let first = Session::connect(&place.0).unwrap();
    fill(&first, &calls);
    let second = Session::connect(&place.0).unwrap();
    fill(&second, &calls[..1]);
    until(&place, |figures| figures.held == 3);
    for session in [first, second] {
        session.say(&ToKeeper::Give).unwrap();
    }
    until(&place, |figures| figures.orphaned == 3);
    let next = Session::connect(&place.0).unwrap();
    let recovered = Recovered::read(next.claim().unwrap());
    assert_eq!((recovered.calls.len(), recovered.lost.len()), (2, 0));
    assert_eq!(recovered.wards.len(), 2);
}

#[test]
fn what_is_not_understood_ends_a_connection_and_no_keeper() {
    let place = Place::new();
    let _keeper = Keeper::start(&place.0).unwrap();
    let good = Session::connect(&place.0).unwrap();
    good.open(None, None).unwrap();
    good.say(&ToKeeper::Own(vec![])).unwrap();
    let long = vec![7; 5_000];
    let stranger = ToKeeper::Hello { version: 999 }.record();
    let rude = ToKeeper::Bye.record();
    for bytes in [
        &b"?"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &long,
        rude.bytes(),
        stranger.bytes(),
    ] {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(&place.0).unwrap()).unwrap();
        rustix::net::send(&socket, bytes, SendFlags::NOSIGNAL).unwrap();
        let mut answer = [0; 64];
        // At most one answer, and then the end.
        while let Ok((1.., _)) =
            rustix::net::recv(&socket, &mut answer, rustix::net::RecvFlags::empty())
        {}
    }
    assert_eq!(census(&place.0).unwrap().gateways, 1);
    // A call that comes without its sockets is not held, and the connection stays.
    good.say(&ToKeeper::Hold(vec![key(1)])).unwrap();
    let figures = until(&place, |figures| figures.unheld == 1);
    assert_eq!((figures.held, figures.gateways), (0, 1));
}

#[test]
fn a_version_that_is_not_spoken_is_refused() {
    let place = Place::new();
    let (version, flags) = (7, SocketFlags::CLOEXEC);
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&place.0).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let other = std::thread::spawn(move || {
        let socket = rustix::net::accept(&listener).unwrap();
        super::wire::send(&socket, &ToGateway::Refused { version }.record(), &[]).unwrap();
        socket
    });
    let refused = Session::connect(&place.0).unwrap_err();
    assert!(matches!(refused, KeeperError::Version(7)), "{refused}");
    drop(other.join().unwrap());
    std::fs::remove_file(&place.0).unwrap();
}
