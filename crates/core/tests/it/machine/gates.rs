//! Gates beside smoke calls, and the fast track.

use segue_core::rollout::{Effect, Gate, HookKind, Want};
use segue_core::spec::{Approval, Before, Hook, Hooks, Outbound, Webhook};

use super::*;

const APPROVE: Event = Event::Approve { release: None };

fn hook() -> Hook {
    Hook {
        command: vec!["migrate".to_owned()],
        timeout: Millis::from_secs(300),
    }
}

fn webhook(name: &str) -> Webhook {
    Webhook {
        name: name.to_owned(),
        to: Outbound {
            url: "https://board.test/".to_owned(),
            secret_file: None,
            allow: Vec::new(),
        },
        timeout: Millis::from_secs(5),
        retries: 3,
    }
}

fn approval(before: Before) -> Plan {
    Plan {
        approval: Some(Approval { before }),
        ..plan()
    }
}

fn finished(gate: Gate, attempt: u32, verdict: Verdict) -> Event {
    Event::GateFinished {
        rollout: 2,
        attempt,
        gate,
        verdict,
        report: serde_json::Value::Null,
    }
}

fn promote(skip_gates: bool) -> Event {
    Event::Promote {
        full: true,
        skip_gates,
    }
}

/// v1 is current, v2 is deployed by a plan.
fn deployed(plan: Plan) -> Bench {
    let mut bench = Bench::at("complete");
    bench.ok(deploy_by(2, plan));
    bench
}

/// The same, with workers up and smoke calls passed.
fn verified(plan: Plan) -> Bench {
    let mut bench = deployed(plan);
    bench.ready(2);
    bench.settle();
    bench.smoke_passes();
    bench.settle();
    bench
}

fn want(bench: &Bench, number: u32) -> Want {
    let wants = bench.agent.effects().into_iter();
    let mut wants = wants.filter_map(|effect| match effect {
        Effect::Workers { release, want } if release.id == id(number) => Some(want),
        _ => None,
    });
    wants.next().unwrap()
}

#[test]
fn no_worker_is_wanted_before_the_hook_has_run() {
    let plan = Plan {
        hooks: Hooks {
            before_deploy: Some(hook()),
            after_retire: None,
        },
        ..plan()
    };
    let mut bench = deployed(plan.clone());
    assert_eq!(want(&bench, 2), Want::Keep);
    assert_eq!(bench.holds(), [Hold::Hook]);
    let hooks = bench.agent.effects().into_iter().any(|effect| {
        matches!(
            effect,
            Effect::Hook {
                kind: HookKind::BeforeDeploy,
                rollout: 2,
                attempt: 1,
                ..
            }
        )
    });
    assert!(hooks);
    // However long it takes, it is not the workers' time.
    bench.pass(200);
    assert_eq!(bench.agent.phase_word(), "provisioning");
    assert_eq!(bench.agent.next_deadline(), None);
    let late = Event::GateFinished {
        rollout: 1,
        attempt: 1,
        gate: Gate::BeforeDeploy,
        verdict: Verdict::Successful,
        report: serde_json::Value::Null,
    };
    assert_eq!(bench.ask(late), Ok(0), "of another rollout");
    let ran = finished(Gate::BeforeDeploy, 1, Verdict::Successful);
    assert_eq!(
        bench.facts(ran.clone()),
        ["gate_passed", "provision_started"]
    );
    assert_eq!(want(&bench, 2), Want::Run(1));
    assert_eq!(bench.ask(ran), Ok(0), "said twice");
    assert_eq!(
        bench.agent.next_deadline(),
        Some(bench.now + plan.ready_timeout)
    );
    for verdict in [
        Verdict::Failed("exit 1".to_owned()),
        Verdict::Inconclusive("lost".to_owned()),
    ] {
        let mut bench = deployed(plan.clone());
        let facts = bench.facts(finished(Gate::BeforeDeploy, 1, verdict));
        assert_eq!(facts, ["failed"]);
        assert_eq!(bench.agent.current(), Some(id(1)));
    }
}

