//! The invariants, by name. Each looks at what is true in the world, never at what the controller
//! believes.

use segue_core::audit;
use segue_core::names::{ReleaseId, WorkerId};
use segue_core::release::ReleaseState;
use segue_core::rollout::{Agent, Phase};
use segue_core::route::Reason;
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::Millis;

use super::gateway::{Held, Nowhere, Placed};
use super::platform::Life;
use super::world::World;

impl World {
    /// I1, when a worker is told to stop.
    pub(crate) fn i1_no_live_call_ended_by_us(&mut self, id: &WorkerId) {
        let calls = self.unvouched_calls(id);
        if !calls.is_empty() {
            let text = format!("{id} is told to stop under calls {calls:?}");
            self.violate("i1_no_live_call_ended_by_us", text);
        }
    }

    /// I1, when a worker that was told to stop ends.
    pub(crate) fn i1_no_live_call_ended_by_stopping(&mut self, id: &WorkerId) {
        let calls = self.unvouched_calls(id);
        if self.platform.workers[id].life == Life::Stopping && !calls.is_empty() {
            let text = format!("{id} was told to stop, took calls {calls:?} and ended them");
            self.violate("i1_no_live_call_ended_by_stopping", text);
        }
    }

    fn unvouched_calls(&self, id: &WorkerId) -> Vec<u64> {
        let vouched = |call: &u64| {
            self.gateways
                .iter()
                .filter_map(|gateway| gateway.ledger.get(call))
                .any(|held| held.vouched)
        };
        let calls = self.platform.workers[id].calls.iter();
        calls.copied().filter(|call| !vouched(call)).collect()
    }

    /// I2, when a caller with a pin comes back.
    pub(crate) fn i2_a_call_keeps_its_release(
        &mut self,
        index: usize,
        before: &Held,
        answer: &Result<Placed, Nowhere>,
    ) {
        let release = before.placed.release;
        let kept = match answer {
            Ok(placed) => placed.release == release,
            Err(Nowhere::Unreached(tried)) => *tried == release,
            Err(_) => false,
        };
        let outside = before.vouched || before.placed.labelled || self.may_move(index, before);
        let known = &self.gateways[index].known_workers;
        let lives = self.platform.workers.iter().any(|(id, worker)| {
            worker.release == release && worker.life == Life::Ready && known.contains(id)
        });
        if !kept && !outside && lives {
            let text = format!("pinned to {}, got {answer:?}", self.label(release));
            self.violate("i2_a_call_keeps_its_release", text);
        }
    }

    /// I3, I4 and I8, when a gateway starts a call.
    pub(crate) fn check_new_call(&mut self, index: usize, placed: &Placed) {
        let gateway = &self.gateways[index];
        if gateway.vouched.is_some() {
            return;
        }
        if !self.truth.agent.gateways.contains(&gateway.id) {
            let text = format!("g{index} takes a call and nobody counts its calls");
            self.violate("i8_only_counted_gateways_take_calls", text);
            return;
        }
        if !matches!(placed.reason, Reason::Split | Reason::Rule) {
            return;
        }
        if placed.epoch < gateway.acknowledged {
            let text = format!(
                "g{index} acknowledged epoch {} and starts a call on {} by epoch {}",
                gateway.acknowledged,
                self.label(placed.release),
                placed.epoch
            );
            self.violate("i4_no_call_by_an_earlier_table", text);
        }
        let takes = self.truth.tables.get(&placed.epoch).is_some_and(|table| {
            let route = table.releases.get(&placed.release);
            match placed.reason {
                Reason::Split => table.split.share(placed.release).0 > 0,
                _ => route.is_some_and(|route| route.takes_new_calls),
            }
        });
        if !takes {
            let text = format!("a call started on {}", self.label(placed.release));
            self.violate("i3_calls_only_where_the_table_says", text);
        }
    }

    /// I3, for every table: who takes new calls passed its gates or was let through.
    pub(crate) fn i3_only_proven_releases_take_calls(&mut self, table: &RoutingTable) {
        let shares = table.split.shares();
        let takes = |id: &&ReleaseId| {
            table.releases[*id].takes_new_calls || shares.get(*id).is_some_and(|share| share.0 > 0)
        };
        let unproven = table
            .releases
            .keys()
            .filter(takes)
            .find(|id| !self.truth.proven.contains(*id));
        if let Some(release) = unproven {
            let text = format!("{} takes calls", self.label(*release));
            self.violate("i3_only_proven_releases_take_calls", text);
        }
    }

