//! What can happen in a state, and what it comes to.

use segue_core::names::GatewayId;
use segue_core::presence::{AgentPresence, ReleaseCounts};
use segue_core::release::ReleaseState;
use segue_core::rollout::{Effect, Event, Fact, Gate, Input, Phase, Seen, Verdict, Want};
use segue_core::spec::Smoke;
use segue_core::table::Epoch;
use segue_core::time::Millis;
use stateright::{Model, Property};

use super::state::{Action, Controller, Report, Stage, State};
use super::{Decision, Mutant, Rollout, time};

impl Model for Rollout {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.controller_actions(state, actions);
        // What a controller has begun takes no time, unless it crashes or sleeps meanwhile.
        let busy = |c: &Controller| c.stage != Stage::Idle;
        if state.active.as_ref().is_some_and(busy) {
            return;
        }
        for (index, gateway) in state.gateways.iter().enumerate() {
            for slot in 0..gateway.inbox.len() {
                actions.push(Action::Install(index, slot));
            }
            let report = self.report(state, index);
            let known = state.active.as_ref().and_then(|c| c.seen[index]);
            let news = known.is_none_or(|seen| seen != report);
            if state.active.is_some() && news {
                actions.push(Action::Report(index));
            }
            if gateway.late.is_some() {
                actions.push(Action::Counted(index));
            }
            for release in 0..2 {
                if state.left.calls > 0 && gateway.late.is_none() {
                    actions.push(Action::Call(index, release));
                }
                if state.left.overrides > 0 {
                    actions.push(Action::OverrideCall(index, release));
                }
                if gateway.live[release] > 0 {
                    actions.push(Action::CallEnds(index, release));
                }
            }
        }
        if state.left.instants > 0 {
            actions.push(Action::TimePasses);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => self.decide(&mut state, &Input::noticed(Event::Tick))?,
            Action::Deploy => self.decide(&mut state, &self.second_release())?,
            Action::Rollback => {
                state.left.rollbacks -= 1;
                self.decide(
                    &mut state,
                    &Input::asked("ada", Event::Rollback { from: None }),
                )?;
            }
            Action::WorkerReady => self.decide(&mut state, &Input::noticed(self.ready(1)))?,
            Action::SmokePasses => self.decide(&mut state, &smoke(Verdict::Successful))?,
            Action::SmokeFails => {
                self.decide(&mut state, &smoke(Verdict::Failed(String::new())))?;
            }
            Action::GoesOn => {
                let controller = state.active.take()?;
                state.active = self.go_on(&mut state, controller);
            }
            Action::ZombieGoesOn => {
                let controller = state.zombie.take()?;
                let ends = self.go_on(&mut state, controller);
                state.zombie = ends.filter(|zombie| zombie.stage != Stage::Idle);
            }
            Action::Crash => {
                state.active = None;
                state.left.crashes -= 1;
            }
            Action::Sleep => {
                // What it saw no longer matters: it only ends what it has begun.
                state.zombie = state.active.take().map(|controller| Controller {
                    seen: [None, None],
                    began: 0,
                    ..controller
                });
                state.left.sleeps -= 1;
            }
            Action::Restart => {
                state.active = Some(Controller {
                    memory: state.journal,
                    stage: Stage::Publish,
                    seen: [None, None],
                    began: state.now,
                });
            }
            Action::TimePasses => {
                state.now += 1;
                state.left.instants -= 1;
            }
            _ => self.gateway_acts(&mut state, action)?,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn holds(name: &'static str) -> impl Fn(&State) -> bool {
            move |state| !state.broken.contains(&name)
        }
        vec![
            Property::<Self>::always("no call is dropped", |_, s| holds("no call is dropped")(s)),
            Property::<Self>::always("no unproven release takes a call", |_, s| {
                holds("no unproven release takes a call")(s)
            }),
            Property::<Self>::always("no call by an earlier table", |_, s| {
                holds("no call by an earlier table")(s)
            }),
            Property::<Self>::always("who has not acknowledged is named", |_, s| {
                holds("who has not acknowledged is named")(s)
            }),
            Property::<Self>::always("tables follow from the journal", |_, s| {
                holds("tables follow from the journal")(s)
            }),
            Property::<Self>::always("one history", |_, s| holds("one history")(s)),
            Property::<Self>::sometimes("it lands", |model, s| {
                matches!(model.phase(s), Some(Phase::Landed { .. })) && s.workers[1]
            }),
            Property::<Self>::sometimes("it rolls back", |model, s| {
                matches!(model.phase(s), Some(Phase::RolledBack { .. }))
            }),
            Property::<Self>::sometimes("it retires the old release", |_, s| {
                !s.workers[0] && s.workers[1]
            }),
        ]
    }
}

