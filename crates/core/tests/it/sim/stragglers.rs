//! Calls that are left at the ceiling, each with its turn.

use segue_core::names::ReleaseId;
use segue_core::release::ReleaseState;
use segue_core::rollout::{Effect, Event, Input};
use segue_core::spec::{StragglerPolicy, Stragglers};
use segue_core::table::Epoch;
use segue_core::time::{Millis, Timestamp};

use super::driver::{Answer, Controller};
use super::faults::Mutant;
use super::world::{Next, World};

/// How often it is looked whose turn it is.
const LOOK_EVERY: u64 = 500;

impl World {
    pub(crate) fn begin_straggling(
        &mut self,
        controller: &mut Controller,
        release: ReleaseId,
        since: Timestamp,
    ) {
        let life = controller.life;
        if controller
            .begun
            .insert(format!("stragglers {release} {since:?}"))
        {
            let next = Next::Straggle {
                life,
                release,
                since,
            };
            self.after(1, next);
        }
    }

    pub(crate) fn straggle(&mut self, life: u64, release: ReleaseId, since: Timestamp) {
        let Some(controller) = self.active.as_mut().filter(|is| is.life == life) else {
            return;
        };
        let asked = controller
            .agent
            .effects()
            .into_iter()
            .find_map(|effect| match effect {
                Effect::Stragglers {
                    release: of,
                    since: from,
                    stragglers,
                } if of == release && from == since => Some(stragglers),
                _ => None,
            });
        let Some(stragglers) = asked else {
            // It may be due again, when it is not empty after all.
            controller
                .begun
                .remove(&format!("stragglers {release} {since:?}"));
            return;
        };
        let next = Next::Straggle {
            life,
            release,
            since,
        };
        self.after(LOOK_EVERY, next);
        let due = self.due(release, since, stragglers);
        match stragglers.policy {
            StragglerPolicy::Wait => {}
            StragglerPolicy::Announce => {
                if !due.is_empty() {
                    self.coverage.hit("way", "announced");
                }
            }
            StragglerPolicy::HandOff => {
                for (_, call) in due {
                    self.coverage.hit("way", "handed off");
                    if self.rng.chance(500) {
                        self.disconnected(call, false);
                    }
                }
            }
            StragglerPolicy::End => self.end_stragglers(release, &due),
        }
    }

    /// Calls whose turn has come, and where they are.
    fn due(
        &self,
        release: ReleaseId,
        since: Timestamp,
        stragglers: Stragglers,
    ) -> Vec<(usize, u64)> {
        let turn = |call: u64| since + Millis(call * 7_919 % stragglers.jitter.0.max(1));
        let live = self
            .gateways
            .iter()
            .enumerate()
            .flat_map(|(index, gateway)| {
                let calls = gateway.ledger.iter();
                let of = calls.filter(|(_, held)| held.live && held.placed.release == release);
                of.map(move |(call, _)| (index, *call))
            });
        let due = live.filter(|(_, call)| self.now >= turn(*call));
        due.take(stragglers.per_second.div_ceil(2) as usize)
            .collect()
    }

    fn end_stragglers(&mut self, release: ReleaseId, due: &[(usize, u64)]) {
        if due.is_empty() {
            return;
        }
        let calls = due.iter().map(|(_, call)| format!("h{call}")).collect();
        let event = Event::EndCalls { release, calls };
        let Answer::Done = self.submit(&Input::noticed(event)) else {
            return;
        };
        let Some(epoch) = self.active.as_ref().and_then(|is| is.published) else {
            return;
        };
        for (gateway, call) in due.iter().copied() {
            if self.gateways[gateway].linked {
                self.send(|| Next::EndCall {
                    gateway,
                    release,
                    epoch,
                    call,
                });
            }
        }
    }

    /// A gateway ends a call, if it is live and of that release, and that one winds down.
    pub(crate) fn end_call(
        &mut self,
        index: usize,
        (release, epoch): (ReleaseId, Epoch),
        call: u64,
    ) {
        let table = self.gateways[index].table.as_ref();
        let may_end = table.is_some_and(|table| table.may_end(release, epoch));
        if !may_end && !self.is_mutant(Mutant::GatewayEndsAnyway) {
            self.coverage.hit("way", "the word to end came late");
            return;
        }
        let gateway = &mut self.gateways[index];
        let held = gateway.ledger.get(&call);
        let Some(held) = held.filter(|held| held.live && held.placed.release == release) else {
            return;
        };
        let placed = held.placed.clone();
        if !placed.labelled {
            gateway.totals.entry(release).or_default().policy += 1;
        }
        if let Some(worker) = self.platform.workers.get_mut(&placed.worker) {
            worker.calls.remove(&call);
        }
        self.coverage.hit("way", "ended by policy");
        self.i1_calls_end_by_audited_policy_only(release, call);
        self.i1_calls_end_of_a_draining_release_only(index, release);
        self.let_go(index, call);
        self.calls.remove(&call);
    }

    /// I1: what ends a call is the policy, and the log said so first.
    fn i1_calls_end_by_audited_policy_only(&mut self, release: ReleaseId, call: u64) {
        if !self.truth.ending.contains(&(release, format!("h{call}"))) {
            let text = format!("call {call} of {} is ended", self.label(release));
            self.violate("i1_calls_end_by_audited_policy_only", text);
        }
    }

    /// I1: by what was decided last, as far as the gateway has heard, the release takes no new calls
    /// and was told to wind down.
    fn i1_calls_end_of_a_draining_release_only(&mut self, index: usize, release: ReleaseId) {
        let epoch = self.gateways[index].epoch();
        let winds_down = self.truth.tables.get(&epoch).is_some_and(|table| {
            let route = table.releases.get(&release);
            table.split.share(release).0 == 0 && route.is_some_and(|route| route.retiring)
        });
        if !winds_down {
            let text = format!(
                "a call of {} is ended by epoch {epoch}",
                self.label(release)
            );
            self.violate("i1_calls_end_of_a_draining_release_only", text);
        }
    }

    /// I1: calls end past the ceiling that is set at this moment, whatever it was before.
    pub(crate) fn i1_calls_end_past_the_ceiling_only(&mut self, release: ReleaseId) {
        let policy = self.truth.agent.policy.stragglers.policy;
        if policy != StragglerPolicy::End || !self.is_past_the_ceiling(release) {
            let text = format!("{}: {:?}", self.label(release), self.truth.state(release));
            self.violate("i1_calls_end_past_the_ceiling_only", text);
        }
    }

    /// Only a release that drains reaches a ceiling, and not before it.
    pub(crate) fn only_a_drain_has_a_ceiling(&mut self, release: ReleaseId) {
        if !self.is_past_the_ceiling(release) {
            let text = format!("{}: {:?}", self.label(release), self.truth.state(release));
            self.violate("only_a_drain_has_a_ceiling", text);
        }
    }

    fn is_past_the_ceiling(&self, release: ReleaseId) -> bool {
        let ceiling = self.truth.agent.policy.stragglers.ceiling;
        match self.truth.state(release) {
            Some(ReleaseState::Draining { since, .. }) => {
                ceiling.is_some_and(|ceiling| self.now >= since + ceiling)
            }
            _ => false,
        }
    }
}
