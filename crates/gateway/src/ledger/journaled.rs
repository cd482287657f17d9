//! The ledger and its journal: saying everything, and going on after a process that was killed.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use segue_core::time::Timestamp;

use crate::call_log;
use crate::journal::{Journal, Left, Line, Lost};

use super::book::Kept;
use super::{Admission, Ledger, Purpose, ended};

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
                book.insert_pinned(call, record, expires);
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
    /// and a call that still has another one is none.
    pub(crate) fn count_lost(&self, lost: &[Lost], now: Timestamp) {
        let mut admission = self.lock(now);
        let mut counted = BTreeSet::new();
        let mut records = Vec::new();
        for lost in lost {
            let identity = &lost.identity;
            let call = (&identity.agent, &identity.call, identity.release);
            if let Some(book) = admission.books.get_mut(&identity.agent)
                && !book.record(&identity.call).is_some_and(Kept::is_connected)
                && counted.insert(call)
            {
                records.push(ended::of_lost(lost, now));
                if identity.is_override {
                    continue;
                }
                book.counts_mut(identity.release).totals.lost += 1;
            }
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
