//! Workers that are barred by their membership.

use segue_core::names::WorkerId;
use segue_core::presence::Totals;
use segue_core::rollout::Badge;

use super::*;

fn worker(number: u32) -> WorkerId {
    format!("w{number}").parse().unwrap()
}

fn stands(number: u32, barred: Option<&str>) -> Event {
    Event::WorkerStands {
        worker: worker(number),
        badge: None,
        barred: barred.map(str::to_owned),
    }
}

fn ready_but(number: u32, barred: &str) -> Event {
    Event::WorkerReady {
        worker: worker(number),
        release: id(number),
        addr: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
        capacity: 10,
        health_path: None,
        barred: Some(barred.to_owned()),
    }
}

fn is_barred(bench: &Bench, number: u32) -> bool {
    bench.agent.table().workers[&worker(number)].barred
}

#[test]
fn a_rollout_whose_workers_are_barred_waits_until_it_is_signed() {
    let mut bench = Bench::at("complete");
    bench.ok(deploy(2));
    bench.ok(ready_but(2, "fell-out"));
    bench.settle();
    assert!(is_barred(&bench, 2) && !is_barred(&bench, 1));
    // However long: it waits for a person.
    bench.pass(86_400);
    assert_eq!(bench.agent.phase_word(), "provisioning");
    let [hold] = &bench.holds()[..] else {
        panic!("{:?}", bench.holds());
    };
    let words = hold.to_string();
    assert!(
        words.contains("bars 1 of its workers (fell-out)") && words.contains("membership sign"),
        "{words}"
    );
    bench.ok(stands(2, None));
    bench.settle();
    assert_eq!(bench.agent.phase_word(), "verifying");
    assert!(!is_barred(&bench, 2));
}

#[test]
fn a_worker_that_does_not_start_is_late_though_another_is_barred() {
    let mut bench = Bench::at("complete");
    let mut two = release(2);
    two.workers = 2;
    bench.ok(Event::Deploy {
        release: Box::new(two),
        plan: Box::new(plan()),
    });
    bench.ok(ready_but(2, "fell-out"));
    bench.pass(86_400);
    assert_eq!(bench.agent.phase_word(), "failed");
}

#[test]
fn a_canary_that_bars_itself_is_taken_back() {
    let mut bench = Bench::at("canary");
    bench.ok(stands(2, Some("revoked")));
    bench.settle();
    assert_eq!(bench.agent.phase_word(), "rolled back");
    assert_eq!(bench.agent.current(), Some(id(1)));
}

#[test]
fn nobody_goes_back_by_themselves_to_a_release_that_is_barred() {
    for begin in ["canary", "complete"] {
        let mut bench = match begin {
            "canary" => Bench::at("canary"),
            _ => baking::baking(),
        };
        bench.ok(stands(1, Some("fell-out")));
        let totals = Totals {
            started: 1_000,
            ended: 1_000,
            dropped: 500,
            ..Totals::default()
        };
        let counts = ReleaseCounts {
            totals,
            ..ReleaseCounts::default()
        };
        bench.counts.insert(id(2), counts);
        bench.pass(86_400);
        let phase = bench.agent.phase_word();
        assert!(
            !phase.starts_with("roll"),
            "no call would be answered: {phase}"
        );
        let said: Vec<String> = bench.holds().iter().map(Hold::to_string).collect();
        let said = said.join("; ");
        assert!(
            said.contains("dropped, limit") && said.contains("(fell-out)"),
            "{said}"
        );
        // A person may; and once it is signed, nobody need.
        let mut other = bench.clone();
        other.ok(Event::Rollback { from: None });
        assert_eq!(other.agent.current(), Some(id(1)));
        bench.ok(stands(1, None));
        bench.pass(1);
        bench.settle();
        assert_eq!(bench.agent.phase_word(), "rolled back");
        assert_eq!(bench.agent.current(), Some(id(1)));
    }
}

/// Out of the manifest and in again: nothing is stopped, and each change is one fact and one table.
#[test]
fn the_current_release_falls_out_and_comes_back() {
    let mut bench = Bench::at("complete");
    let epoch = bench.agent.epoch;
    assert_eq!(bench.facts(stands(1, Some("fell-out"))), ["worker_barred"]);
    assert!(bench.facts(stands(1, Some("fell-out"))).is_empty(), "it is");
    bench.settle();
    assert!(is_barred(&bench, 1));
    assert_eq!(bench.agent.current(), Some(id(1)), "it goes nowhere");
    assert_eq!(bench.facts(stands(1, None)), ["worker_admitted"]);
    assert!(bench.facts(stands(1, None)).is_empty(), "it is");
    assert!(!is_barred(&bench, 1));
    assert_eq!(bench.agent.epoch.0, epoch.0 + 2);
    assert!(bench.facts(stands(9, Some("stale"))).is_empty(), "nobody");
}

#[test]
fn what_a_worker_showed_is_remembered_while_it_runs() {
    let mut bench = Bench::at("complete");
    let badge = Badge {
        token: "t1".parse().unwrap(),
        signer: "k1".to_owned(),
        sub: None,
    };
    let shows = |barred: Option<&str>| Event::WorkerStands {
        worker: worker(1),
        badge: Some(badge.clone()),
        barred: barred.map(str::to_owned),
    };
    let epoch = bench.agent.epoch;
    assert_eq!(bench.facts(shows(None)), ["worker_showed"]);
    assert!(bench.facts(shows(None)).is_empty());
    assert_eq!(bench.agent.epoch, epoch, "no gateway need hear of it");
    bench.ok(stands(1, Some("fell-out")));
    bench.ok(stands(1, None));
    assert_eq!(bench.agent.workers[&worker(1)].badge, Some(badge));
    // Another process shows its own.
    let why = "it ended".to_owned();
    bench.ok(Event::WorkerGone {
        worker: worker(1),
        why,
    });
    bench.ready(1);
    assert_eq!(bench.agent.workers[&worker(1)].badge, None);
}
