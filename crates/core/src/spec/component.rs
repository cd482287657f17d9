//! Reads the programs of an agent that run beside its workers, and holds all of them against each
//! other: who depends on whom, and which versions go together.

use std::collections::{BTreeMap, BTreeSet};

use super::ComponentSpec;
use super::bounds;
use super::keys::COMPONENT;
use super::program::{Known, check_port, need_command, read_env};
use super::reader::{Item, Section, quoted};
use super::values::{Query, each, path, placeholders};
use crate::compat::{self, Requirement};
use crate::components::{Dependencies, start_order};
use crate::names::{BadName, ComponentName};

/// How a component is written, for hints.
const HINT: &str = "write [agents.NAME.components.NAME], and its keys below it";

/// Placeholders of a component's command and environment.
const PLACEHOLDERS: [&str; 3] = ["port", "release", "agent"];

/// All programs of one agent.
#[derive(Debug)]
pub(super) struct Stack<'a> {
    components: Vec<(ComponentName, Section<'a>)>,
    /// `None`: a name is bad, and nothing is said of what might mean it.
    names: Option<BTreeSet<ComponentName>>,
    members: Vec<Member<'a>>,
}

/// One of them, and what it says about others. A list that is `None` is bad.
#[derive(Debug)]
pub(super) struct Member<'a> {
    /// `None`: the worker.
    name: Option<ComponentName>,
    section: Section<'a>,
    version: Option<String>,
    depends_on: Option<Vec<ComponentName>>,
    requires: Option<Vec<(Requirement, Item<'a>)>>,
}

impl Member<'_> {
    pub(super) fn depends_on(&self) -> Option<&[ComponentName]> {
        self.depends_on.as_deref()
    }

    pub(super) fn version(&self) -> Option<String> {
        self.version.clone()
    }

    pub(super) fn requires(&self) -> Vec<Requirement> {
        let requires = self.requires.iter().flatten();
        requires
            .map(|(requirement, _)| requirement.clone())
            .collect()
    }
}

impl<'a> Stack<'a> {
    /// The components that an agent names.
    pub(super) fn open(agent: &Section<'a>) -> Self {
        let item = agent.item("components");
        let entries = item.and_then(|item| item.entries(HINT));
        let bad = item.is_some() && entries.is_none();
        let entries = entries.unwrap_or_default();
        if let Some(item) = item
            && entries.len() > bounds::COMPONENTS_MAX
        {
            let message = format!("more than {} components", bounds::COMPONENTS_MAX);
            item.fault::<()>(message, "each is a process of every release that runs");
        }
        let read: Vec<_> = entries
            .into_iter()
            .map(|(key_at, entry)| {
                let entry = entry.placed(key_at);
                let section = if entry.is_table() {
                    entry.section(&COMPONENT)
                } else {
                    entry.not_a("the table of a component", HINT)
                };
                Some((component_name(entry)?, section?))
            })
            .collect();
        let sound = !bad && read.iter().all(Option::is_some);
        let components: Vec<_> = read.into_iter().flatten().collect();
        let names = components.iter().map(|(name, _)| name.clone()).collect();
        Self {
            components,
            names: sound.then_some(names),
            members: Vec::new(),
        }
    }

    pub(super) fn names(&self) -> Option<&BTreeSet<ComponentName>> {
        self.names.as_ref()
    }

