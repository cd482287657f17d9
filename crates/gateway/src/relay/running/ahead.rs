//! What a running call shows of itself ahead of a handoff, and how one that was shown goes on.

use std::net::TcpStream;

use crate::ledger::Moved;
use crate::slots::Delta;

use super::super::call::note_counts;
use super::Running;

/// What never changes about a running call, with duplicates of its sockets: for whoever may take
/// it over soon. Nothing may be read from them or written to them.
#[derive(Debug)]
pub(crate) struct Sketch {
    /// Of the connection, in this process.
    pub(crate) number: u64,
    pub(crate) connection: Moved,
    pub(crate) caller: TcpStream,
    pub(crate) worker: TcpStream,
}

impl Running {
    /// `None`: it changes more than a [`Delta`] can say, or there are no descriptors, so that it
    /// travels whole, or not at all.
    pub(in super::super) fn sketch(&self) -> Option<Sketch> {
        if !self.is_movable() || self.lifeline.is_some() || self.slot.connected().is_none() {
            return None;
        }
        let again = |socket: &TcpStream| socket.try_clone().ok();
        let (caller, worker) = again(&self.caller).zip(again(&self.worker))?;
        self.season();
        self.set_shared();
        Some(Sketch {
            number: self.ticket.number(),
            connection: self.ticket.describe(),
            caller,
            worker,
        })
    }

    /// Brings a call that was sketched to where it is now. Nobody may relay it yet.
    pub(in super::super) fn catch_up(&self, delta: &Delta) {
        self.slot.catch_up(delta);
        for side in super::Side::BOTH {
            self.count(side, &self.slot.flow(side));
        }
        if delta.ends {
            self.ticket.counters().mark_to_end();
        }
        if !delta.is_counted {
            note_counts(&self.slot, &self.caller, &self.worker);
        }
    }
}
