//! Facts: what was decided. They are journaled before they take effect, and replaying them gives
//! the agent back.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::SocketAddr;

use crate::names::{GatewayId, ReleaseId, WorkerId};
use crate::release::Release;
use crate::rollout::agent::{Baseline, Gate, Pause};
use crate::rollout::notice::Notice;
use crate::rollout::standing::Badge;
use crate::slot::Slot;
use crate::spec::{Ingress, Plan, Policy, StragglerPolicy};
use crate::split::Share;
use crate::table::Epoch;
use crate::time::Timestamp;

/// Version of the journaled form. A reader refuses a larger one, and reads every smaller one: facts
/// only gain fields that may be missing.
///
/// 2: facts of approvals, hooks, bake windows, ceilings and contracts. A Segue of version 1 would
/// forget them, or not know what it reads.
///
/// 3: notices about workers.
pub const FACT_VERSION: u32 = 3;

/// Names of all facts, as journaled.
pub const FACT_NAMES: [&str; 40] = [
    "configured",
    "deployed",
    "provision_started",
    "worker_ready",
    "worker_gone",
    "worker_admitted",
    "worker_barred",
    "gateway_joined",
    "gateway_forgotten",
    "verify_started",
    "gate_passed",
    "gates_skipped",
    "step_started",
    "paused",
    "resumed",
    "cut_over",
    "landed",
    "bake_smoke_started",
    "bake_smoked",
    "baked",
    "rollback_started",
    "rolled_back",
    "failed",
    "drain_started",
    "emptied",
    "refilled",
    "ceiling_reached",
    "calls_ending",
    "contract_started",
    "contract_finished",
    "drained",
    "retiring",
    "retired",
    "worker_showed",
    "worker_rejected",
    "worker_draining",
    "worker_steered",
    "membership_refused",
    "job_redispatched",
    "events_left_out",
];

