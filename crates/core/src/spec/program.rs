//! Reads how a program is started: its command, environment and placeholders. Workers, components
//! and hooks have these in common.

use std::collections::{BTreeMap, BTreeSet};

use super::bounds;
use super::reader::{Item, Section, quoted};
use super::values::placeholders;
use crate::names::ComponentName;

/// The end of the placeholder of a component's address.
const URL: &str = ".url";

/// What may stand in braces.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// Names that are filled in.
    pub(super) names: &'a [&'static str],
    /// Names of parts that are filled in once their key is given.
    pub(super) absent: &'a [&'static str],
    /// Components of the agent. `None`: they are bad, and nothing is said of them.
    pub(super) components: Option<&'a BTreeSet<ComponentName>>,
    /// Components whose address may be told. `None`: the same.
    pub(super) depends_on: Option<&'a [ComponentName]>,
}

impl Known<'_> {
    fn listed(&self) -> String {
        let names: Vec<String> = self
            .names
            .iter()
            .map(|name| format!("{{{name}}}"))
            .collect();
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
            _ => names.concat(),
        }
    }

    /// What is wrong with a placeholder, and what to do.
    fn fault(&self, name: &str) -> Option<(String, String)> {
        if self.names.contains(&name) {
            return None;
        }
        let unknown = format!("unknown placeholder `{{{name}}}`");
        if self.absent.contains(&name) {
            let hint = format!("write {name} = \"…\" first");
            let message = format!("`{{{name}}}`, but there is no `{name}`");
            return Some((message, hint));
        }
        let Some(component) = name.strip_suffix(URL) else {
            let known = self.listed();
            let hint = format!("known are {known}; for a shell write $NAME");
            return Some((unknown, hint));
        };
        let (components, depends_on) = (self.components?, self.depends_on?);
        if depends_on.iter().any(|on| on.as_str() == component) {
            return None;
        }
        if components.iter().any(|is| is.as_str() == component) {
            return Some((
                format!("`{{{name}}}`, but it does not depend on {component}"),
                format!("add it: depends_on = [\"{component}\"]"),
            ));
        }
        let names: Vec<&str> = components.iter().map(ComponentName::as_str).collect();
        let hint = if names.is_empty() {
            "the agent has no components; write [agents.NAME.components.NAME]".to_owned()
        } else {
            format!("components are {}", names.join(", "))
        };
        Some((
            format!("{unknown}: there is no component {}", quoted(component)),
            hint,
        ))
    }
}

/// A command argument or an environment value: its placeholders must be known.
pub(super) fn template(item: Item<'_>, known: &Known<'_>) -> Option<String> {
    let text = item.text()?;
    if let Some((message, hint)) = placeholders(text).find_map(|name| known.fault(name)) {
        return item.fault(format!("`{}`: {message}", item.name), hint);
    }
    Some(text.to_owned())
}

/// Program and arguments.
pub(super) fn read_command(item: Item<'_>, known: &Known<'_>) -> Option<Vec<String>> {
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
    let read: Vec<_> = items
        .into_iter()
        .map(|item| template(item, known))
        .collect();
    read.into_iter().collect()
}

/// A command that must be there, with a program in it.
pub(super) fn need_command(section: &Section<'_>, known: &Known<'_>) -> Option<Vec<String>> {
    const HINT: &str = "write command = [\"program\", \"argument\"]";
    let item = section.need("command", HINT)?;
    let command = read_command(item, known)?;
    if command.is_empty() {
        return item.fault("`command` names no program", HINT);
    }
    Some(command)
}

/// The environment.
pub(super) fn read_env(item: Item<'_>, known: &Known<'_>) -> Option<BTreeMap<String, String>> {
    let entries = item.entries("write { NAME = \"value\" }")?;
    let read: Vec<_> = entries
        .into_iter()
        .map(|(key_at, entry)| {
            let name = env_name(entry.placed(key_at));
            let value = template(entry, known);
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

/// Two releases run side by side, so a program that does not take its port from Segue collides
/// with the one it is to replace.
pub(super) fn check_port(
    item: Item<'_>,
    command: &[String],
    env: &BTreeMap<String, String>,
    who: &str,
) {
    let mut texts = command.iter().chain(env.values());
    let told = texts.any(|text| placeholders(text).any(|name| name == "port"));
    if !command.is_empty() && !told {
        item.fault::<()>(
            format!("`command` does not tell {who} its port"),
            "pass {port}: [\"program\", \"--port\", \"{port}\"] or env = { PORT = \"{port}\" }",
        );
    }
}
