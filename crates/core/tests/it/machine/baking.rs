//! The bake window: a release that is current and still on trial.

use segue_core::presence::Totals;
use segue_core::rollout::{BAKE_ATTEMPTS, Effect};

use super::*;

pub(super) fn baking() -> Bench {
    let mut bench = Bench::at("complete");
    bench.bring_in(
        2,
        Plan {
            bake: Millis::from_secs(600),
            ..plan()
        },
    );
    bench
}

fn round(bench: &Bench) -> Option<u32> {
    let effects = bench.agent.effects().into_iter();
    let mut rounds = effects.filter_map(|effect| match effect {
        Effect::Smoke { attempt, .. } => Some(attempt - BAKE_ATTEMPTS),
        _ => None,
    });
    rounds.next()
}

fn smoked(round: u32, verdict: Verdict) -> Event {
    Event::SmokeFinished {
        rollout: 2,
        attempt: BAKE_ATTEMPTS + round,
        verdict,
        report: serde_json::json!({ "calls": 1 }),
    }
}

#[test]
fn a_release_that_turns_bad_while_it_bakes_is_rolled_back() {
    let mut bench = baking();
    assert!(matches!(bench.holds()[..], [Hold::Baking { .. }]));
    let totals = Totals {
        started: 30,
        ended: 30,
        dropped: 5,
        ..Totals::default()
    };
    let counts = ReleaseCounts {
        totals,
        ..ReleaseCounts::default()
    };
    bench.counts.insert(id(2), counts.clone());
    bench.pass(60);
    assert_eq!(bench.agent.current(), Some(id(1)));
    assert_eq!(bench.agent.phase_word(), "rolled back");
    assert!(!bench.agent.releases[&id(2)].served_well);

    // After the window it is nobody's to take back but an operator's.
    let mut bench = baking();
    bench.ok(smoked(1, Verdict::Successful));
    bench.pass(601);
    assert_eq!(bench.agent.rollout.as_ref().unwrap().bake, None);
    bench.counts.insert(id(2), counts);
    bench.pass(60);
    assert_eq!(bench.agent.current(), Some(id(2)));
}

#[test]
fn smoke_calls_go_on_while_it_bakes() {
    let mut bench = baking();
    assert_eq!(round(&bench), Some(1), "at once");
    let late = Event::SmokeFinished {
        rollout: 2,
        attempt: 1,
        verdict: Verdict::Failed("late".to_owned()),
        report: serde_json::Value::Null,
    };
    assert_eq!(bench.ask(late), Ok(0), "of before the first caller");
    let unclear = smoked(1, Verdict::Inconclusive("live was slow too".to_owned()));
    assert_eq!(bench.facts(unclear.clone()), ["bake_smoked"]);
    assert_eq!(bench.ask(unclear), Ok(0), "said twice");
    bench.settle();
    assert_eq!(round(&bench), None);
    bench.pass(59);
    assert_eq!(round(&bench), None, "a tenth of the window apart");
    bench.pass(1);
    assert_eq!(round(&bench), Some(2));
    let facts = bench.facts(smoked(2, Verdict::Failed("silence".to_owned())));
    assert_eq!(facts, ["rollback_started"]);
    assert_eq!(bench.agent.current(), Some(id(1)));
}

fn gone(number: u32) -> Event {
    let why = "it ended".to_owned();
    let worker = format!("w{number}").parse().unwrap();
    Event::WorkerGone { worker, why }
}

/// After a restart of the machine no release has a worker: then there is nothing to go back to.
#[test]
fn who_has_no_worker_goes_back_only_to_who_has() {
    let mut bench = baking();
    bench.ok(gone(1));
    bench.ok(gone(2));
    bench.pass(60);
    assert_eq!(bench.agent.current(), Some(id(2)));
    let none = Hold::Workers { have: 0, need: 1 };
    assert!(bench.holds().contains(&none), "{:?}", bench.holds());
    // Nor does the window end meanwhile.
    bench.ok(smoked(1, Verdict::Successful));
    bench.pass(700);
    assert!(bench.agent.rollout.as_ref().unwrap().bake.is_some());
    bench.ready(1);
    bench.settle();
    assert_eq!(bench.agent.current(), Some(id(1)), "that is better off");

    let mut bench = Bench::at("canary");
    bench.ok(gone(1));
    bench.ok(gone(2));
    bench.pass(60);
    assert_eq!(bench.agent.phase_word(), "canary", "it goes nowhere");
    assert!(bench.holds().contains(&none), "{:?}", bench.holds());
    bench.ready(1);
    bench.settle();
    assert_eq!(bench.agent.phase_word(), "rolled back");
    assert_eq!(bench.agent.current(), Some(id(1)));
}

