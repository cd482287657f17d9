//! Any sequence of events, against what the worker is meant to promise.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn id(number: u8) -> CallId {
    format!("CA{number}").parse().unwrap()
}

fn inputs() -> impl Strategy<Value = Vec<(u64, Input)>> {
    let call = (0_u8..6).prop_map(id);
    let input = prop_oneof![
        4 => (call.clone(), any::<bool>()).prop_map(|(call, assigned)| Input::Enter { call, assigned }),
        4 => call.prop_map(|call| Input::Exit { call }),
        1 => Just(Input::BeginDrain),
        2 => standings().prop_map(Input::Stand),
        2 => Just(Input::Tick),
    ];
    prop::collection::vec((0_u64..40, input), 0..120)
}

fn standings() -> impl Strategy<Value = Standing> {
    let barred = |why: &str| Standing::Barred {
        why: why.to_owned(),
    };
    prop_oneof![
        2 => Just(Standing::Admitted),
        1 => Just(barred("not-admitted")),
        1 => Just(barred("fell-out")),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    (proptest::option::of(0_u64..100), any::<bool>()).prop_map(|(timeout, ends)| Policy {
        drain_timeout: timeout.map(Millis),
        on_straggler: if ends {
            OnStraggler::End
        } else {
            OnStraggler::Wait
        },
    })
}

/// What a person with pencil and paper would keep.
#[derive(Default)]
struct Paper {
    connections: BTreeMap<CallId, (u32, u64)>,
    drains_since: Option<u64>,
    barred: Option<String>,
    overdue: BTreeSet<CallId>,
    drained: bool,
}

impl Paper {
    fn check(
        &mut self,
        policy: Policy,
        now: u64,
        input: &Input,
        said: &Result<Vec<Effect>, Refused>,
    ) {
        let effects = said.as_deref().unwrap_or(&[]);
        match input {
            Input::Enter { call, assigned } => {
                let is_here = self.connections.contains_key(call);
                let takes = self.drains_since.is_none() && self.barred.is_none();
                let may = takes || *assigned || is_here;
                assert_eq!(said.is_ok(), may, "{call}");
                let why = self.barred.clone().map(|why| Refused::Barred { why });
                let why = self.drains_since.map(|_| Refused::Draining).or(why);
                assert_eq!(said.as_ref().err(), why.as_ref().filter(|_| !may));
                if may {
                    let here = self.connections.entry(call.clone()).or_insert((0, now));
                    here.0 += 1;
                    self.drained = false;
                }
                assert!(effects.is_empty());
            }
            Input::Exit { call } => {
                let here = self.connections.get_mut(call);
                assert_eq!(said.is_ok(), here.is_some());
                if let Some(here) = here {
                    here.0 -= 1;
                    if here.0 == 0 {
                        self.connections.remove(call);
                        self.overdue.remove(call);
                    }
                }
            }
            Input::BeginDrain => {
                let first = self.drains_since.is_none();
                assert_eq!(effects.first() == Some(&Effect::Draining), first);
                self.drains_since.get_or_insert(now);
            }
            Input::Stand(standing) => {
                let (barred, expected) = match standing {
                    Standing::Admitted => (None, Effect::Admitted),
                    Standing::Barred { why } => {
                        (Some(why.clone()), Effect::Barred { why: why.clone() })
                    }
                };
                let is_new = barred != self.barred;
                assert_eq!(effects, Vec::from_iter(is_new.then_some(expected)));
                self.barred = barred;
            }
            Input::Tick => {}
        }
        let drained = effects.contains(&Effect::Drained);
        let is_empty = self.drains_since.is_some() && self.connections.is_empty();
        assert_eq!(
            drained,
            is_empty && !self.drained,
            "said once, and when true"
        );
        self.drained = is_empty;
        self.check_ceiling(policy, now, input, effects);
    }

    fn check_ceiling(&mut self, policy: Policy, now: u64, input: &Input, effects: &[Effect]) {
        let mut due = BTreeSet::new();
        if let (Input::Tick, Some(since), Some(ceiling)) =
            (input, self.drains_since, policy.drain_timeout)
        {
            for (call, (_, entered)) in &self.connections {
                if now >= since.max(*entered) + ceiling.0 && !self.overdue.contains(call) {
                    due.insert(call.clone());
                }
            }
        }
        let mut named = BTreeSet::new();
        let mut ended = BTreeSet::new();
        for effect in effects {
            match effect {
                Effect::Overdue(calls) => named.extend(calls.iter().cloned()),
                Effect::End(calls) => ended.extend(calls.iter().cloned()),
                Effect::Draining | Effect::Drained | Effect::Barred { .. } | Effect::Admitted => {}
            }
        }
        assert_eq!(named, due);
        if policy.on_straggler == OnStraggler::End {
            assert_eq!(ended, due);
        } else {
            assert!(ended.is_empty(), "nobody asked for that");
        }
        self.overdue.extend(due);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_promises_what_it_says(policy in policies(), inputs in inputs()) {
        let (mut drain, mut paper, mut now) = (Drain::new(policy), Paper::default(), 0);
        for (later, input) in inputs {
            now += later;
            let before = drain.clone();
            let said = drain.step(Timestamp(now), input.clone());
            if said.is_err() {
                prop_assert_eq!(&drain, &before, "a refusal changes nothing");
            }
            paper.check(policy, now, &input, &said);
            prop_assert_eq!(drain.active(), paper.connections.len());
            prop_assert_eq!(drain.overdue(), paper.overdue.len());
            prop_assert_eq!(drain.draining_since().map(|since| since.0), paper.drains_since);
            prop_assert_eq!(drain.is_drained(), paper.drained);
            let takes = paper.drains_since.is_none() && paper.barred.is_none();
            prop_assert_eq!(drain.takes_calls(), takes);
            let waits = paper.connections.iter().filter(|(call, _)| !paper.overdue.contains(*call));
            let next = waits.map(|(_, (_, entered))| Some(paper.drains_since?.max(*entered) + policy.drain_timeout?.0));
            prop_assert_eq!(drain.next_deadline().map(|at| at.0), next.flatten().min());
        }
    }

    #[test]
    fn without_both_wishes_no_call_is_ever_ended(mut policy in policies(), inputs in inputs(), which in any::<bool>()) {
        if which { policy.drain_timeout = None } else { policy.on_straggler = OnStraggler::Wait }
        let (mut drain, mut now) = (Drain::new(policy), 0);
        for (later, input) in inputs {
            now += later * 1_000;
            let effects = drain.step(Timestamp(now), input).unwrap_or_default();
            prop_assert!(!effects.iter().any(|effect| matches!(effect, Effect::End(_))));
        }
    }
}

#[test]
fn a_worker_without_calls_is_drained_at_once() {
    let mut drain = Drain::new(Policy::default());
    let effects = drain.step(Timestamp(1), Input::BeginDrain).unwrap();
    assert_eq!(effects, [Effect::Draining, Effect::Drained]);
}

#[test]
fn there_is_an_end_to_the_number_of_calls() {
    let mut drain = Drain::new(Policy::default());
    let enter = |number: usize| Input::Enter {
        call: format!("CA{number}").parse().unwrap(),
        assigned: true,
    };
    for number in 0..CALLS_MAX {
        drain.step(Timestamp(0), enter(number)).unwrap();
    }
    assert_eq!(
        drain.step(Timestamp(0), enter(CALLS_MAX)),
        Err(Refused::Full)
    );
    drain.step(Timestamp(0), enter(0)).unwrap();
}
