//! How far an upgrade is, written down before each step: for the supervisor that goes on with it,
//! and for `segue upgrade`, which shows it.

use std::path::{Path, PathBuf};

use segue_controller::secret::write_private;
use serde::{Deserialize, Serialize};

use super::wishes::Request;
use crate::exit::Exit;
use crate::home::Home;
use crate::output;

/// A step that is being taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// The binary is tried out; nothing was changed.
    Trying,
    /// The gateway hands over.
    Gateway,
    /// The controller is started anew.
    Controller,
    /// The supervisor becomes the new binary.
    Supervisor,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(crate) enum Outcome {
    /// Everything runs the new binary.
    Done,
    /// It does not.
    Failed {
        /// Exit code of `segue upgrade`.
        exit: u8,
        /// What happened.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

impl Outcome {
    pub(super) fn failed(exit: Exit, message: &str, hint: &str) -> Self {
        Self::Failed {
            exit: exit.code(),
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
        }
    }
}

/// What is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Of the request.
    pub(crate) id: String,
    /// What everything is to become.
    pub(crate) binary: PathBuf,
    /// Where it is.
    pub(crate) step: Step,
    /// What was told so far.
    pub(crate) told: Vec<String>,
    /// `None`: it is under way.
    pub(crate) end: Option<Outcome>,
}

impl Progress {
    /// The last upgrade of a state folder, under way or over.
    pub(crate) fn read(home: &Home) -> Option<Self> {
        let text = std::fs::read(file(home)).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

fn file(home: &Home) -> PathBuf {
    home.run().join("upgrade.state")
}

/// An upgrade under way.
pub(super) struct Journey {
    file: PathBuf,
    progress: Progress,
}

impl Journey {
    pub(super) fn begin(home: &Home, request: Request) -> Self {
        let journey = Self {
            file: file(home),
            progress: Progress {
                id: request.id,
                binary: request.binary,
                step: Step::Trying,
                told: Vec::new(),
                end: None,
            },
        };
        journey.write();
        journey
    }

    /// One that an earlier supervisor left.
    pub(super) fn find(home: &Home) -> Option<Self> {
        let progress = Progress::read(home).filter(|progress| progress.end.is_none())?;
        Some(Self {
            file: file(home),
            progress,
        })
    }

    pub(super) fn binary(&self) -> &Path {
        &self.progress.binary
    }

    pub(super) fn step(&self) -> Step {
        self.progress.step
    }

    pub(super) fn enter(&mut self, step: Step) {
        self.progress.step = step;
        self.write();
    }

    pub(super) fn say(&mut self, text: &str) {
        output::say(text);
        self.progress.told.push(text.to_owned());
        self.write();
    }

    pub(super) fn end(&mut self, outcome: Outcome) {
        match &outcome {
            Outcome::Done => output::say("the upgrade is done"),
            Outcome::Failed { message, hint, .. } => {
                output::say(&format!("the upgrade failed: {message}"));
                if let Some(hint) = hint {
                    output::say(&format!("hint: {hint}"));
                }
            }
        }
        self.progress.end = Some(outcome);
        self.write();
    }

    fn write(&self) {
        let bytes = serde_json::to_vec(&self.progress).expect("plain data");
        if let Err(error) = write_private(&self.file, &bytes) {
            output::say(&format!(
                "warning: the upgrade is not written down: {error}"
            ));
        }
    }
}
