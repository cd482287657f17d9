//! Carrying out what was decided. Everything here may be done twice.

use std::collections::BTreeMap;
use std::time::Duration;

use segue_core::names::ReleaseId;
use segue_core::names::{AgentName, WorkerId};
use segue_core::release::ReleaseState;
use segue_core::rollout::{Agent, Effect, Event, Phase};
use segue_core::spec::Smoke;
use tokio::time::Instant;

use super::Driver;
use crate::clock;
use crate::copies::digests;
use crate::platform::{WorkerState, WorkerStatus};
use crate::smoke::Attempt;

/// How long smoke calls wait for a gateway that knows the release. After that a person looks.
const SMOKE_GATEWAY_WAIT: Duration = Duration::from_secs(10);

impl Driver {
    /// Makes the world look as it was decided.
    pub(super) fn carry_out(&mut self, name: &AgentName) {
        let Some(holding) = self.agents.get_mut(name) else {
            return;
        };
        let was_dirty = std::mem::take(&mut holding.dirty);
        let rollout = holding.agent.rollout.as_ref();
        let smokes = rollout.is_some_and(|rollout| {
            matches!(rollout.phase, Phase::Verifying { .. }) || rollout.bake.is_some()
        });
        // Smoke calls may wait for a gateway; everything else follows from decisions alone.
        if !was_dirty && !smokes {
            return;
        }
        let mut smoke = None;
        let (mut webhooks, mut stragglers) = (Vec::new(), Vec::new());
        let mut hooks = Vec::new();
        if was_dirty {
            let table = self.table(&self.agents[name].agent);
            self.parts.link.publish(table);
        }
        for effect in self.agents[name].agent.effects() {
            match effect {
                Effect::Workers { release, want } if was_dirty => {
                    self.parts.platform.reconcile(name, &release, want);
                }
                Effect::Smoke {
                    rollout,
                    attempt,
                    release,
                    smoke: how,
                } => smoke = Some(((rollout, attempt), release, how)),
                Effect::Webhook {
                    rollout,
                    attempt,
                    release,
                    webhook,
                } => webhooks.push(((rollout, attempt), release, webhook)),
                Effect::Stragglers {
                    release,
                    since,
                    stragglers: how,
                } => stragglers.push((release, since, how)),
                Effect::Hook {
                    kind,
                    rollout,
                    attempt,
                    release,
                    hook,
                } => hooks.push((kind, (rollout, attempt), release, hook)),
                // The table is published above, with what is not decided in it.
                Effect::Publish(_) | Effect::Workers { .. } => {}
            }
        }
        self.want_hooks(name, hooks);
        self.ask_webhooks(name, webhooks);
        self.usher(name, stragglers);
        if let Some((of, release, how)) = smoke {
            self.smoke(name, of, release, how);
            return;
        }
        self.parts.smoker.cancel(name);
        if let Some(holding) = self.agents.get_mut(name) {
            holding.smoke_waits = None;
        }
    }

    /// Removes copies of files that only retired releases were made of.
    pub(super) fn collect_copies(&self) {
        let releases = self.agents().flat_map(|agent| agent.releases.values());
        let runs = releases.filter(|is| !matches!(is.state, ReleaseState::Retired { .. }));
        let files = runs.flat_map(|is| digests(&is.release.content));
        if let Err(error) = self.parts.copies.collect(&files.collect()) {
            tracing::warn!(%error, "copies of files that no release needs could not be removed");
        }
    }

    /// Makes smoke calls once every leased gateway knows the release: before, a refused call would
    /// say nothing about it.
    fn smoke(&mut self, name: &AgentName, of: (u64, u32), release: ReleaseId, smoke: Smoke) {
        let Some(holding) = self.agents.get_mut(name) else {
            return;
        };
        if self.parts.smoker.has(name, of) {
            return;
        }
        let (agent, now) = (&holding.agent, clock::now());
        let unacked = holding.seen.unacked(now, &agent.gateways, agent.epoch);
        let leased = agent.gateways.len() > unacked.silent.len();
        if leased && unacked.lagging.is_empty() {
            holding.smoke_waits = None;
            let label = agent.label(release);
            let current = agent.current();
            let host = agent.ingress.hosts.first().cloned();
            let prefix = agent.ingress.path.clone();
            let attempt = Attempt {
                of,
                release,
                label,
                smoke,
                current,
                host,
                prefix,
            };
            self.parts.smoker.begin(name, attempt);
            return;
        }
        let since = *holding.smoke_waits.get_or_insert_with(Instant::now);
        if since.elapsed() >= SMOKE_GATEWAY_WAIT {
            let why = "no gateway has acknowledged the release, so no smoke call could be made";
            holding.smoke_waits = None;
            self.parts.smoker.give_up(name, of, why);
        }
    }

    /// Where the workers are not what was decided.
    pub(super) fn worker_events(&self, name: &AgentName, agent: &Agent) -> Vec<Event> {
        let statuses = self.parts.platform.workers(name);
        let by_id: BTreeMap<&WorkerId, &WorkerStatus> = statuses
            .iter()
            .map(|status| (&status.worker, status))
            .collect();
        let gone = agent.workers.iter().filter_map(|(worker, record)| {
            let status = by_id.get(worker);
            let runs = status.is_some_and(|status| {
                let runs = match status.state {
                    WorkerState::Ready => true,
                    // One that was started again is not ready yet, also where it was before.
                    WorkerState::Starting => status.adopted,
                    WorkerState::BackingOff | WorkerState::Gone => false,
                };
                // On another port it is another process.
                runs && status.addr == record.addr
            });
            let why = status.map_or("it is not running", |status| status.why.as_str());
            let why = if why.is_empty() {
                "it was started again"
            } else {
                why
            }
            .to_owned();
            let worker = worker.clone();
            (!runs).then_some(Event::WorkerGone { worker, why })
        });
        let ready = statuses
            .iter()
            .filter(|status| status.state == WorkerState::Ready);
        let ready = ready.map(|status| Event::WorkerReady {
            worker: status.worker.clone(),
            release: status.release,
            addr: status.addr,
            capacity: status.capacity,
            health_path: status.health_path.clone(),
            barred: self.barred(agent, status),
        });
        gone.chain(ready).collect()
    }
}
