//! The verbs that ask for a decision: `pause`, `resume`, `promote`, `abort`, `rollback`, `drain`,
//! `retire`, and `forget`.

use segue_controller::api::wire::{ActionView, AgentView, Ask, VerbBody};
use segue_core::names::{GatewayId, Label};

use crate::args::{ApproveArgs, ForgetArgs, Format, PromoteArgs, ReleaseArgs, VerbArgs};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::home::Home;
use crate::output;

/// The verbs that take nothing but an agent and a reason.
pub(crate) fn run(
    home: &Home,
    format: Format,
    verb: &'static str,
    args: &VerbArgs,
) -> anyhow::Result<Exit> {
    ask(home, format, verb, args, &VerbBody::default())
}

/// `promote`.
pub(crate) fn promote(home: &Home, format: Format, args: &PromoteArgs) -> anyhow::Result<Exit> {
    let body = VerbBody {
        full: args.full,
        skip_gates: args.skip_gates,
        ..VerbBody::default()
    };
    ask(home, format, "promote", &args.verb, &body)
}

/// `approve`.
pub(crate) fn approve(home: &Home, format: Format, args: &ApproveArgs) -> anyhow::Result<Exit> {
    let body = VerbBody {
        release: args.release.clone(),
        ..VerbBody::default()
    };
    ask(home, format, "approve", &args.verb, &body)
}

/// `drain` and `retire`.
pub(crate) fn release(
    home: &Home,
    format: Format,
    verb: &'static str,
    args: &ReleaseArgs,
) -> anyhow::Result<Exit> {
    let body = VerbBody {
        release: args.release.clone(),
        ..VerbBody::default()
    };
    ask(home, format, verb, &args.verb, &body)
}

/// `forget`.
pub(crate) fn forget(home: &Home, format: Format, args: &ForgetArgs) -> anyhow::Result<Exit> {
    let ask = Ask {
        actor: Some(operator()),
        reason: Some(args.reason.clone()),
        revision: None,
    };
    let view = Client::find(home)?.forget(&args.gateway, &ask)?;
    output::data(format, &view, || {
        format!("{} no longer counts", args.gateway)
    });
    Ok(Exit::Ok)
}

fn ask(
    home: &Home,
    format: Format,
    verb: &'static str,
    args: &VerbArgs,
    body: &VerbBody,
) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    let agent = client.one_agent(args.agent.as_deref())?;
    // A rollback always wins (it waits for nobody); everything else is decided on what was seen.
    let revision = args
        .revision
        .or((verb != "rollback").then_some(agent.revision));
    let view = decide(&client, &agent, verb, (revision, args.reason.clone()), body)?;
    output::data(format, &view, || sentence(verb, &view));
    Ok(exit_of(&view))
}

/// Asks for a decision, on a revision and for a reason.
pub(crate) fn decide(
    client: &Client,
    agent: &AgentView,
    verb: &str,
    (revision, reason): (Option<u64>, Option<String>),
    body: &VerbBody,
) -> Result<ActionView, Trouble> {
    let ask = Ask {
        actor: Some(operator()),
        reason,
        revision,
    };
    let release = match verb {
        "rollback" => takes_calls(agent),
        // Whoever reads the agent here looks at the release that comes in.
        "approve" if body.release.is_none() => comes_in(agent),
        _ => body.release.clone(),
    };
    let body = VerbBody {
        release,
        ask,
        ..body.clone()
    };
    client.verb(agent.name.as_str(), verb, &body)
}

/// The release to leave by a rollback: the one that ramps, else the current one. Sent along, so that
/// a rollback asked twice, or after Segue's own, does not go back twice.
fn takes_calls(agent: &AgentView) -> Option<String> {
    let of = |state: &str| agent.releases.iter().find(|release| release.state == state);
    of("ramping")
        .or_else(|| of("current"))
        .map(|release| String::from(release.id))
}

/// The release of the rollout that is under way.
fn comes_in(agent: &AgentView) -> Option<String> {
    let rollout = agent.rollout.as_ref();
    rollout.map(|rollout| String::from(rollout.incoming_id))
}

/// Who is at the keyboard, for the audit log.
pub(crate) fn operator() -> String {
    std::env::var("USER")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "cli".to_owned())
}

