//! `segue plan`: what a deploy would do, step by step, and what is missing.

use segue_controller::api::wire::{AgentView, StatusView};
use segue_core::names::AgentName;
use segue_core::spec::{AgentSpec, Spec};

use crate::args::{Format, PlanArgs};
use crate::client::Client;
use crate::exit::{Exit, Trouble};
use crate::forecast::{Forecast, Running, Wish};
use crate::home::Home;
use crate::made;
use crate::output;
use crate::verb::process::configuration;

pub(crate) fn run(home: &Home, format: Format, args: &PlanArgs) -> anyhow::Result<Exit> {
    let body = made::of(&args.made)?;
    let spec = configuration(&args.file)?;
    let (name, agent) = agent(&spec, args.agent.as_deref())?;
    // Without a running Segue the configuration alone says a lot.
    let status = Client::find(home).and_then(|client| client.status()).ok();
    let wish = Wish {
        label: args.label.as_deref(),
        workers: args.made.workers.unwrap_or(agent.worker.count),
        capacity: args.made.capacity.unwrap_or(agent.worker.capacity),
        command: &args.command,
        body: &body,
        fast_track: agent.plan.fast_track && !args.no_fast_track,
    };
    let running = match &status {
        Some(status) => of(status, name).map_or(Running::Another, Running::Agent),
        None => Running::Nothing,
    };
    let forecast = Forecast::of(name, agent, &wish, running);
    output::data(format, &forecast, || forecast.text());
    Ok(Exit::Ok)
}

/// What is seen of the agent; `None`: the running Segue does not know it.
fn of<'a>(status: &'a StatusView, name: &AgentName) -> Option<&'a AgentView> {
    status.agents.iter().find(|agent| agent.name == *name)
}

/// The agent that is meant: the named one, or the only one.
fn agent<'a>(
    spec: &'a Spec,
    named: Option<&str>,
) -> Result<(&'a AgentName, &'a AgentSpec), Trouble> {
    let names: Vec<&str> = spec.agents.keys().map(AgentName::as_str).collect();
    let hint = format!("name one with --agent: {}", names.join(", "));
    let found = match named {
        Some(named) => spec.agents.iter().find(|(name, _)| name.as_str() == named),
        None if names.len() == 1 => spec.agents.iter().next(),
        None => return Err(Trouble::new(Exit::Usage, "there are several agents", &hint)),
    };
    found.ok_or_else(|| {
        let named = named.unwrap_or_default();
        Trouble::new(
            Exit::Usage,
            format!("the configuration has no agent {named}"),
            &hint,
        )
    })
}
