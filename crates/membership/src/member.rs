//! What a gate answers: who is in and what they may do, and what a new manifest changed.

use std::fmt;

use segue_core::names::{AgentName, Label, ReleaseId, TokenId, WorkerId};
use segue_core::time::Timestamp;

use crate::key::KeyId;
use crate::manifest::{Admitted, Manifest, ReleaseState};

/// A manifest that is in force now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its version.
    pub ver: u64,
    /// Until when it is fresh.
    pub until: Timestamp,
    /// Whether versions in between were never seen, so that its history is not proven.
    pub gap: bool,
    /// What is different; nothing if it was in force before.
    pub changes: Vec<Change>,
}

/// What a manifest changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A release came in, or has another state.
    Is(Admitted),
    /// A release fell out: it drains.
    FellOut {
        /// Whose.
        agent: AgentName,
        /// Its label.
        version: Label,
        /// Its identity.
        digest: ReleaseId,
    },
}

/// A worker that is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Whose.
    pub agent: AgentName,
    /// Label of its release.
    pub version: Label,
    /// Identity of its release.
    pub digest: ReleaseId,
    /// Which, if its token says.
    pub worker: Option<WorkerId>,
    /// The id of its token.
    pub token: TokenId,
    /// The key that signed it.
    pub signer: KeyId,
    /// When its token ends. A worker that stays connected is not sent away then.
    pub expires: Timestamp,
    /// What it may do, at this moment: ask [`crate::Gate::standing`] before each call.
    pub state: Standing,
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Take new calls.
    Serving(ReleaseState),
    /// End those that it has.
    Draining(Why),
}

impl Standing {
    /// Whether it may be given a new call.
    pub fn takes_calls(self) -> bool {
        matches!(self, Self::Serving(_))
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving(ReleaseState::Canary) => f.write_str("canary"),
            Self::Serving(_) => f.write_str("active"),
            Self::Draining(why) => write!(f, "draining ({})", why.word()),
        }
    }
}

/// Why a member takes no new call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The manifest says that its release drains.
    Told,
    /// Its release is not in the manifest any more.
    FellOut,
    /// Its token was taken back while it was in.
    Revoked,
    /// The key that signed its token may sign none any more.
    KeyOut,
    /// Its token has ended, and it came again.
    Expired,
    /// The manifest has ended, and its grace too.
    Stale,
}

impl Why {
    /// One word for machines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::FellOut => "fell-out",
            Self::Revoked => "revoked",
            Self::KeyOut => "unknown-key",
            Self::Expired => "expired",
            Self::Stale => "stale",
        }
    }
}

/// How fresh the manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It holds for everybody.
    Fresh {
        /// Until then.
        until: Timestamp,
    },
    /// It has ended; it goes on for those who are in.
    Grace {
        /// Until then.
        until: Timestamp,
    },
    /// It is over, or there is none.
    Over,
}

/// What is different after a manifest.
pub(crate) fn changes(before: Option<&Manifest>, after: &Manifest) -> Vec<Change> {
    let old: &[Admitted] = before.map_or(&[], |before| &before.admit);
    let is_new = |release: &&Admitted| !old.contains(release);
    let come = (after.admit.iter().filter(is_new).cloned()).map(Change::Is);
    let is_out = |is: &&Admitted| after.admits(&is.agent, &is.version, is.digest).is_none();
    let gone = old.iter().filter(is_out).map(|is| Change::FellOut {
        agent: is.agent.clone(),
        version: is.version.clone(),
        digest: is.digest,
    });
    come.chain(gone).collect()
}
