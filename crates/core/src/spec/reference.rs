//! The reference of the file, in Markdown: its prose is in `reference.md`, and each line
//! `<!-- keys HEADER: NAMES -->` in it becomes the table of those keys.

use std::fmt::Write as _;

use super::keys::{ALL, Fallback, Key, Keys, Kind};
use crate::time::Millis;

/// The prose.
const TEMPLATE: &str = include_str!("reference.md");

/// Start and end of a line that becomes a table.
const MARKS: (&str, &str) = ("<!-- keys ", " -->");

/// The reference of `segue.toml`: `docs/reference/config.md`.
pub fn reference() -> String {
    let mut text = String::with_capacity(2 * TEMPLATE.len());
    for line in TEMPLATE.lines() {
        let asked = line
            .strip_prefix(MARKS.0)
            .and_then(|rest| rest.strip_suffix(MARKS.1));
        if let Some(asked) = asked {
            text.push_str(&table(asked));
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The table of `HEADER: NAMES`, or of `HEADER` with all of its keys.
fn table(asked: &str) -> String {
    let (header, names) = asked.split_once(": ").unwrap_or((asked, ""));
    let of = |keys: &&&Keys| match keys.header {
        "" => header == "top",
        of => header == of,
    };
    let keys = ALL
        .iter()
        .find(of)
        .expect("the prose names tables that are");
    let mut text = String::from("| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    let names: Vec<&str> = names.split_whitespace().collect();
    for name in keys
        .names()
        .filter(|name| names.is_empty() || names.contains(name))
    {
        let key = keys.rows.iter().find(|key| key.name == name);
        text.push_str(&key.map(row).unwrap_or_default());
    }
    text
}

fn row(key: &Key) -> String {
    let default = match key.default {
        Fallback::Required => "*required*".to_owned(),
        Fallback::None(words) => words.to_owned(),
        Fallback::Value(text) => format!("`{text}`"),
    };
    let mut meaning = key.meaning.to_owned();
    if let Some(bounds) = bounds(&key.kind) {
        let _ = write!(meaning, " {bounds}.");
    }
    let (name, kind) = (key.name, kind(&key.kind));
    format!("| `{name}` | {kind} | {default} | {meaning} |\n")
}

/// What a key means without links: for the schema.
pub(super) fn plain(key: &Key) -> String {
    let mut text = String::new();
    let mut rest = key.meaning;
    while let Some((before, link)) = rest.split_once('[') {
        let Some((words, after)) = link.split_once("](") else {
            break;
        };
        let Some((_, after)) = after.split_once(')') else {
            break;
        };
        text.push_str(before);
        text.push_str(words);
        rest = after;
    }
    text.push_str(rest);
    if let Some(bounds) = bounds(&key.kind) {
        let _ = write!(text, " {bounds}.");
    }
    text
}

/// How a kind is written.
fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Flag => "`true` or `false`".to_owned(),
        Kind::Count(_) | Kind::Calls(_) => "count".to_owned(),
        Kind::Duration(_) => "duration".to_owned(),
        Kind::Share(_) => "share".to_owned(),
        Kind::Word(words) => {
            let words: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
            match words.split_last() {
                Some((last, rest)) if !rest.is_empty() => {
                    format!("{} or {last}", rest.join(", "))
                }
                _ => words.concat(),
            }
        }
        Kind::Address => "address".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Url => "URL".to_owned(),
        Kind::Source => "source".to_owned(),
        Kind::Network => "network".to_owned(),
        Kind::Name => "name".to_owned(),
        Kind::Version => "version".to_owned(),
        Kind::Requirement => "requirement".to_owned(),
        Kind::List(item, _) | Kind::OneOrMore(item, _) => format!("list of {}", plural(item)),
        Kind::Map => "table of text".to_owned(),
        Kind::Table(_) => "table".to_owned(),
        Kind::Tables(..) => "list of tables".to_owned(),
        Kind::Named(..) => "tables by name".to_owned(),
    }
}

fn plural(of: &Kind) -> String {
    match of {
        Kind::Text => "text".to_owned(),
        other => format!("{}s", kind(other)),
    }
}

/// Longest list that the introduction already allows.
const USUAL_ITEMS: usize = super::bounds::ITEMS_MAX;

/// What a value must keep to, if that is not said by its type.
fn bounds(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Count(bound) => Some(range(bound.min.into(), bound.max.into())),
        Kind::Calls(bound) => Some(range(bound.min, bound.max)),
        Kind::Duration(bound) if bound.min == Millis(0) => Some(format!("0 to {}", bound.max)),
        Kind::Duration(bound) => Some(bound.to_string()),
        Kind::Share(bound) => Some(bound.to_string()),
        Kind::List(_, max) | Kind::OneOrMore(_, max) if *max != USUAL_ITEMS => {
            Some(format!("At most {}", grouped(*max as u64)))
        }
        Kind::Tables(_, max) | Kind::Named(_, max) => Some(format!("At most {max}")),
        _ => None,
    }
}

fn range(min: u64, max: u64) -> String {
    format!("{} to {}", grouped(min), grouped(max))
}

/// A number in groups of three digits.
fn grouped(number: u64) -> String {
    if number < 1_000 {
        return number.to_string();
    }
    format!("{} {:03}", grouped(number / 1_000), number % 1_000)
}
