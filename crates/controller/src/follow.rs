//! Following the journal: everything that is decided, in order, each entry once, without ever
//! being in the way of who decides.
//!
//! A follower reads what is written. It needs no queue and misses nothing: when it is slow, or was
//! not there, it reads on from where it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use segue_core::audit::Entry;
use segue_core::names::{AgentName, ReleaseId};
use segue_core::rollout::{Agent, Fact, Phase};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::driver::{blocking, describe};
use crate::store::Journal;

/// Entries read at once.
const PAGE: usize = 200;
/// Pause after the journal could not be read.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Reads the journal on and on.
pub(crate) struct Follower {
    journal: Arc<dyn Journal>,
    /// The number of the last entry, as the driver announces it.
    head: watch::Receiver<u64>,
    after: u64,
}

impl Follower {
    /// One that begins with the first entry.
    pub(crate) fn new(journal: Arc<dyn Journal>, head: watch::Receiver<u64>) -> Self {
        Self {
            journal,
            head,
            after: 0,
        }
    }

    /// The number of the last entry there is now.
    pub(crate) fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Waits for entries that were not read yet. `None`: nobody decides any more.
    pub(crate) async fn next(&mut self) -> Option<Vec<Entry>> {
        loop {
            self.head.borrow_and_update();
            let (journal, after) = (Arc::clone(&self.journal), self.after);
            match blocking(move || journal.read(after, PAGE, None)).await {
                Ok(page) => match page.last() {
                    Some(last) => {
                        self.after = last.seq;
                        return Some(page);
                    }
                    None => self.head.changed().await.ok()?,
                },
                Err(error) => {
                    let why = describe(&error);
                    tracing::warn!(why, "the journal could not be read on");
                    sleep(READ_AGAIN).await;
                }
            }
        }
    }
}

/// What the journal has come to so far: the agents, and what the last entry was about.
#[derive(Debug, Default)]
pub(crate) struct Past {
    agents: BTreeMap<AgentName, Agent>,
    /// From where to where each agent was last rolled back.
    rollbacks: BTreeMap<AgentName, (ReleaseId, ReleaseId)>,
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct About {
    /// Its name.
    pub(crate) event: String,
    /// Of which rollout; zero: of none.
    pub(crate) rollout: u64,
    /// The release it is about: of a rollback, the one that is left.
    pub(crate) release: Option<ReleaseId>,
    /// Its label.
    pub(crate) label: Option<String>,
    /// The other release: the one that is replaced, or gone back to.
    pub(crate) other: Option<(ReleaseId, String)>,
    /// Why.
    pub(crate) reason: Option<String>,
}

impl Past {
    /// Takes an entry in. `None`: it is of a kind that this version does not know.
    pub(crate) fn take(&mut self, entry: &Entry) -> Option<(Fact, About)> {
        let fact: Fact = serde_json::from_value(entry.fact.clone()).ok()?;
        let new = || Agent::new(entry.agent.clone());
        let agent = self.agents.entry(entry.agent.clone()).or_insert_with(new);
        agent.apply(&fact);
        if let Fact::RollbackStarted { from, to, .. } = &fact {
            self.rollbacks.insert(entry.agent.clone(), (*from, *to));
        }
        let about = self.about(entry, &fact);
        Some((fact, about))
    }

    /// Whether the last rollout of an agent is in its bake window.
    pub(crate) fn is_baking(&self, agent: &AgentName) -> bool {
        let rollout = self.agents.get(agent).and_then(|is| is.rollout.as_ref());
        rollout.is_some_and(|rollout| rollout.bake.is_some())
    }

    fn about(&self, entry: &Entry, fact: &Fact) -> About {
        let agent = &self.agents[&entry.agent];
        let rollout = agent.rollout.as_ref();
        let named = entry.fact["release"].as_str();
        let named = named.and_then(|id| ReleaseId::try_from(id.to_owned()).ok());
        let back = self.rollbacks.get(&entry.agent).copied();
        let (release, other) = match (fact, back) {
            (Fact::RollbackStarted { .. } | Fact::RolledBack { .. }, Some((from, to))) => {
                (Some(from), Some(to))
            }
            (
                Fact::Configured { .. }
                | Fact::GatewayJoined { .. }
                | Fact::GatewayForgotten { .. },
                _,
            ) => (None, None),
            _ if named.is_some() => (named, None),
            // What befell a worker belongs to no rollout.
            (Fact::Notice(_), _) => (None, None),
            _ => (
                rollout.map(|is| is.incoming),
                rollout.and_then(|is| is.outgoing),
            ),
        };
        let other = other.filter(|other| Some(*other) != release);
        About {
            event: fact.name(),
            rollout: rollout.map_or(0, |rollout| rollout.id),
            release,
            label: release.map(|release| agent.label(release)),
            other: other.map(|other| (other, agent.label(other))),
            reason: reason(entry, agent),
        }
    }
}

fn reason(entry: &Entry, agent: &Agent) -> Option<String> {
    let fact = &entry.fact;
    let places = [
        // The words of a notice whose reason is one word for programs.
        &fact["message"],
        &fact["reason"],
        &fact["why"],
        &fact["pause"]["reason"],
        &fact["failed"],
    ];
    let told = places.iter().find_map(|place| place.as_str());
    let phase = agent.rollout.as_ref().map(|rollout| &rollout.phase);
    let back = match phase {
        Some(Phase::RolledBack { reason, .. }) if fact["fact"] == "rolled_back" => {
            Some(reason.as_str())
        }
        _ => None,
    };
    told.or(back).map(str::to_owned)
}
