//! Effects: what the world should look like. Derived from what was decided, so that after a crash
//! they are simply derived again; carrying one out twice changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::ReleaseId;
use crate::release::{Release, ReleaseState};
use crate::rollout::agent::{Agent, ContractState, Gate, Phase, ReleaseRecord};
use crate::rollout::bake::BAKE_ATTEMPTS;
use crate::rollout::gates::webhook_name;
use crate::rollout::guard::Guard;
use crate::spec::{Hook, Smoke, Stragglers, Webhook};
use crate::table::{ReleaseRoute, RoutingTable, WorkerRoute};
use crate::time::Timestamp;

/// Something the world should look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Every gateway has this table.
    Publish(Box<RoutingTable>),
    /// A release has these workers.
    Workers {
        /// Which.
        release: Box<Release>,
        /// How many.
        want: Want,
    },
    /// Smoke calls of this attempt are made, and their verdict comes back as
    /// [`Event::SmokeFinished`](super::Event::SmokeFinished). Attempts past [`BAKE_ATTEMPTS`] are
    /// rounds of the bake window.
    Smoke {
        /// Of which rollout.
        rollout: u64,
        /// Of which attempt.
        attempt: u32,
        /// What is tried.
        release: ReleaseId,
        /// How.
        smoke: Smoke,
    },
    /// Somebody else is asked, and the verdict comes back as
    /// [`Event::GateFinished`](super::Event::GateFinished) with [`Gate::Webhook`].
    Webhook {
        /// Of which rollout.
        rollout: u64,
        /// Of which attempt.
        attempt: u32,
        /// What is asked about.
        release: ReleaseId,
        /// Who is asked.
        webhook: Webhook,
    },
    /// A hook runs, once per attempt. Before a deploy its verdict comes back as
    /// [`Event::GateFinished`](super::Event::GateFinished) with [`Gate::BeforeDeploy`]; after a
    /// retirement as [`Event::ContractFinished`](super::Event::ContractFinished).
    Hook {
        /// Which.
        kind: HookKind,
        /// Of which rollout (before a deploy).
        rollout: u64,
        /// Of which attempt.
        attempt: u32,
        /// Whose.
        release: Box<Release>,
        /// What is run.
        hook: Hook,
    },
    /// The ceiling of a draining release is reached: each of its calls has its turn, at a moment
    /// of its own.
    Stragglers {
        /// Which release.
        release: ReleaseId,
        /// Since when.
        since: Timestamp,
        /// What happens.
        stragglers: Stragglers,
    },
}

/// Which hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookKind {
    /// Expand: before the first worker.
    BeforeDeploy,
    /// Contract: after the last process of an older release.
    AfterRetire,
}

/// How many workers a release should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// This many; one that dies is started again.
    Run(u32),
    /// Those that are there; none is started and none is stopped.
    Keep,
    /// None. Only ever said of a release that every gateway confirmed empty and withdrawn.
    Stop,
}

impl Agent {
    /// What the world should look like.
    pub fn effects(&self) -> Vec<Effect> {
        let workers = self.releases.iter().map(|(id, record)| Effect::Workers {
            release: Box::new(record.release.clone()),
            want: self.want(*id, record),
        });
        let publish = Effect::Publish(Box::new(self.table()));
        std::iter::once(publish)
            .chain(workers)
            .chain(self.smoke_effect())
            .chain(self.webhook_effects())
            .chain(self.hook_effects())
            .chain(self.straggler_effects())
            .collect()
    }

    fn want(&self, release: ReleaseId, record: &ReleaseRecord) -> Want {
        let awaits_hook = self
            .rollout
            .as_ref()
            .is_some_and(|is| is.incoming == release && self.awaits_hook(is));
        if awaits_hook && self.on(Guard::HookFirst) {
            return Want::Keep;
        }
        match record.state {
            // A draining release keeps its workers for reconnects, unless it never took a call:
            // one that failed is not started over and over until it is retired.
            ReleaseState::Draining { .. } | ReleaseState::Drained { .. }
                if !self.served(release) =>
            {
                Want::Keep
            }
            ReleaseState::Draining { .. } if !self.on(Guard::StopOnlyRetired) => Want::Stop,
            ReleaseState::Inactive
            | ReleaseState::Ramping { .. }
            | ReleaseState::Current
            | ReleaseState::Draining { .. }
            | ReleaseState::Drained { .. } => Want::Run(record.release.workers),
            ReleaseState::Retiring { .. } => Want::Keep,
            ReleaseState::Retired { .. } => Want::Stop,
        }
    }

