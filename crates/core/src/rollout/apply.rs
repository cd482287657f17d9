//! Applying facts. Cannot fail: a fact is a decision already taken, and running and replay use
//! this same function.

use std::collections::BTreeSet;

use crate::names::ReleaseId;
use crate::release::{Release, ReleaseState};
use crate::rollout::agent::{Agent, Baseline, Gate, Phase, ReleaseRecord, Rollout, WorkerRecord};
use crate::rollout::fact::Fact;
use crate::slot::Slot;
use crate::spec::Plan;
use crate::split::{Share, Split};
use crate::table::Epoch;
use crate::time::Timestamp;

/// How many earlier releases are remembered as rollback targets.
const HISTORY_MAX: usize = 32;

impl Agent {
    /// Applies one fact. A fact about something unknown changes nothing but the counters, so that
    /// replay of an older journal never stops.
    pub fn apply(&mut self, fact: &Fact) {
        if fact.changes_routing() {
            self.epoch = self.epoch.next();
        }
        if fact.changes_revision() {
            self.revision += 1;
        }
        match fact {
            Fact::Configured { ingress, policy } => {
                self.ingress.clone_from(ingress);
                self.policy.clone_from(policy);
                self.forget_ceilings();
            }
            Fact::Deployed {
                rollout,
                release,
                plan,
                slot,
                displaced,
                at,
                fast_track,
            } => {
                self.begin(
                    *rollout,
                    release,
                    plan,
                    (*slot, *displaced),
                    *at,
                    *fast_track,
                );
            }
            Fact::WorkerReady { .. } | Fact::WorkerGone { .. } => self.worker_fact(fact),
            Fact::WorkerAdmitted { .. } | Fact::WorkerBarred { .. } | Fact::WorkerShowed { .. } => {
                self.standing_fact(fact);
            }
            Fact::GatewayJoined { gateway } => {
                self.gateways.insert(gateway.clone());
                // It may have held calls until a moment ago, and nobody counted them: what was
                // empty without it is empty from now on at the earliest.
                for record in self.releases.values_mut() {
                    if let ReleaseState::Draining { empty_since, .. } = &mut record.state {
                        *empty_since = None;
                    }
                }
            }
            Fact::GatewayForgotten { gateway, .. } => {
                self.gateways.remove(gateway);
            }
            Fact::GatePassed { release, gate, .. } => self.pass(*release, gate.clone()),
            Fact::GatesSkipped { release, .. } => {
                if let Some(record) = self.releases.get_mut(release) {
                    record.skipped = true;
                }
            }
            Fact::CutOver { at, base } => self.cut_over(*at, base),
            Fact::RollbackStarted {
                rollout,
                from,
                to,
                reason,
                at,
            } => {
                self.roll_back(*rollout, (*from, *to), reason, *at);
            }
            Fact::Failed { at, reason } => self.fail(*at, reason),
            Fact::ProvisionStarted { .. }
            | Fact::VerifyStarted { .. }
            | Fact::StepStarted { .. }
            | Fact::Paused { .. }
            | Fact::Resumed { .. }
            | Fact::Landed { .. }
            | Fact::BakeSmokeStarted { .. }
            | Fact::BakeSmoked { .. }
            | Fact::Baked { .. }
            | Fact::RolledBack { .. } => self.move_on(fact),
            Fact::DrainStarted { .. }
            | Fact::Emptied { .. }
            | Fact::Refilled { .. }
            | Fact::Drained { .. }
            | Fact::Retiring { .. }
            | Fact::Retired { .. } => self.live_on(fact),
            Fact::CeilingReached {
                release,
                policy,
                at,
            } => {
                if let Some(record) = self.releases.get_mut(release) {
                    record.ceiling = Some((*at, *policy));
                }
            }
            Fact::ContractStarted { .. } | Fact::ContractFinished { .. } => {
                self.contract_fact(fact);
            }
            // It is in the log, and the log is what it is for.
            Fact::CallsEnding { .. } | Fact::Notice(_) => {}
        }
    }

    /// A worker came or went.
    fn worker_fact(&mut self, fact: &Fact) {
        match fact {
            Fact::WorkerReady {
                worker,
                release,
                addr,
                capacity,
                health_path,
                barred,
            } => {
                let record = WorkerRecord {
                    release: *release,
                    addr: *addr,
                    capacity: *capacity,
                    health_path: health_path.clone(),
                    barred: barred.clone(),
                    badge: None,
                };
                self.workers.insert(worker.clone(), record);
            }
            Fact::WorkerGone { worker, .. } => {
                self.workers.remove(worker);
            }
            _ => {}
        }
    }

