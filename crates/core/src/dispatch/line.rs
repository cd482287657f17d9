//! One registration at the server, and what it is told of it.

use std::collections::BTreeSet;

use super::dispatcher::Dispatcher;
use super::facts::LineId;
use super::worker::Worker;
use super::{LOAD_TOLD_MAX, STATUS_EVERY};
use crate::names::CallId;
use crate::time::Timestamp;

/// How a line is, as the server is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineStatus {
    /// Whether it takes jobs.
    pub available: bool,
    /// In thousandths.
    pub load: u32,
    /// Jobs it has.
    pub jobs: u32,
}

/// Most lines of one agent at once. Its workers usually have one, and a few while a release asks for
/// other permissions than the one before.
pub const LINES_MAX: usize = 64;

/// A difference of load that the server hears of at once, in thousandths.
const LOAD_STEP: u32 = 50;

#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) id: LineId,
    /// Connected workers.
    pub(super) workers: usize,
    /// Since when there are none.
    pub(super) idle_since: Option<Timestamp>,
    pub(super) is_up: bool,
    /// What the server was told last, and when.
    pub(super) told: Option<(LineStatus, Timestamp)>,
    /// When the server is to be told next.
    pub(super) tell_at: Option<Timestamp>,
    /// Offers for which nobody is asked at the moment, oldest first.
    pub(super) held: BTreeSet<(Timestamp, CallId)>,
    pub(super) jobs: u32,
}

impl Line {
    pub(super) fn new(id: LineId) -> Self {
        Self {
            id,
            workers: 0,
            idle_since: None,
            is_up: false,
            told: None,
            tell_at: None,
            held: BTreeSet::new(),
            jobs: 0,
        }
    }

    /// Whether the server should hear of this now.
    pub(super) fn is_news(&self, status: LineStatus, now: Timestamp) -> bool {
        self.told.is_none_or(|(told, at)| {
            told.available != status.available
                || told.load.abs_diff(status.load) >= LOAD_STEP
                || now.since(at) >= STATUS_EVERY
        })
    }
}

impl Dispatcher {
    /// Whether a worker may register so: as others do, or as one of few for its agent.
    pub fn has_room_for(&self, id: &LineId) -> bool {
        let lines = self.lines.values();
        let ours = lines.filter(|line| line.id.agent == id.agent);
        let (mut count, mut is_known) = (0, false);
        for line in ours {
            count += 1;
            is_known |= line.id == *id;
        }
        is_known || count < LINES_MAX
    }
}

/// Sums up workers. `holds`: an offer may wait for a worker, so a line whose workers are all busy
/// still takes some.
#[derive(Debug, Default)]
pub(super) struct Summary {
    available: u32,
    busy: u32,
    load: u64,
}

impl Summary {
    pub(super) fn add(&mut self, worker: &Worker, now: Timestamp) {
        if worker.is_available(now) {
            self.available += 1;
            self.load += u64::from(worker.load());
        } else if worker.drains.is_empty() {
            self.busy += 1;
        }
    }

    pub(super) fn status(&self, holds: bool, jobs: u32) -> LineStatus {
        let mean = if self.available == 0 {
            LOAD_TOLD_MAX
        } else {
            u32::try_from(self.load / u64::from(self.available)).unwrap_or(LOAD_TOLD_MAX)
        };
        LineStatus {
            available: self.available > 0 || (holds && self.busy > 0),
            load: mean.min(LOAD_TOLD_MAX),
            jobs,
        }
    }
}
