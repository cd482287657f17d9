//! What became of each call, kept until the controller is told.
//!
//! A queue of its own, outside of the lock that admits. It is bounded and never waits: with the
//! controller away for long, records are left out and counted, and the call log has them all.
//!
//! There is one record where the totals count one end, so several connections of a call make one
//! together; and one for each connection or request of a call that never got through. Calls
//! brought in by an override are recorded too, and say so.

use std::sync::PoisonError;

use segue_core::link::{CallOutcome, CallRecord};
use segue_core::names::WorkerId;
use segue_core::route::Refusal;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::journal::Lost;

use super::{By, Closed, End, Identity, Ledger, Unreached};

/// Records that wait for the controller: some 2 MB. It is told twice a second, so only more than
/// 8,000 ends in a second, or a controller that is away, fill it.
pub const RECORDS_MAX: usize = 4_096;

/// Ended calls that the controller was not told of yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// In the order of their ends.
    pub records: Vec<CallRecord>,
    /// Records that found [`RECORDS_MAX`] waiting, in this life of the gateway.
    pub left_out: u64,
}

impl Ended {
    fn push(&mut self, record: CallRecord) {
        if self.records.len() < RECORDS_MAX {
            self.records.push(record);
        } else {
            self.left_out += 1;
        }
    }
}

impl Ledger {
    /// Takes the records that wait; the count of those left out stays and goes on.
    pub fn take_ended(&self) -> Ended {
        let mut ended = self.ended();
        Ended {
            records: std::mem::take(&mut ended.records),
            left_out: ended.left_out,
        }
    }

    /// Puts records back that could not be sent, ahead of those that came since.
    pub fn put_back_ended(&self, records: Vec<CallRecord>) {
        let mut ended = self.ended();
        let since = std::mem::replace(&mut ended.records, records);
        for record in since {
            ended.push(record);
        }
    }

    pub(super) fn tell(&self, record: CallRecord) {
        self.ended().push(record);
    }

    /// What another process knew and did not tell.
    pub(super) fn restore_ended(&self, before: Ended) {
        let mut ended = self.ended();
        ended.left_out += before.left_out;
        for record in before.records {
            ended.push(record);
        }
    }

    pub(super) fn untold(&self) -> Ended {
        self.ended().clone()
    }

    pub(super) fn forget_ended(&self) {
        *self.ended() = Ended::default();
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, Ended> {
        // Whole after every change, so a panic elsewhere is no reason to lose it.
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record of a connection that ended.
pub(super) fn of_connection(
    identity: &Identity,
    worker: &WorkerId,
    connected: Option<Timestamp>,
    bytes: (u64, u64),
    end: End,
    now: Timestamp,
) -> CallRecord {
    let (outcome, cause) = outcome(end, connected.is_some());
    CallRecord {
        setup_ms: connected.map(|at| at.since(identity.since).0),
        bytes_in: bytes.0,
        bytes_out: bytes.1,
        ..bare(identity, Some(worker.clone()), outcome, cause, now)
    }
}

/// The record of a call that was lost with the gateway that had it. Its bytes nobody knows.
pub(super) fn of_lost(lost: &Lost, now: Timestamp) -> CallRecord {
    let identity = &lost.identity;
    let (worker, cause) = (Some(lost.worker.clone()), "gateway died".to_owned());
    CallRecord {
        setup_ms: lost.connected.map(|at| at.since(identity.since).0),
        ..bare(identity, worker, CallOutcome::Lost, cause, now)
    }
}

/// The record of a call that no worker of its release could take.
pub(super) fn of_refused(identity: &Identity, refusal: Refusal, now: Timestamp) -> CallRecord {
    bare(
        identity,
        None,
        CallOutcome::Failed,
        refusal.to_string(),
        now,
    )
}

fn bare(
    identity: &Identity,
    worker: Option<WorkerId>,
    outcome: CallOutcome,
    cause: String,
    ended: Timestamp,
) -> CallRecord {
    let reason = if identity.is_override {
        segue_core::route::Reason::Override
    } else {
        identity.reason
    };
    CallRecord {
        call: identity.call.clone(),
        agent: identity.agent.clone(),
        release: identity.release,
        worker,
        started: identity.since,
        ended,
        setup_ms: None,
        outcome,
        cause,
        reason: reason.word().to_owned(),
        bytes_in: 0,
        bytes_out: 0,
        traceparent: identity.traceparent.clone(),
        rescued: None,
    }
}

fn outcome(end: End, stood: bool) -> (CallOutcome, String) {
    let closed = match end {
        End::Closed(closed) => closed,
        End::Unreached(Unreached::Status(status)) => {
            return (CallOutcome::Failed, status.to_string());
        }
        End::Unreached(why @ Unreached::Retired) => return (CallOutcome::Policy, why.why()),
        End::Unreached(why) => return (CallOutcome::Failed, why.why()),
        End::Abandoned | End::Answered if !stood => {
            return (CallOutcome::Failed, "abandoned".to_owned());
        }
        End::Abandoned | End::Answered => Closed {
            by: By::Gateway,
            code: None,
        },
    };
    let outcome = match closed.by {
        By::Policy => CallOutcome::Policy,
        // A fault of ours is no release's.
        By::Gateway => CallOutcome::Lost,
        _ if closed.is_drop() => CallOutcome::Dropped,
        _ => CallOutcome::Completed,
    };
    (outcome, closed.key())
}
