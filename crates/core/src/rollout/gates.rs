//! The gates of a rollout: which are asked for, which have passed, and what a verdict comes to.

use serde_json::Value;

use crate::names::ReleaseId;
use crate::rollout::agent::{Agent, Gate, Pause, Phase, Rollout};
use crate::rollout::event::{Input, Verdict};
use crate::rollout::fact::Fact;
use crate::rollout::guard::Guard;
use crate::rollout::illegal::Illegal;
use crate::spec::{Before, Plan, Webhook};
use crate::time::{Millis, Timestamp};

/// Longest pause before a webhook is asked again: whoever asks waits no longer than this between
/// two tries, and the deadline of the gates allows for it.
pub const WEBHOOK_PAUSE_MAX: Millis = Millis::from_secs(10);

/// How long the gates have when the plan names no time: only readiness is left then.
const VERIFY_TIMEOUT: Millis = Millis::from_secs(60);

/// What a webhook's answer may need beyond its tries: it is asked by another task, and its answer
/// is journaled.
const WEBHOOK_SLACK: Millis = Millis::from_secs(5);

/// The longest that all tries of a webhook take together.
fn patience(webhook: &Webhook) -> Millis {
    let retries = u64::from(webhook.retries);
    let tries = webhook.timeout.0 * (retries + 1);
    Millis(tries + WEBHOOK_PAUSE_MAX.0 * retries + WEBHOOK_SLACK.0)
}

impl Rollout {
    /// Starts a round of gates.
    pub(super) fn verify_again(now: Timestamp, plan: &Plan, attempt: u32) -> Fact {
        let smoke = plan.smoke.as_ref().map(|smoke| smoke.timeout);
        let webhooks = plan.webhooks.iter().map(patience);
        let longest = smoke.into_iter().chain(webhooks).max();
        Fact::VerifyStarted {
            attempt,
            at: now,
            deadline: now + longest.unwrap_or(VERIFY_TIMEOUT),
        }
    }
}

impl Agent {
    /// Whether a release passed every gate that its plan asks for before it takes a call by the
    /// split, or was let through.
    pub fn is_proven(&self, release: ReleaseId, plan: &Plan) -> bool {
        self.releases
            .get(&release)
            .is_some_and(|record| record.skipped || self.missing_gates(release, plan).is_empty())
    }

    /// Gates that a release must pass before it takes a call by the split, and has not, in the
    /// order in which they are tried.
    pub fn missing_gates(&self, release: ReleaseId, plan: &Plan) -> Vec<Gate> {
        let mut missing = self.missing_trials(release, plan);
        let ramp = plan.approval.is_some_and(|is| is.before == Before::Ramp);
        if ramp && !self.passed(release, &Gate::Approval) && self.on(Guard::ApprovalFirst) {
            missing.push(Gate::Approval);
        }
        missing
    }

    /// Those that are tried, and not a person's to decide.
    pub(super) fn missing_trials(&self, release: ReleaseId, plan: &Plan) -> Vec<Gate> {
        let hook = plan.hooks.before_deploy.as_ref();
        let asked = hook.map(|_| Gate::BeforeDeploy).into_iter();
        let asked = asked.chain([Gate::Readiness]);
        let asked = asked.chain(plan.smoke.as_ref().map(|_| Gate::Smoke));
        let webhooks = plan.webhooks.iter();
        asked
            .chain(webhooks.map(|webhook| Gate::Webhook(webhook.name.clone())))
            .filter(|gate| !self.passed(release, gate))
            .collect()
    }

    /// Whether the cutover waits for a person. One that was asked for before the ramp has been
    /// given by then, or an operator let the release through without.
    pub(super) fn awaits_approval(&self, rollout: &Rollout) -> bool {
        let cutover = rollout.plan.approval.map(|is| is.before) == Some(Before::Cutover);
        cutover && !self.passed(rollout.incoming, &Gate::Approval) && self.on(Guard::ApprovalFirst)
    }

    /// Whether its hook has to run before a worker of the incoming release is started.
    pub(super) fn awaits_hook(&self, rollout: &Rollout) -> bool {
        matches!(rollout.phase, Phase::Provisioning { .. })
            && rollout.plan.hooks.before_deploy.is_some()
            && !self.passed(rollout.incoming, &Gate::BeforeDeploy)
    }

    pub(super) fn passed(&self, release: ReleaseId, gate: &Gate) -> bool {
        let record = self.releases.get(&release);
        record.is_some_and(|record| record.passed.contains(gate))
    }

    /// What the verdict of smoke calls before the first caller comes to.
    pub(super) fn smoke(
        &self,
        (rollout_id, of_attempt): (u64, u32),
        verdict: &Verdict,
        report: &Value,
        now: Timestamp,
    ) -> Vec<Fact> {
        let Some(rollout) = &self.rollout else {
            return Vec::new();
        };
        let Phase::Verifying { attempt, .. } = rollout.phase else {
            return Vec::new();
        };
        let current = rollout.id == rollout_id && attempt == of_attempt;
        if !current && self.on(Guard::ThisAttempt) {
            return Vec::new();
        }
        match verdict {
            Verdict::Failed(why) => vec![failed(now, format!("smoke failed: {why}"))],
            _ => self.verdict(now, rollout, Gate::Smoke, verdict, report),
        }
    }

