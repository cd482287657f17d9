//! The guards: each condition that keeps an invariant, by name.
//!
//! With the feature `mutants` one of them can be taken away, and the simulator must then find the
//! invariant broken: a check that cannot fail proves nothing. Without the feature they cannot be
//! taken away.

/// A condition that keeps an invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// A worker is stopped only once its release is retired (I1).
    StopOnlyRetired,
    /// A share of new calls goes only to a release that passed its gates (I3).
    GatesFirst,
    /// Landed means that every leased gateway acknowledged (I4).
    AckFirst,
    /// Rolled back means that, or that the second is over (I4, I5).
    RollbackAck,
    /// A rollback waits for nothing (I5).
    RollbackAlways,
    /// A release must have room for its share (I7).
    Room,
    /// A gateway without a fresh report makes a count unknown (I8).
    UnknownIsNotZero,
    /// A report under an earlier table says nothing about a drain (I8).
    CountsOfThisTable,
    /// Empty means empty for the whole straggler buffer (I8).
    StragglerBuffer,
    /// A worker is stopped only once every gateway confirmed the withdrawal (I8).
    ConfirmWithdrawal,
    /// Without a fresh report of every gateway a step does not end (I10).
    NoDataNoVerdict,
    /// An operator decides on what they saw, or gets a conflict.
    ConflictToken,
    /// Only a drained release is reclaimed for its place.
    ReclaimOnlyDrained,
    /// A late smoke verdict is not taken for the current one (I3).
    ThisAttempt,
    /// A controller that has just begun takes silence for no sign of absence (I4, I8).
    ColdStart,
    /// Too many drops or errors roll the release back.
    LimitsTrip,
    /// No worker is started before the hook of the deploy has run.
    HookFirst,
    /// Where a person must agree, nothing goes on before (I3).
    ApprovalFirst,
    /// A contract hook runs only when no process of an older release is left.
    ContractLast,
    /// In the bake window a release that turns bad is rolled back.
    BakeRollsBack,
    /// Calls are ended only past the ceiling of that policy, and the log says so first (I1, I9).
    PolicyAudited,
    /// A permit of an outbound call counts as a call (I8).
    PermitsCount,
}

impl Guard {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::StopOnlyRetired,
        Self::GatesFirst,
        Self::AckFirst,
        Self::RollbackAck,
        Self::RollbackAlways,
        Self::Room,
        Self::UnknownIsNotZero,
        Self::CountsOfThisTable,
        Self::StragglerBuffer,
        Self::ConfirmWithdrawal,
        Self::NoDataNoVerdict,
        Self::ConflictToken,
        Self::ReclaimOnlyDrained,
        Self::ThisAttempt,
        Self::ColdStart,
        Self::LimitsTrip,
        Self::HookFirst,
        Self::ApprovalFirst,
        Self::ContractLast,
        Self::BakeRollsBack,
        Self::PolicyAudited,
        Self::PermitsCount,
    ];
}