    /// Whether a release that winds down took calls by the split.
    fn served(&self, release: ReleaseId) -> bool {
        self.history.contains(&release) || self.rolled_back.contains(&release)
    }

    fn smoke_effect(&self) -> Option<Effect> {
        let rollout = self.rollout.as_ref()?;
        let attempt = match rollout.phase {
            Phase::Verifying { attempt, .. } if rollout.paused.is_none() => {
                (!self.passed(rollout.incoming, &Gate::Smoke)).then_some(attempt)?
            }
            Phase::Landed { .. } => {
                let bake = rollout.baking().filter(|bake| bake.smoking.is_some())?;
                BAKE_ATTEMPTS + bake.attempt
            }
            _ => return None,
        };
        Some(Effect::Smoke {
            rollout: rollout.id,
            attempt,
            release: rollout.incoming,
            smoke: rollout.plan.smoke.clone()?,
        })
    }

    fn webhook_effects(&self) -> Vec<Effect> {
        let Some(rollout) = self.rollout.as_ref().filter(|is| is.paused.is_none()) else {
            return Vec::new();
        };
        let Phase::Verifying { attempt, .. } = rollout.phase else {
            return Vec::new();
        };
        let missing = self.missing_trials(rollout.incoming, &rollout.plan);
        let names: Vec<&str> = missing.iter().filter_map(webhook_name).collect();
        let asked = rollout.plan.webhooks.iter();
        asked
            .filter(|webhook| names.contains(&webhook.name.as_str()))
            .map(|webhook| Effect::Webhook {
                rollout: rollout.id,
                attempt,
                release: rollout.incoming,
                webhook: webhook.clone(),
            })
            .collect()
    }

    /// A pause does not break a hook off: it has begun.
    fn hook_effects(&self) -> Vec<Effect> {
        let expand = self.rollout.as_ref().and_then(|rollout| {
            let hook = rollout.plan.hooks.before_deploy.clone();
            let release = self.releases.get(&rollout.incoming)?.release.clone();
            self.awaits_hook(rollout).then_some(Effect::Hook {
                kind: HookKind::BeforeDeploy,
                rollout: rollout.id,
                attempt: 1,
                release: Box::new(release),
                hook: hook?,
            })
        });
        let contracts = self.contracts.iter().filter_map(|(id, contract)| {
            let ContractState::Running { attempt } = contract.state else {
                return None;
            };
            Some(Effect::Hook {
                kind: HookKind::AfterRetire,
                rollout: contract.rollout,
                attempt,
                release: Box::new(self.releases.get(id)?.release.clone()),
                hook: contract.hook.clone(),
            })
        });
        expand.into_iter().chain(contracts).collect()
    }

    /// The routing table of this epoch. The driver adds what is not a decision: the digest of the
    /// override token.
    pub fn table(&self) -> RoutingTable {
        let visible = |state: &ReleaseState| {
            !matches!(
                state,
                ReleaseState::Retiring { .. } | ReleaseState::Retired { .. }
            )
        };
        let releases: BTreeMap<ReleaseId, ReleaseRoute> = self
            .releases
            .iter()
            .filter(|(_, record)| visible(&record.state))
            .map(|(id, record)| {
                let route = ReleaseRoute {
                    label: record.release.label.clone(),
                    takes_new_calls: record.state.takes_new_calls(),
                    retiring: matches!(
                        record.state,
                        ReleaseState::Draining { .. } | ReleaseState::Drained { .. }
                    ),
                };
                (*id, route)
            })
            .collect();
        let workers = self
            .workers
            .iter()
            .filter(|(_, worker)| releases.contains_key(&worker.release))
            .map(|(id, worker)| {
                let route = WorkerRoute {
                    release: worker.release,
                    addr: worker.addr,
                    capacity: worker.capacity,
                    health_path: worker.health_path.clone(),
                    barred: !worker.takes_calls(),
                };
                (id.clone(), route)
            })
            .collect();
        let known = |release: &&ReleaseId| releases.contains_key(release);
        let rolled_back = self.rolled_back.iter().filter(known).copied().collect();
        RoutingTable {
            agent: self.name.clone(),
            epoch: self.epoch,
            salt: format!("rollout-{}", self.rollouts),
            split: self.split.clone(),
            releases,
            workers,
            ingress: self.ingress.clone(),
            stickiness: self.policy.stickiness,
            on_rollback: self.policy.on_rollback,
            rolled_back,
            handed_off: self.handed_off().collect(),
            rescue: self.policy.rescue,
            override_digest: None,
        }
    }
}
