//! The bake window: after the cutover a release is still watched for a while, and goes back by
//! itself when it turns bad.

use serde_json::Value;

use crate::names::ReleaseId;
use crate::rollout::agent::{Agent, Bake, Phase, Rollout};
use crate::rollout::event::Verdict;
use crate::rollout::fact::Fact;
use crate::rollout::guard::Guard;
use crate::rollout::seen::Seen;
use crate::spec::Plan;
use crate::time::{Millis, Timestamp};

/// Attempts of smoke calls in a bake window are this and their round, so that none is taken for
/// an attempt before the first caller.
pub const BAKE_ATTEMPTS: u32 = 1_000_000;

/// Rounds of smoke calls in one bake window: enough to see a release turn bad, and few calls.
const ROUNDS: u64 = 10;

/// Shortest time between two rounds: a round is some calls at real time.
const ROUND_EVERY_MIN: Millis = Millis::from_secs(30);

/// Time from one round of smoke calls to the next.
fn round_every(plan: &Plan) -> Millis {
    Millis(plan.bake.0 / ROUNDS).max(ROUND_EVERY_MIN)
}

impl Rollout {
    /// The window that begins with the landing; `None`: the plan asks for none, or there was no
    /// release to go back to. The first round of smoke calls is due at once.
    pub(super) fn begin_bake(&self, at: Timestamp) -> Option<Bake> {
        (self.plan.bake > Millis(0) && self.outgoing.is_some()).then_some(Bake {
            until: at + self.plan.bake,
            attempt: 1,
            due: at,
            smoking: None,
        })
    }

    /// The window that is open.
    pub(super) fn baking(&self) -> Option<Bake> {
        self.bake
            .filter(|_| matches!(self.phase, Phase::Landed { .. }))
    }
}

impl Agent {
    /// Whether a release is what a bake window would go back to.
    pub(super) fn is_baked_against(&self, release: ReleaseId) -> bool {
        self.rollout
            .as_ref()
            .is_some_and(|rollout| rollout.baking().is_some() && rollout.outgoing == Some(release))
    }

    /// Ends the window before its time: something else begins.
    pub(super) fn end_bake(&self, at: Timestamp) -> Option<Fact> {
        let rollout = self.rollout.as_ref()?;
        rollout.baking().map(|_| Fact::Baked { at })
    }

    /// The next decision of the window.
    pub(super) fn bake(&self, now: Timestamp, seen: &Seen, rollout: &Rollout) -> Vec<Fact> {
        let Some(bake) = rollout.baking() else {
            return Vec::new();
        };
        if let Some(why) = self.hurt(seen, rollout)
            && let Some(back) = self.bake_fails(now, rollout, &why)
        {
            return vec![back];
        }
        // A round that has begun is waited for: it may be the one that fails.
        let waits = bake.smoking.is_some_and(|deadline| now < deadline);
        if now >= bake.until {
            // Nobody has looked whether it is bad as long as a gateway is silent (I10).
            let unknown = !seen.silent(now, &self.gateways).is_empty();
            return if waits || unknown && self.on(Guard::NoDataNoVerdict) {
                Vec::new()
            } else {
                vec![Fact::Baked { at: now }]
            };
        }
        match &rollout.plan.smoke {
            Some(smoke) if bake.smoking.is_none() && now >= bake.due => {
                vec![Fact::BakeSmokeStarted {
                    attempt: bake.attempt,
                    at: now,
                    deadline: now + smoke.timeout,
                }]
            }
            _ => Vec::new(),
        }
    }

    /// What the verdict of a round comes to.
    pub(super) fn bake_smoked(
        &self,
        (rollout_id, of_attempt): (u64, u32),
        verdict: &Verdict,
        report: &Value,
        now: Timestamp,
    ) -> Vec<Fact> {
        let Some(rollout) = self.rollout.as_ref().filter(|is| is.id == rollout_id) else {
            return Vec::new();
        };
        let Some(bake) = rollout.baking() else {
            return Vec::new();
        };
        if bake.smoking.is_none() || BAKE_ATTEMPTS + bake.attempt != of_attempt {
            return Vec::new();
        }
        let report = match verdict {
            Verdict::Failed(why) => {
                let back = self.bake_fails(now, rollout, &format!("smoke failed: {why}"));
                if let Some(back) = back {
                    return vec![back];
                }
                serde_json::json!({ "failed": why, "report": report })
            }
            // It says nothing about the release, so nothing follows: the next round may.
            Verdict::Inconclusive(why) => {
                serde_json::json!({ "inconclusive": why, "report": report })
            }
            Verdict::Successful => report.clone(),
        };
        vec![Fact::BakeSmoked {
            attempt: bake.attempt,
            at: now,
            next: now + round_every(&rollout.plan),
            report,
        }]
    }

    /// Back to the release before, or to an earlier one; `None` when none runs any more.
    fn bake_fails(&self, now: Timestamp, rollout: &Rollout, why: &str) -> Option<Fact> {
        if !self.on(Guard::BakeRollsBack) {
            return None;
        }
        let before = rollout.outgoing.filter(|id| self.can_come_back(*id));
        let to = before.or_else(|| self.rollback_target())?;
        let from = rollout.incoming;
        let reason = format!("{} while it bakes: {why}", self.label(from));
        Some(Fact::RollbackStarted {
            rollout: rollout.id,
            from,
            to,
            reason,
            at: now,
        })
    }
}
