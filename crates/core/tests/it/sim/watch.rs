//! Where the checks are called: at every request, every fact, and the end.

use segue_core::rollout::{Event, Fact, Input, Phase, Seen};
use segue_core::table::Epoch;
use segue_core::time::{Millis, Timestamp};

use super::driver::Controller;
use super::world::World;

impl World {
    /// A request was accepted.
    pub(crate) fn check_request(
        &mut self,
        controller: &Controller,
        input: &Input,
        decided: &[Fact],
    ) {
        let is = controller.agent.revision;
        if input.if_revision.is_some_and(|asked| asked != is) {
            let text = format!("{} decided on another revision than {is}", input.actor);
            self.violate("an_operator_decides_on_what_they_saw", text);
        }
        for fact in decided {
            if let Fact::GatewayForgotten { gateway, .. } = fact {
                let leased = (0..self.gateways.len())
                    .filter(|index| self.gateways[*index].id == *gateway)
                    .any(|index| self.truth.is_leased(index, self.now));
                if leased {
                    let text = format!("{gateway} is leased");
                    self.violate("only_a_silent_gateway_is_forgotten", text);
                }
            }
        }
    }

    /// Facts were journaled: each is held against the truth of this moment, then taken in.
    pub(crate) fn check_facts(&mut self, facts: &[Fact], input: &Input, seen: &Seen) {
        for fact in facts {
            let json = serde_json::to_string(fact).expect("facts always serialise");
            self.coverage.hit("fact", fact.name());
            self.trace(|| format!("{} {json}", input.actor));
            self.check_fact(fact, input, seen);
            self.truth.take(&super::store::parse(&json));
            if self.woken {
                // It counts from the reports of before its sleep.
                self.truth.step_sent = [Timestamp(0); 3];
            }
            self.check_after(fact);
        }
    }

    fn check_fact(&mut self, fact: &Fact, input: &Input, seen: &Seen) {
        match fact {
            Fact::GatePassed { gate, .. } => self.check_gate(gate, input),
            Fact::Deployed {
                release,
                fast_track: true,
                ..
            } => self.only_who_served_well_is_fast(release.id),
            Fact::CallsEnding { release, .. } if !self.woken => {
                self.i1_calls_end_past_the_ceiling_only(*release);
            }
            Fact::CeilingReached { release, .. } => self.only_a_drain_has_a_ceiling(*release),
            Fact::ContractStarted { .. } => self.coverage.hit("way", "contract started"),
            Fact::Baked { .. } if input.actor == "segue" => self.harm_is_not_baked(),
            Fact::GatesSkipped { .. } => {
                let asked = matches!(
                    input.event,
                    Event::Promote {
                        skip_gates: true,
                        ..
                    }
                );
                if !asked || !input.actor.starts_with("operator:") {
                    let text = "nobody asked for it".to_owned();
                    self.violate("i3_gates_are_skipped_by_operators_only", text);
                }
            }
            Fact::StepStarted { share, .. } => {
                self.i3_nobody_goes_on_without_approval(share.0, input);
                self.check_growth(share.0, input);
            }
            Fact::CutOver { .. } => {
                self.i3_nobody_goes_on_without_approval(10_000, input);
                self.check_growth(10_000, input);
            }
            Fact::Landed { unacked, .. } => self.i4_landed_is_a_fact(unacked),
            Fact::RolledBack { unacked, .. } => self.i5_rolled_back_is_a_fact(unacked),
            Fact::RollbackStarted { .. } if matches!(input.event, Event::SmokeFinished { .. }) => {
                self.coverage.hit("way", "baked smoke rolls back");
                self.i10_only_a_failed_round_rolls_back(input);
            }
            Fact::RollbackStarted { from, to, .. } if input.actor == "segue" => {
                if matches!(self.truth.phase(), Some(Phase::Landed { .. })) {
                    self.coverage.hit("way", "bake rolls back");
                }
                let harmed = self
                    .truth
                    .count_outcomes(*from, &self.truth.ramp_sent, |o| o.bad);
                if harmed == 0 && self.truth.agent.capacity(*from).0 > 0 {
                    let text = format!("{} harmed nobody", self.label(*from));
                    self.violate("i10_no_false_alarm", text);
                }
                if harmed == 0 && self.truth.agent.capacity(*to).0 == 0 {
                    let text = format!("{} has no worker either", self.label(*to));
                    self.violate("nobody_goes_from_bad_to_worse", text);
                }
            }
            Fact::Emptied { release, .. } => {
                self.i8_empty_is_confirmed(*release);
                self.i8_permits_count(*release);
            }
            Fact::Drained { release, .. } => self.i8_drained_for_the_whole_buffer(*release),
            Fact::Retiring { release, .. } => {
                self.the_way_back_is_kept_while_it_bakes(*release);
                self.i8_only_a_drained_release_is_withdrawn(*release);
            }
            Fact::Retired { release, .. } => {
                self.i8_withdrawal_is_confirmed(*release);
                self.i8_permits_count(*release);
            }
            Fact::GatewayForgotten { gateway, .. } => {
                debug_assert!(!seen.is_leased(self.now, gateway));
                self.vouch(gateway, Epoch(u64::MAX));
            }
            Fact::GatewayJoined { gateway } => {
                let epoch = self.truth.agent.epoch;
                self.rejoin(gateway, epoch);
            }
            _ => {}
        }
    }

