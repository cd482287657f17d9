//! What each verb may do in each phase, and the journaled form of every fact.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod baking;
mod gates;
mod membership;
mod migrations;
mod stragglers;

use std::collections::BTreeMap;

use segue_core::names::ReleaseId;
use segue_core::presence::{AgentPresence, ReleaseCounts};
use segue_core::release::{Content, Release};
use segue_core::rollout::{Agent, Event, FACT_NAMES, Fact, Hold, Input, Seen, Verdict};
use segue_core::spec::{Ingress, Plan, Policy, Smoke, Step};
use segue_core::split::Share;
use segue_core::time::{Millis, Timestamp};

const GOLDEN: &str = include_str!("../golden/facts.json");

/// Facts as the first version journaled them.
const FIRST: &str = include_str!("../golden/facts_first.json");

/// Every fact of the golden file reads as a fact and writes back as the same JSON, and none is
/// missing: the journal's format cannot change by accident.
#[test]
fn the_journaled_form_of_facts_does_not_change() {
    let values: Vec<serde_json::Value> = serde_json::from_str(GOLDEN).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for value in values {
        let fact: Fact = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&fact).unwrap(), value);
        names.insert(fact.name());
    }
    let known = FACT_NAMES.map(str::to_owned);
    assert_eq!(names, std::collections::BTreeSet::from(known));
}

/// A journal of the first version is read, and says what it said.
#[test]
fn facts_of_the_first_version_are_read() {
    let values: Vec<serde_json::Value> = serde_json::from_str(FIRST).unwrap();
    let mut agent = Agent::new("desk".parse().unwrap());
    for value in values {
        let fact: Fact = serde_json::from_value(value.clone()).unwrap();
        let written = serde_json::to_value(&fact).unwrap();
        let kept = value.as_object().unwrap().keys().all(|key| {
            let (was, is) = (&value[key], &written[key]);
            was == is || was.is_object()
        });
        assert!(kept, "{value} became {written}");
        agent.apply(&fact);
        if let Fact::Deployed {
            plan, fast_track, ..
        } = fact
        {
            assert!(!fast_track && !plan.fast_track, "it knew none");
            assert_eq!(plan.bake, Millis(0));
        }
    }
    assert!(agent.epoch.0 > 0);
}

/// One agent with one gateway that acknowledges at once.
#[derive(Clone)]
struct Bench {
    agent: Agent,
    seen: Seen,
    now: Timestamp,
    reports: u64,
    /// What the gateway counts.
    counts: BTreeMap<ReleaseId, ReleaseCounts>,
}

fn release(number: u32) -> Release {
    let content = Content {
        command: vec![number.to_string()],
        env: BTreeMap::new(),
        directory: "/srv".to_owned(),
        files: BTreeMap::new(),
        ..Content::default()
    };
    let label = format!("v{number}").parse().unwrap();
    Release::new(&"desk".parse().unwrap(), label, content, 1, 10)
}

fn id(number: u32) -> ReleaseId {
    release(number).id
}

fn deploy(number: u32) -> Event {
    deploy_by(number, plan())
}

fn deploy_by(number: u32, plan: Plan) -> Event {
    Event::Deploy {
        release: Box::new(release(number)),
        plan: Box::new(plan),
    }
}

/// Smoke calls, and one step of ten seconds.
fn plan() -> Plan {
    Plan {
        smoke: Some(Smoke {
            scenario: "hello".to_owned(),
            path: "/".to_owned(),
            calls: 1,
            timeout: Millis::from_secs(30),
        }),
        steps: vec![Step {
            share: Share(1_000),
            min_calls: 0,
            min_duration: Millis::from_secs(10),
            pause: false,
        }],
        ..Plan::default()
    }
}

impl Bench {
    fn new() -> Self {
        let now = Timestamp(1_700_000_000_000);
        let mut bench = Self {
            agent: Agent::new("desk".parse().unwrap()),
            seen: Seen::new(now),
            now,
            reports: 0,
            counts: BTreeMap::new(),
        };
        bench.ok(Event::Configured {
            ingress: Box::new(Ingress::default()),
            policy: Policy::default(),
        });
        bench.ok(Event::GatewayJoined {
            gateway: "g0".parse().unwrap(),
        });
        bench
    }

