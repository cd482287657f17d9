//! What the demo came to.

use anyhow::Context as _;
use segue_voice::judge::{Verdict, judge_dir};
use serde_json::json;

use crate::args::Format;
use crate::demo::script::Told;
use crate::demo::stage::Stage;
use crate::exit::Exit;
use crate::output;

/// The judge's verdict and the demo's clock.
pub(crate) struct Report {
    verdict: Verdict,
    told: Told,
    audit_verified: bool,
}

impl Report {
    pub(crate) fn of(stage: &Stage, told: Told, audit_verified: bool) -> anyhow::Result<Self> {
        stage.collect()?;
        let verdict = judge_dir(&stage.logs()).context("the judge cannot read the logs")?;
        Ok(Self {
            verdict,
            told,
            audit_verified,
        })
    }

    /// Zero dropped, zero on the wrong release, zero on an unproven one - and calls were made.
    pub(crate) fn exit(&self) -> Exit {
        let verdict = &self.verdict;
        let bad = verdict.dropped + verdict.wrong_release_after_cutover + verdict.reached_unproven;
        let good =
            bad == 0 && verdict.started > 0 && self.told.still_talking == 0 && self.audit_verified;
        if good { Exit::Ok } else { Exit::Failed }
    }

    pub(crate) fn print(&self, format: Format) {
        let (verdict, told) = (&self.verdict, &self.told);
        let data = json!({
            "calls": {
                "started": verdict.started,
                "completed": verdict.completed,
                "dropped": verdict.dropped,
                "wrong_release_after_cutover": verdict.wrong_release_after_cutover,
                "reached_unproven": verdict.reached_unproven,
                "refused": verdict.refused,
                "by_release": verdict.by_release,
            },
            "cutover_ack_ms": told.cutover_ack_ms,
            "rollback_ack_ms": told.rollback_ack_ms,
            "drain_s": told.drain_s,
            "rollouts": told.rollouts,
            "audit_verified": self.audit_verified,
        });
        output::data(format, &data, || self.text());
        for problem in &verdict.problems {
            output::say(&format!("judge: {problem}"));
        }
    }

    fn text(&self) -> String {
        let (verdict, told) = (&self.verdict, &self.told);
        let by: Vec<String> = verdict
            .by_release
            .iter()
            .map(|(label, calls)| format!("{calls} on {label}"))
            .collect();
        let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let drain = told
            .drain_s
            .map_or_else(|| "-".to_owned(), |s| format!("{s} s"));
        let rows = [
            (
                "calls started",
                format!("{} ({})", verdict.started, by.join(", ")),
            ),
            ("calls completed", verdict.completed.to_string()),
            ("calls dropped", verdict.dropped.to_string()),
            (
                "on the old release after a cutover",
                verdict.wrong_release_after_cutover.to_string(),
            ),
            (
                "on an unproven release",
                verdict.reached_unproven.to_string(),
            ),
            ("calls turned away", verdict.refused.to_string()),
            ("cutover acknowledged in", ms(told.cutover_ack_ms)),
            ("rollback acknowledged in", ms(told.rollback_ack_ms)),
            ("v1 drained in", drain),
            (
                "audit chain holds",
                if self.audit_verified { "yes" } else { "NO" }.to_owned(),
            ),
        ];
        let lines = rows
            .iter()
            .map(|(name, value)| format!("  {name:36}{value}"));
        let mut text = vec!["what callers and workers logged:".to_owned()];
        text.extend(lines);
        text.join("\n")
    }
}
