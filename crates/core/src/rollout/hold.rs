//! Why a rollout does not move on, computed from what is known now. Nothing here is stored.

use std::fmt;

use crate::names::{GatewayId, ReleaseId};
use crate::rollout::agent::{Agent, Baseline, Gate, Pause, Phase, Rollout};
use crate::rollout::gates::webhook_name;
use crate::rollout::guard::Guard;
use crate::rollout::seen::{Count, Seen};
use crate::spec::Limits;
use crate::split::Share;
use crate::table::Epoch;
use crate::time::{Millis, Timestamp};

/// A condition that is not met yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Workers are still starting.
    Workers {
        /// How many are up.
        have: u32,
        /// How many there must be.
        need: u32,
    },
    /// Its workers are up, and their membership does not let them take calls.
    Barred {
        /// How many.
        workers: u32,
        /// Why, in one word.
        why: String,
    },
    /// Its hook runs, before its first worker is started.
    Hook,
    /// Smoke calls are being made.
    Gate,
    /// These webhooks have not agreed.
    Webhooks {
        /// Their names.
        names: Vec<String>,
    },
    /// A person must agree.
    Approval,
    /// It has landed, and may still be rolled back by itself. Nobody has to wait for it.
    Baking {
        /// Until when.
        until: Timestamp,
    },
    /// It hurts callers, and with the release before it they would get no answer at all.
    NoWayBack {
        /// What is wrong with it.
        why: String,
        /// Why that one's workers are barred, in one word.
        barred: String,
    },
    /// The bake window does not end: no smoke calls in it succeeded.
    NothingProved,
    /// An operator, a step or a gate asks to wait.
    Paused(Pause),
    /// Too few calls ended in this step.
    MinCalls {
        /// How many did.
        have: u64,
        /// How many must.
        need: u64,
    },
    /// The step is too young.
    MinDuration {
        /// Until when.
        until: Timestamp,
    },
    /// The incoming release could not hold its share of the calls.
    NoRoom {
        /// Calls its workers can hold.
        have: u64,
        /// Calls it must be able to hold.
        need: u64,
    },
    /// These gateways have not reported lately: no data, no verdict.
    Unknown {
        /// Their names.
        gateways: Vec<GatewayId>,
    },
    /// These gateways have not acknowledged.
    Unacked {
        /// Their names.
        gateways: Vec<GatewayId>,
    },
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |gateways: &[GatewayId]| {
            gateways
                .iter()
                .map(GatewayId::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        };
        match self {
            Self::Workers { have, need } => write!(f, "{have} of {need} workers ready"),
            Self::Barred { workers, why } => write!(
                f,
                "membership bars {workers} of its workers ({why}); {}",
                way_out(why)
            ),
            Self::Hook => write!(f, "the hook before_deploy runs"),
            Self::Gate => write!(f, "smoke calls are being made"),
            Self::Webhooks { names } => write!(f, "webhook {} has not agreed", names.join(", ")),
            Self::Approval => write!(f, "it waits for an approval"),
            Self::Baking { .. } => write!(f, "it bakes: it may still be rolled back by itself"),
            Self::NoWayBack { why, barred } => write!(
                f,
                "{why}, and membership bars every worker of the release before it ({barred}); {}",
                way_out(barred)
            ),
            Self::NothingProved => write!(
                f,
                "its bake window stays open: none of its smoke calls succeeded so far"
            ),
            Self::Paused(Pause::Operator { reason }) => write!(f, "paused: {reason}"),
            Self::Paused(Pause::Step) => write!(f, "the step asks for an operator"),
            Self::Paused(Pause::Inconclusive { reason }) => write!(f, "inconclusive: {reason}"),
            Self::MinCalls { have, need } => write!(f, "{have} of {need} calls ended in this step"),
            Self::MinDuration { .. } => write!(f, "the step has not lasted long enough"),
            Self::NoRoom { have, need } => {
                write!(f, "its workers hold {have} calls, {need} are needed")
            }
            Self::Unknown { gateways } => write!(f, "no report from {}", names(gateways)),
            Self::Unacked { gateways } => {
                write!(f, "not acknowledged by {}", names(gateways))
            }
        }
    }
}

