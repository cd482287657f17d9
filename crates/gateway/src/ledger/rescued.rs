//! Calls that outlive their worker, as the ledger sees them: which are, how often, and for how long
//! their callers heard nothing.
//!
//! A rescue moves the count of a call to another worker of its release, as a retry does, though its
//! connection stands. It is no end, so no total of ends knows of it; it has a total of its own.

use std::sync::atomic::Ordering;
use std::time::Duration;

use segue_core::link::Rescued;
use segue_core::time::Timestamp;

use super::{Counters, Ticket};

impl Counters {
    /// Whether the call waits for another worker.
    pub fn is_rescuing(&self) -> bool {
        self.rescuing.load(Ordering::Relaxed)
    }

    /// How it outlived its workers, if it did.
    pub fn rescued(&self) -> Option<Rescued> {
        let times = self.rescued_times.load(Ordering::Relaxed);
        let gap_ms = self.rescue_gap_ms.load(Ordering::Relaxed);
        (times > 0).then(|| Rescued {
            times: times.into(),
            gap_ms: gap_ms.into(),
        })
    }

    /// What another process knew of it.
    pub(crate) fn set_rescued(&self, rescued: Rescued) {
        let times = u8::try_from(rescued.times).unwrap_or(u8::MAX);
        let gap_ms = u32::try_from(rescued.gap_ms).unwrap_or(u32::MAX);
        self.rescued_times.store(times, Ordering::Relaxed);
        self.rescue_gap_ms.store(gap_ms, Ordering::Relaxed);
    }

    /// The next worker was heard, so long after the one before was lost.
    pub(crate) fn heard_again(&self, gap: Duration) {
        let gap_ms = u32::try_from(gap.as_millis()).unwrap_or(u32::MAX);
        self.rescue_gap_ms.fetch_max(gap_ms, Ordering::Relaxed);
    }
}

impl Ticket {
    /// Its worker died, and another one is looked for.
    pub(crate) fn rescuing(&self) {
        self.counters().rescuing.store(true, Ordering::Relaxed);
    }

    /// The search for one, by [`Ticket::retry`], is over. `saved`: it goes on where it is counted now.
    pub(crate) fn rescue_ended(&self, saved: bool, now: Timestamp) {
        let counters = self.counters();
        counters.rescuing.store(false, Ordering::Relaxed);
        if !saved {
            return;
        }
        let more = |times: u8| Some(times.saturating_add(1));
        let _ = counters
            .rescued_times
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        if self.counted.is_override() {
            return;
        }
        let mut admission = self.ledger().lock(now);
        if let Some(book) = admission.books.get_mut(self.counted.agent()) {
            book.counts_mut(self.counted.release()).totals.rescued += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use segue_core::names::WorkerId;

    use super::super::tests::{begin, desk, ledger, old};
    use super::super::{By, Closed, End, Ledger, Purpose};
    use super::*;

    fn state(ledger: &Ledger) -> String {
        let [call] = &ledger.list(None, 9)[..] else {
            panic!("one call");
        };
        call.state.clone()
    }

    #[test]
    fn a_rescued_call_is_counted_at_its_new_worker_and_has_not_ended() {
        let ledger = ledger();
        let mut ticket = begin(&ledger, "a", Purpose::Call, 10).unwrap();
        ticket.connected(Timestamp(11));
        assert_eq!(state(&ledger), "live");
        let dead = ticket.worker().clone();
        ticket.rescuing();
        assert_eq!(state(&ledger), "rescuing");
        ticket
            .retry(std::slice::from_ref(&dead), &|_, _| true, Timestamp(12))
            .unwrap();
        ticket.rescue_ended(true, Timestamp(13));
        ticket.counters().heard_again(Duration::from_millis(7));
        ticket.counters().heard_again(Duration::from_millis(3));
        assert_eq!(state(&ledger), "rescued");

        let report = ledger.snapshot(Timestamp(14));
        let of = &report[&desk()];
        assert_eq!(of.workers.get(&dead), None);
        assert_eq!(of.workers[ticket.worker()], 1);
        let counts = &of.releases[&old()];
        assert_eq!((counts.live, counts.totals.rescued), (1, 1));
        assert_eq!((counts.totals.started, counts.totals.ended), (1, 0));

        let by_caller = Closed {
            by: By::Caller,
            code: Some(1000),
        };
        ticket.finish(End::Closed(by_caller), Timestamp(20));
        let record = ledger.take_ended().records.remove(0);
        assert_ne!(record.worker, Some(dead));
        let rescued = Rescued {
            times: 1,
            gap_ms: 7,
        };
        assert_eq!(record.rescued, Some(rescued));
    }

    #[test]
    fn one_that_is_not_saved_has_dropped_and_every_worker_may_be_asked_again() {
        let ledger = ledger();
        let mut ticket = begin(&ledger, "a", Purpose::Call, 10).unwrap();
        ticket.connected(Timestamp(11));
        ticket.rescuing();
        let all: Vec<WorkerId> = ["old-1", "old-2"].map(|id| id.parse().unwrap()).into();
        let at = ticket.worker().clone();
        let again = ticket.retry(&all, &|_, _| true, Timestamp(12));
        assert!(again.is_err() && *ticket.worker() == at);
        // The one it was at, too: it may have been started again.
        let other = all.iter().find(|worker| **worker != at).unwrap().clone();
        ticket.retry(&[other], &|_, _| true, Timestamp(13)).unwrap();
        assert_eq!(ticket.worker(), &at);
        ticket.rescue_ended(false, Timestamp(14));
        let by_worker = Closed {
            by: By::Worker,
            code: None,
        };
        ticket.finish(End::Closed(by_worker), Timestamp(20));
        let report = ledger.snapshot(Timestamp(21));
        let totals = &report[&desk()].releases[&old()].totals;
        assert_eq!((totals.dropped, totals.rescued), (1, 0));
        assert_eq!(report[&desk()].workers.len(), 0);
        assert_eq!(ledger.take_ended().records[0].rescued, None);
    }
}
