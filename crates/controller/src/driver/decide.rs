//! Deciding: step, write down, apply, publish. In that order, always.

use std::collections::BTreeMap;
use std::sync::Arc;

use segue_core::audit::{self, Entry};
use segue_core::names::AgentName;
use segue_core::rollout::{Agent, Fact, Input};
use segue_core::time::Timestamp;

use super::{Driver, Holding, Refused};
use crate::clock;
use crate::store::{Head, Journal, StoreError};

/// Decides this often on what was replayed before giving up: another controller that keeps
/// writing must be stopped by a person.
const CONFLICTS_MAX: usize = 3;

/// What to do when gateways know of decisions that the journal does not.
const WAYS_OUT: &str = "put the right journal.db back; or stop everything with `segue stop`, \
    remove gateway/tables.json from the state directory and start again";

impl Driver {
    /// Takes one event in. Answers what was decided; nothing, when nothing followed.
    pub(super) async fn decide(
        &mut self,
        name: &AgentName,
        input: Input,
    ) -> Result<Vec<Fact>, Refused> {
        for _ in 0..CONFLICTS_MAX {
            let now = clock::now();
            let processes = self.parts.platform.processes(name);
            let strays = self.parts.platform.strays(name);
            if let Some(holding) = self.agents.get_mut(name) {
                holding.seen.listen(now);
                holding.seen.set_processes(processes);
                holding.seen.set_strays(strays);
            }
            self.note_permits(name, now);
            let holding = self.agents.get(name).ok_or(Refused::UnknownAgent)?;
            let facts = holding.agent.step(now, &holding.seen, &input)?;
            if facts.is_empty() {
                return Ok(facts);
            }
            if let Some(why) = self.is_behind(holding) {
                return Err(self.journal_fails(&StoreError::Unavailable {
                    what: why,
                    source: None,
                }));
            }
            match self.append(holding, now, &input.actor, &facts).await {
                Ok(head) => {
                    self.journal_works(head);
                    self.apply(name, &facts);
                    return Ok(facts);
                }
                Err(StoreError::Conflict { .. }) => {
                    tracing::warn!(agent = %name, "somebody else wrote to the journal; replaying it");
                    self.reload().await?;
                }
                Err(error) => return Err(self.journal_fails(&error)),
            }
        }
        Err(Refused::Journal(
            "another controller keeps writing to the journal".to_owned(),
        ))
    }

    /// Whether a gateway acts by a table that the journal knows nothing of. Its acknowledgments
    /// would mean nothing: it would take no table of ours, and seem to have each of them.
    fn is_behind(&self, holding: &Holding) -> Option<String> {
        let (name, ours) = (&holding.agent.name, holding.agent.epoch);
        self.reports.values().find_map(|report| {
            let theirs = report.agents.get(name)?.epoch;
            let gateway = &report.gateway;
            (theirs > ours).then(|| {
                format!(
                    "{gateway} acts by table {theirs}, and the journal ends at {ours}: an older \
                     journal was put in its place; {WAYS_OUT}"
                )
            })
        })
    }

    /// Looks whether any gateway does. People must hear of it before they need a decision.
    pub(super) fn note_behind(&mut self) {
        let behind = self.agents.values().find_map(|of| self.is_behind(of));
        if let Some(why) = behind.as_ref().filter(|_| self.behind.is_none()) {
            tracing::error!(why, "nothing can be decided; calls go on");
        }
        self.behind = behind;
    }

    async fn append(
        &self,
        holding: &Holding,
        now: Timestamp,
        actor: &str,
        facts: &[Fact],
    ) -> Result<Head, StoreError> {
        let inputs = holding.agent.inputs(now, &holding.seen);
        let mut head = self.head.clone();
        let mut entries = Vec::with_capacity(facts.len());
        for fact in facts {
            let value = serde_json::to_value(fact).expect("facts always serialise");
            let name = holding.agent.name.clone();
            let prev = (head.seq, head.hash.as_str());
            let entry = Entry::after(prev, now, name, actor.to_owned(), value, inputs.clone());
            head = Head::of(&entry);
            entries.push(entry);
        }
        let (journal, expected) = (Arc::clone(&self.parts.journal), self.head.seq);
        blocking(move || journal.append(expected, &entries)).await?;
        Ok(head)
    }

