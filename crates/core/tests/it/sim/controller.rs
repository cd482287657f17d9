//! A life of the controller: it starts from the journal, hears reports and words, sees to smoke
//! calls and timers, and may wake up when another one has long taken over.

use std::collections::BTreeSet;
use std::sync::Arc;

use segue_core::names::ReleaseId;
use segue_core::presence::Presence;
use segue_core::rollout::{Agent, Effect, Event, Input, Seen, Verdict};
use segue_core::time::Timestamp;

use super::driver::{Answer, Controller, Halt, Stage};
use super::faults::Mutant;
use super::scenario::Quality;
use super::world::{Next, World};

impl World {
    pub(crate) fn perform(&mut self, controller: &mut Controller, effect: &Effect) {
        match effect {
            Effect::Publish(_) => {}
            Effect::Webhook {
                rollout,
                attempt,
                webhook,
                ..
            } => self.ask_webhook(controller, (*rollout, *attempt), &webhook.name),
            Effect::Hook {
                kind,
                rollout,
                attempt,
                release,
                ..
            } => self.run_hook(controller, *kind, (*rollout, *attempt), release.id),
            Effect::Stragglers { release, since, .. } => {
                self.begin_straggling(controller, *release, *since);
            }
            Effect::Workers { release, want } => {
                self.want_workers(controller.position, release, *want);
            }
            Effect::Smoke {
                rollout,
                attempt,
                release,
                ..
            } => {
                if !controller.smokes.insert((*rollout, *attempt)) {
                    return;
                }
                let label = self.label(*release);
                let through = self.new_call(Some(&label), false, false);
                let verdict = self.verdict(*release, through);
                let delay = self.rng.heavy(1_500, 20_000);
                let (rollout, attempt, life) = (*rollout, *attempt, controller.life);
                self.after(
                    delay,
                    Next::SmokeEnds {
                        life,
                        rollout,
                        attempt,
                        verdict,
                    },
                );
            }
        }
    }

    fn verdict(&mut self, release: ReleaseId, through: bool) -> Verdict {
        let mute = self.scenario.quality[&release] == Quality::Mute;
        match self.rng.below(100) {
            _ if mute => Verdict::Failed("it said nothing".to_owned()),
            0..=3 => Verdict::Failed("it was slow".to_owned()),
            4..=24 => Verdict::Inconclusive("the live release was slow too".to_owned()),
            _ if through => Verdict::Successful,
            _ => Verdict::Inconclusive("no gateway took the call".to_owned()),
        }
    }

    pub(crate) fn smoke_ends(&mut self, life: u64, rollout: u64, attempt: u32, verdict: Verdict) {
        let word = match &verdict {
            Verdict::Successful => "successful",
            Verdict::Failed(_) => "failed",
            Verdict::Inconclusive(_) => "inconclusive",
        };
        self.verdicts
            .entry((rollout, attempt))
            .or_default()
            .insert(word);
        let event = Event::SmokeFinished {
            rollout,
            attempt,
            verdict,
            report: serde_json::json!({ "calls": 1 }),
        };
        self.word_comes(life, &Input::noticed(event));
    }

    /// Word that may come late, or twice.
    pub(crate) fn word_comes(&mut self, life: u64, input: &Input) {
        self.word_comes_after(0, life, input);
    }

    /// The same, of something that takes a while itself.
    pub(crate) fn word_comes_after(&mut self, length: u64, life: u64, input: &Input) {
        let copies = if self.rng.chance(200) { 2 } else { 1 };
        for _ in 0..copies {
            let late = self.rng.chance(250);
            let delay = self.rng.heavy(if late { 30_000 } else { 4 }, 60_000);
            let input = Box::new(input.clone());
            self.after(length + delay, Next::Word { life, input });
        }
    }

    /// Word from inside the controller's process: lost with that process.
    pub(crate) fn word(&mut self, life: u64, input: &Input) {
        if self.active.as_ref().is_some_and(|c| c.life == life) {
            self.submit(input);
        }
    }