/// Who could not tell in the whole window has not baked anything.
#[test]
fn a_window_in_which_nothing_was_proved_does_not_end() {
    let mut bench = baking();
    let unclear = |round| {
        smoked(
            round,
            Verdict::Inconclusive("the live one was slow".to_owned()),
        )
    };
    let mut rounds = 0;
    for _ in 0..20 {
        if let Some(round) = round(&bench) {
            assert_eq!(bench.facts(unclear(round)), ["bake_smoked"]);
            rounds = round;
        }
        bench.pass(60);
    }
    assert!(rounds > 15, "it goes on trying");
    assert!(bench.holds().contains(&Hold::NothingProved));
    let last = round(&bench).unwrap();
    bench.ok(smoked(last, Verdict::Successful));
    bench.settle();
    assert_eq!(bench.agent.rollout.as_ref().unwrap().bake, None);
    assert_eq!(bench.agent.current(), Some(id(2)));

    // One round that told something is enough, and a deploy needs none.
    let mut bench = baking();
    bench.ok(smoked(1, Verdict::Successful));
    bench.pass(60);
    bench.ok(unclear(2));
    bench.pass(601);
    assert_eq!(bench.agent.rollout.as_ref().unwrap().bake, None);
    let mut bench = baking();
    bench.ok(unclear(1));
    bench.pass(700);
    assert_eq!(bench.facts(deploy(3)), ["baked", "deployed"]);
}

/// A round whose verdict never comes is not waited for for ever.
#[test]
fn a_round_that_is_lost_is_made_again() {
    let mut bench = baking();
    bench.pass(59);
    assert_eq!(round(&bench), Some(1));
    bench.pass(1);
    assert_eq!(round(&bench), Some(2));
    assert_eq!(bench.ask(smoked(1, Verdict::Successful)), Ok(0), "late");
    assert_eq!(bench.facts(smoked(2, Verdict::Successful)), ["bake_smoked"]);
}

/// A round that has begun is waited for, but not for ever.
#[test]
fn the_window_ends_with_its_last_round() {
    let mut bench = baking();
    bench.ok(smoked(1, Verdict::Successful));
    bench.pass(590);
    assert_eq!(round(&bench), Some(2));
    bench.pass(11);
    assert!(bench.agent.rollout.as_ref().unwrap().bake.is_some());
    bench.pass(20);
    assert!(bench.agent.rollout.as_ref().unwrap().bake.is_none());
}

#[test]
fn a_release_whose_workers_die_is_rolled_back_though_its_calls_are_rescued() {
    for (rescued, back) in [(1, false), (5, true)] {
        let mut bench = baking();
        let totals = Totals {
            started: 60,
            ended: 60,
            rescued,
            ..Totals::default()
        };
        let counts = ReleaseCounts {
            totals,
            ..ReleaseCounts::default()
        };
        bench.counts.insert(id(2), counts);
        bench.pass(60);
        assert_eq!(bench.agent.current() == Some(id(1)), back, "{rescued}");
    }
}

#[test]
fn the_way_back_is_kept_while_it_bakes() {
    let mut bench = baking();
    bench.ok(Event::Configured {
        ingress: Box::new(Ingress::default()),
        policy: Policy {
            standby: Millis(0),
            ..Policy::default()
        },
    });
    bench.pass(300);
    assert_eq!(bench.agent.phase_word(), "standby");
    let retire = Event::Retire { release: id(1) };
    assert_eq!(bench.ask(retire), Err("Baking".to_owned()));
    // The next deploy ends the window, and what it kept may go.
    assert_eq!(bench.facts(deploy(3)), ["baked", "deployed"]);
    bench.settle();
    assert_eq!(bench.agent.releases[&id(1)].state.word(), "retired");
}

/// Nobody who has not heard a gateway says that the release was good.
#[test]
fn a_silent_gateway_keeps_the_window_open() {
    let mut bench = baking();
    bench.ok(smoked(1, Verdict::Successful));
    bench.now = bench.now + Millis::from_secs(700);
    let ticks = [bench.facts(Event::Tick), bench.facts(Event::Tick)].concat();
    assert_eq!(ticks, ["refilled"], "of v1, and nothing of the window");
    assert!(
        bench
            .holds()
            .iter()
            .any(|hold| matches!(hold, Hold::Unknown { .. }))
    );
    bench.settle();
    assert_eq!(bench.agent.rollout.as_ref().unwrap().bake, None);
}
