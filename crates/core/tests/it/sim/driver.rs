//! The controller's driver: append, apply, publish, effects, in this order and no other. It may
//! be killed or stopped before each of them, and a stopped one may wake up when another controller
//! has long taken over.

use std::collections::BTreeSet;
use std::sync::Arc;

use segue_core::audit::Entry;
use segue_core::rollout::{Agent, Effect, Event, Fact, Illegal, Input, Seen};
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::Timestamp;

use super::faults::Mutant;
use super::store::Append;
use super::world::{Next, World};

/// One life of the controller.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) life: u64,
    pub(crate) agent: Agent,
    pub(crate) seen: Seen,
    /// How many facts it knows.
    pub(crate) position: usize,
    pub(crate) head: (u64, String),
    pub(crate) published: Option<Epoch>,
    pub(crate) smokes: BTreeSet<(u64, u32)>,
    /// Webhooks, hooks and stragglers that it has seen to.
    pub(crate) begun: BTreeSet<String>,
    pub(crate) timer: Option<Timestamp>,
}

/// What a controller is about to do.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    Append { facts: Vec<Fact>, input: Box<Input> },
    Apply { facts: Vec<Fact> },
    Publish,
    Effects { list: Vec<Effect>, next: usize },
}

/// Why a controller did not get to the end.
#[derive(Debug)]
pub(crate) enum Halt {
    Crashed,
    Frozen(Stage),
    /// Somebody else wrote to the journal.
    Deposed,
    /// The decision could not be made durable: it was not taken.
    Unwritable,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Refused(Illegal),
    /// No controller, or one that broke down meanwhile.
    Nobody,
}

impl World {
    /// Hands one input to the controller and lets it work until nothing is due.
    pub(crate) fn submit(&mut self, input: &Input) -> Answer {
        let Some(mut controller) = self.active.take() else {
            return Answer::Nobody;
        };
        controller.seen.listen(self.now);
        self.look(&mut controller);
        let phase = controller.agent.phase_word();
        let name = input.event.name();
        self.coverage.hit("event", format!("{phase} x {name}"));
        let decided = match controller.agent.step(self.now, &controller.seen, input) {
            Ok(facts) => facts,
            Err(illegal) => {
                self.active = Some(controller);
                return Answer::Refused(illegal);
            }
        };
        self.check_request(&controller, input, &decided);
        let outcome = self.work(&mut controller, decided, input);
        self.settle(controller, outcome)
    }

    fn work(
        &mut self,
        controller: &mut Controller,
        facts: Vec<Fact>,
        input: &Input,
    ) -> Result<(), Halt> {
        let (mut facts, mut input) = (facts, input.clone());
        let tick = matches!(input.event, Event::Tick);
        let mut rounds = 0;
        loop {
            if facts.is_empty() && (tick || rounds > 0) {
                return Ok(());
            }
            if !facts.is_empty() {
                let input = Box::new(input);
                self.carry_on(controller, Stage::Append { facts, input }, true)?;
            }
            rounds += 1;
            if rounds > 100 {
                self.violate("liveness", "a hundred decisions at one instant".to_owned());
                return Ok(());
            }
            input = Input::noticed(Event::Tick);
            self.look(controller);
            facts = controller
                .agent
                .step(self.now, &controller.seen, &input)
                .expect("a tick is always legal");
        }
    }

    /// What the controller sees beside reports: processes, and permits of outbound calls.
    pub(crate) fn look(&self, controller: &mut Controller) {
        controller.seen.set_processes(self.processes());
        controller.seen.set_permits(self.permits_by_release());
    }

    pub(crate) fn settle(&mut self, controller: Controller, outcome: Result<(), Halt>) -> Answer {
        let delay = self.rng.heavy(400, 12_000);
        match outcome {
            Ok(()) => {
                self.active = Some(controller);
                self.set_timer();
                return Answer::Done;
            }
            Err(Halt::Unwritable) => {
                self.coverage.hit("fault", "store unwritable");
                self.active = Some(controller);
                return Answer::Nobody;
            }
            Err(Halt::Crashed | Halt::Deposed) => self.after(delay, Next::Restart),
            Err(Halt::Frozen(stage)) => {
                self.zombie = Some((controller, stage));
                self.after(delay, Next::Restart);
                let sleep = self.rng.heavy(3_000, 60_000);
                self.after(sleep, Next::ZombieWakes);
            }
        }
        Answer::Nobody
    }

