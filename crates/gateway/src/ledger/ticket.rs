//! The proof that one connection is counted.

use std::net::SocketAddr;
use std::sync::Arc;

use segue_core::link::CallRecord;
use segue_core::names::WorkerId;
use segue_core::route::{Pin, Refusal};
use segue_core::time::Timestamp;

use crate::call_log;
use crate::journal::Line;

use super::sealed::Postponed;
use super::{
    Admission, Begun, By, Closed, Connection, Counters, End, Identity, Ledger, Moved, Purpose,
    Refused, Unreached, choose, ended,
};

/// Counts one connection for as long as it exists. Not to be cloned.
#[derive(Debug)]
pub struct Ticket {
    pub(super) ledger: Arc<Ledger>,
    pub(super) number: u64,
    identity: Arc<Identity>,
    pub(super) counters: Arc<Counters>,
    worker: WorkerId,
    addr: SocketAddr,
    open: bool,
}

impl Ticket {
    pub(super) fn new(ledger: Arc<Ledger>, begun: Begun) -> Self {
        Self {
            ledger,
            number: begun.number,
            identity: begun.identity,
            counters: begun.counters,
            worker: begun.worker,
            addr: begun.addr,
            open: true,
        }
    }

    /// What it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its bytes.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The worker it is counted on.
    pub fn worker(&self) -> &WorkerId {
        &self.worker
    }

    /// Where that worker listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Moves the count to another worker of the same release, one that was not tried: before the
    /// connection stands, or because its worker died.
    ///
    /// # Errors
    ///
    /// [`Refused::Route`] when there is no other one; the ticket then stays where it is.
    pub fn retry(
        &mut self,
        tried: &[WorkerId],
        up: &dyn Fn(&WorkerId, SocketAddr) -> bool,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let mut admission = self.ledger.lock(now);
        let gone = Refused::Route(Refusal::NoWorker);
        let Admission {
            books, connections, ..
        } = &mut *admission;
        let connection = connections.get_mut(&self.number).ok_or(gone)?;
        let book = books.get_mut(&self.identity.agent).ok_or(gone)?;
        let (release, call) = (self.identity.release, &self.identity.call);
        let untried = |worker: &WorkerId| !tried.contains(worker);
        let worker = choose(book, release, None, call, &|w, addr| {
            untried(w) && up(w, addr)
        })?;
        let worker = if untried(&worker) {
            worker
        } else {
            // Nothing untried is up, so one that is not up but untried.
            choose(book, release, None, call, &|w, _| untried(w))?
        };
        let addr = match book.table.workers.get(&worker) {
            Some(route) if untried(&worker) => route.addr,
            _ => return Err(gone),
        };
        let to = Pin {
            release,
            worker: worker.clone(),
        };
        let from = Pin {
            release,
            worker: self.worker.clone(),
        };
        // In this order the record never is without a connection.
        book.enter(call, to, || {
            unreachable!("a counted connection has a record")
        });
        book.leave(call, &from, now);
        connection.worker = worker.clone();
        self.worker = worker.clone();
        self.addr = addr;
        admission.write(Line::Retried {
            connection: self.number,
            worker,
        });
        Ok(())
    }

    /// The connection stands: from now on its end is the end of a call.
    pub fn connected(&self, now: Timestamp) {
        let mut admission = self.ledger.lock(now);
        if let Some(connection) = admission.connections.get_mut(&self.number) {
            connection.connected = Some(now);
        }
        let identity = &self.identity;
        if let Some(book) = admission.books.get_mut(&identity.agent)
            && let Some(record) = book.record_mut(&identity.call)
        {
            record.connected = true;
            record.keeps_pin = true;
        }
        admission.write(Line::Connected {
            connection: self.number,
            at: now,
        });
    }

    /// Uncounts the connection and says how it ended.
    pub fn finish(mut self, end: End, now: Timestamp) {
        self.close(end, now);
    }

    /// What another process needs to count this connection.
    pub fn describe(&self) -> Moved {
        let connected = {
            let admission = self.ledger.locked();
            let connection = admission.connections.get(&self.number);
            connection.and_then(|connection| connection.connected)
        };
        let (bytes_in, bytes_out) = self.counters.read();
        Moved {
            identity: Identity::clone(&self.identity),
            worker: self.worker.clone(),
            addr: self.addr,
            connected,
            bytes_in,
            bytes_out,
            ends: self.counters.is_to_end(),
        }
    }

