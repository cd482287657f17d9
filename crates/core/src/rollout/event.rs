//! Events: what happened or was asked. [`Agent::step`](super::Agent::step) turns one into facts.

use std::net::SocketAddr;

use serde_json::Value;

use crate::names::{GatewayId, ReleaseId, WorkerId};
use crate::release::Release;
use crate::rollout::agent::Gate;
use crate::rollout::notice::Notice;
use crate::rollout::standing::Badge;
use crate::spec::{Ingress, Plan, Policy};

/// An event, and on whose word.
#[derive(Debug, Clone, PartialEq)]
pub struct Input {
    /// `operator:NAME`, or `segue` for the machine itself.
    pub actor: String,
    /// Why an operator asks, in their words.
    pub reason: Option<String>,
    /// The revision the operator looked at when deciding. Another one now is a conflict.
    pub if_revision: Option<u64>,
    /// What happened or was asked.
    pub event: Event,
}

impl Input {
    /// Something the machine itself noticed.
    pub fn noticed(event: Event) -> Self {
        Self {
            actor: "segue".to_owned(),
            reason: None,
            if_revision: None,
            event,
        }
    }

    /// Something an operator asks for.
    pub fn asked(operator: &str, event: Event) -> Self {
        let actor = format!("operator:{operator}");
        Self {
            actor,
            reason: None,
            if_revision: None,
            event,
        }
    }

    /// The operator's words, or their name.
    pub(crate) fn reason_text(&self, verb: &str) -> String {
        self.reason.as_ref().map_or_else(
            || format!("{verb} by {}", self.actor),
            |reason| format!("{verb} by {}: {reason}", self.actor),
        )
    }
}

/// What happened or was asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The configuration was read.
    Configured {
        /// How requests are read.
        ingress: Box<Ingress>,
        /// How long things are kept.
        policy: Policy,
    },
    /// An operator asks for a release.
    Deploy {
        /// What.
        release: Box<Release>,
        /// How.
        plan: Box<Plan>,
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
        /// Why it may take no new call by its membership, if it may not.
        barred: Option<String>,
    },
    /// A worker is gone.
    WorkerGone {
        /// Which.
        worker: WorkerId,
        /// Why.
        why: String,
    },
    /// How a worker stands by its membership.
    WorkerStands {
        /// Which.
        worker: WorkerId,
        /// By what it showed, if it did.
        badge: Option<Badge>,
        /// Why it may take no new call, if it may not.
        barred: Option<String>,
    },
    /// A gateway reported.
    GatewayJoined {
        /// Which.
        gateway: GatewayId,
    },
    /// The smoke calls of an attempt ended.
    SmokeFinished {
        /// Of which rollout; another one's is late and ignored.
        rollout: u64,
        /// Of which attempt; another one's is late and ignored.
        attempt: u32,
        /// What came out.
        verdict: Verdict,
        /// What was measured.
        report: Value,
    },
    /// A webhook or the hook before the deploy answered.
    GateFinished {
        /// Of which rollout; another one's is late and ignored.
        rollout: u64,
        /// Of which attempt; another one's is late and ignored.
        attempt: u32,
        /// Which gate.
        gate: Gate,
        /// What came out.
        verdict: Verdict,
        /// What was said.
        report: Value,
    },
    /// A contract hook ended.
    ContractFinished {
        /// Whose.
        release: ReleaseId,
        /// Of which attempt; another one's is late and ignored.
        attempt: u32,
        /// Why it failed, if it did.
        failed: Option<String>,
        /// What it said.
        report: Value,
    },
    /// A person with the role approver agrees to the rollout.
    Approve {
        /// What they looked at; another release now is not what they agreed to. `None`: whatever
        /// it is.
        release: Option<ReleaseId>,
    },
    /// An operator wants a contract hook that failed, or has not run, to run now.
    Contract {
        /// Whose.
        release: ReleaseId,
    },
    /// The turn of these calls has come, under the policy `end`.
    EndCalls {
        /// Of which release.
        release: ReleaseId,
        /// Keyed hashes of their ids.
        calls: Vec<String>,
    },
    /// An operator asks to wait.
    Pause,
    /// An operator asks to go on.
    Resume,
    /// An operator asks for the next step, or for the cutover.
    Promote {
        /// Straight to the cutover.
        full: bool,
        /// Without gates and without a look at the room.
        skip_gates: bool,
    },
    /// An operator ends the rollout; the current release stays.
    Abort,
    /// An operator wants the release before back.
    Rollback {
        /// The release they saw taking calls. If it does not any more, somebody or Segue itself was
        /// faster, and nothing is left to do: asked twice, a rollback must not go back twice.
        from: Option<ReleaseId>,
    },
    /// An operator takes the current release out of service.
    Drain {
        /// Which: it must be the current one.
        release: ReleaseId,
    },
    /// An operator ends a standby early.
    Retire {
        /// Which: it must be drained.
        release: ReleaseId,
    },
    /// An operator vouches that a gateway is gone.
    ForgetGateway {
        /// Which.
        gateway: GatewayId,
    },
    /// Something befell a worker, or is about to: an operator's word is written down before it is
    /// passed on.
    Notice(Box<Notice>),
    /// Time passed or a report came in.
    Tick,
}

impl Event {
    /// Its name, for errors and coverage.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Configured { .. } => "configured",
            Self::Deploy { .. } => "deploy",
            Self::WorkerReady { .. } => "worker_ready",
            Self::WorkerGone { .. } => "worker_gone",
            Self::WorkerStands { .. } => "worker_stands",
            Self::GatewayJoined { .. } => "gateway_joined",
            Self::SmokeFinished { .. } => "smoke_finished",
            Self::GateFinished { .. } => "gate_finished",
            Self::ContractFinished { .. } => "contract_finished",
            Self::Approve { .. } => "approve",
            Self::Contract { .. } => "contract",
            Self::EndCalls { .. } => "end_calls",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote { .. } => "promote",
            Self::Abort => "abort",
            Self::Rollback { .. } => "rollback",
            Self::Drain { .. } => "drain",
            Self::Retire { .. } => "retire",
            Self::ForgetGateway { .. } => "forget_gateway",
            Self::Notice(_) => "notice",
            Self::Tick => "tick",
        }
    }
}

/// What a gate's trial came to (Argo Rollouts' words).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Successful,
    /// It does not.
    Failed(String),
    /// It cannot be told: a person decides.
    Inconclusive(String),
}
