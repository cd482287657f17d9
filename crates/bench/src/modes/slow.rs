//! What calls notice of five hundred connections that never say what they want.

use std::time::Duration;

use super::{AROUND, float, judge, micros};
use crate::BenchError;
use crate::drive::{Order, PERIOD_NS};
use crate::peers::Target;
use crate::results::Results;
use crate::run::{Bench, Options};

const CALLS: usize = 300;

const CONNECTIONS: usize = 500;

const WARM_UP: Duration = Duration::from_secs(2);

/// Longer than any deadline for a request, so that connections are cut and come again; however
/// short the windows of other measurements are.
const SECONDS_MIN: u64 = 60;

fn window(options: &Options) -> Duration {
    let least = options.seconds.max(SECONDS_MIN);
    Duration::from_secs(options.slow_seconds.unwrap_or(least))
}

/// About how long it takes.
pub(super) fn takes(options: &Options) -> Duration {
    2 * (WARM_UP + window(options)) + AROUND
}

pub(super) fn measure(
    bench: &Bench<'_>,
    target: Target,
    results: &mut Results,
) -> Result<(), BenchError> {
    let calls = bench.options.calls.first().copied().unwrap_or(CALLS);
    let time = window(bench.options);
    let mut set = bench.set(target)?;
    let mut crowd = set.helper(bench)?;
    set.open(calls)?;
    set.driver.ask(Order::Flow {
        period_ns: PERIOD_NS,
    })?;
    bench.crew.wait(WARM_UP.min(time))?;
    set.driver.ask(Order::Mark)?;
    bench.crew.wait(time)?;
    let without = set.driver.ask(Order::Take)?;
    crowd.ask(Order::Slow {
        connections: CONNECTIONS,
    })?;
    bench.crew.wait(WARM_UP.min(time))?;
    set.driver.ask(Order::Mark)?;
    bench.crew.wait(time)?;
    let with = set.driver.ask(Order::Take)?;
    let cut = crowd.ask(Order::Take)?.cut;
    let end = set.driver.ask(Order::Quiet)?;
    let (before, after) = (micros(without.latency_p99_ns), micros(with.latency_p99_ns));
    results.add("slow_p99_without_us", "µs", target, before);
    results.add("slow_p99_with_us", "µs", target, after);
    results.add("slow_p99_ratio", "with / without", target, after / before);
    results.add("slow_cut", "connections that were cut", target, float(cut));
    judge(results, "slow", target, &end);
    Ok(())
}
