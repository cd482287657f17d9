//! What the keeper is told, and when.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::{Condvar, Mutex};

use super::*;

/// A keeper that remembers.
#[derive(Default)]
struct Fake {
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Default)]
struct State {
    held: BTreeSet<(u32, u32)>,
    holds: usize,
    messages: usize,
    largest: usize,
    /// So many more messages find no room.
    full: usize,
}

impl Keep for Fake {
    fn hold(&self, calls: &[Held<'_>]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        state.messages += 1;
        if state.full > 0 {
            state.full -= 1;
            self.told.notify_all();
            return Err(ErrorKind::WouldBlock.into());
        }
        state.largest = state.largest.max(calls.len());
        state.holds += calls.len();
        let calls = calls.iter().map(|held| (held.slot, held.generation));
        state.held.extend(calls);
        self.told.notify_all();
        Ok(())
    }

    fn release(&self, calls: &[(u32, u32)]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if state.full > 0 {
            state.full -= 1;
            return Err(ErrorKind::WouldBlock.into());
        }
        for call in calls {
            assert!(state.held.remove(call), "only what was held");
        }
        self.told.notify_all();
        Ok(())
    }
}

impl Fake {
    fn wait(&self, mut is_so: impl FnMut(&State) -> bool) {
        let state = self.state.lock().unwrap();
        let waited = self
            .told
            .wait_timeout_while(state, PATIENCE, |state| !is_so(state));
        assert!(!waited.unwrap().1.timed_out(), "the keeper is told in time");
    }
}

struct Kept {
    ledger: Arc<Ledger>,
    relay: Relay,
    fake: Arc<Fake>,
    peers: Vec<(TcpStream, TcpStream)>,
}

fn adopt(kept: &mut Kept, calls: std::ops::Range<usize>) {
    for number in calls {
        let ticket = begin(&kept.ledger, &format!("call-{number}"), Purpose::Call, 1);
        let ticket = ticket.unwrap();
        ticket.connected(Timestamp(1));
        let ((our_caller, caller), (our_worker, worker)) = (pair(), pair());
        let call = LiveCall::new(ticket, our_caller, our_worker, vec![], vec![]);
        kept.relay.adopt(call.unwrap());
        kept.peers.push((caller, worker));
    }
}

fn kept(calls: usize) -> Kept {
    let mut table = table(2, old());
    for worker in table.workers.values_mut() {
        worker.capacity = 1_000;
    }
    let ledger = ledger();
    ledger.install(table, Timestamp(0)).unwrap();
    let relay = Relay::start(1).unwrap();
    let fake = Arc::new(Fake::default());
    let keep: Arc<dyn Keep> = fake.clone();
    relay.keep_with(&keep);
    let mut kept = Kept {
        ledger,
        relay,
        fake,
        peers: Vec::new(),
    };
    adopt(&mut kept, 0..calls);
    kept
}

#[test]
fn every_call_is_held_in_batches_and_released_when_it_ends() {
    let mut kept = kept(150);
    kept.fake.wait(|state| state.held.len() == 150);
    {
        let state = kept.fake.state.lock().unwrap();
        assert!(state.largest <= 64 && state.messages < 150);
    }
    kept.peers.truncate(100);
    kept.fake.wait(|state| state.held.len() == 100);
    // Slots are used again, and told apart by their generation.
    adopt(&mut kept, 150..200);
    kept.fake.wait(|state| state.held.len() == 150);
    kept.peers.clear();
    kept.fake.wait(|state| state.held.is_empty());
}

#[test]
fn a_keeper_without_room_is_asked_again_and_one_that_is_back_is_told_all() {
    let mut kept = kept(0);
    kept.fake.state.lock().unwrap().full = 3;
    adopt(&mut kept, 0..70);
    kept.fake.wait(|state| state.held.len() == 70);
    assert!(kept.fake.state.lock().unwrap().messages >= 5);
    // It lost everything.
    let before = {
        let mut state = kept.fake.state.lock().unwrap();
        std::mem::take(&mut state.held)
    };
    kept.relay.hold_all();
    kept.fake.wait(|state| state.held == before);
}

#[test]
fn what_ended_is_released_although_all_is_held_again() {
    let mut kept = kept(1);
    kept.fake.wait(|state| state.held.len() == 1);
    kept.fake.state.lock().unwrap().full = usize::MAX;
    kept.peers.clear();
    wait_for_end(&kept.ledger);
    kept.relay.hold_all();
    adopt(&mut kept, 1..2);
    kept.fake.state.lock().unwrap().full = 0;
    kept.fake
        .wait(|state| state.holds == 2 && state.held.len() == 1);
}

#[test]
fn what_ended_while_it_was_to_be_held_again_is_released() {
    let mut kept = kept(1);
    kept.fake.wait(|state| state.held.len() == 1);
    let before = {
        let mut state = kept.fake.state.lock().unwrap();
        state.full = usize::MAX;
        state.messages
    };
    kept.relay.hold_all();
    kept.fake.wait(|state| state.messages > before);
    kept.peers.clear();
    wait_for_end(&kept.ledger);
    kept.fake.state.lock().unwrap().full = 0;
    kept.fake.wait(|state| state.held.is_empty());
}

#[test]
fn a_call_that_ended_before_it_was_held_is_never_mentioned() {
    let mut kept = kept(0);
    // No room until it has ended.
    kept.fake.state.lock().unwrap().full = usize::MAX;
    adopt(&mut kept, 0..1);
    kept.peers.clear();
    wait_for_end(&kept.ledger);
    kept.fake.state.lock().unwrap().full = 0;
    adopt(&mut kept, 1..2);
    kept.fake.wait(|state| state.holds > 0);
    assert_eq!(kept.fake.state.lock().unwrap().holds, 1);
}

#[test]
fn what_moves_away_is_neither_released_nor_held_twice() {
    let kept = kept(10);
    kept.fake.wait(|state| state.held.len() == 10);
    let calls = kept.relay.give_all();
    assert!(calls.iter().all(|call| call.to_hold().is_some()));
    // The other process did not take them.
    for call in calls {
        kept.relay.adopt(call);
    }
    let calls = kept.relay.give_all();
    assert_eq!(kept.fake.state.lock().unwrap().holds, 10);
    // Now it does.
    calls.into_iter().for_each(LiveCall::given);
    drop(kept.relay);
    assert_eq!(kept.fake.state.lock().unwrap().held.len(), 10);
}

/// Nothing is noted of a fresh call's sockets before it is held; and then bytes have moved.
#[test]
fn a_call_is_accounted_for_though_it_was_held_after_it_began_to_flow() {
    let mut kept = kept(0);
    // No room until it has flowed.
    kept.fake.state.lock().unwrap().full = usize::MAX;
    let ticket = begin(&kept.ledger, "fresh", Purpose::Call, 1).unwrap();
    ticket.connected(Timestamp(1));
    let ((our_caller, mut caller), (our_worker, mut worker)) = (pair(), pair());
    let ends = [&our_caller, &our_worker].map(|end| end.try_clone().unwrap());
    for socket in [&our_caller, &our_worker] {
        socket.set_nonblocking(true).unwrap();
    }
    let early = vec![0x82, 2, 7];
    let call = LiveCall::of_ready(ticket, our_caller, our_worker, early, vec![]).unwrap();
    kept.relay.adopt(call);
    let mut heard = [0; 3];
    worker.read_exact(&mut heard).unwrap();
    caller.write_all(&[8]).unwrap();
    worker.read_exact(&mut heard[..1]).unwrap();
    worker.write_all(&[0x82, 1, 9]).unwrap();
    caller.read_exact(&mut heard).unwrap();
    kept.fake.state.lock().unwrap().full = 0;
    kept.fake.wait(|state| state.held.len() == 1);

    let memory = kept.relay.slots().memory().unwrap();
    let found = crate::slots::recover(memory.try_clone_to_owned().unwrap()).unwrap();
    let moved = found[0].reconcile(&ends[0], &ends[1]).unwrap();
    let bytes = (moved.connection.bytes_in, moved.connection.bytes_out);
    assert_eq!(bytes, (4, 3));
    assert!(moved.up.leftover.is_empty() && moved.down.leftover.is_empty());
    kept.peers.push((caller, worker));
}

#[test]
fn a_call_that_ends_at_once_ends_for_its_peers_without_a_reset() {
    let kept = kept(0);
    let ticket = begin(&kept.ledger, "brief", Purpose::Call, 1).unwrap();
    ticket.connected(Timestamp(1));
    let ((our_caller, caller), (our_worker, worker)) = (pair(), pair());
    for socket in [&our_caller, &our_worker] {
        socket.set_nonblocking(true).unwrap();
    }
    let call = LiveCall::of_ready(ticket, our_caller, our_worker, vec![], vec![]).unwrap();
    kept.relay.adopt(call);
    (&worker).write_all(&[0x88, 2, 0x03, 0xe8]).unwrap();
    worker.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&caller), [0x88, 2, 0x03, 0xe8]);
    caller.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&worker), b"");
    assert_eq!(end(&kept.ledger), ("worker:1000".to_owned(), false));
}
