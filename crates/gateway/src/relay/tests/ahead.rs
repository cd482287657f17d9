//! Calls that are shown to another relay before they are given to it.

use std::collections::HashMap;

use crate::slots::Delta;

use super::*;

/// Shows the calls of one relay to another one, which waits with them.
fn show(from: &Relay, to: &Relay, ledger: &Arc<Ledger>) -> usize {
    let ahead = sketch(from).into_iter();
    let calls: Vec<_> = ahead.map(|call| wait_with(call, to, ledger)).collect();
    let count = calls.len();
    to.await_calls(calls).unwrap();
    count
}

fn sketch(from: &Relay) -> Vec<Sketch> {
    let mut sketches = Vec::new();
    let shown = from.sketch(|some| {
        sketches.extend(some);
        Ok::<_, ()>(())
    });
    shown.unwrap();
    sketches
}

/// As the other process has it.
fn wait_with(sketch: Sketch, to: &Relay, ledger: &Arc<Ledger>) -> (u64, LiveCall) {
    let moved = MovedCall::fresh(sketch.connection);
    let sockets = (sketch.caller, sketch.worker);
    let mut call = LiveCall::moved(ledger, moved, sockets, Timestamp(2)).unwrap();
    call.enroll_ahead(to.slots()).unwrap();
    (sketch.number, call)
}

/// One more call of this name; its two far ends.
fn stand(rig: &Rig, name: &str) -> [TcpStream; 2] {
    let ticket = begin(&rig.ledger, name, Purpose::Call, 1).unwrap();
    ticket.connected(Timestamp(1));
    let ((our_caller, caller), (our_worker, worker)) = (pair(), pair());
    let call = LiveCall::new(ticket, our_caller, our_worker, vec![], vec![]);
    rig.relay.adopt(call.unwrap());
    [caller, worker]
}

/// Gives those that are still there. Answers how many, and whether bytes of any were under way.
fn give(from: &Relay, to: &Relay) -> (usize, bool) {
    let calls = from.give_all();
    let mut bytes = Vec::new();
    for call in &calls {
        call.delta().unwrap().write(&mut bytes);
    }
    let (mut rest, mut deltas) = (&bytes[..], Vec::new());
    while let Some(delta) = Delta::read_from(&mut rest) {
        deltas.push(delta);
    }
    let waited = deltas.iter().any(|delta| !delta.is_plain());
    let caught_up = to.catch_up(deltas);
    assert_eq!((caught_up.calls, caught_up.gone.len()), (calls.len(), 0));
    let count = calls.len();
    calls.into_iter().for_each(LiveCall::given);
    to.go_on();
    (count, waited)
}

#[test]
fn a_call_that_was_shown_moves_with_the_bytes_in_flight() {
    const BYTES: usize = 16 * 1024 * 1024;
    const MOVES: usize = 40;
    let rig = rig_of([narrow_pair(), pair()], b"", b"");
    let pattern = |n: usize| u8::try_from(n * 31 % 251).unwrap();
    let worker = rig.worker.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let mut bytes: Vec<u8> = (0..BYTES).map(pattern).collect();
        bytes.extend([0x88, 0x02, 0x03, 0xe8]);
        (&worker).write_all(&bytes).unwrap();
        worker.shutdown(Shutdown::Write).unwrap();
    });
    let next = Relay::start(2).unwrap();
    // Nobody reads yet, so there is no room in the end.
    until("backpressure", || {
        let ways = [(&rig.relay, &next), (&next, &rig.relay)];
        let waited = ways.map(|(from, to)| {
            assert_eq!(show(from, to, &rig.ledger), 1);
            give(from, to).1
        });
        waited.contains(&true)
    });
    let (mut got, mut part) = (Vec::new(), vec![0; BYTES / MOVES / 2]);
    for round in 0..MOVES {
        let (from, to) = if round % 2 == 0 {
            (&rig.relay, &next)
        } else {
            (&next, &rig.relay)
        };
        assert_eq!(show(from, to, &rig.ledger), 1);
        for _ in 0..2 {
            // They flow on in between.
            (&rig.caller).read_exact(&mut part).unwrap();
            got.extend_from_slice(&part);
            if !got.len().is_multiple_of(BYTES / MOVES) {
                assert_eq!(give(from, to).0, 1);
            }
        }
    }
    got.extend(read_all(&rig.caller));
    sender.join().unwrap();
    assert_eq!(got.len(), BYTES + 4);
    let as_sent = got[..BYTES].iter().enumerate();
    assert!(as_sent.into_iter().all(|(n, byte)| *byte == pattern(n)));
    rig.caller.shutdown(Shutdown::Write).unwrap();
    end(&rig.ledger);
}

