//! Ends of streams that come at a bad time, and peers that do not read.

use std::io::ErrorKind;

use rustix::net::SendFlags;

use super::*;

fn pattern(n: usize) -> u8 {
    u8::try_from(n * 31 % 251).unwrap()
}

fn is_pattern(bytes: &[u8]) -> bool {
    bytes
        .iter()
        .enumerate()
        .all(|(n, byte)| *byte == pattern(n))
}

/// Writes the pattern until nothing is taken any more; answers how much was.
fn flood(mut socket: &TcpStream, relay: &Relay) -> usize {
    socket.set_nonblocking(true).unwrap();
    let (mut sent, mut stood) = (0, 0);
    while stood < 50 {
        let bytes: Vec<u8> = (sent..sent + 16_384).map(pattern).collect();
        match socket.write(&bytes) {
            Ok(written) => (sent, stood) = (sent + written, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // The relay has been through all of its events since.
                assert!(through(relay));
                stood += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    socket.set_nonblocking(false).unwrap();
    sent
}

/// Has every shard do what it has to do.
fn through(relay: &Relay) -> bool {
    let calls = relay.give_all();
    let some = !calls.is_empty();
    for call in calls {
        relay.adopt(call);
    }
    some
}

/// Closes with a reset.
fn reset(socket: TcpStream) {
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    drop(socket);
}

#[test]
fn a_worker_may_end_its_stream_and_go_on_listening() {
    let rig = rig(b"", b"");
    (&rig.worker).write_all(b"that is all").unwrap();
    rig.worker.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&rig.caller), b"that is all");
    (&rig.caller).write_all(b"not for me").unwrap();
    rig.caller.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&rig.worker), b"not for me");
    assert_eq!(rig.end(), ("worker:none".to_owned(), true));
}

#[test]
fn what_was_read_before_a_reset_still_arrives() {
    let rig = rig(b"", b"");
    let sent = flood(&rig.caller, &rig.relay);
    reset(rig.caller);
    let mut got = Vec::new();
    let mut worker = &rig.worker;
    // What the caller's kernel had not sent yet is gone with it; the rest is in order.
    worker.read_to_end(&mut got).unwrap();
    assert!(got.len() <= sent && is_pattern(&got));
    assert!(got.len() > 64 * 1024, "{} bytes waited", got.len());
    drop(rig.worker);
    assert_eq!(end(&rig.ledger), ("caller:none".to_owned(), false));
}

#[test]
fn a_side_that_is_reset_while_bytes_wait_for_it_ends_the_call() {
    let rig = rig(b"", b"");
    flood(&rig.worker, &rig.relay);
    reset(rig.caller);
    // It is told by an end or by a reset, as the bytes of its own allow.
    let mut rest = Vec::new();
    let _ = (&rig.worker).read_to_end(&mut rest);
    assert!(rest.is_empty());
    drop(rig.worker);
    assert_eq!(end(&rig.ledger), ("caller:none".to_owned(), false));
}

#[test]
fn a_side_that_closes_while_its_bytes_wait_is_heard_to_the_end() {
    let rig = rig(b"", b"");
    let sent = flood(&rig.worker, &rig.relay);
    drop(rig.worker);
    let got = read_all(&rig.caller);
    assert_eq!(got.len(), sent);
    assert!(is_pattern(&got));
    drop(rig.caller);
    assert_eq!(end(&rig.ledger), ("worker:none".to_owned(), true));
}

#[test]
fn a_side_that_does_not_read_has_at_most_one_read_waiting() {
    let rig = rig(b"", b"");
    flood(&rig.worker, &rig.relay);
    let calls = rig.relay.give_all();
    let waiting = calls[0].down.leftover.len();
    assert!((1..=64 * 1024).contains(&waiting), "{waiting} bytes");
    // The other way is not held up.
    for call in calls {
        rig.relay.adopt(call);
    }
    (&rig.caller).write_all(b"hello?").unwrap();
    let mut heard = [0; 6];
    (&rig.worker).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello?");
}

#[test]
fn an_urgent_byte_is_relayed_in_its_turn() {
    let rig = rig(b"", b"");
    for (from, to) in [(&rig.caller, &rig.worker), (&rig.worker, &rig.caller)] {
        for (said, flags) in [
            (&b"one"[..], SendFlags::empty()),
            (&b"two!"[..], SendFlags::OOB),
            (&b"three!"[..], SendFlags::OOB),
            (&b"four"[..], SendFlags::empty()),
        ] {
            assert_eq!(rustix::net::send(from, said, flags).unwrap(), said.len());
        }
        let (mut got, mut to) = ([0; 17], to);
        to.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"onetwo!three!four");
    }
}

#[test]
fn a_call_ends_for_its_peers_though_others_hold_its_sockets() {
    let ledger = ledger();
    let ticket = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    ticket.connected(Timestamp(1));
    let ((our_caller, caller), (our_worker, worker)) = (pair(), pair());
    let held = [
        our_caller.try_clone().unwrap(),
        our_worker.try_clone().unwrap(),
    ];
    let relay = Relay::start(1).unwrap();
    relay.adopt(LiveCall::new(ticket, our_caller, our_worker, vec![], vec![]).unwrap());
    (&worker).write_all(&[0x88, 2, 0x03, 0xe8]).unwrap();
    worker.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&caller), [0x88, 2, 0x03, 0xe8]);
    caller.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&worker), b"");
    assert_eq!(end(&ledger), ("worker:1000".to_owned(), false));
    drop(held);
}

#[test]
fn a_relay_that_stops_ends_its_calls_though_others_hold_their_sockets() {
    let rig = rig(b"", b"");
    let calls = rig.relay.give_all();
    let held: Vec<TcpStream> = calls
        .iter()
        .flat_map(|call| [&call.caller, &call.worker])
        .map(|socket| socket.try_clone().unwrap())
        .collect();
    for call in calls {
        rig.relay.adopt(call);
    }
    drop(rig.relay);
    assert_eq!(read_all(&rig.caller), b"");
    assert_eq!(read_all(&rig.worker), b"");
    drop(held);
}
