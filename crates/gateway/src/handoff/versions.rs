//! What both sides speak, compared before anything stops.

use std::ops::RangeInclusive;

use segue_core::link::LINK_VERSION;
use serde::{Deserialize, Serialize};

use super::{HANDOFF_OLDEST, HANDOFF_VERSION};

/// What one binary speaks. It goes ahead of every handoff, and `segue upgrade` asks a binary for it
/// before it is started. Its shape is read by every later version, so fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Newest handoff that it speaks.
    #[serde(rename = "version")]
    pub handoff: u32,
    /// Oldest one. Binaries that do not say speak one.
    #[serde(default)]
    pub oldest: Option<u32>,
    /// Of the link between gateways and the controller. Binaries that do not say are too old to
    /// differ.
    #[serde(default = "first_link")]
    pub link: u32,
    /// Of the program, for people.
    #[serde(default = "unknown")]
    pub binary: String,
}

fn first_link() -> u32 {
    LINK_VERSION
}

fn unknown() -> String {
    "of an early version".to_owned()
}

/// Why two binaries cannot hand over to each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the running segue {runs} speaks {what} {ours}, and the new one, {offered}, speaks {theirs}"
)]
pub struct Misfit {
    what: &'static str,
    runs: String,
    offered: String,
    ours: String,
    theirs: String,
}

impl Misfit {
    /// What to do about it.
    pub const HINT: &'static str = "nothing was changed, and calls go on. Upgrade by way of a release \
        that speaks both, or let the live calls end: `segue stop`, put the new binary in place, \
        `segue serve`";
}

impl Versions {
    /// What this binary speaks.
    pub fn ours() -> Self {
        Self {
            handoff: HANDOFF_VERSION,
            oldest: Some(HANDOFF_OLDEST),
            link: LINK_VERSION,
            binary: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn range(&self) -> RangeInclusive<u32> {
        self.oldest.unwrap_or(self.handoff)..=self.handoff
    }

    /// The handoff version that both speak, of this one, which runs, and of one that is to take
    /// over.
    ///
    /// # Errors
    ///
    /// When there is none, or the link to the controller differs.
    pub fn agree(&self, taker: &Self) -> Result<u32, Misfit> {
        let misfit = |what, ours, theirs| Misfit {
            what,
            runs: self.binary.clone(),
            offered: taker.binary.clone(),
            ours,
            theirs,
        };
        let newest = self.handoff.min(taker.handoff);
        if !self.range().contains(&newest) || !taker.range().contains(&newest) {
            let (ours, theirs) = (said(&self.range()), said(&taker.range()));
            return Err(misfit("handoff version", ours, theirs));
        }
        if self.link != taker.link {
            let (ours, theirs) = (self.link.to_string(), taker.link.to_string());
            return Err(misfit("controller link version", ours, theirs));
        }
        Ok(newest)
    }
}

fn said(range: &RangeInclusive<u32>) -> String {
    if range.start() == range.end() {
        range.end().to_string()
    } else {
        format!("{} to {}", range.start(), range.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(oldest: u32, handoff: u32, link: u32) -> Versions {
        Versions {
            handoff,
            oldest: Some(oldest),
            link,
            binary: format!("0.{handoff}"),
        }
    }

    fn check(runs: (u32, u32, u32), new: (u32, u32, u32), expected: Result<u32, &str>) {
        let runs = versions(runs.0, runs.1, runs.2);
        let agreed = runs.agree(&versions(new.0, new.1, new.2));
        match (agreed, expected) {
            (Ok(version), expected) => assert_eq!(Ok(version), expected),
            (Err(misfit), Err(words)) => {
                assert!(misfit.to_string().contains(words), "{misfit}");
            }
            (Err(misfit), Ok(_)) => panic!("{misfit}"),
        }
    }

    #[test]
    fn the_newest_that_both_speak_is_spoken() {
        check((2, 2, 1), (2, 2, 1), Ok(2));
        check((2, 3, 1), (2, 2, 1), Ok(2));
        check((2, 3, 1), (3, 5, 1), Ok(3));
    }

    #[test]
    fn who_shares_no_version_is_refused_with_both() {
        check(
            (2, 3, 1),
            (4, 5, 1),
            Err("speaks handoff version 2 to 3, and the new one, 0.5, speaks 4 to 5"),
        );
        check(
            (4, 4, 1),
            (2, 3, 1),
            Err("4, and the new one, 0.3, speaks 2 to 3"),
        );
        check((2, 2, 1), (2, 2, 2), Err("controller link version 1"));
    }

    #[test]
    fn early_binaries_say_only_one_version() {
        let early: Versions = serde_json::from_str(r#"{"version":1}"#).unwrap();
        let misfit = Versions::ours().agree(&early).unwrap_err().to_string();
        assert!(misfit.contains("of an early version, speaks 1"), "{misfit}");
    }
}
