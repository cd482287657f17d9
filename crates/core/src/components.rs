//! The components of a release together: in which order they start, and whether they fit.

use std::collections::BTreeMap;
use std::fmt;

use crate::compat::{self, Requirement};
use crate::names::ComponentName;
use crate::release::Content;

/// Why the components of a release cannot run together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// One requires another version than there is.
    Version {
        /// Who requires it; `None`: the worker.
        by: Option<ComponentName>,
        /// What.
        requirement: Requirement,
        /// The version there is; `None`: the component says none.
        found: Option<String>,
    },
    /// One depends on, or requires, a component that is not there.
    Unknown {
        /// Who does; `None`: the worker.
        by: Option<ComponentName>,
        /// On what.
        component: ComponentName,
    },
    /// A version is none.
    BadVersion {
        /// Whose; `None`: the worker's.
        of: Option<ComponentName>,
        /// What it says.
        text: String,
    },
    /// Each of these waits for the next one, and the last for the first.
    Cycle {
        /// Their names.
        names: Vec<ComponentName>,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = |name: &Option<ComponentName>| match name {
            Some(name) => name.to_string(),
            None => "the worker".to_owned(),
        };
        match self {
            Self::Version {
                by,
                requirement,
                found: Some(found),
            } => {
                let by = who(by);
                let component = &requirement.component;
                write!(f, "{by} requires {requirement}, and {component} is {found}")
            }
            Self::Version {
                by, requirement, ..
            } => {
                let by = who(by);
                let component = &requirement.component;
                write!(
                    f,
                    "{by} requires {requirement}, and {component} has no version"
                )
            }
            Self::Unknown { by, component } => {
                write!(
                    f,
                    "{} depends on {component}, which is no component",
                    who(by)
                )
            }
            Self::BadVersion { of, text } => {
                write!(f, "{text:?}, the version of {}, is not a version", who(of))
            }
            Self::Cycle { names } => {
                let names: Vec<&str> = names.iter().map(ComponentName::as_str).collect();
                write!(f, "{} depend on each other in a circle", names.join(", "))
            }
        }
    }
}

/// Which components each component waits for. Names that are not there wait for nothing.
pub type Dependencies<'a> = BTreeMap<&'a ComponentName, &'a [ComponentName]>;

/// The components in an order in which each comes after all that it depends on; by name where that
/// leaves a choice.
///
/// # Errors
///
/// The members of a circle, if there is one.
pub fn start_order(of: &Dependencies<'_>) -> Result<Vec<ComponentName>, Vec<ComponentName>> {
    let mut order: Vec<ComponentName> = Vec::new();
    let mut left: Vec<&ComponentName> = of.keys().copied().collect();
    while !left.is_empty() {
        let waits = |name: &ComponentName| of[name].iter().any(|on| left.contains(&on));
        match left.iter().position(|name| !waits(name)) {
            Some(next) => order.push(left.remove(next).clone()),
            None => return Err(circle(of, &left)),
        }
    }
    Ok(order)
}

/// A circle among components of which each waits for another one of them.
fn circle(of: &Dependencies<'_>, left: &[&ComponentName]) -> Vec<ComponentName> {
    let mut way: Vec<&ComponentName> = Vec::new();
    let mut at = left[0];
    while !way.contains(&at) {
        way.push(at);
        let next = of[at].iter().find(|on| left.contains(on));
        at = next.unwrap_or(at);
    }
    let start = way.iter().position(|name| *name == at).unwrap_or_default();
    way[start..].iter().map(|name| (*name).clone()).collect()
}

