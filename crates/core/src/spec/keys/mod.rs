//! Every key of the file, in one place: what it is called, what it may say, its default and what it
//! means. From here the reader knows which keys there are, and the reference and the JSON Schema
//! are made.

mod agent;
mod livekit;
mod membership;
mod top;

use super::bounds::Bound;
use crate::split::Share;
use crate::time::Millis;

pub(super) use agent::{
    AGENT, APPROVAL, COMPONENT, HOOK_AFTER, HOOK_BEFORE, HOOKS, LIMITS, RESCUE, RULE,
    RULE_CONDITIONS, SMOKE, STEP, STEP_CONDITIONS, STRAGGLERS, WEBHOOK,
};
pub(super) use livekit::{AGENT_LIVEKIT, LIVEKIT};
pub(super) use membership::MEMBERSHIP;
pub(super) use top::{API, API_TLS, FORMATS, GATEWAY, NOTIFY, TELEMETRY, TLS, TOP};

/// The keys of one kind of table.
#[derive(Debug)]
pub(super) struct Keys {
    /// Its header, as the reference writes it; empty at the top of the file.
    pub(super) header: &'static str,
    /// What may be in it.
    pub(super) rows: &'static [Key],
    /// How many of which keys there must be.
    pub(super) need: Need,
}

/// How many of which keys a table must have, beside those that are required.
#[derive(Debug)]
pub(super) enum Need {
    /// Nothing more.
    Any,
    /// At least one of these.
    Of(&'static [&'static str]),
    /// Exactly one of these.
    OneOf(&'static [&'static str]),
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What it may say.
    pub(super) kind: Kind,
    pub(super) default: Fallback,
    /// What it means: a sentence or two for the reference, in Markdown.
    pub(super) meaning: &'static str,
}

/// What a key says when it is left out.
#[derive(Debug)]
pub(super) enum Fallback {
    /// It must not be.
    Required,
    /// Nothing; the word or two say what that comes to, if the kind does not.
    None(&'static str),
    /// This, as it would be written.
    Value(&'static str),
}

/// What a key may say.
#[derive(Debug)]
pub(super) enum Kind {
    Text,
    /// `true` or `false`.
    Flag,
    Count(&'static Bound<u32>),
    Calls(&'static Bound<u64>),
    Duration(&'static Bound<Millis>),
    Share(&'static Bound<Share>),
    /// One of these words.
    Word(&'static [&'static str]),
    /// IP address and port.
    Address,
    /// A request path.
    Path,
    /// `http` or `https`.
    Url,
    /// A place in a request.
    Source,
    /// An address or a network.
    Network,
    /// The name of something that a person names.
    Name,
    /// A version, as people write it.
    Version,
    /// `engine >= 2.0`.
    Requirement,
    /// At most so many.
    List(&'static Kind, usize),
    /// The same; one item may stand without brackets.
    OneOrMore(&'static Kind, usize),
    /// Text by free keys.
    Map,
    /// A table with known keys.
    Table(&'static Keys),
    /// A list of such tables, at most so many.
    Tables(&'static Keys, usize),
    /// Such tables by name, at most so many.
    Named(&'static Keys, usize),
}

/// A row of a table.
const fn key(name: &'static str, kind: Kind, default: Fallback, meaning: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        meaning,
    }
}

/// All of them, in the order of the reference.
pub(super) static ALL: [&Keys; 23] = [
    &TOP,
    &GATEWAY,
    &TLS,
    &API,
    &API_TLS,
    &TELEMETRY,
    &NOTIFY,
    &LIVEKIT,
    &AGENT,
    &COMPONENT,
    &SMOKE,
    &WEBHOOK,
    &APPROVAL,
    &HOOKS,
    &HOOK_BEFORE,
    &HOOK_AFTER,
    &STEP,
    &LIMITS,
    &STRAGGLERS,
    &RESCUE,
    &AGENT_LIVEKIT,
    &RULE,
    // Last: a stray `workers` is rather meant for an agent.
    &MEMBERSHIP,
];

/// Longest typing slip that is still taken for another key.
const SLIP_EDITS_MAX: usize = 2;

impl Keys {
    /// The names of its keys.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.rows.iter().map(|key| key.name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// The names of its keys, for a hint.
    pub(super) fn listed(&self) -> String {
        self.names().collect::<Vec<_>>().join(", ")
    }

    /// What to do about a key that is not one of these.
    pub(super) fn hint(&self, unknown: &str) -> String {
        let near = self
            .names()
            .map(|name| (edits(unknown, name), name))
            .filter(|(edits, name)| *edits <= SLIP_EDITS_MAX && *edits < name.len())
            .min();
        if let Some((_, name)) = near {
            return format!("did you mean `{name}`?");
        }
        match ALL.iter().find(|keys| keys.has(unknown)) {
            Some(keys) if keys.header.is_empty() => {
                format!("`{unknown}` belongs at the top of the file")
            }
            Some(keys) => format!("`{unknown}` belongs in `{}`", keys.header),
            None => format!("known here: {}", self.listed()),
        }
    }
}

/// How many characters to insert, remove or replace (Levenshtein), counted no further than one
/// past [`SLIP_EDITS_MAX`] when the lengths alone decide.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let from_chars = from.chars().take(to.len() + SLIP_EDITS_MAX + 1);
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, a) in from_chars.enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        for (from, to, count) in [
            ("workers", "workers", 0),
            ("worker", "workers", 1),
            ("wrokers", "workers", 2),
            ("", "abc", 3),
            ("pth", "path", 1),
            ("abcdefghijk", "a", 3),
        ] {
            assert_eq!(edits(from, to), count, "{from} {to}");
        }
    }
}
