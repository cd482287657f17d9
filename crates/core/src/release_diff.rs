//! What tells one release from another, for people.
//!
//! Compared is what was written, before labels and names were filled in: two releases of the same
//! lines differ in nothing. What looks like a secret is not shown, only that it differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::ComponentName;
use crate::redact::{REDACTED, command, hides};
use crate::release::{Component, Content, PartFile, Release};

/// Digits of a file's digest that are shown.
const DIGEST_SHOWN: usize = 12;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which field, as `env.GREETING` or `components.engine.command`.
    pub field: String,
    /// What it was; `None`: it was not there.
    pub before: Option<String>,
    /// What it is; `None`: it is not there any more.
    pub after: Option<String>,
    /// Whether the values are not shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = &self.field;
        match (&self.before, &self.after) {
            (Some(_), Some(_)) if self.secret => write!(f, "{field}: changed ({REDACTED})"),
            (Some(before), Some(after)) => write!(f, "{field}: {before} → {after}"),
            (None, Some(after)) => write!(f, "{field}: added {after}"),
            (Some(before), None) => write!(f, "{field}: removed {before}"),
            (None, None) => write!(f, "{field}"),
        }
    }
}

impl Release {
    /// What tells `other` from this one, as it was written.
    pub fn diff(&self, other: &Self) -> Vec<Change> {
        let mut changes = self.template().diff(other.template());
        let number = |number: u32| Some(number.to_string());
        let mut found = Found(&mut changes);
        found.compare("workers", number(self.workers), number(other.workers));
        found.compare("capacity", number(self.capacity), number(other.capacity));
        changes
    }
}

impl Content {
    /// What tells `other` from this one.
    pub fn diff(&self, other: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut found = Found(&mut changes);
        found.command("command", &self.command, &other.command);
        found.env("env", &self.env, &other.env);
        found.compare(
            "directory",
            Some(self.directory.clone()),
            Some(other.directory.clone()),
        );
        found.files("files", &self.files, &other.files);
        found.files("hooks", &self.hooks, &other.hooks);
        let (was, is) = (&self.parts, &other.parts);
        found.compare(
            "prompt",
            part(was.prompt.as_ref()),
            part(is.prompt.as_ref()),
        );
        found.compare("model", was.model.clone(), is.model.clone());
        found.compare(
            "config",
            part(was.config.as_ref()),
            part(is.config.as_ref()),
        );
        found.list("depends_on", &self.depends_on, &other.depends_on);
        found.compare("version", self.version.clone(), other.version.clone());
        found.list("requires", &self.requires, &other.requires);
        let names: BTreeSet<&ComponentName> = self
            .components
            .keys()
            .chain(other.components.keys())
            .collect();
        for name in names {
            let field = format!("components.{name}");
            match (self.components.get(name), other.components.get(name)) {
                (Some(was), Some(is)) => found.component(&field, was, is),
                (was, is) => {
                    let shown = |of: Option<&Component>| of.map(|of| words(&of.command));
                    found.compare(&field, shown(was), shown(is));
                }
            }
        }
        changes
    }
}

/// Collects differences.
struct Found<'a>(&'a mut Vec<Change>);

impl Found<'_> {
    fn compare(&mut self, field: &str, before: Option<String>, after: Option<String>) {
        if before != after {
            self.0.push(Change {
                field: field.to_owned(),
                before,
                after,
                secret: false,
            });
        }
    }

    /// Two commands may differ in nothing but a secret: then that is said.
    fn command(&mut self, field: &str, was: &[String], is: &[String]) {
        if was == is {
            return;
        }
        let (before, after) = (words(was), words(is));
        self.0.push(Change {
            field: field.to_owned(),
            secret: before == after,
            before: Some(before),
            after: Some(after),
        });
    }

    fn env(&mut self, field: &str, was: &BTreeMap<String, String>, is: &BTreeMap<String, String>) {
        let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for name in names {
            let (before, after) = (was.get(name), is.get(name));
            if before == after {
                continue;
            }
            let values = || [before, after].into_iter().flatten();
            let secret = values().any(|value| hides(name, value));
            let shown = |value: Option<&String>| {
                value.map(|value| {
                    if secret {
                        REDACTED.to_owned()
                    } else {
                        value.clone()
                    }
                })
            };
            self.0.push(Change {
                field: format!("{field}.{name}"),
                before: shown(before),
                after: shown(after),
                secret,
            });
        }
    }

    fn files(
        &mut self,
        field: &str,
        was: &BTreeMap<String, String>,
        is: &BTreeMap<String, String>,
    ) {
        let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for name in names {
            let field = format!("{field}.{name}");
            let digest = |of: &BTreeMap<String, String>| of.get(name).map(|is| short(is));
            self.compare(&field, digest(was), digest(is));
        }
    }

    fn list<T: fmt::Display>(&mut self, field: &str, was: &[T], is: &[T]) {
        let shown = |list: &[T]| {
            let items: Vec<String> = list.iter().map(ToString::to_string).collect();
            (!items.is_empty()).then(|| items.join(", "))
        };
        self.compare(field, shown(was), shown(is));
    }

    fn component(&mut self, field: &str, was: &Component, is: &Component) {
        let of = |key: &str| format!("{field}.{key}");
        self.command(&of("command"), &was.command, &is.command);
        self.env(&of("env"), &was.env, &is.env);
        self.compare(
            &of("directory"),
            Some(was.directory.clone()),
            Some(is.directory.clone()),
        );
        self.files(&of("files"), &was.files, &is.files);
        self.compare(
            &of("health"),
            was.health_path.clone(),
            is.health_path.clone(),
        );
        self.list(&of("depends_on"), &was.depends_on, &is.depends_on);
        self.compare(&of("version"), was.version.clone(), is.version.clone());
        self.list(&of("requires"), &was.requires, &is.requires);
    }
}

