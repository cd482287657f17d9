//! What a frame costs in processor time, and how much later it comes.

use std::time::Duration;

use super::{AROUND, float, judge, micros};
use crate::BenchError;
use crate::drive::{Order, PERIOD_NS};
use crate::peers::Target;
use crate::results::Results;
use crate::run::{Bench, Options};

/// A few thousand frames a second, and as many as one processor of generator and agents can carry.
const CALLS: [usize; 4] = [300, 500, 600, 1_000];

/// With TLS, which a generator on one processor has to do too.
const CALLS_TLS: [usize; 1] = [300];

/// Before what counts: buffers have grown and queues are as they will be.
const WARM_UP: Duration = Duration::from_secs(1);

pub(super) fn measure(
    bench: &Bench<'_>,
    target: Target,
    results: &mut Results,
) -> Result<(), BenchError> {
    for calls in numbers(bench.options) {
        window(bench, target, *calls, results)?;
    }
    Ok(())
}

fn numbers(options: &Options) -> &[usize] {
    match &options.calls[..] {
        [] if options.tls => &CALLS_TLS,
        [] => &CALLS,
        given => given,
    }
}

/// About how long it takes.
pub(super) fn takes(options: &Options) -> Duration {
    let windows = u32::try_from(numbers(options).len()).expect("a few");
    windows * (WARM_UP + Duration::from_secs(options.seconds) + AROUND)
}

fn window(
    bench: &Bench<'_>,
    target: Target,
    calls: usize,
    results: &mut Results,
) -> Result<(), BenchError> {
    let time = Duration::from_secs(bench.options.seconds);
    let mut set = bench.set(target)?;
    set.open(calls)?;
    set.driver.ask(Order::Flow {
        period_ns: PERIOD_NS,
    })?;
    bench.crew.wait(WARM_UP.min(time))?;
    let before = (set.driver.ask(Order::Mark)?, set.usage());
    bench.crew.wait(time)?;
    let after = (set.driver.ask(Order::Take)?, set.usage());
    let end = set.driver.ask(Order::Quiet)?;
    let name = |figure: &str| format!("load{calls}_{figure}");
    let echoes = float(after.0.received - before.0.received);
    if target != Target::Direct {
        let cpu = after.1.cpu_seconds - before.1.cpu_seconds;
        // There and back.
        let frames = 2.0 * echoes;
        let per_million = cpu / frames * 1e6;
        results.add(&name("cpu_s_per_m_frames"), "s", target, per_million);
    }
    results.add(
        &name("p50_us"),
        "µs",
        target,
        micros(after.0.latency_p50_ns),
    );
    results.add(
        &name("p99_us"),
        "µs",
        target,
        micros(after.0.latency_p99_ns),
    );
    let sent = float(after.0.sent - before.0.sent);
    let late = float(after.0.late - before.0.late) / sent * 1e6;
    results.add(
        &name("late_ppm"),
        "of a million frames > 60 ms late",
        target,
        late,
    );
    judge(results, &format!("load {calls}"), target, &end);
    Ok(())
}
