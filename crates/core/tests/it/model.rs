//! Every interleaving of a small rollout: two gateways, a controller that crashes, another one
//! that slept and wakes up, late tables, late reports, calls, an override call, two verbs.
//!
//! The decisions are those of the real machine ([`Agent::step`], [`Agent::apply`],
//! [`Agent::effects`] and its tables); only the journal, the messages, the gateways' ledgers and
//! the platform are modelled. A state names its journal by number, so an agent is folded once for
//! each journal and not for each state. Time has two instants, ten seconds apart: enough for every
//! lease to run out. The windows for reconnects, stragglers and standby are zero, which only makes
//! the machine quicker to stop something.
//!
//! A report arrives when it is sent: what a late one would say is what an old one has said. What a
//! controller has begun takes no time unless it crashes or sleeps, and a sleep may last any time.

mod rules;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use segue_core::names::{AgentName, GatewayId, ReleaseId, WorkerId};
use segue_core::release::{Content, Release};
use segue_core::rollout::{Agent, Effect, Event, Fact, Guard, Input, Seen};
use segue_core::spec::{Ingress, Plan, Policy, Smoke};
use segue_core::table::RoutingTable;
use segue_core::time::{Millis, Timestamp};
use stateright::{Checker, Model};

use self::state::{Budget, Controller, Gateway, Report, Stage, State};

/// What is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    Core(Guard),
    /// The journal takes an append at any position.
    JournalFenceOff,
    /// Gateways hear of a decision before it is durable.
    PublishBeforeAppend,
    /// A gateway installs whatever table comes.
    GatewayTakesSmallerEpoch,
    /// A gateway decides, and counts only later.
    GatewayCountsLate,
}

/// The rollout under check.
#[derive(Debug)]
struct Rollout {
    mutant: Option<Mutant>,
    budget: Budget,
    journals: RwLock<Journals>,
    decisions: RwLock<BTreeMap<Question, Option<Decision>>>,
    releases: [Release; 2],
    gateways: [GatewayId; 2],
}

/// Every journal that was written in some history, by number.
#[derive(Debug, Default)]
struct Journals {
    folded: Vec<Arc<Folded>>,
    /// By the agent they come to: journals that come to the same one are the same here.
    numbers: BTreeMap<String, usize>,
}

/// What one journal comes to.
#[derive(Debug)]
struct Folded {
    agent: Agent,
    table: RoutingTable,
    effects: Vec<Effect>,
    /// Grows with every decision that matters to workers.
    position: u64,
}

impl Folded {
    fn new(agent: Agent) -> Arc<Self> {
        let (table, effects) = (agent.table(), agent.effects());
        let position = agent.epoch.0 + agent.revision;
        Arc::new(Self {
            agent,
            table,
            effects,
            position,
        })
    }
}

