//! Numbers of workers that are connected to a dispatcher, and of what befell workers.

use std::collections::BTreeMap;

use segue_core::names::{AgentName, GatewayId};
use segue_core::plane::ConnectedWorker;
use segue_core::rollout::{Fact, Notice};

use super::metrics::track;
use super::page::{Page, labels};
use crate::api::wire::{AgentView, ReleaseView};
use crate::link::{CONNECTED_STATES, state_of};

/// A connected worker, and to whom.
pub(crate) type Listed = (GatewayId, ConnectedWorker);

/// What befell workers, by agent and kind, from the first entry of the journal on.
#[derive(Debug, Default)]
pub(super) struct Notices(BTreeMap<(AgentName, String), u64>);

impl Notices {
    pub(super) fn count(&mut self, agent: AgentName, notice: &Notice) {
        let times = match notice {
            Notice::WorkerRejected { times, .. } | Notice::MembershipRefused { times, .. } => {
                u64::from(*times)
            }
            Notice::EventsLeftOut { count, .. } => *count,
            Notice::WorkerDraining { .. }
            | Notice::WorkerSteered { .. }
            | Notice::JobRedispatched { .. } => 1,
        };
        let name = Fact::Notice(notice.clone()).name();
        *self.0.entry((agent, name)).or_default() += times;
    }

    pub(super) fn show(&self, page: &mut Page) {
        page.counters(
            "worker_events",
            "What befell workers, as the audit log has it",
            self.0.iter().map(|((agent, event), count)| {
                let labels = labels([("agent", agent.as_str()), ("event", event)]);
                (labels, *count)
            }),
        );
    }
}

/// The releases that have any.
pub(super) fn connected(
    page: &mut Page,
    releases: &[(&AgentView, &ReleaseView)],
    fleet: &[Listed],
) {
    let mut counts: BTreeMap<_, BTreeMap<&str, u32>> = BTreeMap::new();
    for (_, worker) in fleet {
        let states = counts.entry((&worker.agent, worker.release)).or_default();
        *states.entry(state_of(worker)).or_default() += 1;
    }
    let have = releases
        .iter()
        .filter_map(|(agent, is)| Some((agent, is, counts.get(&(&agent.name, is.id))?)));
    page.gauges(
        "connected_workers",
        "LiveKit workers that are connected, by state",
        have.flat_map(|(agent, is, states)| {
            CONNECTED_STATES.map(|state| {
                let mut labels = track(agent, is);
                labels.push(("state".to_owned(), state.to_owned()));
                (labels, f64::from(states.get(state).copied().unwrap_or(0)))
            })
        }),
    );
}