    /// I4: landed means that every leased gateway acts by the new table, and the rest is named.
    pub(crate) fn i4_landed_is_a_fact(&mut self, named: &[segue_core::names::GatewayId]) {
        let Some(Phase::Promoting { epoch, .. }) = self.truth.phase().cloned() else {
            return;
        };
        for index in self.known() {
            let gateway = &self.gateways[index];
            let acts = gateway.epoch() >= epoch || !gateway.up;
            if !acts && self.truth.is_leased(index, self.now) {
                let text = format!("g{index} is leased and acts by {}", gateway.epoch());
                self.violate("i4_landed_is_a_fact", text);
            } else if !acts && !named.contains(&gateway.id) {
                let text = format!("g{index} acts by {} and is not named", gateway.epoch());
                self.violate("i4_the_unacknowledged_are_named", text);
            }
        }
    }

    /// I4 and I5: rolled back means acknowledged, or a second is over and the rest is named.
    pub(crate) fn i5_rolled_back_is_a_fact(&mut self, named: &[segue_core::names::GatewayId]) {
        let Some(Phase::RollingBack { epoch, since, .. }) = self.truth.phase().cloned() else {
            return;
        };
        let waited = self.now.since(since) >= Millis(1_000);
        for index in self.known() {
            let gateway = &self.gateways[index];
            if gateway.epoch() >= epoch || !gateway.up {
                continue;
            }
            if !waited || !named.contains(&gateway.id) {
                let text = format!("g{index} acts by {} of {epoch}", gateway.epoch());
                self.violate("i5_rolled_back_is_a_fact", text);
            }
        }
    }

    pub(crate) fn i4_epochs_only_grow(&mut self, index: usize) {
        let gateway = &self.gateways[index];
        if gateway.epoch() < gateway.acknowledged && gateway.vouched.is_none() {
            let text = format!(
                "g{index}: {} after {}",
                gateway.epoch(),
                gateway.acknowledged
            );
            self.violate("i4_epochs_only_grow", text);
        }
    }

    /// I5: while an earlier release is not retired, a rollback is never refused.
    pub(crate) fn i5_rollback_is_never_refused(&mut self, why: &str) {
        let targets = self.truth.rollback_targets();
        if let Some(release) = targets.first() {
            let text = format!("{} could come back, but: {why}", self.label(*release));
            self.violate("i5_rollback_is_never_refused", text);
        }
    }

    /// I5: a rollback returns after a second at the latest.
    pub(crate) fn i5_a_rollback_ends_in_time(&mut self) {
        let since = match self.active.as_ref().and_then(|c| c.agent.rollout.as_ref()) {
            Some(rollout) => match rollout.phase {
                Phase::RollingBack { since, .. } => since,
                _ => return,
            },
            None => return,
        };
        if self.now.since(since) >= Millis(1_000) {
            self.violate(
                "i5_a_rollback_ends_in_time",
                format!("it began at {since:?}"),
            );
        }
    }

    /// I6: what a controller holds in memory is what its journal says.
    pub(crate) fn i6_memory_is_the_replay(&mut self, agent: &Agent, position: usize) {
        let same = if position == self.journal.facts.len() {
            *agent == self.truth.agent
        } else {
            *agent == self.replay(position)
        };
        if !same {
            let text = format!("after {position} facts");
            self.violate("i6_memory_is_the_replay", text);
        }
    }

    /// The agent as a restart would read it at some position of the journal.
    pub(crate) fn replay(&self, position: usize) -> Agent {
        let guard = self.mutant.and_then(super::faults::Mutant::guard);
        let mut agent = Agent::new(self.name.clone()).without(guard);
        for fact in &self.journal.facts[..position] {
            agent.apply(&super::store::parse(fact));
        }
        agent
    }

    /// I7: who gets a share has the room for it.
    pub(crate) fn i7_there_is_room(&mut self, release: ReleaseId, share: u16) {
        let known = self.known();
        let (all, own) = self.truth.reported_live(&known, release);
        let need = (all * u64::from(share)).div_ceil(10_000).max(own).max(1);
        let (_, have) = self.truth.agent.capacity(release);
        if have < need {
            let text = format!(
                "{} holds {have} calls and gets {share} bp of {all}",
                self.label(release)
            );
            self.violate("i7_there_is_room", text);
        }
    }

    /// I8, when a worker is told to stop: nobody holds a call or pin of its release.
    pub(crate) fn i8_stopped_only_when_empty(&mut self, release: ReleaseId) {
        let holder = self.gateways.iter().find(|g| g.holds(release, true) > 0);
        if let Some(gateway) = holder {
            let text = format!("{} still holds {}", gateway.id, self.label(release));
            self.violate("i8_stopped_only_when_empty", text);
        }
    }

    /// I8: empty is what every gateway said under the table that began the drain, or a later one.
    pub(crate) fn i8_empty_is_confirmed(&mut self, release: ReleaseId) {
        let Some(ReleaseState::Draining { from, .. }) = self.truth.state(release) else {
            return;
        };
        self.confirmed("i8_empty_is_confirmed", release, from, false);
    }

