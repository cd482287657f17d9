//! What mattered of that which was known when a decision was taken.

use segue_core::audit::Entry;
use segue_core::names::ReleaseId;
use segue_core::rollout::{Fact, Gate};
use segue_core::spec::Plan;
use segue_core::time::Timestamp;
use serde_json::Value;

use crate::output;

/// Longest part of a gate's report that is worth a line, in characters.
const REPORT_CHARS_MAX: usize = 160;

/// What earlier decisions of the same rollout say about this one.
#[derive(Debug, Default)]
pub(super) struct Standing {
    plan: Option<Plan>,
    incoming: Option<ReleaseId>,
    /// The ramp step it is in, since when, and how many calls of the incoming release had ended.
    step: Option<(usize, Timestamp, u64)>,
}

impl Standing {
    /// Takes a decision in, after it was told.
    pub(super) fn take(&mut self, entry: &Entry, fact: &Fact) {
        match fact {
            Fact::Deployed { plan, release, .. } => {
                *self = Self {
                    plan: Some(plan.clone()),
                    incoming: Some(release.id),
                    step: None,
                };
            }
            Fact::StepStarted { step, at, .. } => {
                self.step = Some((*step, *at, self.ended(&entry.inputs)));
            }
            Fact::CutOver { .. } | Fact::RollbackStarted { .. } => self.step = None,
            _ => {}
        }
    }

    fn ended(&self, inputs: &Value) -> u64 {
        let incoming = self.incoming.map(|id| &inputs["releases"][id.short()]);
        incoming.and_then(|is| is["ended"].as_u64()).unwrap_or(0)
    }

    /// How the step that ends here was met.
    fn step_met(&self, entry: &Entry) -> Option<String> {
        let (index, since, base) = self.step?;
        let asked = self.plan.as_ref()?.steps.get(index)?;
        let ended = self.ended(&entry.inputs).saturating_sub(base);
        let lasted = entry.at.since(since).0;
        Some(format!(
            "step {}: {ended} calls ended, {} asked for; it lasted {}, {} asked for",
            index + 1,
            asked.min_calls,
            output::age(lasted),
            output::age(asked.min_duration.0)
        ))
    }

    /// The shares past which the release is rolled back.
    fn limits(&self) -> Option<String> {
        let limits = self.plan.as_ref()?.limits;
        Some(format!(
            "limits: {} dropped, {} failed to connect, of at least {} calls",
            limits.drops, limits.errors, limits.min_calls
        ))
    }
}

/// The inputs of a decision that it turned on, one line each.
pub(super) fn of(entry: &Entry, fact: &Fact, standing: &Standing) -> Vec<String> {
    let inputs = &entry.inputs;
    match fact {
        Fact::Deployed { .. } | Fact::VerifyStarted { .. } | Fact::ContractStarted { .. } => {
            every_release(inputs)
        }
        Fact::GatePassed { gate, report, .. } => gate_report(gate, report),
        Fact::StepStarted { .. } | Fact::CutOver { .. } => {
            let mut lines: Vec<String> = standing.step_met(entry).into_iter().collect();
            lines.extend(gates(inputs));
            lines.extend(every_release(inputs));
            lines.extend(room(inputs, standing.incoming));
            lines.extend(counted(inputs));
            lines.extend(standing.limits());
            lines
        }
        Fact::Paused { .. }
        | Fact::Resumed { .. }
        | Fact::GatesSkipped { .. }
        | Fact::RollbackStarted { .. }
        | Fact::Failed { .. }
        | Fact::Baked { .. } => {
            let mut lines = every_release(inputs);
            lines.extend(holds(inputs));
            lines.extend(counted(inputs));
            lines.extend(standing.limits());
            lines
        }
        Fact::BakeSmokeStarted { .. } => counted(inputs).into_iter().collect(),
        Fact::BakeSmoked { report, .. } => gate_report(&Gate::Smoke, report),
        Fact::Landed { .. } | Fact::RolledBack { .. } | Fact::GatewayForgotten { .. } => {
            acknowledged(inputs).into_iter().collect()
        }
        Fact::Emptied { release, .. }
        | Fact::Refilled { release, .. }
        | Fact::CeilingReached { release, .. }
        | Fact::CallsEnding { release, .. }
        | Fact::Drained { release, .. }
        | Fact::Retiring { release, .. }
        | Fact::DrainStarted { release, .. } => about(inputs, *release),
        Fact::Retired { release, epoch, .. } => {
            let mut lines = about(inputs, *release);
            lines.push(format!("withdrawn from the table since epoch {epoch}"));
            lines
        }
        Fact::ContractFinished { report, .. } => {
            let words = hook_words(report).or_else(|| said(report));
            words.into_iter().collect()
        }
        Fact::Configured { .. }
        | Fact::ProvisionStarted { .. }
        | Fact::WorkerReady { .. }
        | Fact::WorkerGone { .. }
        | Fact::WorkerAdmitted { .. }
        | Fact::WorkerBarred { .. }
        | Fact::WorkerShowed { .. }
        | Fact::GatewayJoined { .. }
        | Fact::Notice(_) => Vec::new(),
    }
}

