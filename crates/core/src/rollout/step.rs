//! Deciding: one event, looked at in the light of what is known, becomes facts or is illegal.

use crate::names::ReleaseId;
use crate::release::{Release, ReleaseState};
use crate::rollout::agent::{Agent, Pause, Phase, Rollout};
use crate::rollout::bake::BAKE_ATTEMPTS;
use crate::rollout::event::{Event, Input};
use crate::rollout::fact::Fact;
use crate::rollout::guard::Guard;
use crate::rollout::illegal::Illegal;
use crate::rollout::seen::Seen;
use crate::slot::Slot;
use crate::spec::Plan;
use crate::split::Share;
use crate::time::Timestamp;

impl Agent {
    /// Decides. Changes nothing: the driver journals the facts, then applies them.
    ///
    /// After an event, send [`Event::Tick`] until it answers no facts, and again at
    /// [`next_deadline`](Self::next_deadline) and after each report.
    ///
    /// # Errors
    ///
    /// [`Illegal`] when the event does not fit; nothing has happened then.
    pub fn step(&self, now: Timestamp, seen: &Seen, input: &Input) -> Result<Vec<Fact>, Illegal> {
        if let Some(revision) = input.if_revision
            && revision != self.revision
            && self.on(Guard::ConflictToken)
        {
            return Err(Illegal::Conflict {
                asked: revision,
                is: self.revision,
            });
        }
        match &input.event {
            Event::Tick => Ok(self.advance(now, seen)),
            Event::Configured { ingress, policy } => {
                let same = self.epoch.0 > 0 && self.ingress == **ingress && self.policy == *policy;
                let (ingress, policy) = ((**ingress).clone(), policy.clone());
                Ok(if same {
                    Vec::new()
                } else {
                    vec![Fact::Configured { ingress, policy }]
                })
            }
            Event::WorkerReady { .. } | Event::WorkerGone { .. } => Ok(self.worker(&input.event)),
            Event::WorkerStands {
                worker,
                badge,
                barred,
            } => {
                let fact = self.stands(worker, badge.as_ref(), barred.as_ref());
                Ok(fact.into_iter().collect())
            }
            Event::GatewayJoined { gateway } => Ok(if self.gateways.contains(gateway) {
                Vec::new()
            } else {
                vec![Fact::GatewayJoined {
                    gateway: gateway.clone(),
                }]
            }),
            Event::SmokeFinished {
                rollout,
                attempt,
                verdict,
                report,
            } => {
                let of = (*rollout, *attempt);
                Ok(if *attempt > BAKE_ATTEMPTS {
                    self.bake_smoked(of, verdict, report, now)
                } else {
                    self.smoke(of, verdict, report, now)
                })
            }
            Event::Deploy { release, plan } => self.deploy(now, seen, release, plan),
            Event::GateFinished {
                rollout,
                attempt,
                gate,
                verdict,
                report,
            } => Ok(self.gate_finished(now, (*rollout, *attempt), gate, verdict, report)),
            Event::ContractFinished {
                release,
                attempt,
                failed,
                report,
            } => Ok(self.contract_finished(now, (*release, *attempt), failed.as_ref(), report)),
            Event::Approve { release } => self.approve(input, *release),
            Event::Contract { release } => self.contract(now, seen, *release),
            Event::EndCalls { release, calls } => self.end_calls(now, *release, calls),
            Event::Pause => self.pause(now, input),
            Event::Resume => self.resume(now, seen),
            Event::Promote { full, skip_gates } => {
                self.promote(now, seen, input, *full, *skip_gates)
            }
            Event::Abort => self.abort(now, input),
            Event::Rollback { from } => self.rollback(now, input, *from),
            Event::Drain { release } => self.drain_current(now, *release),
            Event::Retire { release } => self.retire(now, seen, *release),
            Event::ForgetGateway { gateway } => self.forget(now, seen, input, gateway),
            Event::Notice(notice) => Ok(vec![Fact::Notice((**notice).clone())]),
        }
    }

    fn worker(&self, event: &Event) -> Vec<Fact> {
        match event {
            Event::WorkerReady {
                worker,
                release,
                addr,
                capacity,
                health_path,
                barred,
            } => {
                let known = self
                    .workers
                    .get(worker)
                    .is_some_and(|is| (is.addr, is.capacity) == (*addr, *capacity));
                let wanted = self
                    .releases
                    .get(release)
                    .is_some_and(|record| !matches!(record.state, ReleaseState::Retired { .. }));
                if known || !wanted {
                    return Vec::new();
                }
                vec![Fact::WorkerReady {
                    worker: worker.clone(),
                    release: *release,
                    addr: *addr,
                    capacity: *capacity,
                    health_path: health_path.clone(),
                    barred: barred.clone(),
                }]
            }
            Event::WorkerGone { worker, why } if self.workers.contains_key(worker) => {
                vec![Fact::WorkerGone {
                    worker: worker.clone(),
                    why: why.clone(),
                }]
            }
            _ => Vec::new(),
        }
    }