/// What was done, for people.
pub(crate) fn sentence(verb: &str, view: &ActionView) -> String {
    let mut told: Vec<String> = Vec::new();
    for text in view
        .facts
        .iter()
        .filter_map(|fact| clause(fact, &view.agent))
    {
        if !told.contains(&text) {
            told.push(text);
        }
    }
    let mut text = if told.is_empty() {
        format!("{verb}: nothing left to do: {}", standing(&view.agent))
    } else {
        format!("{verb}: {}", told.join("; "))
    };
    if let Some(ack) = &view.ack {
        if ack.unacked.is_empty() {
            let words = format!(
                " - epoch {} acknowledged in {} ms",
                ack.epoch, ack.waited_ms
            );
            text.push_str(&words);
        } else {
            let names: Vec<&str> = ack.unacked.iter().map(GatewayId::as_str).collect();
            let words = format!(
                " - UNACKED: epoch {} is durable and published, but not acknowledged by {}",
                ack.epoch,
                names.join(", ")
            );
            text.push_str(&words);
        }
    }
    let barred = all_barred(&view.agent).unwrap_or_default();
    format!("{text}\n{}{barred}", shares(&view.agent))
}

/// What is to be done when nobody may take the calls that are sent there now.
fn all_barred(agent: &AgentView) -> Option<String> {
    let current = agent.releases.iter().find(|is| is.state == "current")?;
    let mut whys = current.workers.iter().map(|is| is.barred.as_deref());
    let why = whys.next()??;
    whys.all(|why| why.is_some()).then(|| {
        format!(
            "\nwarning: membership bars every worker of {} ({why}): it answers no new call\n\
             hint: admit it with `segue membership sign`, or give its workers tokens",
            current.label
        )
    })
}

/// What a decision means for calls. `None`: nothing beyond the one it follows.
fn clause(fact: &str, agent: &AgentView) -> Option<String> {
    let rollout = agent.rollout.as_ref();
    let incoming = rollout.map_or("the release", |rollout| rollout.incoming.as_str());
    let current = label_in(agent, "current");
    let share = agent
        .releases
        .iter()
        .find(|release| rollout.is_some_and(|rollout| rollout.incoming_id == release.id))
        .map_or(0, |release| release.share_bp);
    let share = output::percent(share);
    // Whoever had calls and is not the one that takes them now.
    let before = rollout
        .and_then(|rollout| {
            let sides = [Some(&rollout.incoming), rollout.outgoing.as_ref()];
            let mut sides = sides.into_iter().flatten().map(Label::as_str);
            sides.find(|label| Some(*label) != current)
        })
        .unwrap_or("the other");
    Some(match fact {
        "failed" => match current {
            Some(current) => format!("{incoming} is withdrawn; {current} keeps all new calls"),
            None => format!("{incoming} is withdrawn"),
        },
        "rollback_started" => format!(
            "every new call goes to {} again; {before}'s calls end by themselves",
            current.unwrap_or("the release before")
        ),
        "cut_over" => match rollout.and_then(|rollout| rollout.outgoing.as_ref()) {
            Some(outgoing) => {
                format!("every new call goes to {incoming}; {outgoing}'s calls end by themselves")
            }
            None => format!("every new call goes to {incoming}"),
        },
        "step_started" => format!("{incoming} takes {share} of new calls"),
        "gates_skipped" => format!("the gates of {incoming} are skipped, for the reason given"),
        "paused" => format!("the rollout waits, {incoming} at {share} of new calls"),
        "resumed" => "the rollout goes on".to_owned(),
        "verify_started" => format!("the gates of {incoming} are tried again"),
        "gate_passed" => format!("{incoming} is approved"),
        "contract_started" => "the contract hook runs; see `segue logs hooks`".to_owned(),
        "drain_started" => "new calls are turned away; live ones end by themselves".to_owned(),
        "retiring" => "it is withdrawn; its workers stop once every gateway confirms".to_owned(),
        "retired" => "its workers stop".to_owned(),
        // What follows from the others, and what the machine noticed on the way.
        "landed" | "rolled_back" | "emptied" | "refilled" | "gateway_joined" => return None,
        other => other.replace('_', " "),
    })
}

/// Who takes new calls, for when nothing was decided.
fn standing(agent: &AgentView) -> String {
    match label_in(agent, "current") {
        Some(current) if label_in(agent, "ramping").is_none() => {
            format!("{current} takes all new calls")
        }
        _ => format!("the rollout is {}", agent.phase),
    }
}

fn label_in<'a>(agent: &'a AgentView, state: &str) -> Option<&'a str> {
    let of = agent.releases.iter().find(|release| release.state == state);
    of.map(|release| release.label.as_str())
}

