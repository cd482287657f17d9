//! `segue deploy`: bring a release in, and watch it.

use std::time::Duration;

use segue_controller::api::wire::{ActionView, AgentView, Ask, DeployBody};
use segue_core::rollout::{Hold, Pause};

use crate::args::{DeployArgs, Format, Wait};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::made;
use crate::output::{self, Progress};
use crate::verb::act::{operator, shares};
use crate::verb::status::phase;

/// How often the rollout is looked at while it is watched.
const WATCH_EVERY: Duration = Duration::from_millis(200);

/// How long the controller may be away before watching ends. It is restarted within a second.
const AWAY_MAX: Duration = Duration::from_secs(20);

/// How a hold begins that no gate could decide on.
const INCONCLUSIVE: &str = "inconclusive";

pub(crate) async fn run(home: &Home, format: Format, args: &DeployArgs) -> anyhow::Result<Exit> {
    let made = made::of(&args.made)?;
    let client = Client::find(home)?;
    let agent = client.one_agent(args.verb.agent.as_deref())?;
    let body = DeployBody {
        label: args.label.clone(),
        command: (!args.command.is_empty()).then(|| args.command.clone()),
        fast_track: args.no_fast_track.then_some(false),
        ask: Ask {
            actor: Some(operator()),
            reason: args.verb.reason.clone(),
            revision: args.verb.revision.or(Some(agent.revision)),
        },
        ..made
    };
    let name = agent.name.as_str();
    let view = client.deploy(name, &body)?;
    follow(&client, format, view, args.wait).await
}

/// Watches what was begun, as long as that is wanted, and tells where it is then.
pub(crate) async fn follow(
    client: &Client,
    format: Format,
    view: ActionView,
    wait: Wait,
) -> anyhow::Result<Exit> {
    let Some(rollout) = view.agent.rollout.as_ref().map(|rollout| rollout.id) else {
        return Err(Trouble::new(Exit::Failed, "the deploy began no rollout", "").into());
    };
    if let Some(from) = &view.made_from {
        output::say(&format!(
            "made from {from}; `segue diff` shows what differs"
        ));
    }
    if wait == Wait::None {
        output::data(format, &view.agent, || {
            format!("rollout {rollout} has begun")
        });
        return Ok(Exit::Ok);
    }
    let (view, exit) = watch(client, view.agent.name.as_str(), rollout, wait).await?;
    output::data(format, &view, || crate::verb::status::agent_text(&view));
    Ok(exit)
}

/// Watches a rollout until `wait` says that it is enough, it ends otherwise, or Ctrl-C.
async fn watch(
    client: &Client,
    name: &str,
    rollout: u64,
    wait: Wait,
) -> anyhow::Result<(AgentView, Exit)> {
    let mut progress = Progress::new();
    let mut last = None;
    let mut away = Duration::ZERO;
    loop {
        match client.agent(name) {
            Ok(view) => {
                away = Duration::ZERO;
                show(&mut progress, &view);
                if let Some(exit) = ended(&view, rollout, wait) {
                    progress.clear();
                    return Ok((view, exit));
                }
                last = Some(view);
            }
            // The controller may be restarting; the rollout goes on where its journal says.
            Err(error) if error.exit == Exit::Unreachable && away < AWAY_MAX => {
                away += WATCH_EVERY;
                progress.show("controller away", "calls go on");
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {
                progress.say("stopped watching; the rollout goes on");
                output::say("hint: `segue status` shows it, `segue abort` ends it");
                let view = last.ok_or_else(|| anyhow::anyhow!("nothing was seen yet"))?;
                return Ok((view, Exit::Interrupted));
            }
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}

fn show(progress: &mut Progress, view: &AgentView) {
    let holds = view.holds.join("; ");
    let detail = if holds.is_empty() {
        shares(view)
    } else {
        format!("{}  ({holds})", shares(view))
    };
    progress.show(&phase(view), &detail);
}

/// Whether watching is over, and how it ended.
fn ended(view: &AgentView, rollout: u64, wait: Wait) -> Option<Exit> {
    let is = view.rollout.as_ref()?;
    if is.id != rollout {
        output::say("another rollout has begun; this one is over");
        return Some(Exit::Failed);
    }
    let landed = if is.unacked.is_empty() {
        Exit::Ok
    } else {
        Exit::Unacked
    };
    match view.phase.as_str() {
        "failed" | "rolling back" | "rolled back" => {
            if view.phase == "rolling back" {
                return None;
            }
            let reason = is.reason.clone().unwrap_or_default();
            output::say(&format!("{}: {reason}", view.phase));
            Some(Exit::RolledBack)
        }
        _ if is.paused => Some(waits(view)),
        _ if view.holds == [Hold::Approval.to_string()] => {
            output::say("the rollout waits for a person to agree");
            output::say("hint: `segue approve`, by somebody with the role approver");
            Some(Exit::Ok)
        }
        "draining" | "settling" if wait == Wait::Landed => Some(landed),
        "standby" | "complete" => Some(landed),
        _ => None,
    }
}

/// A paused rollout, said with what goes on from there. A step that asks for an operator is a
/// planned stop; everything else is one that somebody has to look at.
fn waits(view: &AgentView) -> Exit {
    let planned = Hold::Paused(Pause::Step).to_string();
    let (exit, hint) = if view.holds.contains(&planned) {
        (Exit::Ok, "`segue promote` goes on, `segue abort` ends it")
    } else if view.holds.iter().any(|hold| hold.starts_with(INCONCLUSIVE)) {
        let hint = "`segue resume` tries again; `segue promote --skip-gates --reason TEXT` lets \
                    it through";
        (Exit::Waiting, hint)
    } else {
        let hint = "`segue resume` goes on, `segue abort` ends it";
        (Exit::Waiting, hint)
    };
    let why: Vec<&str> = view
        .holds
        .iter()
        .map(String::as_str)
        .filter(|hold| *hold != planned)
        .collect();
    let why = if exit == Exit::Ok {
        String::new()
    } else {
        format!(": {}", why.join("; "))
    };
    output::say(&format!("the rollout waits for an operator{why}"));
    output::say(&format!("hint: {hint}"));
    exit
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(phase: &str, paused: bool, hold: &str, expected: Option<Exit>) {
        let view = json!({
            "name": "desk", "revision": 1, "epoch": 1, "phase": phase, "holds": [hold],
            "releases": [], "live": 0,
            "rollout": {
                "id": 1, "incoming": "v2", "incoming_id": "0".repeat(64), "outgoing": "v1",
                "step": null, "steps": [], "paused": paused, "reason": null, "unacked": [],
                "started": 0,
            },
        });
        let view = serde_json::from_value(view).unwrap();
        assert_eq!(ended(&view, 1, Wait::Landed), expected, "{phase}: {hold}");
    }

    #[test]
    fn a_planned_stop_is_done_and_any_other_waits() {
        check(
            "canary",
            true,
            "the step asks for an operator",
            Some(Exit::Ok),
        );
        let inconclusive = "inconclusive: it hung up; but the current release fails too";
        check("verifying", true, inconclusive, Some(Exit::Waiting));
        check("canary", true, "paused: lunch", Some(Exit::Waiting));
        check("verifying", false, "smoke calls are being made", None);
        check("settling", false, "", Some(Exit::Ok));
    }
}
