//! Shares of *new* calls. The share of calls in progress is another thing: the live share.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::ReleaseId;

/// A share in basis points: 10 000 is all of it. Half-open when compared with a hash point, so
/// that 0 means none and 10 000 means all.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Share(pub u16);

impl Share {
    /// Everything.
    pub const ALL: Self = Self(10_000);
    /// Nothing.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        if rest == 0 {
            f.pad(&format!("{whole} %"))
        } else {
            f.pad(&format!("{whole}.{rest:02} %"))
        }
    }
}

/// Shares of new calls per release. Empty (nothing serves) or summing to 10 000.
///
/// The order is the hash order: the incoming release always takes the low points, so a ramp only
/// ever adds callers to it and never moves one away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Split(Vec<(ReleaseId, Share)>);

impl Split {
    /// No release takes new calls.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// One release takes every new call.
    pub fn all(release: ReleaseId) -> Self {
        Self(vec![(release, Share::ALL)])
    }

    /// `incoming` takes `share`, `current` the rest.
    pub fn ramp(incoming: ReleaseId, share: Share, current: ReleaseId) -> Self {
        let share = share.min(Share::ALL);
        if share == Share::ALL {
            return Self::all(incoming);
        }
        Self(vec![
            (incoming, share),
            (current, Share(Share::ALL.0 - share.0)),
        ])
    }

    /// The release at a hash point in `0..10_000`, or `None` when nothing serves.
    pub fn at(&self, point: u16) -> Option<ReleaseId> {
        let mut upper = 0;
        self.0.iter().find_map(|(release, share)| {
            upper += share.0;
            (point < upper).then_some(*release)
        })
    }

    /// The share of one release.
    pub fn share(&self, release: ReleaseId) -> Share {
        let of = |(id, share): &(ReleaseId, Share)| (*id == release).then_some(*share);
        self.0.iter().find_map(of).unwrap_or(Share::NONE)
    }

    /// Shares by release.
    pub fn shares(&self) -> BTreeMap<ReleaseId, Share> {
        self.0.iter().copied().collect()
    }

    /// Whether the shares sum to 10 000, or nothing serves.
    pub fn is_whole(&self) -> bool {
        self.0.is_empty()
            || self
                .0
                .iter()
                .map(|(_, share)| u32::from(share.0))
                .sum::<u32>()
                == 10_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_only_adds_callers() {
        let (old, new) = (ReleaseId::of(b"old"), ReleaseId::of(b"new"));
        for point in 0..10_000 {
            let mut was_new = false;
            for share in [0, 1, 1_000, 5_000, 9_999, 10_000] {
                let is_new = Split::ramp(new, Share(share), old).at(point) == Some(new);
                assert!(
                    is_new || !was_new,
                    "point {point} left the new release at {share}"
                );
                assert_eq!(is_new, point < share);
                was_new = is_new;
            }
        }
        assert_eq!(Split::none().at(0), None);
        assert!(Split::ramp(new, Share(1), old).is_whole());
    }
}
