//! The ledger and its journal: saying everything, and going on after a process that was killed.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use segue_core::route::Pin;
use segue_core::time::Timestamp;

use crate::call_log;
use crate::journal::{Journal, Left, Line, Lost};

use super::book::Kept;
use super::{Admission, Ledger, Purpose, Record, ended};

impl Ledger {
    /// Journals from now on, beginning with all that is true now.
    ///
    /// # Errors
    ///
    /// When the writer cannot be started; the ledger then goes on without a journal.
    pub fn journal(&self, path: &Path) -> io::Result<()> {
        let mut admission = self.locked();
        let journal = Journal::start(path, admission.lines())?;
        admission.journal = Some(journal);
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn journal_bounded(&self, path: &Path, bytes_max: u64) -> io::Result<()> {
        let mut admission = self.locked();
        let journal = Journal::bounded(path, admission.lines(), bytes_max)?;
        admission.journal = Some(journal);
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn journal_to(&self, journal: Journal) {
        self.locked().journal = Some(journal);
    }

    /// Waits until every line so far is written.
    #[cfg(test)]
    pub(crate) fn journal_written(&self) {
        let journal = self.locked().journal.clone();
        journal.expect("it is journaled").flush();
    }

    /// Ends journaling: another process keeps the journal now.
    pub fn leave_journal(&self) {
        self.locked().journal = None;
    }

    /// Ends journaling with all that is true now, and waits until that is written.
    pub fn close_journal(&self) {
        let (journal, lines) = {
            let mut admission = self.locked();
            (admission.journal.take(), admission.lines())
        };
        // Not under the lock: the disk may be slow.
        if let Some(journal) = journal {
            journal.close(lines);
        }
    }

    /// Takes over what a process left that was killed: its pins with the time they have left, its
    /// live calls as pins of a whole window, so that callers who come back reach their release;
    /// and names and counts the connections that were lost. Only calls of agents with a table are
    /// taken. Of calls that are here already, because their connections were kept, it learns what
    /// those do not say.
    pub fn recover(&self, left: Left, now: Timestamp) {
        let mut admission = self.lock(now);
        let mut orphans = 0;
        for (agent, call, mut record) in left.calls {
            let Some(book) = admission.books.get_mut(&agent) else {
                orphans += 1;
                continue;
            };
            if let Some(ours) = book.record_mut(&call) {
                ours.learn(&record);
                continue;
            }
            // A clock that was set back must not stretch a pin.
            let latest = now + book.table.stickiness;
            let expires = record.expires.map_or(latest, |expires| expires.min(latest));
            if expires > now {
                record.expires = None;
                book.insert_pinned(&call, &record, expires);
            }
        }
        if orphans > 0 {
            tracing::warn!(orphans, "calls of agents without a table are forgotten");
        }
        drop(admission);
        self.count_lost(&left.lost, now);
    }

    /// Names and counts connections that were lost with a process that was killed.
    ///
    /// Several lost connections of a call are one lost call, as they are one ended call otherwise;
    /// and a call that still has another one is none. Where the table of its agent went with the
    /// process, another one stands in until its callers will not come back.
    pub(crate) fn count_lost(&self, lost: &[Lost], now: Timestamp) {
        let mut admission = self.lock(now);
        let mut counted = BTreeSet::new();
        let (mut records, mut stands_in) = (Vec::new(), BTreeSet::new());
        for lost in lost {
            let identity = &lost.identity;
            if admission.stand_in(identity) {
                stands_in.insert(&identity.agent);
            }
            let call = (&identity.agent, &identity.call, identity.release);
            if let Some(book) = admission.books.get_mut(&identity.agent)
                && !book.record(&identity.call).is_some_and(Kept::is_connected)
                && counted.insert(call)
            {
                records.push(ended::of_lost(lost, now));
                if stands_in.contains(&identity.agent) {
                    let expires = now + book.table.stickiness;
                    book.insert_pinned(&identity.call, &pin(lost), expires);
                }
                if identity.is_override {
                    continue;
                }
                book.counts_mut(identity.release).totals.lost += 1;
            }
        }
        if !stands_in.is_empty() {
            self.publish(&admission);
        }
        drop(admission);
        for record in records {
            self.tell(record);
        }
        for lost in lost {
            tracing::error!(call = %lost.identity.call, "a call was lost with its gateway");
            if let Some(log) = &self.log {
                log.write(call_log::Line::lost(lost, now));
            }
        }
    }
}

/// What is known of a call that was lost with everything else that was known of it.
fn pin(lost: &Lost) -> Record {
    let identity = &lost.identity;
    let pin = Pin {
        release: identity.release,
        worker: lost.worker.clone(),
    };
    let (epoch, reason) = (identity.epoch, identity.reason);
    Record {
        started: true,
        connected: lost.connected.is_some(),
        keeps_pin: true,
        ..Record::new(pin, epoch, reason, identity.is_override, identity.since)
    }
}

impl Admission {
    /// Journals a line, or everything if the writer asks for it: then what the line says is in it.
    pub(super) fn write(&mut self, line: Line) {
        let Some(journal) = &self.journal else {
            return;
        };
        if journal.wants_all() {
            journal.replace(self.lines());
        } else {
            journal.write(line);
        }
    }

    /// Says everything again if the journal's writer asks for it.
    pub(super) fn mend_journal(&self) {
        if let Some(journal) = &self.journal
            && journal.wants_all()
        {
            journal.replace(self.lines());
        }
    }

    /// All that is true now. Requests that name no call leave nothing, and are left out.
    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for connection in self.connections.in_order() {
            let counted = &connection.counted;
            if counted.purpose == Purpose::Request {
                continue;
            }
            lines.push(Line::Begun {
                connection: counted.number,
                identity: Box::new(counted.identity()),
                worker: connection.site.worker.clone(),
            });
            if let Some(at) = counted.connected() {
                lines.push(Line::Connected {
                    connection: counted.number,
                    at,
                });
            }
        }
        // Behind the connections, because what is known of a call is more than they say.
        for (agent, book) in &self.books {
            let kept = book.records().filter(|(_, record)| record.keeps_pin);
            lines.extend(kept.map(|(call, record)| Line::Call {
                agent: agent.clone(),
                call: call.clone(),
                record: Box::new(record.record()),
            }));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use segue_core::time::Millis;

    use super::*;
    use crate::ledger::tests::{begin, desk, ledger, old};

    /// A gateway that took no new calls is killed, and its agent has no table any more.
    #[test]
    fn lost_calls_of_an_agent_without_a_table_are_counted_and_told() {
        let before = ledger();
        let lost: Vec<Lost> = ["a", "b"]
            .iter()
            .map(|call| {
                let ticket = begin(&before, call, Purpose::Call, 1).unwrap();
                Lost {
                    identity: ticket.identity(),
                    worker: ticket.worker().clone(),
                    connected: Some(Timestamp(2)),
                }
            })
            .collect();
        let after = Ledger::new(None);
        after.count_lost(&lost, Timestamp(3));
        for now in [4, 5] {
            let report = after.snapshot(Timestamp(now));
            let counts = &report[&desk()].releases[&old()];
            assert_eq!((counts.totals.lost, counts.live, counts.pinned), (2, 0, 2));
            assert_eq!(report[&desk()], after.locked().books[&desk()].recount());
        }
        assert_eq!(after.untold().records.len(), 2);
        assert!(begin(&after, "c", Purpose::Call, 6).is_err(), "takes none");
        let late = Timestamp(3) + Millis::from_secs(301);
        assert!(after.snapshot(late).is_empty());
    }
}
