//! What time and reports bring: the rollout's own progress, and the life of releases that drain.

use crate::names::{GatewayId, ReleaseId};
use crate::release::ReleaseState;
use crate::rollout::agent::{Agent, Baseline, Gate, Pause, Phase, Rollout};
use crate::rollout::fact::Fact;
use crate::rollout::guard::Guard;
use crate::rollout::hold::{Hold, ROLLBACK_WAIT, SILENT_WAIT};
use crate::rollout::seen::{Count, Seen};
use crate::spec::Step;
use crate::split::Share;
use crate::table::Epoch;
use crate::time::{Millis, Timestamp};

impl Rollout {
    /// The step that comes after where the rollout is, if it ramps and there is one.
    fn next_step(&self) -> Option<(usize, &Step)> {
        let next = match self.phase {
            Phase::Canary { step, .. } => step + 1,
            _ => 0,
        };
        self.outgoing?;
        self.plan.steps.get(next).map(|step| (next, step))
    }

    /// The share that comes after where the rollout is.
    pub(super) fn next_share(&self) -> Share {
        self.next_step().map_or(Share::ALL, |(_, step)| step.share)
    }

    /// The next step or the cutover.
    pub(super) fn next_fact(&self, now: Timestamp, seen: &Seen) -> Fact {
        let base = seen.baseline(self.incoming);
        match self.next_step() {
            Some((step, plan)) => Fact::StepStarted {
                step,
                share: plan.share,
                at: now,
                base,
            },
            None => Fact::CutOver { at: now, base },
        }
    }
}

impl Agent {
    /// The next decision that is due, if any. Called again until it answers none.
    pub(super) fn advance(&self, now: Timestamp, seen: &Seen) -> Vec<Fact> {
        let facts = self
            .rollout
            .as_ref()
            .map_or_else(Vec::new, |r| self.progress(now, seen, r));
        if !facts.is_empty() {
            return facts;
        }
        self.releases
            .keys()
            .find_map(|release| self.wind_down(now, seen, *release))
            .or_else(|| self.contract_due(now, seen))
            .into_iter()
            .collect()
    }

    fn progress(&self, now: Timestamp, seen: &Seen, rollout: &Rollout) -> Vec<Fact> {
        match &rollout.phase {
            Phase::Provisioning { deadline } => self.provision(now, rollout, *deadline),
            Phase::Verifying { deadline, .. } => self.verify(now, seen, rollout, *deadline),
            Phase::Canary { step, since, base } => {
                self.ramp(now, seen, rollout, (*step, *since, base))
            }
            Phase::Promoting { since, epoch } => self.land(now, seen, *since, *epoch),
            Phase::RollingBack { since, epoch, .. } => {
                self.settle_rollback(now, seen, *since, *epoch)
            }
            Phase::Landed { .. } => self.bake(now, seen, rollout),
            Phase::RolledBack { .. } | Phase::Failed { .. } => Vec::new(),
        }
    }

    fn provision(&self, now: Timestamp, rollout: &Rollout, deadline: Timestamp) -> Vec<Fact> {
        let release = rollout.incoming;
        // The hook has a time limit of its own, and whoever runs it keeps it.
        if self.awaits_hook(rollout) && self.on(Guard::HookFirst) {
            return Vec::new();
        }
        if let Some(hold) = self.worker_hold(release) {
            // Signing is a person's, and a person is not late.
            let late = now >= deadline && !matches!(hold, Hold::Barred { .. });
            let reason = format!("{hold} after {}", rollout.plan.ready_timeout);
            return late
                .then_some(Fact::Failed { at: now, reason })
                .into_iter()
                .collect();
        }
        if rollout.paused.is_some() {
            return Vec::new();
        }
        let (have, room) = self.capacity(release);
        let report = serde_json::json!({ "workers": have, "capacity": room });
        vec![
            Fact::GatePassed {
                release,
                gate: Gate::Readiness,
                report,
            },
            Rollout::verify_again(now, &rollout.plan, 1),
        ]
    }

    fn verify(
        &self,
        now: Timestamp,
        seen: &Seen,
        rollout: &Rollout,
        deadline: Timestamp,
    ) -> Vec<Fact> {
        if rollout.paused.is_some() {
            return Vec::new();
        }
        if self.is_proven(rollout.incoming, &rollout.plan) || !self.on(Guard::GatesFirst) {
            return self.next(now, seen, rollout);
        }
        // What is left may be a person's to decide, and a person is not late.
        let tried = self
            .missing_trials(rollout.incoming, &rollout.plan)
            .is_empty();
        if tried || now < deadline {
            return Vec::new();
        }
        self.gates_late(now, rollout)
    }

