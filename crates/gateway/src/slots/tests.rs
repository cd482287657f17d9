use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use segue_core::time::Timestamp;

use crate::frames::Observer;
use crate::ledger::By;
use crate::ledger::tests::{begin, ledger};
use crate::ledger::{Purpose, Ticket};
use crate::relay::{MovedCall, Sink};

use super::recover::{Damaged, SlotsError};
use super::*;

/// Both ends of a connection: the gateway's, and the peer's.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    (ours, theirs)
}

/// A call in a slot, and everything around it.
struct Rig {
    slots: Arc<Slots>,
    lane: Lane,
    slot: Slot,
    caller: TcpStream,
    worker: TcpStream,
    at_caller: TcpStream,
    at_worker: TcpStream,
    ticket: Ticket,
}

fn ticket(call: &str) -> Ticket {
    begin(&ledger(), call, Purpose::Call, 1).unwrap()
}

fn entered(ticket: &Ticket) -> Entered<'_> {
    Entered {
        identity: ticket.identity(),
        worker: ticket.worker(),
        addr: ticket.addr(),
        connected: Some(Timestamp(5)),
        closed: None,
        ends: false,
        strikes: 0,
        keepable: true,
    }
}

fn rig(strikes: u8) -> Rig {
    let slots = Slots::create(8).unwrap();
    let ticket = ticket("a");
    let slot = slots
        .take(&Entered {
            strikes,
            ..entered(&ticket)
        })
        .unwrap();
    for side in Side::BOTH {
        let flow = FlowState::new(0, &Observer::default(), Sink::Open, false);
        slot.set_flow(side, &flow);
    }
    let ((caller, at_caller), (worker, at_worker)) = (pair(), pair());
    slot.note_counts(&caller, &worker).unwrap();
    Rig {
        lane: slots.lane(0).unwrap(),
        slots,
        slot,
        caller,
        worker,
        at_caller,
        at_worker,
        ticket,
    }
}

impl Rig {
    /// As the next process finds it now.
    fn found(&self) -> Vec<Found> {
        recover(self.slots.memory().unwrap().try_clone_to_owned().unwrap()).unwrap()
    }

    fn reconciled(&self) -> Result<MovedCall, Damaged> {
        let found = self.found();
        assert_eq!(found.len(), 1);
        found[0].reconcile(&self.caller, &self.worker)
    }

    /// Reads what the caller said into the lane's buffer.
    fn read(&mut self, said: &[u8]) {
        (&self.at_caller).write_all(said).unwrap();
        let buffer = &mut self.lane.buffer[..said.len()];
        (&self.caller).read_exact(buffer).unwrap();
    }

    fn write(&self, bytes: &[u8]) {
        (&self.worker).write_all(bytes).unwrap();
    }

    fn take(&self, deed: Deed) -> FlowState {
        self.lane.take(self.slot.number(), Side::Caller, deed)
    }

    fn put(&self, flow: &FlowState) {
        self.lane.put(self.slot.number(), Side::Caller, flow);
    }

    /// One whole pump of `bytes`, of which the worker takes `written`.
    fn pump(&mut self, bytes: &[u8], written: usize) {
        let mut flow = self.take(Deed::Pump);
        self.read(bytes);
        flow.take_in(bytes, false);
        self.write(&bytes[..written]);
        flow.wrote(written);
        self.slot.append(Side::Caller, &mut flow, &bytes[written..]);
        self.put(&flow);
    }
}

const HALF: [u8; 6] = [0x82, 8, 1, 2, 3, 4];

#[test]
fn a_call_that_nobody_touched_is_as_it_was() {
    let mut rig = rig(0);
    rig.pump(&HALF, 4);
    rig.slot.close(Closed {
        by: By::Worker,
        code: Some(1012),
    });
    let moved = rig.reconciled().unwrap();
    assert_eq!(moved.up.leftover, [3, 4]);
    let mut observer = Observer::default();
    observer.see(&HALF);
    assert_eq!(moved.up.observer, observer);
    assert_eq!(moved.closed.unwrap().key(), "worker:1012");
    assert_eq!((moved.connection.bytes_in, moved.strikes), (6, 0));
    assert_eq!(moved.connection.connected, Some(Timestamp(5)));
    assert_eq!(moved.connection.identity, rig.ticket.identity());
    assert_eq!(&moved.connection.worker, rig.ticket.worker());
}

