//! What calls notice of a gateway that gives them to the next one: twice in a row, and once more
//! while new calls come in all the time.
//!
//! Ten frames a second leave the machine room, so that a gap is the handoff's and not a queue's; at
//! fifty, beside them, a thousand calls may be all that it can carry, and the control says so.

use std::time::{Duration, Instant};

use super::{AROUND, judge, millis};
use crate::BenchError;
use crate::drive::{Order, PERIOD_NS, Reply};
use crate::peers::Target;
use crate::results::Results;
use crate::run::{Bench, Options, Set};

const CALLS: usize = 1_000;

/// Of those that come in meanwhile: enough that every moment of it has some.
const STORM: usize = 8;

/// Ten frames a second.
const SPARSE_NS: u64 = 100_000_000;

const WARM_UP: Duration = Duration::from_secs(2);

/// How long the gateway before may take to be gone. It is told as a fault then.
const GONE_PATIENCE: Duration = Duration::from_secs(10);

/// About how long it takes.
pub(super) fn takes(options: &Options) -> Duration {
    2 * WARM_UP + 6 * Duration::from_secs(options.seconds) + 3 * AROUND
}

pub(super) fn measure(
    bench: &Bench<'_>,
    target: Target,
    results: &mut Results,
) -> Result<(), BenchError> {
    let mut set = flowing(bench, target, SPARSE_NS, "handoff_control", results)?;
    for name in ["handoff_first", "handoff_second"] {
        let reply = hand_over(bench, &mut set, name, results)?;
        gaps(results, name, &reply);
    }
    let mut storm = set.helper(bench)?;
    storm.ask(Order::Rate { concurrency: STORM })?;
    let reply = hand_over(bench, &mut set, "handoff_storm", results)?;
    gaps(results, "handoff_storm", &reply);
    let newcomers = storm.ask(Order::Quiet)?;
    results.add(
        "handoff_storm_new_calls",
        "calls",
        target,
        super::float(newcomers.done),
    );
    results.add(
        "handoff_storm_refused",
        "calls",
        target,
        super::float(newcomers.failed),
    );
    judge(results, "handoff, calls of the storm", target, &newcomers);
    let end = set.driver.ask(Order::Quiet)?;
    results.add("handoff_lost", "calls", target, super::float(end.lost));
    judge(results, "handoff", target, &end);
    drop(storm);
    drop(set);
    let mut set = flowing(bench, target, PERIOD_NS, "handoff_50fps_control", results)?;
    let reply = hand_over(bench, &mut set, "handoff_50fps", results)?;
    gaps(results, "handoff_50fps", &reply);
    let end = set.driver.ask(Order::Quiet)?;
    judge(results, "handoff at 50 fps", target, &end);
    Ok(())
}

/// Calls that flow, and their gaps in a window without a handoff: this machine's own.
fn flowing(
    bench: &Bench<'_>,
    target: Target,
    period_ns: u64,
    control: &str,
    results: &mut Results,
) -> Result<Set, BenchError> {
    let calls = bench.options.calls.first().copied().unwrap_or(CALLS);
    let time = Duration::from_secs(bench.options.seconds);
    let mut set = bench.set(target)?;
    set.open(calls)?;
    set.driver.ask(Order::Flow { period_ns })?;
    bench.crew.wait(WARM_UP.min(time))?;
    set.driver.ask(Order::Mark)?;
    bench.crew.wait(time)?;
    let reply = set.driver.ask(Order::Take)?;
    gaps(results, control, &reply);
    Ok(set)
}

/// One handoff, in the middle of a window.
fn hand_over(
    bench: &Bench<'_>,
    set: &mut Set,
    name: &str,
    results: &mut Results,
) -> Result<Reply, BenchError> {
    set.driver.ask(Order::Mark)?;
    let started = Instant::now();
    let successor = set.proxy.successor(&set.setting(bench))?;
    let mut before = std::mem::replace(&mut set.proxy.started[0], successor);
    if before.ended_within(GONE_PATIENCE)?.is_none() {
        return Err(set.proxy.started[0].failure("did not take over"));
    }
    let gone = u64::try_from(started.elapsed().as_nanos()).expect("seconds");
    results.add(
        &format!("{name}_old_gone_ms"),
        "ms",
        set.target,
        millis(gone),
    );
    bench
        .crew
        .wait(Duration::from_secs(bench.options.seconds))?;
    set.driver.ask(Order::Take)
}

fn gaps(results: &mut Results, name: &str, reply: &Reply) {
    let target = Target::Segue;
    for (what, gap) in [
        ("p50", reply.gap_p50_ns),
        ("p99", reply.gap_p99_ns),
        ("max", reply.gap_max_ns),
    ] {
        results.add(
            &format!("{name}_gap_{what}_ms"),
            "ms beyond a period",
            target,
            millis(gap),
        );
    }
}
