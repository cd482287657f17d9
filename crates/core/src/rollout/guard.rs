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
}

impl Guard {
    /// All of them.
    pub const ALL: [Self; 16] = [
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
    ];
}
