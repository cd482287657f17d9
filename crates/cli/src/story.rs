//! Stories: the audit log of one agent, cut into its rollouts.
//!
//! A story begins where a rollout was decided and lasts until the next one is: what becomes of the
//! release that was replaced belongs to the rollout that replaced it.

mod because;
mod notice;
mod sentence;

use std::collections::BTreeMap;

use segue_core::audit::Entry;
use segue_core::names::ReleaseId;
use segue_core::rollout::Fact;
use segue_core::time::Timestamp;
use serde::Serialize;

use crate::client::Client;
use crate::exit::Trouble;

/// Entries asked for at once; the API gives no more.
const PAGE: usize = 1_000;

/// One rollout.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub(crate) rollout: u64,
    /// What it brings in, or goes back to.
    pub(crate) release: String,
    /// What was current when it began.
    pub(crate) from: Option<String>,
    pub(crate) began: Timestamp,
    /// Who decided that it begins.
    pub(crate) by: String,
    pub(crate) end: End,
    /// When that was.
    pub(crate) ended: Option<Timestamp>,
    /// Why it was rolled back or failed.
    pub(crate) reason: Option<String>,
    pub(crate) entries: Vec<Entry>,
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// It has not.
    UnderWay,
    /// The release takes all new calls.
    Landed,
    /// The release before takes them again.
    RolledBack,
    /// It took no call by the split.
    Failed,
}

impl End {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::UnderWay => "under way",
            Self::Landed => "landed",
            Self::RolledBack => "rolled back",
            Self::Failed => "failed",
        }
    }
}

/// Labels of releases, as far as the log says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels(BTreeMap<ReleaseId, String>);

impl Labels {
    /// Every label that these entries say.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let mut labels = BTreeMap::new();
        for entry in entries {
            if let Some(Fact::Deployed { release, .. }) = fact(entry) {
                labels.insert(release.id, release.label.to_string());
            }
        }
        Self(labels)
    }

    /// The label of a release, or the beginning of its digest.
    pub(crate) fn label(&self, entry: &Entry, id: ReleaseId) -> String {
        let known = entry.inputs["releases"][id.short()]["label"].as_str();
        known
            .map(str::to_owned)
            .or_else(|| self.0.get(&id).cloned())
            .unwrap_or_else(|| id.short())
    }
}

/// One decision, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Told {
    pub(crate) seq: u64,
    pub(crate) time: String,
    /// Since the rollout began.
    pub(crate) after_ms: u64,
    pub(crate) actor: String,
    /// Its name in the log.
    pub(crate) fact: String,
    /// What was decided.
    pub(crate) what: String,
    /// What mattered of that which was known.
    pub(crate) because: Vec<String>,
    /// All of it.
    pub(crate) inputs: serde_json::Value,
}

impl Story {
    /// Its decisions, in order.
    pub(crate) fn told(&self, labels: &Labels) -> Vec<Told> {
        let mut standing = because::Standing::default();
        let mut told = Vec::new();
        for entry in &self.entries {
            let fact = fact(entry);
            let name = entry.fact["fact"].as_str().unwrap_or("unknown").to_owned();
            let (what, because) = match &fact {
                Some(fact) => (
                    sentence::of(entry, fact, labels),
                    because::of(entry, fact, &standing),
                ),
                None => (sentence_of(entry, labels), Vec::new()),
            };
            told.push(Told {
                seq: entry.seq,
                time: crate::output::utc(entry.at),
                after_ms: entry.at.since(self.began).0,
                actor: entry.actor.clone(),
                fact: name,
                what,
                because,
                inputs: entry.inputs.clone(),
            });
            if let Some(fact) = &fact {
                standing.take(entry, fact);
            }
        }
        told
    }
}

/// One decision as one plain sentence.
pub(crate) fn sentence_of(entry: &Entry, labels: &Labels) -> String {
    match fact(entry) {
        Some(fact) => sentence::of(entry, &fact, labels),
        // A newer Segue wrote it.
        None => entry.fact["fact"].as_str().unwrap_or("?").replace('_', " "),
    }
}

/// Cuts the entries of one agent into its rollouts; what came before the first is left out.
pub(crate) fn stories(entries: &[Entry]) -> (Vec<Story>, Labels) {
    let labels = Labels::of(entries);
    let mut stories: Vec<Story> = Vec::new();
    for entry in entries {
        let Some(fact) = fact(entry) else {
            if let Some(story) = stories.last_mut() {
                story.entries.push(entry.clone());
            }
            continue;
        };
        if let Some(story) = beginning(entry, &fact, &labels, stories.last()) {
            stories.push(story);
        }
        if let Some(story) = stories.last_mut() {
            story.take(entry, &fact);
        }
    }
    (stories, labels)
}

/// Reads the log of an agent from its end until `is_enough`, or to its beginning.
pub(crate) fn read_back(
    client: &Client,
    agent: &str,
    is_enough: impl Fn(&[Entry]) -> bool,
) -> Result<Vec<Entry>, Trouble> {
    let mut before = client.status()?.journal.entries;
    let mut found: Vec<Entry> = Vec::new();
    while before > 0 && !is_enough(&found) {
        let after = before.saturating_sub(PAGE as u64);
        let mut page = client.audit(after, PAGE, Some(agent))?.entries;
        // What is written meanwhile is on a page that was read already, or newer than all.
        page.retain(|entry| entry.seq <= before);
        page.append(&mut found);
        found = page;
        before = after;
    }
    Ok(found)
}

/// Numbers of the rollouts that these entries begin.
pub(crate) fn begun(entries: &[Entry]) -> impl Iterator<Item = u64> + '_ {
    entries
        .iter()
        .filter_map(|entry| entry.fact["rollout"].as_u64())
}

fn fact(entry: &Entry) -> Option<Fact> {
    serde_json::from_value(entry.fact.clone()).ok()
}

/// The story that begins here, if one does.
fn beginning(entry: &Entry, fact: &Fact, labels: &Labels, last: Option<&Story>) -> Option<Story> {
    let (rollout, release, from) = match fact {
        Fact::Deployed {
            rollout, release, ..
        } => (*rollout, release.label.to_string(), current(entry)),
        Fact::RollbackStarted {
            rollout, from, to, ..
        } if last.is_none_or(|story| story.rollout != *rollout) => (
            *rollout,
            labels.label(entry, *to),
            Some(labels.label(entry, *from)),
        ),
        _ => return None,
    };
    Some(Story {
        rollout,
        release,
        from,
        began: entry.at,
        by: entry.actor.clone(),
        end: End::UnderWay,
        ended: None,
        reason: None,
        entries: Vec::new(),
    })
}

/// The label of the release that was current.
fn current(entry: &Entry) -> Option<String> {
    let releases = entry.inputs["releases"].as_object()?;
    let is = releases
        .values()
        .find(|release| release["state"] == "current")?;
    is["label"].as_str().map(str::to_owned)
}

impl Story {
    fn take(&mut self, entry: &Entry, fact: &Fact) {
        let (end, at, reason) = match fact {
            Fact::Landed { at, .. } => (Some(End::Landed), *at, None),
            Fact::RolledBack { at, .. } => (Some(End::RolledBack), *at, None),
            Fact::Failed { at, reason } => (Some(End::Failed), *at, Some(reason)),
            Fact::RollbackStarted { at, reason, .. } => (None, *at, Some(reason)),
            _ => (None, entry.at, None),
        };
        if let Some(end) = end {
            self.end = end;
            self.ended = Some(at);
        }
        if let Some(reason) = reason {
            self.reason = Some(reason.clone());
        }
        self.entries.push(entry.clone());
    }
}
