//! Gates beside smoke calls: who else is asked, and that nobody goes on without them.

use segue_core::names::ReleaseId;
use segue_core::rollout::{BAKE_ATTEMPTS, Event, Gate, Input, Phase, Verdict};
use segue_core::spec::Before;

use super::driver::Controller;
use super::world::World;

impl World {
    pub(crate) fn ask_webhook(
        &mut self,
        controller: &mut Controller,
        (rollout, attempt): (u64, u32),
        name: &str,
    ) {
        if !controller
            .begun
            .insert(format!("webhook {rollout} {attempt} {name}"))
        {
            return;
        }
        let verdict = match self.rng.below(100) {
            0..=7 => Verdict::Failed("not today".to_owned()),
            8..=29 => Verdict::Inconclusive("no answer".to_owned()),
            _ => Verdict::Successful,
        };
        let event = Event::GateFinished {
            rollout,
            attempt,
            gate: Gate::Webhook(name.to_owned()),
            verdict,
            report: serde_json::json!({ "tries": 1 }),
        };
        self.word_comes(controller.life, &Input::noticed(event));
    }

    /// What is journaled of a gate came of a trial of this rollout.
    pub(crate) fn check_gate(&mut self, gate: &Gate, input: &Input) {
        match gate {
            Gate::Smoke => self.i3_the_verdict_is_of_this_attempt(),
            Gate::Approval => {
                let asked = match input.event {
                    Event::Approve { release } => {
                        let incoming = self.truth.agent.rollout.as_ref().map(|is| is.incoming);
                        release.is_none() || release == incoming
                    }
                    _ => false,
                };
                if !asked || !input.actor.starts_with("operator:") {
                    let text = format!("{} did not say so", input.actor);
                    self.violate("i3_an_approval_is_a_persons", text);
                }
                self.coverage.hit("way", "approved");
            }
            Gate::Webhook(_) => {
                self.coverage.hit("way", "webhook agreed");
                let Event::GateFinished {
                    rollout, attempt, ..
                } = input.event
                else {
                    let text = format!("{gate:?} without an answer");
                    self.violate("i3_the_verdict_is_of_this_attempt", text);
                    return;
                };
                let current = self.truth.agent.rollout.as_ref().is_some_and(|is| {
                    let of =
                        matches!(is.phase, Phase::Verifying { attempt: of, .. } if of == attempt);
                    is.id == rollout && of
                });
                if !current {
                    let text = format!("{gate:?} of rollout {rollout} attempt {attempt}");
                    self.violate("i3_the_verdict_is_of_this_attempt", text);
                }
            }
            Gate::BeforeDeploy => self.coverage.hit("way", "hook before deploy"),
            Gate::Readiness => {}
        }
    }

    /// I3: where a person must agree, they have, or an operator went on without.
    pub(crate) fn i3_nobody_goes_on_without_approval(&mut self, share: u16, input: &Input) {
        let Some(rollout) = &self.truth.agent.rollout else {
            return;
        };
        let (release, fast) = (rollout.incoming, rollout.fast_track);
        let Some(approval) = rollout.plan.approval else {
            return;
        };
        if fast {
            let text = format!("{} is fast and has a gate", self.label(release));
            self.violate("i3_nobody_goes_on_without_approval", text);
            return;
        }
        let given = self
            .truth
            .gates
            .get(&release)
            .is_some_and(|gates| gates.contains(&Gate::Approval));
        let skips_now = matches!(
            input.event,
            Event::Promote {
                skip_gates: true,
                ..
            }
        );
        let skipped = match approval.before {
            Before::Ramp => self.truth.skipped.contains(&release),
            Before::Cutover => skips_now || share < 10_000,
        };
        if !given && !skipped {
            let text = format!("{} gets {share} bp", self.label(release));
            self.violate("i3_nobody_goes_on_without_approval", text);
        }
    }

    /// The ramp is skipped only by a release that landed before and was never rolled back from.
    pub(crate) fn only_who_served_well_is_fast(&mut self, release: ReleaseId) {
        self.coverage.hit("way", "fast track");
        if !self.truth.served_well.contains(&release) {
            let text = self.label(release);
            self.violate("only_who_served_well_is_fast", text);
        }
    }

    /// At the end of the window the release was not bad, as far as was reported.
    pub(crate) fn harm_is_not_baked(&mut self) {
        self.coverage.hit("way", "baked");
        let Some(rollout) = self.truth.agent.rollout.clone() else {
            return;
        };
        let stale = self
            .known()
            .into_iter()
            .find(|index| !self.truth.is_leased(*index, self.now));
        if let Some(index) = stale
            && !self.woken
        {
            self.violate("i10_no_data_no_verdict", format!("g{index} is silent"));
        }
        let proved = self.verdicts.iter().any(|((of, attempt), verdicts)| {
            *of == rollout.id && *attempt > BAKE_ATTEMPTS && verdicts.contains("successful")
        });
        if rollout.plan.smoke.is_some() && !proved {
            let text = format!("{}: no round succeeded", self.label(rollout.incoming));
            self.violate("i10_no_data_no_verdict", text);
        }
        let release = rollout.incoming;
        let limits = rollout.plan.limits;
        let over = |(dropped, ended): (u64, u64)| {
            dropped * 10_000 > 2 * u64::from(limits.drops.0) * ended.max(limits.min_calls)
        };
        let now = self.truth.since_ramp(release, false);
        let ever = self.truth.since_ramp(release, true);
        let back = !self.truth.rollback_targets().is_empty();
        if over(now) && over(ever) && back && !self.woken {
            let text = format!("{now:?} of {ever:?} calls dropped");
            self.violate("harm_is_not_baked", text);
        }
    }

    /// A rollback by smoke calls follows from a round that failed.
    pub(crate) fn i10_only_a_failed_round_rolls_back(&mut self, input: &Input) {
        let Event::SmokeFinished {
            rollout, attempt, ..
        } = input.event
        else {
            return;
        };
        let failed = self
            .verdicts
            .get(&(rollout, attempt))
            .is_some_and(|verdicts| verdicts.contains("failed"));
        if !failed {
            let text = format!("rollout {rollout} round {attempt} did not fail");
            self.violate("i10_only_a_failed_round_rolls_back", text);
        }
    }

    pub(crate) fn the_way_back_is_kept_while_it_bakes(&mut self, release: ReleaseId) {
        let kept = self.truth.agent.rollout.as_ref().is_some_and(|rollout| {
            let landed = matches!(rollout.phase, Phase::Landed { .. });
            landed && rollout.bake.is_some() && rollout.outgoing == Some(release)
        });
        if kept {
            let text = self.label(release);
            self.violate("the_way_back_is_kept_while_it_bakes", text);
        }
    }
}