/// Each release that was not retired.
fn every_release(inputs: &Value) -> Vec<String> {
    let releases = inputs["releases"].as_object();
    releases
        .into_iter()
        .flat_map(|releases| releases.values())
        .map(line)
        .collect()
}

/// One release, and who reported it.
fn about(inputs: &Value, release: ReleaseId) -> Vec<String> {
    let is = &inputs["releases"][release.short()];
    let is = (!is.is_null()).then(|| line(is));
    is.into_iter().chain(acknowledged(inputs)).collect()
}

fn line(release: &Value) -> String {
    let text = |key: &str| release[key].as_str().unwrap_or("?").to_owned();
    let count = |key: &str| release[key].as_u64().unwrap_or(0);
    let calls = &release["calls"];
    let calls = if let Some(gateways) = calls["unknown"].as_array() {
        let names: Vec<&str> = gateways.iter().filter_map(Value::as_str).collect();
        format!("calls unknown (no report from {})", names.join(", "))
    } else {
        let permits = match count("permits") {
            0 => String::new(),
            permits => format!(" ({permits} of them outbound, by permit)"),
        };
        let (live, pinned) = (&calls["live"], &calls["pinned"]);
        format!("{live} live{permits}, {pinned} pinned")
    };
    let share = u16::try_from(count("share_bp")).unwrap_or(0);
    format!(
        "{} {}: {} of new calls, {calls}; {} ended, {} dropped, {} failed to connect; room for {}",
        text("label"),
        text("state"),
        output::percent(share),
        count("ended"),
        count("dropped"),
        count("errors"),
        count("capacity"),
    )
}

/// Gates that were passed, and those that were not.
fn gates(inputs: &Value) -> Option<String> {
    let gates = &inputs["rollout"]["gates"];
    let names = |key: &str| -> Vec<String> {
        let all = gates[key].as_array().into_iter().flatten();
        all.map(|gate| match (gate.as_str(), gate["webhook"].as_str()) {
            (Some(name), _) => name.replace('_', " "),
            (None, Some(hook)) => format!("webhook {hook}"),
            (None, None) => gate.to_string(),
        })
        .collect()
    };
    let (passed, missing) = (names("passed"), names("missing"));
    let mut parts = Vec::new();
    if !passed.is_empty() {
        parts.push(format!("passed {}", passed.join(", ")));
    }
    if !missing.is_empty() {
        parts.push(format!("missing {}", missing.join(", ")));
    }
    if gates["skipped"] == true {
        parts.push("skipped by an operator".to_owned());
    }
    (!parts.is_empty()).then(|| format!("gates: {}", parts.join("; ")))
}

/// Calls of the incoming release since it took the first of them.
fn counted(inputs: &Value) -> Option<String> {
    let counted = inputs["rollout"]["counted"].as_object()?;
    let count = |key: &str| counted.get(key).and_then(Value::as_u64).unwrap_or(0);
    Some(format!(
        "judged on: {} calls started, {} ended, {} dropped, {} failed to connect",
        count("started"),
        count("ended"),
        count("dropped"),
        count("errors"),
    ))
}

/// What the rollout waited for.
fn holds(inputs: &Value) -> Option<String> {
    let holds = inputs["rollout"]["holds"].as_array()?;
    let holds: Vec<&str> = holds.iter().filter_map(Value::as_str).collect();
    (!holds.is_empty()).then(|| format!("it waited: {}", holds.join("; ")))
}

/// What the incoming release can hold beside what is in progress.
fn room(inputs: &Value, incoming: Option<ReleaseId>) -> Option<String> {
    let releases = inputs["releases"].as_object()?;
    let live = |is: &Value| is["calls"]["live"].as_u64();
    let all: u64 = releases.values().filter_map(live).sum();
    let have = releases.get(&incoming?.short())?["capacity"].as_u64()?;
    Some(format!(
        "room: its workers hold {have} calls; in progress: {all}"
    ))
}