    /// Why the incoming release must not have another call, if `to` can: it hurts callers. Without
    /// a worker it does no worse than another one without, as after a restart of the machine.
    pub(super) fn hurt(&self, seen: &Seen, rollout: &Rollout, to: ReleaseId) -> Option<String> {
        // Better some calls that fail than all of them; a person may do it all the same.
        if self.is_barred(to) && !self.is_deserted(rollout.incoming) {
            return None;
        }
        self.over_limit(seen, rollout).or_else(|| {
            let deserted = self.is_deserted(rollout.incoming) && !self.is_deserted(to);
            deserted.then(|| match self.worker_hold(rollout.incoming) {
                Some(hold @ Hold::Barred { .. }) => hold.to_string(),
                _ => "it has no worker left".to_owned(),
            })
        })
    }

    /// Why it stays though it hurts callers: nobody may take their calls instead.
    pub(super) fn no_way_back(&self, seen: &Seen, rollout: &Rollout) -> Option<Hold> {
        let to = rollout.outgoing.filter(|to| self.is_barred(*to))?;
        let Some(Hold::Barred { why: barred, .. }) = self.barred_hold(to, 1) else {
            return None;
        };
        let why = self.over_limit(seen, rollout)?;
        (!self.is_deserted(rollout.incoming)).then_some(Hold::NoWayBack { why, barred })
    }

    /// Whether membership keeps every call from it: each of its workers that are up is barred.
    pub(super) fn is_barred(&self, release: ReleaseId) -> bool {
        self.is_deserted(release) && self.barred_hold(release, 1).is_some()
    }

    /// Whether none of its workers is up.
    pub(super) fn is_deserted(&self, release: ReleaseId) -> bool {
        self.capacity(release).0 == 0
    }

    fn ramp(
        &self,
        now: Timestamp,
        seen: &Seen,
        rollout: &Rollout,
        (step, began, base): (usize, Timestamp, &Baseline),
    ) -> Vec<Fact> {
        // A release that hurts callers is taken back whether anybody paused it or not.
        let to = rollout.outgoing;
        if let Some((to, why)) = to.and_then(|to| Some((to, self.hurt(seen, rollout, to)?))) {
            let from = rollout.incoming;
            let reason = format!("{} at {}: {why}", self.label(from), self.share(from));
            return vec![Fact::RollbackStarted {
                rollout: rollout.id,
                from,
                to,
                reason,
                at: now,
            }];
        }
        if rollout.paused.is_some()
            || self.no_way_back(seen, rollout).is_some()
            || !self
                .step_holds(now, seen, rollout, (step, began, base))
                .is_empty()
        {
            return Vec::new();
        }
        if rollout.plan.steps.get(step).is_some_and(|step| step.pause) {
            return vec![Fact::Paused {
                pause: Pause::Step,
                at: now,
            }];
        }
        self.next(now, seen, rollout)
    }

    /// The next step or the cutover, if there is room for it and nobody else must agree.
    fn next(&self, now: Timestamp, seen: &Seen, rollout: &Rollout) -> Vec<Fact> {
        if rollout.next_share() == Share::ALL && self.awaits_approval(rollout) {
            return Vec::new();
        }
        if self
            .room_hold(now, seen, rollout, rollout.next_share())
            .is_some()
        {
            return Vec::new();
        }
        vec![rollout.next_fact(now, seen)]
    }

    fn land(&self, now: Timestamp, seen: &Seen, since: Timestamp, epoch: Epoch) -> Vec<Fact> {
        let unacked = seen.unacked(now, &self.gateways, epoch);
        // Silence counts from when somebody listened: a controller that was just restarted has
        // heard nobody, and that is no reason to land without them.
        let listening = if self.on(Guard::ColdStart) {
            since.max(seen.began())
        } else {
            since
        };
        let waited = now.since(listening) >= SILENT_WAIT;
        let landed = unacked.lagging.is_empty() && (unacked.silent.is_empty() || waited);
        if landed || !self.on(Guard::AckFirst) {
            return vec![Fact::Landed {
                at: now,
                unacked: unacked.silent,
            }];
        }
        Vec::new()
    }

    fn settle_rollback(
        &self,
        now: Timestamp,
        seen: &Seen,
        since: Timestamp,
        epoch: Epoch,
    ) -> Vec<Fact> {
        let unacked = seen.unacked(now, &self.gateways, epoch);
        let waited = now.since(since) >= ROLLBACK_WAIT;
        if !self.on(Guard::RollbackAck) {
            return vec![Fact::RolledBack {
                at: now,
                unacked: Vec::new(),
            }];
        }
        if unacked.is_empty() || waited {
            return vec![Fact::RolledBack {
                at: now,
                unacked: unacked.names(),
            }];
        }
        Vec::new()
    }