/// What to do about workers that are barred.
fn way_out(why: &str) -> &'static str {
    match why {
        "unregistered" | "revoked" | "unknown-key" | "expired" | "contradiction" => {
            "give them tokens with `segue membership token`"
        }
        _ => "admit the release with `segue membership sign`",
    }
}

impl Agent {
    /// Why the rollout waits, if it does.
    pub fn holds(&self, now: Timestamp, seen: &Seen) -> Vec<Hold> {
        let Some(rollout) = &self.rollout else {
            return Vec::new();
        };
        let mut holds: Vec<Hold> = rollout
            .paused
            .clone()
            .map(Hold::Paused)
            .into_iter()
            .collect();
        match &rollout.phase {
            Phase::Provisioning { .. } if self.awaits_hook(rollout) => holds.push(Hold::Hook),
            Phase::Provisioning { .. } => holds.extend(self.worker_hold(rollout.incoming)),
            Phase::Verifying { .. } => {
                let gates = self.gate_holds(rollout);
                if gates.is_empty() {
                    holds.extend(self.next_holds(now, seen, rollout));
                }
                holds.extend(gates);
            }
            Phase::Canary { step, since, base } => {
                holds.extend(self.no_way_back(seen, rollout));
                holds.extend(self.step_holds(now, seen, rollout, (*step, *since, base)));
                holds.extend(self.next_holds(now, seen, rollout));
                if self.is_deserted(rollout.incoming) {
                    holds.extend(self.worker_hold(rollout.incoming));
                }
            }
            Phase::Promoting { epoch, .. } | Phase::RollingBack { epoch, .. } => {
                let gateways = seen.unacked(now, &self.gateways, *epoch).names();
                if !gateways.is_empty() {
                    holds.push(Hold::Unacked { gateways });
                }
            }
            Phase::Landed { .. } => {
                if let Some(bake) = rollout.baking() {
                    holds.push(Hold::Baking { until: bake.until });
                    holds.extend(self.no_way_back(seen, rollout));
                    if self.is_deserted(rollout.incoming) {
                        holds.extend(self.worker_hold(rollout.incoming));
                    }
                    if now >= bake.until && self.is_unproven(rollout, &bake) {
                        holds.push(Hold::NothingProved);
                    }
                    let gateways = seen.silent(now, &self.gateways);
                    if now >= bake.until && !gateways.is_empty() {
                        holds.push(Hold::Unknown { gateways });
                    }
                }
            }
            Phase::RolledBack { .. } | Phase::Failed { .. } => {}
        }
        holds
    }

    /// Gates that have not passed. Trials of a paused rollout are not going on.
    fn gate_holds(&self, rollout: &Rollout) -> Vec<Hold> {
        if self.is_proven(rollout.incoming, &rollout.plan) {
            return Vec::new();
        }
        let missing = self.missing_gates(rollout.incoming, &rollout.plan);
        let mut holds = Vec::new();
        if rollout.paused.is_none() {
            let names: Vec<String> = missing
                .iter()
                .filter_map(webhook_name)
                .map(str::to_owned)
                .collect();
            let smoke = missing.contains(&Gate::Smoke);
            holds.extend(smoke.then_some(Hold::Gate));
            holds.extend((!names.is_empty()).then_some(Hold::Webhooks { names }));
        }
        holds.extend(missing.contains(&Gate::Approval).then_some(Hold::Approval));
        holds
    }

    /// What the next step or the cutover waits for, beside the end of this one.
    fn next_holds(&self, now: Timestamp, seen: &Seen, rollout: &Rollout) -> Vec<Hold> {
        let share = rollout.next_share();
        let approval = share == Share::ALL && self.awaits_approval(rollout);
        let room = self.room_hold(now, seen, rollout, share);
        let approval = approval.then_some(Hold::Approval);
        approval.into_iter().chain(room).collect()
    }

