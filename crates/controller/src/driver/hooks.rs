//! Hooks: which are wanted, and what came of them. Both are levels, so nothing is lost while the
//! journal cannot be written.

use segue_core::names::{AgentName, Label, ReleaseId};
use segue_core::release::Release;
use segue_core::rollout::{Agent, Event, Gate, HookKind, Verdict};
use segue_core::spec::Hook;

use super::Driver;
use crate::api::wire::{ContractView, HookView};
use crate::hooks::{Attempt, Key, word};

/// A hook as core wants it: which, of which rollout and attempt, whose, and what is run.
pub(super) type Wanted = (HookKind, (u64, u32), Box<Release>, Hook);

impl Driver {
    pub(super) fn want_hooks(&mut self, name: &AgentName, wanted: Vec<Wanted>) {
        let Some(holding) = self.agents.get(name) else {
            return;
        };
        let agent = &holding.agent;
        let attempt = |(kind, (rollout, attempt), release, hook): Wanted| Attempt {
            key: Key {
                kind,
                rollout,
                release: release.id,
                attempt,
            },
            from: before(agent, kind, release.id),
            release,
            hook,
        };
        let wanted = wanted.into_iter().map(attempt).collect();
        self.parts.hooks.want(name, wanted);
    }

    /// What came of hooks. One that is told twice is late the second time, and ignored.
    pub(super) fn hook_events(&self, name: &AgentName) -> Vec<Event> {
        let ended = self.parts.hooks.outcomes(name).into_iter();
        let event = ended.map(|(key, outcome)| match key.kind {
            HookKind::BeforeDeploy => Event::GateFinished {
                rollout: key.rollout,
                attempt: key.attempt,
                gate: Gate::BeforeDeploy,
                verdict: outcome.failed.map_or(Verdict::Successful, Verdict::Failed),
                report: outcome.report,
            },
            HookKind::AfterRetire => Event::ContractFinished {
                release: key.release,
                attempt: key.attempt,
                failed: outcome.failed,
                report: outcome.report,
            },
        });
        event.collect()
    }

    pub(super) fn hook_views(&self, agent: &Agent) -> Vec<HookView> {
        let all = self.parts.hooks.statuses(&agent.name).into_iter();
        let view = |status: crate::hooks::Status| {
            let state = match &status.outcome {
                None => "running",
                Some(outcome) if outcome.failed.is_none() => "done",
                Some(_) => "failed",
            };
            Some(HookView {
                hook: word(status.key.kind).to_owned(),
                release: label(agent, status.key.release)?,
                attempt: status.key.attempt,
                state: state.to_owned(),
                log: status.log.to_string_lossy().into_owned(),
            })
        };
        all.filter_map(view).collect()
    }
}

/// Contract hooks, for people.
pub(super) fn contract_views(agent: &Agent) -> Vec<ContractView> {
    use segue_core::rollout::ContractState;
    let all = agent.contracts.iter();
    let view = all.filter_map(|(id, contract)| {
        let reason = match &contract.state {
            ContractState::Failed { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        Some(ContractView {
            release: label(agent, *id)?,
            id: *id,
            state: contract.state.word().to_owned(),
            reason,
        })
    });
    view.collect()
}

/// The release that a hook comes after: the one that serves, or the one that was replaced.
fn before(agent: &Agent, kind: HookKind, release: ReleaseId) -> Option<Label> {
    let replaced = || {
        let rollout = agent.rollout.as_ref();
        let rollout = rollout.filter(|rollout| rollout.incoming == release);
        rollout.and_then(|rollout| rollout.outgoing)
    };
    // Several rollouts later it is the youngest of those that are older.
    let youngest = || {
        let of = agent.releases.get(&release)?.rollout;
        let older = agent.releases.iter().filter(|(_, is)| is.rollout < of);
        older.max_by_key(|(_, is)| is.rollout).map(|(id, _)| *id)
    };
    let id = match kind {
        HookKind::BeforeDeploy => agent.current(),
        HookKind::AfterRetire => replaced().or_else(youngest),
    };
    label(agent, id?)
}

fn label(agent: &Agent, id: ReleaseId) -> Option<Label> {
    let record = agent.releases.get(&id)?;
    Some(record.release.label.clone())
}