fn part(file: Option<&PartFile>) -> Option<String> {
    file.map(|file| format!("{} ({})", file.name, short(&file.digest)))
}

fn short(digest: &str) -> String {
    digest.chars().take(DIGEST_SHOWN).collect()
}

/// A command in one line, without its secrets.
fn words(words: &[String]) -> String {
    let quoted = |word: String| {
        let quote = word.is_empty() || word.contains(char::is_whitespace);
        if quote { format!("{word:?}") } else { word }
    };
    let shown: Vec<String> = command(words).into_iter().map(quoted).collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::Parts;

    fn content() -> Content {
        Content {
            command: ["bot", "--port", "{port}"].map(str::to_owned).to_vec(),
            env: BTreeMap::from([
                ("GREETING".to_owned(), "hello".to_owned()),
                ("API_KEY".to_owned(), "one".to_owned()),
            ]),
            directory: "/srv".to_owned(),
            files: BTreeMap::from([("bot".to_owned(), "aa".repeat(32))]),
            parts: Parts {
                prompt: Some(PartFile {
                    name: "prompt.toml".to_owned(),
                    digest: "bb".repeat(32),
                }),
                ..Parts::default()
            },
            ..Content::default()
        }
    }

    fn lines(was: &Content, is: &Content) -> Vec<String> {
        was.diff(is).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_same_differs_in_nothing() {
        assert_eq!(content().diff(&content()), []);
    }

    #[test]
    fn each_field_is_named_with_what_it_was_and_is() {
        let mut is = content();
        is.command.push("--fast".to_owned());
        is.env.insert("GREETING".to_owned(), "good day".to_owned());
        is.env.insert("NEW".to_owned(), "1".to_owned());
        is.files.insert("bot".to_owned(), "cc".repeat(32));
        is.parts.prompt = Some(PartFile {
            name: "prompt.toml".to_owned(),
            digest: "dd".repeat(32),
        });
        is.parts.model = Some("gpt-x".to_owned());
        is.version = Some("2".to_owned());
        is.requires = vec!["engine >= 2".parse().unwrap()];
        assert_eq!(
            lines(&content(), &is),
            [
                "command: bot --port {port} → bot --port {port} --fast",
                "env.GREETING: hello → good day",
                "env.NEW: added 1",
                "files.bot: aaaaaaaaaaaa → cccccccccccc",
                "prompt: prompt.toml (bbbbbbbbbbbb) → prompt.toml (dddddddddddd)",
                "model: added gpt-x",
                "version: added 2",
                "requires: added engine >=2",
            ]
        );
    }

    #[test]
    fn components_are_compared_one_by_one() {
        let engine = |command: &str, version: &str| Component {
            command: vec![command.to_owned()],
            env: BTreeMap::new(),
            directory: "/srv".to_owned(),
            files: BTreeMap::new(),
            health_path: None,
            depends_on: Vec::new(),
            version: Some(version.to_owned()),
            requires: Vec::new(),
        };
        let (mut was, mut is) = (content(), content());
        was.components
            .insert("engine".parse().unwrap(), engine("e", "1"));
        was.components
            .insert("old".parse().unwrap(), engine("o", "1"));
        is.components
            .insert("engine".parse().unwrap(), engine("e", "2"));
        is.components
            .insert("new".parse().unwrap(), engine("n", "1"));
        assert_eq!(
            lines(&was, &is),
            [
                "components.engine.version: 1 → 2",
                "components.new: added n",
                "components.old: removed o",
            ]
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut is = content();
        is.env.insert("API_KEY".to_owned(), "two".to_owned());
        is.env
            .insert("DB".to_owned(), "postgres://me:two@db/x".to_owned());
        is.command
            .extend(["--auth-token".to_owned(), "two".to_owned()]);
        is.command.push("--password=two".to_owned());
        let shown = lines(&content(), &is);
        assert!(!shown.concat().contains("two"), "{shown:?}");
        assert_eq!(shown[1], "env.API_KEY: changed (***)");
        assert_eq!(shown[2], "env.DB: added ***");
        let mut other = is.clone();
        *other.command.last_mut().unwrap() = "--password=three".to_owned();
        assert_eq!(lines(&is, &other), ["command: changed (***)"]);
    }
}
