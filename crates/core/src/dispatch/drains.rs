//! Who says that a worker takes no more jobs.
//!
//! Its own word, an operator's and its membership's stand side by side, and each is taken back only
//! by who said it: a worker that is admitted again goes on draining if it was told to. Its own word
//! is never taken back; some workers forget that they said it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::dispatcher::Dispatcher;
use super::event::{Action, Entry, Note};
use super::facts::WorkerKey;
use crate::names::{AgentName, CallId, WorkerId};
use crate::plane::{DrainedBy, Steer};

/// Who says it; nobody, as long as it takes jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Drains(BTreeSet<DrainedBy>);

impl Drains {
    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one to name: that which stands longest.
    pub fn first(&self) -> Option<DrainedBy> {
        self.0.first().copied()
    }

    /// Whether this one does.
    pub fn has(&self, by: DrainedBy) -> bool {
        self.0.contains(&by)
    }

    /// What holds beyond one connection. Membership is asked anew with each.
    pub(super) fn lasting(&self) -> Self {
        let mut lasting = self.clone();
        lasting.0.remove(&DrainedBy::Membership);
        lasting
    }

    fn iter(&self) -> impl Iterator<Item = DrainedBy> {
        self.0.iter().copied()
    }
}

impl FromIterator<DrainedBy> for Drains {
    fn from_iter<T: IntoIterator<Item = DrainedBy>>(words: T) -> Self {
        Self(words.into_iter().collect())
    }
}

impl Dispatcher {
    pub(super) fn drain(&mut self, key: WorkerKey, by: DrainedBy) {
        let Some(worker) = self.workers.get_mut(&key) else {
            return;
        };
        let begins = worker.drains.is_empty();
        if !worker.drains.0.insert(by) {
            return;
        }
        let line = worker.line;
        if begins {
            let note = Note::WorkerDrains {
                worker: worker.id.clone(),
                agent: worker.agent.clone(),
                release: worker.release,
                jobs: u32::try_from(worker.jobs.len()).unwrap_or(u32::MAX),
                by,
            };
            self.note(note);
            self.tell_soon(line);
        }
        self.keep_drains(key);
    }

    pub(super) fn undrain(&mut self, key: WorkerKey, by: DrainedBy) {
        let Some(worker) = self.workers.get_mut(&key) else {
            return;
        };
        if by == DrainedBy::Worker || !worker.drains.0.remove(&by) {
            return;
        }
        let ends = worker.drains.is_empty();
        let line = worker.line;
        if ends {
            let note = Note::WorkerServes {
                worker: worker.id.clone(),
                agent: worker.agent.clone(),
                release: worker.release,
            };
            self.note(note);
            self.tell_soon(line);
        }
        self.keep_drains(key);
        if ends {
            self.room_on(line);
        }
    }

    /// A worker that comes back is another one for everybody; by the jobs that it names it is known.
    pub(super) fn drain_as(&mut self, key: WorkerKey, job: &CallId) {
        let before = self.jobs.get(job).map(|job| job.drains.clone());
        for by in before.iter().flat_map(Drains::iter) {
            self.drain(key, by);
        }
    }

    /// A worker's jobs remember it, so that it is known when the worker, or we, come back.
    fn keep_drains(&mut self, key: WorkerKey) {
        let Some(worker) = self.workers.get(&key) else {
            return;
        };
        let drains = worker.drains.lasting();
        for id in &worker.jobs {
            if let Some(job) = self.jobs.get_mut(id)
                && job.drains != drains
            {
                job.drains = drains.clone();
                self.out.push(Action::Write(Entry::Drained {
                    job: id.clone(),
                    drains: drains.clone(),
                }));
            }
        }
    }

    /// Whether an operator ended its connection, and it is not closed yet.
    pub fn is_kicked(&self, key: WorkerKey) -> bool {
        self.kicked.contains_key(&key)
    }

    /// An operator's word. One who is not connected cannot be meant.
    pub(super) fn steer(&mut self, agent: &AgentName, id: &WorkerId, what: Steer) {
        let is_meant = |(_, worker): &(&WorkerKey, &super::worker::Worker)| {
            worker.id == *id && worker.agent == *agent
        };
        let Some(key) = self.workers.iter().find(is_meant).map(|(key, _)| *key) else {
            return;
        };
        match what {
            Steer::Drain => self.drain(key, DrainedBy::Operator),
            Steer::Undrain => self.undrain(key, DrainedBy::Operator),
            Steer::Kick => {
                self.drain(key, DrainedBy::Operator);
                self.out.push(Action::Kick { worker: key });
                let leaves = self.workers.get(&key).map(|worker| (key, worker.clone()));
                self.kicked.extend(leaves);
                // At once: what it had promised must go to somebody else.
                self.closed(key, None);
            }
        }
    }
}