/// One decision about one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "a deploy is one fact in hundreds, and facts are not kept in bulk"
)]
pub enum Fact {
    /// The agent exists, with these settings; later ones replace them.
    Configured {
        /// How its requests are read.
        ingress: Ingress,
        /// How long things are kept.
        policy: Policy,
    },
    /// A rollout began.
    Deployed {
        /// Its number.
        rollout: u64,
        /// What is brought in.
        release: Release,
        /// How.
        plan: Plan,
        /// Where.
        slot: Slot,
        /// The release that left that slot and is a tail now.
        displaced: Option<ReleaseId>,
        /// When.
        at: Timestamp,
        /// Whether it was current before and skips the ramp and the approval.
        #[serde(default)]
        fast_track: bool,
    },
    /// The hook before the deploy has run, and workers are started.
    ProvisionStarted {
        /// When.
        at: Timestamp,
        /// When it counts as failed.
        deadline: Timestamp,
    },
    /// A worker is up.
    WorkerReady {
        /// Which.
        worker: WorkerId,
        /// Of which release.
        release: ReleaseId,
        /// Where it listens.
        addr: SocketAddr,
        /// How many calls it may hold.
        capacity: u32,
        /// Its health check.
        health_path: Option<String>,
        /// Why it may take no new call, if it may not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        barred: Option<String>,
    },
    /// A worker is gone.
    WorkerGone {
        /// Which.
        worker: WorkerId,
        /// Why.
        why: String,
    },
    /// A worker may take new calls, by its membership.
    WorkerAdmitted {
        /// Which.
        worker: WorkerId,
        /// By what it showed; `None`: it had to show nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        badge: Option<Badge>,
    },
    /// A worker takes no new call, by its membership. It keeps those that it has.
    WorkerBarred {
        /// Which.
        worker: WorkerId,
        /// Why, in one word.
        why: String,
    },
    /// A worker that takes calls has shown another token. Nothing changes for any call.
    WorkerShowed {
        /// Which.
        worker: WorkerId,
        /// What it showed.
        badge: Badge,
    },
    /// A gateway reported for the first time: from now on its calls count.
    GatewayJoined {
        /// Which.
        gateway: GatewayId,
    },
    /// An operator vouches that a gateway is gone, with its calls.
    GatewayForgotten {
        /// Which.
        gateway: GatewayId,
        /// Why.
        reason: String,
    },
    /// The gates of the incoming release are being tried.
    VerifyStarted {
        /// Counts up from 1.
        attempt: u32,
        /// When.
        at: Timestamp,
        /// When it counts as failed.
        deadline: Timestamp,
    },
    /// A gate holds.
    GatePassed {
        /// For which release.
        release: ReleaseId,
        /// Which gate.
        gate: Gate,
        /// What it measured.
        report: Value,
    },
    /// An operator let a release through without its gates.
    GatesSkipped {
        /// Which.
        release: ReleaseId,
        /// Why.
        reason: String,
    },
    /// The incoming release takes this share of new calls from now on.
    StepStarted {
        /// Index of the step.
        step: usize,
        /// The share.
        share: Share,
        /// When.
        at: Timestamp,
        /// Counters of the incoming release at that moment.
        base: Baseline,
    },
    /// The rollout waits.
    Paused {
        /// Why.
        pause: Pause,
        /// When.
        at: Timestamp,
    },
    /// The rollout goes on.
    Resumed {
        /// When.
        at: Timestamp,
    },
    /// The incoming release takes all new calls from now on, and the outgoing one drains.
    CutOver {
        /// When.
        at: Timestamp,
        /// Counters of the incoming release at that moment, to judge one that did not ramp.
        #[serde(default, skip_serializing_if = "Baseline::is_empty")]
        base: Baseline,
    },
    /// The cutover is acknowledged.
    Landed {
        /// When.
        at: Timestamp,
        /// Known gateways that could not acknowledge: their lease has run out.
        unacked: Vec<GatewayId>,
    },
    /// A round of smoke calls in the bake window began.
    BakeSmokeStarted {
        /// Which round, counting up from 1.
        attempt: u32,
        /// When.
        at: Timestamp,
        /// Until when its verdict is waited for.
        deadline: Timestamp,
    },
    /// A round of smoke calls in the bake window did not fail.
    BakeSmoked {
        /// Which round.
        attempt: u32,
        /// When.
        at: Timestamp,
        /// When the next one begins.
        next: Timestamp,
        /// What it measured.
        report: Value,
        /// Whether it showed nothing good: it could not tell, or nothing was left to go back to.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unproven: bool,
    },
    /// The bake window is over.
    Baked {
        /// When.
        at: Timestamp,
    },
    /// `to` takes all new calls from now on, and `from` drains.
    RollbackStarted {
        /// Number of the rollout it belongs to; a new one if none is under way.
        rollout: u64,
        /// The release rolled back from.
        from: ReleaseId,
        /// The release rolled back to.
        to: ReleaseId,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// The rollback is acknowledged, or its second is over.
    RolledBack {
        /// When.
        at: Timestamp,
        /// Known gateways that have not acknowledged.
        unacked: Vec<GatewayId>,
    },
    /// The rollout ended before the incoming release took a call by the split.
    Failed {
        /// When.
        at: Timestamp,
        /// Why.
        reason: String,
    },
    /// An operator takes the current release out of service: new calls are turned away.
    DrainStarted {
        /// Which.
        release: ReleaseId,
        /// When.
        at: Timestamp,
    },
    /// Every gateway confirms that a draining release is empty.
    Emptied {
        /// Which.
        release: ReleaseId,
        /// When.
        at: Timestamp,
    },
    /// It is not, or no longer known to be.
    Refilled {
        /// Which.
        release: ReleaseId,
        /// Why.
        why: String,
    },
    /// It still has calls at its ceiling: the straggler policy acts from now on.
    CeilingReached {
        /// Which.
        release: ReleaseId,
        /// What happens to them.
        policy: StragglerPolicy,
        /// When.
        at: Timestamp,
    },
    /// These calls are ended by policy.
    CallsEnding {
        /// Of which release.
        release: ReleaseId,
        /// Keyed hashes of their ids: the log names no call.
        calls: Vec<String>,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// No process of an older release is left: the contract hook of this one runs.
    ContractStarted {
        /// Whose.
        release: ReleaseId,
        /// Counts up from 1.
        attempt: u32,
        /// When.
        at: Timestamp,
    },
    /// It ran, or failed.
    ContractFinished {
        /// Whose.
        release: ReleaseId,
        /// Of which attempt.
        attempt: u32,
        /// Why it failed, if it did.
        failed: Option<String>,
        /// What it said.
        report: Value,
        /// When.
        at: Timestamp,
    },
    /// It was empty for the whole straggler buffer.
    Drained {
        /// Which.
        release: ReleaseId,
        /// When.
        at: Timestamp,
        /// Until when it stands by.
        keep_until: Timestamp,
    },
    /// It is withdrawn from the routing table.
    Retiring {
        /// Which.
        release: ReleaseId,
        /// When.
        at: Timestamp,
    },
    /// Every gateway confirms the withdrawal; its workers stop.
    Retired {
        /// Which.
        release: ReleaseId,
        /// When.
        at: Timestamp,
        /// Under which table that was confirmed.
        epoch: Epoch,
    },
    /// Something befell a worker. It changes nothing. (Journaled by its own name; must be the last.)
    #[serde(untagged)]
    Notice(Notice),
}

impl Fact {
    /// Whether gateways must hear of it: then the epoch grows by one.
    pub fn changes_routing(&self) -> bool {
        match self {
            Self::Configured { .. }
            | Self::Deployed { .. }
            | Self::WorkerReady { .. }
            | Self::WorkerGone { .. }
            | Self::WorkerAdmitted { .. }
            | Self::WorkerBarred { .. }
            | Self::StepStarted { .. }
            | Self::CutOver { .. }
            | Self::RollbackStarted { .. }
            | Self::Failed { .. }
            | Self::DrainStarted { .. }
            | Self::CeilingReached { .. }
            | Self::Retiring { .. } => true,
            Self::WorkerShowed { .. }
            | Self::GatewayJoined { .. }
            | Self::GatewayForgotten { .. }
            | Self::VerifyStarted { .. }
            | Self::GatePassed { .. }
            | Self::GatesSkipped { .. }
            | Self::Paused { .. }
            | Self::Resumed { .. }
            | Self::Landed { .. }
            | Self::RolledBack { .. }
            | Self::Emptied { .. }
            | Self::Refilled { .. }
            | Self::Drained { .. }
            | Self::ProvisionStarted { .. }
            | Self::BakeSmokeStarted { .. }
            | Self::BakeSmoked { .. }
            | Self::Baked { .. }
            | Self::CallsEnding { .. }
            | Self::ContractStarted { .. }
            | Self::ContractFinished { .. }
            | Self::Retired { .. }
            | Self::Notice(_) => false,
        }
    }

    /// Whether it changes what an operator decides on: then the revision grows by one. Workers
    /// that come and go do not, or every decision would be a conflict.
    pub fn changes_revision(&self) -> bool {
        !matches!(
            self,
            Self::WorkerReady { .. }
                | Self::WorkerGone { .. }
                | Self::WorkerAdmitted { .. }
                | Self::WorkerBarred { .. }
                | Self::WorkerShowed { .. }
                | Self::GatewayJoined { .. }
                | Self::Emptied { .. }
                | Self::Refilled { .. }
                | Self::BakeSmokeStarted { .. }
                | Self::BakeSmoked { .. }
                | Self::CallsEnding { .. }
                | Self::Notice(_)
        )
    }

    /// Its name, as journaled.
    pub fn name(&self) -> String {
        let value = serde_json::to_value(self).expect("facts always serialise");
        value["fact"].as_str().expect("facts are tagged").to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A new kind of fact does not compile here until it has a number, and then [`FACT_NAMES`] and
    /// the golden file must follow.
    fn number(fact: &Fact) -> usize {
        match fact {
            Fact::Configured { .. } => 1,
            Fact::Deployed { .. } => 2,
            Fact::ProvisionStarted { .. } => 3,
            Fact::WorkerReady { .. } => 4,
            Fact::WorkerGone { .. } => 5,
            Fact::WorkerAdmitted { .. } => 6,
            Fact::WorkerBarred { .. } => 7,
            Fact::GatewayJoined { .. } => 8,
            Fact::GatewayForgotten { .. } => 9,
            Fact::VerifyStarted { .. } => 10,
            Fact::GatePassed { .. } => 11,
            Fact::GatesSkipped { .. } => 12,
            Fact::StepStarted { .. } => 13,
            Fact::Paused { .. } => 14,
            Fact::Resumed { .. } => 15,
            Fact::CutOver { .. } => 16,
            Fact::Landed { .. } => 17,
            Fact::BakeSmokeStarted { .. } => 18,
            Fact::BakeSmoked { .. } => 19,
            Fact::Baked { .. } => 20,
            Fact::RollbackStarted { .. } => 21,
            Fact::RolledBack { .. } => 22,
            Fact::Failed { .. } => 23,
            Fact::DrainStarted { .. } => 24,
            Fact::Emptied { .. } => 25,
            Fact::Refilled { .. } => 26,
            Fact::CeilingReached { .. } => 27,
            Fact::CallsEnding { .. } => 28,
            Fact::ContractStarted { .. } => 29,
            Fact::ContractFinished { .. } => 30,
            Fact::Drained { .. } => 31,
            Fact::Retiring { .. } => 32,
            Fact::Retired { .. } => 33,
            Fact::WorkerShowed { .. } => 34,
            Fact::Notice(notice) => match notice {
                Notice::WorkerRejected { .. } => 35,
                Notice::WorkerDraining { .. } => 36,
                Notice::WorkerSteered { .. } => 37,
                Notice::MembershipRefused { .. } => 38,
                Notice::JobRedispatched { .. } => 39,
                Notice::EventsLeftOut { .. } => 40,
            },
        }
    }

    #[test]
    fn names_are_in_the_order_of_the_facts() {
        let at = Timestamp(1);
        for fact in [
            Fact::Baked { at },
            Fact::Resumed { at },
            Fact::Failed {
                at,
                reason: String::new(),
            },
            Fact::Notice(Notice::EventsLeftOut { count: 1, at }),
        ] {
            assert_eq!(FACT_NAMES[number(&fact) - 1], fact.name());
        }
    }
}
