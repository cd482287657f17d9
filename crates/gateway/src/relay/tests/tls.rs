//! TLS calls: the same ends, the same backpressure, and the protocol's own messages.

use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use crate::relay::running::Running;
use crate::relay::whole::tests::frame;
use crate::rescue::Lifeline;

use super::*;

/// A caller who speaks TLS.
struct Sealed {
    tls: ClientConnection,
    socket: TcpStream,
}

impl Sealed {
    fn say(&mut self, bytes: &[u8]) {
        rustls::Stream::new(&mut self.tls, &mut self.socket)
            .write_all(bytes)
            .unwrap();
    }

    fn hear(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        rustls::Stream::new(&mut self.tls, &mut self.socket)
            .read_exact(&mut bytes)
            .unwrap();
        bytes
    }

    /// To an end that was said, not just to a closed connection.
    fn hear_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        rustls::Stream::new(&mut self.tls, &mut self.socket)
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    }

    fn say_end(&mut self) {
        self.tls.send_close_notify();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket).unwrap();
        }
    }
}

fn connections() -> (ClientConnection, ServerConnection) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let cert = CertificateDer::from(made.cert);
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.clone()], key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    (
        ClientConnection::new(Arc::new(client), name).unwrap(),
        ServerConnection::new(Arc::new(server)).unwrap(),
    )
}

struct TlsRig {
    ledger: Arc<Ledger>,
    relay: Relay,
    caller: Sealed,
    worker: TcpStream,
}

/// Both ends of a caller's connection behind the handshake: the gateway's, and the caller's.
fn shaken_hands() -> ((TcpStream, ServerConnection), Sealed) {
    let (mut client, mut server) = connections();
    let (our_caller, caller) = pair();
    let handshake = std::thread::spawn(move || {
        while client.is_handshaking() {
            client.complete_io(&mut &caller).unwrap();
        }
        (client, caller)
    });
    while server.is_handshaking() {
        server.complete_io(&mut &our_caller).unwrap();
    }
    let (tls, socket) = handshake.join().unwrap();
    ((our_caller, server), Sealed { tls, socket })
}

fn rig(early_down: &[u8]) -> TlsRig {
    let (ours, caller) = shaken_hands();
    let (our_worker, worker) = pair();
    let ledger = ledger();
    let ticket = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    ticket.connected(Timestamp(1));
    let relay = Relay::start(1).unwrap();
    let call = LiveCall::new_tls(ticket, ours, our_worker, vec![], early_down.to_vec());
    relay.adopt(call.unwrap());
    TlsRig {
        ledger,
        relay,
        caller,
        worker,
    }
}

#[test]
fn either_side_may_end_first_and_is_told_in_order() {
    for caller_first in [true, false] {
        let mut rig = rig(b"early down,");
        assert_eq!(rig.caller.hear(11), b"early down,");
        if caller_first {
            rig.caller.say(b"up");
            rig.caller.say_end();
            assert_eq!(read_all(&rig.worker), b"up");
            (&rig.worker).write_all(b"late down").unwrap();
            rig.worker.shutdown(Shutdown::Write).unwrap();
            assert_eq!(rig.caller.hear_all(), b"late down");
            assert_eq!(end(&rig.ledger), ("caller:none".to_owned(), false));
        } else {
            (&rig.worker).write_all(b"down").unwrap();
            rig.worker.shutdown(Shutdown::Write).unwrap();
            assert_eq!(rig.caller.hear_all(), b"down");
            rig.caller.say(b"late up");
            rig.caller.say_end();
            assert_eq!(read_all(&rig.worker), b"late up");
            assert_eq!(end(&rig.ledger), ("worker:none".to_owned(), true));
        }
    }
}

#[test]
fn a_caller_who_closes_without_a_word_ends_its_stream() {
    let mut rig = rig(b"");
    rig.caller.say(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
    drop(rig.caller);
    assert_eq!(read_all(&rig.worker).len(), 8);
    drop(rig.worker);
    assert_eq!(end(&rig.ledger), ("caller:1000".to_owned(), false));
}

#[test]
fn backpressure_loses_nothing_either_way() {
    const BYTES: usize = 8 * 1024 * 1024;
    let pattern = |n: usize| u8::try_from(n * 31 % 251).unwrap();
    let bytes: Vec<u8> = (0..BYTES).map(pattern).collect();
    let mut rig = rig(b"");
    // Neither side reads until the other one has said all it has to say, or can.
    let (worker, all) = (rig.worker.try_clone().unwrap(), bytes.clone());
    let sender = std::thread::spawn(move || {
        (&worker).write_all(&all).unwrap();
        worker.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(&worker) == all, "bytes to the worker are wrong");
    });
    let got = rig.caller.hear_all();
    assert!(got == bytes, "bytes to the caller are wrong");
    rig.caller.say(&bytes);
    rig.caller.say_end();
    sender.join().unwrap();
    wait_for_end(&rig.ledger);
    drop(rig.relay);
}

