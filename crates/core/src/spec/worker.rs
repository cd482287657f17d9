//! Reads how the workers of an agent are started, and how long things are kept.

use std::collections::BTreeMap;

use super::bounds;
use super::reader::{Item, Section, quoted};
use super::values::{Query, duration, path, placeholders, template, whole};
use super::{OnRollback, Policy, WorkerSpec};
use crate::time::Millis;

/// How workers are started.
pub(super) fn read_worker(agent: &Section<'_>) -> WorkerSpec {
    let default = WorkerSpec::default();
    let command = agent.read_sound("command", default.command, read_command);
    let env = agent.read_sound("env", default.env, read_env);
    if let (Some(item), Some(command), Some(env)) = (agent.item("command"), &command, &env) {
        check_port(item, command, env);
    }
    WorkerSpec {
        command: command.unwrap_or_default(),
        env: env.unwrap_or_default(),
        directory: agent.read_option("directory", |item| Some(item.filled()?.to_owned())),
        count: agent.read("workers", default.count, |item| {
            whole(item, &bounds::WORKERS)
        }),
        capacity: agent.read("capacity", default.capacity, |item| {
            whole(item, &bounds::CAPACITY)
        }),
        health_path: agent.read_option("health", |item| {
            path(item, Query::Allowed).map(str::to_owned)
        }),
        notify_path: default.notify_path,
        version: default.version,
        depends_on: default.depends_on,
        requires: default.requires,
    }
}

fn read_command(item: Item<'_>) -> Option<Vec<String>> {
    if item.string().is_some() {
        return item.not_a(
            "a list",
            "no shell is used; write each argument by itself: \
             [\"program\", \"--port\", \"{port}\"]",
        );
    }
    let items = item.items(bounds::ITEMS_MAX)?;
    if let Some(program) = items.first() {
        program.filled()?;
    }
    let read: Vec<_> = items.into_iter().map(template).collect();
    read.into_iter().collect()
}

fn read_env(item: Item<'_>) -> Option<BTreeMap<String, String>> {
    let entries = item.entries("write { NAME = \"value\" }")?;
    let read: Vec<_> = entries
        .into_iter()
        .map(|(key_at, entry)| {
            let name = env_name(entry.placed(key_at));
            let value = template(entry);
            Some((name?, value?))
        })
        .collect();
    read.into_iter().collect()
}

fn env_name(item: Item<'_>) -> Option<String> {
    let name = item.name;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.bytes().all(good)
    {
        return item.fault(
            format!("{} is not the name of a variable", quoted(name)),
            "use letters, digits and `_`, not starting with a digit",
        );
    }
    Some(name.to_owned())
}

/// Two releases run side by side, so a worker that does not take its port from Segue collides
/// with the one it is to replace.
fn check_port(item: Item<'_>, command: &[String], env: &BTreeMap<String, String>) {
    let mut texts = command.iter().chain(env.values());
    let told = texts.any(|text| placeholders(text).any(|name| name == "port"));
    if !command.is_empty() && !told {
        item.fault::<()>(
            "`command` does not tell the worker its port",
            "pass {port}: [\"program\", \"--port\", \"{port}\"] or env = { PORT = \"{port}\" }",
        );
    }
}

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
        stragglers: default.stragglers,
    }
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
    const HINT: &str = "\"stay\": reconnecting calls keep the rolled-back release while it lives; \
                        \"move\": they go by the split";
    match item.text()? {
        "stay" => Some(OnRollback::Stay),
        "move" => Some(OnRollback::Move),
        other => item.outside(&quoted(other), "\"stay\" or \"move\"", HINT),
    }
}
