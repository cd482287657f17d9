//! A release: an immutable version of an agent, and the states of its life.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::{AgentName, Label, ReleaseId};
use crate::split::Share;
use crate::table::Epoch;
use crate::time::Timestamp;

/// What a release is made of. Two releases with the same content are the same release, whatever
/// their labels say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Program and arguments of a worker; `{port}`, `{release}`, `{worker}` and `{agent}` are
    /// filled in when it starts.
    pub command: Vec<String>,
    /// Environment of a worker, beside what it inherits.
    pub env: BTreeMap<String, String>,
    /// Working directory of a worker, absolute.
    pub directory: String,
    /// SHA-256 in hexadecimal of each file the command names, so that the same path with other
    /// bytes is another release.
    pub files: BTreeMap<String, String>,
}

/// An immutable version of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Identity.
    pub id: ReleaseId,
    /// What people call it.
    pub label: Label,
    /// What it is made of.
    pub content: Content,
    /// How many workers it runs.
    pub workers: u32,
    /// How many calls one worker may hold.
    pub capacity: u32,
}

impl Release {
    /// Makes a release; its identity follows from its agent and content.
    pub fn new(
        agent: &AgentName,
        label: Label,
        content: Content,
        workers: u32,
        capacity: u32,
    ) -> Self {
        let canonical = serde_json::to_vec(&("segue/release/1", agent, &content))
            .expect("maps of strings always serialise");
        Self {
            id: ReleaseId::of(&canonical),
            label,
            content,
            workers,
            capacity,
        }
    }
}

/// Where a release is in its life (Temporal's words).
///
/// Un-drain is legal: `Draining` and `Drained` go back to `Current`, which is what rollback does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ReleaseState {
    /// Runs or starts; callable only by a version override.
    Inactive,
    /// Takes a share of new calls.
    Ramping {
        /// Its share.
        share: Share,
    },
    /// Takes the rest of the new calls.
    Current,
    /// Takes no new calls; its own end by themselves.
    Draining {
        /// Since when.
        since: Timestamp,
        /// The first table that gives it no new calls: reports under earlier ones say nothing.
        from: Epoch,
        /// Since when every gateway confirms zero live and pinned calls, if they do.
        empty_since: Option<Timestamp>,
    },
    /// Confirmed empty for the straggler buffer; still runs, ready for a rollback.
    Drained {
        /// Since when.
        since: Timestamp,
        /// When it may be retired.
        keep_until: Timestamp,
    },
    /// Withdrawn from the routing table; its workers stop once every gateway confirms that.
    Retiring {
        /// Since when.
        since: Timestamp,
        /// The first table without it.
        from: Epoch,
    },
    /// Gone.
    Retired {
        /// Since when.
        since: Timestamp,
    },
}

impl ReleaseState {
    /// Whether the split may give it new calls.
    pub fn takes_new_calls(&self) -> bool {
        matches!(self, Self::Ramping { .. } | Self::Current)
    }

    /// One word for people, logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Ramping { .. } => "ramping",
            Self::Current => "current",
            Self::Draining { .. } => "draining",
            Self::Drained { .. } => "drained",
            Self::Retiring { .. } => "retiring",
            Self::Retired { .. } => "retired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(label: &str, digest: &str) -> Release {
        let content = Content {
            command: vec!["bot".to_owned(), "{port}".to_owned()],
            env: BTreeMap::new(),
            directory: "/srv".to_owned(),
            files: BTreeMap::from([("bot".to_owned(), digest.to_owned())]),
        };
        Release::new(
            &"desk".parse().unwrap(),
            label.parse().unwrap(),
            content,
            1,
            10,
        )
    }

    #[test]
    fn identity_is_the_content_and_never_the_label() {
        assert_eq!(release("v1", "aa").id, release("other", "aa").id);
        assert_ne!(
            release("v1", "aa").id,
            release("v1", "bb").id,
            "a re-pushed tag is new"
        );
    }
}
