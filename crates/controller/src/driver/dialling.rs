//! Permits of outbound calls, as the driver decides about them.

use segue_core::names::{AgentName, ReleaseId, WorkerId};
use segue_core::release::ReleaseState;
use segue_core::rollout::Agent;
use segue_core::time::{Millis, Timestamp};

use super::{Driver, Refused};
use crate::clock;
use crate::permits::{NoPermit, Reply};
use crate::store::{Dialler, Permit};

/// What is asked about permits.
#[derive(Debug)]
pub(crate) enum PermitAsk {
    /// One more, for a release named in words or for that of a worker.
    Grant {
        /// Of which worker.
        worker: Option<WorkerId>,
        /// Or of which release, by label or digest.
        release: Option<String>,
        /// How the worker names the call.
        call: Option<String>,
        /// Who asks.
        holder: String,
        /// For how long.
        ttl: Millis,
    },
    /// This one for longer.
    Renew { permit: String, ttl: Millis },
    /// This one is not needed any more.
    End { permit: String },
    /// Those that are out.
    List,
}

/// Why a permit was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PermitRefused {
    /// No release is called so, or several are.
    #[error(transparent)]
    Name(#[from] Refused),
    /// No such worker is up.
    #[error("no worker {0} is up")]
    NoSuchWorker(WorkerId),
    /// It may not be given.
    #[error(transparent)]
    NoPermit(#[from] NoPermit),
}

/// Permits, each with the label of its release.
pub(crate) type Permitted = Result<Vec<(Permit, String)>, PermitRefused>;

impl Driver {
    /// Says which permits are out, before a decision.
    pub(super) fn note_permits(&mut self, name: &AgentName, now: Timestamp) {
        let permits = &mut self.parts.outreach.permits;
        let workers = if permits.name_workers(name) {
            self.parts.platform.workers(name)
        } else {
            Vec::new()
        };
        let counts = permits.counts(name, &workers, now);
        if let Some(holding) = self.agents.get_mut(name) {
            holding.seen.set_permits(counts);
        }
    }

    /// Gives, renews or takes back a permit. It is the driver that does, so that a permit is
    /// either out before a drain is decided, or refused after. It does not wait for the disk: who
    /// asked is answered when it is written down.
    pub(super) fn permit(&mut self, name: &AgentName, ask: PermitAsk, reply: Reply) {
        let now = clock::now();
        let Some(holding) = self.agents.get(name) else {
            let _ = reply.send(Err(Refused::UnknownAgent.into()));
            return;
        };
        let agent = &holding.agent;
        let permits = &mut self.parts.outreach.permits;
        match ask {
            PermitAsk::Grant {
                worker,
                release,
                call,
                holder,
                ttl,
            } => {
                let found = match worker {
                    Some(worker) => {
                        let mut processes = self.parts.platform.workers(name).into_iter();
                        let process = processes.find(|status| status.worker == worker);
                        let pid = process.and_then(|status| status.pid);
                        of_worker(agent, worker, pid)
                    }
                    None => of_release(agent, release.as_deref()),
                };
                match found {
                    Ok((release, dialler)) => {
                        let of = (name, release, agent.label(release));
                        permits.grant(of, (call, holder, dialler), (now, ttl), reply);
                    }
                    Err(refused) => {
                        let _ = reply.send(Err(refused));
                    }
                }
            }
            PermitAsk::Renew { permit, ttl } => {
                let label = |release| agent.label(release);
                permits.renew((name, &permit), label, (now, ttl), reply);
            }
            PermitAsk::End { permit } => permits.end(name, &permit, now, reply),
            PermitAsk::List => {
                let labelled = |permit: Permit| {
                    let label = agent.label(permit.release);
                    (permit, label)
                };
                let out = permits.list(name, now).into_iter().map(labelled);
                let _ = reply.send(Ok(out.collect()));
            }
        }
    }
}

type Dials = Result<(ReleaseId, Option<Dialler>), PermitRefused>;

fn of_worker(agent: &Agent, worker: WorkerId, pid: Option<u32>) -> Dials {
    let (Some(record), Some(pid)) = (agent.workers.get(&worker), pid) else {
        return Err(PermitRefused::NoSuchWorker(worker));
    };
    let release = takes_calls(agent, record.release)?;
    Ok((release, Some(Dialler { worker, pid })))
}

fn of_release(agent: &Agent, name: Option<&str>) -> Dials {
    let takes = ReleaseState::takes_new_calls;
    let release = super::ask::choose(agent, name, "dial for", takes)?;
    Ok((takes_calls(agent, release)?, None))
}

/// The release that dials must take new calls.
fn takes_calls(agent: &Agent, release: ReleaseId) -> Result<ReleaseId, NoPermit> {
    let state = agent.releases[&release].state;
    if state.takes_new_calls() {
        return Ok(release);
    }
    Err(NoPermit::Draining {
        label: agent.label(release),
        state: state.word(),
    })
}
