//! A connected worker.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::drains::Drains;
use super::event::WorkerStatus;
use super::facts::{LineId, LineKey, WorkerKey};
use super::{JOB_LOAD, LIBRARY_BYTES_MAX, UNHEARD_MAX};
use crate::names::{AgentName, CallId, ReleaseId, WorkerId};
use crate::plane::{ConnectedWorker, DrainedBy};
use crate::time::Timestamp;

/// A full load, in thousandths.
const LOAD_FULL: u32 = 1_000;

/// A worker's registration, once it is known whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Its connection.
    pub worker: WorkerKey,
    /// The id that it was told.
    pub id: WorkerId,
    /// Its release.
    pub release: ReleaseId,
    /// What makes it interchangeable; its agent is there.
    pub line: LineId,
    /// Whether its membership lets it finish only what it has.
    pub draining: bool,
    /// The version of its library, as it says.
    pub library: String,
    /// Where it connects from.
    pub from: Option<IpAddr>,
}

/// What a worker said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// Nothing yet.
    Nothing {
        until: Timestamp,
    },
    Available,
    Full,
}

#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) agent: AgentName,
    pub(super) release: ReleaseId,
    pub(super) line: LineKey,
    pub(super) since: Timestamp,
    pub(super) drains: Drains,
    pub(super) library: String,
    from: Option<IpAddr>,
    heard: Heard,
    /// Counts its statuses, so that what was refused before one may be asked behind it.
    pub(super) words: u64,
    /// In thousandths.
    load: u32,
    /// Jobs that began since it said its load.
    fresh: u32,
    pub(super) slow_until: Timestamp,
    /// The count of words under which it refused a job: until the next it is taken for full.
    refused: Option<u64>,
    /// Offers that it has not answered.
    pub(super) asked: BTreeSet<CallId>,
    /// Offers that it has promised to take, and that are not given to it yet.
    pub(super) promised: BTreeSet<CallId>,
    pub(super) jobs: BTreeSet<CallId>,
}

impl Worker {
    pub(super) fn new(hello: &Hello, line: LineKey, now: Timestamp) -> Self {
        let by_membership = hello.draining.then_some(DrainedBy::Membership);
        let mut library = hello.library.clone();
        library.truncate(library.floor_char_boundary(LIBRARY_BYTES_MAX));
        Self {
            id: hello.id.clone(),
            agent: hello.line.agent.clone(),
            release: hello.release,
            line,
            since: now,
            drains: by_membership.into_iter().collect(),
            library,
            from: hello.from,
            heard: Heard::Nothing {
                until: now + UNHEARD_MAX,
            },
            words: 0,
            load: 0,
            fresh: 0,
            slow_until: Timestamp::default(),
            refused: None,
            asked: BTreeSet::new(),
            promised: BTreeSet::new(),
            jobs: BTreeSet::new(),
        }
    }

    /// Takes in a status. Says whether it means that it drains.
    ///
    /// A worker that drains says that it is full, and nothing of its load; one that is full says its
    /// load. Some forget that they drain and call themselves available again, so it is remembered.
    pub(super) fn hear(&mut self, status: WorkerStatus) -> bool {
        self.words += 1;
        self.fresh = 0;
        self.load = thousandths(status.load);
        match status.available {
            Some(true) => self.heard = Heard::Available,
            Some(false) => self.heard = Heard::Full,
            None => {}
        }
        status.draining || (status.available == Some(false) && self.load == 0)
    }

    /// Whether it may be given another job.
    pub(super) fn is_available(&self, now: Timestamp) -> bool {
        let heard = match self.heard {
            Heard::Nothing { until } => now >= until,
            Heard::Available => true,
            Heard::Full => false,
        };
        heard && self.drains.is_empty() && self.refused != Some(self.words)
    }

    pub(super) fn refuse(&mut self) {
        self.refused = Some(self.words);
    }

    pub(super) fn begin(&mut self, job: CallId) {
        self.fresh += 1;
        self.jobs.insert(job);
    }

    /// What it said of its load, and what came since.
    pub(super) fn load(&self) -> u32 {
        let coming = self.fresh + u32::try_from(self.asked.len()).unwrap_or(u32::MAX / JOB_LOAD);
        self.load.saturating_add(coming.saturating_mul(JOB_LOAD))
    }

    /// As people see it.
    pub(super) fn shown(&self, now: Timestamp) -> ConnectedWorker {
        ConnectedWorker {
            worker: self.id.clone(),
            agent: self.agent.clone(),
            release: self.release,
            since: self.since,
            available: self.is_available(now),
            drain: self.drains.first(),
            load: self.load,
            slow: now < self.slow_until,
            jobs: self.jobs.iter().cloned().collect(),
            library: self.library.clone(),
            from: self.from,
        }
    }
}

/// What is no number is a worker that cannot say how busy it is.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it lies within 0 and 1000"
)]
fn thousandths(load: f32) -> u32 {
    if load.is_nan() {
        return LOAD_FULL;
    }
    (load.clamp(0.0, 1.0) * 1_000.0) as u32
}
