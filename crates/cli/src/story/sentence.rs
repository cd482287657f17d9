//! One decision as one plain sentence.

use segue_core::audit::Entry;
use segue_core::names::{GatewayId, ReleaseId};
use segue_core::rollout::{Fact, Gate, Pause};
use segue_core::spec::StragglerPolicy;

use super::Labels;
use crate::output;

/// What was decided.
pub(super) fn of(entry: &Entry, fact: &Fact, labels: &Labels) -> String {
    let name = |id: &ReleaseId| labels.label(entry, *id);
    match fact {
        Fact::Configured { .. } => "the agent's settings are those of segue.toml".to_owned(),
        Fact::Deployed { .. } => deployed(entry, fact, labels),
        Fact::ProvisionStarted { .. } => {
            "the hook before the deploy has run; workers start".to_owned()
        }
        Fact::WorkerReady {
            worker,
            release,
            addr,
            capacity,
            ..
        } => format!(
            "worker {worker} of {} is up at {addr}, for {capacity} calls",
            name(release)
        ),
        Fact::WorkerGone { worker, why } => format!("worker {worker} is gone: {why}"),
        Fact::WorkerAdmitted { worker, .. } => {
            format!("membership lets worker {worker} take new calls")
        }
        Fact::WorkerBarred { worker, why } => {
            format!(
                "membership bars worker {worker} ({why}): it keeps its calls and gets no new ones"
            )
        }
        Fact::WorkerShowed { worker, badge } => {
            format!("worker {worker} has shown another token ({})", badge.token)
        }
        Fact::GatewayJoined { gateway } => {
            format!("gateway {gateway} reports: from now on its calls count")
        }
        Fact::GatewayForgotten { gateway, reason } => {
            format!(
                "gateway {gateway} no longer counts: an operator vouches that it is gone ({reason})"
            )
        }
        Fact::VerifyStarted { attempt, .. } if *attempt == 1 => {
            "every worker answers; the gates are tried".to_owned()
        }
        Fact::VerifyStarted { attempt, .. } => format!("the gates are tried, attempt {attempt}"),
        Fact::GatePassed { release, gate, .. } => format!("{} {}", name(release), passed(gate)),
        Fact::GatesSkipped { release, reason } => {
            format!(
                "{} is let through without its gates: {reason}",
                name(release)
            )
        }
        Fact::StepStarted { step, share, .. } => {
            let incoming = incoming(entry);
            format!(
                "ramp step {}: {incoming} takes {share} of new calls",
                step + 1
            )
        }
        Fact::Paused { pause, .. } => format!("the rollout waits: {}", paused(pause)),
        Fact::Resumed { .. } => "the rollout goes on".to_owned(),
        Fact::CutOver { .. } => format!(
            "every new call goes to {}; calls in progress stay where they are",
            incoming(entry)
        ),
        Fact::Landed { unacked, .. } => acknowledged("the cutover", unacked),
        Fact::BakeSmokeStarted { attempt, .. } => {
            format!("bake: smoke round {attempt} begins")
        }
        Fact::BakeSmoked { attempt, .. } => {
            format!("bake: smoke round {attempt} did not fail")
        }
        Fact::Baked { .. } => "the bake window is over".to_owned(),
        Fact::RollbackStarted {
            from, to, reason, ..
        } => format!(
            "every new call goes to {} again, and {} drains: {reason}",
            name(to),
            name(from)
        ),
        Fact::RolledBack { unacked, .. } => acknowledged("the rollback", unacked),
        Fact::Failed { reason, .. } => {
            format!("the rollout ends before the new release took a call: {reason}")
        }
        Fact::DrainStarted { release, .. } => {
            format!(
                "{} is taken out of service: new calls are turned away",
                name(release)
            )
        }
        _ => ending(entry, fact, labels),
    }
}

