//! The steps of a deploy, in the order in which core takes them.

use segue_controller::api::wire::{AgentView, ReleaseView};
use segue_core::spec::{AgentSpec, Before, Hook, StragglerPolicy};
use segue_core::time::Millis;

use super::{Forecast, Step, Wish, age};

/// Every step.
pub(super) fn of(
    forecast: &Forecast,
    spec: &AgentSpec,
    wish: &Wish<'_>,
    seen: Option<&AgentView>,
) -> Vec<Step> {
    let mut steps = vec![made(forecast, wish), slot(seen)];
    steps.extend(start(spec, wish));
    steps.extend(gates(spec));
    // The first release has nothing to share calls with.
    if before(forecast).is_some() {
        steps.extend(ramp(spec));
    }
    steps.push(cutover(forecast, wish));
    steps.extend(afterwards(forecast, spec));
    steps
}

fn step(phase: &'static str, what: impl Into<String>, until: impl Into<Option<String>>) -> Step {
    Step {
        phase,
        what: what.into(),
        until: until.into(),
    }
}

/// Releases that have left their slot and still run.
pub(super) fn tails(agent: &AgentView) -> usize {
    let runs = |release: &&ReleaseView| {
        release.slot.is_none() && !matches!(release.state.as_str(), "retired" | "retiring")
    };
    agent.releases.iter().filter(runs).count()
}

/// The release in the slot that the next one takes.
pub(super) fn displaced(agent: &AgentView) -> Option<&ReleaseView> {
    let wanted = free_slot(agent)?;
    let is_there = |release: &&ReleaseView| {
        let slot = release.slot.map(|slot| slot.to_string());
        slot.as_deref() == Some(wanted) && release.state != "retired"
    };
    agent.releases.iter().find(is_there)
}

/// The slot beside that of the current release.
fn free_slot(agent: &AgentView) -> Option<&'static str> {
    let current = agent.releases.iter().find(|is| is.state == "current")?;
    Some(match current.slot?.to_string().as_str() {
        "blue" => "green",
        _ => "blue",
    })
}

/// What it is made of: segue.toml, or another release with what is given.
fn made(forecast: &Forecast, wish: &Wish<'_>) -> Step {
    let body = wish.body;
    let parts = [
        ("prompt", body.prompt.as_ref().map(|part| &part.name)),
        ("model", body.model.as_ref()),
        ("config", body.config.as_ref().map(|part| &part.name)),
    ];
    let parts = parts.into_iter();
    let mut given: Vec<String> = parts
        .filter_map(|(name, is)| Some(format!("{name} {}", is?)))
        .collect();
    given.extend(body.env.keys().map(|name| format!("variable {name}")));
    let versions = body.component_versions.iter();
    given.extend(versions.map(|(name, version)| format!("{name} {version}")));
    // As the controller does: a part alone is a change of what serves.
    let is_change = !given.is_empty() && wish.command.is_empty();
    let base = match (&body.from, &forecast.current) {
        (Some(from), _) => from.clone(),
        (None, Some(current)) if is_change => format!("{current} (the current release)"),
        (None, _) => "segue.toml".to_owned(),
    };
    if !wish.command.is_empty() {
        given.push(format!("the command {}", wish.command.join(" ")));
    }
    let with = match given.len() {
        0 => String::new(),
        _ => format!(", with {}", given.join(", ")),
    };
    step("made", format!("from {base}{with}"), None)
}

fn slot(seen: Option<&AgentView>) -> Step {
    let Some(agent) = seen else {
        return step(
            "slot",
            "it takes the slot that is free: blue or green",
            None,
        );
    };
    let name = free_slot(agent).unwrap_or("blue");
    match displaced(agent) {
        None => step("slot", format!("it takes slot {name}, which is free"), None),
        Some(release) => {
            let count = release.live + release.pinned;
            let what = match count {
                0 => format!("it takes slot {name}; {} leaves it, empty", release.label),
                _ => format!(
                    "it takes slot {name}; {} leaves it and finishes its {count} calls",
                    release.label
                ),
            };
            step("slot", what, None)
        }
    }
}