fn acknowledged(inputs: &Value) -> Option<String> {
    let gateways = inputs["acknowledged"].as_object()?;
    let epoch = &inputs["epoch"];
    let said: Vec<String> = gateways
        .iter()
        .map(|(gateway, acts)| match acts.as_u64() {
            Some(acts) => format!("{gateway} acts by epoch {acts}"),
            None => format!("{gateway} has not reported"),
        })
        .collect();
    (!said.is_empty()).then(|| format!("epoch {epoch}: {}", said.join(", ")))
}

/// What a gate measured, in a line or two.
fn gate_report(gate: &Gate, report: &Value) -> Vec<String> {
    let Some(calls) = report["calls"].as_array().filter(|_| *gate == Gate::Smoke) else {
        return words_of(gate, report)
            .or_else(|| said(report))
            .into_iter()
            .collect();
    };
    let one = |(number, report): (usize, &Value)| {
        let call = &report["call"];
        let mut parts = vec![format!("smoke call {}", number + 1)];
        if let Some(took) = call["connect_ms"].as_u64() {
            parts.push(format!("connected in {took} ms"));
        }
        if let Some(took) = call["greeting"]["voice_ms"].as_u64() {
            parts.push(format!("greeted after {took} ms"));
        }
        if let Some(turns) = call["turns"].as_array() {
            let heard = turns.iter().filter(|turn| turn["heard"] == true).count();
            parts.push(format!("{heard} of {} answers understood", turns.len()));
        }
        parts.join(", ")
    };
    calls.iter().enumerate().map(one).collect()
}

/// A report of a gate that is known, for people; `None`: it is not as it should be.
fn words_of(gate: &Gate, report: &Value) -> Option<String> {
    let many = |count: u64, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    match gate {
        Gate::Readiness => Some(format!(
            "{}, with room for {}",
            many(report["workers"].as_u64()?, "worker"),
            many(report["capacity"].as_u64()?, "call")
        )),
        Gate::BeforeDeploy => hook_words(report),
        Gate::Webhook(_) => Some(format!(
            "it answered: {}; after {}",
            report["answer"].as_str()?,
            match report["tries"].as_u64()? {
                1 => "1 try".to_owned(),
                tries => format!("{tries} tries"),
            }
        )),
        Gate::Approval => match report["reason"].as_str() {
            Some(reason) => Some(format!("reason: {reason}")),
            None => Some("no reason given".to_owned()),
        },
        Gate::Smoke => None,
    }
}

/// What a hook said at its end.
fn hook_words(report: &Value) -> Option<String> {
    let status = report["status"].as_i64()?;
    let said = report["output"].as_array()?.last().and_then(Value::as_str);
    Some(match said {
        Some(line) => format!("it ended with status {status}; its last line: {line}"),
        None => format!("it ended with status {status} and said nothing"),
    })
}

/// A report of which nothing is known: as it is, cut short.
fn said(report: &Value) -> Option<String> {
    let is_empty = report.is_null()
        || report.as_object().is_some_and(serde_json::Map::is_empty)
        || report.as_str().is_some_and(str::is_empty);
    if is_empty {
        return None;
    }
    let text = report
        .as_str()
        .map_or_else(|| report.to_string(), str::to_owned);
    let mut short: String = text.chars().take(REPORT_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    Some(format!("report: {short}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn gates_are_told_in_words() {
        let hook = json!({ "status": 0, "log": "/x", "output": ["one", "two"] });
        let board = Gate::Webhook("board".to_owned());
        for (gate, report, expected) in [
            (
                Gate::Readiness,
                json!({ "workers": 1, "capacity": 20 }),
                "1 worker, with room for 20 calls",
            ),
            (
                Gate::BeforeDeploy,
                hook,
                "it ended with status 0; its last line: two",
            ),
            (
                board.clone(),
                json!({ "answer": "successful", "tries": 2 }),
                "it answered: successful; after 2 tries",
            ),
            (
                Gate::Approval,
                json!({ "by": "ann", "reason": "heard it" }),
                "reason: heard it",
            ),
            // What is not as it should be is shown as it is.
            (board, json!({ "tries": 2 }), "report: {\"tries\":2}"),
        ] {
            assert_eq!(gate_report(&gate, &report), [expected]);
        }
    }
}