impl Content {
    fn dependencies(&self) -> Dependencies<'_> {
        let components = self.components.iter();
        components
            .map(|(name, component)| (name, component.depends_on.as_slice()))
            .collect()
    }

    /// The components in the order in which they are started. Those of a circle, which
    /// [`check_compat`](Self::check_compat) refuses, come last.
    pub fn start_order(&self) -> Vec<ComponentName> {
        let dependencies = self.dependencies();
        match start_order(&dependencies) {
            Ok(order) => order,
            Err(_) => self.components.keys().cloned().collect(),
        }
    }

    /// Whether the worker and its components go together. A version that nobody says meets no
    /// requirement.
    pub fn check_compat(&self) -> Vec<Mismatch> {
        let worker = (None, &self.depends_on, &self.requires, &self.version);
        let components = self.components.iter().map(|(name, is)| {
            (
                Some(name.clone()),
                &is.depends_on,
                &is.requires,
                &is.version,
            )
        });
        let mut found = Vec::new();
        for (by, depends_on, requires, version) in std::iter::once(worker).chain(components) {
            if let Some(text) = version
                && compat::version(text).is_err()
            {
                let text = text.clone();
                found.push(Mismatch::BadVersion {
                    of: by.clone(),
                    text,
                });
            }
            let missing = depends_on
                .iter()
                .filter(|name| !self.components.contains_key(name));
            found.extend(missing.map(|component| Mismatch::Unknown {
                by: by.clone(),
                component: component.clone(),
            }));
            let unmet = requires.iter();
            found.extend(unmet.filter_map(|requirement| self.unmet(by.as_ref(), requirement)));
        }
        if let Err(names) = start_order(&self.dependencies()) {
            found.push(Mismatch::Cycle { names });
        }
        found
    }

    fn unmet(&self, by: Option<&ComponentName>, requirement: &Requirement) -> Option<Mismatch> {
        let by = by.cloned();
        let Some(component) = self.components.get(&requirement.component) else {
            let component = requirement.component.clone();
            return Some(Mismatch::Unknown { by, component });
        };
        let found = component.version.clone();
        let met = match found.as_deref().map(compat::version) {
            Some(Ok(version)) => requirement.is_met_by(&version),
            // It is reported by itself.
            Some(Err(_)) => true,
            None => false,
        };
        (!met).then(|| Mismatch::Version {
            by,
            requirement: requirement.clone(),
            found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::Component;

    fn component(depends_on: &[&str], version: Option<&str>, requires: &[&str]) -> Component {
        Component {
            command: vec!["x".to_owned()],
            env: BTreeMap::new(),
            directory: "/srv".to_owned(),
            files: BTreeMap::new(),
            health_path: None,
            depends_on: depends_on
                .iter()
                .map(|name| name.parse().unwrap())
                .collect(),
            version: version.map(str::to_owned),
            requires: requires.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn stack(components: &[(&str, Component)], requires: &[&str]) -> Content {
        let components = components.iter();
        Content {
            components: components
                .map(|(name, is)| (name.parse().unwrap(), is.clone()))
                .collect(),
            requires: requires.iter().map(|text| text.parse().unwrap()).collect(),
            ..Content::default()
        }
    }

    fn said(content: &Content) -> Vec<String> {
        let found = content.check_compat();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_starts_after_what_it_depends_on() {
        let content = stack(
            &[
                ("api", component(&["engine"], None, &[])),
                ("engine", component(&["licence", "cache"], None, &[])),
                ("licence", component(&[], None, &[])),
                ("cache", component(&["licence"], None, &[])),
            ],
            &[],
        );
        let order = content.start_order();
        let order: Vec<&str> = order.iter().map(ComponentName::as_str).collect();
        assert_eq!(order, ["licence", "cache", "engine", "api"]);
        assert_eq!(said(&content), [""; 0]);
    }

    #[test]
    fn a_circle_is_named_without_what_only_leads_to_it() {
        let content = stack(
            &[
                ("a", component(&["b"], None, &[])),
                ("b", component(&["c"], None, &[])),
                ("c", component(&["d", "b"], None, &[])),
                ("d", component(&[], None, &[])),
            ],
            &[],
        );
        assert_eq!(said(&content), ["b, c depend on each other in a circle"]);
        assert_eq!(content.start_order().len(), 4);
        let alone = stack(&[("a", component(&["a"], None, &[]))], &[]);
        assert_eq!(said(&alone), ["a depend on each other in a circle"]);
    }

    #[test]
    fn mixed_pairs_are_refused() {
        let engine = |version| component(&[], version, &["licence >= 1.2"]);
        let with = |engine, licence| {
            let licence = component(&[], licence, &[]);
            said(&stack(
                &[("engine", engine), ("licence", licence)],
                &["engine >= 2.0, < 3"],
            ))
        };
        assert_eq!(with(engine(Some("2.4")), Some("1.2")), [""; 0]);
        assert_eq!(
            with(engine(Some("v1.9")), Some("1.2")),
            ["the worker requires engine >=2.0, <3, and engine is v1.9"]
        );
        assert_eq!(
            with(engine(None), Some("1.1.9")),
            [
                "the worker requires engine >=2.0, <3, and engine has no version",
                "engine requires licence >=1.2, and licence is 1.1.9"
            ]
        );
        assert_eq!(
            with(engine(Some("latest")), Some("1.2")),
            ["\"latest\", the version of engine, is not a version"]
        );
        assert_eq!(
            said(&stack(&[], &["engine >= 2"])),
            ["the worker depends on engine, which is no component"]
        );
    }
}