    /// The next decision about a release that takes no new calls.
    fn wind_down(&self, now: Timestamp, seen: &Seen, release: ReleaseId) -> Option<Fact> {
        let state = self.releases.get(&release)?.state;
        let count = self.count(now, seen, release);
        if let Some(reached) = self.ceiling_reached(now, release, &count) {
            return Some(reached);
        }
        match state {
            ReleaseState::Draining { empty_since, .. } => {
                self.drain(now, release, empty_since, &count)
            }
            ReleaseState::Drained { keep_until, .. } => {
                let wanted = self.is_awaited(release) || self.is_baked_against(release);
                (now >= keep_until && count.is_zero() && !wanted)
                    .then_some(Fact::Retiring { release, at: now })
            }
            ReleaseState::Retiring { from, .. } => {
                let confirmed = seen.unacked(now, &self.gateways, from).is_empty()
                    && count.is_zero()
                    || !self.on(Guard::ConfirmWithdrawal);
                confirmed.then_some(Fact::Retired {
                    release,
                    at: now,
                    epoch: from,
                })
            }
            ReleaseState::Inactive
            | ReleaseState::Ramping { .. }
            | ReleaseState::Current
            | ReleaseState::Retired { .. } => None,
        }
    }

    fn drain(
        &self,
        now: Timestamp,
        release: ReleaseId,
        empty_since: Option<Timestamp>,
        count: &Count,
    ) -> Option<Fact> {
        match (empty_since, count.is_zero()) {
            (None, true) => Some(Fact::Emptied { release, at: now }),
            (Some(_), false) => {
                let why = match count {
                    Count::Known { live, pinned } => {
                        format!("{live} live and {pinned} pinned calls")
                    }
                    Count::Unknown { gateways } => {
                        let names: Vec<&str> = gateways.iter().map(GatewayId::as_str).collect();
                        format!("no report from {}", names.join(", "))
                    }
                };
                Some(Fact::Refilled { release, why })
            }
            (Some(empty), true) => {
                let buffer = if self.on(Guard::StragglerBuffer) {
                    self.straggler_buffer()
                } else {
                    Millis(0)
                };
                let due = now.since(empty) >= buffer && !self.is_awaited(release);
                // Only a release that was current is worth standing by for a rollback.
                let standby = self.history.contains(&release);
                let keep = if standby {
                    self.policy.standby
                } else {
                    Millis(0)
                };
                due.then_some(Fact::Drained {
                    release,
                    at: now,
                    keep_until: now + keep,
                })
            }
            (None, false) => None,
        }
    }

    /// Whether a cutover that may still be rolled back to this release is not acknowledged yet.
    fn is_awaited(&self, release: ReleaseId) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| {
            matches!(rollout.phase, Phase::Promoting { .. }) && rollout.outgoing == Some(release)
        })
    }

    /// Calls of a release, as far as they are known under the table that matters for it.
    pub fn count(&self, now: Timestamp, seen: &Seen, release: ReleaseId) -> Count {
        let from = if self.on(Guard::CountsOfThisTable) {
            self.counted_from(release)
        } else {
            Epoch::default()
        };
        match seen.count(now, &self.gateways, release, from) {
            Count::Unknown { .. } if !self.on(Guard::UnknownIsNotZero) => {
                let (live, pinned) = seen.last_count(release);
                Count::Known { live, pinned }
            }
            Count::Known { live, pinned } if !self.on(Guard::PermitsCount) => Count::Known {
                live: live.saturating_sub(seen.permits(release)),
                pinned,
            },
            count => count,
        }
    }

    /// The only timer: when [`Event::Tick`](super::Event::Tick) is worth sending although nothing
    /// was reported. It may lie in the past while a condition other than time is not met; and a
    /// lease runs out without a word, so the driver ticks once a second in any case.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let rollout = self.rollout.as_ref().and_then(|is| self.deadline(is));
        let releases = self.releases.values().filter_map(|record| {
            let ends = match record.state {
                ReleaseState::Draining { empty_since, .. } => {
                    empty_since.map(|empty| empty + self.straggler_buffer())
                }
                ReleaseState::Drained { keep_until, .. } => Some(keep_until),
                _ => None,
            };
            ends.into_iter().chain(self.ceiling_due(record)).min()
        });
        rollout.into_iter().chain(releases).min()
    }

    fn deadline(&self, rollout: &Rollout) -> Option<Timestamp> {
        match &rollout.phase {
            Phase::Provisioning { .. } if self.awaits_hook(rollout) => None,
            Phase::Provisioning { deadline } | Phase::Verifying { deadline, .. } => Some(*deadline),
            Phase::Canary { step, since, .. } => rollout
                .plan
                .steps
                .get(*step)
                .map(|step| *since + step.min_duration),
            Phase::Promoting { since, .. } => Some(*since + SILENT_WAIT),
            Phase::RollingBack { since, .. } => Some(*since + ROLLBACK_WAIT),
            Phase::Landed { .. } => rollout.baking().map(|bake| {
                let idle = rollout.plan.smoke.is_some() && bake.smoking.is_none();
                let ends = bake.smoking.unwrap_or_default().max(bake.until);
                if idle { ends.min(bake.due) } else { ends }
            }),
            Phase::RolledBack { .. } | Phase::Failed { .. } => None,
        }
    }
}
