//! The two ends of a call.

use crate::ledger::By;

/// One of the two ends of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Worker,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Caller, Self::Worker];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Caller => Self::Worker,
            Self::Worker => Self::Caller,
        }
    }

    /// Its place among [`Side::BOTH`].
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Caller => 0,
            Self::Worker => 1,
        }
    }

    pub(crate) fn by(self) -> By {
        match self {
            Self::Caller => By::Caller,
            Self::Worker => By::Worker,
        }
    }
}