    fn ask(&mut self, event: Event) -> Result<usize, String> {
        let input = Input::asked("ada", event);
        let facts = self.agent.step(self.now, &self.seen, &input);
        let facts = facts.map_err(|illegal| {
            let name = format!("{illegal:?}");
            let end = name.find(|c: char| !c.is_alphanumeric());
            name[..end.unwrap_or(name.len())].to_owned()
        })?;
        for fact in &facts {
            self.agent.apply(fact);
        }
        Ok(facts.len())
    }

    fn ok(&mut self, event: Event) {
        self.ask(event).unwrap();
    }

    /// The gateway acknowledges, and all that is due is decided.
    fn settle(&mut self) {
        while self.report_and_tick() > 0 {}
    }

    fn report_and_tick(&mut self) -> usize {
        self.reports += 1;
        let presence = AgentPresence {
            epoch: self.agent.epoch,
            releases: self.counts.clone(),
            ..AgentPresence::default()
        };
        let gateway = "g0".parse().unwrap();
        self.seen
            .observe(self.now, &gateway, "1", self.reports, presence);
        self.ask(Event::Tick).unwrap()
    }

    fn ready(&mut self, number: u32) {
        self.ok(Event::WorkerReady {
            worker: format!("w{number}").parse().unwrap(),
            release: id(number),
            addr: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
            capacity: 10,
            health_path: None,
            barred: None,
        });
    }

    fn smoke_passes(&mut self) {
        self.ok(Event::SmokeFinished {
            rollout: self.agent.rollouts,
            attempt: 1,
            verdict: Verdict::Successful,
            report: serde_json::Value::Null,
        });
    }

    /// The names of the facts that an event comes to, applied.
    fn facts(&mut self, event: Event) -> Vec<String> {
        let input = Input::asked("ada", event);
        let facts = self.agent.step(self.now, &self.seen, &input).unwrap();
        for fact in &facts {
            self.agent.apply(fact);
        }
        facts.iter().map(Fact::name).collect()
    }

    fn holds(&self) -> Vec<Hold> {
        self.agent.holds(self.now, &self.seen)
    }

    /// A release is deployed and takes every new call.
    fn bring_in(&mut self, number: u32, plan: Plan) {
        self.ok(deploy_by(number, plan));
        self.ready(number);
        self.settle();
        self.smoke_passes();
        self.settle();
        if self.agent.current() != Some(id(number)) {
            self.ok(Event::Promote {
                full: true,
                skip_gates: false,
            });
        }
        self.settle();
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now + Millis::from_secs(seconds);
        self.settle();
    }

    /// Brings the machine into a phase, with v1 current before v2 if the phase has a v1.
    fn at(phase: &str) -> Self {
        let mut bench = Self::new();
        if phase == "none" {
            return bench;
        }
        bench.ok(deploy(1));
        bench.ready(1);
        bench.settle();
        bench.smoke_passes();
        bench.settle();
        if phase == "complete" {
            return bench;
        }
        bench.ok(deploy(2));
        let way: &[&str] = match phase {
            "provisioning" => &[],
            "verifying" => &["ready"],
            "canary" => &["ready", "smoke"],
            "failed" => &["abort"],
            "promoting" => &["ready", "smoke", "promote"],
            "rolling back" => &["ready", "smoke", "rollback"],
            "rolled back" => &["ready", "smoke", "rollback", "settle"],
            "settling" => &["ready", "smoke", "promote", "settle"],
            _ => &["ready", "smoke", "promote", "settle", "wait"],
        };
        for leg in way {
            match *leg {
                "ready" => {
                    bench.ready(2);
                    bench.settle();
                }
                "smoke" => {
                    bench.smoke_passes();
                    bench.settle();
                }
                "promote" => bench.ok(Event::Promote {
                    full: true,
                    skip_gates: false,
                }),
                "rollback" => bench.ok(Event::Rollback { from: None }),
                "abort" => bench.ok(Event::Abort),
                "settle" => bench.settle(),
                _ => bench.pass(301),
            }
        }
        assert_eq!(bench.agent.phase_word(), phase);
        bench
    }
}

