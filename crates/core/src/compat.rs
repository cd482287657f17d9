//! Which versions of components go together: `engine >= 2.0`.
//!
//! Versions are Semantic Versioning 2.0.0, written as people write them: a leading `v` and missing
//! parts are allowed (`v2.1` is 2.1.0). Requirements are cargo's (`>=`, `>`, `<`, `<=`, `=`, `~`,
//! `^`, `*`, joined by commas).

use std::fmt;
use std::str::FromStr;

use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

use crate::names::ComponentName;

/// Operators that may follow a component's name.
const OPERATORS: [char; 6] = ['<', '>', '=', '~', '^', '*'];

/// What one component requires of another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Requirement {
    /// Of which component.
    pub component: ComponentName,
    /// Which versions of it will do.
    pub versions: VersionReq,
}

/// Why a text is no version or no requirement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVersion {
    /// Not a version.
    #[error("{text:?} is not a version")]
    Version {
        /// What was given.
        text: String,
    },
    /// Not a requirement.
    #[error("{text:?} is not a requirement such as \"engine >= 2.0\"")]
    Requirement {
        /// What was given.
        text: String,
    },
}

/// Reads a version as people write it.
///
/// # Errors
///
/// When it is none.
pub fn version(text: &str) -> Result<Version, BadVersion> {
    let bad = || BadVersion::Version {
        text: text.to_owned(),
    };
    let plain = text.strip_prefix('v').unwrap_or(text);
    let end = plain.find(['-', '+']).unwrap_or(plain.len());
    let (numbers, rest) = plain.split_at(end);
    let missing = 3_usize.checked_sub(numbers.split('.').count());
    let whole = format!("{numbers}{}{rest}", ".0".repeat(missing.ok_or_else(bad)?));
    Version::parse(&whole).map_err(|_| bad())
}

impl Requirement {
    /// Whether a version will do.
    pub fn is_met_by(&self, version: &Version) -> bool {
        self.versions.matches(version)
    }
}

impl FromStr for Requirement {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let bad = || BadVersion::Requirement {
            text: text.to_owned(),
        };
        let at = text.find(OPERATORS).ok_or_else(bad)?;
        let (component, versions) = text.split_at(at);
        Ok(Self {
            component: component.trim().parse().map_err(|_| bad())?,
            versions: VersionReq::parse(versions.trim()).map_err(|_| bad())?,
        })
    }
}

impl TryFrom<String> for Requirement {
    type Error = BadVersion;

    fn try_from(text: String) -> Result<Self, BadVersion> {
        text.parse()
    }
}

impl From<Requirement> for String {
    fn from(requirement: Requirement) -> Self {
        requirement.to_string()
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.component, self.versions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_people_write_them() {
        for (text, whole) in [
            ("2", "2.0.0"),
            ("v2.1", "2.1.0"),
            ("2.1.3-rc.1", "2.1.3-rc.1"),
            ("2.1-rc", "2.1.0-rc"),
        ] {
            assert_eq!(version(text).unwrap().to_string(), whole);
        }
        for text in ["", "v", "2.x", "1.2.3.4", "latest"] {
            assert!(version(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn requirements_say_what_goes_together() {
        for (requirement, given, met) in [
            ("engine >= 2.0", "2.0.0", true),
            ("engine>=2.0", "1.9.9", false),
            ("engine >= 2, < 3", "2.7.1", true),
            ("engine >= 2, < 3", "3.0.0", false),
            ("engine ~1.2", "1.2.9", true),
            ("engine = 2.1", "2.2.0", false),
        ] {
            let requirement: Requirement = requirement.parse().unwrap();
            assert_eq!(
                requirement.is_met_by(&version(given).unwrap()),
                met,
                "{requirement} {given}"
            );
        }
        for text in ["", "engine", ">= 2", "engine >= new", "a b >= 2"] {
            assert!(text.parse::<Requirement>().is_err(), "{text:?}");
        }
    }
}
