//! A worker's process, as the real one behaves.

use std::collections::{BTreeMap, BTreeSet};

use segue_core::dispatch::WorkerKey;
use segue_core::names::CallId;
use segue_core::plane::DrainedBy;

use crate::sim::rng::Rng;

/// How a process treats offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Answers at once, truly.
    Good,
    /// Sometimes says nothing, or late.
    Slow,
    /// Drains, but calls itself available all the same, and takes jobs.
    Liar,
    /// Wants another name for its participant.
    Named,
    /// Says nothing of its jobs and claims none, as LiveKit's library for Node.
    Mute,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) release: usize,
    pub(super) manner: Manner,
    pub(super) capacity: usize,
    pub(super) connection: Option<WorkerKey>,
    /// Milliseconds on the way, each way.
    pub(super) latency: u64,
    pub(super) promised: BTreeMap<CallId, u64>,
    pub(super) jobs: BTreeSet<CallId>,
    /// Ends that could not be said.
    pub(super) unsaid: Vec<CallId>,
    pub(super) draining: bool,
    /// Who else says that it takes no jobs: its membership, and an operator, which whoever knows it
    /// again by its jobs must know.
    pub(super) against: BTreeSet<DrainedBy>,
    pub(super) alive: bool,
    /// Nobody reaches it, and it reaches nobody.
    pub(super) cut: bool,
}

impl Process {
    pub(super) fn new(release: usize, rng: &mut Rng) -> Self {
        let manner = match rng.below(10) {
            0 => Manner::Slow,
            1 => Manner::Liar,
            2 => Manner::Named,
            3 => Manner::Mute,
            _ => Manner::Good,
        };
        Self {
            release,
            manner,
            capacity: usize::try_from(rng.between(1, 8)).unwrap(),
            connection: None,
            latency: rng.below(4),
            promised: BTreeMap::new(),
            jobs: BTreeSet::new(),
            unsaid: Vec::new(),
            draining: false,
            against: rng
                .chance(50)
                .then_some(DrainedBy::Membership)
                .into_iter()
                .collect(),
            alive: true,
            cut: false,
        }
    }

    pub(super) fn identity(&self, index: usize, job: &CallId) -> String {
        match self.manner {
            Manner::Named => format!("own-{index}"),
            _ => format!("agent-{job}"),
        }
    }

    pub(super) fn is_barred(&self) -> bool {
        self.against.contains(&DrainedBy::Membership)
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.against.contains(&DrainedBy::Operator)
    }

    /// An operator's word, or none.
    pub(super) fn order(&mut self, drains: bool) {
        self.against.remove(&DrainedBy::Operator);
        self.against.extend(drains.then_some(DrainedBy::Operator));
    }

    /// The version of its library.
    pub(super) fn library(&self) -> &'static str {
        match self.manner {
            Manner::Mute => "1.9.0",
            _ => "1.8.9",
        }
    }

    /// Whether it says that it takes jobs, and how busy it is.
    pub(super) fn status(&self) -> (bool, f32) {
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let load = self.jobs.len() as f32 / self.capacity as f32;
        match self.manner {
            Manner::Liar => (true, load),
            _ if self.draining => (false, 0.0),
            _ => (self.jobs.len() < self.capacity, load),
        }
    }

    pub(super) fn takes(&self) -> bool {
        match self.manner {
            Manner::Liar => true,
            _ => !self.draining && self.jobs.len() < self.capacity,
        }
    }
}
