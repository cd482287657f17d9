//! What the driver knows, as clients read it.

use std::collections::{BTreeMap, BTreeSet};

use segue_core::names::{AgentName, GatewayId, ReleaseId, WorkerId};
use segue_core::release::{Release, ReleaseState};
use segue_core::rollout::{Agent, Count, Hold, Phase, ReleaseRecord, Rollout, Seen};
use segue_core::split::Share;
use segue_core::time::Timestamp;

use super::hooks::contract_views;
use super::{Driver, Holding};
use crate::api::wire::{
    AgentView, ComponentView, GatewayView, JournalView, ReleaseView, RolloutView, StatusView,
    WorkerView,
};
use crate::clock;
use crate::platform::{ComponentStatus, WorkerState, WorkerStatus};

/// Retired releases shown.
const RETIRED_MAX: usize = 5;

impl Driver {
    pub(super) fn status_view(&self) -> StatusView {
        let now = clock::now();
        StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: now,
            agents: self
                .agents
                .keys()
                .filter_map(|name| self.agent_view(name))
                .collect(),
            gateways: self.gateway_views(now),
            journal: JournalView {
                entries: self.head.seq,
                head: self.head.hash.clone(),
                error: self
                    .behind
                    .as_ref()
                    .or(self.journal_error.as_ref())
                    .cloned(),
            },
        }
    }

    fn gateway_views(&self, now: Timestamp) -> Vec<GatewayView> {
        let known = self.agents().flat_map(|agent| &agent.gateways);
        let known: BTreeSet<&GatewayId> = known.chain(&self.met).collect();
        let view = |gateway: &GatewayId| {
            let epochs = self
                .agents
                .iter()
                .filter_map(|(name, holding)| Some((name.clone(), holding.seen.epoch(gateway)?)));
            let leased = |holding: &Holding| holding.seen.is_leased(now, gateway);
            GatewayView {
                gateway: gateway.clone(),
                leased: self.agents.values().any(leased),
                epochs: epochs.collect(),
            }
        };
        known.into_iter().map(view).collect()
    }

    pub(super) fn agent_view(&self, name: &AgentName) -> Option<AgentView> {
        self.look(name, |look| AgentView {
            name: name.clone(),
            revision: look.agent.revision,
            epoch: look.agent.epoch,
            phase: look.agent.phase_word().to_owned(),
            holds: look.holding.holds(look.now),
            rollout: look
                .agent
                .rollout
                .as_ref()
                .map(|rollout| look.rollout(rollout)),
            releases: look.releases(),
            live: look.live,
            contracts: contract_views(look.agent),
            hooks: self.hook_views(look.agent),
        })
    }

    /// A release as it is, with what it is made of.
    pub(super) fn release_view(
        &self,
        name: &AgentName,
        id: ReleaseId,
    ) -> Option<(ReleaseView, Release)> {
        let record = self.agents.get(name)?.agent.releases.get(&id)?;
        let view = self.look(name, |look| look.release(id, record))?;
        Some((view, record.release.clone()))
    }

    fn look<T>(&self, name: &AgentName, read: impl FnOnce(&Look<'_>) -> T) -> Option<T> {
        let holding = self.agents.get(name)?;
        let (agent, seen, now) = (&holding.agent, &holding.seen, clock::now());
        let workers = self.parts.platform.workers(name);
        let components = self.parts.platform.components(name);
        let busy = self.calls_by_worker(holding, now);
        let live: u64 = agent.releases.keys().map(|id| seen.last_count(*id).0).sum();
        Some(read(&Look {
            holding,
            agent,
            seen,
            now,
            workers: &workers,
            components: &components,
            busy: &busy,
            live,
        }))
    }

    fn calls_by_worker(&self, holding: &Holding, now: Timestamp) -> BTreeMap<WorkerId, u32> {
        let leased = self.reports.values();
        let leased = leased.filter(|report| holding.seen.is_leased(now, &report.gateway));
        let of_agent = leased.filter_map(|report| report.agents.get(&holding.agent.name));
        let mut calls = BTreeMap::new();
        for (worker, count) in of_agent.flat_map(|presence| &presence.workers) {
            *calls.entry(worker.clone()).or_default() += count;
        }
        calls
    }
}

impl Holding {
    fn holds(&self, now: Timestamp) -> Vec<String> {
        let holds = self.agent.holds(now, &self.seen).into_iter();
        let words = holds.map(|hold| match hold {
            Hold::Workers { .. } => self.with_trouble(hold.to_string()),
            _ => hold.to_string(),
        });
        words.chain(self.lagging()).collect()
    }
}

/// One agent, looked at once.
struct Look<'a> {
    holding: &'a Holding,
    agent: &'a Agent,
    seen: &'a Seen,
    now: Timestamp,
    workers: &'a [WorkerStatus],
    components: &'a [ComponentStatus],
    busy: &'a BTreeMap<WorkerId, u32>,
    live: u64,
}

