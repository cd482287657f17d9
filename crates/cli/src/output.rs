//! The one place that prints. Data goes to standard output, words to standard error.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use crate::args::Format;
use crate::exit::Trouble;

/// Prints one answer as JSON or YAML; as a table it is left to the caller.
pub(crate) fn data(format: Format, value: &impl Serialize, table: impl FnOnce() -> String) {
    match format {
        Format::Table => line(&table()),
        Format::Json => {
            line(&serde_json::to_string(value).expect("views always serialise"));
        }
        Format::Yaml => {
            line(
                serde_yaml_ng::to_string(value)
                    .expect("views always serialise")
                    .trim_end(),
            );
        }
    }
}

/// One line of data. A reader that has gone away (`| head`) ends the program quietly.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").is_err() {
        std::process::abort();
    }
}

/// Raw bytes of data.
pub(crate) fn raw(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Words for people.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// An error with its hint.
pub(crate) fn trouble(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
    let hint = error
        .downcast_ref::<Trouble>()
        .and_then(|trouble| trouble.hint.as_deref());
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
}

/// Whether people are watching standard error, so that a line may be rewritten.
pub(crate) fn is_live() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// A line that is rewritten in place where people are watching, and printed anew when it says
/// something new elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    shown: String,
    live: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            shown: String::new(),
            live: is_live(),
        }
    }

    /// Shows where things are. `milestone` is the part whose change deserves a line of its own
    /// where lines cannot be rewritten.
    pub(crate) fn show(&mut self, milestone: &str, detail: &str) {
        if self.live {
            let text = format!("{milestone}  {detail}");
            if text != self.shown {
                eprint!("\r\x1b[2K{text}");
                let _ = std::io::stderr().flush();
                self.shown = text;
            }
        } else if milestone != self.shown {
            eprintln!("{milestone}  {detail}");
            milestone.clone_into(&mut self.shown);
        }
    }

    /// Prints a line above the one that is rewritten.
    pub(crate) fn say(&mut self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }

    /// Takes the rewritten line away.
    pub(crate) fn clear(&mut self) {
        if self.live && !self.shown.is_empty() {
            eprint!("\r\x1b[2K");
            self.shown.clear();
        }
    }
}

/// Columns, each as wide as its widest cell.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let join = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![join(&mut head.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| join(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

/// `4s`, `3m12s`, `2h05m`.
pub(crate) fn age(ms: u64) -> String {
    match ms / 1_000 {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
    }
}

/// Basis points as a percentage.
pub(crate) fn percent(basis_points: u16) -> String {
    segue_core::split::Share(basis_points).to_string()
}
