//! The ledger while it changes hands.
//!
//! It is sent while calls flow, and calls end meanwhile. What is sealed decides nothing any more,
//! and puts ends aside: the next process is told of them, so that each is counted and told once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use segue_core::presence::Totals;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{End, Ledger, LedgerState, Moved, Ticket};

/// A connection that ended in a sealed ledger.
#[derive(Debug)]
pub(super) struct Postponed {
    pub(super) ticket: Ticket,
    pub(super) end: End,
    pub(super) at: Timestamp,
}

/// The same, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// Of the connection, where it comes from.
    number: u64,
    connection: Moved,
    end: End,
    at: Timestamp,
}

impl Ledger {
    /// The ledger as it is, and stays: nothing is decided behind this, and what ends is put aside.
    pub fn seal(&self, now: Timestamp) -> LedgerState {
        let mut admission = self.lock(now);
        admission.stopping = true;
        admission.postponed = Some(Vec::new());
        self.state(&mut admission)
    }

    /// What ended since [`Ledger::seal`].
    pub fn late(&self) -> Vec<Late> {
        let Some(postponed) = self.locked().postponed.as_mut().map(std::mem::take) else {
            return Vec::new();
        };
        let describe = |of: &Postponed| Late {
            number: of.ticket.number(),
            connection: of.ticket.describe(),
            end: of.end,
            at: of.at,
        };
        let late = postponed.iter().map(describe).collect();
        if let Some(since) = &mut self.locked().postponed {
            since.splice(0..0, postponed);
        }
        late
    }

    /// The next process did not take over: everything goes on.
    pub fn unseal(&self) {
        let postponed = self.break_seal();
        self.resume();
        finish(postponed);
    }

    /// The next process has everything: of what was put aside, the first `told`. Forgets pins,
    /// totals and records that it holds now.
    pub fn handed_over(&self, told: usize) {
        // While it is sealed nothing is counted, so nothing is forgotten that nobody was told.
        self.forget_ended();
        self.forget_totals();
        let mut postponed = self.break_seal();
        let rest = postponed.split_off(told.min(postponed.len()));
        for theirs in postponed {
            theirs.ticket.given();
        }
        self.forget_pins();
        finish(rest);
    }

    /// Whether something was counted that the controller was not told.
    pub fn has_untold(&self) -> bool {
        let counts_something = self
            .locked()
            .books
            .values()
            .flat_map(|book| book.presence().releases.into_values())
            .any(|counts| counts.totals != Totals::default());
        counts_something || !self.untold().records.is_empty()
    }

    /// Counts what ended while the ledger was on its way here. `ahead` are those that are counted
    /// here already, by their numbers there; what is left of them did not end.
    pub fn adopt_late(self: &Arc<Self>, late: Vec<Late>, ahead: &mut HashMap<u64, Ticket>) {
        for late in late {
            let (bytes_in, bytes_out) = (late.connection.bytes_in, late.connection.bytes_out);
            let is_to_end = late.connection.ends;
            let ticket = match ahead.remove(&late.number) {
                Some(ticket) => Some(ticket),
                None => self.adopt(late.connection, late.at),
            };
            let Some(ticket) = ticket else { continue };
            let counters = ticket.counters();
            counters.bytes_in.store(bytes_in, Ordering::Relaxed);
            counters.bytes_out.store(bytes_out, Ordering::Relaxed);
            if is_to_end {
                counters.mark_to_end();
            }
            ticket.finish(late.end, late.at);
        }
    }

    fn break_seal(&self) -> Vec<Postponed> {
        self.locked().postponed.take().unwrap_or_default()
    }
}

fn finish(postponed: Vec<Postponed>) {
    for Postponed { ticket, end, at } in postponed {
        ticket.finish(end, at);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{begin, desk, old, table};
    use super::super::{By, Closed, Purpose};
    use super::*;

    #[test]
    fn what_ends_behind_the_last_word_is_told_by_who_stays() {
        let ledger = Ledger::new(None);
        ledger.install(table(1, old()), Timestamp(0)).unwrap();
        let [theirs, ours] = ["a", "b"].map(|call| {
            let ticket = begin(&ledger, call, Purpose::Call, 1).unwrap();
            ticket.connected(Timestamp(2));
            ticket
        });
        let end = End::Closed(Closed {
            by: By::Caller,
            code: Some(1000),
        });
        ledger.seal(Timestamp(3));
        theirs.finish(end, Timestamp(4));
        let told = ledger.late().len();
        assert_eq!(told, 1);
        ours.finish(end, Timestamp(5));
        ledger.handed_over(told);
        assert!(ledger.has_untold());
        let counts = &ledger.snapshot(Timestamp(6))[&desk()].releases[&old()];
        assert_eq!((counts.live, counts.totals.ended), (0, 1));
        assert_eq!(ledger.take_ended().records.len(), 1);

        ledger.seal(Timestamp(7));
        ledger.handed_over(0);
        assert!(!ledger.has_untold(), "the next process has all of it");
    }
}
