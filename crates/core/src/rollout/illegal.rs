//! Why an event does not fit. Nothing has happened then.

use crate::names::{GatewayId, Label};
use crate::rollout::hold::Hold;
use crate::rollout::retire::list;
use crate::time::Millis;

/// Why an event does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Illegal {
    /// Somebody else decided in between; look again.
    #[error("the rollout has moved on: you decided on revision {asked}, it is at {is}")]
    Conflict {
        /// What the operator looked at.
        asked: u64,
        /// What it is.
        is: u64,
    },
    /// Another rollout is under way.
    #[error("{incoming} is being rolled out ({phase})")]
    Busy {
        /// Its release.
        incoming: String,
        /// How far it is.
        phase: &'static str,
    },
    /// The same content serves already.
    #[error("{label} is the same release as the current one: its content has not changed")]
    AlreadyCurrent {
        /// The label it serves under.
        label: String,
    },
    /// Its workers are about to stop.
    #[error("{label} is being retired")]
    BeingRetired {
        /// Which.
        label: String,
    },
    /// Too many releases still drain.
    #[error("too many releases still drain: {}", list(.draining))]
    TooManyTails {
        /// Labels and live calls.
        draining: Vec<(Label, u64)>,
    },
    /// The verb does not fit the phase.
    #[error("nothing to {verb}: the rollout is {phase}")]
    NotNow {
        /// What was asked.
        verb: &'static str,
        /// How far it is.
        phase: &'static str,
    },
    /// Paused already.
    #[error("the rollout is paused already")]
    AlreadyPaused,
    /// Not paused.
    #[error("the rollout is not paused")]
    NotPaused,
    /// Its gates have not passed.
    #[error("{label} has not passed its gates")]
    Unproven {
        /// Which.
        label: String,
    },
    /// A person must agree first.
    #[error("{label} waits for an approval")]
    Unapproved {
        /// Which.
        label: String,
    },
    /// What was looked at is not what is being rolled out.
    #[error("{is} is being rolled out, and not {asked}")]
    OtherRelease {
        /// What was meant.
        asked: String,
        /// What it is.
        is: String,
    },
    /// Nobody has to agree.
    #[error("the plan of {label} asks for no approval")]
    NoApproval {
        /// Which.
        label: String,
    },
    /// A contract hook runs that takes away what it needs.
    #[error("{label} cannot be started while the contract hook of {newer} runs")]
    ContractRuns {
        /// Which.
        label: String,
        /// Whose hook.
        newer: String,
    },
    /// It has none.
    #[error("{label} has no contract hook to run")]
    NoContract {
        /// Which.
        label: String,
    },
    /// It ran.
    #[error("the contract hook of {label} has run already")]
    ContractDone {
        /// Which.
        label: String,
    },
    /// A contract would take away what these still use.
    #[error("the contract hook of {label} waits: {} may still have a worker", .older.join(", "))]
    OlderReleaseLives {
        /// Whose hook.
        label: String,
        /// Labels of the older releases.
        older: Vec<String>,
    },
    /// A contract might take away what these still use; nobody knows what they are.
    #[error(
        "the contract hook of {label} waits: {strays} processes of this agent belong to no known \
         release"
    )]
    StraysLive {
        /// Whose hook.
        label: String,
        /// How many.
        strays: u32,
    },
    /// The bake window may still go back to it.
    #[error("{label} is kept for {left}: the release after it is still baking")]
    Baking {
        /// Which.
        label: String,
        /// How much longer.
        left: Millis,
    },
    /// No policy ends its calls.
    #[error("no policy ends the calls of {label}")]
    NotEnding {
        /// Which.
        label: String,
    },
    /// None of its workers is up.
    #[error("{label} has no worker that is up")]
    NoWorkers {
        /// Which.
        label: String,
    },
    /// It could not hold the calls.
    #[error("not enough room: {hold}")]
    NoRoom {
        /// What is missing.
        hold: Hold,
    },
    /// No release before it runs any more.
    #[error("no earlier release is running to roll back to")]
    NothingBefore,
    /// Only the current release can be drained by hand.
    #[error("{label} is not the current release")]
    NotCurrent {
        /// Which.
        label: String,
    },
    /// Only a drained release can be retired by hand.
    #[error("{label} is not drained")]
    NotDrained {
        /// Which.
        label: String,
    },
    /// It holds calls, or that is not known.
    #[error("{label} still holds {count}")]
    StillHolds {
        /// Which.
        label: String,
        /// How many.
        count: String,
    },
    /// It is empty, but not for long enough.
    #[error("{label} is empty, but not yet for the straggler buffer ({left} left)")]
    Settling {
        /// Which.
        label: String,
        /// How much longer.
        left: Millis,
    },
    /// No such gateway.
    #[error("no gateway {gateway} is known")]
    UnknownGateway {
        /// Which.
        gateway: GatewayId,
    },
    /// It reports.
    #[error("gateway {gateway} is alive: it holds a lease")]
    GatewayAlive {
        /// Which.
        gateway: GatewayId,
    },
    /// Whether it reports is not known yet.
    #[error("whether gateway {gateway} is alive is not known yet: this controller has just begun")]
    NotListenedYet {
        /// Which.
        gateway: GatewayId,
        /// How much longer.
        left: Millis,
    },
}

