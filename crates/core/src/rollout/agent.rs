//! One agent: its releases, its workers, and the rollout that is under way. Folded from facts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::names::{AgentName, GatewayId, ReleaseId, WorkerId};
use crate::presence::Totals;
use crate::release::{Release, ReleaseState};
#[cfg(feature = "mutants")]
use crate::rollout::guard::Guard;
use crate::rollout::standing::Badge;
use crate::slot::Slot;
use crate::spec::{Hook, Ingress, Plan, Policy, StragglerPolicy};
use crate::split::Split;
use crate::table::Epoch;
use crate::time::{Millis, Timestamp};

/// One agent, as far as it was decided. What is merely seen is in [`Seen`](super::Seen).
#[derive(Debug, Clone, PartialEq)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// How its requests are read.
    pub ingress: Ingress,
    /// How long things are kept.
    pub policy: Policy,
    /// Grows with every decision an operator would want to know of: the conflict token.
    pub revision: u64,
    /// The number of the routing table.
    pub epoch: Epoch,
    /// Shares of new calls.
    pub split: Split,
    /// Its releases; retired ones too, until the same release is deployed again.
    pub releases: BTreeMap<ReleaseId, ReleaseRecord>,
    /// Its workers that are up.
    pub workers: BTreeMap<WorkerId, WorkerRecord>,
    /// Gateways whose calls count.
    pub gateways: BTreeSet<GatewayId>,
    /// The last rollout, under way or ended.
    pub rollout: Option<Rollout>,
    /// Number of the last rollout.
    pub rollouts: u64,
    /// Releases that were current before, the last one last.
    pub history: Vec<ReleaseId>,
    /// Releases that were rolled back from and took no new call since.
    pub rolled_back: BTreeSet<ReleaseId>,
    /// Contract hooks that are due once every older release is gone, and how far they are.
    pub contracts: BTreeMap<ReleaseId, Contract>,
    #[cfg(feature = "mutants")]
    pub(super) without: Option<Guard>,
}

/// What is known of one release.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseRecord {
    /// What it is.
    pub release: Release,
    /// Where it is in its life.
    pub state: ReleaseState,
    /// Its place; `None`: a tail.
    pub slot: Option<Slot>,
    /// Gates it passed in its last rollout.
    pub passed: BTreeSet<Gate>,
    /// Whether an operator let it through without them.
    pub skipped: bool,
    /// Number of the rollout that brought it in last: of two releases the smaller is the older.
    pub rollout: u64,
    /// Number of the rollout that brought it in first. One that is deployed again is not newer for
    /// it: what it needs was there before what came between.
    pub first: u64,
    /// Whether it ever was current and was not rolled back from: then it may come back fast.
    pub served_well: bool,
    /// When its drain reached the ceiling, and what happens since.
    pub ceiling: Option<(Timestamp, StragglerPolicy)>,
}

/// The contract half of a migration: it takes away what only older releases need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// Of which rollout: every release that came before must be gone.
    pub rollout: u64,
    /// What is run.
    pub hook: Hook,
    /// How often it was started.
    pub attempts: u32,
    /// How far it is.
    pub state: ContractState,
}

/// How far a contract hook is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContractState {
    /// Older releases still have processes.
    Waiting,
    /// It runs.
    Running {
        /// Counts up from 1.
        attempt: u32,
    },
    /// It failed; an operator may run it again.
    Failed {
        /// Of how many attempts.
        attempt: u32,
        /// Why.
        reason: String,
    },
    /// It ran.
    Done,
}

/// A condition that must hold before a rollout moves on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Every worker answers its health check.
    Readiness,
    /// Synthetic calls were understood and answered.
    Smoke,
    /// The hook `before_deploy` ran.
    BeforeDeploy,
    /// A webhook, by name, agreed.
    Webhook(String),
    /// A person with the role approver agreed.
    Approval,
}

/// A worker that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRecord {
    /// Its release.
    pub release: ReleaseId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// How many calls it may hold.
    pub capacity: u32,
    /// Its health check.
    pub health_path: Option<String>,
    /// Why it may take no new call, if it may not.
    pub barred: Option<String>,
    /// By what it was admitted, if it showed something.
    pub badge: Option<Badge>,
}

/// Moving an agent from one release to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// Its number.
    pub id: u64,
    /// The release that is brought in.
    pub incoming: ReleaseId,
    /// The release that was current when it began.
    pub outgoing: Option<ReleaseId>,
    /// How.
    pub plan: Plan,
    /// How far it is.
    pub phase: Phase,
    /// Whether and why it waits.
    pub paused: Option<Pause>,
    /// Counters of the incoming release when it began to ramp.
    pub ramp_base: Baseline,
    /// When it began.
    pub started: Timestamp,
    /// Whether its release was current before, so that it skips the ramp.
    pub fast_track: bool,
    /// The bake window, from the landing to its end.
    pub bake: Option<Bake>,
}

