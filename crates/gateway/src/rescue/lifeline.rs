//! What is kept of a call so that it can outlive its worker.
//!
//! Some kilobytes at most for each call of an agent that asks for it, and nothing for others. It
//! lives in this process and travels in a handoff. It is not in the memory that a keeper holds: a
//! call that outlived its gateway is relayed on, but ends with its worker.

use std::time::{Duration, Instant};

use segue_core::link::Rescued;
use segue_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ledger::Closed;
use crate::relay::whole::{Messages, Seen, Whole};

use super::opening::Opening;

/// Longest request head that is kept. Heads of carriers are a tenth of it; a call with a longer one
/// ends with its worker.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Rescues in a row. A call that kills its worker must not walk through the fleet.
pub(crate) const RESCUES_MAX: u32 = 2;

/// A call that has lived this long at a worker is not what kills it: the row begins anew.
pub(crate) const SETTLED_AFTER: Millis = Millis::from_secs(60);

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lifeline {
    pub(super) request: Recorded,
    opening: Opening,
    up: Whole,
    down: Whole,
    /// Where in a message the bytes end that the worker's socket has taken.
    written: Messages,
    /// The sign by which its worker was lost, until it has another one.
    #[serde(default)]
    lost: Option<Closed>,
    /// Whether a write to the worker failed.
    #[serde(default)]
    deaf: bool,
    rescued: Rescued,
    in_a_row: u32,
    last: Option<Timestamp>,
    /// When the worker was lost, until the next one is heard. Not told to another process, whose
    /// clock it would mean nothing to.
    #[serde(skip)]
    silent_since: Option<Since>,
}

/// A moment that is the same whatever it is, so that what it is part of can be compared.
#[derive(Debug, Clone, Copy)]
struct Since(Instant);

impl PartialEq for Since {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Since {}

/// How a call was asked for, and how that was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// The head as it went to the first worker, without its last line and without what is new each
    /// time.
    #[serde(with = "crate::handoff::bytes")]
    pub(super) head: Vec<u8>,
    /// The subprotocol that the caller was told.
    pub(super) protocol: Option<String>,
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To the worker.
    Up,
    /// To the caller.
    Down,
}

impl Lifeline {
    pub(crate) fn new(request: Recorded, opening_messages: u32) -> Self {
        Self {
            request,
            opening: Opening::new(opening_messages),
            up: Whole::default(),
            down: Whole::default(),
            written: Messages::default(),
            lost: None,
            deaf: false,
            rescued: Rescued::default(),
            in_a_row: 0,
            last: None,
            silent_since: None,
        }
    }

    fn whole(&mut self, way: Way) -> &mut Whole {
        match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        }
    }

    /// How many of the last bytes that wait are held back.
    pub(crate) fn held(&self, way: Way) -> usize {
        match way {
            Way::Up => self.up.held(),
            Way::Down => self.down.held(),
        }
    }

    /// Whether the other side has had whole messages only.
    pub(crate) fn is_whole(&self, way: Way) -> bool {
        match way {
            Way::Up => self.up.is_whole(),
            Way::Down => self.down.is_whole(),
        }
    }

    /// Looks at bytes that were read.
    pub(crate) fn see(&mut self, way: Way, bytes: &[u8]) -> Seen {
        let seen = self.whole(way).see(bytes);
        if way == Way::Up && !self.up.is_whole() && self.opening.is_open() {
            self.opening.give_up();
            say_too_long();
        }
        seen
    }

    /// The code of the goodbye among bytes that the caller said next, and that nobody has read yet.
    pub(crate) fn goodbye_in(&self, unread: &[u8]) -> Option<u16> {
        self.up.clone().see(unread).closed
    }

    /// Whether [`Lifeline::record`] is to be told of what passes.
    pub(crate) fn records(&self) -> bool {
        self.opening.is_open()
    }

    /// Looks at bytes of the caller that go on: all that were held, and those that pass.
    pub(crate) fn record(&mut self, passed: &[u8]) {
        if self.opening.record(passed) {
            say_too_long();
        }
    }

    /// Bytes went to the worker. `all`: none of those that may go wait any more.
    pub(crate) fn wrote(&mut self, bytes: &[u8], all: bool) {
        if all {
            self.written = self.up.passed();
        } else {
            self.written.skip(bytes);
        }
    }

    /// What is held in one direction was thrown away.
    pub(crate) fn discard(&mut self, way: Way) {
        *self.whole(way) = Whole::default();
    }

    /// The worker takes no more bytes.
    pub(crate) fn deafen(&mut self) {
        self.deaf = true;
    }

    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// The worker is lost, by this sign.
    pub(crate) fn lose(&mut self, closed: Closed) {
        self.lost.get_or_insert(closed);
        self.silent_since.get_or_insert(Since(Instant::now()));
    }

    /// By which sign the worker was lost, if it is.
    pub(crate) fn lost(&self) -> Option<Closed> {
        self.lost
    }

    /// Why another worker could not go on with this call.
    pub(super) fn lost_because(&self, now: Timestamp) -> Option<&'static str> {
        let settled = self.is_settled(now);
        if self.opening.is_too_long() {
            Some("it opened with more than is kept")
        } else if !(self.up.is_whole() && self.down.is_whole()) {
            Some("it was within a long message")
        } else if self.in_a_row >= RESCUES_MAX && !settled {
            Some("it was rescued too often in a row")
        } else {
            None
        }
    }

    fn is_settled(&self, now: Timestamp) -> bool {
        self.last
            .is_none_or(|last| now.since(last) >= SETTLED_AFTER)
    }

    /// Which rescue the next one is.
    pub(super) fn next_number(&self) -> u32 {
        self.rescued.times + 1
    }

    /// A worker took the call, whatever becomes of it.
    pub(super) fn begin(&mut self, now: Timestamp) {
        if self.is_settled(now) {
            self.in_a_row = 0;
        }
        self.in_a_row += 1;
        self.last = Some(now);
    }

    /// Whether one more worker may be given to it.
    pub(super) fn may_begin(&self) -> bool {
        self.in_a_row < RESCUES_MAX
    }

    /// What the other worker is told first.
    pub(super) fn opening(&self) -> &[u8] {
        self.opening.bytes()
    }

    /// Another worker has it. Answers what of the bytes that wait goes there: `waiting` are those
    /// that may go, without what is held.
    pub(crate) fn go_on<'a>(&mut self, waiting: &'a [u8]) -> Vec<&'a [u8]> {
        self.rescued.times += 1;
        let passed = self.up.messages();
        let unsent = self.opening.unsent(&self.written, waiting, passed);
        self.written = Messages::default();
        self.down = Whole::default();
        (self.lost, self.deaf) = (None, false);
        unsent
    }

    /// The next worker was heard. Answers how long none was, the first time.
    pub(crate) fn heard(&mut self) -> Option<Duration> {
        let gap = self.silent_since.take()?.0.elapsed();
        let gap_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        self.rescued.gap_ms = self.rescued.gap_ms.max(gap_ms);
        Some(gap)
    }

    /// How it outlived its workers so far.
    pub(crate) fn rescued(&self) -> Rescued {
        self.rescued
    }
}

#[cfg(test)]
impl Lifeline {
    /// Of a call of which nothing is told again.
    pub(crate) fn bare() -> Self {
        let request = Recorded {
            head: Vec::new(),
            protocol: None,
        };
        Self::new(request, 0)
    }
}

fn say_too_long() {
    tracing::warn!("a call opens with more than is kept, so it ends with its worker");
}
