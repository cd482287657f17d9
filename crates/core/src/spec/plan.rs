//! Reads how a new release of an agent is brought in.

use super::bounds;
use super::gates::{read_approval, read_hooks, read_webhooks};
use super::keys::{LIMITS, SMOKE, STEP, STEP_CONDITIONS};
use super::reader::{Item, Section};
use super::values::{Query, duration, path, placeholders, share, whole};
use super::{Limits, Plan, Smoke, Step};
use crate::split::Share;
use crate::time::Millis;

/// Smoke calls, if the gate does not say.
const SMOKE_CALLS: u32 = 1;

/// Request path of the smoke calls, if the gate does not say.
const SMOKE_PATH: &str = "/ws/{call_id}";

/// Time for all smoke calls, if the gate does not say.
const SMOKE_TIMEOUT: Millis = Millis::from_secs(60);

/// How a release is brought in.
pub(super) fn read_plan(agent: &Section<'_>) -> Plan {
    let default = Plan::default();
    Plan {
        ready_timeout: agent.read("ready_timeout", default.ready_timeout, |item| {
            duration(item, &bounds::READY_TIMEOUT)
        }),
        smoke: agent.read_option("smoke", read_smoke),
        steps: agent.read("steps", default.steps, read_steps),
        limits: agent.read("limits", default.limits, read_limits),
        webhooks: agent.read("webhooks", default.webhooks, read_webhooks),
        approval: agent.read_option("approval", read_approval),
        hooks: agent.read("hooks", default.hooks, read_hooks),
        bake: agent.read("bake", default.bake, |item| duration(item, &bounds::BAKE)),
        fast_track: agent.read("fast_track", default.fast_track, |item| item.flag()),
    }
}

fn read_smoke(item: Item<'_>) -> Option<Smoke> {
    let smoke = item.section(&SMOKE)?;
    let scenario = smoke.need("scenario", "name one: scenario = \"hours\"");
    Some(Smoke {
        path: smoke.read("path", SMOKE_PATH.to_owned(), smoke_path),
        calls: smoke.read("calls", SMOKE_CALLS, |item| {
            whole(item, &bounds::SMOKE_CALLS)
        }),
        timeout: smoke.read("timeout", SMOKE_TIMEOUT, |item| {
            duration(item, &bounds::SMOKE_TIMEOUT)
        }),
        scenario: scenario.and_then(|item| item.filled())?.to_owned(),
    })
}

fn smoke_path(item: Item<'_>) -> Option<String> {
    let text = path(item, Query::Allowed)?;
    if let Some(name) = placeholders(text).find(|name| *name != "call_id") {
        return item.fault(
            format!("`{}`: unknown placeholder `{{{name}}}`", item.name),
            "only {call_id} is known here",
        );
    }
    Some(text.to_owned())
}

fn read_steps(item: Item<'_>) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut highest: Option<(Share, usize)> = None;
    for item in item.items(bounds::STEPS_MAX)? {
        let Some(step) = item.section(&STEP) else {
            continue;
        };
        let share_item = step.need("share", "write share = \"10%\"");
        let share = share_item.and_then(|item| share(item, &bounds::STEP_SHARE));
        if let (Some(share), Some(item)) = (share, share_item) {
            check_rises(item, share, highest);
            highest = highest.max(Some((share, item.at)));
        }
        steps.push(read_step(&step, share.unwrap_or_default()));
    }
    Some(steps)
}

/// A ramp only ever adds callers, so that nobody is moved back and forth between releases.
fn check_rises(item: Item<'_>, share: Share, highest: Option<(Share, usize)>) {
    let Some((before, at)) = highest.filter(|(before, _)| share <= *before) else {
        return;
    };
    let line = item.line_of(at);
    item.fault::<()>(
        format!("`share` is {share}, not above the {before} of the step on line {line}"),
        "each step takes more than the one before it",
    );
}

fn read_step(step: &Section<'_>, share: Share) -> Step {
    if STEP_CONDITIONS.iter().all(|key| step.item(key).is_none()) {
        step.fault(
            "the step waits for nothing, so it ends as soon as it begins",
            "write at least one of min_calls, min_duration and pause = true",
        );
    }
    Step {
        share,
        min_calls: step.read("min_calls", 0, |item| whole(item, &bounds::CALLS)),
        min_duration: step.read("min_duration", Millis(0), |item| {
            duration(item, &bounds::STEP_DURATION)
        }),
        pause: step.read("pause", false, |item| item.flag()),
    }
}

fn read_limits(item: Item<'_>) -> Option<Limits> {
    let limits = item.section(&LIMITS)?;
    let default = Limits::default();
    Some(Limits {
        drops: limits.read("drops", default.drops, |item| {
            share(item, &bounds::LIMIT_SHARE)
        }),
        errors: limits.read("errors", default.errors, |item| {
            share(item, &bounds::LIMIT_SHARE)
        }),
        min_calls: limits.read("min_calls", default.min_calls, |item| {
            whole(item, &bounds::CALLS)
        }),
    })
}
