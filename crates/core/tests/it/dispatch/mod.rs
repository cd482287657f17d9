//! Jobs in a world with one seed: workers that lie, fall silent, drain, crash and come back, a
//! server that forgets, tables that change, and dispatchers that are killed.
//!
//! `SEGUE_SIM_SEEDS` says how many seeds; `SEGUE_SIM_SEED` replays one with a trace.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod again;
mod process;
mod steps;
mod world;

use std::collections::BTreeMap;

use self::world::World;

/// Worlds of a plain test run.
const SEEDS: u64 = 200;

#[expect(
    clippy::disallowed_methods,
    reason = "how many seeds to run is the tester's choice, and no decision of the core"
)]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn no_job_is_lost_that_a_living_worker_could_take() {
    let seeds: Vec<u64> = match number("SEGUE_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SEGUE_SIM_SEEDS").unwrap_or(SEEDS).min(SEEDS * 100)).collect(),
    };
    let mut reached: BTreeMap<&'static str, u64> = BTreeMap::new();
    let traced = number("SEGUE_SIM_SEED").is_some();
    let many = seeds.len() >= 200;
    for seed in seeds {
        let run = std::panic::catch_unwind(|| World::new(seed, traced).run());
        let Ok(counts) = run else {
            panic!("replay with SEGUE_SIM_SEED={seed}");
        };
        for (what, count) in counts {
            *reached.entry(what).or_default() += count;
        }
    }
    // What never happens is not tested.
    for what in [
        "begun",
        "completed",
        "refused",
        "held",
        "silent",
        "claimed",
        "replaced",
        "away",
        "adopted",
        "drained",
        "killed",
        "crashed",
        "server away",
        "elsewhere",
        "terminated",
        "never assigned",
        "drained away",
        "pinned",
        "ended by the server",
        "undrained",
        "kicked",
        "drained again",
        "not wanted",
        "ended while away",
        "cut",
        "dispatched again",
        "replaced by another",
        "left",
        "back in time",
        "back too late",
    ] {
        assert!(
            !many || reached.contains_key(what),
            "never reached: {what}; {reached:?}"
        );
    }
}
