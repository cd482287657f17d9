//! A release: an immutable version of an agent, and the states of its life.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::compat::Requirement;
use crate::names::{AgentName, ComponentName, Label, ReleaseId};
use crate::split::Share;
use crate::table::Epoch;
use crate::time::Timestamp;

/// What a release is made of. Two releases with the same content are the same release, whatever
/// their labels say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// The same of each file that a command of its hooks names: a contract that is run weeks later
    /// is the one that was deployed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hooks: BTreeMap<String, String>,
    /// Prompt, model and configuration.
    #[serde(default, skip_serializing_if = "Parts::is_empty")]
    pub parts: Parts,
    /// Its other programs, one process each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<ComponentName, Component>,
    /// Components that must be ready before a worker is started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<ComponentName>,
    /// Its version, as far as others require one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it requires of its components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<Requirement>,
}

/// What a worker is given beside its program. A release that differs from another in one of these
/// only runs the same program.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts {
    /// The prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<PartFile>,
    /// The model's name, or the path of a file that is in [`Content::files`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The worker's own configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PartFile>,
}

impl Parts {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A file of which a copy is kept and given to the workers. Where it came from is no part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFile {
    /// Its name without a path: its ending tells a worker what it is.
    pub name: String,
    /// SHA-256 of its bytes in hexadecimal.
    pub digest: String,
}

/// One of the other programs of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Program and arguments; `{port}`, `{release}`, `{agent}` and `{NAME.url}` are filled in.
    pub command: Vec<String>,
    /// Environment, beside what it inherits.
    pub env: BTreeMap<String, String>,
    /// Working directory, absolute.
    pub directory: String,
    /// SHA-256 in hexadecimal of each file the command names.
    pub files: BTreeMap<String, String>,
    /// Path that answers 200 once it is ready; `None`: a TCP connect is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    /// Components that must be ready before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<ComponentName>,
    /// Its version, for what others require of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it requires of other components.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<Requirement>,
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
    /// The content as it was written, before `{release}` and `{agent}` were filled in: from it the
    /// next release is made, and two are compared. `None`: nothing was filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Box<Content>>,
}

impl Release {
    /// The content before anything was filled in.
    pub fn template(&self) -> &Content {
        self.template.as_deref().unwrap_or(&self.content)
    }

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
            template: None,
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
            ..Content::default()
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