#[test]
fn a_call_that_ends_after_it_was_shown_is_counted_once() {
    let rig = rig(b"", b"");
    let (next, theirs) = (Relay::start(1).unwrap(), ledger());
    theirs.restore(rig.ledger.seal(Timestamp(2)), Timestamp(2));
    assert_eq!(show(&rig.relay, &next, &theirs), 1);
    // Whoever waits with it reads nothing of it.
    (&rig.worker)
        .write_all(&[0x82, 1, 7, 0x88, 2, 3, 0xe8])
        .unwrap();
    rig.worker.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&rig.caller), [0x82, 1, 7, 0x88, 2, 3, 0xe8]);
    rig.caller.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&rig.worker), b"");
    let deadline = std::time::Instant::now() + PATIENCE;
    let late = loop {
        let late = rig.ledger.late();
        if !late.is_empty() {
            break late;
        }
        assert!(std::time::Instant::now() < deadline, "it has not ended");
    };
    assert_eq!(rig.relay.give_all().len(), 0);
    let caught_up = next.catch_up(Vec::new());
    assert_eq!((caught_up.calls, caught_up.released.len()), (0, 1));
    next.go_on();
    let mut gone: HashMap<_, _> = caught_up.gone.into_iter().collect();
    assert_eq!(gone.len(), 1);
    theirs.adopt_late(late, &mut gone);
    assert!(gone.is_empty());
    assert_eq!(end(&theirs), ("worker:1000".to_owned(), false));
    assert_eq!(theirs.take_ended().records.len(), 1);
    rig.ledger.handed_over(1);
}

#[test]
fn calls_that_were_shown_in_vain_go_on_where_they_are() {
    let rig = rig(b"", b"");
    for gives_back in [true, false] {
        let (next, theirs) = (Relay::start(2).unwrap(), ledger());
        assert_eq!(show(&rig.relay, &next, &theirs), 1);
        if gives_back {
            let back = next.give_all();
            assert_eq!(back.len(), 1);
            back.into_iter().for_each(LiveCall::given);
        }
        drop(next);
        assert_eq!(*theirs.open().borrow(), 0, "it is not counted there");
        assert!(theirs.take_ended().records.is_empty(), "and has not ended");
        let mut heard = [0; 2];
        (&rig.caller).write_all(b"on").unwrap();
        (&rig.worker).read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"on");
    }
}

/// A few at a time, as they come.
#[test]
fn calls_that_come_ahead_one_by_one_come_to_every_relay_thread() {
    const CALLS: usize = 4;
    let rig = rig(b"", b"");
    let next = Relay::start(CALLS).unwrap();
    let _ends = ["b", "c", "d"].map(|name| stand(&rig, name));
    let theirs = ledger();
    for ahead in sketch(&rig.relay) {
        next.await_calls(vec![wait_with(ahead, &next, &theirs)])
            .unwrap();
    }
    let shards = next.shards.iter().map(|shard| {
        let (reply, calls) = channel();
        assert!(shard.send(Command::GiveAll(reply)).is_ok());
        let calls: Vec<LiveCall> = calls.recv().unwrap();
        let count = calls.len();
        calls.into_iter().for_each(LiveCall::given);
        count
    });
    assert_eq!(shards.collect::<Vec<_>>(), [1; CALLS]);
}

#[test]
fn calls_that_cannot_all_be_watched_ahead_have_not_ended() {
    let rig = rig(b"", b"");
    let _ends = ["b", "c"].map(|name| stand(&rig, name));
    let mut sketches = sketch(&rig.relay);
    // Nothing that epoll takes.
    let null = std::fs::File::open("/dev/null").unwrap();
    sketches[1].worker = OwnedFd::from(null).into();
    let (next, theirs) = (Relay::start(2).unwrap(), ledger());
    let ahead = sketches.into_iter();
    let ahead = ahead
        .map(|sketch| wait_with(sketch, &next, &theirs))
        .collect();
    assert!(next.await_calls(ahead).is_err());
    let back = next.give_all();
    assert_eq!(back.len(), 3, "all of them, to be given back");
    back.into_iter().for_each(LiveCall::given);
    assert_eq!(*theirs.open().borrow(), 0);
    assert!(theirs.take_ended().records.is_empty(), "none has ended");
    let mut heard = [0; 2];
    (&rig.caller).write_all(b"on").unwrap();
    (&rig.worker).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"on");
}