/// What becomes of the releases that wind down.
fn ending(entry: &Entry, fact: &Fact, labels: &Labels) -> String {
    let name = |id: &ReleaseId| labels.label(entry, *id);
    match fact {
        Fact::Emptied { release, .. } => {
            format!(
                "{} is empty; it must stay so for the straggler buffer",
                name(release)
            )
        }
        Fact::Refilled { release, why } => {
            format!("{} is not known to be empty any more: {why}", name(release))
        }
        Fact::CeilingReached {
            release, policy, ..
        } => format!(
            "{} still has calls at its ceiling: {}",
            name(release),
            policy_words(*policy)
        ),
        Fact::CallsEnding {
            release,
            calls,
            reason,
            ..
        } => format!(
            "{} of {} {} ended: {reason}",
            match calls.len() {
                1 => "1 call".to_owned(),
                count => format!("{count} calls"),
            },
            name(release),
            if calls.len() == 1 { "is" } else { "are" }
        ),
        Fact::ContractStarted {
            release, attempt, ..
        } => format!(
            "no older release has a process left; the contract hook of {} runs (attempt {attempt})",
            name(release)
        ),
        Fact::ContractFinished {
            release, failed, ..
        } => match failed {
            None => format!("the contract hook of {} has run", name(release)),
            Some(why) => format!("the contract hook of {} failed: {why}", name(release)),
        },
        Fact::Drained {
            release,
            keep_until,
            ..
        } => format!(
            "{} is drained; it stands by for a rollback until {}",
            name(release),
            output::utc(*keep_until)
        ),
        Fact::Retiring { release, .. } => {
            format!("{} is withdrawn from the routing table", name(release))
        }
        Fact::Retired { release, .. } => format!("{} is retired; its workers stop", name(release)),
        Fact::Notice(notice) => super::notice::of(notice, name),
        other => other.name().replace('_', " "),
    }
}

fn deployed(entry: &Entry, fact: &Fact, labels: &Labels) -> String {
    let Fact::Deployed {
        release,
        slot,
        displaced,
        fast_track,
        ..
    } = fact
    else {
        return String::new();
    };
    let mut parts = vec![match super::current(entry) {
        Some(current) => format!(
            "{} is brought in beside {current}, in slot {slot}",
            release.label
        ),
        None => format!(
            "{} is brought in, in slot {slot}; nothing serves yet",
            release.label
        ),
    }];
    if let Some(displaced) = displaced {
        let label = labels.label(entry, *displaced);
        parts.push(format!("{label} leaves that slot and finishes its calls"));
    }
    if *fast_track {
        parts.push("on the fast track: it served before, so it skips the ramp".to_owned());
    }
    parts.join("; ")
}

/// The release that is brought in, as its state says.
fn incoming(entry: &Entry) -> &str {
    if let Some(label) = entry.inputs["rollout"]["incoming"].as_str() {
        return label;
    }
    // The log of a version that did not say.
    let releases = entry.inputs["releases"].as_object();
    let in_state = |state: &str| {
        let mut releases = releases.into_iter().flat_map(serde_json::Map::values);
        releases.find(|release| release["state"] == state)
    };
    let is = in_state("ramping").or_else(|| in_state("inactive"));
    is.and_then(|release| release["label"].as_str())
        .unwrap_or("the new release")
}

fn passed(gate: &Gate) -> String {
    match gate {
        Gate::Readiness => "is ready: every worker answers its health check".to_owned(),
        Gate::Smoke => "passed its smoke calls".to_owned(),
        Gate::BeforeDeploy => "may start: the hook before the deploy has run".to_owned(),
        Gate::Webhook(hook) => format!("passed the webhook {hook}"),
        Gate::Approval => "is approved by a person".to_owned(),
    }
}

fn paused(pause: &Pause) -> String {
    match pause {
        Pause::Operator { reason } => format!("an operator asked for it ({reason})"),
        Pause::Step => "the step asks for an operator".to_owned(),
        Pause::Inconclusive { reason } => format!("a gate could not tell ({reason})"),
    }
}

fn acknowledged(what: &str, unacked: &[GatewayId]) -> String {
    if unacked.is_empty() {
        return format!("{what} is acknowledged by every gateway");
    }
    let names: Vec<&str> = unacked.iter().map(GatewayId::as_str).collect();
    format!(
        "{what} stands, but is not acknowledged by {}",
        names.join(", ")
    )
}

fn policy_words(policy: StragglerPolicy) -> &'static str {
    match policy {
        StragglerPolicy::Wait => "they end by themselves",
        StragglerPolicy::Announce => "their workers are asked to wind up",
        StragglerPolicy::HandOff => "their workers are asked to hand them off",
        StragglerPolicy::End => "they are ended, each at a moment of its own",
    }
}
