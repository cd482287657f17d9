//! What the controller was told and may not have read: a socket takes it, and loses it with a
//! controller that dies.
//!
//! One batch of each kind is under way at a time; what comes meanwhile waits where it is bounded. It is
//! told again on the next link, so a controller that died right after it read may hear it twice.

use segue_core::link::{CallRecord, ToController};
use segue_core::plane::PlaneEvent;

use super::Linked;

/// See the module.
#[derive(Debug)]
pub(super) struct Unread {
    /// Whether the controller says what it has read. One of an earlier version does not: of it
    /// only what could not be written is told again.
    acknowledges: bool,
    /// Batches that were sent on this link.
    sent: u64,
    calls: Batch<CallRecord>,
    events: Batch<PlaneEvent>,
}

#[derive(Debug)]
struct Batch<T> {
    /// The last of them, as both sides count.
    number: u64,
    of: Vec<T>,
}

impl<T> Batch<T> {
    const EMPTY: Self = Self {
        number: 0,
        of: Vec::new(),
    };

    fn keep(&mut self, number: u64, of: Vec<T>) {
        self.number = number;
        self.of.extend(of);
    }

    fn is_read(&mut self, batches: u64) {
        if self.number <= batches {
            self.of.clear();
        }
    }
}

impl Unread {
    pub(super) fn new(acknowledges: bool) -> Self {
        Self {
            acknowledges,
            sent: 0,
            calls: Batch::EMPTY,
            events: Batch::EMPTY,
        }
    }

    /// A batch was sent, or could not be.
    pub(super) fn sent(&mut self, message: ToController, is_written: bool) {
        self.sent += 1;
        if is_written && !self.acknowledges {
            return;
        }
        match message {
            ToController::Ended { calls, .. } => self.calls.keep(self.sent, calls),
            ToController::Events { events, .. } => self.events.keep(self.sent, events),
            _ => {}
        }
    }

    /// The controller has read so many batches.
    pub(super) fn is_read(&mut self, batches: u64) {
        self.calls.is_read(batches);
        self.events.is_read(batches);
    }

    pub(super) fn has_calls(&self) -> bool {
        !self.calls.of.is_empty()
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.of.is_empty()
    }

    /// The link is over: what it may not have carried goes back, for the next one.
    pub(super) fn put_back(self, linked: &dyn Linked) {
        let (calls, events) = (self.calls.of, self.events.of);
        if !calls.is_empty() {
            linked.put_back_ended(calls);
        }
        if !events.is_empty() {
            linked.put_back_events(events);
        }
    }
}
