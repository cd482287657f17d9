//! What was known at the moment of a decision, for the audit log and `segue explain` (I9).

use serde_json::{Map, Value, json};

use crate::names::ReleaseId;
use crate::release::ReleaseState;
use crate::rollout::agent::{Agent, ContractState, Gate, ReleaseRecord, Rollout};
use crate::rollout::seen::{Count, Seen};
use crate::time::Timestamp;

impl Agent {
    /// What was known at the moment of a decision, for the audit log (I9).
    pub fn inputs(&self, now: Timestamp, seen: &Seen) -> Value {
        let releases: Map<String, Value> = self
            .releases
            .iter()
            .filter(|(_, record)| !matches!(record.state, ReleaseState::Retired { .. }))
            .map(|(id, record)| (id.short(), self.release_inputs(now, seen, *id, record)))
            .collect();
        let acked: Map<String, Value> = self
            .gateways
            .iter()
            .map(|gateway| (gateway.to_string(), json!(seen.epoch(gateway))))
            .collect();
        let contracts: Map<String, Value> = self
            .contracts
            .iter()
            .map(|(id, contract)| (id.short(), json!(contract.state.word())))
            .collect();
        let mut inputs = json!({
            "epoch": self.epoch,
            "revision": self.revision,
            "phase": self.phase_word(),
            "releases": releases,
            "acknowledged": acked,
        });
        if let Some(rollout) = &self.rollout {
            inputs["rollout"] = self.rollout_inputs(now, seen, rollout);
        }
        if !contracts.is_empty() {
            inputs["contracts"] = json!(contracts);
        }
        inputs
    }

    fn release_inputs(
        &self,
        now: Timestamp,
        seen: &Seen,
        release: ReleaseId,
        record: &ReleaseRecord,
    ) -> Value {
        let calls = match self.count(now, seen, release) {
            Count::Known { live, pinned } => json!({ "live": live, "pinned": pinned }),
            Count::Unknown { gateways } => json!({ "unknown": gateways }),
        };
        let totals = seen.totals(release);
        let (workers, capacity) = self.capacity(release);
        let mut inputs = json!({
            "label": record.release.label,
            "state": record.state.word(),
            "share_bp": self.share(release),
            "calls": calls,
            "permits": seen.permits(release),
            "ended": totals.ended,
            "dropped": totals.dropped,
            "errors": totals.errors,
            "policy": totals.policy,
            "rescued": totals.rescued,
            "workers": workers,
            "capacity": capacity,
        });
        if let Some((since, policy)) = record.ceiling {
            inputs["ceiling"] = json!({ "since": since, "policy": policy });
        }
        inputs
    }

    /// The rollout, as far as a decision depends on it. An ended one says only what it was.
    fn rollout_inputs(&self, now: Timestamp, seen: &Seen, rollout: &Rollout) -> Value {
        let mut inputs = json!({
            "number": rollout.id,
            "incoming": self.label(rollout.incoming),
            "outgoing": rollout.outgoing.map(|id| self.label(id)),
        });
        if !self.is_rolling_out() && rollout.baking().is_none() {
            return inputs;
        }
        let record = self.releases.get(&rollout.incoming);
        let gates = json!({
            "passed": record.map(|record| &record.passed),
            "missing": self.missing_gates(rollout.incoming, &rollout.plan),
            "skipped": record.is_some_and(|record| record.skipped),
        });
        let counted = seen.since(rollout.incoming, &rollout.ramp_base);
        let holds = self.holds(now, seen);
        let holds: Vec<String> = holds.iter().map(ToString::to_string).collect();
        inputs["fast_track"] = json!(rollout.fast_track);
        inputs["gates"] = gates;
        inputs["approval"] = json!(rollout.plan.approval.map(|is| {
            let given = self.passed(rollout.incoming, &Gate::Approval);
            json!({ "before": is.before, "given": given })
        }));
        inputs["limits"] = json!(rollout.plan.limits);
        inputs["counted"] = json!({
            "started": counted.started,
            "ended": counted.ended,
            "dropped": counted.dropped,
            "errors": counted.errors,
            "rescued": counted.rescued,
        });
        inputs["holds"] = json!(holds);
        inputs["bake"] = json!(
            rollout
                .baking()
                .map(|bake| { json!({ "until": bake.until, "round": bake.attempt }) })
        );
        inputs
    }
}

impl ContractState {
    /// One word for people and logs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running { .. } => "running",
            Self::Failed { .. } => "failed",
            Self::Done => "done",
        }
    }
}
