//! Which release, then which of its workers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use super::dispatcher::Dispatcher;
use super::facts::{Ask, LineKey, WorkerKey};
use super::job::{Decided, Job, Step};
use super::worker::Worker;
use crate::names::{CallId, ReleaseId, hex};
use crate::route::{self, CallFacts, Reason, Refusal, WALK_WORKERS_MAX};
use crate::table::RoutingTable;
use crate::time::Timestamp;

/// Names the release that a job is to go to.
const OVERRIDE: &str = "x-segue-override";

/// Permits it.
const OVERRIDE_TOKEN: &str = "x-segue-override-token";

/// What can be done with an offer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Ask this worker.
    Ask {
        /// Where it belongs.
        first: Decided,
        /// Where it goes.
        of: Decided,
        worker: WorkerKey,
    },
    /// Nobody has room; somebody may have in a moment. Of this release, if one is decided.
    Nobody(Option<Decided>),
    /// Nobody ever will.
    Never(&'static str),
}

impl Dispatcher {
    /// Looks for a worker. Its own release first; then, as a caller is better off with another
    /// release than with none, those that take new jobs by the split, the larger share first. A
    /// release that an override or a rule names is that one or none.
    pub(super) fn choose(&self, job: &Job, line: LineKey) -> Choice {
        let Some(offer) = job.offer() else {
            return Choice::Never("it is not offered");
        };
        let Some(book) = self.books.get(&job.agent) else {
            return Choice::Nobody(None);
        };
        if self.is_stopping && !matches!(offer.step, Step::Replacing { .. }) {
            return Choice::Never("the dispatcher is stopping");
        }
        if book.withdrawn {
            return Choice::Never("the agent is gone");
        }
        let decided = match self.decide(&book.table, &offer.ask, line) {
            Ok(decided) => decided,
            Err(Refusal::NothingServes) => return Choice::Nobody(None),
            Err(Refusal::UnknownOverride) => return Choice::Never("its override names nothing"),
            Err(_) => return Choice::Never("it is refused"),
        };
        let mut ours = None;
        for release in releases(&book.table, decided) {
            if let Some(worker) = self.pick(line, release, &offer.tried, &job.id) {
                let of = Decided { release, ..decided };
                return Choice::Ask {
                    first: decided,
                    of,
                    worker,
                };
            }
            // Tokens of this line do not suit that release's workers, and the server tries others.
            let elsewhere = || self.is_elsewhere(line, release);
            if ours.is_none() && self.crew(line, release).is_none() && elsewhere() {
                return Choice::Never("its release is registered with other permissions");
            }
            ours = ours.or(Some(release));
        }
        Choice::Nobody(Some(decided))
    }

    /// Whether an offer may still go to a worker of this release.
    pub(super) fn is_permitted(&self, job: &Job, line: LineKey, release: ReleaseId) -> bool {
        let (Some(offer), Some(book)) = (job.offer(), self.books.get(&job.agent)) else {
            return false;
        };
        if book.withdrawn {
            return false;
        }
        self.decide(&book.table, &offer.ask, line)
            .is_ok_and(|decided| releases(&book.table, decided).any(|other| other == release))
    }

    fn decide(&self, table: &RoutingTable, ask: &Ask, line: LineKey) -> Result<Decided, Refusal> {
        let pin = self.books.get(&table.agent).and_then(|book| book.pin(ask));
        let connected = pin.as_ref().is_some_and(|(_, connected)| *connected);
        let ingress = &table.ingress;
        let headers: Vec<(String, String)> = match &ingress.rules[..] {
            [] => Vec::new(),
            _ => ask.fields.clone().into_iter().collect(),
        };
        let facts = CallFacts {
            call: &ask.job,
            cohort: Some(ask.find(&ingress.cohort).unwrap_or(&ask.room)),
            caller: ask.find(&ingress.caller),
            tenant: ask.find(&ingress.tenant),
            headers: &headers,
            pin: pin.map(|(pin, _)| pin),
            connected,
            version_override: permitted_override(table, ask)?,
        };
        let has_worker = |release| {
            let crew = self.crew(line, release).into_iter().flatten();
            crew.filter_map(|key| self.workers.get(key))
                .any(|worker| worker.drains.is_empty())
        };
        let decision = route::route_among(table, &facts, &has_worker)?;
        Ok(Decided {
            release: decision.release,
            reason: decision.reason,
            epoch: table.epoch,
            is_override: decision.reason == Reason::Override,
        })
    }

