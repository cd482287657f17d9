//! Hooks: programs that run once around the life of a release, the two halves of a migration.
//!
//! What is wanted is a level: a hook that is wanted runs once per attempt, and its outcome stands
//! until something else is wanted. One that is no longer wanted is left to end if it runs, and the
//! next one waits for it: nobody knows what half a migration has done. A hook outlives the
//! controller: the next one finds it again, or what came of it, and runs it again only if nobody
//! can know how it ended. Of one agent never two run at the same time.

mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use segue_core::names::{AgentName, Label, ReleaseId};
use segue_core::release::Release;
use segue_core::rollout::HookKind;
use segue_core::spec::Hook;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Mutex as Turn, Notify, oneshot};
use tokio::task::JoinSet;

use crate::copies::Copies;
use crate::state::{StateDir, release_name};

/// Which run of which hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) kind: HookKind,
    pub(crate) rollout: u64,
    pub(crate) release: ReleaseId,
    pub(crate) attempt: u32,
}

impl Key {
    fn name(&self) -> String {
        let (rollout, attempt) = (self.rollout, self.attempt);
        format!("{}-{rollout}-{attempt}-{}", word(self.kind), self.release)
    }
}

/// The name of a hook, as it is written in `segue.toml`.
pub(crate) fn word(kind: HookKind) -> &'static str {
    match kind {
        HookKind::BeforeDeploy => "before_deploy",
        HookKind::AfterRetire => "after_retire",
    }
}

/// A hook that is to run.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) key: Key,
    pub(crate) release: Box<Release>,
    pub(crate) hook: Hook,
    /// The release before.
    pub(crate) from: Option<Label>,
}

/// What came of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// Why it failed, if it did.
    pub(crate) failed: Option<String>,
    /// How it ended, and the last it said.
    pub(crate) report: Value,
}

/// A run, for people.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status {
    pub(crate) key: Key,
    pub(crate) log: PathBuf,
    /// `None`: it runs.
    pub(crate) outcome: Option<Outcome>,
}

/// Runs hooks.
#[derive(Debug)]
pub(crate) struct Hooks {
    state: StateDir,
    copies: Copies,
    /// Rung when one ended.
    bell: Arc<Notify>,
    runs: BTreeMap<(AgentName, Key), Run>,
    turns: BTreeMap<AgentName, Arc<Turn<()>>>,
    /// Agents whose left-over hooks were looked for.
    swept: BTreeSet<AgentName>,
    /// Ended with us; the hooks are not.
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Run {
    log: PathBuf,
    outcome: Arc<Mutex<Option<Outcome>>>,
    /// Says that it is not wanted any more. Dropped unused it says nothing.
    cancel: oneshot::Sender<()>,
}

/// Files of one run.
#[derive(Debug, Clone)]
struct Place {
    record: PathBuf,
    /// Its exit status, once it has ended: only a parent learns it, and we may not be.
    status: PathBuf,
    log: PathBuf,
}

impl Place {
    /// Where its program is under its own name, if that is a copy.
    fn links(&self) -> PathBuf {
        self.record.with_extension("d")
    }

    /// Gives a copy the name of the original: a program may be several, and tell by its name which
    /// it is.
    fn link(&self, original: &str, copy: &Path) -> io::Result<String> {
        let name = Path::new(original).file_name().unwrap_or_default();
        let link = self.links().join(name);
        self.unlink()?;
        fs::create_dir_all(self.links())?;
        symlink(copy, &link)?;
        Ok(link.to_string_lossy().into_owned())
    }

    fn unlink(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.links()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn remove(&self) {
        if let Err(error) = self.unlink() {
            tracing::warn!(path = %self.links().display(), %error, "a link of a hook could not be removed");
        }
        for path in [&self.record, &self.status] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a file of a hook could not be removed");
                }
                _ => {}
            }
        }
    }
}

impl Hooks {
    pub(crate) fn new(state: StateDir, copies: Copies, bell: Arc<Notify>) -> Self {
        Self {
            state,
            copies,
            bell,
            runs: BTreeMap::new(),
            turns: BTreeMap::new(),
            swept: BTreeSet::new(),
            tasks: JoinSet::new(),
        }
    }

