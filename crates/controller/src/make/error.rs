//! Why there is no such release.

use std::io;
use std::path::PathBuf;

use segue_core::compat::BadVersion;
use segue_core::names::{BadName, Label};
use segue_voice::scenario::Scenario;

use super::{FILES_MAX, PART_BYTES_MAX};
use crate::copies::{Gone, KeepError};

/// Why there is no such release. The operator mends the request or the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MakeError {
    /// The label is no name.
    #[error(transparent)]
    BadLabel(#[from] BadName),
    /// The label looks like a digest.
    #[error("the label {label} looks like the digest of a release")]
    DigestLabel {
        /// Which.
        label: Label,
    },
    /// Neither the request nor the configuration has a command.
    #[error("there is no command to start a worker with")]
    NoCommand,
    /// The worker would not know its port.
    #[error("the command does not tell the worker its port")]
    NoPort,
    /// A number is out of bounds.
    #[error("{what} is {value}, and must be from 1 to {max}")]
    OutOfBounds {
        /// What.
        what: &'static str,
        /// What was given.
        value: u32,
        /// The largest allowed.
        max: u32,
    },
    /// Not the name of a variable.
    #[error("{name:?} is not the name of a variable")]
    BadVariable {
        /// What was given.
        name: String,
    },
    /// The working directory is not there.
    #[error("the directory {} does not exist", path.display())]
    NoDirectory {
        /// Which.
        path: PathBuf,
    },
    /// The program is not there, or may not be run.
    #[error("the program {program:?} was not found")]
    NoProgram {
        /// Which.
        program: String,
    },
    /// Too many files.
    #[error("the command names more than {FILES_MAX} files")]
    TooManyFiles,
    /// A file could not be read.
    #[error("{path} could not be read")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be kept for workers that are started again.
    #[error("{path} could not be kept: {source}")]
    NotKept {
        /// Which.
        path: String,
        /// Why.
        source: KeepError,
    },
    /// The smoke gate names a scenario that does not exist.
    #[error("there is no scenario {name:?}")]
    UnknownScenario {
        /// Which.
        name: String,
    },
    /// A component is named that the release does not have.
    #[error("the release has no component {name:?}")]
    NoComponent {
        /// What was given.
        name: String,
        /// Those it has.
        known: Vec<String>,
    },
    /// The address of a component is asked for that is not depended on.
    #[error("{text:?} asks for the address of {name}, which {by} does not depend on")]
    NotDependedOn {
        /// The text.
        text: String,
        /// Whose address.
        name: String,
        /// Who asks.
        by: String,
    },
    /// Not a version.
    #[error(transparent)]
    BadVersion(#[from] BadVersion),
    /// Versions that do not go together.
    #[error("its parts do not go together: {}", .what.join("; "))]
    Incompatible {
        /// Each requirement that is not met.
        what: Vec<String>,
    },
    /// A prompt or configuration is not usable.
    #[error("{part} {name:?} is not usable: {why}")]
    BadPart {
        /// Which part.
        part: &'static str,
        /// Its name, or where it should have been.
        name: String,
        /// Why.
        why: String,
    },
    /// What the base is made of is not there any more.
    #[error("{label} cannot be a base any more: {source}")]
    BaseGone {
        /// The base.
        label: Label,
        /// What is missing.
        source: Gone,
    },
}

impl MakeError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::BadLabel(_) => "name it like v2.1.0".to_owned(),
            Self::DigestLabel { .. } => "use a label that is not 12 or more hexadecimal digits".to_owned(),
            Self::NoCommand => "write `command` in segue.toml, or deploy with `-- COMMAND`".to_owned(),
            Self::NoPort => "pass {port}, as in `--port {port}`, or let the worker read $PORT and write env = { PORT = \"{port}\" }".to_owned(),
            Self::OutOfBounds { .. } => "see docs/reference/config.md for its bounds".to_owned(),
            Self::BadVariable { .. } => {
                "use letters, digits and `_`, not starting with a digit; for a component write COMPONENT:NAME".to_owned()
            }
            Self::NoDirectory { .. } => {
                "make it, or mend `directory`; it is relative to segue.toml".to_owned()
            }
            Self::NoProgram { .. } => {
                "give its path, or put it on the PATH that `segue serve` was started with".to_owned()
            }
            Self::TooManyFiles => "give a directory instead, or put them into one file".to_owned(),
            Self::Unreadable { .. } => "let the user of `segue serve` read it".to_owned(),
            Self::NotKept { source, .. } => match source {
                KeepError::TooMuch { .. } => "retire releases that are not needed any more with `segue retire`".to_owned(),
                KeepError::Changing => "deploy it again once it is written".to_owned(),
                KeepError::Io(_) => "see that the state directory can be written and its disk has room".to_owned(),
            },
            Self::UnknownScenario { .. } => format!("known are: {}", Scenario::BUILTIN.join(", ")),
            Self::NoComponent { known, .. } if known.is_empty() => {
                "components are written below [agents.NAME.components] in segue.toml".to_owned()
            }
            Self::NoComponent { known, .. } => format!("it has: {}", known.join(", ")),
            Self::NotDependedOn { name, .. } => {
                format!("add {name} to its `depends_on`, so that it is started after it")
            }
            Self::BadVersion(_) => "write versions like 2.1.0".to_owned(),
            Self::Incompatible { .. } => {
                "deploy versions that go together; all components of a release are replaced at once".to_owned()
            }
            Self::BadPart { .. } => format!(
                "give a text file of at most {} KiB with a plain name", PART_BYTES_MAX >> 10
            ),
            Self::BaseGone { .. } => "name another release with `--from`, or deploy from segue.toml".to_owned(),
        }
    }
}
