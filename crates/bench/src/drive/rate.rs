//! The closed loop: so many brief calls at once, each followed by the next.

use super::Drive;
use super::stats::End;

/// Between a call that failed and the next in its place: a proxy that refuses is not to be
/// drowned, and a generator that cannot connect is not to spin.
const AGAIN_NS: u64 = 5_000_000;

pub(super) struct Rate {
    wanted: usize,
    running: usize,
    /// Not before; after a failure.
    due: u64,
}

impl Rate {
    pub(super) fn new(wanted: usize) -> Self {
        Self {
            wanted,
            running: 0,
            due: 0,
        }
    }

    pub(super) fn stop(&mut self) {
        self.wanted = 0;
    }

    pub(super) fn is_busy(&self) -> bool {
        self.running > 0
    }

    pub(super) fn ended(&mut self, end: End, now: u64) {
        self.running -= 1;
        if end != End::Done {
            self.due = now + AGAIN_NS;
        }
    }
}

impl Drive {
    /// Begins the calls that are wanted, and says when to look again.
    pub(super) fn feed_rate(&mut self) -> Option<u64> {
        let mut rate = self.rate.take()?;
        let now = self.clock.now();
        while rate.running < rate.wanted && now >= rate.due {
            if self.open(true).is_ok() {
                rate.running += 1;
            } else {
                self.stats.ended(End::Failed);
                rate.due = now + AGAIN_NS;
            }
        }
        let next = (rate.running < rate.wanted).then_some(rate.due);
        self.rate = Some(rate);
        next
    }
}
