//! Reads how long things are kept.

use super::bounds;
use super::keys::{RESCUE, STRAGGLERS};
use super::reader::{Item, Section};
use super::values::{duration, whole, word};
use super::{OnRollback, Policy, Rescue, StragglerPolicy, Stragglers};
use crate::time::Millis;

/// How long things are kept.
pub(super) fn read_policy(agent: &Section<'_>) -> Policy {
    let default = Policy::default();
    let stickiness = agent.read_sound("stickiness", default.stickiness, |item| {
        duration(item, &bounds::STICKINESS)
    });
    let straggler_buffer = agent.read_sound("straggler_buffer", default.straggler_buffer, |item| {
        duration(item, &bounds::STRAGGLER_BUFFER)
    });
    if let (Some(stickiness), Some(buffer)) = (stickiness, straggler_buffer) {
        check_buffer(agent, stickiness, buffer);
    }
    Policy {
        stickiness: stickiness.unwrap_or(default.stickiness),
        on_rollback: agent.read("on_rollback", default.on_rollback, on_rollback),
        straggler_buffer: straggler_buffer.unwrap_or(default.straggler_buffer),
        standby: agent.read("standby", default.standby, |item| {
            duration(item, &bounds::STANDBY)
        }),
        max_tails: agent.read("max_tails", default.max_tails, |item| {
            whole(item, &bounds::TAILS)
        }),
        stragglers: agent.read("stragglers", default.stragglers, read_stragglers),
        rescue: agent.read_option("rescue", read_rescue),
    }
}

/// How a call goes on whose worker dies.
fn read_rescue(item: Item<'_>) -> Option<Rescue> {
    let section = item.section(&RESCUE)?;
    let default = Rescue::default();
    Some(Rescue {
        opening_messages: section.read("opening_messages", default.opening_messages, |item| {
            whole(item, &bounds::OPENING_MESSAGES)
        }),
    })
}

/// What becomes of calls that are left at the ceiling.
fn read_stragglers(item: Item<'_>) -> Option<Stragglers> {
    const WHY: &str = "\"wait\" for them, \"announce\" it to their workers, \"hand-off\" those that \
                       come back, or \"end\" them";
    let section = item.section(&STRAGGLERS)?;
    let default = Stragglers::default();
    let words = StragglerPolicy::ALL.map(|policy| (policy.word(), policy));
    let policy = section.read_sound("policy", default.policy, |item| word(item, &words, WHY));
    let ceiling = section.item("ceiling");
    match policy {
        Some(StragglerPolicy::Wait) => {
            if let Some(ceiling) = ceiling {
                ceiling.fault::<()>(
                    "`ceiling` says when, but the policy \"wait\" does nothing then",
                    "leave it out, or write another `policy`",
                );
            }
        }
        Some(policy) if ceiling.is_none() => {
            let message = format!("the policy \"{}\" needs a `ceiling`", policy.word());
            let place = section.item("policy").unwrap_or(item);
            place.fault::<()>(message, "say when: ceiling = \"2h\" after the drain began");
        }
        _ => {}
    }
    Some(Stragglers {
        policy: policy.unwrap_or_default(),
        ceiling: ceiling.and_then(|item| duration(item, &bounds::CEILING)),
        jitter: section.read("jitter", default.jitter, |item| {
            duration(item, &bounds::JITTER)
        }),
        per_second: section.read("per_second", default.per_second, |item| {
            whole(item, &bounds::PER_SECOND)
        }),
    })
}

/// A call within its stickiness window may come back, so a release is not empty before that.
fn check_buffer(agent: &Section<'_>, stickiness: Millis, buffer: Millis) {
    if buffer >= stickiness {
        return;
    }
    let message = format!(
        "`straggler_buffer` ({buffer}) is shorter than `stickiness` ({stickiness}): calls may \
         still come back"
    );
    let window = agent.item("stickiness");
    let written = window.and_then(|item| item.string());
    let enough = written.map_or_else(|| stickiness.to_string(), str::to_owned);
    let place = agent.item("straggler_buffer").or(window);
    let place = place.expect("the defaults do not contradict each other, so one of them is given");
    place.fault::<()>(
        message,
        format!("write straggler_buffer = \"{enough}\", or lower `stickiness`"),
    );
}

fn on_rollback(item: Item<'_>) -> Option<OnRollback> {
    const WHY: &str = "\"stay\": reconnecting calls keep the rolled-back release while it lives; \
                       \"move\": they go by the split";
    let words = [("stay", OnRollback::Stay), ("move", OnRollback::Move)];
    word(item, &words, WHY)
}