#[test]
fn webhooks_are_asked_until_all_agree() {
    let plan = Plan {
        webhooks: vec![webhook("board"), webhook("tests")],
        ..plan()
    };
    let mut bench = verified(plan.clone());
    let asked = |bench: &Bench| -> Vec<(u32, String)> {
        let effects = bench.agent.effects().into_iter();
        effects
            .filter_map(|effect| match effect {
                Effect::Webhook {
                    attempt, webhook, ..
                } => Some((attempt, webhook.name)),
                _ => None,
            })
            .collect()
    };
    let of = |attempt: u32, name: &str| (attempt, name.to_owned());
    assert_eq!(asked(&bench), [of(1, "board"), of(1, "tests")]);
    let names = vec!["board".to_owned(), "tests".to_owned()];
    assert_eq!(bench.holds(), [Hold::Webhooks { names }]);
    let gate = |name: &str| Gate::Webhook(name.to_owned());
    assert_eq!(bench.ask(promote(false)), Err("Unproven".to_owned()));
    bench.ok(finished(gate("board"), 1, Verdict::Successful));
    let unknown = finished(gate("nobody"), 1, Verdict::Failed(String::new()));
    assert_eq!(bench.ask(unknown), Ok(0));
    let silent = Verdict::Inconclusive("no answer".to_owned());
    assert_eq!(bench.facts(finished(gate("tests"), 1, silent)), ["paused"]);
    assert_eq!(asked(&bench), [], "nobody is asked while it is paused");
    bench.ok(Event::Resume);
    assert_eq!(
        asked(&bench),
        [of(2, "tests")],
        "who agreed is not asked again"
    );
    let late = finished(gate("tests"), 1, Verdict::Failed("no".to_owned()));
    assert_eq!(bench.ask(late), Ok(0), "of another attempt");
    bench.ok(finished(gate("tests"), 2, Verdict::Successful));
    bench.settle();
    assert_eq!(bench.agent.phase_word(), "canary");

    let mut bench = verified(plan.clone());
    let no = Verdict::Failed("freeze".to_owned());
    assert_eq!(bench.facts(finished(gate("tests"), 1, no)), ["failed"]);

    // Nobody is asked on the way of a rollback.
    let mut bench = verified(plan);
    bench.ok(promote(true));
    bench.ok(Event::Rollback { from: Some(id(2)) });
    assert_eq!(bench.agent.current(), Some(id(1)));
}

/// A webhook that never answers is for a person; smoke calls that never end have failed.
#[test]
fn gates_that_are_late() {
    let mut bench = verified(Plan {
        webhooks: vec![webhook("board")],
        ..plan()
    });
    let deadline = bench.agent.next_deadline().unwrap();
    assert!(
        deadline >= bench.now + Millis(4 * 5_000),
        "time for all tries"
    );
    bench.now = deadline;
    bench.settle();
    assert_eq!(bench.agent.phase_word(), "verifying");
    assert!(
        matches!(&bench.holds()[..], [Hold::Paused(_)]),
        "{:?}",
        bench.holds()
    );

    let mut bench = deployed(plan());
    bench.ready(2);
    bench.settle();
    bench.pass(31);
    assert_eq!(bench.agent.phase_word(), "failed");
}

#[test]
fn a_person_agrees_before_the_ramp() {
    let mut bench = verified(approval(Before::Ramp));
    assert_eq!(bench.holds(), [Hold::Approval]);
    bench.pass(24 * 3_600);
    assert_eq!(
        bench.agent.phase_word(),
        "verifying",
        "a person is not late"
    );
    assert_eq!(bench.ask(promote(false)), Err("Unapproved".to_owned()));
    assert_eq!(bench.facts(APPROVE), ["gate_passed"]);
    assert_eq!(bench.ask(APPROVE), Ok(0), "twice is once");
    bench.settle();
    assert_eq!(bench.agent.phase_word(), "canary");
    assert!(bench.agent.is_proven(id(2), &approval(Before::Ramp)));
    assert_eq!(deployed(plan()).ask(APPROVE), Err("NoApproval".to_owned()));
    assert_eq!(Bench::at("complete").ask(APPROVE), Err("NotNow".to_owned()));
    // Let through, it needs none for the cutover either.
    let mut bench = verified(approval(Before::Ramp));
    bench.ok(Event::Promote {
        full: false,
        skip_gates: true,
    });
    bench.pass(10);
    assert_eq!(bench.agent.current(), Some(id(2)));
}

