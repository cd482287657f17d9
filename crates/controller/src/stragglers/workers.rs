//! Workers are told that their release takes no more new calls, and when it takes them again.
//!
//! Each is told at a moment of its own, so that not all of them drop their caches at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use segue_core::names::{AgentName, WorkerId};
use segue_core::time::{Millis, Timestamp};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::letter::{Letter, RESUMED, RETIRING};
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
    told: BTreeMap<(AgentName, WorkerId), Told>,
}

#[derive(Debug)]
struct Told {
    /// `None`: that it takes calls again.
    retiring_since: Option<Timestamp>,
    /// Whether it may have heard so.
    said: Arc<AtomicBool>,
    /// Cut off when dropped.
    _task: JoinSet<()>,
}

impl Heralds {
    pub(crate) fn new(client: Client) -> Self {
        let told = BTreeMap::new();
        Self { client, told }
    }

    /// Says how the workers of an agent stand. Saying it twice changes nothing.
    pub(crate) fn want(
        &mut self,
        agent: &AgentName,
        jitter: Millis,
        workers: &BTreeMap<WorkerId, Hearer>,
    ) {
        self.told
            .retain(|(of, worker), _| of != agent || workers.contains_key(worker));
        for (worker, is) in workers {
            let key = (agent.clone(), worker.clone());
            let known = self.told.get(&key);
            let retiring = known.and_then(|told| told.retiring_since);
            let heard = known.is_some_and(|told| told.said.load(Ordering::Relaxed));
            match (is.stand, retiring) {
                (Stand::Draining(since), known) if known != Some(since) => {
                    let told = self.tell(&key, is, RETIRING, since, jitter);
                    self.told.insert(key, told);
                }
                (Stand::Serving, Some(since)) if heard => {
                    let told = self.tell(&key, is, RESUMED, since, Millis(0));
                    self.told.insert(key, told);
                }
                (Stand::Serving, Some(_)) => {
                    self.told.remove(&key);
                }
                (Stand::Draining(_) | Stand::Empty | Stand::Serving, _) => {}
            }
        }
    }

    fn tell(
        &self,
        (agent, worker): &(AgentName, WorkerId),
        is: &Hearer,
        kind: &'static str,
        since: Timestamp,
        jitter: Millis,
    ) -> Told {
        let letter = Letter {
            kind,
            agent: agent.to_string(),
            about: worker.to_string(),
            since,
            data: json!({ "worker": worker, "release": is.label, "agent": agent }),
        };
        let turn = since + offset(worker.as_str(), jitter);
        let wait = Duration::from_millis(turn.since(clock::now()).0);
        let said = Arc::new(AtomicBool::new(false));
        let (client, addr, path) = (self.client.clone(), is.addr, is.path.clone());
        let saying = Arc::clone(&said);
        let mut task = JoinSet::new();
        task.spawn(async move {
            // A moment of its own only for what everybody is told at once.
            if kind == RETIRING {
                sleep(wait).await;
            }
            saying.store(true, Ordering::Relaxed);
            letter.deliver(&client, addr, &path).await;
        });
        Told {
            retiring_since: (kind == RETIRING).then_some(since),
            said,
            _task: task,
        }
    }
}