/// One row: a phase, and what each verb comes to: `ok`, `-` (nothing to do), or why not.
fn check(phase: &str, expected: [&str; 8]) {
    let verbs = [
        deploy(3),
        Event::Pause,
        Event::Resume,
        Event::Promote {
            full: false,
            skip_gates: false,
        },
        Event::Abort,
        Event::Rollback { from: None },
        Event::Drain { release: id(1) },
        Event::Retire { release: id(1) },
    ];
    for (verb, expected) in verbs.into_iter().zip(expected) {
        let name = verb.name();
        let answer = match Bench::at(phase).ask(verb) {
            Ok(0) => "-".to_owned(),
            Ok(_) => "ok".to_owned(),
            Err(why) => why,
        };
        assert_eq!(answer, expected, "{name} in {phase}");
    }
}

#[test]
fn legal_moves() {
    let busy = "Busy";
    let no = "NotNow";
    // deploy, pause, resume, promote, abort, rollback, drain v1, retire v1
    check(
        "none",
        [
            "ok",
            no,
            no,
            no,
            no,
            "NothingBefore",
            "NotCurrent",
            "NotDrained",
        ],
    );
    check(
        "provisioning",
        [
            busy,
            "ok",
            "NotPaused",
            "Unproven",
            "ok",
            "NothingBefore",
            no,
            "NotDrained",
        ],
    );
    check(
        "verifying",
        [
            busy,
            "ok",
            "NotPaused",
            "Unproven",
            "ok",
            "NothingBefore",
            no,
            "NotDrained",
        ],
    );
    check(
        "canary",
        [busy, "ok", "NotPaused", "ok", "ok", "ok", no, "NotDrained"],
    );
    check(
        "promoting",
        [busy, no, "NotPaused", "-", "ok", "ok", no, "StillHolds"],
    );
    check("settling", ["ok", no, no, no, no, "ok", "-", "Settling"]);
    check("standby", ["ok", no, no, no, no, "ok", "-", "ok"]);
    check(
        "complete",
        ["ok", no, no, no, no, "NothingBefore", "ok", "NotDrained"],
    );
    check(
        "rolling back",
        [busy, no, "NotPaused", no, no, "-", no, "NotDrained"],
    );
    check(
        "rolled back",
        ["ok", no, no, no, no, "NothingBefore", "ok", "NotDrained"],
    );
    check(
        "failed",
        ["ok", no, no, no, no, "NothingBefore", "ok", "NotDrained"],
    );
}

/// A redeploy of the standby that is called off leaves it what it was: where a rollback goes to.
#[test]
fn a_standby_that_was_deployed_again_and_called_off_can_come_back() {
    let mut bench = Bench::at("standby");
    bench.ok(deploy(1));
    bench.ok(Event::Abort);
    assert_eq!(bench.agent.rollback_target(), Some(id(1)));
    bench.ok(Event::Rollback { from: None });
    assert_eq!(bench.agent.current(), Some(id(1)));
}

/// Asked twice, or after Segue's own, a rollback does not go back another release.
#[test]
fn a_rollback_names_what_it_leaves() {
    let mut bench = Bench::at("standby");
    let back = Event::Rollback { from: Some(id(2)) };
    bench.ok(back.clone());
    bench.settle();
    assert_eq!(bench.agent.current(), Some(id(1)));
    assert_eq!(bench.ask(back), Ok(0), "release 2 takes no calls any more");
    assert_eq!(bench.agent.current(), Some(id(1)));
}

/// The current release is on fire and somebody has begun to bring in the next one: a rollback
/// leaves the current one, and what was being brought in is called off.
#[test]
fn a_rollback_does_not_wait_for_the_next_release() {
    let mut bench = Bench::at("standby");
    bench.ok(deploy(3));
    assert_eq!(bench.agent.phase_word(), "provisioning");
    bench.ok(Event::Rollback { from: Some(id(2)) });
    assert_eq!(bench.agent.current(), Some(id(1)));
    assert_eq!(bench.agent.phase_word(), "rolling back");
}

/// After `drain` nothing is current; a cutover from there can still be taken back.
#[test]
fn a_cutover_after_a_drain_can_be_rolled_back() {
    let mut bench = Bench::at("complete");
    bench.ok(Event::Drain { release: id(1) });
    bench.settle();
    bench.ok(deploy(2));
    bench.ready(2);
    bench.settle();
    bench.smoke_passes();
    bench.ok(Event::Promote {
        full: true,
        skip_gates: false,
    });
    assert_eq!(bench.agent.phase_word(), "promoting");
    bench.ok(Event::Rollback { from: None });
    assert_eq!(bench.agent.current(), Some(id(1)));
}