    fn deploy(
        &self,
        now: Timestamp,
        seen: &Seen,
        release: &Release,
        plan: &Plan,
    ) -> Result<Vec<Fact>, Illegal> {
        if self.is_rolling_out() {
            let incoming = self
                .rollout
                .as_ref()
                .map(|rollout| self.label(rollout.incoming));
            let phase = self.phase_word();
            return Err(Illegal::Busy {
                incoming: incoming.unwrap_or_default(),
                phase,
            });
        }
        match self.releases.get(&release.id).map(|record| record.state) {
            Some(ReleaseState::Current) => {
                return Err(Illegal::AlreadyCurrent {
                    label: self.label(release.id),
                });
            }
            Some(ReleaseState::Retiring { .. }) => {
                return Err(Illegal::BeingRetired {
                    label: self.label(release.id),
                });
            }
            _ => {}
        }
        // It would start under the migration that takes away what it needs.
        if let Some(newer) = self.contract_against(release.id)
            && self.on(Guard::ContractLast)
        {
            let (label, newer) = (self.label(release.id), self.label(newer));
            return Err(Illegal::ContractRuns { label, newer });
        }
        let current = self.current();
        let slot = current
            .and_then(|id| self.releases[&id].slot)
            .map_or(Slot::Blue, Slot::other);
        let displaced = self
            .in_state(|state| !matches!(state, ReleaseState::Retired { .. }))
            .find(|id| *id != release.id && self.releases[id].slot == Some(slot));
        let mut facts: Vec<Fact> = self.end_bake(now).into_iter().collect();
        facts.extend(self.make_room_for_tail(now, seen, release.id, displaced)?);
        let before = self.releases.get(&release.id);
        let fast_track = plan.fast_track && before.is_some_and(|before| before.served_well);
        let mut plan = plan.clone();
        // What is journaled is the plan that is carried out.
        if fast_track {
            plan.steps.clear();
            plan.approval = None;
        }
        facts.push(Fact::Deployed {
            rollout: self.rollouts + 1,
            release: release.clone(),
            plan,
            slot,
            displaced,
            at: now,
            fast_track,
        });
        Ok(facts)
    }

    /// With one release more than may be without a slot, the oldest drained one that is no
    /// rollback target goes; if all still drain, the deploy must wait.
    fn make_room_for_tail(
        &self,
        now: Timestamp,
        seen: &Seen,
        incoming: ReleaseId,
        displaced: Option<ReleaseId>,
    ) -> Result<Vec<Fact>, Illegal> {
        let tails: Vec<ReleaseId> = self
            .releases
            .iter()
            .filter(|(id, record)| {
                let waits = matches!(
                    record.state,
                    ReleaseState::Draining { .. } | ReleaseState::Drained { .. }
                );
                waits && **id != incoming && (record.slot.is_none() || displaced == Some(**id))
            })
            .map(|(id, _)| *id)
            .collect();
        if tails.len() <= self.policy.max_tails as usize {
            return Ok(Vec::new());
        }
        let target = self.rollback_target();
        let reclaimable = tails
            .iter()
            .filter(|id| Some(**id) != target || tails.len() == 1)
            .filter(|id| {
                !self.on(Guard::ReclaimOnlyDrained) || self.count(now, seen, **id).is_zero()
            })
            .filter_map(|id| match self.releases[id].state {
                ReleaseState::Drained { since, .. } => Some((since, *id)),
                ReleaseState::Draining { since, .. } if !self.on(Guard::ReclaimOnlyDrained) => {
                    Some((since, *id))
                }
                _ => None,
            })
            .min();
        match reclaimable {
            Some((_, release)) => Ok(vec![Fact::Retiring { release, at: now }]),
            None => Err(Illegal::TooManyTails {
                draining: tails
                    .iter()
                    .map(|id| {
                        (
                            self.releases[id].release.label.clone(),
                            seen.last_count(*id).0,
                        )
                    })
                    .collect(),
            }),
        }
    }

