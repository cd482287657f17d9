//! Workers are told that their release takes no more new calls, and when it takes them again.
//!
//! Each is told at a moment of its own, so that not all of them drop their caches at once. What is
//! told is a level: what a worker has heard last is compared with what is true now, and a worker
//! that did not hear is told until it has, or it is true no more. A controller that begins does not
//! know what was heard before: it tells again how things stand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use segue_core::names::{AgentName, WorkerId};
use segue_core::time::{Millis, Timestamp};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::letter::{Letter, RESUMED, RETIRING, backoff};
use super::turns::offset;
use crate::clock;
use crate::outbound::Client;

/// How a worker's release stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It takes calls, or may soon.
    Serving,
    /// It takes none since then.
    Draining(Timestamp),
    /// It took none before, and is empty: there is nothing new to tell.
    Empty,
}

/// A worker that can be told something.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hearer {
    pub(crate) addr: SocketAddr,
    pub(crate) path: String,
    pub(crate) label: String,
    pub(crate) stand: Stand,
}

/// Tells workers what becomes of their release.
#[derive(Debug)]
pub(crate) struct Heralds {
    client: Client,
    /// Since when this controller tells.
    began: Timestamp,
    /// Agents of which was said how their workers stand.
    met: BTreeSet<AgentName>,
    runs: BTreeMap<(AgentName, WorkerId), Run>,
}

#[derive(Debug)]
struct Run {
    truth: watch::Sender<Truth>,
    /// Cut off when dropped.
    _task: JoinSet<()>,
}

/// What is true of a worker, and over how long the like of it are told.
#[derive(Debug, Clone, PartialEq)]
struct Truth {
    is: Hearer,
    jitter: Millis,
}

/// What a worker can have heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Serving,
    Retiring(Timestamp),
}

impl Heralds {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            began: clock::now(),
            met: BTreeSet::new(),
            runs: BTreeMap::new(),
        }
    }

    /// Says how the workers of an agent stand. Saying it twice changes nothing.
    pub(crate) fn want(
        &mut self,
        agent: &AgentName,
        jitter: Millis,
        workers: &BTreeMap<WorkerId, Hearer>,
    ) {
        self.runs
            .retain(|(of, worker), _| of != agent || workers.contains_key(worker));
        // Those that are there when we begin were there before us.
        let heard = (!self.met.insert(agent.clone())).then_some(Level::Serving);
        for (worker, is) in workers {
            let is = is.clone();
            let truth = Truth { is, jitter };
            let key = (agent.clone(), worker.clone());
            if let Some(run) = self.runs.get(&key) {
                run.truth.send_if_modified(|known| {
                    let changed = *known != truth;
                    *known = truth;
                    changed
                });
                continue;
            }
            let (truth, receiver) = watch::channel(truth);
            let herald = Herald {
                client: self.client.clone(),
                agent: agent.clone(),
                worker: worker.clone(),
                truth: receiver,
                heard,
                since: self.began,
            };
            let mut task = JoinSet::new();
            task.spawn(herald.run());
            self.runs.insert(key, Run { truth, _task: task });
        }
    }
}

/// Tells one worker.
struct Herald {
    client: Client,
    agent: AgentName,
    worker: WorkerId,
    truth: watch::Receiver<Truth>,
    /// What it heard last; `None`: that is not known.
    heard: Option<Level>,
    /// Of the drain that it was told of last.
    since: Timestamp,
}

impl Herald {
    async fn run(mut self) {
        let (mut pauses, mut failed) = (backoff(), false);
        loop {
            let truth = self.truth.borrow_and_update().clone();
            let Some(level) = self.news(&truth) else {
                (pauses, failed) = (backoff(), false);
                if self.truth.changed().await.is_err() {
                    return;
                }
                continue;
            };
            // A moment of its own only for what everybody is told at once.
            if let Level::Retiring(since) = level {
                let turn = since + offset(self.worker.as_str(), truth.jitter);
                let left = turn.since(clock::now()).0;
                if left > 0 && !self.stays_true(Duration::from_millis(left)).await {
                    continue;
                }
                self.since = since;
            }
            let letter = self.letter(level, &truth.is);
            let Hearer { addr, path, .. } = &truth.is;
            match letter.deliver(&self.client, *addr, path).await {
                Ok(()) => self.heard = Some(level),
                Err(why) => {
                    // It may have heard, and its answer may be lost.
                    self.heard = None;
                    if !failed {
                        letter.warn(*addr, &why);
                    }
                    failed = true;
                    self.stays_true(pauses.pause()).await;
                }
            }
        }
    }

    /// What it is to hear.
    fn news(&self, truth: &Truth) -> Option<Level> {
        let level = match truth.is.stand {
            Stand::Serving => Level::Serving,
            Stand::Draining(since) => Level::Retiring(since),
            Stand::Empty => return None,
        };
        (self.heard != Some(level)).then_some(level)
    }

    /// Waits, unless something changes before.
    async fn stays_true(&mut self, pause: Duration) -> bool {
        match timeout(pause, self.truth.changed()).await {
            Err(_) => true,
            Ok(Ok(())) => false,
            // Nobody will change it; whoever did cuts us off.
            Ok(Err(_)) => {
                sleep(pause).await;
                true
            }
        }
    }

    fn letter(&self, level: Level, is: &Hearer) -> Letter {
        let kind = match level {
            Level::Serving => RESUMED,
            Level::Retiring(_) => RETIRING,
        };
        let (agent, worker) = (&self.agent, &self.worker);
        Letter {
            kind,
            agent: agent.to_string(),
            about: worker.to_string(),
            since: self.since,
            data: json!({ "worker": worker, "release": is.label, "agent": agent }),
        }
    }
}
