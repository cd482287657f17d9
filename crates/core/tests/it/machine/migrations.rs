//! Contract hooks: the last thing of a migration.

use std::collections::BTreeSet;

use segue_core::rollout::{ContractState, Effect, HookKind};
use segue_core::spec::{Hook, Hooks};

use super::*;

fn contracting() -> Plan {
    Plan {
        hooks: Hooks {
            before_deploy: None,
            after_retire: Some(Hook {
                command: vec!["migrate".to_owned()],
                timeout: Millis::from_secs(300),
            }),
        },
        ..plan()
    }
}

/// v2 with a contract is current, v1 stands by.
fn waiting() -> Bench {
    let mut bench = Bench::at("complete");
    bench.seen.set_processes(BTreeSet::from([id(1), id(2)]));
    bench.bring_in(2, contracting());
    bench.pass(301);
    bench
}

fn state(bench: &Bench) -> &ContractState {
    &bench.agent.contracts[&id(2)].state
}

fn runs(bench: &Bench) -> Option<u32> {
    let effects = bench.agent.effects().into_iter();
    let mut hooks = effects.filter_map(|effect| match effect {
        Effect::Hook {
            kind: HookKind::AfterRetire,
            attempt,
            ..
        } => Some(attempt),
        _ => None,
    });
    hooks.next()
}

fn contract(number: u32) -> Event {
    Event::Contract {
        release: id(number),
    }
}

fn finished(attempt: u32, failed: Option<&str>) -> Event {
    Event::ContractFinished {
        release: id(2),
        attempt,
        failed: failed.map(str::to_owned),
        report: serde_json::Value::Null,
    }
}

#[test]
fn a_contract_waits_for_the_last_process_of_an_older_release() {
    let mut bench = waiting();
    assert_eq!(*state(&bench), ContractState::Waiting);
    assert_eq!(bench.ask(contract(2)), Err("OlderReleaseLives".to_owned()));
    bench.ok(Event::Retire { release: id(1) });
    bench.settle();
    assert_eq!(bench.agent.releases[&id(1)].state.word(), "retired");
    // Retired, but its worker has not ended yet.
    assert_eq!(*state(&bench), ContractState::Waiting);
    let illegal = bench
        .agent
        .step(bench.now, &bench.seen, &Input::asked("ada", contract(2)))
        .unwrap_err();
    assert!(
        illegal.to_string().contains("v1 may still have a worker"),
        "{illegal}"
    );
    assert_eq!(runs(&bench), None);
    bench.seen.set_processes(BTreeSet::from([id(2)]));
    bench.settle();
    assert_eq!(runs(&bench), Some(1));
    assert_eq!(bench.ask(contract(2)), Ok(0), "it runs already");
    // What it takes away must not be started meanwhile.
    assert_eq!(bench.ask(deploy(1)), Err("ContractRuns".to_owned()));
    bench.ok(finished(1, None));
    assert_eq!(*state(&bench), ContractState::Done);
    assert_eq!(bench.ask(contract(2)), Err("ContractDone".to_owned()));
    bench.ok(deploy(1));
}

/// Whose they are nobody knows, so that they may be of an older release.
#[test]
fn a_contract_waits_for_processes_of_no_known_release() {
    let mut bench = waiting();
    bench.ok(Event::Retire { release: id(1) });
    bench.seen.set_processes(BTreeSet::from([id(2)]));
    bench.seen.set_strays(2);
    bench.settle();
    assert_eq!(*state(&bench), ContractState::Waiting);
    let input = Input::asked("ada", contract(2));
    let illegal = bench.agent.step(bench.now, &bench.seen, &input);
    assert_eq!(
        illegal.unwrap_err().to_string(),
        "the contract hook of v2 waits: 2 processes of this agent belong to no known release"
    );
    bench.seen.set_strays(0);
    bench.settle();
    assert_eq!(runs(&bench), Some(1));
}

/// As long as nobody has looked, a process of any release may live.
#[test]
fn unknown_processes_are_not_gone() {
    let mut bench = Bench::at("complete");
    bench.bring_in(2, contracting());
    bench.pass(301);
    bench.ok(Event::Retire { release: id(1) });
    bench.settle();
    assert_eq!(*state(&bench), ContractState::Waiting);
}

#[test]
fn a_contract_that_failed_is_run_again_by_hand() {
    let mut bench = waiting();
    bench.ok(Event::Retire { release: id(1) });
    bench.seen.set_processes(BTreeSet::from([id(2)]));
    bench.settle();
    assert_eq!(
        bench.ask(finished(2, None)),
        Ok(0),
        "of no attempt there was"
    );
    bench.ok(finished(1, Some("exit 1")));
    bench.settle();
    assert!(matches!(
        state(&bench),
        ContractState::Failed { attempt: 1, .. }
    ));
    assert_eq!(runs(&bench), None, "not by itself");
    assert_eq!(bench.facts(contract(2)), ["contract_started"]);
    assert_eq!(runs(&bench), Some(2));
    assert_eq!(bench.ask(finished(1, None)), Ok(0), "of another attempt");
    bench.ok(finished(2, None));
    assert_eq!(*state(&bench), ContractState::Done);
}

#[test]
fn who_is_rolled_back_from_loses_the_contract() {
    let mut bench = waiting();
    bench.ok(Event::Rollback { from: Some(id(2)) });
    assert!(bench.agent.contracts.is_empty());
    assert_eq!(bench.ask(contract(2)), Err("NoContract".to_owned()));
}

/// Merely superseded it waits, and runs if its release is current again.
#[test]
fn who_is_superseded_keeps_the_contract() {
    let mut bench = waiting();
    bench.seen.set_processes(BTreeSet::from([id(2), id(3)]));
    bench.ok(Event::Retire { release: id(1) });
    bench.ok(deploy(3));
    bench.ready(3);
    bench.ok(Event::Promote {
        full: true,
        skip_gates: true,
    });
    assert_eq!(bench.ask(contract(2)), Err("NotCurrent".to_owned()));
    bench.settle();
    assert_eq!(*state(&bench), ContractState::Waiting);
    bench.ok(Event::Rollback { from: Some(id(3)) });
    bench.settle();
    assert_eq!(runs(&bench), Some(1));
}

/// One that was deployed again is not newer for it.
#[test]
fn a_release_is_as_old_as_its_first_rollout() {
    let mut bench = waiting();
    bench.ok(deploy(1));
    bench.ready(1);
    bench.settle();
    bench.smoke_passes();
    bench.settle();
    assert_eq!(bench.agent.current(), Some(id(1)));
    bench.ok(Event::Rollback { from: Some(id(1)) });
    bench.settle();
    assert_eq!(bench.agent.current(), Some(id(2)));
    assert_eq!(*state(&bench), ContractState::Waiting, "v1 drains");
    assert_eq!(bench.ask(contract(2)), Err("OlderReleaseLives".to_owned()));
}

#[test]
fn a_contract_goes_with_its_release() {
    let mut bench = waiting();
    bench.bring_in(3, plan());
    bench.pass(301);
    assert!(bench.agent.contracts.contains_key(&id(2)));
    bench.ok(Event::Retire { release: id(2) });
    bench.settle();
    assert_eq!(bench.agent.releases[&id(2)].state.word(), "retired");
    assert!(bench.agent.contracts.is_empty());
}
