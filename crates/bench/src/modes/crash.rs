//! What calls notice of a gateway that is killed with signal 9 and started again at once.
//!
//! It is the director that sees it end and starts the next one, where otherwise the supervisor does:
//! by looking every millisecond, and through one process more.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use super::{AROUND, float, judge, millis};
use crate::BenchError;
use crate::drive::{Order, PERIOD_NS};
use crate::peers::Target;
use crate::results::Results;
use crate::run::{Bench, Set};

const CALLS: usize = 500;

/// Of each round, one after the other: with five rounds, twenty.
const KILLS: usize = 4;

const WARM_UP: Duration = Duration::from_secs(1);

/// How long a new call may take to be taken.
const PROBE_SECONDS_MAX: u64 = 10;

/// After a kill, so that each has calls that flow; and the next is no crash in a row.
const BETWEEN: Duration = Duration::from_secs(2);

/// How long a process that was killed may take to be gone.
const DEATH_PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks into the call log, and how many there are: two seconds.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOOKS_MAX: usize = 100;

/// More than one call of two hundred: those between a read and a write are the only ones that a
/// crash may cost.
const LOST_MAX: f64 = 0.005;

/// About how long it takes.
pub(super) fn takes() -> Duration {
    let kills = u32::try_from(KILLS).expect("a few");
    kills * (WARM_UP + BETWEEN) + 2 * AROUND
}

pub(super) fn measure(
    bench: &Bench<'_>,
    target: Target,
    results: &mut Results,
) -> Result<(), BenchError> {
    let calls = bench.options.calls.first().copied().unwrap_or(CALLS);
    let mut set = bench.set(target)?;
    let mut probe = set.helper(bench)?;
    set.open(calls)?;
    set.driver.ask(Order::Flow {
        period_ns: PERIOD_NS,
    })?;
    let mut open = float(calls as u64);
    for kill in 1..=KILLS {
        bench.crew.wait(WARM_UP)?;
        set.driver.ask(Order::Mark)?;
        set.proxy.started[0].signal(Signal::KILL);
        probe.tell(Order::Probe {
            seconds_max: PROBE_SECONDS_MAX,
        })?;
        if set.proxy.started[0].ended_within(DEATH_PATIENCE)?.is_none() {
            return Err(set.proxy.started[0].failure("outlives signal 9"));
        }
        set.proxy.started[0] = set.proxy.again(&set.setting(bench))?;
        let probed = probe.hear()?;
        bench.crew.wait(BETWEEN)?;
        let reply = set.driver.ask(Order::Take)?;
        let going_on = float(reply.open);
        results.add(
            "crash_going_on_percent",
            "% of calls",
            target,
            going_on / open * 100.0,
        );
        if going_on < open * (1.0 - LOST_MAX) {
            let fault = format!(
                "crash: kill {kill} cost {} of {open} calls",
                open - going_on
            );
            results.faults.push(fault);
        }
        open = going_on;
        results.add(
            "crash_gap_p50_ms",
            "ms beyond 20",
            target,
            millis(reply.gap_p50_ns),
        );
        results.add(
            "crash_gap_p99_ms",
            "ms beyond 20",
            target,
            millis(reply.gap_p99_ns),
        );
        match probed.answered_after_ns {
            Some(after) => results.add("crash_new_call_after_ms", "ms", target, millis(after)),
            None => results
                .faults
                .push("crash: no new call was taken again".to_owned()),
        }
        if reply.open == 0 {
            break;
        }
    }
    let mut end = set.driver.ask(Order::Quiet)?;
    results.add(
        "crash_lost",
        "calls of all kills of a round",
        target,
        float(end.lost),
    );
    let named = named(bench, &set, end.lost)?;
    results.add(
        "crash_lost_and_named",
        "of them in the call log",
        target,
        float(named),
    );
    if named < end.lost {
        let unnamed = end.lost - named;
        let fault = format!("crash: {unnamed} lost calls are not in the call log");
        results.faults.push(fault);
    }
    // Judged above, kill by kill.
    end.lost = 0;
    judge(results, "crash", target, &end);
    Ok(())
}

/// How many calls the log says were ended by the gateway, once it says so of all that were lost.
fn named(bench: &Bench<'_>, set: &Set, lost: u64) -> Result<u64, BenchError> {
    let mut named = 0;
    for _ in 0..LOOKS_MAX {
        let log = fs::read_to_string(set.home().join("log/calls.jsonl")).unwrap_or_default();
        let ended = log
            .lines()
            .filter(|line| line.contains("\"by\":\"gateway\""));
        // A new call that was being made at the kill is named too, and was none of ours.
        named = (ended.count() as u64).min(lost);
        if named >= lost {
            break;
        }
        bench.crew.wait(LOOK_EVERY)?;
    }
    Ok(named)
}
