//! From the text of `segue.toml` to a [`Spec`], or to every fault in it.
//!
//! One pass reports all there is to report: each reader notes its faults and goes on with the
//! default. A rule about several keys is silent when one of them is bad by itself. If the text is
//! no TOML, what the TOML parser recovers is a guess, and only its errors are reported; the one
//! exception are values that lack their quotes, which are read as if they had them.

use std::collections::BTreeMap;

use toml::de::{DeTable, Error};

use super::api::{read_listeners, read_telemetry};
use super::fault::{Fault, Faults};
use super::ingress::{Claim, read_ingress};
use super::keys::{AGENT, TOP};
use super::livekit::{AgentSays, read_agent_livekit, read_livekit};
use super::membership::read_membership;
use super::notify::read_notify;
use super::plan::read_plan;
use super::policy::read_policy;
use super::reader::{Item, Section, quoted};
use super::worker::read_programs;
use super::{AgentSpec, LivekitAgent, Spec, bounds};
use crate::names::{AgentName, BadName};

/// Start of the message of the TOML parser for a value without quotes.
const UNQUOTED: &str = "string values must be quoted";

/// How an agent is written, for hints.
const AGENT_HINT: &str = "write [agents.NAME], and the agent's keys below it";

/// Reads a configuration. `file_name` is only repeated in faults.
///
/// # Errors
///
/// Every fault, in the order of the text; never an empty list.
///
/// # Examples
///
/// ```
/// use segue_core::spec::parse;
///
/// let spec = parse("segue.toml", "[agents.receptionist]\nworkers = 2\n").unwrap();
/// assert_eq!(spec.agents.len(), 1);
///
/// let faults = parse("segue.toml", "[agents.receptionist]\nworker = 2\n").unwrap_err();
/// assert_eq!(
///     faults[0].to_string(),
///     "segue.toml:2:1: unknown key \"worker\"\nhint: did you mean `workers`?",
/// );
/// ```
pub fn parse(file_name: &str, text: &str) -> Result<Spec, Vec<Fault>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let faults = Faults::new(text);
    let spec = read_text(text, &faults);
    let faults = faults.located(file_name);
    match spec {
        Some(spec) if faults.is_empty() => Ok(spec),
        _ => Err(faults),
    }
}

/// `None` only after a fault.
fn read_text(text: &str, faults: &Faults<'_>) -> Option<Spec> {
    if text.len() > bounds::FILE_BYTES_MAX {
        let message = format!("the file is longer than {} bytes", bounds::FILE_BYTES_MAX);
        let hint = "keep long lists of callers in a header or tenant rule".to_owned();
        faults.report(0, message, Some(hint));
        return None;
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        report_syntax(text, error, faults);
    }
    if !errors.iter().all(|error| is_unquoted(error).is_some()) {
        return None;
    }
    Some(read_spec(&Section::open(root.get_ref(), 0, &TOP, faults)))
}

/// The place of a value that only lacks its quotes.
fn is_unquoted(error: &Error) -> Option<std::ops::Range<usize>> {
    error
        .span()
        .filter(|span| error.message().starts_with(UNQUOTED) && !span.is_empty())
}

fn report_syntax(text: &str, error: &Error, faults: &Faults<'_>) {
    let at = error.span().map_or(text.len(), |span| span.start);
    if let Some(value) = is_unquoted(error).and_then(|span| text.get(span)) {
        let hint = format!("write {}", quoted(value));
        faults.report(at, "a text must be in quotes", Some(hint));
    } else if error.message().starts_with(UNQUOTED) {
        faults.report(at, "a value is missing", None);
    } else {
        let message = error.message().trim_end_matches(", expected nothing");
        faults.report(at, message, None);
    }
}

fn read_spec(top: &Section<'_>) -> Spec {
    let (gateway, api) = read_listeners(top);
    let (agents, says) = read_agents(top);
    let membership = read_membership(top);
    Spec {
        gateway,
        api,
        telemetry: read_telemetry(top),
        notify: read_notify(top),
        livekit: read_livekit(top, membership.as_ref(), says),
        membership,
        agents,
    }
}

/// The agents, and those that take jobs of LiveKit.
fn read_agents<'a>(top: &Section<'a>) -> (BTreeMap<AgentName, AgentSpec>, Vec<AgentSays<'a>>) {
    let Some(item) = top.need("agents", AGENT_HINT) else {
        return Default::default();
    };
    let entries = item.entries(AGENT_HINT).unwrap_or_default();
    let mut agents = BTreeMap::new();
    let mut says = Vec::new();
    let mut taken = Taken::default();
    if entries.is_empty() && item.is_table() {
        item.fault::<()>("`agents` names no agent", AGENT_HINT);
    }
    if entries.len() > bounds::AGENTS_MAX {
        let message = format!("more than {} agents", bounds::AGENTS_MAX);
        item.fault::<()>(message, "run a second Segue");
    }
    for (key_at, entry) in entries {
        let entry = entry.placed(key_at);
        let name = agent_name(entry);
        let Some((spec, claims, takes)) = read_agent(entry) else {
            continue;
        };
        taken.take(entry, claims);
        if let (Some(agent), Some((place, takes))) = (&name, takes) {
            let agent = agent.clone();
            says.push(AgentSays {
                place,
                agent,
                takes,
            });
        }
        agents.extend(name.map(|name| (name, spec)));
    }
    (agents, says)
}

fn agent_name(entry: Item<'_>) -> Option<AgentName> {
    match entry.name.parse() {
        Ok(name) => Some(name),
        Err(bad) => entry.fault(BadName::to_string(&bad), AGENT_HINT),
    }
}

type Takes<'a> = Option<(Item<'a>, LivekitAgent)>;

fn read_agent(entry: Item<'_>) -> Option<(AgentSpec, Vec<Claim>, Takes<'_>)> {
    if !entry.is_table() {
        return entry.not_a("the table of an agent", AGENT_HINT);
    }
    let agent = entry.section(&AGENT)?;
    let (ingress, claims) = read_ingress(&agent);
    let (worker, parts, components) = read_programs(&agent);
    let spec = AgentSpec {
        worker,
        parts,
        components,
        ingress,
        policy: read_policy(&agent),
        plan: read_plan(&agent),
    };
    let takes = agent.item("livekit");
    let takes = takes.and_then(|item| Some((item, read_agent_livekit(item)?)));
    Some((spec, claims, takes))
}

/// Hosts and paths that are spoken for, each with the agent and the place.
#[derive(Debug, Default)]
struct Taken<'a>(BTreeMap<(String, String), (&'a str, usize)>);

impl<'a> Taken<'a> {
    /// Takes what an agent claims. A request must belong to one agent, so what is taken already
    /// is a fault of the later one.
    fn take(&mut self, agent: Item<'a>, claims: Vec<Claim>) {
        for Claim { host, path, at } in claims {
            let whose = match host.as_str() {
                "" => format!("any host with path \"{path}\""),
                host => format!("host \"{host}\" with path \"{path}\""),
            };
            let key = (host, path);
            let (first, first_at) = *self.0.entry(key).or_insert((agent.name, at));
            if first_at != at {
                let line = agent.line_of(first_at);
                agent.placed(at).fault::<()>(
                    format!(
                        "{whose} is already taken by {} on line {line}",
                        quoted(first)
                    ),
                    "a request belongs to one agent: give one of them other `hosts` or another \
                     `path`",
                );
            }
        }
    }
}
