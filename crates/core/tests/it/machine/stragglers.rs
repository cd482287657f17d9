//! Calls that are left at the ceiling, and permits of outbound calls.

use segue_core::rollout::Effect;
use segue_core::spec::{StragglerPolicy, Stragglers};

use super::*;

fn policy(policy: StragglerPolicy) -> Event {
    policy_at(policy, 60)
}

fn policy_at(policy: StragglerPolicy, ceiling: u64) -> Event {
    Event::Configured {
        ingress: Box::new(Ingress::default()),
        policy: Policy {
            stragglers: Stragglers {
                policy,
                ceiling: Some(Millis::from_secs(ceiling)),
                ..Stragglers::default()
            },
            ..Policy::default()
        },
    }
}

/// v1 drains with calls, v2 is current.
fn draining(of: StragglerPolicy, live: u64) -> Bench {
    let mut bench = Bench::at("complete");
    bench.ok(policy(of));
    let counts = ReleaseCounts {
        live,
        ..ReleaseCounts::default()
    };
    bench.counts.insert(id(1), counts);
    bench.bring_in(2, plan());
    bench
}

fn acts(bench: &Bench) -> Option<StragglerPolicy> {
    let effects = bench.agent.effects().into_iter();
    let mut acts = effects.filter_map(|effect| match effect {
        Effect::Stragglers { stragglers, .. } => Some(stragglers.policy),
        _ => None,
    });
    acts.next()
}

fn end(release: u32) -> Event {
    Event::EndCalls {
        release: id(release),
        calls: vec!["5f3a".to_owned()],
    }
}

#[test]
fn nothing_happens_before_the_ceiling() {
    let mut bench = draining(StragglerPolicy::End, 3);
    assert_eq!(bench.ask(end(1)), Err("NotEnding".to_owned()));
    let due = bench.agent.next_deadline().unwrap();
    assert_eq!(due, bench.now + Millis::from_secs(60));
    bench.pass(59);
    assert_eq!(acts(&bench), None);
    bench.pass(1);
    assert_eq!(acts(&bench), Some(StragglerPolicy::End));
    assert_eq!(bench.facts(end(1)), ["calls_ending"]);
    let current = bench.ask(end(2));
    assert_eq!(
        current,
        Err("NotEnding".to_owned()),
        "the current one has no ceiling"
    );
    let none = Event::EndCalls {
        release: id(1),
        calls: Vec::new(),
    };
    assert_eq!(bench.ask(none), Ok(0));
}

#[test]
fn it_acts_until_the_release_is_empty() {
    let mut bench = draining(StragglerPolicy::Announce, 1);
    bench.pass(61);
    assert_eq!(acts(&bench), Some(StragglerPolicy::Announce));
    assert_eq!(
        bench.ask(end(1)),
        Err("NotEnding".to_owned()),
        "it only announces"
    );
    bench.counts.clear();
    bench.settle();
    assert_eq!(acts(&bench), None);
    // Pins alone are no calls: nothing is announced to nobody.
    let mut bench = draining(StragglerPolicy::Announce, 0);
    bench.counts.entry(id(1)).or_default().pinned = 2;
    bench.pass(61);
    assert_eq!(acts(&bench), None);
}

/// What may be there is dealt with, too.
#[test]
fn unknown_is_not_zero_at_the_ceiling() {
    let mut bench = draining(StragglerPolicy::End, 0);
    bench.now = bench.now + Millis::from_secs(61);
    assert_eq!(bench.facts(Event::Tick), ["ceiling_reached"]);
}

#[test]
fn hand_off_is_in_the_table() {
    let mut bench = draining(StragglerPolicy::HandOff, 1);
    assert!(bench.agent.table().handed_off.is_empty());
    let epoch = bench.agent.epoch;
    bench.pass(60);
    assert!(bench.agent.table().handed_off.contains(&id(1)));
    assert!(bench.agent.epoch > epoch);
    // Once it is current again its calls stay.
    bench.ok(Event::Rollback { from: Some(id(2)) });
    assert!(bench.agent.table().handed_off.is_empty());
    assert_eq!(acts(&bench), None);
}

/// Somebody who changes the policy at two in the morning means it.
#[test]
fn a_change_of_policy_counts_at_once() {
    let mut bench = draining(StragglerPolicy::End, 1);
    bench.pass(61);
    bench.ok(policy(StragglerPolicy::Wait));
    bench.settle();
    assert_eq!(acts(&bench), None);
    assert_eq!(bench.ask(end(1)), Err("NotEnding".to_owned()));
    bench.ok(policy(StragglerPolicy::HandOff));
    bench.settle();
    assert_eq!(acts(&bench), Some(StragglerPolicy::HandOff));
    assert!(bench.agent.table().handed_off.contains(&id(1)));
}

/// Nor is it only the policy: a ceiling of a minute may have been a slip of the pen.
#[test]
fn a_change_of_the_ceiling_counts_at_once() {
    let mut bench = draining(StragglerPolicy::End, 1);
    bench.pass(61);
    assert_eq!(acts(&bench), Some(StragglerPolicy::End));
    bench.ok(policy_at(StragglerPolicy::End, 600));
    assert_eq!(acts(&bench), None);
    assert_eq!(bench.ask(end(1)), Err("NotEnding".to_owned()));
    assert_eq!(
        bench.agent.next_deadline().unwrap(),
        bench.now + Millis::from_secs(600 - 61)
    );
    bench.pass(538);
    assert_eq!(acts(&bench), None);
    bench.pass(2);
    assert_eq!(acts(&bench), Some(StragglerPolicy::End));
    // A lower one was reached as well: nobody's turn begins anew.
    let turns = |bench: &Bench| {
        let effects = bench.agent.effects().into_iter();
        let mut since = effects.filter_map(|effect| match effect {
            Effect::Stragglers { since, .. } => Some(since),
            _ => None,
        });
        since.next()
    };
    let before = turns(&bench);
    bench.ok(policy_at(StragglerPolicy::End, 30));
    bench.settle();
    assert_eq!(turns(&bench), before);
    assert_eq!(bench.facts(end(1)), ["calls_ending"]);
}

#[test]
fn no_call_is_handed_off_before_a_ceiling_that_was_raised() {
    let mut bench = draining(StragglerPolicy::HandOff, 1);
    bench.pass(61);
    assert!(bench.agent.table().handed_off.contains(&id(1)));
    let epoch = bench.agent.epoch;
    bench.ok(policy_at(StragglerPolicy::HandOff, 600));
    bench.settle();
    assert!(bench.agent.table().handed_off.is_empty());
    assert!(bench.agent.epoch > epoch, "gateways hear of it");
}

#[test]
fn a_release_with_permits_out_is_not_empty() {
    let mut bench = draining(StragglerPolicy::Wait, 0);
    bench.seen.set_permits(BTreeMap::from([(id(1), 1)]));
    bench.settle();
    bench.pass(1_000);
    assert_eq!(bench.agent.phase_word(), "draining");
    bench.seen.set_permits(BTreeMap::new());
    bench.settle();
    assert_eq!(bench.agent.phase_word(), "settling");
}
