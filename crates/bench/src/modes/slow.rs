//! What calls notice of five hundred connections that never say what they want.

use std::time::Duration;

use super::{AROUND, float, judge, micros};
use crate::BenchError;
use crate::crew::Driver;
use crate::drive::{Order, PERIOD_NS};
use crate::peers::Target;
use crate::results::Results;
use crate::run::{Bench, Options, Set};

const CALLS: usize = 300;

const CONNECTIONS: usize = 500;

/// After the crowd came or went: what opening and closing that many does, is over by then.
const SETTLE: Duration = Duration::from_secs(2);

/// Windows with the crowd, each beside one without: a machine that grows slower or is paused does
/// that to both of a pair, or to one pair of many.
const PAIRS: u32 = 6;

/// Of all windows with the crowd together; however short those of other measurements are. Two of
/// them follow one another, which is longer than any deadline for a request: connections are cut and
/// come again.
const SECONDS_MIN: u64 = 60;

fn window(options: &Options) -> Duration {
    let least = options.seconds.max(SECONDS_MIN);
    Duration::from_secs(options.slow_seconds.unwrap_or(least)) / PAIRS
}

/// About how long it takes.
pub(super) fn takes(options: &Options) -> Duration {
    let window = window(options);
    2 * PAIRS * window + (PAIRS + 1) * SETTLE.min(window) + AROUND
}

pub(super) fn measure(
    bench: &Bench<'_>,
    target: Target,
    results: &mut Results,
) -> Result<(), BenchError> {
    let calls = bench.options.calls.first().copied().unwrap_or(CALLS);
    let mut set = bench.set(target)?;
    let crowd = set.helper(bench)?;
    set.open(calls)?;
    set.driver.ask(Order::Flow {
        period_ns: PERIOD_NS,
    })?;
    let time = window(bench.options);
    bench.crew.wait(SETTLE.min(time))?;
    let mut windows = Windows {
        bench,
        set,
        crowd,
        is_there: false,
    };
    for pair in 0..PAIRS {
        // The other way round each time, so that what drifts favours neither.
        let first = windows.p99(pair % 2 == 1)?;
        let second = windows.p99(pair % 2 == 0)?;
        let (with, without) = match pair % 2 {
            0 => (second, first),
            _ => (first, second),
        };
        results.add("slow_p99_without_us", "µs", target, without);
        results.add("slow_p99_with_us", "µs", target, with);
        results.add("slow_p99_ratio", "with / without", target, with / without);
    }
    let cut = windows.crowd.ask(Order::Take)?.cut;
    let end = windows.set.driver.ask(Order::Quiet)?;
    results.add("slow_cut", "connections that were cut", target, float(cut));
    judge(results, "slow", target, &end);
    Ok(())
}

/// Calls that flow, and a crowd that comes and goes.
struct Windows<'a> {
    bench: &'a Bench<'a>,
    set: Set,
    crowd: Driver,
    is_there: bool,
}

impl Windows<'_> {
    /// Of one window, in microseconds.
    fn p99(&mut self, with: bool) -> Result<f64, BenchError> {
        let time = window(self.bench.options);
        if self.is_there != with {
            let connections = if with { CONNECTIONS } else { 0 };
            self.crowd.ask(Order::Slow { connections })?;
            self.bench.crew.wait(SETTLE.min(time))?;
            self.is_there = with;
        }
        self.set.driver.ask(Order::Mark)?;
        self.bench.crew.wait(time)?;
        let reply = self.set.driver.ask(Order::Take)?;
        Ok(micros(reply.latency_p99_ns))
    }
}
