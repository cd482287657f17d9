//! `segue demo`: releases being replaced under live calls, on one machine, with nothing else
//! installed.
//!
//! Everything is real but the people: a `segue serve` of its own in a folder of its own, workers
//! as processes, callers with recorded speech at real time. The counts at the end come from a
//! judge that reads only what callers and workers logged.

mod crowd;
mod report;
mod script;
mod stage;

use clap::ValueEnum;

use crate::args::{DemoArgs, Format};
use crate::exit::Exit;
use crate::output;

/// Something broken on purpose, to show that the judge notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sabotage {
    /// Kill a worker under its calls.
    KillWorker,
    /// After the cutover, make the gateway send new calls to the release before.
    Misroute,
    /// Cut over before the release has passed its gates.
    EarlyCutover,
}

pub(crate) async fn run(format: Format, args: &DemoArgs) -> anyhow::Result<Exit> {
    let mut stage = stage::Stage::build(args)?;
    output::say(&format!(
        "demo: {} callers, real audio at real time; windows are shortened (stickiness 2 s, \
         straggler buffer 3 s, ramp steps of 3 s)",
        args.callers
    ));
    let told = tokio::select! {
        told = script::play(&mut stage, args) => told,
        _ = tokio::signal::ctrl_c() => {
            stage.end().await;
            output::say("demo: interrupted; everything it started is stopped");
            return Ok(Exit::Interrupted);
        }
    };
    let audit = stage.audit_verified();
    stage.end().await;
    let report = told.and_then(|told| report::Report::of(&stage, told, audit));
    match report {
        Ok(report) => {
            report.print(format);
            let exit = report.exit();
            stage.leave(args.keep || exit != Exit::Ok);
            Ok(exit)
        }
        Err(error) => {
            stage.leave(true);
            Err(error)
        }
    }
}