    /// Facts that move the rollout and nothing else.
    fn move_on(&mut self, fact: &Fact) {
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        match fact {
            Fact::ProvisionStarted { deadline, .. } => {
                rollout.phase = Phase::Provisioning {
                    deadline: *deadline,
                };
            }
            Fact::VerifyStarted {
                attempt, deadline, ..
            } => {
                rollout.phase = Phase::Verifying {
                    attempt: *attempt,
                    deadline: *deadline,
                };
                rollout.paused = None;
            }
            Fact::StepStarted {
                step,
                share,
                at,
                base,
            } => {
                if !matches!(rollout.phase, Phase::Canary { .. }) {
                    rollout.ramp_base.clone_from(base);
                }
                rollout.phase = Phase::Canary {
                    step: *step,
                    since: *at,
                    base: base.clone(),
                };
                rollout.paused = None;
                let (incoming, outgoing) = (rollout.incoming, rollout.outgoing);
                self.rolled_back.remove(&incoming);
                self.split = outgoing.map_or_else(
                    || Split::all(incoming),
                    |out| Split::ramp(incoming, *share, out),
                );
                self.set_state(incoming, ReleaseState::Ramping { share: *share });
                self.history.retain(|id| *id != incoming);
            }
            Fact::Paused { pause, .. } => rollout.paused = Some(pause.clone()),
            Fact::Resumed { .. } => rollout.paused = None,
            Fact::Landed { at, unacked } => {
                rollout.phase = Phase::Landed {
                    at: *at,
                    unacked: unacked.clone(),
                };
                rollout.bake = rollout.begin_bake(*at);
                let incoming = rollout.incoming;
                if let Some(record) = self.releases.get_mut(&incoming) {
                    record.served_well = true;
                }
            }
            Fact::BakeSmokeStarted {
                attempt, deadline, ..
            } => {
                if let Some(bake) = &mut rollout.bake {
                    bake.attempt = *attempt;
                    bake.smoking = Some(*deadline);
                }
            }
            Fact::BakeSmoked {
                attempt,
                next,
                unproven,
                ..
            } => {
                if let Some(bake) = &mut rollout.bake {
                    bake.proved |= !unproven;
                    bake.attempt = attempt + 1;
                    bake.due = *next;
                    bake.smoking = None;
                }
            }
            Fact::Baked { .. } => rollout.bake = None,
            Fact::RolledBack { at, unacked } => {
                let Phase::RollingBack { reason, .. } = &rollout.phase else {
                    return;
                };
                let (at, reason, unacked) = (*at, reason.clone(), unacked.clone());
                rollout.phase = Phase::RolledBack {
                    at,
                    reason,
                    unacked,
                };
            }
            _ => {}
        }
    }

    /// Facts about the life of one release after its new calls ended.
    fn live_on(&mut self, fact: &Fact) {
        match fact {
            Fact::DrainStarted { release, at } => {
                self.split = Split::none();
                self.set_state(*release, self.draining(*at));
                self.remember(*release);
            }
            Fact::Emptied { release, at } => self.set_empty_since(*release, Some(*at)),
            Fact::Refilled { release, .. } => self.set_empty_since(*release, None),
            Fact::Drained {
                release,
                at,
                keep_until,
            } => {
                self.set_state(
                    *release,
                    ReleaseState::Drained {
                        since: *at,
                        keep_until: *keep_until,
                    },
                );
            }
            Fact::Retiring { release, at } => {
                let from = self.epoch;
                self.set_state(*release, ReleaseState::Retiring { since: *at, from });
            }
            Fact::Retired { release, at, .. } => {
                self.set_state(*release, ReleaseState::Retired { since: *at });
                self.history.retain(|id| id != release);
                self.rolled_back.remove(release);
                self.drop_contract(*release);
                // Its workers stop now. Were it deployed again before they are gone, they must not
                // be taken for ready ones.
                self.workers.retain(|_, worker| worker.release != *release);
                if let Some(record) = self.releases.get_mut(release) {
                    record.slot = None;
                }
            }
            _ => {}
        }
    }

    fn begin(
        &mut self,
        id: u64,
        release: &Release,
        plan: &Plan,
        (slot, displaced): (Slot, Option<ReleaseId>),
        at: Timestamp,
        fast_track: bool,
    ) {
        if let Some(record) = displaced.and_then(|id| self.releases.get_mut(&id)) {
            record.slot = None;
        }
        self.rollouts = id;
        self.rollout = Some(Rollout {
            id,
            incoming: release.id,
            outgoing: self.current(),
            plan: plan.clone(),
            phase: Phase::Provisioning {
                deadline: at + plan.ready_timeout,
            },
            paused: None,
            ramp_base: Baseline::default(),
            started: at,
            fast_track,
            bake: None,
        });
        // What it was before outlives its retirement.
        let before = self.releases.get(&release.id);
        let (first, served_well) = before.map_or((id, false), |is| (is.first, is.served_well));
        self.releases.insert(
            release.id,
            ReleaseRecord {
                release: release.clone(),
                state: ReleaseState::Inactive,
                slot: Some(slot),
                passed: BTreeSet::new(),
                skipped: false,
                rollout: id,
                first,
                served_well,
                ceiling: None,
            },
        );
    }

