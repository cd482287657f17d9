//! What a call costs in memory while nobody speaks.
//!
//! The slope between two numbers of calls, so that what a proxy needs for itself does not count.

use std::time::Duration;

use super::{AROUND, float, judge};
use crate::BenchError;
use crate::drive::Order;
use crate::peers::Target;
use crate::results::Results;
use crate::run::{Bench, Options};

/// Both ends of the slope; two descriptors for each call, of the 20 000 that are common.
const CALLS: [usize; 2] = [1_000, 9_000];

/// What a proxy does behind an answer, it has done by then.
const SETTLE: Duration = Duration::from_millis(1_500);

/// Of calls that begin, one after the other, at the slowest proxy; and with TLS.
const OPENED_PER_SECOND: [u32; 2] = [3_000, 700];

/// About how long it takes.
pub(super) fn takes(options: &Options) -> Duration {
    let many = u32::try_from(numbers(options)[1]).unwrap_or(u32::MAX);
    let opening = Duration::from_secs(1) * many / OPENED_PER_SECOND[usize::from(options.tls)];
    2 * SETTLE + opening + AROUND
}

fn numbers(options: &Options) -> [usize; 2] {
    match options.calls[..] {
        [few, many, ..] => [few, many],
        [many] => [many / 9, many],
        [] => CALLS,
    }
}

pub(super) fn measure(
    bench: &Bench<'_>,
    target: Target,
    results: &mut Results,
) -> Result<(), BenchError> {
    let [few, many] = numbers(bench.options);
    let mut set = bench.set(target)?;
    set.open(few)?;
    bench.crew.wait(SETTLE)?;
    let before = set.usage();
    set.open(many)?;
    bench.crew.wait(SETTLE)?;
    let after = set.usage();
    let bytes = (after.rss_kib - before.rss_kib) * 1024.0;
    let bytes_per_call = bytes / float((many - few) as u64);
    results.add(
        "idle_mb_per_10k_calls",
        "MB",
        target,
        bytes_per_call / 100.0,
    );
    results.add(
        "idle_rss_mb",
        "MB with the most calls",
        target,
        after.rss_kib * 1024.0 / 1e6,
    );
    let reply = set.driver.ask(Order::Quiet)?;
    judge(results, "idle", target, &reply);
    Ok(())
}
