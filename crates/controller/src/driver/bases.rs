//! What a release may be made from.

use segue_core::names::AgentName;
use segue_core::release::{Release, ReleaseState};

use super::Driver;

/// Releases that another may be made from, at one moment.
#[derive(Debug)]
pub(crate) struct Bases {
    /// At which revision of the agent.
    pub(crate) revision: u64,
    /// The one that takes new calls.
    pub(crate) current: Option<Release>,
    /// The one that a rollback goes to.
    pub(crate) before: Option<Release>,
    /// All, those that live first and then the ones retired last.
    pub(crate) all: Vec<Release>,
}

impl Bases {
    /// The release that is called so.
    pub(crate) fn find(&self, name: &str) -> Option<&Release> {
        let is_called = |is: &&Release| {
            is.label.as_str() == name || is.id.short() == name || String::from(is.id) == name
        };
        self.all.iter().find(is_called)
    }
}

impl Driver {
    pub(super) fn bases(&self, name: &AgentName) -> Option<Bases> {
        let agent = &self.agents.get(name)?.agent;
        let release = |id| agent.releases.get(&id).map(|is| is.release.clone());
        let mut records: Vec<_> = agent.releases.values().collect();
        records.sort_by_key(|is| match is.state {
            ReleaseState::Retired { since } => (true, std::cmp::Reverse(since)),
            _ => (
                false,
                std::cmp::Reverse(segue_core::time::Timestamp::default()),
            ),
        });
        Some(Bases {
            revision: agent.revision,
            current: agent.current().and_then(release),
            before: agent.rollback_target().and_then(release),
            all: records.into_iter().map(|is| is.release.clone()).collect(),
        })
    }
}
