use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;
use segue_core::table::Epoch;
use segue_core::time::Timestamp;

use crate::handoff::TakenCall;
use crate::ledger::tests::{begin, desk, ledger, new, old, retiring, table};
use crate::ledger::{Ledger, Purpose};

use super::*;

mod ahead;
mod cuts;
mod edges;
mod keeping;
mod tls;

const PATIENCE: Duration = Duration::from_secs(10);

/// Far less than what a test sends at once that wants backpressure.
const NARROW_BYTES: usize = 64 * 1024;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    theirs.set_write_timeout(Some(PATIENCE)).unwrap();
    (ours, theirs)
}

/// As [`pair`], with room for little in the kernel, whatever it has for others.
fn narrow_pair() -> (TcpStream, TcpStream) {
    let (ours, theirs) = pair();
    sockopt::set_socket_send_buffer_size(&ours, NARROW_BYTES).unwrap();
    sockopt::set_socket_recv_buffer_size(&theirs, NARROW_BYTES).unwrap();
    (ours, theirs)
}

/// Asks until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

struct Rig {
    ledger: Arc<Ledger>,
    relay: Relay,
    caller: TcpStream,
    worker: TcpStream,
}

fn rig(early_up: &[u8], early_down: &[u8]) -> Rig {
    rig_of([pair(), pair()], early_up, early_down)
}

/// Its caller and worker, each our end first.
fn rig_of(
    [(our_caller, caller), (our_worker, worker)]: [(TcpStream, TcpStream); 2],
    early_up: &[u8],
    early_down: &[u8],
) -> Rig {
    let ledger = ledger();
    let ticket = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    ticket.connected(Timestamp(1));
    let relay = Relay::start(1).unwrap();
    let (up, down) = (early_up.to_vec(), early_down.to_vec());
    relay.adopt(LiveCall::new(ticket, our_caller, our_worker, up, down).unwrap());
    Rig {
        ledger,
        relay,
        caller,
        worker,
    }
}

impl Rig {
    fn end(&self) -> (String, bool) {
        end(&self.ledger)
    }
}

fn wait_for_end(ledger: &Ledger) {
    let mut open = ledger.open();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let gone = open.wait_for(|open| *open == 0);
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, gone).await })
        .expect("the call ends in time")
        .unwrap();
}

/// Waits until the call is uncounted; answers the key of its end and whether it was a drop.
fn end(ledger: &Ledger) -> (String, bool) {
    wait_for_end(ledger);
    let report = ledger.snapshot(Timestamp(2));
    let totals = &report[&desk()].releases[&old()].totals;
    assert_eq!(totals.ended, 1);
    let key = totals.closes.keys().next().unwrap().clone();
    (key, totals.dropped == 1)
}

fn read_all(mut socket: &TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn early_bytes_come_first_and_half_close_is_kept() {
    let rig = rig(b"early up,", b"early down,");
    (&rig.caller).write_all(b"late up").unwrap();
    rig.caller.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&rig.worker), b"early up,late up");
    (&rig.worker).write_all(b"late down").unwrap();
    rig.worker.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&rig.caller), b"early down,late down");
    assert_eq!(rig.end(), ("caller:none".to_owned(), false));
}

#[test]
fn the_first_close_frame_names_the_end() {
    for (frame, key, dropped) in [
        (&[0x88, 0x02, 0x03, 0xe8][..], "worker:1000", false),
        (&[0x88, 0x02, 0x03, 0xf4][..], "worker:1012", true),
        (&[0x88, 0x00][..], "worker:1005", false),
        (&[][..], "worker:none", true),
    ] {
        let rig = rig(b"", b"");
        (&rig.worker).write_all(frame).unwrap();
        rig.worker.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&rig.caller), frame);
        rig.caller.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rig.end(), (key.to_owned(), dropped));
    }
}