impl Look<'_> {
    fn rollout(&self, rollout: &Rollout) -> RolloutView {
        let label = |id: ReleaseId| {
            self.agent
                .releases
                .get(&id)
                .map(|is| is.release.label.clone())
        };
        let unknown = || {
            rollout
                .incoming
                .short()
                .parse()
                .expect("digits are a label")
        };
        let (step, reason, unacked) = match &rollout.phase {
            Phase::Canary { step, .. } => (Some(*step), None, Vec::new()),
            Phase::Promoting { epoch, .. } => (None, None, self.unacked(*epoch)),
            Phase::RollingBack { epoch, reason, .. } => {
                (None, Some(reason.clone()), self.unacked(*epoch))
            }
            Phase::Landed { unacked, .. } => (None, None, unacked.clone()),
            Phase::RolledBack {
                reason, unacked, ..
            } => (None, Some(reason.clone()), unacked.clone()),
            Phase::Failed { reason, .. } => (None, Some(self.holding.reason(reason)), Vec::new()),
            Phase::Provisioning { .. } | Phase::Verifying { .. } => (None, None, Vec::new()),
        };
        RolloutView {
            id: rollout.id,
            incoming: label(rollout.incoming).unwrap_or_else(unknown),
            incoming_id: rollout.incoming,
            outgoing: rollout.outgoing.and_then(label),
            step,
            steps: rollout.plan.steps.clone(),
            paused: rollout.paused.is_some(),
            reason,
            unacked,
            started: rollout.started,
        }
    }

    fn unacked(&self, epoch: segue_core::table::Epoch) -> Vec<GatewayId> {
        self.seen
            .unacked(self.now, &self.agent.gateways, epoch)
            .names()
    }

    /// The current one first, then by age of their state; of the retired ones the last few.
    fn releases(&self) -> Vec<ReleaseView> {
        let all = self.agent.releases.iter();
        let (mut retired, mut running): (Vec<_>, Vec<_>) =
            all.partition(|(_, is)| matches!(is.state, ReleaseState::Retired { .. }));
        running.sort_by_key(|(id, is)| (order(&is.state), **id));
        retired.sort_by_key(|(_, is)| std::cmp::Reverse(since(&is.state)));
        retired.truncate(RETIRED_MAX);
        running
            .into_iter()
            .chain(retired)
            .map(|(id, is)| self.release(*id, is))
            .collect()
    }

    fn release(&self, id: ReleaseId, is: &ReleaseRecord) -> ReleaseView {
        let (live, pinned) = self.seen.last_count(id);
        let unknown = match self.agent.count(self.now, self.seen, id) {
            Count::Known { .. } => Vec::new(),
            Count::Unknown { gateways } => gateways,
        };
        let totals = self.seen.totals(id);
        let (workers_ready, capacity) = self.agent.capacity(id);
        let retired = matches!(is.state, ReleaseState::Retired { .. });
        let ours = self.workers.iter().filter(|status| status.release == id);
        ReleaseView {
            id,
            label: is.release.label.clone(),
            slot: is.slot,
            state: is.state.word().to_owned(),
            share_bp: self.agent.share(id).0,
            live_share_bp: share_of(live, self.live),
            live,
            pinned,
            unknown,
            workers_ready,
            workers_want: if retired { 0 } else { is.release.workers },
            capacity,
            started: totals.started,
            ended: totals.ended,
            dropped: totals.dropped,
            errors: totals.errors,
            lost: totals.lost,
            policy: totals.policy,
            rescued: totals.rescued,
            closes: totals.closes,
            workers: ours.map(|status| self.worker(status)).collect(),
            components: self.components(id, is),
        }
    }

    fn components(&self, id: ReleaseId, is: &ReleaseRecord) -> Vec<ComponentView> {
        let ours = self.components.iter().filter(|is| is.release == id);
        let made_of = &is.release.content.components;
        let view = |status: &ComponentStatus| ComponentView {
            name: status.component.clone(),
            version: made_of
                .get(&status.component)
                .and_then(|component| component.version.clone()),
            state: status.state.word().to_owned(),
            pid: status.pid,
            port: status.addr.port(),
            restarts: status.restarts,
            log: status.log.to_string_lossy().into_owned(),
            why: Some(status.why.clone()).filter(|why| !why.is_empty()),
        };
        ours.map(view).collect()
    }

    fn worker(&self, status: &WorkerStatus) -> WorkerView {
        let calls = self.busy.get(&status.worker).copied().unwrap_or(0);
        let state = match status.state {
            WorkerState::Ready if calls > 0 => "allocated",
            state => state.word(),
        };
        let record = self.agent.workers.get(&status.worker);
        WorkerView {
            id: status.worker.clone(),
            state: state.to_owned(),
            calls,
            pid: status.pid,
            port: status.addr.port(),
            restarts: status.restarts,
            log: status.log.to_string_lossy().into_owned(),
            why: Some(status.why.clone()).filter(|why| !why.is_empty()),
            barred: record.and_then(|is| is.barred.clone()),
            token: record.and_then(|is| Some(is.badge.as_ref()?.token.clone())),
        }
    }
}

fn share_of(part: u64, all: u64) -> u16 {
    let whole = u64::from(Share::ALL.0);
    let share = (part * whole).checked_div(all).unwrap_or(0);
    u16::try_from(share.min(whole)).unwrap_or(Share::ALL.0)
}

fn order(state: &ReleaseState) -> u8 {
    match state {
        ReleaseState::Current => 0,
        ReleaseState::Ramping { .. } => 1,
        ReleaseState::Inactive => 2,
        ReleaseState::Draining { .. } => 3,
        ReleaseState::Drained { .. } => 4,
        ReleaseState::Retiring { .. } => 5,
        ReleaseState::Retired { .. } => 6,
    }
}

fn since(state: &ReleaseState) -> Timestamp {
    match state {
        ReleaseState::Retired { since } => *since,
        _ => Timestamp::default(),
    }
}
