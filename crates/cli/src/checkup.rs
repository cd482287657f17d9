//! A check-up: what is wrong or soon will be, each with how to mend it. Nothing is changed.

mod certificate;
mod certificates;
mod clock;
mod keeping;
mod limits;
mod ports;
mod processes;
mod programs;
mod smells;
mod store;

use std::path::{Path, PathBuf};

use segue_controller::api::wire::StatusView;
use segue_core::spec::Spec;
use serde::Serialize;

pub(crate) use self::smells::strangers;
use crate::client::Client;
use crate::home::Home;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing to do.
    Ok,
    /// It works, and will hurt some day.
    Warn,
    /// It does not work.
    Fail,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// Where: `ports`, `limits`, `clock`, `store`, …
    pub(crate) area: &'static str,
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) fix: Option<String>,
}

/// Findings of one area, as they are made.
pub(crate) struct Findings {
    area: &'static str,
    all: Vec<Finding>,
}

impl Findings {
    pub(crate) fn of(area: &'static str) -> Self {
        Self {
            area,
            all: Vec::new(),
        }
    }

    pub(crate) fn ok(&mut self, what: impl Into<String>) {
        self.add(Level::Ok, what.into(), None);
    }

    pub(crate) fn warn(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Warn, what.into(), Some(fix.into()));
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.add(Level::Fail, what.into(), Some(fix.into()));
    }

    fn add(&mut self, level: Level, what: String, fix: Option<String>) {
        let area = self.area;
        self.all.push(Finding {
            level,
            area,
            what,
            fix,
        });
    }
}

/// What is looked at.
pub(crate) struct Patient {
    pub(crate) home: Home,
    /// The folder that paths of the configuration are relative to.
    pub(crate) folder: PathBuf,
    pub(crate) spec: Option<Spec>,
    /// What the running Segue says, if one answers.
    pub(crate) status: Option<StatusView>,
}

/// Looks at everything.
pub(crate) async fn check(home: &Home, config: &Path) -> Vec<Finding> {
    let mut about = Findings::of("config");
    let spec = read(config, &mut about);
    let status = Client::find(home).and_then(|client| client.status()).ok();
    let folder = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
    let patient = Patient {
        home: home.clone(),
        folder: folder.parent().map(Path::to_owned).unwrap_or_default(),
        spec,
        status,
    };
    let parts = [
        about,
        smells::check(&patient),
        programs::check(&patient),
        certificates::check(&patient),
        ports::check(&patient),
        limits::check(&patient),
        clock::check(&patient).await,
        store::check(&patient),
        processes::check(&patient),
        keeping::check(&patient),
    ];
    parts.into_iter().flat_map(|part| part.all).collect()
}

fn read(config: &Path, about: &mut Findings) -> Option<Spec> {
    let name = config.display().to_string();
    let text = match std::fs::read_to_string(config) {
        Ok(text) => text,
        Err(error) => {
            about.fail(
                format!("{name} cannot be read: {error}"),
                "`segue init` writes one; name another with --config FILE",
            );
            return None;
        }
    };
    match segue_core::spec::parse(&name, &text) {
        Ok(spec) => {
            about.ok(format!("{name} has no fault"));
            Some(spec)
        }
        Err(faults) => {
            for fault in faults {
                let text = fault.to_string();
                let (what, fix) = text.split_once("\nhint: ").unwrap_or((&text, "mend it"));
                about.fail(what, fix);
            }
            None
        }
    }
}
