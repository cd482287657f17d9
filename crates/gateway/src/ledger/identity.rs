//! What the ledger is asked, what it answers, and what it knows of a connection.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use segue_core::names::{AgentName, CallId, Label, ReleaseId};
use segue_core::route::{CallFacts, Reason, Refusal};
use segue_core::table::Epoch;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Why a request is turned away before a worker is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No table of this agent is installed.
    #[error("this gateway has no routing table for the agent yet")]
    NoTable,
    /// The decision itself refuses.
    #[error(transparent)]
    Route(#[from] Refusal),
    /// [`CALLS_MAX`](super::CALLS_MAX) is reached.
    #[error("this gateway holds as many calls as it may")]
    TooManyCalls,
    /// [`PINS_MAX`](super::PINS_MAX) is reached.
    #[error("this gateway holds as many pins of the agent as it may")]
    TooManyPins,
    /// The process is stopping and takes no new calls.
    #[error("this gateway is stopping")]
    Stopping,
}

impl Refused {
    /// One word for counters.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoTable => "no_table",
            Self::Route(Refusal::NothingServes) => "nothing_serves",
            Self::Route(Refusal::UnknownOverride) => "unknown_override",
            Self::Route(Refusal::NoWorker) => "no_worker",
            Self::Route(Refusal::Barred) => "barred",
            Self::Route(Refusal::Full) => "full",
            Self::Route(_) => "refused",
            Self::TooManyCalls => "too_many_calls",
            Self::TooManyPins => "too_many_pins",
            Self::Stopping => "stopping",
        }
    }
}

/// Why a table was not installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("epoch {offered} is not above the installed epoch {installed}")]
pub struct Stale {
    /// What came.
    pub offered: Epoch,
    /// What stays.
    pub installed: Epoch,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A call: a WebSocket.
    Call,
    /// A plain request that names a call: it pins the call once it is answered.
    Webhook,
    /// A plain request that names none.
    Request,
}

/// What the ledger is asked for.
#[derive(Debug)]
pub struct Asking<'a> {
    /// Whose request.
    pub agent: &'a AgentName,
    /// What is known of it; its pin is found by the ledger.
    pub facts: CallFacts<'a>,
    /// What it is about.
    pub purpose: Purpose,
    /// The caller's trace context, if it is a good one.
    pub traceparent: Option<&'a str>,
}

/// What never changes about one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Whose.
    pub agent: AgentName,
    /// Of which call.
    pub call: CallId,
    /// Its release.
    pub release: ReleaseId,
    /// What people call the release.
    pub label: Label,
    /// Under which table it was decided.
    pub epoch: Epoch,
    /// Why it went there.
    pub reason: Reason,
    /// Whether an override brought it in.
    pub is_override: bool,
    /// Whether its call was connected before.
    pub is_resume: bool,
    /// What it is about.
    pub purpose: Purpose,
    /// Since when it is counted.
    pub since: Timestamp,
    /// Whether its release wound down when it was decided.
    #[serde(default)]
    pub retiring: bool,
    /// The caller's trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// What changes about one connection without the ledger's lock: its bytes, written by its relay
/// and read by whoever lists calls; and whether it is to end, written by the ledger and read by
/// its relay; and how it outlives its workers.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the caller.
    pub bytes_in: AtomicU64,
    /// To the caller.
    pub bytes_out: AtomicU64,
    ends: AtomicBool,
    pub(super) rescuing: AtomicBool,
    pub(super) rescued_times: AtomicU8,
    pub(super) rescue_gap_ms: AtomicU32,
}

impl Counters {
    /// Both, as they are.
    pub fn read(&self) -> (u64, u64) {
        (
            self.bytes_in.load(Ordering::Relaxed),
            self.bytes_out.load(Ordering::Relaxed),
        )
    }

    /// Whether the connection is to be ended by policy.
    pub fn is_to_end(&self) -> bool {
        self.ends.load(Ordering::Acquire)
    }

    pub(crate) fn mark_to_end(&self) {
        self.ends.store(true, Ordering::Release);
    }
}
