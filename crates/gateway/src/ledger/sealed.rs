//! The ledger while it changes hands.
//!
//! It is sent while calls flow, and calls end meanwhile. What is sealed decides nothing any more,
//! and puts ends aside: the next process is told of them, so that each is counted and told once.

use std::sync::Arc;

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
        let mut postponed = self.break_seal();
        let rest = postponed.split_off(told.min(postponed.len()));
        for theirs in postponed {
            theirs.ticket.given();
        }
        self.forget_ended();
        self.forget_pins();
        self.forget_totals();
        finish(rest);
    }

    /// Counts what ended while the ledger was on its way here.
    pub fn adopt_late(self: &Arc<Self>, late: Vec<Late>) {
        for late in late {
            if let Some(ticket) = self.adopt(late.connection, late.at) {
                ticket.finish(late.end, late.at);
            }
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
