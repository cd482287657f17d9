//! `segue config`: what may be written into `segue.toml`, and whether a file is good.

use std::path::Path;

use serde::Serialize;

use crate::args::{ConfigDo, Format};
use crate::checkup::strangers;
use crate::exit::{Exit, Trouble};
use crate::output;

/// A check, for machines.
#[derive(Debug, Serialize)]
struct CheckView {
    file: String,
    ok: bool,
    agents: Vec<String>,
    /// Each with its place and its hint.
    faults: Vec<String>,
}

pub(crate) fn run(format: Format, args: &ConfigDo) -> anyhow::Result<Exit> {
    match args {
        ConfigDo::Check { file } => check(format, file),
        ConfigDo::Schema => {
            output::line(&serde_json::to_string_pretty(&segue_core::spec::schema())?);
            Ok(Exit::Ok)
        }
        ConfigDo::Reference => {
            output::line(segue_core::spec::reference().trim_end());
            Ok(Exit::Ok)
        }
    }
}

fn check(format: Format, file: &Path) -> anyhow::Result<Exit> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| {
        let hint = "`segue init` writes one; name another with `segue config check FILE`";
        Trouble::new(Exit::Usage, format!("{name} cannot be read: {error}"), hint)
    })?;
    let mut warning = None;
    let (agents, faults) = match segue_core::spec::parse(&name, &text) {
        Ok(spec) => {
            warning = strangers(&spec);
            let agents = spec.agents.keys().map(ToString::to_string);
            (agents.collect(), vec![])
        }
        Err(faults) => (vec![], faults.iter().map(ToString::to_string).collect()),
    };
    let view = CheckView {
        file: name,
        ok: faults.is_empty(),
        agents,
        faults,
    };
    output::data(format, &view, || match view.faults.len() {
        0 => format!("{}: good; agents: {}", view.file, view.agents.join(", ")),
        1 => format!("{} has 1 fault:\n{}", view.file, view.faults[0]),
        count => format!(
            "{} has {count} faults:\n{}",
            view.file,
            view.faults.join("\n")
        ),
    });
    if let Some((what, fix)) = warning {
        output::say(&format!("warning: {what}"));
        output::say(&format!("hint: {fix}"));
    }
    Ok(if view.ok { Exit::Ok } else { Exit::Usage })
}
