//! The one place that prints. Data goes to standard output, words to standard error.

use std::io::{IsTerminal as _, Write as _};

use segue_core::time::Timestamp;
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

/// `0.4 s`, `61.0 s`: a moment within a story.
pub(crate) fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

/// Basis points as a percentage.
pub(crate) fn percent(basis_points: u16) -> String {
    segue_core::split::Share(basis_points).to_string()
}

/// A moment as RFC 3339 says it, in UTC: `2026-01-31T09:05:00.250Z`.
pub(crate) fn utc(at: Timestamp) -> String {
    const DAY_MS: u64 = 86_400_000;
    let (year, month, day) = civil(at.0 / DAY_MS);
    let ms = at.0 % DAY_MS;
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    let ms = ms % 1_000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`). Years are
/// counted from March, so that a leap day is the last of its year, in eras of 400 years, which
/// are all of one length.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    // From 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ms: u64, expected: &str) {
        assert_eq!(utc(Timestamp(ms)), expected);
    }

    #[test]
    fn moments_are_written_as_people_and_machines_read_them() {
        check(0, "1970-01-01T00:00:00.000Z");
        check(951_782_400_000, "2000-02-29T00:00:00.000Z");
        check(1_709_251_199_999, "2024-02-29T23:59:59.999Z");
        check(1_709_251_200_000, "2024-03-01T00:00:00.000Z");
        check(1_769_850_300_250, "2026-01-31T09:05:00.250Z");
        check(4_102_444_800_000, "2100-01-01T00:00:00.000Z");
        check(4_107_542_400_000, "2100-03-01T00:00:00.000Z");
        check(253_402_300_799_999, "9999-12-31T23:59:59.999Z");
    }
}
