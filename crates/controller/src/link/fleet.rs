//! Workers that are connected to a dispatcher: which there are, and what an operator does with one.

use segue_core::link::ToGateway;
use segue_core::names::{AgentName, GatewayId, WorkerId};
use segue_core::plane::{ConnectedWorker, Steer};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::{ANSWER_WAIT, Link};

/// Workers that each dispatcher is asked for: as many as one holds.
const REACH: usize = 10_000;

/// An answer that is waited for, and whose.
type Awaited = (GatewayId, oneshot::Receiver<Vec<ConnectedWorker>>);

/// States of a connected worker.
pub(crate) const STATES: [&str; 5] = ["ready", "allocated", "busy", "silent", "draining"];

/// The state of a connected worker, in one word.
pub(crate) fn state_of(worker: &ConnectedWorker) -> &'static str {
    match worker.drain {
        Some(_) => "draining",
        None if worker.slow => "silent",
        None if !worker.available => "busy",
        None if worker.jobs.is_empty() => "ready",
        None => "allocated",
    }
}

/// Who answered, and what they said.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    /// Each with the one that it is connected to; by id.
    pub(crate) workers: Vec<(GatewayId, ConnectedWorker)>,
    /// Those that answered.
    pub(crate) answered: Vec<GatewayId>,
    /// Those that did not. What they have is not known.
    pub(crate) silent: Vec<GatewayId>,
}

impl Link {
    /// Asks everybody for the workers that are connected to them, of one agent or of all.
    pub(crate) async fn list_workers(&self, agent: &AgentName) -> Fleet {
        self.gather(|request| ToGateway::ListWorkers {
            request,
            agent: Some(agent.clone()),
            limit: REACH,
            brief: false,
        })
        .await
    }

    /// The workers of all agents for [`state_of`], each with one of its jobs at most.
    pub(crate) async fn count_workers(&self) -> Fleet {
        self.gather(|request| ToGateway::ListWorkers {
            request,
            agent: None,
            limit: REACH,
            brief: true,
        })
        .await
    }

    /// Does something with one worker, wherever it is connected. Answers it as it is then.
    pub(crate) async fn steer_worker(
        &self,
        agent: &AgentName,
        worker: &WorkerId,
        what: Steer,
    ) -> Fleet {
        self.gather(|request| ToGateway::SteerWorker {
            request,
            agent: agent.clone(),
            worker: worker.clone(),
            what,
        })
        .await
    }

    async fn gather(&self, message: impl Fn(u64) -> ToGateway) -> Fleet {
        let deadline = Instant::now() + ANSWER_WAIT;
        let mut fleet = Fleet::default();
        for (gateway, answer) in self.ask_workers(message) {
            match timeout_at(deadline, answer).await {
                Ok(Ok(workers)) => {
                    let workers = workers.into_iter().map(|is| (gateway.clone(), is));
                    fleet.workers.extend(workers);
                    fleet.answered.push(gateway);
                }
                Ok(Err(_)) | Err(_) => fleet.silent.push(gateway),
            }
        }
        // A gateway that is being upgraded has two connections, and one of them may have answered.
        let answered = &fleet.answered;
        fleet.silent.retain(|gateway| !answered.contains(gateway));
        fleet
            .workers
            .sort_by(|(_, a), (_, b)| a.worker.cmp(&b.worker));
        fleet
    }

    fn ask_workers(&self, message: impl Fn(u64) -> ToGateway) -> Vec<Awaited> {
        let mut shared = self.lock();
        shared.requests += 1;
        let request = shared.requests;
        let peers = shared.peers.values_mut();
        let asked = peers.map(|peer| {
            let (answer, receiver) = oneshot::channel();
            peer.asked_workers.retain(|_, waits| !waits.is_closed());
            peer.asked_workers.insert(request, answer);
            peer.outbox.ask(message(request));
            (peer.gateway.clone(), receiver)
        });
        asked.collect()
    }

    pub(super) fn answer_workers(&self, number: u64, request: u64, workers: Vec<ConnectedWorker>) {
        let mut shared = self.lock();
        let waits = shared
            .peers
            .get_mut(&number)
            .and_then(|peer| peer.asked_workers.remove(&request));
        if let Some(waits) = waits {
            // Nobody waits any more when the answer is late.
            let _ = waits.send(workers);
        }
    }
}
