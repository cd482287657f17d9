//! The deterministic simulator: gateways, workers, callers, operators, two controllers and a
//! journal in one thread, with one seed and a clock that jumps. The machine under test is the one
//! that runs.
//!
//! `SEGUE_SIM_SEEDS` says how many seeds; `SEGUE_SIM_SEED` replays one with a trace;
//! `SEGUE_SIM_COVERAGE` prints what was reached.

mod callers;
mod checks;
mod controller;
mod coverage;
mod driver;
mod faults;
mod gates;
mod gateway;
mod migrations;
mod operators;
mod permits;
mod platform;
pub(crate) mod rng;
mod scenario;
mod store;
mod stragglers;
mod truth;
mod watch;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use segue_core::rollout::Guard;

use self::coverage::Coverage;
use self::faults::Mutant;
use self::world::{Violation, World};

/// Seeds of a plain test run.
const SEEDS: u64 = 2_000;

/// Seeds in which a mutant must be found.
const MUTANT_SEEDS: u64 = 3_000;

/// Below this many seeds a run need not have reached everything.
const COVERAGE_SEEDS: u64 = 500;

/// A run ends when so many seeds break the same check.
const ENOUGH: u64 = 100;

const THREADS: usize = 2;

#[expect(
    clippy::disallowed_methods,
    reason = "how many seeds to run is the tester's choice, and no decision of the core"
)]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64, mutant: Option<Mutant>, tracing: bool) -> (Option<Violation>, Coverage) {
    let mut world = World::new(seed, mutant, tracing);
    world.run();
    (world.violation, world.coverage)
}

/// Violations by check: how many seeds, and the first of them.
type Found = BTreeMap<&'static str, (u64, u64, String)>;

#[test]
fn seeds() {
    let seeds = setting("SEGUE_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let all: Mutex<(Found, Coverage)> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut coverage = Coverage::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    let (violation, reached) = run(seed, None, false);
                    coverage.add(&reached);
                    if let Some(Violation { check, text }) = violation {
                        let mut all = all.lock().expect("no thread panicked");
                        let entry = all.0.entry(check).or_insert((0, seed, text));
                        entry.0 += 1;
                        if entry.0 >= ENOUGH {
                            next.store(seeds, Ordering::Relaxed);
                        }
                    }
                }
                all.lock().expect("no thread panicked").1.add(&coverage);
            });
        }
    });
    let (found, coverage) = all.into_inner().expect("no thread panicked");
    for (check, (count, seed, text)) in &found {
        println!(
            "{count} seeds break {check}. Seed {seed}: {text}\nreplay: SEGUE_SIM_SEED={seed} \
             cargo test -p segue-core --test it sim::one_seed -- --nocapture"
        );
    }
    assert!(found.is_empty(), "invariants broken, see above");
    if setting("SEGUE_SIM_COVERAGE").is_some() {
        println!("{}", coverage.table());
    }
    let missing = coverage.missing();
    assert!(
        seeds < COVERAGE_SEEDS || missing.is_empty(),
        "{seeds} seeds never reached {missing:#?}"
    );
}

/// Replays one seed with a trace, and checks that it runs the same way twice.
#[test]
fn one_seed() {
    let asked = setting("SEGUE_SIM_SEED");
    let seed = asked.unwrap_or(7);
    let (violation, coverage) = run(seed, None, asked.is_some());
    let (_, again) = run(seed, None, false);
    assert_eq!(coverage.table(), again.table(), "a seed is one history");
    if let Some(Violation { check, text }) = violation {
        panic!("seed {seed} breaks {check}: {text}");
    }
}

#[test]
fn every_mutant_is_found() {
    let mutants: Vec<Mutant> = Guard::ALL
        .into_iter()
        .map(Mutant::Core)
        .chain(Mutant::AROUND)
        .collect();
    let next = AtomicU64::new(0);
    let lines: Mutex<Vec<(bool, String)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let at = usize::try_from(index).expect("few mutants");
                    let Some(mutant) = mutants.get(at) else {
                        return;
                    };
                    let found = hunt(*mutant);
                    let line = found.as_ref().map_or_else(
                        || format!("{mutant:?}: NOT FOUND"),
                        |(seed, check)| format!("{mutant:?}: {check} at seed {seed}"),
                    );
                    let mut lines = lines.lock().expect("no thread panicked");
                    lines.push((found.is_some(), line));
                }
            });
        }
    });
    let mut lines = lines.into_inner().expect("no thread panicked");
    lines.sort();
    for (_, line) in &lines {
        println!("{line}");
    }
    let survivors: Vec<&String> = lines.iter().filter(|(f, _)| !f).map(|(_, l)| l).collect();
    assert!(survivors.is_empty(), "survivors: {survivors:#?}");
}

/// The first seed in which a mutant breaks one of its checks, and which.
fn hunt(mutant: Mutant) -> Option<(u64, &'static str)> {
    (0..MUTANT_SEEDS).find_map(|seed| {
        let check = run(seed, Some(mutant), false).0?.check;
        mutant.found_by().contains(&check).then_some((seed, check))
    })
}
