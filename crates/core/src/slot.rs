//! The two places of a rollout.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place. Colours alternate and neither is special; a release that drains while a third one is
/// deployed leaves its slot and becomes a *tail* (it has no slot).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// One of the two.
    Blue,
    /// The other.
    Green,
}

impl Slot {
    /// The other place.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Blue => "blue",
            Self::Green => "green",
        })
    }
}
