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
            proved: false,
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
        if let Some(back) = self.bake_hurts(now, seen, rollout) {
            return vec![back];
        }
        // A round that has begun is waited for: it may be the one that fails.
        let waits = bake.smoking.is_some_and(|deadline| now < deadline);
        let unproven = self.is_unproven(rollout, &bake);
        if now >= bake.until && !unproven {
            // Nobody has looked whether it is bad as long as a gateway is silent (I10).
            let unknown = !seen.silent(now, &self.gateways).is_empty();
            let unknown = unknown && self.on(Guard::NoDataNoVerdict);
            let stays = waits || unknown || self.no_way_back(seen, rollout).is_some();
            return if stays || self.is_deserted(rollout.incoming) {
                Vec::new()
            } else {
                vec![Fact::Baked { at: now }]
            };
        }
        // A round of which nobody heard again is followed by another one.
        let (attempt, due) = match bake.smoking {
            Some(deadline) => {
                let next = bake.due + round_every(&rollout.plan);
                (bake.attempt + 1, deadline.max(next))
            }
            None => (bake.attempt, bake.due),
        };
        match &rollout.plan.smoke {
            Some(smoke) if now >= due => vec![Fact::BakeSmokeStarted {
                attempt,
                at: now,
                deadline: now + smoke.timeout,
            }],
            _ => Vec::new(),
        }
    }

    /// Whether the plan asks for smoke calls, and none in the window has shown anything yet: then
    /// it does not end by itself (I10).
    pub(super) fn is_unproven(&self, rollout: &Rollout, bake: &Bake) -> bool {
        rollout.plan.smoke.is_some() && !bake.proved && self.on(Guard::NoDataNoVerdict)
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
                let to = self.way_back(rollout).next();
                let back = to.and_then(|to| {
                    self.bake_fails(now, rollout, to, &format!("smoke failed: {why}"))
                });
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
            unproven: *verdict != Verdict::Successful,
        }]
    }

    /// The release before and the earlier ones, as far as they still run.
    fn way_back(&self, rollout: &Rollout) -> impl Iterator<Item = ReleaseId> {
        let earlier = self.history.iter().rev().copied();
        let all = rollout.outgoing.into_iter().chain(earlier);
        all.filter(|id| self.can_come_back(*id))
    }

    /// Back, because callers are hurt, to the first release with which they are better off.
    fn bake_hurts(&self, now: Timestamp, seen: &Seen, rollout: &Rollout) -> Option<Fact> {
        let mut way_back = self.way_back(rollout);
        let (to, why) = way_back.find_map(|to| Some((to, self.hurt(seen, rollout, to)?)))?;
        self.bake_fails(now, rollout, to, &why)
    }

    fn bake_fails(
        &self,
        now: Timestamp,
        rollout: &Rollout,
        to: ReleaseId,
        why: &str,
    ) -> Option<Fact> {
        if !self.on(Guard::BakeRollsBack) {
            return None;
        }
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