/// The time after a cutover in which the release may still be rolled back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bake {
    /// When it ends.
    pub until: Timestamp,
    /// The round of smoke calls, counting up from 1.
    pub attempt: u32,
    /// When that round begins.
    pub due: Timestamp,
    /// Until when its verdict is waited for, once it has begun.
    pub smoking: Option<Timestamp>,
    /// Whether a round succeeded.
    pub proved: bool,
}

/// How far a rollout is. What comes after the cutover (draining, settling, standby, complete) is
/// the outgoing release's own life: see [`Agent::phase_word`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Workers of the incoming release are starting.
    Provisioning {
        /// When that counts as failed.
        deadline: Timestamp,
    },
    /// Its gates are being tried.
    Verifying {
        /// Counts up from 1.
        attempt: u32,
        /// When that counts as failed.
        deadline: Timestamp,
    },
    /// It takes a share of new calls.
    Canary {
        /// Index of the step.
        step: usize,
        /// Since when.
        since: Timestamp,
        /// Counters of the incoming release when the step began.
        base: Baseline,
    },
    /// It takes all new calls; gateways are acknowledging.
    Promoting {
        /// Since when.
        since: Timestamp,
        /// What they must acknowledge.
        epoch: Epoch,
    },
    /// They have.
    Landed {
        /// When.
        at: Timestamp,
        /// Known gateways that could not.
        unacked: Vec<GatewayId>,
    },
    /// The release before takes all new calls again; gateways are acknowledging.
    RollingBack {
        /// Since when.
        since: Timestamp,
        /// What they must acknowledge.
        epoch: Epoch,
        /// Why.
        reason: String,
    },
    /// They have, or the second is over.
    RolledBack {
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
        /// Known gateways that have not.
        unacked: Vec<GatewayId>,
    },
    /// It ended before the incoming release took a call by the split.
    Failed {
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
    },
}

/// Why a rollout waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "pause", rename_all = "snake_case")]
pub enum Pause {
    /// An operator asked.
    Operator {
        /// Their words.
        reason: String,
    },
    /// The step says so, and has ended.
    Step,
    /// A gate could not tell.
    Inconclusive {
        /// What it saw.
        reason: String,
    },
}

/// Counters of one release at a moment, to count from: per gateway, because each starts anew with
/// each of its lives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Baseline(pub BTreeMap<GatewayId, Mark>);

impl Baseline {
    /// Whether no gateway had reported.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Counters of one release on one gateway at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// In which life of the gateway.
    pub incarnation: String,
    /// New calls decided.
    pub started: u64,
    /// Calls ended.
    pub ended: u64,
    /// Calls dropped.
    pub dropped: u64,
    /// Calls that never got through.
    pub errors: u64,
    /// Calls rescued from a worker that had died.
    #[serde(default, skip_serializing_if = "is_none")]
    pub rescued: u64,
}

/// A count that is written only if there is something to count.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_none(count: &u64) -> bool {
    *count == 0
}

impl Mark {
    pub(super) fn new(incarnation: &str, totals: &Totals) -> Self {
        Self {
            incarnation: incarnation.to_owned(),
            started: totals.started,
            ended: totals.ended,
            dropped: totals.dropped,
            errors: totals.errors,
            rescued: totals.rescued,
        }
    }

    /// What the same life counted from this mark on. Close codes are not told apart, and calls lost
    /// with a gateway are no release's fault.
    pub(super) fn until(&self, totals: &Totals) -> Totals {
        Totals {
            started: totals.started.saturating_sub(self.started),
            ended: totals.ended.saturating_sub(self.ended),
            dropped: totals.dropped.saturating_sub(self.dropped),
            errors: totals.errors.saturating_sub(self.errors),
            lost: 0,
            policy: 0,
            rescued: totals.rescued.saturating_sub(self.rescued),
            closes: BTreeMap::new(),
        }
    }
}

impl Agent {
    /// An agent about which nothing was decided yet.
    pub fn new(name: AgentName) -> Self {
        Self {
            name,
            ingress: Ingress::default(),
            policy: Policy::default(),
            revision: 0,
            epoch: Epoch::default(),
            split: Split::none(),
            releases: BTreeMap::new(),
            workers: BTreeMap::new(),
            gateways: BTreeSet::new(),
            rollout: None,
            rollouts: 0,
            history: Vec::new(),
            rolled_back: BTreeSet::new(),
            contracts: BTreeMap::new(),
            #[cfg(feature = "mutants")]
            without: None,
        }
    }