#[test]
fn a_pump_is_repaired_wherever_it_was_cut() {
    for read in [0, 6] {
        for written in 0..=read {
            let mut rig = rig(0);
            rig.pump(&[0x81, 0], 2);
            let mut flow = rig.take(Deed::Pump);
            rig.read(&HALF[..read]);
            rig.write(&HALF[..written]);
            for torn in 0..=FLOW_WORDS {
                // So many words of the new state were stored.
                let moved = rig.reconciled().unwrap();
                let mut observer = Observer::default();
                observer.see(&[0x81, 0]);
                observer.see(&HALF[..read]);
                assert_eq!(
                    moved.up.leftover,
                    HALF[written..read],
                    "{read} {written} {torn}"
                );
                assert_eq!(moved.up.observer, observer);
                assert_eq!(moved.connection.bytes_in, 2 + read as u64);
                assert_eq!(moved.strikes, 1);
                if torn == 0 {
                    flow.take_in(&HALF[..read], false);
                    flow.wrote(written);
                    rig.slot
                        .append(Side::Caller, &mut flow, &HALF[written..read]);
                }
                let words = rig.slots.flow_words(rig.slot.number(), Side::Caller);
                if let Some(word) = words.get(torn) {
                    word.store(flow.pack()[torn], Ordering::Relaxed);
                }
            }
            rig.lane.let_go();
            let moved = rig.reconciled().unwrap();
            assert_eq!(moved.up.leftover, HALF[written..read]);
            assert_eq!(moved.strikes, 0);
        }
    }
}

#[test]
fn a_flush_is_repaired_wherever_it_was_cut() {
    for written in 0..=4 {
        let mut rig = rig(0);
        rig.pump(&HALF, 2);
        rig.take(Deed::Flush);
        rig.write(&HALF[2..2 + written]);
        let moved = rig.reconciled().unwrap();
        assert_eq!(moved.up.leftover, HALF[2 + written..]);
        assert_eq!(moved.connection.bytes_in, 6);
    }
}

#[test]
fn a_goodbye_that_was_cut_is_said_once() {
    let mut rig = rig(0);
    rig.pump(&HALF, 6);
    rig.slot.set_ends();
    rig.take(Deed::Pump);
    // The rest of the frame, and some of the next one.
    rig.read(&[5, 6, 7, 8, 0x82, 1]);
    rig.write(&[5, 6]);
    let moved = rig.reconciled().unwrap();
    assert!(moved.connection.ends);
    assert_eq!(moved.up.sink, Sink::Farewell);
    assert_eq!(moved.up.leftover[..2], [7, 8]);
    let mut observer = Observer::default();
    assert_eq!(observer.see(&moved.up.leftover[2..]), Some(1001));
    assert!(observer.is_done());
}

#[test]
fn what_cannot_be_is_damage_and_has_a_name() {
    // More was written than read.
    let mut one = rig(0);
    one.take(Deed::Pump);
    one.read(&HALF[..2]);
    one.write(&HALF[..3]);
    // Bytes were read that no note tells of.
    let mut two = rig(0);
    two.read(&HALF);
    // Or written.
    let three = rig(0);
    three.write(&HALF);
    for rig in [one, two, three] {
        assert!(matches!(rig.reconciled(), Err(Damaged::Counts(_))));
        let identity = rig.found()[0].identity().unwrap();
        assert_eq!(identity.call.as_str(), "a");
    }
}

#[test]
fn a_call_over_which_gateways_crash_is_given_up() {
    let fresh = rig(1);
    assert_eq!(fresh.reconciled().unwrap().strikes, 0, "it was not in hand");
    fresh.take(Deed::Pump);
    assert!(matches!(fresh.reconciled(), Err(Damaged::Twice)));
    let mut went_on = rig(1);
    went_on.pump(&HALF, 6);
    went_on.take(Deed::Pump);
    assert_eq!(went_on.reconciled().unwrap().strikes, 1);
}

#[test]
fn a_dead_worker_takes_nothing_and_the_caller_is_heard_to_the_end() {
    let mut rig = rig(0);
    rig.pump(&HALF, 2);
    rustix::net::sockopt::set_socket_linger(&rig.at_worker, Some(Duration::ZERO)).unwrap();
    let (placeholder, _) = pair();
    drop(std::mem::replace(&mut rig.at_worker, placeholder));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !Counts::of(&rig.worker).unwrap().gone {
        assert!(std::time::Instant::now() < deadline, "a reset in time");
        std::thread::yield_now();
    }
    let moved = rig.reconciled().unwrap();
    assert_eq!(moved.up.sink, Sink::Dead);
    assert!(moved.up.leftover.is_empty());
    assert_eq!(moved.down.sink, Sink::Open);
}

