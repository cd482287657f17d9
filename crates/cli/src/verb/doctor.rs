//! `segue doctor`: what is wrong or soon will be, and how to mend it.

use serde::Serialize;

use crate::args::{DoctorArgs, Format};
use crate::checkup::{Finding, Level, check};
use crate::exit::Exit;
use crate::home::Home;
use crate::output;

/// A check-up, for machines.
#[derive(Debug, Serialize)]
struct DoctorView {
    /// Whether nothing fails.
    ok: bool,
    warnings: usize,
    failures: usize,
    findings: Vec<Finding>,
}

pub(crate) async fn run(home: &Home, format: Format, args: &DoctorArgs) -> anyhow::Result<Exit> {
    let findings = check(home, &args.config).await;
    let count = |level| findings.iter().filter(|one| one.level == level).count();
    let view = DoctorView {
        ok: count(Level::Fail) == 0,
        warnings: count(Level::Warn),
        failures: count(Level::Fail),
        findings,
    };
    output::data(format, &view, || text(&view, args.all));
    Ok(if view.ok { Exit::Ok } else { Exit::Failed })
}

fn text(view: &DoctorView, all: bool) -> String {
    let mut shown: Vec<&Finding> = view.findings.iter().collect();
    // The worst first; within that as they were found.
    shown.sort_by_key(|one| std::cmp::Reverse(one.level));
    let mut lines = Vec::new();
    for one in shown {
        let word = match one.level {
            Level::Ok if !all => continue,
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        lines.push(format!("{word}  {}: {}", one.area, one.what));
        if let Some(fix) = &one.fix {
            lines.push(format!("      fix: {fix}"));
        }
    }
    let well = view.findings.len() - view.warnings - view.failures;
    let hint = if all || well == 0 {
        ""
    } else {
        " (--all shows them)"
    };
    lines.push(format!(
        "{} failed, {} warnings, {well} well{hint}",
        view.failures, view.warnings
    ));
    lines.join("\n")
}