    /// What the verdict of a webhook or of the hook before the deploy comes to.
    pub(super) fn gate_finished(
        &self,
        now: Timestamp,
        (rollout_id, of_attempt): (u64, u32),
        gate: &Gate,
        verdict: &Verdict,
        report: &Value,
    ) -> Vec<Fact> {
        let Some(rollout) = self.rollout.as_ref().filter(|is| is.id == rollout_id) else {
            return Vec::new();
        };
        match (gate, &rollout.phase) {
            (Gate::BeforeDeploy, Phase::Provisioning { .. }) if self.awaits_hook(rollout) => {
                Self::hook_finished(now, rollout, verdict, report)
            }
            (Gate::Webhook(name), Phase::Verifying { attempt, .. }) => {
                let asked = rollout.plan.webhooks.iter().any(|is| is.name == *name);
                let current = *attempt == of_attempt || !self.on(Guard::ThisAttempt);
                match verdict {
                    _ if !asked || !current => Vec::new(),
                    Verdict::Failed(why) => {
                        vec![failed(now, format!("webhook {name} refused: {why}"))]
                    }
                    Verdict::Inconclusive(why) => {
                        let why = format!("webhook {name}: {why}");
                        let verdict = Verdict::Inconclusive(why);
                        self.verdict(now, rollout, gate.clone(), &verdict, report)
                    }
                    Verdict::Successful => {
                        self.verdict(now, rollout, gate.clone(), verdict, report)
                    }
                }
            }
            _ => Vec::new(),
        }
    }

    fn verdict(
        &self,
        now: Timestamp,
        rollout: &Rollout,
        gate: Gate,
        verdict: &Verdict,
        report: &Value,
    ) -> Vec<Fact> {
        let release = rollout.incoming;
        match verdict {
            Verdict::Successful if self.passed(release, &gate) => Vec::new(),
            Verdict::Successful => vec![Fact::GatePassed {
                release,
                gate,
                report: report.clone(),
            }],
            Verdict::Failed(why) => vec![failed(now, why.clone())],
            Verdict::Inconclusive(why) => {
                let pause = Pause::Inconclusive {
                    reason: why.clone(),
                };
                vec![Fact::Paused { pause, at: now }]
            }
        }
    }

    /// A hook of which nobody can tell whether it ran has failed: nothing has been started yet, so
    /// the deploy is simply asked for again, and hooks may run twice.
    fn hook_finished(
        now: Timestamp,
        rollout: &Rollout,
        verdict: &Verdict,
        report: &Value,
    ) -> Vec<Fact> {
        match verdict {
            Verdict::Successful => vec![
                Fact::GatePassed {
                    release: rollout.incoming,
                    gate: Gate::BeforeDeploy,
                    report: report.clone(),
                },
                Fact::ProvisionStarted {
                    at: now,
                    deadline: now + rollout.plan.ready_timeout,
                },
            ],
            Verdict::Failed(why) | Verdict::Inconclusive(why) => {
                vec![failed(now, format!("the hook before_deploy failed: {why}"))]
            }
        }
    }

    /// The time for the gates is over. A webhook that did not answer is for a person to judge; one
    /// that is Segue's own has failed.
    pub(super) fn gates_late(&self, now: Timestamp, rollout: &Rollout) -> Vec<Fact> {
        let missing = self.missing_trials(rollout.incoming, &rollout.plan);
        let names: Vec<&str> = missing.iter().filter_map(webhook_name).collect();
        if names.is_empty() || names.len() < missing.len() {
            let reason = "the smoke calls did not end in time".to_owned();
            return vec![failed(now, reason)];
        }
        let reason = format!("no answer from webhook {}", names.join(", "));
        let pause = Pause::Inconclusive { reason };
        vec![Fact::Paused { pause, at: now }]
    }

    /// A person agrees, to what they looked at.
    pub(super) fn approve(
        &self,
        input: &Input,
        meant: Option<ReleaseId>,
    ) -> Result<Vec<Fact>, Illegal> {
        let rollout = self.under_way("approve")?;
        let waits = matches!(
            rollout.phase,
            Phase::Provisioning { .. } | Phase::Verifying { .. } | Phase::Canary { .. }
        );
        if !waits {
            return Err(self.not_now("approve"));
        }
        let release = rollout.incoming;
        if let Some(meant) = meant.filter(|meant| *meant != release) {
            return Err(Illegal::OtherRelease {
                asked: self.label(meant),
                is: self.label(release),
            });
        }
        if rollout.plan.approval.is_none() {
            let label = self.label(release);
            return Err(Illegal::NoApproval { label });
        }
        if self.passed(release, &Gate::Approval) {
            return Ok(Vec::new());
        }
        let report = serde_json::json!({ "by": input.actor, "reason": input.reason });
        Ok(vec![Fact::GatePassed {
            release,
            gate: Gate::Approval,
            report,
        }])
    }
}

/// The name of a webhook's gate.
pub(super) fn webhook_name(gate: &Gate) -> Option<&str> {
    match gate {
        Gate::Webhook(name) => Some(name),
        _ => None,
    }
}

fn failed(at: Timestamp, reason: String) -> Fact {
    Fact::Failed { at, reason }
}