    fn pause(&self, now: Timestamp, input: &Input) -> Result<Vec<Fact>, Illegal> {
        let rollout = self.under_way("pause")?;
        match rollout.phase {
            _ if rollout.paused.is_some() => Err(Illegal::AlreadyPaused),
            Phase::Provisioning { .. } | Phase::Verifying { .. } | Phase::Canary { .. } => {
                let pause = Pause::Operator {
                    reason: input.reason_text("paused"),
                };
                Ok(vec![Fact::Paused { pause, at: now }])
            }
            _ => Err(self.not_now("pause")),
        }
    }

    fn resume(&self, now: Timestamp, seen: &Seen) -> Result<Vec<Fact>, Illegal> {
        let rollout = self.under_way("resume")?;
        match (&rollout.paused, &rollout.phase) {
            (None, _) => Err(Illegal::NotPaused),
            // The step has ended: going on means going to the next one.
            (Some(Pause::Step), Phase::Canary { .. }) => {
                let share = rollout.next_share();
                self.approved(rollout, share)?;
                self.room(now, seen, rollout, share)?;
                Ok(vec![rollout.next_fact(now, seen)])
            }
            // A gate that could not tell is tried again.
            (Some(Pause::Inconclusive { .. }), Phase::Verifying { attempt, .. }) => {
                Ok(vec![Rollout::verify_again(now, &rollout.plan, attempt + 1)])
            }
            // Smoke calls may have run out of time meanwhile, so they are made again.
            (Some(Pause::Operator { .. }), Phase::Verifying { attempt, .. })
                if !self
                    .missing_trials(rollout.incoming, &rollout.plan)
                    .is_empty() =>
            {
                Ok(vec![Rollout::verify_again(now, &rollout.plan, attempt + 1)])
            }
            (Some(_), _) => Ok(vec![Fact::Resumed { at: now }]),
        }
    }

    fn promote(
        &self,
        now: Timestamp,
        seen: &Seen,
        input: &Input,
        full: bool,
        skip_gates: bool,
    ) -> Result<Vec<Fact>, Illegal> {
        let rollout = self.under_way("promote")?;
        let release = rollout.incoming;
        let mut facts = Vec::new();
        match rollout.phase {
            Phase::Promoting { .. } => return Ok(Vec::new()),
            Phase::Provisioning { .. } | Phase::Verifying { .. } | Phase::Canary { .. } => {}
            _ => return Err(self.not_now("promote")),
        }
        let share = if full {
            Share::ALL
        } else {
            rollout.next_share()
        };
        let awaits_approval = share == Share::ALL && self.awaits_approval(rollout);
        let proven = self.is_proven(release, &rollout.plan);
        if !proven || awaits_approval {
            if !skip_gates && !proven && self.on(Guard::GatesFirst) {
                return Err(self.unproven(rollout));
            }
            if !skip_gates {
                self.approved(rollout, share)?;
            }
            let reason = input.reason_text("gates skipped");
            facts.push(Fact::GatesSkipped { release, reason });
        }
        if self.capacity(release).0 == 0 {
            return Err(Illegal::NoWorkers {
                label: self.label(release),
            });
        }
        if !skip_gates {
            self.room(now, seen, rollout, share)?;
        }
        facts.push(if full {
            let base = seen.baseline(release);
            Fact::CutOver { at: now, base }
        } else {
            rollout.next_fact(now, seen)
        });
        Ok(facts)
    }

    /// Which of its gates is missing: a person's is for a person to give.
    fn unproven(&self, rollout: &Rollout) -> Illegal {
        let label = self.label(rollout.incoming);
        let trials = self.missing_trials(rollout.incoming, &rollout.plan);
        if trials.is_empty() {
            Illegal::Unapproved { label }
        } else {
            Illegal::Unproven { label }
        }
    }

    /// Where a person must agree to the cutover, they have.
    fn approved(&self, rollout: &Rollout, share: Share) -> Result<(), Illegal> {
        if share == Share::ALL && self.awaits_approval(rollout) {
            let label = self.label(rollout.incoming);
            return Err(Illegal::Unapproved { label });
        }
        Ok(())
    }

    /// Never cut over into too little room (I7).
    fn room(
        &self,
        now: Timestamp,
        seen: &Seen,
        rollout: &Rollout,
        share: Share,
    ) -> Result<(), Illegal> {
        match self.room_hold(now, seen, rollout, share) {
            Some(hold) => Err(Illegal::NoRoom { hold }),
            None => Ok(()),
        }
    }

    fn abort(&self, now: Timestamp, input: &Input) -> Result<Vec<Fact>, Illegal> {
        let rollout = self.under_way("abort")?;
        match rollout.phase {
            Phase::Provisioning { .. } | Phase::Verifying { .. } => Ok(vec![Fact::Failed {
                at: now,
                reason: input.reason_text("aborted"),
            }]),
            Phase::Canary { .. } | Phase::Promoting { .. } => self.back(now, input, "aborted"),
            _ => Err(self.not_now("abort")),
        }
    }

