//! What a frame costs in processor time, and how much later it comes.

use std::time::Duration;

use super::{float, judge, micros};
use crate::BenchError;
use crate::drive::{Order, PERIOD_NS};
use crate::peers::Target;
use crate::results::Results;
use crate::run::Bench;

/// A few thousand frames a second, and as many as one processor of generator and agents can carry.
const CALLS: [usize; 4] = [300, 500, 600, 1_000];

/// Before what counts: buffers have grown and queues are as they will be.
const WARM_UP: Duration = Duration::from_secs(2);

pub(super) fn measure(
    bench: &Bench<'_>,
    target: Target,
    results: &mut Results,
) -> Result<(), BenchError> {
    let numbers = match &bench.options.calls[..] {
        [] => &CALLS[..],
        given => given,
    };
    for calls in numbers {
        window(bench, target, *calls, results)?;
    }
    Ok(())
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
    set.driver.ask(Order::Flow { period_ns: PERIOD_NS })?;
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
    let late = float(after.0.late - before.0.late) / echoes * 1e6;
    results.add(
        &name("late_ppm"),
        "of a million frames > 60 ms late",
        target,
        late,
    );
    judge(results, &format!("load {calls}"), target, &end);
    Ok(())
}
