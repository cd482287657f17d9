//! What is under the lock: deciding and counting as one step.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use segue_core::link::{CallInfo, CallRecord};
use segue_core::names::{AgentName, CallId, Label, ReleaseId, WorkerId};
use segue_core::route::{self, Pin, Reason, Refusal};
use segue_core::time::Timestamp;

use crate::journal::{Journal, Line};

use super::book::Kept;
use super::counted::{Connection, Connections, Counted, Site};
use super::sealed::Postponed;
use super::{Asking, Book, Identity, Purpose, Record, Refused, ended};

/// Says whether a worker may be dialled.
pub(super) type Up<'a> = dyn Fn(&WorkerId, SocketAddr) -> bool + 'a;

#[derive(Debug)]
pub(super) struct Admission {
    calls_max: usize,
    pins_max: usize,
    /// The latest time anyone told us: a dropped ticket has no other.
    pub(super) seen: Timestamp,
    pub(super) stopping: bool,
    /// What ended since the ledger was sealed. `None`: it is not.
    pub(super) postponed: Option<Vec<Postponed>>,
    /// Under the lock, so that its lines are in the order of what they tell.
    pub(super) journal: Option<Journal>,
    pub(super) books: BTreeMap<AgentName, Book>,
    pub(super) connections: Connections,
    pub(super) refusals: BTreeMap<&'static str, u64>,
}

/// A request that is turned away.
pub(super) struct Turned {
    pub(super) why: Refused,
    /// If it was a call and its release was decided.
    pub(super) record: Option<Box<CallRecord>>,
}

impl<R: Into<Refused>> From<R> for Turned {
    fn from(why: R) -> Self {
        Self {
            why: why.into(),
            record: None,
        }
    }
}

impl Admission {
    pub(super) fn new(calls_max: usize, pins_max: usize) -> Self {
        Self {
            calls_max,
            pins_max,
            seen: Timestamp::default(),
            stopping: false,
            postponed: None,
            journal: None,
            books: BTreeMap::new(),
            connections: Connections::default(),
            refusals: BTreeMap::new(),
        }
    }

    /// Decides and counts.
    pub(super) fn begin(
        &mut self,
        asking: Asking<'_>,
        up: &Up<'_>,
    ) -> Result<(Arc<Counted>, Arc<Site>), Turned> {
        let now = self.seen;
        if self.stopping {
            return Err(Refused::Stopping.into());
        }
        if self.connections.len() >= self.calls_max {
            return Err(Refused::TooManyCalls.into());
        }
        let book = self.books.get_mut(asking.agent).ok_or(Refused::NoTable)?;
        book.purge(now);
        let Asking {
            agent,
            mut facts,
            purpose,
            traceparent,
        } = asking;
        let call = facts.call;
        let known = book.record(call);
        if known.is_none() && book.len() >= self.pins_max {
            return Err(Refused::TooManyPins.into());
        }
        if known.is_none() && book.withdrawn {
            return Err(Refusal::NothingServes.into());
        }
        let pinned = known.filter(|record| !record.let_go);
        facts.pin = pinned.map(|record| record.pin.pin());
        facts.connected = known.is_some_and(Kept::is_connected);
        let (was_override, is_resume, started) = known.map_or((false, false, false), |record| {
            (record.is_override, record.connected, record.started)
        });
        let table = Arc::clone(&book.table);
        let decision = route::route(&table, &facts)?;
        let pinned = (decision.reason == Reason::Pin)
            .then_some(facts.pin.as_ref())
            .flatten();
        let is_override = match decision.reason {
            Reason::Pin => was_override,
            reason => reason == Reason::Override,
        };
        let route = table.releases.get(&decision.release);
        let label = route.map_or_else(|| unnamed(decision.release), |route| route.label.clone());
        let identity = Identity {
            agent: agent.clone(),
            call: call.clone(),
            release: decision.release,
            label,
            epoch: table.epoch,
            reason: decision.reason,
            is_override,
            is_resume,
            purpose,
            since: now,
            retiring: route.is_some_and(|route| route.retiring),
            traceparent: traceparent.map(str::to_owned),
        };
        let starts = purpose == Purpose::Call && !is_override && !started;
        let worker = match choose(book, decision.release, pinned, call, up) {
            Ok(worker) => worker,
            Err(refusal) => {
                if starts {
                    let totals = &mut book.counts_mut(decision.release).totals;
                    totals.started += 1;
                    // Callers can fill a release as they like; it is not to blame for that.
                    totals.errors += u64::from(refusal != Refusal::Full);
                }
                let record = (purpose == Purpose::Call)
                    .then(|| Box::new(ended::of_refused(&identity, refusal, now)));
                let why = refusal.into();
                return Err(Turned { why, record });
            }
        };
        let addr = table.workers[&worker].addr;
        let site = book.shared.site(decision.release, &worker, addr);
        book.enter(call, &site, || {
            let (epoch, reason) = (table.epoch, decision.reason);
            Record::new(site.pin(), epoch, reason, is_override, now)
        });
        if starts {
            book.counts_mut(decision.release).totals.started += 1;
        }
        if let Some(record) = book.record_mut(call) {
            record.started |= starts;
            record.let_go = false;
        }
        let line =
            (purpose != Purpose::Request && self.journal.is_some()).then(|| identity.clone());
        let counted = self
            .connections
            .add(&mut book.shared, identity, Arc::clone(&site));
        if let Some(identity) = line {
            self.write(Line::Begun {
                connection: counted.number,
                identity: Box::new(identity),
                worker,
            });
        }
        Ok((counted, site))
    }
}

/// A worker that is up; if none is, one that is not.
pub(super) fn choose(
    book: &Book,
    release: ReleaseId,
    pin: Option<&Pin>,
    call: &CallId,
    up: &Up<'_>,
) -> Result<WorkerId, Refusal> {
    let live = |worker: &WorkerId| book.at_worker(worker);
    let key = call.as_str();
    let workers = &book.table.workers;
    let is_up = |worker: &WorkerId| up(worker, workers[worker].addr);
    match route::choose_worker(&book.table, release, pin, live, is_up, key) {
        Err(Refusal::NoWorker | Refusal::Barred) => {
            route::choose_worker(&book.table, release, pin, live, |_| true, key)
        }
        chosen => chosen,
    }
}

/// A label for a release that the table names in its split but does not describe.
fn unnamed(release: ReleaseId) -> Label {
    release
        .short()
        .parse()
        .expect("twelve hexadecimal digits are a label")
}

impl Connection {
    pub(super) fn info(&self) -> CallInfo {
        let counters = &self.counted.counters;
        let (bytes_in, bytes_out) = counters.read();
        let state = match self.counted.connected() {
            None => "dialling",
            Some(_) if counters.is_rescuing() => "rescuing",
            Some(_) if counters.rescued().is_some() => "rescued",
            Some(_) => "live",
        };
        let identity = self.counted.identity();
        CallInfo {
            call: identity.call,
            agent: identity.agent,
            release: identity.release,
            worker: self.site.worker.clone(),
            epoch: identity.epoch,
            since: identity.since,
            state: state.to_owned(),
            reason: identity.reason.word().to_owned(),
            bytes_in,
            bytes_out,
        }
    }
}