    fn apply(&mut self, name: &AgentName, facts: &[Fact]) {
        let Some(holding) = self.agents.get_mut(name) else {
            return;
        };
        for fact in facts {
            tracing::info!(agent = %name, fact = fact.name(), "decided");
            holding.agent.apply(fact);
        }
        holding.dirty = true;
        // The table goes out before anything else is looked at.
        let table = self.table(&self.agents[name].agent);
        self.parts.link.publish(table);
        let retired = |fact: &Fact| matches!(fact, Fact::Retired { .. });
        if facts.iter().any(retired) {
            self.collect_copies();
        }
    }

    /// Takes over what somebody else decided. What was seen stays.
    async fn reload(&mut self) -> Result<(), Refused> {
        let (agents, head) = match replay(&self.parts.journal).await {
            Ok(replayed) => replayed,
            Err(error) => return Err(self.journal_fails(&error)),
        };
        for (name, agent) in agents {
            let holding = self
                .agents
                .entry(name)
                .or_insert_with(|| Holding::new(agent.clone()));
            holding.agent = agent;
            holding.dirty = true;
        }
        self.head = head;
        self.announce();
        self.note_agents();
        self.note_behind();
        Ok(())
    }

    fn journal_works(&mut self, head: Head) {
        self.head = head;
        self.announce();
        self.journal_retry = None;
        if self.journal_error.take().is_some() {
            tracing::info!("the journal can be written again");
        }
    }

    fn journal_fails(&mut self, error: &StoreError) -> Refused {
        let why = describe(error);
        if self.journal_error.as_ref() != Some(&why) {
            tracing::error!(why, "nothing can be decided; calls go on");
        }
        self.journal_error = Some(why.clone());
        Refused::Journal(why)
    }
}

/// What a journal says, with what its engine says.
pub(crate) fn describe(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Folds the journal into agents. A chain that does not hold is told, and no reason to leave
/// calls alone.
pub(super) async fn replay(
    journal: &Arc<dyn Journal>,
) -> Result<(BTreeMap<AgentName, Agent>, Head), StoreError> {
    let journal = Arc::clone(journal);
    blocking(move || {
        let mut agents: BTreeMap<AgentName, Agent> = BTreeMap::new();
        let mut chain = Head::default();
        let mut whole = true;
        let mut unreadable = None;
        let head = journal.load_all(&mut |entry| {
            whole &= follows(&chain, &entry);
            chain = Head::of(&entry);
            match serde_json::from_value::<Fact>(entry.fact) {
                Ok(fact) => {
                    let new = || Agent::new(entry.agent.clone());
                    agents
                        .entry(entry.agent.clone())
                        .or_insert_with(new)
                        .apply(&fact);
                }
                Err(error) => {
                    unreadable.get_or_insert(format!("entry {}: {error}", entry.seq));
                }
            }
        })?;
        if let Some(what) = unreadable {
            return Err(StoreError::Unavailable { what, source: None });
        }
        if !whole {
            tracing::error!("the audit chain is broken; see `segue audit verify`");
        }
        Ok((agents, head))
    })
    .await
}

fn follows(head: &Head, entry: &Entry) -> bool {
    entry.seq == head.seq + 1 && entry.prev == head.hash && entry.digest() == entry.hash
}

/// Runs a call of the journal where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let ended = tokio::task::spawn_blocking(call).await;
    ended.unwrap_or_else(|error| {
        let what = format!("a call of the journal did not end: {error}");
        Err(StoreError::Unavailable { what, source: None })
    })
}

