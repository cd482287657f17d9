//! `segue status`: releases, shares, live calls, and how far the rollout is.

use std::time::Duration;

use segue_controller::api::wire::{AgentView, ComponentView, ReleaseView, StatusView};
use segue_core::names::Label;

use crate::args::{Format, StatusArgs};
use crate::client::Client;
use crate::exit::Exit;
use crate::home::Home;
use crate::output;

/// Permits that are counted for people.
const PERMITS_MAX: usize = 1_000;

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(home: &Home, format: Format, args: &StatusArgs) -> anyhow::Result<Exit> {
    let client = Client::find(home)?;
    loop {
        let mut view = client.status()?;
        if let Some(name) = &args.agent {
            view.agents = vec![client.agent(name)?];
        }
        if args.watch && output::is_live() && format == Format::Table {
            // Home the cursor and clear what is below, so that nothing flickers.
            output::line("\x1b[H\x1b[J");
        }
        output::data(format, &view, || {
            let mut text = text(&view);
            text.extend(
                view.agents
                    .iter()
                    .filter_map(|agent| permitted(&client, agent)),
            );
            text
        });
        if !args.watch {
            return Ok(Exit::Ok);
        }
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Ok),
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}

fn text(view: &StatusView) -> String {
    let mut blocks: Vec<String> = view.agents.iter().map(agent_text).collect();
    if blocks.is_empty() {
        blocks.push("no agents; add an [agents.NAME] table to segue.toml".to_owned());
    }
    let silent: Vec<&str> = view
        .gateways
        .iter()
        .filter(|g| !g.leased)
        .map(|g| g.gateway.as_str())
        .collect();
    if silent.len() == view.gateways.len() {
        let words =
            "warning: no gateway reports: new calls may be refused; see `segue logs gateway`";
        blocks.push(words.to_owned());
    }
    let staying = view
        .gateways
        .iter()
        .filter(|g| g.leased && stays(g.gateway.as_str()));
    blocks.extend(staying.map(|g| {
        format!(
            "{}: the gateway before an upgrade; it keeps the calls that could not move (TLS) until \
             they end, and takes no new ones",
            g.gateway
        )
    }));
    if !silent.is_empty() {
        blocks.push(format!(
            "warning: no report from {}: its calls are unknown, nothing is retired until it \
             returns or `segue forget`",
            silent.join(", ")
        ));
    }
    if let Some(error) = &view.journal.error {
        blocks.push(format!(
            "warning: the journal cannot be written ({error}): calls go on, decisions wait"
        ));
    }
    blocks.join("\n\n")
}

/// Whether a gateway has handed over and stays for what could not move: its process id is behind
/// its name then.
fn stays(gateway: &str) -> bool {
    let pid = gateway.rsplit_once('.').map(|(_, pid)| pid);
    pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()))
}

/// Outbound calls that are permitted: they count as live. Nobody is told if they may not ask.
fn permitted(client: &Client, agent: &AgentView) -> Option<String> {
    let view = client.permits(agent.name.as_str(), PERMITS_MAX).ok()?;
    let more = if view.next.is_some() { " or more" } else { "" };
    let count = view.permits.len();
    let name = &agent.name;
    (count > 0)
        .then(|| format!("\n{name}: {count}{more} outbound calls permitted; see `segue permits`"))
}

/// One agent, for people.
pub(crate) fn agent_text(agent: &AgentView) -> String {
    let mut head = format!(
        "{}: {}, {} live call{}, epoch {}, revision {}",
        agent.name,
        phase(agent),
        agent.live,
        if agent.live == 1 { "" } else { "s" },
        agent.epoch,
        agent.revision
    );
    if let Some(reason) = agent
        .rollout
        .as_ref()
        .and_then(|rollout| rollout.reason.as_ref())
    {
        head.extend(["\n  ", reason]);
    }
    for hold in &agent.holds {
        head.extend(["\n  waits: ", hold]);
    }
    for text in besides(agent) {
        head.extend(["\n  ", &text]);
    }
    let rows: Vec<Vec<String>> = agent.releases.iter().map(row).collect();
    let columns = [
        "  RELEASE",
        "DIGEST",
        "SLOT",
        "STATE",
        "NEW CALLS",
        "LIVE SHARE",
        "LIVE",
        "PINNED",
        "WORKERS",
        "ENDED",
        "DROPPED",
        "LOST",
        "ERRORS",
    ];
    format!("{head}\n{}", output::table(&columns, &rows))
}

/// What else somebody should know: components, hooks, contracts, calls ended by policy.
fn besides(agent: &AgentView) -> Vec<String> {
    let mut told = Vec::new();
    for release in agent.releases.iter().filter(|is| is.state != "retired") {
        let of = |is: &ComponentView| match &is.why {
            Some(why) => format!("{} {} ({why})", is.name, is.state),
            None => format!("{} {}", is.name, is.state),
        };
        if !release.components.is_empty() {
            let components: Vec<String> = release.components.iter().map(of).collect();
            told.push(format!("{} runs {}", release.label, components.join(", ")));
        }
        if release.policy > 0 {
            told.push(format!(
                "{} calls of {} were ended by policy",
                release.policy, release.label
            ));
        }
    }
    for hook in agent.hooks.iter().filter(|hook| hook.state != "done") {
        let (name, release, state) = (&hook.hook, &hook.release, &hook.state);
        told.push(format!(
            "hook {name} of {release}: {state}; see `segue logs hooks`"
        ));
    }
    let is_current = |label: &Label| {
        let mut of = agent.releases.iter().filter(|is| is.label == *label);
        of.any(|release| release.state == "current")
    };
    for contract in agent.contracts.iter().filter(|is| is.state != "done") {
        let why = contract.reason.as_deref();
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        told.push(format!(
            "contract of {}: {}{why}",
            contract.release,
            match contract.state.as_str() {
                "waiting" if !is_current(&contract.release) => {
                    "only if that becomes current again"
                }
                state => state,
            }
        ));
    }
    told
}

fn row(release: &ReleaseView) -> Vec<String> {
    // A count that is not to be relied on says so.
    let mark = if release.unknown.is_empty() { "" } else { "?" };
    vec![
        format!("  {}", release.label),
        release.id.short(),
        release
            .slot
            .map_or_else(|| "-".to_owned(), |slot| slot.to_string()),
        release.state.clone(),
        output::percent(release.share_bp),
        output::percent(release.live_share_bp),
        format!("{}{mark}", release.live),
        format!("{}{mark}", release.pinned),
        format!("{}/{}", release.workers_ready, release.workers_want),
        release.ended.to_string(),
        release.dropped.to_string(),
        release.lost.to_string(),
        release.errors.to_string(),
    ]
}

/// The phase, with the step of a ramp.
pub(crate) fn phase(agent: &AgentView) -> String {
    let rollout = agent.rollout.as_ref();
    let step = rollout.and_then(|rollout| rollout.step.map(|step| (step, rollout.steps.len())));
    let paused = rollout.is_some_and(|rollout| rollout.paused);
    let paused = if paused { ", paused" } else { "" };
    match step {
        Some((step, steps)) if agent.phase == "canary" => {
            format!("canary step {} of {steps}{paused}", step + 1)
        }
        _ => format!("{}{paused}", agent.phase),
    }
}
