//! A call while it is relayed: what a shard does to it when one of its sockets can be read or
//! written.
//!
//! All that is known of its flows lies in its slot. Each flow goes through the shard's lane while
//! bytes of it move, so that a process that is killed meanwhile leaves a note of it.

mod aging;
mod ahead;
mod rescuable;

use std::cell::Cell;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustls::ServerConnection;
use segue_core::time::Timestamp;

use crate::ledger::{By, Closed, End, Ticket};
use crate::rescue::Lifeline;
use crate::slots::{Deed, FlowState, Intake, Lane, Slot, cut};

use super::call::{Age, Flow, LiveCall, Sink, farewell};
use super::interest::Interest;
use super::side::Side;
use super::{Held, tls};

pub(crate) use self::ahead::Sketch;

/// See the module.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) ticket: Ticket,
    caller: TcpStream,
    worker: TcpStream,
    slot: Slot,
    tls: Option<Box<ServerConnection>>,
    /// Tells a late event of the call that was in its place before from one of this call.
    pub(super) generation: u32,
    /// What its sockets are watched for.
    pub(super) interest: [Interest; 2],
    /// It is over but for its last bytes, and they have a deadline.
    pub(super) ending: bool,
    age: Cell<Age>,
    /// How it can outlive its worker, if it can. As long as it has this, nothing of it has ended.
    lifeline: Option<Box<Lifeline>>,
}

/// What an event did to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Bytes went from one side to the other, and what the call waits for is what it was.
    Same,
    /// It must be looked at: see [`Running::wants_read`] and the like.
    Changed,
}

impl Running {
    /// Takes a call up. `None`: there is no slot for it, and it has ended.
    pub(super) fn new(mut call: LiveCall, lane: &Lane, generation: u32) -> Option<Self> {
        if !call.slot.as_ref().is_some_and(|slot| slot.is_of(lane))
            && let Err(error) = call.enroll_lightly(lane.slots())
        {
            tracing::error!(%error, call = %call.ticket.identity().call, "a call is lost");
            return None;
        }
        Some(Self {
            ticket: call.ticket,
            caller: call.caller,
            worker: call.worker,
            slot: call.slot.expect("it was enrolled"),
            tls: call.tls,
            generation,
            interest: Default::default(),
            ending: false,
            age: Cell::new(call.age),
            lifeline: call.lifeline,
        })
    }

    /// Puts it down: the reverse of [`Running::new`].
    pub(super) fn into_call(self) -> LiveCall {
        self.season();
        // Wherever it goes.
        let age = match self.age.get() {
            Age::Fresh | Age::Seasoned => Age::Shared,
            age @ (Age::Shared | Age::Held | Age::Doubted) => age,
        };
        let flow = |side| {
            let state = self.slot.flow(side);
            let mut leftover = Vec::new();
            self.slot.leftover(side, &state, &mut leftover);
            Flow {
                leftover,
                ended: state.ended,
                sink: state.sink,
                observer: state.observer(),
            }
        };
        LiveCall {
            up: flow(Side::Caller),
            down: flow(Side::Worker),
            closed: self.slot.closed(),
            leaving: self.is_leaving(),
            connected: self.slot.connected(),
            strikes: 0,
            ticket: self.ticket,
            caller: self.caller,
            worker: self.worker,
            slot: Some(self.slot),
            age,
            tls: self.tls,
            lifeline: self.lifeline,
        }
    }

    pub(super) fn socket(&self, side: Side) -> &TcpStream {
        match side {
            Side::Caller => &self.caller,
            Side::Worker => &self.worker,
        }
    }

    /// Ended by policy: each side gets a close frame of ours, as soon as a frame ends.
    #[inline]
    pub(super) fn is_leaving(&self) -> bool {
        self.slot.ends()
    }

    /// Whether it can move to another process.
    pub(super) fn is_movable(&self) -> bool {
        self.tls.is_none()
    }

