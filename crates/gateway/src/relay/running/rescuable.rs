//! A running call that may outlive its worker: messages go on whole, and a dead worker is no end.
//!
//! As long as a call has its lifeline, nothing of it has ended: neither side has said goodbye, and
//! both can be written. With the first sign of an end that is not the worker's death the lifeline
//! is cut, what is held goes on, and the call is one like any other.
//!
//! What is held back lies at the end of what waits, so that a call that outlives its *process* has
//! every byte of it, too.

use crate::ledger::Closed;
use crate::rescue::Way;
use crate::slots::{Deed, FlowState, Lane, small};

use super::super::side::Side;
use super::{After, Running};

/// Which way bytes from this side go.
pub(in super::super) fn way(from: Side) -> Way {
    match from {
        Side::Caller => Way::Up,
        Side::Worker => Way::Down,
    }
}

impl Running {
    /// How many of the last bytes that wait from this side are held back.
    pub(super) fn held_back(&self, side: Side) -> usize {
        self.lifeline
            .as_ref()
            .map_or(0, |line| line.held(way(side)))
    }

    /// Whether its worker is dead, and another one is to be found.
    pub(in super::super) fn is_lost(&self) -> bool {
        self.lifeline
            .as_ref()
            .is_some_and(|line| line.lost().is_some())
    }

    /// Whether its worker takes no more bytes, though it may have more to say.
    pub(super) fn is_worker_deaf(&self) -> bool {
        self.lifeline.as_ref().is_some_and(|line| line.is_deaf())
    }

    /// Lets it end as other calls do.
    pub(super) fn cut_lifeline(&mut self) {
        self.lifeline = None;
    }

    /// The worker gave a sign of its end. False: it is one like any other.
    pub(super) fn loses_worker(&mut self, code: Option<u16>) -> bool {
        let by = Side::Worker.by();
        let closed = Closed { by, code };
        match &mut self.lifeline {
            Some(line) if closed.is_drop() => {
                line.lose(closed);
                true
            }
            _ => false,
        }
    }

    /// As `Running::forward`, message by message.
    pub(super) fn forward_whole(
        &mut self,
        side: Side,
        lane: &Lane,
        mut flow: FlowState,
        bytes: &[u8],
    ) -> After {
        let (way, held) = (way(side), self.held_back(side));
        let Some(line) = &mut self.lifeline else {
            unreachable!("it was asked for");
        };
        let seen = line.see(way, bytes);
        let intake = flow.take_in(bytes, false);
        if side == Side::Worker
            && let Some(gap) = line.heard()
        {
            self.ticket.counters().heard_again(gap);
            let (call, worker) = (self.ticket.identity().call.clone(), self.ticket.worker());
            tracing::info!(%call, %worker, ?gap, "a call was rescued");
        }
        // Of a stream nobody else says so.
        let ends = seen.closed.or(intake.code.filter(|_| !line.is_whole(way)));
        if seen.passes == bytes.len() && held == 0 && ends.is_none() {
            return self.forward_straight(side, lane, flow, bytes);
        }
        let dies = ends.is_some() && self.loses_worker_by(side, seen.closed);
        let keep = if dies { seen.passes } else { bytes.len() };
        let end = flow.end;
        if dies && seen.passes == 0 {
            // The beginning of a message that never ends, or of the close frame itself.
            flow.end -= small(held);
        }
        self.slot.append(side, &mut flow, &bytes[..keep]);
        lane.put(self.slot.number(), side, &flow);
        self.count(side, &flow);
        // What was thrown away.
        self.slot.forget(side, flow.end..end);
        match (&mut self.lifeline, ends) {
            (Some(line), _) if dies => line.discard(way),
            (_, Some(code)) => {
                self.cut_lifeline();
                self.note(side, Some(code));
            }
            (Some(line), None) if line.records() && side == Side::Caller && seen.passes > 0 => {
                let mut passed = Vec::new();
                self.slot.leftover(side, &flow, &mut passed);
                line.record(&passed[..held + seen.passes]);
            }
            _ => {}
        }
        let mut scratch = Vec::new();
        self.flush_with(side.other(), lane, &mut scratch);
        After::Changed
    }

    /// Writes whole messages on, as they came.
    fn forward_straight(
        &mut self,
        side: Side,
        lane: &Lane,
        mut flow: FlowState,
        bytes: &[u8],
    ) -> After {
        if side == Side::Caller
            && let Some(line) = &mut self.lifeline
            && line.records()
        {
            line.record(bytes);
        }
        // What fails waits, and fails again where that is looked into.
        let written = self.write(side.other(), bytes).unwrap_or(0);
        flow.wrote(written);
        self.told_worker(side, bytes, written);
        let all = written == bytes.len();
        if !all {
            self.slot.append(side, &mut flow, &bytes[written..]);
        }
        lane.put(self.slot.number(), side, &flow);
        self.count(side, &flow);
        if all && self.tls.is_none() {
            After::Same
        } else {
            After::Changed
        }
    }

    /// Notes that so many of the bytes that may go to the worker went.
    pub(super) fn told_worker(&mut self, from: Side, bytes: &[u8], written: usize) {
        if from == Side::Caller
            && let Some(line) = &mut self.lifeline
        {
            line.wrote(&bytes[..written], written == bytes.len());
        }
    }

    /// A write to the worker failed. What it said before can still be read, and its end tells what
    /// becomes of the call. False: it has no lifeline.
    pub(super) fn deafens_worker(&mut self, to: Side) -> bool {
        match &mut self.lifeline {
            Some(line) if to == Side::Worker => {
                line.deafen();
                true
            }
            _ => false,
        }
    }

    fn loses_worker_by(&mut self, side: Side, code: Option<u16>) -> bool {
        side == Side::Worker && code.is_some() && self.loses_worker(code)
    }

    /// What is held lies behind what was written meanwhile. It goes to the front, so that one more
    /// read finds room.
    ///
    /// Where it lay it is what a killed process leaves, until it is put back. So it goes nowhere
    /// near there, and as a deed of its own: a read that follows may write anywhere else.
    pub(super) fn make_room(&self, side: Side, lane: &Lane) {
        let flow = self.slot.flow(side);
        let length = flow.end - flow.start;
        // A TLS call leaves nothing, and of one more can be opened at once than is read.
        if length == 0 || flow.start == 0 || flow.start < length && self.tls.is_none() {
            return;
        }
        let number = self.slot.number();
        let mut flow = lane.take(number, side, Deed::Edit);
        let (mut held, end) = (Vec::new(), flow.end);
        self.slot.leftover(side, &flow, &mut held);
        (flow.start, flow.end) = (0, 0);
        self.slot.append(side, &mut flow, &held);
        lane.put(number, side, &flow);
        self.slot.forget(side, flow.end..end);
    }
}
