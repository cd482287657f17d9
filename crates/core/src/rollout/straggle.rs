//! Stragglers: what becomes of calls that a draining release still holds at its ceiling.

use crate::names::ReleaseId;
use crate::release::ReleaseState;
use crate::rollout::agent::{Agent, ReleaseRecord};
use crate::rollout::effect::Effect;
use crate::rollout::fact::Fact;
use crate::rollout::guard::Guard;
use crate::rollout::illegal::Illegal;
use crate::rollout::seen::Count;
use crate::spec::{StragglerPolicy, Stragglers};
use crate::time::Timestamp;

impl Agent {
    /// Releases whose calls are handed off: past the ceiling of that policy and not current again.
    pub(super) fn handed_off(&self) -> impl Iterator<Item = ReleaseId> {
        let hand_off = |record: &ReleaseRecord| {
            let (_, policy) = self.straggling(record)?;
            (policy == StragglerPolicy::HandOff).then_some(())
        };
        self.releases
            .iter()
            .filter(move |(_, record)| hand_off(record).is_some())
            .map(|(id, _)| *id)
    }

    /// The policy under which a release is since its ceiling. Somebody who has changed the policy
    /// since means it: the old one does nothing any more.
    pub(super) fn straggling(
        &self,
        record: &ReleaseRecord,
    ) -> Option<(Timestamp, StragglerPolicy)> {
        let (since, policy) = record.ceiling?;
        let draining = matches!(
            record.state,
            ReleaseState::Draining { .. } | ReleaseState::Drained { .. }
        );
        (draining && self.policy.stragglers.policy == policy).then_some((since, policy))
    }

    /// Another policy or a later ceiling holds from now on. Releases that have not reached it by
    /// what is set now have reached none; when they do is decided anew.
    pub(super) fn forget_ceilings(&mut self) {
        let Stragglers {
            policy, ceiling, ..
        } = self.policy.stragglers;
        for record in self.releases.values_mut() {
            let Some((reached, of)) = record.ceiling else {
                continue;
            };
            let stands = match (record.state, ceiling) {
                (ReleaseState::Draining { since, .. }, Some(ceiling)) => reached >= since + ceiling,
                // It is empty: nothing happens to its calls.
                (ReleaseState::Drained { .. }, Some(_)) => true,
                _ => false,
            };
            if of != policy || !stands {
                record.ceiling = None;
            }
        }
    }

    /// When a draining release reaches a ceiling that it has not reached yet.
    pub(super) fn ceiling_due(&self, record: &ReleaseRecord) -> Option<Timestamp> {
        let ReleaseState::Draining { since, .. } = record.state else {
            return None;
        };
        let Stragglers {
            policy, ceiling, ..
        } = self.policy.stragglers;
        let reached = record.ceiling.is_some_and(|(_, of)| of == policy);
        if policy == StragglerPolicy::Wait || reached {
            return None;
        }
        Some(since + ceiling?)
    }

    /// The ceiling is reached, and calls are there or may be: unknown is not zero.
    pub(super) fn ceiling_reached(
        &self,
        now: Timestamp,
        release: ReleaseId,
        count: &Count,
    ) -> Option<Fact> {
        let record = self.releases.get(&release)?;
        let due = self.ceiling_due(record)?;
        let holds = !matches!(count, Count::Known { live: 0, .. });
        (now >= due && holds).then_some(Fact::CeilingReached {
            release,
            policy: self.policy.stragglers.policy,
            at: now,
        })
    }

    /// The turn of these calls has come. Only what is journaled first may be ended.
    pub(super) fn end_calls(
        &self,
        now: Timestamp,
        release: ReleaseId,
        calls: &[String],
    ) -> Result<Vec<Fact>, Illegal> {
        if !self.on(Guard::PolicyAudited) || calls.is_empty() {
            return Ok(Vec::new());
        }
        let ending = self.releases.get(&release).and_then(|record| {
            let (reached, policy) = self.straggling(record)?;
            let ReleaseState::Draining { since: began, .. } = record.state else {
                return None;
            };
            (policy == StragglerPolicy::End).then_some((began, reached))
        });
        let Some((began, reached)) = ending else {
            let label = self.label(release);
            return Err(Illegal::NotEnding { label });
        };
        // Of what was journaled: the setting may be another one by now.
        let reason = format!(
            "straggler policy end: its drain was at the ceiling {} ago, after {}",
            now.since(reached),
            reached.since(began)
        );
        Ok(vec![Fact::CallsEnding {
            release,
            calls: calls.to_vec(),
            reason,
            at: now,
        }])
    }

    /// Draining releases past their ceiling whose calls are dealt with, until they are empty.
    pub(super) fn straggler_effects(&self) -> impl Iterator<Item = Effect> {
        self.releases.iter().filter_map(|(id, record)| {
            let holds = matches!(
                record.state,
                ReleaseState::Draining {
                    empty_since: None,
                    ..
                }
            );
            let (since, policy) = self.straggling(record)?;
            holds.then_some(Effect::Stragglers {
                release: *id,
                since,
                stragglers: Stragglers {
                    policy,
                    ..self.policy.stragglers
                },
            })
        })
    }
}