    /// Does one stage after the other.
    pub(crate) fn carry_on(
        &mut self,
        controller: &mut Controller,
        mut stage: Stage,
        interruptible: bool,
    ) -> Result<(), Halt> {
        loop {
            if interruptible {
                self.interrupt(&stage)?;
            }
            stage = match stage {
                Stage::Append { facts, input } => {
                    self.append(controller, &facts, &input)?;
                    Stage::Apply { facts }
                }
                Stage::Apply { facts } => {
                    for fact in &facts {
                        controller.agent.apply(fact);
                        if let Fact::GatewayForgotten { gateway, .. } = fact {
                            controller.seen.forget(gateway);
                        }
                    }
                    self.i6_memory_is_the_replay(&controller.agent, controller.position);
                    Stage::Publish
                }
                Stage::Publish => {
                    self.publish(controller);
                    Stage::Effects {
                        list: controller.agent.effects(),
                        next: 0,
                    }
                }
                Stage::Effects { list, next } => {
                    let Some(effect) = list.get(next) else {
                        return Ok(());
                    };
                    self.perform(controller, effect);
                    let next = next + 1;
                    Stage::Effects { list, next }
                }
            };
        }
    }

    fn interrupt(&mut self, stage: &Stage) -> Result<(), Halt> {
        let at = match stage {
            Stage::Append { .. } => "append",
            Stage::Apply { .. } => "apply",
            Stage::Publish => "publish",
            Stage::Effects { .. } => "effects",
        };
        if self.rng.chance(self.faults.crash) {
            self.coverage.hit("fault", format!("crash at {at}"));
            self.trace(|| format!("controller crashes at {at}"));
            return Err(Halt::Crashed);
        }
        if self.zombie.is_none() && self.rng.chance(self.faults.freeze) {
            self.coverage.hit("fault", format!("freeze at {at}"));
            self.trace(|| format!("controller freezes at {at}"));
            return Err(Halt::Frozen(stage.clone()));
        }
        Ok(())
    }

    fn append(
        &mut self,
        controller: &mut Controller,
        facts: &[Fact],
        input: &Input,
    ) -> Result<(), Halt> {
        if self.is_mutant(Mutant::PublishBeforeAppend) {
            let mut ahead = controller.agent.clone();
            for fact in facts {
                ahead.apply(fact);
            }
            let table = Arc::new(ahead.table());
            self.publish_table(&ahead, &table);
            self.interrupt(&Stage::Publish)?;
        }
        if self.rng.chance(self.faults.store) {
            return Err(Halt::Unwritable);
        }
        let inputs = controller.agent.inputs(self.now, &controller.seen);
        let mut head = controller.head.clone();
        let mut entries = Vec::new();
        for fact in facts {
            let fact = serde_json::to_value(fact).expect("facts always serialise");
            let entry = Entry::after(
                (head.0, &head.1),
                self.now,
                self.name.clone(),
                input.actor.clone(),
                fact,
                inputs.clone(),
            );
            head = (entry.seq, entry.hash.clone());
            entries.push(entry);
        }
        let fenced = !self.is_mutant(Mutant::JournalFenceOff);
        let done = self
            .journal
            .append(controller.position, fenced, facts, entries);
        if done == Append::Conflict {
            return Err(Halt::Deposed);
        }
        let seen = controller.seen.clone();
        self.check_facts(facts, input, &seen);
        // The write happened and its answer did not come: the writer must not go on as if.
        if self.rng.chance(self.faults.store / 4) {
            self.coverage.hit("fault", "store answer lost");
            return Err(Halt::Crashed);
        }
        controller.position += facts.len();
        controller.head = head;
        Ok(())
    }

    /// Whether a controller knows the whole journal.
    pub(crate) fn is_up_to_date(&self, controller: &Controller) -> bool {
        controller.position == self.journal.facts.len()
    }

    /// I5: what was decided is published at once.
    pub(crate) fn i5_is_published(&mut self) {
        let late = self
            .active
            .as_ref()
            .is_some_and(|c| c.published != Some(c.agent.epoch));
        if late {
            self.violate("i5_is_published", "the table was not sent".to_owned());
        }
    }

    fn publish(&mut self, controller: &mut Controller) {
        let epoch = controller.agent.epoch;
        if controller.published == Some(epoch) {
            return;
        }
        controller.published = Some(epoch);
        let table = Arc::new(controller.agent.table());
        self.publish_table(&controller.agent, &table);
    }

    fn publish_table(&mut self, agent: &Agent, table: &Arc<RoutingTable>) {
        for index in 0..self.gateways.len() {
            // A gateway gets tables once its calls count, or it would take some that do not.
            let joined = agent.gateways.contains(&self.gateways[index].id);
            if joined || self.is_mutant(Mutant::PublishBeforeJoin) {
                self.send_table(index, table);
            }
        }
    }

    pub(crate) fn send_table(&mut self, gateway: usize, table: &Arc<RoutingTable>) {
        if !self.gateways[gateway].linked {
            return;
        }
        if self.gateways[gateway].slow {
            let delay = self.rng.between(500, 5_000);
            let table = table.clone();
            self.after(delay, Next::Table { gateway, table });
            return;
        }
        self.send(|| Next::Table {
            gateway,
            table: table.clone(),
        });
    }
}