impl Rollout {
    fn controller_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let busy = |c: &Controller| c.stage != Stage::Idle;
        if state.zombie.is_some() && !state.active.as_ref().is_some_and(busy) {
            actions.push(Action::ZombieGoesOn);
        }
        let Some(active) = &state.active else {
            actions.push(Action::Restart);
            return;
        };
        if state.left.crashes > 0 {
            actions.push(Action::Crash);
        }
        if state.left.sleeps > 0 && active.stage != Stage::Idle {
            actions.push(Action::Sleep);
        }
        if active.stage != Stage::Idle {
            actions.push(Action::GoesOn);
            return;
        }
        actions.push(Action::Tick);
        let folded = self.at(active.memory);
        let agent = &folded.agent;
        if agent.rollouts == 1 {
            actions.push(Action::Deploy);
        }
        if state.left.rollbacks > 0 && agent.rollouts > 1 {
            actions.push(Action::Rollback);
        }
        if state.workers[1] && !agent.workers.contains_key(&super::worker_id(1)) {
            actions.push(Action::WorkerReady);
        }
        let verifying = |phase: &Phase| matches!(phase, Phase::Verifying { .. });
        if agent.rollout.as_ref().is_some_and(|r| verifying(&r.phase)) {
            actions.extend([Action::SmokePasses, Action::SmokeFails]);
        }
    }

    fn phase(&self, state: &State) -> Option<Phase> {
        let folded = self.at(state.journal);
        folded.agent.rollout.as_ref().map(|r| r.phase.clone())
    }

    fn second_release(&self) -> Input {
        let smoke = Smoke {
            scenario: "hello".to_owned(),
            path: "/".to_owned(),
            calls: 1,
            timeout: Millis::from_secs(60),
        };
        Input::asked("ada", self.deploy(1, Some(smoke)))
    }

    fn seen(&self, controller: &Controller) -> Seen {
        let mut seen = Seen::new(time(controller.began));
        for (report, gateway) in controller.seen.iter().zip(&self.gateways) {
            let Some(report) = report else {
                continue;
            };
            let counts = |release: usize| {
                let live = u64::from(report.live[release]);
                let counts = ReleaseCounts {
                    live,
                    ..ReleaseCounts::default()
                };
                (self.id(release), counts)
            };
            let presence = AgentPresence {
                epoch: Epoch(report.epoch),
                releases: [counts(0), counts(1)].into(),
                workers: [].into(),
            };
            seen.observe(time(report.at), gateway, "0", 1, presence);
        }
        seen
    }

    /// The active controller decides; nothing to decide is no step.
    fn decide(&self, state: &mut State, input: &Input) -> Option<()> {
        let controller = state.active.as_mut()?;
        let seen = self.seen(controller);
        let decision = self.decision(state.now, controller, &seen, input)?;
        let phase = self
            .at(controller.memory)
            .agent
            .rollout
            .as_ref()?
            .phase
            .clone();
        controller.stage = Stage::Append(decision.journal);
        self.check_named(state, decision.named, Some(phase));
        if self.is(Mutant::PublishBeforeAppend) {
            self.publish(state, decision.journal);
        }
        Some(())
    }

    /// What the machine decides, remembered: many states differ only in what it cannot see.
    fn decision(
        &self,
        now: u8,
        controller: &Controller,
        seen: &Seen,
        input: &Input,
    ) -> Option<Decision> {
        let what = match &input.event {
            Event::SmokeFinished { verdict, .. } if *verdict == Verdict::Successful => "passes",
            event => event.name(),
        };
        let (memory, listening) = (controller.memory, seen.began());
        let key = (memory, now, listening, controller.seen, what);
        if let Some(known) = self.decisions.read().expect("no thread panicked").get(&key) {
            return known.clone();
        }
        let facts = self.at(memory).agent.step(time(now), seen, input);
        let facts = facts.ok().filter(|facts| !facts.is_empty());
        let decision = facts.map(|facts| Decision {
            journal: self.append(memory, &facts),
            named: named(&facts),
        });
        let mut decisions = self.decisions.write().expect("no thread panicked");
        decisions.insert(key, decision.clone());
        decision
    }

    /// Landed and rolled back mean that whoever is not named acts by the table.
    fn check_named(&self, state: &mut State, named: Option<Vec<GatewayId>>, phase: Option<Phase>) {
        let (Some(named), Some(phase)) = (named, phase) else {
            return;
        };
        let (Phase::Promoting { epoch, .. } | Phase::RollingBack { epoch, .. }) = phase else {
            return;
        };
        for (gateway, id) in state.gateways.iter().zip(&self.gateways) {
            if self.epoch(gateway.table) < epoch.0 && !named.contains(id) {
                state.broken.push("who has not acknowledged is named");
                return;
            }
        }
    }

    /// One driver step. A controller whose append is refused ends.
    fn go_on(&self, state: &mut State, mut controller: Controller) -> Option<Controller> {
        controller.stage = match controller.stage {
            Stage::Idle => Stage::Idle,
            Stage::Append(next) => {
                if state.journal == controller.memory {
                    state.journal = next;
                } else if self.is(Mutant::JournalFenceOff) {
                    state.broken.push("one history");
                } else {
                    return None;
                }
                controller.memory = next;
                Stage::Publish
            }
            Stage::Publish => {
                self.publish(state, controller.memory);
                Stage::Effects
            }
            Stage::Effects => {
                self.perform(state, controller.memory);
                Stage::Idle
            }
        };
        Some(controller)
    }

    fn publish(&self, state: &mut State, journal: usize) {
        let epoch = self.epoch(journal);
        for gateway in &mut state.gateways {
            let useless =
                self.epoch(gateway.table) >= epoch && !self.is(Mutant::GatewayTakesSmallerEpoch);
            let known = useless || gateway.inbox.iter().any(|t| self.epoch(*t) == epoch);
            if !known {
                gateway.inbox.push(journal);
                gateway.inbox.sort_unstable();
            }
        }
    }

    fn perform(&self, state: &mut State, journal: usize) {
        let folded = self.at(journal);
        if folded.position < state.fence {
            return;
        }
        state.fence = folded.position;
        for effect in &folded.effects {
            let Effect::Workers { release, want } = effect else {
                continue;
            };
            let index = usize::from(release.id == self.id(1));
            match want {
                Want::Run(_) => state.workers[index] = true,
                Want::Keep => {}
                Want::Stop => {
                    let holds = state.gateways.iter().any(|g| g.live[index] > 0);
                    if state.workers[index] && holds {
                        state.broken.push("no call is dropped");
                    }
                    state.workers[index] = false;
                }
            }
        }
    }

    fn report(&self, state: &State, index: usize) -> Report {
        let gateway = &state.gateways[index];
        Report {
            at: state.now,
            epoch: self.epoch(gateway.table),
            live: gateway.live,
        }
    }

    fn gateway_acts(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Install(index, slot) => {
                let table = state.gateways[index].inbox.remove(slot);
                self.install(state, index, table);
            }
            Action::Report(index) => {
                let report = self.report(state, index);
                let gateway = &mut state.gateways[index];
                gateway.said = gateway.said.max(report.epoch);
                state.active.as_mut()?.seen[index] = Some(report);
            }
            Action::Call(index, release) => self.call(state, index, release)?,
            Action::OverrideCall(index, release) => {
                let gateway = &mut state.gateways[index];
                let folded = self.at(gateway.table);
                let visible = folded.table.releases.contains_key(&self.id(release));
                if !visible || !state.workers[release] {
                    return None;
                }
                gateway.live[release] += 1;
                state.left.overrides -= 1;
            }
            Action::Counted(index) => {
                let (release, table) = state.gateways[index].late.take()?;
                self.count(state, index, release, table);
            }
            Action::CallEnds(index, release) => state.gateways[index].live[release] -= 1,
            _ => return None,
        }
        Some(())
    }

    fn install(&self, state: &mut State, index: usize, table: usize) {
        let epoch = self.epoch(table);
        let larger = epoch > self.epoch(state.gateways[index].table);
        if !larger && !self.is(Mutant::GatewayTakesSmallerEpoch) {
            return;
        }
        if epoch > self.epoch(state.journal) {
            state.broken.push("tables follow from the journal");
        }
        let gateway = &mut state.gateways[index];
        gateway.table = table;
        // Smaller ones under way can no longer do anything.
        if larger && !self.is(Mutant::GatewayTakesSmallerEpoch) {
            gateway.inbox.retain(|table| self.epoch(*table) > epoch);
        }
    }

    /// A new call by the split, if its release has a share and a worker.
    fn call(&self, state: &mut State, index: usize, release: usize) -> Option<()> {
        let table = state.gateways[index].table;
        let share = self.at(table).table.split.share(self.id(release));
        if share.0 == 0 || !state.workers[release] {
            return None;
        }
        state.left.calls -= 1;
        if self.is(Mutant::GatewayCountsLate) {
            state.gateways[index].late = Some((release, table));
        } else {
            self.count(state, index, release, table);
        }
        Some(())
    }

    fn count(&self, state: &mut State, index: usize, release: usize, table: usize) {
        let folded = self.at(table);
        let agent = &folded.agent;
        if agent.epoch.0 < state.gateways[index].said {
            state.broken.push("no call by an earlier table");
        }
        let record = &agent.releases[&self.id(release)];
        let smoked = release == 0 || record.passed.contains(&Gate::Smoke) || record.skipped;
        if !smoked || matches!(record.state, ReleaseState::Inactive) {
            state.broken.push("no unproven release takes a call");
        }
        state.gateways[index].live[release] += 1;
    }
}

fn smoke(verdict: Verdict) -> Input {
    Input::noticed(Event::SmokeFinished {
        rollout: 2,
        attempt: 1,
        verdict,
        report: serde_json::Value::Null,
    })
}

/// Whom a fact names as not having acknowledged, if it is one that does.
fn named(facts: &[Fact]) -> Option<Vec<GatewayId>> {
    facts.iter().find_map(|fact| match fact {
        Fact::Landed { unacked, .. } | Fact::RolledBack { unacked, .. } => Some(unacked.clone()),
        _ => None,
    })
}