/// Shares of new calls and of live calls, in one line.
pub(crate) fn shares(agent: &AgentView) -> String {
    let of = |release: &segue_controller::api::wire::ReleaseView| {
        format!(
            "{} {}: {} of new calls, {} live",
            release.label,
            release.state,
            output::percent(release.share_bp),
            release.live
        )
    };
    let shown = agent
        .releases
        .iter()
        .filter(|release| release.state != "retired");
    shown.map(of).collect::<Vec<_>>().join(" | ")
}

pub(crate) fn exit_of(view: &ActionView) -> Exit {
    match &view.ack {
        Some(ack) if !ack.unacked.is_empty() => Exit::Unacked,
        _ => Exit::Ok,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// v1 and v2 in these states, v2 the one that a rollout brings or brought in.
    fn check(verb: &str, facts: &[&str], (v1, v2): (&str, &str), expected: &str) {
        let release = |label: &str, id: &str, state: &str, share: u16| {
            json!({
                "id": id.repeat(64), "label": label, "slot": null, "state": state,
                "share_bp": share, "live_share_bp": 0, "live": 0, "pinned": 0, "unknown": [],
                "workers_ready": 1, "workers_want": 1, "capacity": 1, "started": 0, "ended": 0,
                "dropped": 0, "errors": 0, "closes": {}, "workers": [],
            })
        };
        let view = json!({
            "facts": facts, "ack": null,
            "agent": {
                "name": "desk", "revision": 1, "epoch": 1, "phase": "canary", "holds": [],
                "live": 0,
                "releases": [release("v1", "1", v1, 9_000), release("v2", "2", v2, 1_000)],
                "rollout": {
                    "id": 1, "incoming": "v2", "incoming_id": "2".repeat(64), "outgoing": "v1",
                    "step": 0, "steps": [], "paused": false, "reason": null, "unacked": [],
                    "started": 0,
                },
            },
        });
        let text = sentence(verb, &serde_json::from_value(view).unwrap());
        assert_eq!(text.lines().next(), Some(expected));
    }

    #[test]
    fn a_way_back_to_workers_that_are_barred_is_warned_of() {
        let worker = |barred: Option<&str>| {
            json!({
                "id": "w1", "state": "ready", "address": null, "pid": null, "calls": 0,
                "restarts": 0, "log": "", "port": 1, "barred": barred,
            })
        };
        let text = |workers: Vec<serde_json::Value>| {
            let view = json!({
                "name": "desk", "revision": 1, "epoch": 1, "phase": "complete", "holds": [],
                "live": 0, "rollout": null,
                "releases": [{
                    "id": "1".repeat(64), "label": "v1", "slot": null, "state": "current",
                    "share_bp": 10_000, "live_share_bp": 0, "live": 0, "pinned": 0,
                    "unknown": [], "workers_ready": 1, "workers_want": 1, "capacity": 1,
                    "started": 0, "ended": 0, "dropped": 0, "errors": 0, "closes": {},
                    "workers": workers,
                }],
            });
            all_barred(&serde_json::from_value(view).unwrap())
        };
        let barred = || worker(Some("fell-out"));
        let warned = text(vec![barred(), barred()]).unwrap();
        assert!(warned.contains("every worker of v1 (fell-out)"), "{warned}");
        assert_eq!(text(vec![barred(), worker(None)]), None);
        assert_eq!(text(vec![]), None);
    }

    #[test]
    fn verbs_say_what_becomes_of_calls() {
        check(
            "resume",
            &["verify_started"],
            ("current", "inactive"),
            "resume: the gates of v2 are tried again",
        );
        check(
            "abort",
            &["failed"],
            ("current", "inactive"),
            "abort: v2 is withdrawn; v1 keeps all new calls",
        );
        check(
            "rollback",
            &["rollback_started", "rolled_back"],
            ("current", "draining"),
            "rollback: every new call goes to v1 again; v2's calls end by themselves",
        );
        check(
            "promote",
            &["cut_over", "landed"],
            ("draining", "current"),
            "promote: every new call goes to v2; v1's calls end by themselves",
        );
        check(
            "promote",
            &["resumed", "step_started"],
            ("current", "ramping"),
            "promote: the rollout goes on; v2 takes 10 % of new calls",
        );
        check(
            "pause",
            &["paused"],
            ("current", "ramping"),
            "pause: the rollout waits, v2 at 10 % of new calls",
        );
        check(
            "rollback",
            &[],
            ("current", "draining"),
            "rollback: nothing left to do: v1 takes all new calls",
        );
    }
}