fn start(spec: &AgentSpec, wish: &Wish<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(hook) = &spec.plan.hooks.before_deploy {
        steps.push(step(
            "provisioning",
            format!("the hook before_deploy runs: {}", line(hook)),
            format!(
                "it may take {}; if it fails, the deploy fails and nothing was started",
                age(hook.timeout)
            ),
        ));
    }
    for (name, component) in ordered(spec) {
        let ready = component.health_path.as_deref();
        let ready = ready.map_or("it accepts a connection".to_owned(), |path| {
            format!("{path} answers 200")
        });
        steps.push(step(
            "provisioning",
            format!("its own {name} starts: {}", component.command.join(" ")),
            format!("ready once {ready}"),
        ));
    }
    let ready = spec.worker.health_path.as_deref();
    let ready = ready.map_or("accepts a connection".to_owned(), |path| {
        format!("answers 200 at {path}")
    });
    let plural = if wish.workers == 1 { "" } else { "s" };
    steps.push(step(
        "provisioning",
        format!(
            "{} worker{plural} start{}, for up to {} calls each",
            wish.workers,
            if wish.workers == 1 { "s" } else { "" },
            wish.capacity
        ),
        format!(
            "until each {ready}; not within {}: the deploy fails",
            age(spec.plan.ready_timeout)
        ),
    ));
    steps
}

/// Components, each after those it depends on.
fn ordered(
    spec: &AgentSpec,
) -> Vec<(
    &segue_core::names::ComponentName,
    &segue_core::spec::ComponentSpec,
)> {
    let mut done = Vec::new();
    // As many rounds as there are components do: a configuration with a circle is refused.
    for _ in 0..spec.components.len() {
        for (name, component) in &spec.components {
            let is_new = !done.iter().any(|(is, _)| *is == name);
            let mut needs = component.depends_on.iter();
            if is_new && needs.all(|needed| done.iter().any(|(is, _)| *is == needed)) {
                done.push((name, component));
            }
        }
    }
    done
}

fn gates(spec: &AgentSpec) -> Vec<Step> {
    let plan = &spec.plan;
    let mut steps = Vec::new();
    if let Some(smoke) = &plan.smoke {
        let plural = if smoke.calls == 1 { "" } else { "s" };
        steps.push(step(
            "verifying",
            format!(
                "{} smoke call{plural} of the scenario {} through the gateway",
                smoke.calls, smoke.scenario
            ),
            format!(
                "understood within {}; else it fails, or waits for a person if the current \
                 release fails the same call",
                age(smoke.timeout)
            ),
        ));
    }
    for webhook in &plan.webhooks {
        steps.push(step(
            "verifying",
            format!("the webhook {} is asked: {}", webhook.name, webhook.to.url),
            format!(
                "{} per try, {}; no answer: it waits for a person",
                age(webhook.timeout),
                match webhook.retries {
                    0 => "one try".to_owned(),
                    more => format!("{} tries", more + 1),
                }
            ),
        ));
    }
    if plan.approval.is_some_and(|is| is.before == Before::Ramp) {
        steps.push(approval("before its first call"));
    }
    steps
}

fn approval(when: &str) -> Step {
    step(
        "verifying",
        format!("a person approves, {when}"),
        "`segue approve`, by somebody with the role approver".to_owned(),
    )
}