#[test]
fn backpressure_loses_nothing_and_does_not_hold_up_the_other_direction() {
    const BYTES: usize = 24 * 1024 * 1024;
    let rig = rig(b"", b"");
    let pattern = |n: usize| u8::try_from(n * 31 % 251).unwrap();
    let worker = rig.worker.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..BYTES).map(pattern).collect();
        (&worker).write_all(&bytes).unwrap();
        worker.shutdown(Shutdown::Write).unwrap();
    });
    // The caller reads nothing yet, and still is heard.
    (&rig.caller).write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    (&rig.worker).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    let got = read_all(&rig.caller);
    sender.join().unwrap();
    assert_eq!(got.len(), BYTES);
    assert!(got.iter().enumerate().all(|(n, byte)| *byte == pattern(n)));
    rig.caller.shutdown(Shutdown::Write).unwrap();
    rig.end();
}

#[test]
fn last_words_of_a_worker_that_is_gone_reach_a_caller_who_talks_on() {
    let rig = rig(b"", b"");
    (&rig.worker).write_all(b"last words").unwrap();
    drop(rig.worker);
    // Until the worker's reset comes back, then the stream just ends.
    for _ in 0..50 {
        if (&rig.caller).write_all(&[0; 1_000]).is_err() {
            break;
        }
    }
    assert_eq!(read_all(&rig.caller), b"last words");
    drop(rig.caller);
    assert_eq!(end(&rig.ledger), ("worker:none".to_owned(), true));
}

#[test]
fn calls_move_from_relay_to_relay() {
    let rig = rig(b"", b"");
    let next = Relay::start(2).unwrap();
    let mut received = [0; 4];
    for round in 0..50u32 {
        (&rig.caller).write_all(&round.to_be_bytes()).unwrap();
        let (from, to) = if round % 2 == 0 {
            (&rig.relay, &next)
        } else {
            (&next, &rig.relay)
        };
        let calls = from.give_all();
        assert_eq!(calls.len(), 1);
        for call in calls {
            to.adopt(call);
        }
        (&rig.worker).read_exact(&mut received).unwrap();
        assert_eq!(received, round.to_be_bytes());
    }
    drop(rig.relay);
    drop(next);
    assert_eq!(*rig.ledger.open().borrow(), 0, "a stopped relay uncounts");
}

/// As another process would get it.
fn moved(ledger: &Arc<Ledger>, call: LiveCall) -> LiveCall {
    let json = serde_json::to_string(&call.describe()).unwrap();
    let taken = TakenCall {
        moved: serde_json::from_str(&json).unwrap(),
        caller: call.caller.try_clone().unwrap(),
        worker: call.worker.try_clone().unwrap(),
    };
    let adopted = taken.adopt(ledger, Timestamp(2)).unwrap();
    call.given();
    adopted
}

#[test]
fn a_call_under_backpressure_moves_with_the_bytes_in_flight() {
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
    let next = Relay::start(1).unwrap();
    // Nobody reads yet, so there is no room in the end.
    until("backpressure", || {
        let calls = rig.relay.give_all();
        let is_full = calls.iter().any(|call| !call.down.leftover.is_empty());
        for call in calls {
            rig.relay.adopt(moved(&rig.ledger, call));
        }
        is_full
    });
    let (mut got, mut part) = (Vec::new(), vec![0; BYTES / MOVES]);
    for round in 0..MOVES {
        let (from, to) = if round % 2 == 0 {
            (&rig.relay, &next)
        } else {
            (&next, &rig.relay)
        };
        for call in from.give_all() {
            to.adopt(moved(&rig.ledger, call));
        }
        (&rig.caller).read_exact(&mut part).unwrap();
        got.extend_from_slice(&part);
    }
    got.extend(read_all(&rig.caller));
    sender.join().unwrap();
    assert_eq!(got.len(), BYTES + 4);
    let as_sent = got[..BYTES].iter().enumerate();
    assert!(as_sent.into_iter().all(|(n, byte)| *byte == pattern(n)));
    rig.caller.shutdown(Shutdown::Write).unwrap();
    end(&rig.ledger);
}