    /// I8: retired is what every gateway confirmed under the table without it.
    pub(crate) fn i8_withdrawal_is_confirmed(&mut self, release: ReleaseId) {
        let Some(ReleaseState::Retiring { from, .. }) = self.truth.state(release) else {
            return;
        };
        self.confirmed("i8_withdrawal_is_confirmed", release, from, true);
    }

    fn confirmed(&mut self, check: &'static str, release: ReleaseId, from: Epoch, labelled: bool) {
        for index in self.known() {
            let gateway = &self.gateways[index];
            let (epoch, holds) = (gateway.epoch(), gateway.holds(release, labelled));
            if !gateway.up || gateway.vouched.is_some() {
                continue;
            }
            if epoch < from || holds > 0 {
                let text = format!(
                    "g{index} acts by {epoch} of {from} and holds {holds} calls of {}",
                    self.label(release)
                );
                self.violate(check, text);
            }
        }
    }

    /// I8: drained means empty for the whole straggler buffer.
    pub(crate) fn i8_drained_for_the_whole_buffer(&mut self, release: ReleaseId) {
        let buffer = self.truth.agent.straggler_buffer();
        for index in self.known() {
            let gateway = &self.gateways[index];
            let busy = if gateway.holds(release, false) > 0 {
                Some(self.now)
            } else {
                gateway.last_busy.get(&release).copied()
            };
            if busy.is_some_and(|busy| self.now.since(busy) < buffer) {
                let text = format!("g{index} held {} at {busy:?}", self.label(release));
                self.violate("i8_drained_for_the_whole_buffer", text);
            }
        }
    }

    /// I8: only a drained release is withdrawn.
    pub(crate) fn i8_only_a_drained_release_is_withdrawn(&mut self, release: ReleaseId) {
        let state = self.truth.state(release);
        if !matches!(state, Some(ReleaseState::Drained { .. })) {
            let text = format!("{} is {state:?}", self.label(release));
            self.violate("i8_only_a_drained_release_is_withdrawn", text);
        }
    }

    /// I9: a gateway acts only by what was written down first.
    pub(crate) fn i9_a_table_follows_from_the_journal(&mut self, table: &RoutingTable) {
        if self.truth.tables.get(&table.epoch) != Some(table) {
            let text = format!("epoch {} was never decided so", table.epoch);
            self.violate("i9_a_table_follows_from_the_journal", text);
        }
    }

    /// I9: the chain verifies, and holds every fact with its inputs.
    pub(crate) fn i9_the_audit_log_holds_every_decision(&mut self) {
        let entries = &self.journal.entries;
        let whole = entries.len() == self.journal.facts.len()
            && entries
                .iter()
                .zip(&self.journal.facts)
                .all(|(entry, fact)| {
                    let fact: serde_json::Value = serde_json::from_str(fact).expect("JSON");
                    entry.fact == fact && entry.inputs["epoch"].is_u64() && !entry.actor.is_empty()
                });
        if let Err(broken) = audit::verify(entries) {
            self.violate("i9_the_audit_log_holds_every_decision", broken.to_string());
        } else if !whole {
            let text = "an entry is missing or says something else".to_owned();
            self.violate("i9_the_audit_log_holds_every_decision", text);
        }
    }

    /// I10: a step ends by itself only with a fresh report of every gateway, enough calls, and no
    /// harm.
    pub(crate) fn i10_no_data_no_verdict(&mut self, release: ReleaseId) {
        let stale = self
            .known()
            .into_iter()
            .find(|index| !self.truth.is_leased(*index, self.now));
        if let Some(index) = stale {
            self.violate("i10_no_data_no_verdict", format!("g{index} is silent"));
        }
        let Some(rollout) = self.truth.agent.rollout.clone() else {
            return;
        };
        let Phase::Canary { step, .. } = rollout.phase else {
            return;
        };
        let ended = self
            .truth
            .count_outcomes(release, &self.truth.step_sent, |o| o.ended);
        let need = rollout.plan.steps.get(step).map_or(0, |s| s.min_calls);
        if ended < need {
            let text = format!("{ended} of {need} calls ended in step {step}");
            self.violate("i10_enough_calls", text);
        }
        // Twice the limit, over every way of counting: a check must not be finer than a report.
        let limit = u64::from(rollout.plan.limits.drops.0);
        let over = |(dropped, ended): (u64, u64)| {
            dropped * 10_000 > 2 * limit * ended.max(rollout.plan.limits.min_calls)
        };
        let (now, ever) = (
            self.truth.since_ramp(release, false),
            self.truth.since_ramp(release, true),
        );
        if over(now) && over(ever) {
            let text = format!("{now:?} of {ever:?} calls dropped");
            self.violate("i10_harm_is_not_promoted", text);
        }
    }

    /// Gateways whose calls count.
    pub(crate) fn known(&self) -> Vec<usize> {
        (0..self.gateways.len())
            .filter(|index| {
                let gateway = &self.gateways[*index];
                self.truth.agent.gateways.contains(&gateway.id)
            })
            .collect()
    }
}