impl Illegal {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "look again with `segue status`, then decide anew",
            Self::OtherRelease { .. } => {
                "look at that one with `segue status` and `segue diff`, then decide on it"
            }
            Self::Busy { .. } => "wait for it, or end it with `segue abort`",
            Self::AlreadyCurrent { .. } => {
                "change the command, its files or its environment to make another release"
            }
            Self::BeingRetired { .. } => "deploy it again once it is retired, in a moment",
            Self::TooManyTails { .. } => {
                "wait until one has drained (`segue status`; without calls it takes the straggler \
                 buffer), or raise `max_tails` and `segue reload`"
            }
            Self::NotNow { .. } => "see where it is with `segue status`",
            Self::AlreadyPaused => "go on with `segue resume`",
            Self::NotPaused | Self::NoApproval { .. } => "nothing to do; see `segue status`",
            Self::Unproven { .. } => {
                "wait for the smoke calls, or let it through with `segue promote --skip-gates --reason TEXT`"
            }
            Self::Unapproved { .. } => {
                "have somebody with the role approver say `segue approve`, or let it through with `segue promote --skip-gates --reason TEXT`"
            }
            Self::ContractRuns { .. } => "wait until it has ended; see `segue status`",
            Self::NoContract { .. } => {
                "a contract is `hooks.after_retire` of a release that was cut over to; see `segue status`"
            }
            Self::ContractDone { .. } => "nothing to do; deploy another release to migrate again",
            Self::OlderReleaseLives { .. } => {
                "it runs by itself once they are retired; `segue retire` ends the standby of a drained one"
            }
            Self::StraysLive { .. } => {
                "see them with `segue status`, and end them by hand if nobody needs them"
            }
            Self::Baking { .. } => {
                "wait for the end of the bake window, or deploy the next release"
            }
            Self::NotEnding { .. } => {
                "set `stragglers = { policy = \"end\", ceiling = \"2h\" }`, and wait for the ceiling"
            }
            Self::NoWorkers { .. } => "see why with `segue workers` and `segue logs`",
            Self::NoRoom { .. } => {
                "deploy with more `workers` or a larger `capacity`, or wait for calls to end"
            }
            Self::NothingBefore => {
                "a rollout that took no calls yet ends with `segue abort`; a release that no longer \
                 runs comes back with `segue deploy`"
            }
            Self::NotCurrent { .. } => {
                "only the current release takes new calls; see `segue status`"
            }
            Self::NotDrained { .. } | Self::StillHolds { .. } | Self::Settling { .. } => {
                "it is retired by itself once it is empty; nobody has to wait for it"
            }
            Self::UnknownGateway { .. } => "`segue status --output json` lists the gateways",
            Self::NotListenedYet { .. } => "ask again in a few seconds",
            Self::GatewayAlive { .. } => "stop the gateway first; its calls must end before",
        }
    }

    /// Whether the same request, sent again later, can succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::BeingRetired { .. }
            | Self::TooManyTails { .. }
            | Self::Unproven { .. }
            | Self::Unapproved { .. }
            | Self::ContractRuns { .. }
            | Self::OlderReleaseLives { .. }
            | Self::StraysLive { .. }
            | Self::Baking { .. }
            | Self::NoWorkers { .. }
            | Self::NoRoom { .. }
            | Self::StillHolds { .. }
            | Self::Settling { .. }
            | Self::GatewayAlive { .. }
            | Self::NotListenedYet { .. } => true,
            Self::Conflict { .. }
            | Self::AlreadyCurrent { .. }
            | Self::NotNow { .. }
            | Self::AlreadyPaused
            | Self::NotPaused
            | Self::OtherRelease { .. }
            | Self::NoApproval { .. }
            | Self::NoContract { .. }
            | Self::ContractDone { .. }
            | Self::NotEnding { .. }
            | Self::NothingBefore
            | Self::NotCurrent { .. }
            | Self::NotDrained { .. }
            | Self::UnknownGateway { .. } => false,
        }
    }
}
