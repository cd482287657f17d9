//! A process is killed between any two things that it does to a call, and no byte is wrong.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use rustix::net::sockopt;

use crate::relay::running::Running;
use crate::relay::whole::tests::{Dice, frame};
use crate::rescue::Lifeline;
use crate::slots::{Lane, counted, look_while, recover};

use super::*;

/// What either side has said so far.
type Said = Rc<RefCell<[Vec<u8>; 2]>>;

struct Cut {
    call: Running,
    lane: Lane,
    /// Duplicates of the sockets of the gateway, as a keeper has them.
    ends: [TcpStream; 2],
    peers: [TcpStream; 2],
    /// What the kernel had counted before a byte came.
    base: [[u32; 2]; 2],
    said: Said,
    heard: [Vec<u8>; 2],
}

/// As `pair`, but it is full soon: the least that the kernel allows.
fn narrow_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    sockopt::set_socket_recv_buffer_size(&listener, 4_096).unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    sockopt::set_socket_send_buffer_size(&ours, 1).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs)
}

fn cut_call(slots: &Arc<Slots>, line: Option<Box<Lifeline>>) -> Cut {
    let ticket = begin(&ledger(), "a", Purpose::Call, 1).unwrap();
    let ((caller, at_caller), (worker, at_worker)) = (narrow_pair(), narrow_pair());
    let ends = [caller.try_clone().unwrap(), worker.try_clone().unwrap()];
    let base = [counted(&caller), counted(&worker)];
    let lane = slots.lane(0).unwrap();
    let call = LiveCall::new(ticket, caller, worker, vec![], vec![]).unwrap();
    Cut {
        call: Running::new(call.with_lifeline(line), &lane, 0).unwrap(),
        lane,
        ends,
        peers: [at_caller, at_worker],
        base,
        said: Said::default(),
        heard: Default::default(),
    }
}

impl Cut {
    /// Compares what the next process would find with what the kernel says.
    fn look(&self, slots: &Arc<Slots>, cuts: &Rc<RefCell<u32>>) -> Box<dyn FnMut()> {
        let memory = slots.memory().unwrap().try_clone_to_owned().unwrap();
        let ends = self.ends.each_ref().map(|end| end.try_clone().unwrap());
        let (said, base, cuts) = (Rc::clone(&self.said), self.base, Rc::clone(cuts));
        Box::new(move || {
            *cuts.borrow_mut() += 1;
            let found = recover(memory.try_clone().unwrap()).unwrap();
            let moved = found[0].reconcile(&ends[0], &ends[1]);
            let moved = moved.unwrap_or_else(|error| panic!("cut {}: {error}", cuts.borrow()));
            let counts = [counted(&ends[0]), counted(&ends[1])];
            for (side, flow) in [(Side::Caller, &moved.up), (Side::Worker, &moved.down)] {
                let (from, to) = (side.index(), side.other().index());
                let read = counts[from][0].wrapping_sub(base[from][0]) as usize;
                let written = counts[to][1].wrapping_sub(base[to][1]) as usize;
                assert!(
                    flow.leftover == said.borrow()[from][written..read],
                    "cut {}: {written} to {read} from {side:?}",
                    cuts.borrow()
                );
            }
        })
    }

    /// A side says more, and it is relayed as far as that goes.
    fn say(&mut self, side: Side, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if let Ok(taken) = (&self.peers[side.index()]).write(rest) {
                self.said.borrow_mut()[side.index()].extend(&rest[..taken]);
                rest = &rest[taken..];
            }
            self.relay();
            if !rest.is_empty() {
                self.hear();
            }
        }
        self.relay();
    }

    fn relay(&mut self) {
        for side in Side::BOTH {
            if self.call.wants_read(side) {
                self.call.pump(side, &mut self.lane);
            }
            if self.call.wants_write(side) {
                self.call.flush(side, &mut self.lane);
            }
        }
    }

    /// Either peer reads what came.
    fn hear(&mut self) {
        for (mut peer, heard) in self.peers.iter().zip(&mut self.heard) {
            let mut some = [0; 1_500];
            while let Ok(length @ 1..) = peer.read(&mut some) {
                heard.extend(&some[..length]);
            }
        }
    }
}

/// Messages of all lengths, of bytes that tell where they are.
fn message(dice: &mut Dice, masked: bool) -> Vec<u8> {
    let length = [0, 1, 100, 300, 640, 3_000][dice.below(6)];
    let first = dice.below(251);
    let payload: Vec<u8> = (first..first + length)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect();
    frame(0x82, masked.then_some([7, 130, 9, 200]), &payload)
}

fn cut_everywhere(seed: u64, line: Option<Box<Lifeline>>) -> u32 {
    let slots = Slots::create(4).unwrap();
    let mut cut = cut_call(&slots, line);
    let cuts = Rc::default();
    look_while(cut.look(&slots, &cuts), || {
        let mut dice = Dice::new(seed);
        let mut unsaid = [Vec::new(), Vec::new()];
        for _ in 0..40 {
            let side = Side::BOTH[dice.below(2)];
            let mut next = std::mem::take(&mut unsaid[side.index()]);
            next.extend(message(&mut dice, side == Side::Caller));
            // Up to anywhere in it.
            unsaid[side.index()] = next.split_off(1 + dice.below(next.len()));
            cut.say(side, &next);
            if dice.below(3) == 0 {
                cut.hear();
            }
        }
        for side in Side::BOTH {
            let rest = std::mem::take(&mut unsaid[side.index()]);
            cut.say(side, &rest);
        }
        let deadline = Instant::now() + PATIENCE;
        let said = Rc::clone(&cut.said);
        let [up, down] = &*said.borrow();
        while cut.heard[0].len() < down.len() || cut.heard[1].len() < up.len() {
            assert!(Instant::now() < deadline, "all of it in time");
            cut.relay();
            cut.hear();
        }
        assert!(cut.heard == [down.clone(), up.clone()], "seed {seed}");
    });
    cuts.take()
}

#[test]
fn no_byte_is_wrong_wherever_a_call_is_cut() {
    for seed in 0..2 {
        let cuts = cut_everywhere(seed, None);
        assert!(cuts > 1_000, "{cuts}");
    }
}

#[test]
fn no_byte_is_wrong_wherever_a_call_is_cut_that_holds_messages_back() {
    for seed in 0..2 {
        let cuts = cut_everywhere(seed, Some(Box::new(Lifeline::bare())));
        assert!(cuts > 1_000, "{cuts}");
    }
}
