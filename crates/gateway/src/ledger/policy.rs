//! Ending calls by policy: the straggler policy `end`, or an operator.
//!
//! The ledger only marks connections; their relay ends them, because only it knows where a frame
//! ends. The pin of such a call is let go at once, not only when its connections are gone, so that
//! a caller who comes back while the worker still says goodbye is decided anew.
//!
//! A connection that is being dialled is marked like a live one. It is refused with a 503 instead
//! of its 101 if that was not sent yet; its caller may come back at once and is decided anew.
//! Otherwise its relay ends it as the first thing it does.

use std::collections::BTreeSet;

use segue_core::names::{AgentName, CallId, ReleaseId};
use segue_core::table::Epoch;

use super::{Admission, Ledger, Purpose};

impl Ledger {
    /// Marks the connections of these calls that are on `release`; answers how many were not
    /// marked before. Calls of other releases, unknown ones, and those that are only pinned are
    /// left alone. All are, if the installed table is older than `epoch`, of which the decision is,
    /// or says that the release does not wind down any more: it was rolled back to meanwhile.
    pub fn end_calls(
        &self,
        agent: &AgentName,
        (release, epoch): (ReleaseId, Epoch),
        calls: &[CallId],
    ) -> usize {
        let calls: BTreeSet<&CallId> = calls.iter().collect();
        let mut admission = self.locked();
        let Admission {
            books, connections, ..
        } = &mut *admission;
        let Some(book) = books.get_mut(agent) else {
            return 0;
        };
        if !book.table.may_end(release, epoch) {
            return 0;
        }
        let mut marked = 0;
        for connection in connections.values() {
            let counted = &connection.counted;
            let meant = counted.release() == release
                && counted.purpose == Purpose::Call
                && counted.agent() == agent
                && calls.contains(counted.call());
            if meant && !counted.counters.is_to_end() {
                counted.counters.mark_to_end();
                if let Some(record) = book.record_mut(counted.call())
                    && record.pin.release == release
                {
                    record.let_go = true;
                }
                marked += 1;
            }
        }
        marked
    }
}