#[test]
fn names_survive_however_long_they_are() {
    let slots = Slots::create(8).unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for length in [1, 36, 55, 56, 63, 64, 128] {
        for traceparent in [None, Some(trace.to_owned())] {
            let ticket = ticket(&"x".repeat(length));
            let mut identity = ticket.identity();
            identity.traceparent = traceparent;
            identity.retiring = length % 2 == 0;
            identity.is_resume = length % 2 == 1;
            let entered = Entered {
                identity: identity.clone(),
                ..entered(&ticket)
            };
            let slot = slots.take(&entered).unwrap();
            let memory = slots.memory().unwrap().try_clone_to_owned().unwrap();
            let found = recover(memory).unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].identity(), Some(identity), "{length}");
            assert_eq!(found[0].generation, slot.generation());
        }
    }
}

#[test]
fn a_call_whose_name_finds_no_room_is_not_kept() {
    let slots = Slots::create(8).unwrap();
    let ticket = ticket("a");
    for (length, keepable) in [(55, true), (COLD_BYTES, false)] {
        let mut identity = ticket.identity();
        identity.traceparent = Some("0".repeat(length));
        let entered = Entered {
            identity,
            ..entered(&ticket)
        };
        let slot = slots.take(&entered).unwrap();
        assert_eq!(slot.is_keepable(), keepable, "{length}");
        let memory = slots.memory().unwrap().try_clone_to_owned().unwrap();
        assert_eq!(recover(memory).unwrap().len(), usize::from(keepable));
    }
}

#[test]
fn slots_and_places_are_used_again_and_are_bounded() {
    let slots = Slots::create(2).unwrap();
    let (one, two) = (ticket("a"), ticket("b"));
    let first = slots.take(&entered(&one)).unwrap();
    let second = slots.take(&entered(&two)).unwrap();
    assert!(slots.take(&entered(&two)).is_none());
    let (number, generation) = (first.number(), first.generation());
    drop(first);
    let again = slots.take(&entered(&two)).unwrap();
    assert_eq!(
        (again.number(), again.generation()),
        (number, generation + 1)
    );
    let unkeepable = Entered {
        keepable: false,
        ..entered(&one)
    };
    drop(second);
    let tls = slots.take(&unkeepable).unwrap();
    assert!(again.is_keepable() && !tls.is_keepable());
    let memory = slots.memory().unwrap().try_clone_to_owned().unwrap();
    let numbers: Vec<u32> = recover(memory).unwrap().iter().map(|f| f.number).collect();
    assert_eq!(numbers, [number], "only what can be kept");
}

#[test]
fn foreign_memory_is_refused() {
    let slots = Slots::create(2).unwrap();
    for (word, value) in [(0, 99), (1, u64::MAX), (2, 3), (3, 7)] {
        let before = slots.memory.words(8 * word, 1)[0].swap(value, Ordering::Relaxed);
        let memory = || slots.memory().unwrap().try_clone_to_owned().unwrap();
        assert!(matches!(recover(memory()), Err(SlotsError::Unknown)));
        slots.memory.words(8 * word, 1)[0].store(before, Ordering::Relaxed);
        assert!(recover(memory()).unwrap().is_empty());
    }
}

#[test]
fn rubbish_in_a_slot_is_damage_and_no_panic() {
    let rig = rig(0);
    let mut seed: u64 = 7;
    for _ in 0..2_000 {
        let words = rig.slots.words(rig.slot.number());
        let saved: Vec<u64> = words.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        for word in words {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if seed >> 61 == 0 {
                word.store(seed.rotate_left(17), Ordering::Relaxed);
            }
        }
        for found in rig.found() {
            // Either answer is fine.
            let _ = found.reconcile(&rig.caller, &rig.worker);
        }
        for (word, value) in words.iter().zip(saved) {
            word.store(value, Ordering::Relaxed);
        }
    }
    rig.reconciled().unwrap();
}

#[test]
fn plain_memory_does_as_well() {
    let slots = Slots::plain(2);
    assert!(slots.memory().is_none());
    let ticket = ticket("a");
    let slot = slots.take(&entered(&ticket)).unwrap();
    let mut flow = FlowState::new(3, &Observer::default(), Sink::Open, false);
    slot.append(Side::Worker, &mut flow, b"waits");
    slot.set_flow(Side::Worker, &flow);
    let lane = slots.lane(0).unwrap();
    let taken = lane.take(slot.number(), Side::Worker, Deed::Flush);
    let mut waits = Vec::new();
    slot.leftover(Side::Worker, &taken, &mut waits);
    assert_eq!((taken, &waits[..]), (flow, &b"waits"[..]));
    assert!(!slot.is_keepable(), "nobody can have it");
}