    fn place(&self, agent: &AgentName, key: &Key, label: Option<&Label>) -> Place {
        let (directory, name) = (self.state.hooks(agent), key.name());
        let log = match label {
            Some(label) => {
                let release = release_name((label, key.release));
                let (kind, rollout, attempt) = (word(key.kind), key.rollout, key.attempt);
                format!("{release}-{kind}-{rollout}-{attempt}")
            }
            None => name.clone(),
        };
        Place {
            record: directory.join(format!("{name}.json")),
            status: directory.join(format!("{name}.status")),
            log: self.state.hook_log(agent, &log),
        }
    }

    /// Makes it so that exactly these run or have run.
    pub(crate) fn want(&mut self, agent: &AgentName, wanted: Vec<Attempt>) {
        while self.tasks.try_join_next().is_some() {}
        let keys: BTreeSet<Key> = wanted.iter().map(|attempt| attempt.key.clone()).collect();
        let ours = self.runs.keys().filter(|(of, _)| of == agent);
        let over: Vec<_> = ours
            .filter(|(_, key)| !keys.contains(key))
            .cloned()
            .collect();
        for of in over {
            let place = self.place(agent, &of.1, None);
            if let Some(run) = self.runs.remove(&of)
                && run.cancel.send(()).is_err()
            {
                // It has ended, and its outcome is written down by now.
                place.remove();
            }
        }
        if self.swept.insert(agent.clone()) {
            self.sweep(agent, &keys);
        }
        for attempt in wanted {
            let of = (agent.clone(), attempt.key.clone());
            if !self.runs.contains_key(&of) {
                let run = self.begin(agent, attempt);
                self.runs.insert(of, run);
            }
        }
    }

    fn turn(&mut self, agent: &AgentName) -> Arc<Turn<()>> {
        Arc::clone(self.turns.entry(agent.clone()).or_default())
    }

    fn begin(&mut self, agent: &AgentName, attempt: Attempt) -> Run {
        let place = self.place(agent, &attempt.key, Some(&attempt.release.label));
        let log = place.log.clone();
        let outcome = Arc::new(Mutex::new(None));
        let (result, bell) = (Arc::clone(&outcome), Arc::clone(&self.bell));
        let (cancel, cancelled) = oneshot::channel();
        let (turn, copies, agent) = (self.turn(agent), self.copies.clone(), agent.clone());
        self.tasks.spawn(async move {
            let mut cancelled = cancelled;
            let ended = run::run(&agent, &attempt, &place, &copies, &turn, &mut cancelled).await;
            *result.lock().unwrap_or_else(PoisonError::into_inner) = ended;
            // Told in the moment in which it ended.
            cancelled.close();
            if cancelled.try_recv().is_ok() {
                place.remove();
            }
            bell.notify_one();
        });
        Run {
            log,
            outcome,
            cancel,
        }
    }

    /// Has what an earlier controller began and nobody wants any more come to its end.
    fn sweep(&mut self, agent: &AgentName, wanted: &BTreeSet<Key>) {
        let names: BTreeSet<String> = wanted.iter().map(Key::name).collect();
        let directory = self.state.hooks(agent);
        let Ok(entries) = fs::read_dir(&directory) else {
            return;
        };
        let found = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.split('.').next().map(str::to_owned)
        });
        let found: BTreeSet<String> = found.collect();
        for name in found.difference(&names) {
            let turn = self.turn(agent);
            let place = Place {
                record: directory.join(format!("{name}.json")),
                status: directory.join(format!("{name}.status")),
                log: PathBuf::new(),
            };
            self.tasks.spawn(async move {
                let _turn = turn.lock().await;
                run::end(&place).await;
            });
        }
    }

    /// What came of those of an agent that have ended.
    pub(crate) fn outcomes(&self, agent: &AgentName) -> Vec<(Key, Outcome)> {
        let ended = self.statuses(agent).into_iter();
        ended
            .filter_map(|status| Some((status.key, status.outcome?)))
            .collect()
    }

    /// All of an agent.
    pub(crate) fn statuses(&self, agent: &AgentName) -> Vec<Status> {
        let ours = self.runs.iter().filter(|((of, _), _)| of == agent);
        ours.map(|((_, key), run)| Status {
            key: key.clone(),
            log: run.log.clone(),
            outcome: run
                .outcome
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests;