    fn check_growth(&mut self, share: u16, input: &Input) {
        let Some(incoming) = self.truth.agent.rollout.as_ref().map(|r| r.incoming) else {
            return;
        };
        let skips = matches!(
            input.event,
            Event::Promote {
                skip_gates: true,
                ..
            }
        );
        if !skips && !self.woken {
            self.i7_there_is_room(incoming, share);
        }
        let ramps = matches!(self.truth.phase(), Some(Phase::Canary { .. }));
        // One that wakes finishes writing what it decided on fresh reports, before it froze.
        if ramps && input.actor == "segue" && !self.woken {
            self.i10_no_data_no_verdict(incoming);
        }
    }

    pub(crate) fn i3_the_verdict_is_of_this_attempt(&mut self) {
        let Some(rollout) = &self.truth.agent.rollout else {
            return;
        };
        let Phase::Verifying { attempt, .. } = rollout.phase else {
            return;
        };
        let verdicts = self.verdicts.get(&(rollout.id, attempt));
        if !verdicts.is_some_and(|verdicts| verdicts.contains("successful")) {
            let text = format!("rollout {} attempt {attempt}: {verdicts:?}", rollout.id);
            self.violate("i3_the_verdict_is_of_this_attempt", text);
        }
    }

    fn check_after(&mut self, fact: &Fact) {
        let agent = &self.truth.agent;
        let table = agent.table();
        if !table.split.is_whole() {
            let text = format!("{:?}", table.split);
            self.violate("the_split_is_whole", text);
        }
        if matches!(fact, Fact::ContractStarted { .. }) {
            self.a_contract_runs_last(None);
        }
        let agent = &self.truth.agent;
        if let Fact::RollbackStarted { from, to, .. } = fact
            && from != to
            && agent.share(*from).0 > 0
        {
            let text = self.label(*from);
            self.violate("a_rolled_back_release_takes_no_call", text);
        }
        self.i3_only_proven_releases_take_calls(&table);
        let epoch = table.epoch;
        let known = self.truth.tables.entry(epoch).or_insert(table.clone());
        if *known != table {
            let text = format!("{} changed epoch {epoch}", fact.name());
            self.violate("one_epoch_one_table", text);
        }
        if self
            .truth
            .tables
            .last_key_value()
            .is_some_and(|(last, _)| *last > epoch)
        {
            let text = format!("{epoch} is not the last one");
            self.violate("i4_epochs_only_grow", text);
        }
    }

    fn vouch(&mut self, id: &segue_core::names::GatewayId, until: Epoch) {
        for gateway in self.gateways.iter_mut().filter(|g| g.id == *id) {
            if gateway.up {
                self.coverage.hit("fault", "live gateway forgotten");
            }
            gateway.vouched = Some(until);
            for held in gateway.ledger.values_mut() {
                held.vouched = true;
            }
        }
    }

    fn rejoin(&mut self, id: &segue_core::names::GatewayId, epoch: Epoch) {
        for gateway in self.gateways.iter_mut().filter(|g| g.id == *id) {
            if gateway.vouched.is_some() {
                let behind = gateway.epoch() < epoch;
                gateway.vouched = behind.then_some(epoch);
            }
        }
    }

    /// Whether everything has come to rest. Asked again and again once faults have stopped.
    pub(crate) fn rest(&mut self) {
        let quiet = self
            .quiet_since
            .map_or(Millis(0), |since| self.now.since(since));
        let Some(controller) = &self.active else {
            return;
        };
        let agent = &controller.agent;
        let winding_down = agent
            .releases
            .values()
            .any(|record| matches!(record.state.word(), "draining" | "drained" | "retiring"));
        let lagging = self
            .gateways
            .iter()
            .any(|gateway| gateway.epoch() != agent.epoch || !gateway.up);
        let baking = agent.rollout.as_ref().is_some_and(|r| r.bake.is_some());
        self.done = !agent.is_rolling_out() && !winding_down && !lagging && !baking;
        let phase = agent.phase_word();
        let began = agent
            .rollout
            .as_ref()
            .and_then(|rollout| match rollout.phase {
                Phase::Promoting { since, .. } | Phase::RollingBack { since, .. } => Some(since),
                _ => None,
            });
        let long = |since| self.now.since(since).min(quiet) > Millis(20_000);
        let stuck = began.is_some_and(long);
        if !self.done && (stuck || quiet > Millis(400_000)) {
            let states: Vec<String> = agent
                .releases
                .values()
                .map(|r| format!("{} {:?}", r.release.label, r.state))
                .collect();
            let text = format!("{phase} after {quiet}, {states:?}, lagging: {lagging}");
            self.violate("every_rollout_ends", text);
        }
    }

    pub(crate) fn final_checks(&mut self) {
        self.i9_the_audit_log_holds_every_decision();
        let all = self.replay(self.journal.facts.len());
        self.i6_memory_is_the_replay(&all, self.journal.facts.len());
        if !self.done {
            self.violate("every_rollout_ends", "nothing happens any more".to_owned());
        }
    }
}