    pub(crate) fn presence_arrives(&mut self, presence: &Presence, index: usize, sent: Timestamp) {
        let now = self.now;
        let name = self.name.clone();
        if !self.gateways[index].linked {
            return;
        }
        let Some(controller) = &mut self.active else {
            return;
        };
        let Some(report) = presence.agents.get(&name) else {
            return;
        };
        let life = presence.incarnation.parse().expect("a number");
        let key = (life, presence.sequence);
        self.truth.delivered(index, now, sent, key, report);
        controller.seen.observe(
            now,
            &presence.gateway,
            &presence.incarnation,
            presence.sequence,
            report.clone(),
        );
        let gateway = presence.gateway.clone();
        let greets = presence.sequence == 1 || !controller.agent.gateways.contains(&gateway);
        let event = if greets {
            Event::GatewayJoined { gateway }
        } else {
            Event::Tick
        };
        self.submit(&Input::noticed(event));
        // One that acts by an older table gets the newest again: it may have been lost.
        let Some(controller) = &self.active else {
            return;
        };
        let joined = controller.agent.gateways.contains(&presence.gateway);
        // One that acts by a newer table than was decided here heard of it from somebody else.
        if report.epoch > controller.agent.epoch {
            self.active = None;
            self.after(1, Next::Restart);
            return;
        }
        if joined && report.epoch < controller.agent.epoch {
            let table = Arc::new(controller.agent.table());
            self.send_table(index, &table);
        }
    }

    pub(crate) fn set_timer(&mut self) {
        let Some(controller) = &mut self.active else {
            return;
        };
        let Some(deadline) = controller.agent.next_deadline() else {
            return;
        };
        if deadline > self.now && controller.timer != Some(deadline) {
            controller.timer = Some(deadline);
            let life = controller.life;
            self.at(deadline, Next::Timer { life });
        }
    }

    pub(crate) fn timer(&mut self, life: u64) {
        if self.active.as_ref().is_some_and(|c| c.life == life)
            && let Answer::Done = self.submit(&Input::noticed(Event::Tick))
        {
            self.i5_a_rollback_ends_in_time();
        }
    }

    /// Carries out again what should be: effects are idempotent.
    pub(crate) fn reconcile(&mut self, life: u64) {
        let Some(mut controller) = self.active.take() else {
            return;
        };
        if controller.life != life {
            self.active = Some(controller);
            return;
        }
        let list = controller.agent.effects();
        let outcome = self.carry_on(&mut controller, Stage::Effects { list, next: 0 }, true);
        self.settle(controller, outcome);
    }

    /// A controller starts: it reads the journal and goes on where that ends.
    pub(crate) fn restart_controller(&mut self) {
        if self.active.is_some() {
            return;
        }
        if self.rng.chance(self.faults.crash * 4) {
            self.coverage.hit("fault", "crash in recovery");
            let delay = self.rng.between(50, 2_000);
            self.after(delay, Next::Restart);
            return;
        }
        self.lives += 1;
        let life = self.lives;
        let guard = self.mutant.and_then(Mutant::guard);
        let blank = Agent::new(self.name.clone()).without(guard);
        let length = self.journal.facts.len();
        let skip = (self.is_mutant(Mutant::ReplaySkipsAFact) && length > 0)
            .then(|| self.rng.index(length));
        let agent = self.journal.replay(blank, skip);
        self.i6_memory_is_the_replay(&agent, length);
        self.trace(|| format!("controller {life} starts at {length} facts"));
        let mut controller = Controller {
            life,
            agent,
            seen: Seen::new(self.now),
            position: length,
            head: self.journal.head(),
            published: None,
            smokes: BTreeSet::new(),
            begun: BTreeSet::new(),
            timer: None,
        };
        let outcome = self.carry_on(&mut controller, Stage::Publish, true);
        if let Answer::Done = self.settle(controller, outcome) {
            self.after(10, Next::Relist { life });
        }
    }

    /// A controller that was stopped wakes up and goes on as if nothing had happened.
    pub(crate) fn zombie_wakes(&mut self) {
        let Some((mut controller, stage)) = self.zombie.take() else {
            return;
        };
        self.coverage.hit("fault", "zombie wakes");
        self.trace(|| format!("controller {} wakes up", controller.life));
        self.woken = true;
        let mut outcome = self.carry_on(&mut controller, stage, false);
        if outcome.is_ok() {
            // It also decides by what it saw before, until the journal refuses it.
            let input = Input::noticed(Event::Tick);
            controller.seen.listen(self.now);
            self.look(&mut controller);
            let facts = controller
                .agent
                .step(self.now, &controller.seen, &input)
                .expect("a tick is always legal");
            if !facts.is_empty() {
                let input = Box::new(input);
                outcome = self.carry_on(&mut controller, Stage::Append { facts, input }, false);
            }
        }
        if matches!(outcome, Err(Halt::Deposed)) {
            self.coverage.hit("fault", "zombie fenced by the journal");
        }
        self.woken = false;
        // It has lost its lock and ends, unless nobody took over: then the restart is under way.
    }
}
