//! What the driver says to others: webhooks and workers.

use std::collections::{BTreeMap, BTreeSet};

use segue_core::names::{AgentName, ReleaseId, WorkerId};
use segue_core::release::ReleaseState;
use segue_core::rollout::{Agent, Event, Input};
use segue_core::spec::{Stragglers, Webhook};
use segue_core::time::Timestamp;
use serde_json::{Value, json};

use super::{Driver, Holding, Refused};
use crate::clock;
use crate::permits::Permits;
use crate::platform::notify_path;
use crate::stragglers::{Hearer, Heralds, Stand, Ushers, Wanted};
use crate::webhooks::{Asker, Question};

/// Whom the driver talks to beside gateways and the platform.
#[derive(Debug)]
pub(crate) struct Outreach {
    pub(crate) asker: Asker,
    pub(crate) ushers: Ushers,
    pub(crate) heralds: Heralds,
    pub(crate) permits: Permits,
}

impl Driver {
    /// Asks the webhooks that are wanted, and gives up on all others.
    pub(super) fn ask_webhooks(
        &mut self,
        name: &AgentName,
        wanted: Vec<((u64, u32), ReleaseId, Webhook)>,
    ) {
        let Some(holding) = self.agents.get(name) else {
            return;
        };
        let asker = &mut self.parts.outreach.asker;
        let keys: BTreeSet<(String, (u64, u32))> = wanted
            .iter()
            .map(|(of, _, webhook)| (webhook.name.clone(), *of))
            .collect();
        asker.keep(name, &keys);
        let spec = self.parts.specs.get(name);
        for (of, release, mut webhook) in wanted {
            if !asker.has(name, &webhook.name, of) {
                // The journal does not know all of an address; and one that was mended is meant.
                let mut named = spec.iter().flat_map(|spec| &spec.plan.webhooks);
                let named = named.find(|named| named.name == webhook.name);
                let is_configured = named.is_some();
                if let Some(named) = named {
                    webhook.to = named.to.clone();
                }
                let question = Question {
                    of,
                    body: question(holding, of, release, &webhook),
                    webhook,
                    is_configured,
                };
                asker.begin(name, question);
            }
        }
    }

    /// Gives stragglers their turns, and tells workers how their release stands.
    pub(super) fn usher(
        &mut self,
        name: &AgentName,
        wanted: Vec<(ReleaseId, Timestamp, Stragglers)>,
    ) {
        let Some(holding) = self.agents.get(name) else {
            return;
        };
        let agent = &holding.agent;
        let wanted = wanted
            .into_iter()
            .filter_map(|(release, since, stragglers)| {
                let record = agent.releases.get(&release)?;
                let workers = agent.workers.iter();
                let workers = workers.filter(|(_, worker)| worker.release == release);
                Some(Wanted {
                    release,
                    label: record.release.label.to_string(),
                    since,
                    stragglers,
                    workers: workers
                        .map(|(id, worker)| (id.clone(), worker.addr))
                        .collect(),
                    path: notify_path(&record.release),
                })
            });
        let outreach = &mut self.parts.outreach;
        outreach.ushers.want(name, wanted.collect());
        let jitter = agent.policy.stragglers.jitter;
        outreach.heralds.want(name, jitter, &told(agent));
    }

    /// Ends the calls whose turn has come. First it is written down that they end.
    pub(super) async fn end_stragglers(&mut self, name: &AgentName) -> Result<(), Refused> {
        for (release, calls, hashes) in self.parts.outreach.ushers.due(name) {
            let event = Event::EndCalls {
                release,
                calls: hashes,
            };
            match self.decide(name, Input::noticed(event)).await {
                Ok(facts) if facts.is_empty() => self.parts.outreach.ushers.leave(name, release),
                Ok(_) => self.parts.outreach.ushers.end(name, release, calls),
                Err(Refused::Illegal(_)) => self.parts.outreach.ushers.leave(name, release),
                Err(refused) => return Err(refused),
            }
        }
        Ok(())
    }
}

/// Leaves out of a plan what must not be written down: users and queries of addresses may hold
/// secrets. Whoever is asked is found in the configuration again.
pub(super) fn discreet(mut event: Event) -> Event {
    if let Event::Deploy { plan, .. } = &mut event {
        for webhook in &mut plan.webhooks {
            webhook.to.url = crate::outbound::shown(&webhook.to.url);
        }
    }
    event
}

fn question(holding: &Holding, of: (u64, u32), release: ReleaseId, webhook: &Webhook) -> Value {
    let agent = &holding.agent;
    let named = |id: ReleaseId| json!({ "id": id, "label": agent.label(id) });
    let from = agent.current().filter(|current| *current != release);
    json!({
        "type": "dev.segue.gate",
        "webhook": webhook.name,
        "agent": agent.name,
        "rollout": of.0,
        "attempt": of.1,
        "release": named(release),
        "from": from.map(named),
        "inputs": agent.inputs(clock::now(), &holding.seen),
    })
}

/// Workers that can be told how their release stands.
fn told(agent: &Agent) -> BTreeMap<WorkerId, Hearer> {
    let workers = agent.workers.iter().filter_map(|(id, worker)| {
        let record = agent.releases.get(&worker.release)?;
        let stand = match record.state {
            ReleaseState::Draining { since, .. } => Stand::Draining(since),
            ReleaseState::Drained { .. } | ReleaseState::Retiring { .. } => Stand::Empty,
            ReleaseState::Inactive
            | ReleaseState::Ramping { .. }
            | ReleaseState::Current
            | ReleaseState::Retired { .. } => Stand::Serving,
        };
        let is = Hearer {
            addr: worker.addr,
            path: notify_path(&record.release)?,
            label: record.release.label.to_string(),
            stand,
        };
        Some((id.clone(), is))
    });
    workers.collect()
}