/// All that a decision can depend on: the journal, the time, since when somebody listened, the
/// last reports, and what was asked.
type Question = (usize, u8, Timestamp, [Option<Report>; 2], &'static str);

/// What a decision makes of a journal, and whom it names as not having acknowledged.
#[derive(Debug, Clone)]
struct Decision {
    journal: usize,
    named: Option<Vec<GatewayId>>,
}

fn release(number: u32) -> Release {
    let content = Content {
        command: vec![number.to_string()],
        env: BTreeMap::new(),
        directory: "/srv".to_owned(),
        files: BTreeMap::new(),
        ..Content::default()
    };
    let label = format!("v{number}").parse().expect("a good label");
    let name: AgentName = "desk".parse().expect("a good name");
    Release::new(&name, label, content, 1, 10)
}

fn worker_id(release: usize) -> WorkerId {
    format!("w{release}").parse().expect("a good name")
}

impl Rollout {
    fn new(mutant: Option<Mutant>, budget: Budget) -> Self {
        let name: AgentName = "desk".parse().expect("a good name");
        let guard = match mutant {
            Some(Mutant::Core(guard)) => Some(guard),
            _ => None,
        };
        let journals = Journals {
            folded: vec![Folded::new(Agent::new(name).without(guard))],
            numbers: BTreeMap::new(),
        };
        Self {
            mutant,
            budget,
            journals: RwLock::new(journals),
            decisions: RwLock::default(),
            releases: [release(1), release(2)],
            gateways: ["g0", "g1"].map(|name| name.parse().expect("a good name")),
        }
    }

    fn at(&self, journal: usize) -> Arc<Folded> {
        self.journals.read().expect("no thread panicked").folded[journal].clone()
    }

    fn epoch(&self, journal: usize) -> u64 {
        self.at(journal).table.epoch.0
    }

    /// The journal that these facts make of another one.
    fn append(&self, journal: usize, facts: &[Fact]) -> usize {
        let mut agent = self.at(journal).agent.clone();
        for fact in facts {
            agent.apply(fact);
        }
        let key = format!("{agent:?}");
        let mut journals = self.journals.write().expect("no thread panicked");
        if let Some(number) = journals.numbers.get(&key) {
            return *number;
        }
        let number = journals.folded.len();
        journals.folded.push(Folded::new(agent));
        journals.numbers.insert(key, number);
        number
    }

    /// The first release is current, and both gateways act by its table.
    fn prelude(&self) -> usize {
        let policy = Policy {
            stickiness: Millis(0),
            straggler_buffer: Millis(0),
            standby: Millis(0),
            ..Policy::default()
        };
        let ingress = Box::new(Ingress::default());
        let mut inputs = vec![Event::Configured { ingress, policy }];
        inputs.extend(self.gateways.iter().map(|gateway| Event::GatewayJoined {
            gateway: gateway.clone(),
        }));
        inputs.push(self.deploy(0, None));
        inputs.push(self.ready(0));
        inputs.extend([Event::Tick, Event::Tick, Event::Tick]);
        let mut journal = 0;
        for event in inputs {
            let folded = self.at(journal);
            let agent = &folded.agent;
            let mut seen = Seen::new(time(0));
            for gateway in &self.gateways {
                let presence = segue_core::presence::AgentPresence {
                    epoch: agent.epoch,
                    ..Default::default()
                };
                seen.observe(time(0), gateway, "0", 1, presence);
            }
            let facts = agent
                .step(time(0), &seen, &Input::noticed(event))
                .expect("the prelude is legal");
            journal = self.append(journal, &facts);
        }
        assert_eq!(self.at(journal).agent.current(), Some(self.releases[0].id));
        journal
    }

    fn deploy(&self, release: usize, smoke: Option<Smoke>) -> Event {
        let plan = Plan {
            ready_timeout: Millis::from_secs(60),
            smoke,
            ..Plan::default()
        };
        Event::Deploy {
            release: Box::new(self.releases[release].clone()),
            plan: Box::new(plan),
        }
    }

    fn ready(&self, release: usize) -> Event {
        Event::WorkerReady {
            worker: worker_id(release),
            release: self.id(release),
            addr: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
            capacity: 10,
            health_path: None,
            barred: None,
        }
    }

    fn id(&self, release: usize) -> ReleaseId {
        self.releases[release].id
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    fn start(&self) -> State {
        let journal = self.prelude();
        let gateway = Gateway {
            table: journal,
            live: [0, 0],
            late: None,
            inbox: Vec::new(),
            said: 0,
        };
        let mut gateways = [gateway.clone(), gateway];
        gateways[0].live[0] = 1;
        State {
            now: 0,
            journal,
            active: Some(Controller {
                memory: journal,
                stage: Stage::Idle,
                seen: [None, None],
                began: 0,
            }),
            zombie: None,
            gateways,
            workers: [true, false],
            fence: 0,
            left: self.budget,
            broken: Vec::new(),
        }
    }
}

/// One of the instants.
fn time(now: u8) -> Timestamp {
    Timestamp(1_700_000_000_000 + u64::from(now) * 10_000)
}

fn check(mutant: Option<Mutant>, budget: Budget) -> (usize, Vec<&'static str>) {
    let checker = Rollout::new(mutant, budget)
        .checker()
        .threads(1)
        .finish_when(if mutant.is_some() {
            // Anything but the three that should be reached.
            stateright::HasDiscoveries::AnyFailures
        } else {
            stateright::HasDiscoveries::All
        })
        .spawn_bfs()
        .join();
    let found = checker.discoveries().into_keys().collect();
    (checker.unique_state_count(), found)
}

/// What may happen beside the rollout itself, in the order of [`Budget`].
const fn budget([calls, overrides, crashes, sleeps, instants, rollbacks]: [u8; 6]) -> Budget {
    Budget {
        calls,
        overrides,
        crashes,
        sleeps,
        instants,
        rollbacks,
    }
}

/// Together with one call in progress at the beginning.
const CALLS_AND_ROLLBACK: Budget = budget([1, 1, 0, 0, 0, 1]);
const CRASH: Budget = budget([1, 0, 1, 0, 0, 1]);
const SLEEP: Budget = budget([1, 0, 0, 1, 0, 0]);
const SILENCE: Budget = budget([1, 0, 0, 0, 1, 1]);

/// Checks one configuration to its end.
fn explore(budget: Budget) {
    let (states, found) = check(None, budget);
    eprintln!("{states} states of {budget:?}");
    let reached = ["it lands", "it retires the old release", "it rolls back"];
    let may_reach = if budget.rollbacks > 0 { 3 } else { 2 };
    for name in &reached[..may_reach] {
        assert!(found.contains(name), "never: {name}");
    }
    let broken: Vec<_> = found.iter().filter(|f| !reached.contains(f)).collect();
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn no_interleaving_of_calls_and_a_rollback_breaks_the_protocol() {
    explore(CALLS_AND_ROLLBACK);
}

#[test]
fn no_crash_breaks_the_protocol() {
    explore(CRASH);
}

#[test]
fn no_sleeping_controller_breaks_the_protocol() {
    explore(SLEEP);
}

#[test]
fn no_silence_breaks_the_protocol() {
    explore(SILENCE);
}

#[test]
#[ignore = "millions of states: run in release mode"]
fn nothing_together_breaks_the_protocol() {
    explore(budget([1, 1, 1, 0, 0, 1]));
    explore(budget([1, 1, 0, 1, 0, 1]));
    explore(budget([1, 0, 1, 0, 1, 1]));
}

#[test]
fn every_guard_of_the_protocol_is_needed() {
    let named = "who has not acknowledged is named";
    let earlier = "no call by an earlier table";
    let dropped = "no call is dropped";
    let core = |guard, property| (Mutant::Core(guard), CALLS_AND_ROLLBACK, property);
    let mutants = [
        core(Guard::StopOnlyRetired, dropped),
        core(Guard::ConfirmWithdrawal, dropped),
        core(Guard::GatesFirst, "no unproven release takes a call"),
        core(Guard::AckFirst, named),
        core(Guard::RollbackAck, named),
        (Mutant::JournalFenceOff, SLEEP, "one history"),
        (
            Mutant::PublishBeforeAppend,
            CRASH,
            "tables follow from the journal",
        ),
        (Mutant::GatewayTakesSmallerEpoch, CRASH, earlier),
        (Mutant::GatewayCountsLate, CRASH, earlier),
    ];
    for (mutant, budget, property) in mutants {
        let (states, found) = check(Some(mutant), budget);
        println!("{mutant:?}: {found:?} after {states} states");
        assert!(found.contains(&property), "{mutant:?} breaks {found:?}");
    }
}
