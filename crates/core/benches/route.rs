//! What one routing decision costs, as a ratio to the hash it cannot do without.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reads a clock and prints; core never does"
)]

use std::hint::black_box;
use std::time::Instant;

use segue_core::names::{CallId, ReleaseId};
use segue_core::rollout::Agent;
use segue_core::route::{CallFacts, choose_worker, point, route};
use segue_core::split::{Share, Split};
use segue_core::table::{ReleaseRoute, RoutingTable, WorkerRoute};

/// Decisions per round: long enough that the clock does not matter.
const DECISIONS: u32 = 50_000;

/// Rounds; the median is told.
const ROUNDS: usize = 9;

fn table(workers: u16) -> RoutingTable {
    let mut table = Agent::new("desk".parse().unwrap()).table();
    let (old, new) = (ReleaseId::of(b"old"), ReleaseId::of(b"new"));
    table.split = Split::ramp(new, Share(1_000), old);
    for (release, label) in [(old, "v1"), (new, "v2")] {
        let route = ReleaseRoute {
            label: label.parse().unwrap(),
            takes_new_calls: true,
            retiring: false,
        };
        table.releases.insert(release, route);
        for number in 0..workers {
            let worker = WorkerRoute {
                release,
                addr: ([127, 0, 0, 1], 10_000 + number).into(),
                capacity: 100,
                health_path: None,
                barred: false,
            };
            table
                .workers
                .insert(format!("{label}-{number}").parse().unwrap(), worker);
        }
    }
    table
}

/// Nanoseconds per call of `work`, the median of several rounds.
fn median_ns(mut work: impl FnMut(&CallId)) -> f64 {
    let calls: Vec<CallId> = (0..1_000)
        .map(|n| format!("CA{n:032}").parse().unwrap())
        .collect();
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            for (call, _) in calls.iter().cycle().zip(0..DECISIONS) {
                work(call);
            }
            began.elapsed().as_secs_f64() * 1e9 / f64::from(DECISIONS)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

fn main() {
    let agent = "desk".parse().unwrap();
    let hash = median_ns(|call| {
        black_box(point(&agent, "rollout-1", call.as_str()));
    });
    println!("{:24}{hash:8.0} ns", "the hash alone");
    for workers in [2, 50, 500] {
        let table = table(workers);
        let decision = median_ns(|call| {
            let facts = CallFacts {
                call,
                cohort: None,
                caller: None,
                tenant: None,
                headers: &[],
                pin: None,
                connected: false,
                version_override: None,
            };
            let decision = route(&table, &facts).unwrap();
            let chosen = choose_worker(
                &table,
                decision.release,
                None,
                |_| 3,
                |_| true,
                call.as_str(),
            );
            black_box(chosen.unwrap());
        });
        let what = format!("a decision, {} workers", workers * 2);
        println!(
            "{what:24}{decision:8.0} ns{:8.1} x the hash",
            decision / hash
        );
    }
}