#[test]
fn a_person_agrees_before_the_cutover() {
    let mut bench = verified(approval(Before::Cutover));
    assert_eq!(bench.agent.phase_word(), "canary", "the ramp needs nobody");
    bench.pass(3_600);
    assert_eq!(bench.agent.phase_word(), "canary");
    assert_eq!(bench.holds(), [Hold::Approval]);
    assert_eq!(bench.ask(promote(false)), Err("Unapproved".to_owned()));
    let next = Event::Promote {
        full: false,
        skip_gates: false,
    };
    assert_eq!(
        bench.ask(next),
        Err("Unapproved".to_owned()),
        "the next is the cutover"
    );
    bench.ok(APPROVE);
    bench.settle();
    assert_eq!(bench.agent.current(), Some(id(2)));

    let mut bench = verified(approval(Before::Cutover));
    assert_eq!(bench.facts(promote(true)), ["gates_skipped", "cut_over"]);
    // A step that ends by hand leads to the cutover, too.
    let mut paused = approval(Before::Cutover);
    paused.steps[0].pause = true;
    let mut bench = verified(paused);
    bench.pass(10);
    assert_eq!(bench.ask(Event::Resume), Err("Unapproved".to_owned()));
    bench.ok(APPROVE);
    bench.ok(Event::Resume);
    assert_eq!(bench.agent.current(), Some(id(2)));
    // Without smoke calls let into the ramp, it still needs a person for the cutover.
    let mut bench = deployed(approval(Before::Cutover));
    bench.ready(2);
    bench.settle();
    bench.ok(Event::Promote {
        full: false,
        skip_gates: true,
    });
    bench.pass(60);
    assert_eq!(bench.agent.phase_word(), "canary");
}

#[test]
fn who_served_well_comes_back_fast() {
    let mut bench = Bench::at("standby");
    bench.bring_in(3, plan());
    let fast = approval(Before::Ramp);
    bench.ok(deploy_by(2, fast.clone()));
    let rollout = bench.agent.rollout.clone().unwrap();
    assert!(rollout.fast_track && rollout.plan.steps.is_empty());
    assert_eq!(rollout.plan.approval, None);
    bench.ready(2);
    bench.settle();
    assert_eq!(bench.agent.phase_word(), "verifying", "smoke calls stay");
    bench.smoke_passes();
    bench.settle();
    assert_eq!(bench.agent.current(), Some(id(2)), "without a step");

    // Not one that was rolled back from, nor one that is asked to go slowly.
    bench.ok(Event::Rollback { from: Some(id(2)) });
    bench.settle();
    bench.ok(deploy_by(2, fast));
    assert!(!bench.agent.rollout.as_ref().unwrap().fast_track);
    let slow = Plan {
        fast_track: false,
        ..plan()
    };
    let mut bench = Bench::at("standby");
    bench.ok(deploy_by(1, slow));
    assert!(!bench.agent.rollout.as_ref().unwrap().fast_track);
    assert_eq!(bench.agent.rollout.as_ref().unwrap().plan.steps.len(), 1);
}

/// A retired release is remembered for what it was.
#[test]
fn who_served_well_and_retired_comes_back_fast() {
    let mut bench = Bench::at("standby");
    bench.ok(Event::Retire { release: id(1) });
    bench.settle();
    assert_eq!(bench.agent.phase_word(), "complete");
    bench.ok(deploy(1));
    assert!(bench.agent.rollout.as_ref().unwrap().fast_track);
}

/// A person agrees to what they looked at.
#[test]
fn an_approval_is_of_one_release() {
    let mut bench = verified(approval(Before::Ramp));
    let incoming = bench.agent.rollout.as_ref().unwrap().incoming;
    let of = |release| Event::Approve {
        release: Some(release),
    };
    let input = Input::asked("ann", of(id(7)));
    let illegal = bench.agent.step(bench.now, &bench.seen, &input);
    let label = bench.agent.label(incoming);
    let meant = id(7).short();
    assert_eq!(
        illegal.unwrap_err().to_string(),
        format!("{label} is being rolled out, and not {meant}")
    );
    assert!(
        !bench.agent.releases[&incoming]
            .passed
            .contains(&Gate::Approval)
    );
    assert_eq!(bench.ask(of(id(7))), Err("OtherRelease".to_owned()));
    assert_eq!(bench.facts(of(incoming)), ["gate_passed"]);
}

/// The log says which gates were missing, who agreed and what was counted.
#[test]
fn inputs_say_what_a_decision_was_made_on() {
    let mut bench = verified(approval(Before::Cutover));
    bench.seen.set_permits(BTreeMap::from([(id(1), 3)]));
    let inputs = bench.agent.inputs(bench.now, &bench.seen);
    assert_eq!(inputs["releases"][id(1).short()]["permits"], 3);
    assert_eq!(inputs["rollout"]["gates"]["missing"], serde_json::json!([]));
    let passed = serde_json::json!(["readiness", "smoke"]);
    assert_eq!(inputs["rollout"]["gates"]["passed"], passed);
    assert_eq!(inputs["rollout"]["approval"]["given"], false);
    assert_eq!(inputs["rollout"]["limits"]["min_calls"], 20);
    assert_eq!(inputs["rollout"]["counted"]["ended"], 0);
    let holds = inputs["rollout"]["holds"].to_string();
    assert!(holds.contains("approval"), "{holds}");
}
