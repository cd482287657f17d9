//! `segue judge`: what became of each call, from the logs of callers and workers alone.

use std::path::Path;

use anyhow::Context as _;
use segue_voice::judge::judge_dir;

use crate::args::Format;
use crate::exit::Exit;
use crate::output;

pub(crate) fn run(format: Format, dir: &Path) -> anyhow::Result<Exit> {
    let verdict =
        judge_dir(dir).with_context(|| format!("the logs in {} cannot be read", dir.display()))?;
    output::data(format, &verdict, || {
        let mut text = format!(
            "started {}  completed {}  dropped {}  refused {}  wrong release after cutover {}  \
             reached unproven {}",
            verdict.started,
            verdict.completed,
            verdict.dropped,
            verdict.refused,
            verdict.wrong_release_after_cutover,
            verdict.reached_unproven,
        );
        for problem in &verdict.problems {
            text.push_str("\n  ");
            text.push_str(problem);
        }
        text
    });
    Ok(if verdict.is_clean() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}