#[test]
fn new_keys_within_a_call_are_followed() {
    let mut rig = rig(b"");
    for round in 0..20_u8 {
        rig.caller.tls.refresh_traffic_keys().unwrap();
        rig.caller.say(&[round; 100]);
        let mut got = [0; 100];
        (&rig.worker).read_exact(&mut got).unwrap();
        assert_eq!(got, [round; 100]);
        (&rig.worker).write_all(&[round; 50]).unwrap();
        assert_eq!(rig.caller.hear(50), [round; 50]);
    }
}

#[test]
fn what_is_no_tls_ends_the_call_and_both_sides_are_told() {
    let mut rig = rig(b"");
    // In one piece, so that they are read together.
    rig.caller.tls.writer().write_all(b"so far").unwrap();
    let mut bytes = Vec::new();
    while rig.caller.tls.wants_write() {
        rig.caller.tls.write_tls(&mut bytes).unwrap();
    }
    bytes.extend(b"plain words");
    (&rig.caller.socket).write_all(&bytes).unwrap();
    assert_eq!(read_all(&rig.worker), b"so far");
    drop(rig.worker);
    let mut rest = Vec::new();
    // An alert, or the reset that follows it.
    let _ = (&rig.caller.socket).read_to_end(&mut rest);
    assert_eq!(end(&rig.ledger), ("caller:none".to_owned(), false));
}

#[test]
fn a_tls_call_does_not_move() {
    let mut rig = rig(b"");
    assert!(rig.relay.give_all().is_empty());
    rig.caller.say(b"still here");
    let mut got = [0; 10];
    (&rig.worker).read_exact(&mut got).unwrap();
    assert_eq!(&got, b"still here");
}

/// Opened at once can be more than was read at once: a record whose beginning came before.
#[test]
fn a_held_message_has_room_behind_it_for_all_that_can_be_opened_at_once() {
    let (ours, mut caller) = shaken_hands();
    let ((our_worker, worker), ledger) = (pair(), ledger());
    let ticket = begin(&ledger, "a", Purpose::Call, 1).unwrap();
    let slots = Slots::create(2).unwrap();
    let mut lane = slots.lane(0).unwrap();
    let call = LiveCall::new_tls(ticket, ours, our_worker, vec![], vec![]).unwrap();
    let call = call.with_lifeline(Some(Box::new(Lifeline::bare())));
    let mut call = Running::new(call, &lane, 0).unwrap();

    let (passes, held) = (
        frame(0x82, Some([1; 4]), &vec![7; 29_900]),
        frame(0x82, Some([1; 4]), &vec![8; 30_500]),
    );
    let mut said = [&passes[..], &held, &[0x89, 0].repeat(50_000)].concat();
    let sent = said.clone();
    let mut seal = |length: usize| {
        let rest = said.split_off(length);
        let mut sealed = Vec::new();
        caller.tls.writer().write_all(&said).unwrap();
        while caller.tls.wants_write() {
            caller.tls.write_tls(&mut sealed).unwrap();
        }
        said = rest;
        sealed
    };
    let first = seal(passes.len() + passes.len() + 10);
    let records: Vec<Vec<u8>> = (0..4).map(|_| seal(16_384)).collect();
    let (begun, end) = records[0].split_at(records[0].len() - 1);
    let overhead = records[0].len() - 16_384;
    let mut last = [end, &records[1..].concat()].concat();
    last.extend(seal(lane.buffer.len() - last.len() - overhead));
    assert_eq!(last.len(), lane.buffer.len(), "one read");

    let (mut heard, mut opened) = (Vec::new(), 0);
    worker.set_nonblocking(true).unwrap();
    for bytes in [&first[..11_000], &[&first[11_000..], begun].concat(), &last] {
        (&caller.socket).write_all(bytes).unwrap();
        let deadline = std::time::Instant::now() + PATIENCE;
        let socket = call.socket(Side::Caller);
        while rustix::io::ioctl_fionread(socket).unwrap() < bytes.len() as u64 {
            assert!(std::time::Instant::now() < deadline, "they come in time");
            std::thread::yield_now();
        }
        let before = call.ticket.counters().read().0;
        call.pump(Side::Caller, &mut lane);
        opened = call.ticket.counters().read().0;
        println!("opened at once: {}", opened - before);
        while heard.len() < passes.len() && opened > 0 || call.wants_write(Side::Worker) {
            assert!(std::time::Instant::now() < deadline, "it goes on in time");
            let mut some = [0; 4_096];
            while let Ok(length @ 1..) = (&worker).read(&mut some) {
                heard.extend(&some[..length]);
            }
            call.flush(Side::Worker, &mut lane);
        }
    }
    worker.set_nonblocking(false).unwrap();
    let opened = usize::try_from(opened).unwrap();
    let got = heard.len();
    heard.resize(opened - 1, 0);
    (&worker).read_exact(&mut heard[got..]).unwrap();
    // The beginning of a ping is held.
    assert!(heard == sent[..opened - 1]);
}