    fn pass(&mut self, release: ReleaseId, gate: Gate) {
        if let Some(record) = self.releases.get_mut(&release) {
            record.passed.insert(gate);
        }
    }

    fn cut_over(&mut self, at: Timestamp, base: &Baseline) {
        let epoch = self.epoch;
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        if !matches!(rollout.phase, Phase::Canary { .. }) {
            rollout.ramp_base.clone_from(base);
        }
        rollout.phase = Phase::Promoting { since: at, epoch };
        rollout.paused = None;
        let (incoming, outgoing) = (rollout.incoming, rollout.outgoing);
        self.rolled_back.remove(&incoming);
        self.split = Split::all(incoming);
        self.set_state(incoming, ReleaseState::Current);
        self.history.retain(|id| *id != incoming);
        if let Some(outgoing) = outgoing {
            self.set_state(outgoing, self.draining(at));
            self.remember(outgoing);
        }
        self.await_contract();
    }

    fn roll_back(
        &mut self,
        id: u64,
        (from, to): (ReleaseId, ReleaseId),
        reason: &str,
        at: Timestamp,
    ) {
        let phase = Phase::RollingBack {
            since: at,
            epoch: self.epoch,
            reason: reason.to_owned(),
        };
        if self.rollouts == id {
            if let Some(rollout) = &mut self.rollout {
                rollout.phase = phase;
                rollout.paused = None;
                rollout.bake = None;
            }
        } else {
            self.rollouts = id;
            self.rollout = Some(Rollout {
                id,
                incoming: from,
                outgoing: Some(to),
                plan: Plan::default(),
                phase,
                paused: None,
                ramp_base: Baseline::default(),
                started: at,
                fast_track: false,
                bake: None,
            });
        }
        self.split = Split::all(to);
        self.set_state(from, self.draining(at));
        self.set_state(to, ReleaseState::Current);
        self.history.retain(|id| *id != to);
        self.rolled_back.insert(from);
        self.rolled_back.remove(&to);
        // After `drain` a release comes back to itself, and has done no harm.
        if from != to {
            self.drop_contract(from);
            if let Some(record) = self.releases.get_mut(&from) {
                record.served_well = false;
            }
        }
        if self
            .releases
            .get(&to)
            .is_some_and(|record| record.slot.is_none())
        {
            self.take_slot_back(to, from);
        }
    }

    /// A tail that is current again takes the place of the release that drains now.
    fn take_slot_back(&mut self, to: ReleaseId, from: ReleaseId) {
        let slot = self
            .releases
            .get_mut(&from)
            .and_then(|record| record.slot.take());
        if let Some(record) = self.releases.get_mut(&to) {
            record.slot = slot;
        }
    }

    fn fail(&mut self, at: Timestamp, reason: &str) {
        let Some(rollout) = &mut self.rollout else {
            return;
        };
        rollout.phase = Phase::Failed {
            at,
            reason: reason.to_owned(),
        };
        rollout.paused = None;
        let incoming = rollout.incoming;
        self.set_state(incoming, self.draining(at));
    }

    fn draining(&self, since: Timestamp) -> ReleaseState {
        ReleaseState::Draining {
            since,
            from: self.epoch,
            empty_since: None,
        }
    }

    fn remember(&mut self, release: ReleaseId) {
        self.history.retain(|id| *id != release);
        self.history.push(release);
        if self.history.len() > HISTORY_MAX {
            self.history.remove(0);
        }
    }

    fn set_state(&mut self, release: ReleaseId, state: ReleaseState) {
        if let Some(record) = self.releases.get_mut(&release) {
            record.state = state;
            // Each drain has a ceiling of its own.
            if state.takes_new_calls() || matches!(state, ReleaseState::Draining { .. }) {
                record.ceiling = None;
            }
        }
    }

    fn set_empty_since(&mut self, release: ReleaseId, at: Option<Timestamp>) {
        if let Some(record) = self.releases.get_mut(&release)
            && let ReleaseState::Draining { empty_since, .. } = &mut record.state
        {
            *empty_since = at;
        }
    }

    /// The share a release has of new calls.
    pub fn share(&self, release: ReleaseId) -> Share {
        self.split.share(release)
    }

    /// The first table by which counts about a release say something: for one that drains or
    /// retires the table that began it, else any.
    pub(super) fn counted_from(&self, release: ReleaseId) -> Epoch {
        match self.releases.get(&release).map(|record| record.state) {
            Some(ReleaseState::Draining { from, .. } | ReleaseState::Retiring { from, .. }) => from,
            _ => Epoch::default(),
        }
    }
}