fn ramp(spec: &AgentSpec) -> Vec<Step> {
    let limits = spec.plan.limits;
    let mut steps: Vec<Step> = spec
        .plan
        .steps
        .iter()
        .map(|is| {
            let mut until = Vec::new();
            if is.min_calls > 0 {
                let plural = if is.min_calls == 1 { "" } else { "s" };
                until.push(format!("{} call{plural} ended", is.min_calls));
            }
            if is.min_duration > Millis(0) {
                until.push(format!("{} passed", age(is.min_duration)));
            }
            let mut until = match until.len() {
                0 => String::new(),
                _ => format!("until {}", until.join(" and ")),
            };
            if is.pause {
                let comma = if until.is_empty() { "" } else { ", then " };
                until = format!("{until}{comma}waits for `segue promote`");
            }
            step("canary", format!("{} of new calls", is.share), until)
        })
        .collect();
    if let Some(first) = steps.first_mut() {
        let said = format!(
            "{}; past {} dropped or {} failed to connect it is rolled back",
            first.until.take().unwrap_or_default(),
            limits.drops,
            limits.errors
        );
        first.until = Some(said);
    }
    if spec
        .plan
        .approval
        .is_some_and(|is| is.before == Before::Cutover)
    {
        steps.push(approval("before all new calls"));
    }
    steps
}

fn cutover(forecast: &Forecast, wish: &Wish<'_>) -> Step {
    let mut what = "all new calls, once every gateway has acknowledged".to_owned();
    if wish.fast_track {
        what.push_str(
            "; a release that served before comes here at once, without ramp and approval",
        );
    }
    let room = forecast.room;
    let need = forecast
        .live
        .map_or("the calls in progress".to_owned(), |live| {
            format!("the {live} calls in progress")
        });
    step(
        "promoting",
        what,
        format!("needs room for {need}: it holds {room}"),
    )
}

/// What becomes of the release before.
fn afterwards(forecast: &Forecast, spec: &AgentSpec) -> Vec<Step> {
    let (policy, plan) = (&spec.policy, &spec.plan);
    let mut steps = Vec::new();
    if plan.bake > Millis(0) {
        steps.push(step(
            "baking",
            format!(
                "for {} drops, errors and smoke calls still roll it back",
                age(plan.bake)
            ),
            None,
        ));
    }
    let Some(before) = before(forecast) else {
        return steps;
    };
    let calls = forecast
        .live
        .map_or("calls".to_owned(), |live| format!("{live} calls"));
    steps.push(step(
        "draining",
        format!("{before}'s {calls} end by themselves"),
        stragglers(spec),
    ));
    steps.push(step(
        "settling",
        format!("it stays empty for {}", age(policy.straggler_buffer)),
        format!(
            "a call that comes back within {} finds its release",
            age(policy.stickiness)
        ),
    ));
    steps.push(step(
        "standby",
        format!(
            "{before} keeps running for {}, ready for `segue rollback`",
            age(policy.standby)
        ),
        None,
    ));
    steps.push(step("retired", format!("{before}'s workers stop"), None));
    if let Some(hook) = &plan.hooks.after_retire {
        steps.push(step(
            "contract",
            format!("the hook after_retire runs: {}", line(hook)),
            "only once no process of an older release is left".to_owned(),
        ));
    }
    steps
}

/// The release that would be replaced. Without a running Segue there may be one.
fn before(forecast: &Forecast) -> Option<&str> {
    match (&forecast.current, forecast.live) {
        (Some(current), _) => Some(current),
        (None, Some(_)) => None,
        (None, None) => Some("the release before"),
    }
}

fn stragglers(spec: &AgentSpec) -> Option<String> {
    let stragglers = &spec.policy.stragglers;
    let ceiling = age(stragglers.ceiling?);
    let spread = format!(
        "each at a moment of its own within {}, at most {} a second",
        age(stragglers.jitter),
        stragglers.per_second
    );
    Some(match stragglers.policy {
        StragglerPolicy::Wait => return None,
        StragglerPolicy::Announce => {
            format!("after {ceiling} their workers are asked to wind up, {spread}")
        }
        StragglerPolicy::HandOff => {
            format!("after {ceiling} their workers are asked to hand them off, {spread}")
        }
        StragglerPolicy::End => format!("after {ceiling} what is left is ended, {spread}"),
    })
}

fn line(hook: &Hook) -> String {
    hook.command.join(" ")
}