    /// What the keeper needs. `None`: it cannot be kept.
    pub(super) fn to_hold(&self) -> Option<Held<'_>> {
        self.slot.is_keepable().then(|| Held {
            slot: self.slot.number(),
            generation: self.slot.generation(),
            caller: self.caller.as_fd(),
            worker: self.worker.as_fd(),
        })
    }

    /// Slot and generation.
    pub(super) fn number(&self) -> (u32, u32) {
        (self.slot.number(), self.slot.generation())
    }

    /// The flow that comes from `side`.
    fn from(&self, side: Side) -> FlowState {
        self.slot.flow(side)
    }

    /// Whether sealed bytes wait for the caller.
    fn is_sealed_waiting(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Whether bytes that came from `side` wait.
    fn is_waiting(&self, side: Side) -> bool {
        let flow = self.from(side);
        let waits = flow.waiting() > self.held_back(side);
        waits || side == Side::Worker && self.is_sealed_waiting()
    }

    /// Whether bytes from this side are wanted now: also if they are only thrown away.
    pub(super) fn wants_read(&self, side: Side) -> bool {
        let flow = self.from(side);
        !flow.ended && (flow.sink == Sink::Farewell || !self.is_waiting(side))
    }

    /// Whether bytes wait for this side.
    pub(super) fn wants_write(&self, side: Side) -> bool {
        self.is_waiting(side.other()) && !(side == Side::Worker && self.is_worker_deaf())
    }

    /// Both directions are through. Of a call that we end, they are when both sides have said
    /// their own goodbye.
    pub(super) fn is_over(&self) -> bool {
        Side::BOTH.into_iter().all(|side| {
            let flow = self.from(side);
            (flow.ended || self.is_leaving() && flow.is_done()) && !self.is_waiting(side)
        })
    }

    /// The call is over and only the last bytes are left: one side is gone for good, or one side
    /// ended its stream after a close frame. From here on the rest has a deadline; before, no
    /// call has any.
    pub(super) fn is_ending(&self) -> bool {
        let said_goodbye = self
            .slot
            .closed()
            .is_some_and(|closed| closed.code.is_some());
        Side::BOTH.into_iter().any(|side| {
            let gone = self.from(side.other()).sink == Sink::Dead;
            self.from(side).ended && (said_goodbye || gone)
        })
    }

    /// Whether some side was told nothing yet, because a frame to it is not whole.
    pub(super) fn owes_farewell(&self) -> bool {
        let owed = |flow: FlowState| flow.sink == Sink::Open && !flow.is_done();
        self.is_leaving() && Side::BOTH.into_iter().any(|side| owed(self.from(side)))
    }

    /// Ends the call by policy. Again for one that was ended is no change.
    pub(super) fn leave(&mut self, lane: &mut Lane) {
        self.cut_lifeline();
        self.slot.set_ends();
        self.slot.close(Closed::BY_POLICY);
        for side in Side::BOTH {
            let mut flow = lane.take(self.slot.number(), side, Deed::Edit);
            if flow.sink == Sink::Open && flow.is_between_frames() {
                self.owe_farewell(side, &mut flow);
                lane.put(self.slot.number(), side, &flow);
                self.flush(side.other(), lane);
            } else {
                lane.let_go();
                self.settle(side);
            }
        }
    }

    /// Has our close frame follow what waits for the other side of `side`, and nothing else.
    fn owe_farewell(&self, side: Side, flow: &mut FlowState) {
        flow.sink = Sink::Farewell;
        self.slot.append(side, flow, &farewell(side.other()));
    }

    /// Reads once from a side and writes to the other one.
    #[inline]
    pub(super) fn pump(&mut self, side: Side, lane: &mut Lane) -> After {
        if self.lifeline.is_some() {
            self.make_room(side, lane);
        }
        if side == Side::Caller && self.tls.is_some() {
            return self.pump_tls(lane);
        }
        let flow = lane.take(self.slot.number(), side, Deed::Pump);
        match receive(self.socket(side), &mut lane.buffer) {
            Ok(0) => {
                lane.let_go();
                self.source_ended(side);
                After::Changed
            }
            Ok(length) => self.forward(side, lane, flow, &lane.buffer[..length]),
            Err(Errno::AGAIN | Errno::INTR) => {
                lane.let_go();
                After::Same
            }
            Err(_) => {
                lane.let_go();
                self.source_failed(side, lane);
                After::Changed
            }
        }
    }

    /// Opens what the caller sealed and writes it to the worker.
    fn pump_tls(&mut self, lane: &mut Lane) -> After {
        let Some(tls) = &mut self.tls else {
            return After::Same;
        };
        let length = match receive(&self.caller, &mut lane.buffer) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => return After::Same,
            Err(_) => {
                self.source_failed(Side::Caller, lane);
                return After::Changed;
            }
        };
        let mut opened = std::mem::take(&mut lane.scratch);
        opened.clear();
        let read = tls::open(tls, &lane.buffer[..length], &mut opened);
        let mut after = After::Same;
        if !opened.is_empty() {
            let flow = lane.take(self.slot.number(), Side::Caller, Deed::Pump);
            after = self.forward(Side::Caller, lane, flow, &opened);
        }
        lane.scratch = opened;
        if self.is_sealed_waiting() {
            // Answers of the protocol itself, such as to a key update.
            self.flush(Side::Caller, lane);
            after = After::Changed;
        }
        match read {
            Ok(tls::Stream::Open) if length > 0 => after,
            // Many peers end TLS without saying so.
            Ok(_) => {
                self.source_ended(Side::Caller);
                After::Changed
            }
            Err(error) => {
                tracing::debug!(%error, "TLS failed within a call");
                self.source_failed(Side::Caller, lane);
                After::Changed
            }
        }
    }

    /// Writes what was just read from `side` to the other one, and keeps what that does not take.
    #[inline]
    fn forward(&mut self, side: Side, lane: &Lane, mut flow: FlowState, bytes: &[u8]) -> After {
        if self.lifeline.is_some() {
            return self.forward_whole(side, lane, flow, bytes);
        }
        let leaving = self.is_leaving();
        let intake = flow.take_in(bytes, leaving);
        let mut rest = &bytes[..intake.forward];
        let mut failed = false;
        if !rest.is_empty() {
            match self.write(side.other(), rest) {
                Ok(written) => {
                    flow.wrote(written);
                    rest = &rest[written..];
                }
                Err(()) => failed = true,
            }
        }
        let straight = rest.is_empty() && intake.code.is_none() && !leaving;
        if straight {
            lane.put(self.slot.number(), side, &flow);
            self.count(side, &flow);
            return if self.tls.is_none() {
                After::Same
            } else {
                After::Changed
            };
        }
        if failed {
            kill(&mut flow);
        } else {
            self.slot.append(side, &mut flow, rest);
            if intake.farewell {
                self.owe_farewell(side, &mut flow);
            }
        }
        lane.put(self.slot.number(), side, &flow);
        self.count(side, &flow);
        self.after_forward(side, intake, failed);
        After::Changed
    }

    fn after_forward(&mut self, side: Side, intake: Intake, failed: bool) {
        if let Some(code) = intake.code {
            self.note(side, Some(code));
        }
        if failed {
            self.note(side.other(), None);
        }
        self.settle(side);
        self.settle(side.other());
    }

    /// Writes what waits for a side.
    pub(super) fn flush(&mut self, side: Side, lane: &mut Lane) {
        let mut scratch = std::mem::take(&mut lane.scratch);
        self.flush_with(side, lane, &mut scratch);
        lane.scratch = scratch;
    }

    fn flush_with(&mut self, side: Side, lane: &Lane, scratch: &mut Vec<u8>) {
        let (source, number) = (side.other(), self.slot.number());
        if side == Side::Caller
            && let Some(tls) = &mut self.tls
            && tls::flush(tls, &self.caller).is_err()
        {
            self.cut_lifeline();
            self.kill(side, lane);
            self.note(side, None);
        }
        let mut flow = lane.take(number, source, Deed::Flush);
        let may_go = flow.waiting().saturating_sub(self.held_back(source));
        if may_go == 0 {
            lane.let_go();
            self.settle(source);
            return;
        }
        scratch.clear();
        self.slot.leftover(source, &flow, scratch);
        let waiting = &scratch[..may_go];
        let (end, mut failed) = (flow.end, false);
        match self.write(side, waiting) {
            Ok(written) => {
                flow.wrote(written);
                flow.wrote_leftover(written);
                self.told_worker(source, waiting, written);
            }
            Err(()) if self.deafens_worker(side) => {}
            Err(()) => {
                self.cut_lifeline();
                failed = true;
                kill(&mut flow);
            }
        }
        lane.put(number, source, &flow);
        if !flow.has_leftover() {
            self.slot.forget(source, 0..end);
        }
        if failed {
            self.note(side, None);
        }
        self.settle(source);
    }

    /// Writes bytes to a side; answers how many it took. `Err`: it can be written no more.
    #[inline]
    fn write(&mut self, side: Side, bytes: &[u8]) -> Result<usize, ()> {
        if side == Side::Caller
            && let Some(tls) = &mut self.tls
        {
            if tls.wants_write() {
                return Ok(0);
            }
            let written = tls::seal(tls, bytes).and_then(|()| tls::flush(tls, &self.caller));
            if written.is_err() {
                tls::forget(tls);
            }
            return written.map(|()| bytes.len()).map_err(drop);
        }
        loop {
            cut();
            match rustix::net::send(self.socket(side), bytes, SendFlags::NOSIGNAL) {
                Ok(written) => return Ok(written),
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(_) => return Err(()),
            }
        }
    }

    /// Tells the other side that no more will come, once that is so: `side` has ended; or the other
    /// side has had our close frame and answered it.
    fn settle(&mut self, side: Side) {
        let (mut flow, back) = (self.from(side), self.from(side.other()));
        let through = match flow.sink {
            Sink::Open => flow.ended,
            Sink::Farewell => back.ended || back.is_done(),
            Sink::Shut | Sink::Dead => false,
        };
        if !through || self.is_waiting(side) {
            return;
        }
        if side == Side::Worker
            && let Some(tls) = &mut self.tls
            && !tls::say_end(tls, &self.caller)
        {
            // Once more, when it is written.
            return;
        }
        // A call that is over with this is closed at once, and that says the same.
        if self.is_shared() || !(flow.ended && back.ended && !self.is_waiting(side.other())) {
            // An error means that the socket is gone already, which reading it will show.
            let _ = self.socket(side.other()).shutdown(Shutdown::Write);
        }
        flow.sink = Sink::Shut;
        self.slot.set_flow(side, &flow);
    }

    fn source_ended(&mut self, side: Side) {
        if side == Side::Worker && self.loses_worker(None) {
            return;
        }
        self.cut_lifeline();
        self.note(side, None);
        let mut flow = self.from(side);
        flow.ended = true;
        self.slot.set_flow(side, &flow);
        self.settle(side);
        // It may have been waited for on the way back.
        self.settle(side.other());
    }

    fn source_failed(&mut self, side: Side, lane: &Lane) {
        if side == Side::Worker && self.loses_worker(None) {
            return;
        }
        self.cut_lifeline();
        self.note(side, None);
        self.kill(side, lane);
        let mut flow = self.from(side);
        flow.ended = true;
        self.slot.set_flow(side, &flow);
        self.settle(side);
    }

    /// Nothing can be written to this side any more. What it said before can still be read.
    fn kill(&mut self, side: Side, lane: &Lane) {
        let (source, number) = (side.other(), self.slot.number());
        let mut flow = lane.take(number, source, Deed::Edit);
        let end = flow.end;
        kill(&mut flow);
        lane.put(number, source, &flow);
        if end > 0 {
            self.slot.forget(source, 0..end);
        }
        if side == Side::Caller
            && let Some(tls) = &mut self.tls
        {
            tls::forget(tls);
        }
    }

    /// One writer, so a store and no addition.
    #[inline]
    fn count(&self, side: Side, flow: &FlowState) {
        let counters = self.ticket.counters();
        let counter = match side {
            Side::Caller => &counters.bytes_in,
            Side::Worker => &counters.bytes_out,
        };
        counter.store(flow.read, Ordering::Relaxed);
    }

    fn note(&self, side: Side, code: Option<u16>) {
        let by = side.by();
        self.slot.close(Closed { by, code });
    }

    /// Ends both streams. Others may hold duplicates of the sockets, so closing them is not enough;
    /// and closing one whose peer has more to say would reset it.
    pub(super) fn shut(&self) {
        for side in Side::BOTH {
            if !self.is_shared() && self.from(side).ended {
                continue;
            }
            // Whoever reads what came before finds an end and no reset.
            let _ = self.socket(side).shutdown(Shutdown::Both);
        }
    }

    /// Closes both sockets and uncounts the call.
    pub(super) fn finish(self, now: Timestamp) {
        let fault = Closed {
            by: By::Gateway,
            code: None,
        };
        let closed = self.slot.closed().unwrap_or(fault);
        self.shut();
        // The sockets close before the count goes, so that "uncounted" means "gone".
        drop((self.caller, self.worker));
        self.ticket.finish(End::Closed(closed), now);
    }
}

fn kill(flow: &mut FlowState) {
    flow.sink = Sink::Dead;
    (flow.start, flow.end) = (0, 0);
}

#[inline]
fn receive(socket: &TcpStream, buffer: &mut [u8]) -> Result<usize, Errno> {
    cut();
    rustix::net::recv(socket, buffer, RecvFlags::empty()).map(|(length, _)| length)
}