/// Our close frame, as a side gets it.
fn is_farewell(bytes: &[u8], masked: bool) -> bool {
    let mut observer = crate::frames::Observer::default();
    let whole = observer.see(bytes) == Some(1001) && observer.is_done();
    whole && (bytes[1] & 0x80 != 0) == masked && bytes.len() == if masked { 15 } else { 11 }
}

fn end_a(ledger: &Ledger) -> usize {
    // Not twice: then it is there already.
    let _ = ledger.install(retiring(table(2, new())), Timestamp(2));
    ledger.end_calls(&desk(), (old(), Epoch(2)), &["a".parse().unwrap()])
}

#[test]
fn a_call_that_ends_by_policy_moves_within_a_frame_and_says_goodbye_once() {
    // A frame of four bytes, of which two are there.
    let rig = rig(b"", &[0x82, 4, 1, 2]);
    let mut got = [0; 4];
    (&rig.caller).read_exact(&mut got).unwrap();
    assert_eq!(end_a(&rig.ledger), 1);
    assert_eq!(end_a(&rig.ledger), 0, "marked already");
    rig.relay.end_marked();
    let mut to_worker = [0; 15];
    (&rig.worker).read_exact(&mut to_worker).unwrap();
    assert!(is_farewell(&to_worker, true), "{to_worker:?}");

    let next = Relay::start(1).unwrap();
    for call in rig.relay.give_all() {
        assert!(call.leaving && call.down.sink == Sink::Open);
        next.adopt(moved(&rig.ledger, call));
    }
    // The rest of the frame, another one, and the answer.
    let rest = [3, 4, 0x82, 1, 9, 0x88, 2, 0x03, 0xe9];
    (&rig.worker).write_all(&rest).unwrap();
    (&rig.caller).read_exact(&mut got[..2]).unwrap();
    assert_eq!(got[..2], [3, 4]);
    let mut to_caller = [0; 11];
    (&rig.caller).read_exact(&mut to_caller).unwrap();
    assert!(is_farewell(&to_caller, false), "{to_caller:?}");
    (&rig.caller)
        .write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9])
        .unwrap();
    assert_eq!(read_all(&rig.caller), b"");
    assert_eq!(read_all(&rig.worker), b"", "no second one");
    assert_eq!(policy_end(&rig.ledger), "policy:1001");
}

#[test]
fn bytes_under_backpressure_come_before_the_close_frame() {
    const BYTES: usize = 16 * 1024 * 1024;
    let rig = rig(b"", b"");
    let worker = rig.worker.try_clone().unwrap();
    let mut frame = vec![0x82, 127];
    frame.extend((BYTES as u64).to_be_bytes());
    frame.extend(vec![7; BYTES]);
    let sent = frame.clone();
    let sender = std::thread::spawn(move || {
        (&worker).write_all(&frame).unwrap();
        let mut farewell = [0; 15];
        (&worker).read_exact(&mut farewell).unwrap();
        (&worker).write_all(&[0x88, 2, 0x03, 0xe9]).unwrap();
        farewell
    });
    let mut got = vec![0; 1_000];
    (&rig.caller).read_exact(&mut got).unwrap();
    assert_eq!(end_a(&rig.ledger), 1);
    rig.relay.end_marked();
    got.resize(sent.len() + 11, 0);
    (&rig.caller).read_exact(&mut got[1_000..]).unwrap();
    (&rig.caller)
        .write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9])
        .unwrap();
    assert_eq!(read_all(&rig.caller), b"");
    assert!(is_farewell(&sender.join().unwrap(), true));
    assert!(got.starts_with(&sent), "the frame is whole");
    assert!(is_farewell(&got[sent.len()..], false));
    assert_eq!(policy_end(&rig.ledger), "policy:1001");
}

/// Waits until the call is uncounted, as one that was ended by policy.
fn policy_end(ledger: &Ledger) -> String {
    wait_for_end(ledger);
    let report = ledger.snapshot(Timestamp(2));
    let counts = &report[&desk()].releases[&old()];
    assert_eq!((counts.totals.policy, counts.totals.ended), (1, 0));
    assert_eq!(counts.pinned, 0);
    counts.totals.closes.keys().next().unwrap().clone()
}