    /// The release that takes new calls beside a ramping one.
    pub fn current(&self) -> Option<ReleaseId> {
        self.in_state(|state| matches!(state, ReleaseState::Current))
            .next()
    }

    /// Where `rollback` goes to when no release is being replaced: the last one that was current
    /// before and is not retired.
    pub fn rollback_target(&self) -> Option<ReleaseId> {
        self.history
            .iter()
            .rev()
            .copied()
            .find(|release| self.can_come_back(*release))
    }

    /// Whether a release still runs and could take calls at once. One that is being retired can:
    /// its workers stop only after that is confirmed.
    pub(super) fn can_come_back(&self, release: ReleaseId) -> bool {
        self.releases.get(&release).is_some_and(|record| {
            matches!(
                record.state,
                ReleaseState::Draining { .. }
                    | ReleaseState::Drained { .. }
                    | ReleaseState::Retiring { .. }
            )
        })
    }

    /// Releases in a state.
    pub fn in_state(
        &self,
        pred: impl Fn(&ReleaseState) -> bool,
    ) -> impl Iterator<Item = ReleaseId> {
        self.releases
            .iter()
            .filter(move |(_, record)| pred(&record.state))
            .map(|(id, _)| *id)
    }

    /// Workers of a release that are up and may take calls, and the calls they may hold together.
    pub fn capacity(&self, release: ReleaseId) -> (u32, u64) {
        self.workers
            .values()
            .filter(|worker| worker.release == release && worker.takes_calls())
            .fold((0, 0), |(count, room), worker| {
                (count + 1, room + u64::from(worker.capacity))
            })
    }

    /// Time at zero calls before a release is believed empty: never shorter than the stickiness
    /// window, or a reconnect would find its release gone.
    pub fn straggler_buffer(&self) -> Millis {
        self.policy.straggler_buffer.max(self.policy.stickiness)
    }

    /// Whether a rollout is under way that another deploy must wait for.
    pub fn is_rolling_out(&self) -> bool {
        self.rollout
            .as_ref()
            .is_some_and(|rollout| match rollout.phase {
                Phase::Provisioning { .. }
                | Phase::Verifying { .. }
                | Phase::Canary { .. }
                | Phase::Promoting { .. }
                | Phase::RollingBack { .. } => true,
                Phase::Landed { .. } | Phase::RolledBack { .. } | Phase::Failed { .. } => false,
            })
    }

    /// The phase in one word, as DESIGN names it.
    pub fn phase_word(&self) -> &'static str {
        let Some(rollout) = &self.rollout else {
            return "none";
        };
        match &rollout.phase {
            Phase::Provisioning { .. } => "provisioning",
            Phase::Verifying { .. } => "verifying",
            Phase::Canary { .. } => "canary",
            Phase::Promoting { .. } => "promoting",
            Phase::Landed { .. } => self.life_after_cutover(rollout.outgoing),
            Phase::RollingBack { .. } => "rolling back",
            Phase::RolledBack { .. } => "rolled back",
            Phase::Failed { .. } => "failed",
        }
    }

    fn life_after_cutover(&self, outgoing: Option<ReleaseId>) -> &'static str {
        let state = outgoing
            .and_then(|id| self.releases.get(&id))
            .map(|record| record.state);
        match state {
            Some(ReleaseState::Draining {
                empty_since: None, ..
            }) => "draining",
            Some(ReleaseState::Draining {
                empty_since: Some(_),
                ..
            }) => "settling",
            Some(ReleaseState::Drained { .. } | ReleaseState::Retiring { .. }) => "standby",
            Some(
                ReleaseState::Retired { .. }
                | ReleaseState::Inactive
                | ReleaseState::Ramping { .. }
                | ReleaseState::Current,
            )
            | None => "complete",
        }
    }

    /// The label of a release, or its short digest.
    pub fn label(&self, release: ReleaseId) -> String {
        let label = |record: &ReleaseRecord| record.release.label.to_string();
        self.releases
            .get(&release)
            .map_or_else(|| release.short(), label)
    }

    /// Takes a guard away. Only for showing that its absence is noticed.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn without(mut self, guard: Option<Guard>) -> Self {
        self.without = guard;
        self
    }

    #[cfg(feature = "mutants")]
    pub(super) fn on(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }

    #[cfg(not(feature = "mutants"))]
    #[expect(
        clippy::unused_self,
        reason = "the other build of this function reads it"
    )]
    pub(super) fn on(&self, _guard: super::Guard) -> bool {
        true
    }
}
