//! The verbs that ask for a decision: `pause`, `resume`, `promote`, `abort`, `rollback`, `drain`,
//! `retire`, and `forget`.

use segue_controller::api::wire::{ActionView, AgentView, Ask, VerbBody};
use segue_core::names::GatewayId;

use crate::args::{ForgetArgs, Format, PromoteArgs, ReleaseArgs, VerbArgs};
use crate::client::Client;
use crate::exit::Exit;
use crate::home::Home;
use crate::output;

/// The verbs that take nothing but an agent and a reason.
pub(crate) fn run(
    home: &Home,
    format: Format,
    verb: &'static str,
    args: &VerbArgs,
) -> anyhow::Result<Exit> {
    ask(home, format, verb, args, VerbBody::default())
}

/// `promote`.
pub(crate) fn promote(home: &Home, format: Format, args: &PromoteArgs) -> anyhow::Result<Exit> {
    let body = VerbBody {
        full: args.full,
        skip_gates: args.skip_gates,
        ..VerbBody::default()
    };
    ask(home, format, "promote", &args.verb, body)
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
    ask(home, format, verb, &args.verb, body)
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
    body: VerbBody,
) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    let agent = client.one_agent(args.agent.as_deref())?;
    // A rollback always wins (it waits for nobody); everything else is decided on what was seen.
    let revision = args
        .revision
        .or((verb != "rollback").then_some(agent.revision));
    let ask = Ask {
        actor: Some(operator()),
        reason: args.reason.clone(),
        revision,
    };
    let release = if verb == "rollback" {
        takes_calls(&agent)
    } else {
        body.release.clone()
    };
    let body = VerbBody { release, ..body };
    let view = client.verb(agent.name.as_str(), verb, &VerbBody { ask, ..body })?;
    output::data(format, &view, || sentence(verb, &view));
    Ok(exit_of(&view))
}

/// The release to leave by a rollback: the one that ramps, else the current one. Sent along, so that
/// a rollback asked twice, or after Segue's own, does not go back twice.
fn takes_calls(agent: &AgentView) -> Option<String> {
    let of = |state: &str| agent.releases.iter().find(|release| release.state == state);
    of("ramping")
        .or_else(|| of("current"))
        .map(|release| String::from(release.id))
}

/// Who is at the keyboard, for the audit log.
pub(crate) fn operator() -> String {
    std::env::var("USER")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "cli".to_owned())
}

/// What was done, for people.
fn sentence(verb: &str, view: &ActionView) -> String {
    let mut text = if view.facts.is_empty() {
        format!("{verb}: nothing left to do")
    } else {
        format!("{verb}: {}", view.facts.join(", ").replace('_', " "))
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
    format!("{text}\n{}", shares(&view.agent))
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
