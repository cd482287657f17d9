//! How many calls can begin in a second: open, one frame there and back, goodbye.

use std::time::Duration;

use super::{AROUND, float, judge, micros};
use crate::BenchError;
use crate::drive::Order;
use crate::peers::Target;
use crate::results::Results;
use crate::run::{Bench, Options};

/// At once.
const CONCURRENCY: usize = 32;

const WARM_UP: Duration = Duration::from_secs(1);

/// About how long it takes.
pub(super) fn takes(options: &Options) -> Duration {
    WARM_UP + Duration::from_secs(options.seconds) + AROUND
}

pub(super) fn measure(
    bench: &Bench<'_>,
    target: Target,
    results: &mut Results,
) -> Result<(), BenchError> {
    let time = Duration::from_secs(bench.options.seconds);
    let mut set = bench.set(target)?;
    // An error of the set-up is told before anything is counted.
    set.open(1)?;
    let concurrency = CONCURRENCY;
    set.driver.ask(Order::Rate { concurrency })?;
    bench.crew.wait(WARM_UP.min(time))?;
    let before = (set.driver.ask(Order::Mark)?, set.usage());
    bench.crew.wait(time)?;
    let after = (set.driver.ask(Order::Take)?, set.usage());
    let end = set.driver.ask(Order::Quiet)?;
    let calls = float(after.0.done - before.0.done);
    let seconds = float(after.0.at_ns - before.0.at_ns) / 1e9;
    results.add("rate_calls_per_s", "calls/s", target, calls / seconds);
    results.add(
        "rate_setup_p50_us",
        "µs",
        target,
        micros(after.0.setup_p50_ns),
    );
    results.add(
        "rate_setup_p99_us",
        "µs",
        target,
        micros(after.0.setup_p99_ns),
    );
    if target != Target::Direct {
        let cpu = after.1.cpu_seconds - before.1.cpu_seconds;
        results.add("rate_cpu_us_per_call", "µs", target, cpu / calls * 1e6);
    }
    judge(results, "rate", target, &end);
    Ok(())
}