/// Checks the chain of a journal from its first entry on, without holding all of it.
pub(crate) fn verify(
    journal: &dyn Journal,
) -> Result<(Head, Option<audit::BrokenChain>), StoreError> {
    let mut good = Head::default();
    let mut broken = None;
    journal.load_all(&mut |entry| {
        if broken.is_some() {
            return;
        }
        if entry.seq != good.seq + 1 || entry.prev != good.hash {
            let (after, seq) = (good.seq, entry.seq);
            broken = Some(audit::BrokenChain::Torn { after, seq });
        } else if entry.digest() != entry.hash {
            broken = Some(audit::BrokenChain::Edited { seq: entry.seq });
        } else {
            good = Head::of(&entry);
        }
    })?;
    Ok((good, broken))
}

#[cfg(test)]
mod tests {
    use segue_core::names::Label;
    use segue_core::release::ReleaseState;
    use segue_core::rollout::Phase;
    use serde_json::{Value, json};

    use super::*;
    use crate::store::SqliteJournal;

    /// What a Segue wrote that knew nothing of components, parts, hooks, bake and stragglers.
    fn old_facts() -> Vec<Value> {
        let id = "ab".repeat(32);
        vec![
            json!({ "fact": "configured",
                "ingress": { "hosts": [], "path": "/", "call_id": [{ "header": "x-call-id" }],
                    "cohort": [], "caller": [], "tenant": [], "rules": [] },
                "policy": { "stickiness": 60_000, "on_rollback": "stay",
                    "straggler_buffer": 60_000, "standby": 600_000, "max_tails": 3 } }),
            json!({ "fact": "gateway_joined", "gateway": "gw-1" }),
            json!({ "fact": "deployed", "rollout": 1, "slot": "blue", "displaced": null, "at": 10,
                "release": { "id": id, "label": "v1", "workers": 1, "capacity": 10,
                    "content": { "command": ["/bin/bot", "{port}"], "env": {},
                        "directory": "/srv", "files": { "/bin/bot": "00" } } },
                "plan": { "ready_timeout": 60_000, "smoke": null, "steps": [],
                    "limits": { "drops": 200, "errors": 500, "min_calls": 20 } } }),
            json!({ "fact": "worker_ready", "worker": "v1-ababab-1", "release": id,
                "addr": "127.0.0.1:9", "capacity": 10, "health_path": null }),
            json!({ "fact": "gate_passed", "release": id, "gate": "readiness", "report": {} }),
            json!({ "fact": "verify_started", "attempt": 1, "at": 11, "deadline": 99 }),
            json!({ "fact": "cut_over", "at": 12 }),
            json!({ "fact": "landed", "at": 13, "unacked": [] }),
        ]
    }

    #[tokio::test]
    async fn a_journal_of_an_earlier_version_is_understood() {
        let name = format!("segue-old-journal-{}.db", std::process::id());
        let path = std::env::temp_dir().join(name);
        let journal: Arc<dyn Journal> = Arc::new(SqliteJournal::open(&path).unwrap());
        let agent: AgentName = "desk".parse().unwrap();
        let mut head = Head::default();
        for fact in old_facts() {
            let prev = (head.seq, head.hash.as_str());
            let actor = "segue".to_owned();
            let entry = Entry::after(prev, Timestamp(1), agent.clone(), actor, fact, Value::Null);
            journal
                .append(head.seq, std::slice::from_ref(&entry))
                .unwrap();
            head = Head::of(&entry);
        }
        let (agents, read) = replay(&journal).await.unwrap();
        assert_eq!(read, head);
        let desk = &agents[&agent];
        let current = &desk.releases[&desk.current().unwrap()];
        assert_eq!(current.release.label, "v1".parse::<Label>().unwrap());
        assert!(matches!(current.state, ReleaseState::Current));
        assert_eq!(current.release.template(), &current.release.content);
        assert!(current.release.content.components.is_empty());
        let rollout = desk.rollout.as_ref().unwrap();
        assert!(matches!(rollout.phase, Phase::Landed { .. }), "{rollout:?}");
        assert!(desk.contracts.is_empty(), "it had no hook");
        // What is decided next about it is written down as it is now, and chains on.
        drop(journal);
        for end in ["", "-wal", "-shm"] {
            let mut file = path.clone().into_os_string();
            file.push(end);
            let _ = std::fs::remove_file(file);
        }
    }
}