    /// What a program says about others.
    pub(super) fn member(&self, name: Option<ComponentName>, section: &Section<'a>) -> Member<'a> {
        Member {
            name,
            section: *section,
            version: section.read_option("version", read_version),
            depends_on: section
                .read_sound("depends_on", Vec::new(), |item| self.read_depends_on(item)),
            requires: section.read_sound("requires", Vec::new(), |item| {
                each(item, bounds::COMPONENTS_MAX, |item| {
                    self.read_requirement(item)
                })
            }),
        }
    }

    pub(super) fn join(&mut self, member: Member<'a>) {
        self.members.push(member);
    }

    fn read_depends_on(&self, item: Item<'_>) -> Option<Vec<ComponentName>> {
        let mut seen: BTreeSet<ComponentName> = BTreeSet::new();
        let mut sound = true;
        let mut names = Vec::new();
        for item in item.items_or_one(bounds::COMPONENTS_MAX)? {
            let name = item.text().and_then(|text| self.known(item, text));
            let Some(name) = name else {
                sound = false;
                continue;
            };
            if !seen.insert(name.clone()) {
                let message = format!("`{}` names {name} twice", item.name);
                item.fault::<()>(message, "remove one of them");
                sound = false;
            }
            names.push(name);
        }
        sound.then_some(names)
    }

    /// The name of a component that is there.
    fn known(&self, item: Item<'_>, text: &str) -> Option<ComponentName> {
        let name: ComponentName = match text.parse() {
            Ok(name) => name,
            Err(bad) => {
                return item.fault(BadName::to_string(&bad), "name a component of this agent");
            }
        };
        let Some(names) = &self.names else {
            return Some(name);
        };
        if names.contains(&name) {
            return Some(name);
        }
        let listed: Vec<&str> = names.iter().map(ComponentName::as_str).collect();
        let hint = if listed.is_empty() {
            "the agent has no components; write [agents.NAME.components.NAME]".to_owned()
        } else {
            format!("components are {}", listed.join(", "))
        };
        let message = format!("`{}`: there is no component {}", item.name, quoted(text));
        item.fault(message, hint)
    }

    fn read_requirement(&self, item: Item<'a>) -> Option<(Requirement, Item<'a>)> {
        const HINT: &str = "write the component, one of >= > < <= = ~ ^, and a version; join several \
                            with commas";
        let text = item.text()?;
        let requirement: Requirement = match text.parse() {
            Ok(requirement) => requirement,
            Err(bad) => return item.fault(format!("`{}`: {bad}", item.name), HINT),
        };
        self.known(item, requirement.component.as_str())?;
        Some((requirement, item))
    }

    /// The components. Their members join.
    pub(super) fn read_components(&mut self) -> BTreeMap<ComponentName, ComponentSpec> {
        let mut specs = BTreeMap::new();
        for (name, section) in self.components.clone() {
            let member = self.member(Some(name.clone()), &section);
            specs.insert(name, self.read_component(&section, &member));
            self.join(member);
        }
        specs
    }

    fn read_component(&self, section: &Section<'_>, member: &Member<'_>) -> ComponentSpec {
        let known = Known {
            names: &PLACEHOLDERS,
            absent: &[],
            components: self.names(),
            depends_on: member.depends_on(),
        };
        let command = need_command(section, &known);
        let env = section.read_sound("env", BTreeMap::new(), |item| read_env(item, &known));
        if let (Some(item), Some(command), Some(env)) = (section.item("command"), &command, &env) {
            check_port(item, command, env, "the component");
        }
        ComponentSpec {
            command: command.unwrap_or_default(),
            env: env.unwrap_or_default(),
            directory: section.read_option("directory", |item| Some(item.filled()?.to_owned())),
            health_path: section.read_option("health", |item| {
                path(item, Query::Allowed).map(str::to_owned)
            }),
            version: member.version(),
            depends_on: member.depends_on().unwrap_or_default().to_vec(),
            requires: member.requires(),
        }
    }

    /// Holds all of them against each other.
    pub(super) fn check(&self) {
        for member in &self.members {
            for (requirement, item) in member.requires.iter().flatten() {
                self.check_requirement(requirement, *item);
            }
        }
        let waits = self.members.iter();
        let dependencies: Dependencies<'_> = waits
            .filter_map(|member| Some((member.name.as_ref()?, member.depends_on()?)))
            .collect();
        let Err(circle) = start_order(&dependencies) else {
            return;
        };
        let names: Vec<&str> = circle.iter().map(ComponentName::as_str).collect();
        let first = self
            .members
            .iter()
            .find(|member| member.name.as_ref() == circle.first());
        let Some(place) = first.and_then(|member| member.section.item("depends_on")) else {
            return;
        };
        let message = match names[..] {
            [one] => format!("{one} depends on itself"),
            _ => format!("{} depend on each other in a circle", names.join(", ")),
        };
        place.fault::<()>(
            message,
            "none of them could be started first; take one link out",
        );
    }

    /// A version that is written out must be one that will do. One with a placeholder is known
    /// with the release, and checked then.
    fn check_requirement(&self, requirement: &Requirement, item: Item<'_>) {
        let name = &requirement.component;
        let of = |member: &&Member<'_>| member.name.as_ref() == Some(name);
        let Some(member) = self.members.iter().find(of) else {
            return;
        };
        let Some(text) = &member.version else {
            // A bad version is reported by itself.
            if member.section.item("version").is_none() {
                item.fault::<()>(
                    format!("`requires` {requirement}, but {name} has no version"),
                    format!("write version = \"…\" in the table of {name}"),
                );
            }
            return;
        };
        let met = compat::version(text).map(|version| requirement.is_met_by(&version));
        if met == Ok(false) {
            let line = member.section.item("version").map(|is| is.line_of(is.at));
            item.fault::<()>(
                format!(
                    "`requires` {requirement}, but {name} is {text} (line {})",
                    line.unwrap_or_default()
                ),
                "they do not go together; change the one or the other",
            );
        }
    }
}

fn component_name(entry: Item<'_>) -> Option<ComponentName> {
    match entry.name.parse() {
        Ok(name) => Some(name),
        Err(bad) => entry.fault(BadName::to_string(&bad), HINT),
    }
}

/// A version, or one in which the label of the release will stand.
fn read_version(item: Item<'_>) -> Option<String> {
    let text = item.filled()?;
    let mut names = placeholders(text);
    let placed = match names.next() {
        Some("release") => names.all(|name| name == "release"),
        Some(_) => false,
        None => compat::version(text).is_ok(),
    };
    if !placed {
        return item.fault(
            format!("`{}`: {} is not a version", item.name, quoted(text)),
            "write it like \"2.1\", \"v2.1.3\" or \"{release}\"",
        );
    }
    Some(text.to_owned())
}