    pub(super) fn crew(&self, line: LineKey, release: ReleaseId) -> Option<&BTreeSet<WorkerKey>> {
        self.crews.get(&(line, release))
    }

    /// Whether another line of the same agent has workers of this release.
    fn is_elsewhere(&self, line: LineKey, release: ReleaseId) -> bool {
        let Some(ours) = self.lines.get(&line).map(|line| &line.id) else {
            return false;
        };
        let alike = |key: &LineKey| {
            self.lines.get(key).is_some_and(|other| {
                other.is_up
                    && other.id.agent == ours.agent
                    && other.id.agent_name == ours.agent_name
                    && other.id.kind == ours.kind
                    && other.id.namespace == ours.namespace
            })
        };
        self.crews
            .keys()
            .any(|(other, of)| *of == release && *other != line && alike(other))
    }

    /// The worker with the most room. Of many two are drawn, so that a choice does not cost a walk
    /// over all of them, unless neither has any.
    fn pick(
        &self,
        line: LineKey,
        release: ReleaseId,
        tried: &BTreeMap<WorkerKey, Option<u64>>,
        job: &CallId,
    ) -> Option<WorkerKey> {
        let crew = self.crew(line, release)?;
        let free = |key: &WorkerKey| {
            let worker = self.workers.get(key)?;
            let is_new = tried
                .get(key)
                .is_none_or(|words| words.is_some_and(|words| words != worker.words));
            (is_new && worker.is_available(self.now)).then_some((*key, worker))
        };
        if crew.len() > WALK_WORKERS_MAX {
            let drawn = [draw(crew, job, 0), draw(crew, job, 1)];
            let drawn = drawn.iter().flatten().filter_map(free);
            if let Some((key, _)) = drawn.min_by_key(|(key, worker)| rank(worker, *key, self.now)) {
                return Some(key);
            }
        }
        let free = crew.iter().filter_map(free);
        free.min_by_key(|(key, worker)| rank(worker, *key, self.now))
            .map(|(key, _)| key)
    }
}

/// One of them, the same for the same job.
fn draw(crew: &BTreeSet<WorkerKey>, job: &CallId, turn: u8) -> Option<WorkerKey> {
    let (first, last) = (crew.first()?, crew.last()?);
    let digest = Sha256::new()
        .chain_update(job.as_str())
        .chain_update([turn])
        .finalize();
    let head = u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
    let at = WorkerKey(first.0 + head % (last.0 - first.0 + 1));
    crew.range(at..).next().copied()
}

/// Those that failed to answer last; then the one that is least busy.
fn rank(worker: &Worker, key: WorkerKey, now: Timestamp) -> (bool, u32, usize, WorkerKey) {
    let is_slow = now < worker.slow_until;
    (is_slow, worker.load(), worker.jobs.len(), key)
}

/// The releases that an offer may go to, in their order.
fn releases(table: &RoutingTable, decided: Decided) -> impl Iterator<Item = ReleaseId> {
    let mut others: Vec<_> = match decided.reason {
        Reason::Override | Reason::Rule => Vec::new(),
        Reason::Pin | Reason::Split => table.split.shares().into_iter().collect(),
    };
    others.retain(|(release, share)| share.0 > 0 && *release != decided.release);
    others.sort_by_key(|(release, share)| (Reverse(*share), *release));
    let others = others.into_iter().map(|(release, _)| release);
    std::iter::once(decided.release).chain(others)
}

/// The release that a job's metadata names, if it brings the token that permits it.
fn permitted_override<'a>(table: &RoutingTable, ask: &'a Ask) -> Result<Option<&'a str>, Refusal> {
    let Some(name) = ask.field(OVERRIDE) else {
        return Ok(None);
    };
    let token = ask.field(OVERRIDE_TOKEN).unwrap_or_default();
    let digest = hex(&Sha256::digest(token));
    let expected = table.override_digest.as_deref().unwrap_or_default();
    // Every byte is looked at, so that the time taken tells nothing.
    let differ = digest.bytes().zip(expected.bytes());
    let differ = differ.fold(0, |differ, (a, b)| differ | (a ^ b));
    if differ != 0 || digest.len() != expected.len() {
        return Err(Refusal::UnknownOverride);
    }
    Ok(Some(name))
}
