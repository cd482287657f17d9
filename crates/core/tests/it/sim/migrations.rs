//! Hooks: they run by the platform, once for each life of the controller that finds them due.

use segue_core::names::ReleaseId;
use segue_core::release::ReleaseState;
use segue_core::rollout::{ContractState, Event, Gate, HookKind, Input, Verdict, Want};

use super::driver::Controller;
use super::platform::Life;
use super::world::World;

impl World {
    pub(crate) fn run_hook(
        &mut self,
        controller: &mut Controller,
        kind: HookKind,
        (rollout, attempt): (u64, u32),
        release: ReleaseId,
    ) {
        // One that was replaced runs nothing, as it stops no worker.
        if controller.position < self.platform.fence {
            self.coverage.hit("fault", "zombie fenced by the platform");
            return;
        }
        self.platform.fence = controller.position;
        if !controller
            .begun
            .insert(format!("hook {kind:?} {rollout} {attempt} {release}"))
        {
            return;
        }
        self.trace(|| format!("{kind:?} of {} runs", self.label(release)));
        let failed = self.rng.chance(200);
        let report = serde_json::json!({ "code": u32::from(failed) });
        let why = "it exited with 1".to_owned();
        let event = match kind {
            HookKind::BeforeDeploy => Event::GateFinished {
                rollout,
                attempt,
                gate: Gate::BeforeDeploy,
                verdict: match self.rng.below(10) {
                    _ if failed => Verdict::Failed(why),
                    0 => Verdict::Inconclusive("it was lost sight of".to_owned()),
                    _ => Verdict::Successful,
                },
                report,
            },
            HookKind::AfterRetire => {
                self.a_contract_runs_last(None);
                Event::ContractFinished {
                    release,
                    attempt,
                    failed: failed.then_some(why),
                    report,
                }
            }
        };
        let length = self.rng.heavy(2_000, 30_000);
        self.word_comes_after(length, controller.life, &Input::noticed(event));
    }

    /// Nobody who knows the whole journal wants workers of a release whose hook has not run.
    pub(crate) fn no_worker_before_its_hook(
        &mut self,
        position: usize,
        release: ReleaseId,
        want: Want,
    ) {
        let informed = position == self.journal.facts.len();
        if !matches!(want, Want::Run(_)) || !informed {
            return;
        }
        let Some(rollout) = &self.truth.agent.rollout else {
            return;
        };
        let inactive = self.truth.state(release) == Some(ReleaseState::Inactive);
        let passed = self
            .truth
            .gates
            .get(&release)
            .is_some_and(|gates| gates.contains(&Gate::BeforeDeploy));
        let skipped = self.truth.skipped.contains(&release);
        let waits = rollout.incoming == release && rollout.plan.hooks.before_deploy.is_some();
        if waits && inactive && !passed && !skipped {
            let text = self.label(release);
            self.violate("no_worker_before_its_hook", text);
        }
    }

    /// While a contract runs no process of an older release lives, and none is started.
    pub(crate) fn a_contract_runs_last(&mut self, starts: Option<ReleaseId>) {
        let running: Vec<(ReleaseId, u64)> = self
            .truth
            .agent
            .contracts
            .iter()
            .filter(|(_, contract)| matches!(contract.state, ContractState::Running { .. }))
            .map(|(release, contract)| (*release, contract.rollout))
            .collect();
        for (release, rollout) in running {
            let first = self.truth.rollouts[&release].0;
            let older = |id: &ReleaseId| {
                let (was_first, was_last) = self.truth.rollouts[id];
                *id != release && (was_first < first || starts.is_none() && was_last < rollout)
            };
            let lives = self
                .platform
                .workers
                .values()
                .filter(|worker| worker.life != Life::Gone)
                .map(|worker| worker.release)
                .chain(starts)
                .find(older);
            if let Some(old) = lives {
                let text = format!(
                    "{} while {} contracts",
                    self.label(old),
                    self.label(release)
                );
                self.violate("a_contract_runs_last", text);
            }
        }
    }
}
