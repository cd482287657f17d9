//! The proof that one connection is counted.

use std::net::SocketAddr;
use std::sync::Arc;

use segue_core::link::CallRecord;
use segue_core::names::WorkerId;
use segue_core::route::{Reason, Refusal};
use segue_core::time::Timestamp;

use crate::call_log;
use crate::journal::Line;

use super::book::Kept;
use super::counted::{Counted, Site};
use super::sealed::Postponed;
use super::{
    Admission, By, Closed, Counters, End, Identity, Ledger, Moved, Purpose, Refused, Unreached,
    choose, ended,
};

/// Counts one connection for as long as it exists. Not to be cloned.
#[derive(Debug)]
pub struct Ticket {
    /// `None`: the count is closed.
    ledger: Option<Arc<Ledger>>,
    pub(super) counted: Arc<Counted>,
    site: Arc<Site>,
}

impl Ticket {
    pub(super) fn new(ledger: Arc<Ledger>, counted: Arc<Counted>, site: Arc<Site>) -> Self {
        Self {
            ledger: Some(ledger),
            counted,
            site,
        }
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        let open = self.ledger.as_ref();
        open.expect("whoever closes a ticket has it by value")
    }

    /// Tells it from all others of this ledger, of now and of before.
    pub(crate) fn number(&self) -> u64 {
        self.counted.number
    }

    /// What it is.
    pub fn identity(&self) -> Identity {
        self.counted.identity()
    }

    /// Its bytes.
    pub fn counters(&self) -> &Counters {
        &self.counted.counters
    }

    /// The worker it is counted on.
    pub fn worker(&self) -> &WorkerId {
        &self.site.worker
    }

    /// Where that worker listens.
    pub fn addr(&self) -> SocketAddr {
        self.site.addr
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
        let ledger = Arc::clone(self.ledger());
        let mut admission = ledger.lock(now);
        let gone = Refused::Route(Refusal::NoWorker);
        let Admission {
            books, connections, ..
        } = &mut *admission;
        let number = self.counted.number;
        let connection = connections.get_mut(number).ok_or(gone)?;
        let book = books.get_mut(self.counted.agent()).ok_or(gone)?;
        let (release, call) = (self.counted.release(), self.counted.call());
        let untried = |worker: &WorkerId| !tried.contains(worker);
        // A call that belongs to its release goes on there, if need be where new ones may not go.
        let belongs = self.counters().is_rescuing() || self.counted.reason() == Reason::Pin;
        let pin = belongs.then(|| self.site.pin());
        let worker = choose(book, release, pin.as_ref(), call, &|w, addr| {
            untried(w) && up(w, addr)
        })?;
        let worker = if untried(&worker) {
            worker
        } else {
            // Nothing untried is up, so one that is not up but untried.
            choose(book, release, pin.as_ref(), call, &|w, _| untried(w))?
        };
        let addr = match book.table.workers.get(&worker) {
            Some(route) if untried(&worker) => route.addr,
            _ => return Err(gone),
        };
        let site = book.shared.site(release, &worker, addr);
        // In this order the record never is without a connection.
        book.enter(call, &site, || {
            unreachable!("a counted connection has a record")
        });
        book.leave(call, &self.site, now);
        connection.site = Arc::clone(&site);
        self.site = site;
        admission.write(Line::Retried {
            connection: number,
            worker,
        });
        Ok(())
    }

    /// The connection stands: from now on its end is the end of a call.
    pub fn connected(&self, now: Timestamp) {
        let mut admission = self.ledger().lock(now);
        let counted = &self.counted;
        counted.set_connected(now);
        if let Some(book) = admission.books.get_mut(counted.agent())
            && let Some(record) = book.record_mut(counted.call())
        {
            record.connected = true;
            record.keeps_pin = true;
        }
        admission.write(Line::Connected {
            connection: counted.number,
            at: now,
        });
    }

    /// Uncounts the connection and says how it ended.
    pub fn finish(mut self, end: End, now: Timestamp) {
        self.close(end, now);
    }