    /// Waits for no gate, worker, capacity check or person (I5).
    fn rollback(
        &self,
        now: Timestamp,
        input: &Input,
        from: Option<ReleaseId>,
    ) -> Result<Vec<Fact>, Illegal> {
        let takes_calls = |id: ReleaseId| {
            let record = self.releases.get(&id);
            record.is_some_and(|record| record.state.takes_new_calls())
        };
        if from.is_some_and(|id| !takes_calls(id)) {
            return Ok(Vec::new());
        }
        match self.rollout.as_ref().map(|rollout| &rollout.phase) {
            // What is being brought in has no calls yet: the release to leave is the current one.
            Some(Phase::Provisioning { .. } | Phase::Verifying { .. }) => {
                let reason = input.reason_text("rolled back");
                let failed = Fact::Failed { at: now, reason };
                let mut without = self.clone();
                without.apply(&failed);
                let back = without.leave_current(now, input, "rolled back")?;
                Ok(std::iter::once(failed).chain(back).collect())
            }
            Some(Phase::RollingBack { .. }) => Ok(Vec::new()),
            _ => self.back(now, input, "rolled back"),
        }
    }

    fn back(&self, now: Timestamp, input: &Input, verb: &str) -> Result<Vec<Fact>, Illegal> {
        let reason = input.reason_text(verb);
        let under_way = self.rollout.as_ref().filter(|_| self.is_rolling_out());
        if let Some(rollout) = under_way {
            let (from, rollout, to) = (rollout.incoming, rollout.id, rollout.outgoing);
            // With nothing current when it began (after `drain`), the one before that comes back.
            let to = to.or_else(|| self.rollback_target());
            let to = to.ok_or(Illegal::NothingBefore)?;
            return Ok(vec![Fact::RollbackStarted {
                rollout,
                from,
                to,
                reason,
                at: now,
            }]);
        }
        self.leave_current(now, input, verb)
    }

    /// From the current release to the one before it.
    fn leave_current(
        &self,
        now: Timestamp,
        input: &Input,
        verb: &str,
    ) -> Result<Vec<Fact>, Illegal> {
        let reason = input.reason_text(verb);
        let to = self.rollback_target().ok_or(Illegal::NothingBefore)?;
        if !self.on(Guard::RollbackAlways) && self.worker_hold(to).is_some() {
            return Err(Illegal::NoWorkers {
                label: self.label(to),
            });
        }
        // After `drain` nothing is current; the drained release itself is the one to bring back.
        let Some(from) = self.current() else {
            return Ok(vec![self.undrain(to, reason, now)]);
        };
        let landed = self.rollout.as_ref().filter(|rollout| {
            matches!(rollout.phase, Phase::Landed { .. })
                && rollout.incoming == from
                && rollout.outgoing == Some(to)
        });
        let rollout = landed.map_or(self.rollouts + 1, |rollout| rollout.id);
        Ok(vec![Fact::RollbackStarted {
            rollout,
            from,
            to,
            reason,
            at: now,
        }])
    }

    fn undrain(&self, to: ReleaseId, reason: String, at: Timestamp) -> Fact {
        Fact::RollbackStarted {
            rollout: self.rollouts + 1,
            from: to,
            to,
            reason,
            at,
        }
    }

    fn drain_current(&self, now: Timestamp, release: ReleaseId) -> Result<Vec<Fact>, Illegal> {
        if self.is_rolling_out() {
            return Err(self.not_now("drain"));
        }
        match self.releases.get(&release).map(|record| record.state) {
            Some(ReleaseState::Current) => {
                let drain = Fact::DrainStarted { release, at: now };
                Ok(self.end_bake(now).into_iter().chain([drain]).collect())
            }
            Some(ReleaseState::Draining { .. } | ReleaseState::Drained { .. }) => Ok(Vec::new()),
            _ => Err(Illegal::NotCurrent {
                label: self.label(release),
            }),
        }
    }

    pub(super) fn under_way(&self, verb: &'static str) -> Result<&Rollout, Illegal> {
        self.rollout
            .as_ref()
            .filter(|_| self.is_rolling_out())
            .ok_or_else(|| self.not_now(verb))
    }

    pub(super) fn not_now(&self, verb: &'static str) -> Illegal {
        Illegal::NotNow {
            verb,
            phase: self.phase_word(),
        }
    }
}