    /// Uncounts the connection because another process counts it now: it did not end.
    pub fn given(mut self) {
        self.open = false;
        let mut admission = self.ledger.locked();
        admission.connections.remove(&self.number);
        let now = admission.seen;
        let pin = self.pin();
        if let Some(book) = admission.books.get_mut(&self.identity.agent) {
            if let Some(record) = book.record_mut(&self.identity.call) {
                record.keeps_pin = false;
            }
            book.leave(&self.identity.call, &pin, now);
        }
        self.ledger.open.send_replace(admission.connections.len());
    }

    fn pin(&self) -> Pin {
        Pin {
            release: self.identity.release,
            worker: self.worker.clone(),
        }
    }

    /// This one, still open, in the place of the one that closes.
    fn again(&self) -> Self {
        Self {
            ledger: Arc::clone(&self.ledger),
            number: self.number,
            identity: Arc::clone(&self.identity),
            counters: Arc::clone(&self.counters),
            worker: self.worker.clone(),
            addr: self.addr,
            open: true,
        }
    }

    fn close(&mut self, end: End, now: Timestamp) {
        if !self.open {
            return;
        }
        self.open = false;
        let ledger = Arc::clone(&self.ledger);
        let mut admission = ledger.lock(now);
        let now = admission.seen;
        if let Some(postponed) = &mut admission.postponed {
            let ticket = self.again();
            postponed.push(Postponed {
                ticket,
                end,
                at: now,
            });
            return;
        }
        let Some(connection) = admission.connections.remove(&self.number) else {
            return;
        };
        let is_told = admission.close(&connection, &self.pin(), end, now);
        if self.identity.purpose != Purpose::Request {
            let book = admission.books.get(&self.identity.agent);
            let record = book.and_then(|book| book.record(&self.identity.call));
            let expires = record.and_then(|record| record.expires);
            admission.write(Line::Closed {
                connection: self.number,
                expires,
            });
        }
        ledger.open.send_replace(admission.connections.len());
        drop(admission);
        let bytes = connection.counters.read();
        let (worker, connected) = (&connection.worker, connection.connected);
        let rescued = connection.counters.rescued();
        if is_told {
            let identity = &self.identity;
            ledger.tell(CallRecord {
                rescued,
                ..ended::of_connection(identity, worker, connected, bytes, end, now)
            });
        }
        if self.identity.purpose == Purpose::Call
            && let Some(log) = &ledger.log
        {
            let line = call_log::Line::new(&self.identity, worker, connected, bytes, end, now);
            log.write(line.with_rescued(rescued));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Time is an argument everywhere else; here the latest one that anyone gave must do.
        self.close(End::Abandoned, Timestamp(0));
    }
}

impl Admission {
    /// Uncounts a connection. Says whether the controller is told of its end: of a call's last
    /// one, and of one that never stood.
    fn close(&mut self, connection: &Connection, at: &Pin, end: End, now: Timestamp) -> bool {
        let identity = &connection.identity;
        let Some(book) = self.books.get_mut(&identity.agent) else {
            return false;
        };
        if end == End::Answered
            && identity.purpose == Purpose::Webhook
            && let Some(record) = book.record_mut(&identity.call)
        {
            record.keeps_pin = true;
        }
        if connection.counters.is_to_end()
            && let Some(record) = book.record_mut(&identity.call)
            && record.let_go
        {
            record.keeps_pin = false;
        }
        let expires = now + book.table.stickiness;
        let last = book.leave(&identity.call, at, expires);
        if identity.purpose != Purpose::Call {
            return false;
        }
        let is_told = last || connection.connected.is_none();
        if identity.is_override {
            return is_told;
        }
        let totals = &mut book.counts_mut(identity.release).totals;
        let closed = match (end, connection.connected) {
            (End::Closed(closed), _) => closed,
            (End::Abandoned, Some(_)) => Closed {
                by: By::Gateway,
                code: None,
            },
            (End::Unreached(Unreached::CallerLeft) | End::Abandoned | End::Answered, _) => {
                return is_told;
            }
            (End::Unreached(why), _) => {
                totals.errors += u64::from(why.is_fault());
                return is_told;
            }
        };
        if last {
            if closed.by == By::Policy {
                totals.policy += 1;
            } else {
                totals.ended += 1;
                totals.dropped += u64::from(closed.is_drop());
            }
            *totals.closes.entry(closed.key()).or_default() += 1;
        }
        is_told
    }
}