    /// What another process needs to count this connection.
    pub fn describe(&self) -> Moved {
        let (bytes_in, bytes_out) = self.counters().read();
        Moved {
            identity: self.identity(),
            worker: self.worker().clone(),
            addr: self.addr(),
            connected: self.counted.connected(),
            bytes_in,
            bytes_out,
            ends: self.counters().is_to_end(),
        }
    }

    /// Uncounts the connection because another process counts it now: it did not end.
    pub fn given(mut self) {
        let Some(ledger) = self.ledger.take() else {
            return;
        };
        let mut admission = ledger.locked();
        admission.connections.remove(self.counted.number);
        let now = admission.seen;
        if let Some(book) = admission.books.get_mut(self.counted.agent()) {
            if let Some(record) = book.record_mut(self.counted.call()) {
                record.keeps_pin = false;
            }
            book.leave(self.counted.call(), &self.site, now);
        }
        if self.counted.purpose != Purpose::Request {
            admission.write(Line::Closed {
                connection: self.counted.number,
                expires: None,
            });
        }
        ledger.open.send_replace(admission.connections.len());
    }

    /// This one, still open, in the place of the one that closes.
    fn again(&self, ledger: &Arc<Ledger>) -> Self {
        Self::new(
            Arc::clone(ledger),
            Arc::clone(&self.counted),
            Arc::clone(&self.site),
        )
    }

    fn close(&mut self, end: End, now: Timestamp) {
        let Some(ledger) = self.ledger.take() else {
            return;
        };
        let mut admission = ledger.lock(now);
        let now = admission.seen;
        if let Some(postponed) = &mut admission.postponed {
            let ticket = self.again(&ledger);
            postponed.push(Postponed {
                ticket,
                end,
                at: now,
            });
            return;
        }
        let counted = &self.counted;
        if admission.connections.remove(counted.number).is_none() {
            return;
        }
        let is_told = admission.close(counted, &self.site, end, now);
        if counted.purpose != Purpose::Request {
            let book = admission.books.get(counted.agent());
            let record = book.and_then(|book| book.record(counted.call()));
            let expires = record.and_then(Kept::expires);
            admission.write(Line::Closed {
                connection: counted.number,
                expires,
            });
        }
        let log = (ledger.log.as_ref()).filter(|_| counted.purpose == Purpose::Call);
        if is_told || log.is_some() {
            let bytes = counted.counters.read();
            let rescued = counted.counters.rescued();
            let (identity, connected) = (&counted.identity(), counted.connected());
            let worker = self.worker();
            if is_told {
                // Before anybody else can look: a ledger that is sealed has counted all that it
                // tells of, and tells of all that it has counted.
                ledger.tell(CallRecord {
                    rescued,
                    ..ended::of_connection(identity, worker, connected, bytes, end, now)
                });
            }
            drop(admission);
            if let Some(log) = log {
                let line = call_log::Line::new(identity, worker, connected, bytes, end, now);
                log.write(line.with_rescued(rescued));
            }
            admission = ledger.locked();
        }
        // Last of all: a process whose last call has ended says its last words, and is gone.
        ledger.open.send_replace(admission.connections.len());
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
    fn close(&mut self, counted: &Counted, at: &Arc<Site>, end: End, now: Timestamp) -> bool {
        let Some(book) = self.books.get_mut(counted.agent()) else {
            return false;
        };
        if end == End::Answered
            && counted.purpose == Purpose::Webhook
            && let Some(record) = book.record_mut(counted.call())
        {
            record.keeps_pin = true;
        }
        if counted.counters.is_to_end()
            && let Some(record) = book.record_mut(counted.call())
            && record.let_go
        {
            record.keeps_pin = false;
        }
        let expires = now + book.table.stickiness;
        let last = book.leave(counted.call(), at, expires);
        if counted.purpose != Purpose::Call {
            return false;
        }
        let is_told = last || counted.connected().is_none();
        if counted.is_override() {
            return is_told;
        }
        let totals = &mut book.counts_mut(counted.release()).totals;
        let closed = match (end, counted.connected()) {
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