    pub(super) fn worker_hold(&self, release: ReleaseId) -> Option<Hold> {
        let need = self
            .releases
            .get(&release)
            .map_or(1, |record| record.release.workers);
        let (have, _) = self.capacity(release);
        let missing = need.checked_sub(have).filter(|missing| *missing > 0)?;
        let barred = self.barred_hold(release, missing);
        Some(barred.unwrap_or(Hold::Workers { have, need }))
    }

    /// What keeps a canary step from ending, beside room for the next one.
    pub(super) fn step_holds(
        &self,
        now: Timestamp,
        seen: &Seen,
        rollout: &Rollout,
        (step, began, base): (usize, Timestamp, &Baseline),
    ) -> Vec<Hold> {
        let Some(step) = rollout.plan.steps.get(step) else {
            return Vec::new();
        };
        let mut holds = Vec::new();
        let silent = seen.silent(now, &self.gateways);
        if !silent.is_empty() && self.on(Guard::NoDataNoVerdict) {
            holds.push(Hold::Unknown { gateways: silent });
        }
        let have = seen.since(rollout.incoming, base).ended;
        if have < step.min_calls {
            holds.push(Hold::MinCalls {
                have,
                need: step.min_calls,
            });
        }
        let until = began + step.min_duration;
        if now < until {
            holds.push(Hold::MinDuration { until });
        }
        holds
    }

    /// Whether the incoming release has room for a share of the calls in progress (I7).
    ///
    /// While the old release drains, calls arrive at today's rate and stay for today's lengths,
    /// so the incoming release comes to hold its share of the calls in progress now (Little's
    /// law). It must also hold what it has already.
    pub(super) fn room_hold(
        &self,
        now: Timestamp,
        seen: &Seen,
        rollout: &Rollout,
        share: Share,
    ) -> Option<Hold> {
        let mut total = 0;
        let mut own = 0;
        for release in self.releases.keys() {
            match seen.count(now, &self.gateways, *release, Epoch::default()) {
                Count::Known { live, .. } => {
                    total += live;
                    own = if *release == rollout.incoming {
                        live
                    } else {
                        own
                    };
                }
                Count::Unknown { .. } if !self.on(Guard::NoDataNoVerdict) => {
                    total += seen.last_count(*release).0;
                }
                Count::Unknown { gateways } => return Some(Hold::Unknown { gateways }),
            }
        }
        let need = (total * u64::from(share.0))
            .div_ceil(10_000)
            .max(own)
            .max(1);
        let (_, have) = self.capacity(rollout.incoming);
        (have < need && self.on(Guard::Room)).then_some(Hold::NoRoom { have, need })
    }

    /// What the limits say of the incoming release, judged on its calls since it began to ramp.
    pub(super) fn over_limit(&self, seen: &Seen, rollout: &Rollout) -> Option<String> {
        if !self.on(Guard::LimitsTrip) {
            return None;
        }
        let totals = seen.since(rollout.incoming, &rollout.ramp_base);
        let Limits {
            drops,
            errors,
            min_calls,
        } = rollout.plan.limits;
        let over = |bad: u64, all: u64, limit: Share| {
            bad * 10_000 > u64::from(limit.0) * all.max(min_calls)
        };
        let (dropped, ended) = (totals.dropped, totals.ended);
        let rescued = totals.rescued;
        // A call that is rescued goes on, so it may be more than once among the one and not yet
        // among the others.
        if rescued > 0 && over(dropped + rescued, ended, drops) {
            return Some(format!(
                "{dropped} of {ended} calls dropped and {rescued} rescued from dead workers, limit \
                 {drops}"
            ));
        }
        if over(dropped, ended, drops) {
            return Some(format!("{dropped} of {ended} calls dropped, limit {drops}"));
        }
        let (failed, started) = (totals.errors, totals.started);
        if over(failed, started, errors) {
            return Some(format!(
                "{failed} of {started} calls failed to connect, limit {errors}"
            ));
        }
        None
    }
}

/// How long a cutover waits for known gateways whose lease has run out before it lands without
/// them and names them: a lease and a half, so that one that merely reconnects is not named.
pub const SILENT_WAIT: Millis = Millis(4_500);

/// How long a rollback waits for acknowledgment before it returns and names the rest (I5).
pub const ROLLBACK_WAIT: Millis = Millis(1_000);
