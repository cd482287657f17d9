//! Reads how the workers of an agent are started, and what they are given.

use std::collections::BTreeMap;

use super::bounds;
use super::component::{Member, Stack};
use super::program::{Known, check_port, read_command, read_env};
use super::reader::Section;
use super::values::{Query, path, whole};
use super::{ComponentSpec, PartsSpec, WorkerSpec};
use crate::names::ComponentName;

/// Placeholders of a worker's command and environment.
const PLACEHOLDERS: [&str; 4] = ["port", "release", "worker", "agent"];

/// Those that are there if their key is.
const PARTS: [&str; 3] = ["prompt", "model", "config"];

/// Workers, what they are given, and the components beside them.
pub(super) fn read_programs(
    agent: &Section<'_>,
) -> (
    WorkerSpec,
    PartsSpec,
    BTreeMap<ComponentName, ComponentSpec>,
) {
    let mut stack = Stack::open(agent);
    let member = stack.member(None, agent);
    let worker = read_worker(agent, &stack, &member);
    stack.join(member);
    let components = stack.read_components();
    stack.check();
    (worker, read_parts(agent), components)
}

fn read_parts(agent: &Section<'_>) -> PartsSpec {
    let text = |key| agent.read_option(key, |item| Some(item.filled()?.to_owned()));
    PartsSpec {
        prompt: text("prompt"),
        model: text("model"),
        config: text("config"),
    }
}

fn read_worker(agent: &Section<'_>, stack: &Stack<'_>, member: &Member<'_>) -> WorkerSpec {
    let default = WorkerSpec::default();
    let (given, absent): (Vec<_>, Vec<_>) = PARTS
        .into_iter()
        .partition(|part| agent.item(part).is_some());
    let names: Vec<_> = PLACEHOLDERS.into_iter().chain(given).collect();
    let known = Known {
        names: &names,
        absent: &absent,
        components: stack.names(),
        depends_on: member.depends_on(),
    };
    let command = agent.read_sound("command", default.command, |item| {
        read_command(item, &known)
    });
    let env = agent.read_sound("env", default.env, |item| read_env(item, &known));
    if let (Some(item), Some(command), Some(env)) = (agent.item("command"), &command, &env) {
        check_port(item, command, env, "the worker");
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
        notify_path: agent.read_option("notify", |item| {
            path(item, Query::Allowed).map(str::to_owned)
        }),
        version: member.version(),
        depends_on: member.depends_on().unwrap_or_default().to_vec(),
        requires: member.requires(),
    }
}
