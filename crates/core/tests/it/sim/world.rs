//! The world: one clock that jumps to the next thing that happens, and everything it happens to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use segue_core::names::{AgentName, ReleaseId, WorkerId};
use segue_core::presence::Presence;
use segue_core::rollout::{Agent, Input, Verdict};
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::{Millis, Timestamp};

use super::callers::Call;
use super::coverage::Coverage;
use super::driver::{Controller, Stage};
use super::faults::{Faults, Mutant};
use super::gateway::Gateway;
use super::platform::Platform;
use super::rng::Rng;
use super::scenario::Scenario;
use super::store::Journal;
use super::truth::Truth;

/// When runs begin: a date, so that nothing mistakes zero for "never".
pub(crate) const START: Timestamp = Timestamp(1_700_000_000_000);

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Next {
    /// A gateway reports.
    Report {
        gateway: usize,
        life: u64,
    },
    /// A report arrives at the life of the controller whose connection it went over.
    Presence {
        presence: Box<Presence>,
        gateway: usize,
        sent: Timestamp,
        to: u64,
    },
    /// A table arrives at a gateway.
    Table {
        gateway: usize,
        table: Arc<RoutingTable>,
    },
    Arrival,
    StaffCall,
    /// A mutant gateway counts a call that it decided on earlier.
    Counted {
        gateway: usize,
        call: u64,
        placed: Box<super::gateway::Placed>,
    },
    CallEnds {
        call: u64,
        round: u32,
    },
    Reconnect {
        call: u64,
        round: u32,
    },
    PinEnds {
        gateway: usize,
        life: u64,
        call: u64,
        round: u32,
    },
    WorkerUp(WorkerId),
    WorkerDies(WorkerId),
    SmokeEnds {
        life: u64,
        rollout: u64,
        attempt: u32,
        verdict: Verdict,
    },
    /// Word from the platform or the smoke runner to one life of the controller.
    Word {
        life: u64,
        input: Box<Input>,
    },
    /// The turn of some stragglers may have come.
    Straggle {
        life: u64,
        release: ReleaseId,
        since: Timestamp,
    },
    /// A gateway is told to end a call.
    EndCall {
        gateway: usize,
        release: ReleaseId,
        epoch: Epoch,
        call: u64,
    },
    /// Somebody wants to make an outbound call.
    Dial,
    /// An outbound call ends.
    PermitEnds(u64),
    Timer {
        life: u64,
    },
    Relist {
        life: u64,
    },
    Poll {
        life: u64,
        round: u32,
    },
    Operator,
    Trouble,
    Heal(usize),
    Quicken(usize),
    Revive(usize),
    Restart,
    ZombieWakes,
    Quiet,
}

/// An invariant that does not hold.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) check: &'static str,
    pub(crate) text: String,
}

/// Everything.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) scenario: Scenario,
    pub(crate) name: AgentName,
    queue: BTreeMap<(Timestamp, u64), Next>,
    order: u64,
    pub(crate) journal: Journal,
    pub(crate) active: Option<Controller>,
    pub(crate) zombie: Option<(Controller, Stage)>,
    /// A controller that slept is deciding: what reached another one meanwhile, it has not heard.
    pub(crate) woken: bool,
    pub(crate) lives: u64,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) platform: Platform,
    pub(crate) calls: BTreeMap<u64, Call>,
    pub(crate) calls_made: u64,
    /// Outbound calls, by number; the controller keeps them in a store of its own.
    pub(crate) permits: BTreeMap<u64, ReleaseId>,
    pub(crate) truth: Truth,
    pub(crate) coverage: Coverage,
    pub(crate) violation: Option<Violation>,
    pub(crate) quiet_since: Option<Timestamp>,
    pub(crate) verdicts: BTreeMap<(u64, u32), BTreeSet<&'static str>>,
    pub(crate) tracing: bool,
    pub(crate) done: bool,
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, tracing: bool) -> Self {
        let mut rng = Rng::new(seed);
        let faults = if rng.chance(100) {
            Faults::none()
        } else {
            Faults::draw(&mut rng)
        };
        let name: AgentName = "desk".parse().expect("a good name");
        let scenario = Scenario::draw(&mut rng, &name);
        let guard = mutant.and_then(Mutant::guard);
        let blank = Agent::new(name.clone()).without(guard);
        let mut world = Self {
            now: START,
            rng,
            faults,
            mutant,
            gateways: (0..scenario.gateways).map(Gateway::new).collect(),
            scenario,
            name,
            queue: BTreeMap::new(),
            order: 0,
            journal: Journal::default(),
            active: None,
            zombie: None,
            woken: false,
            lives: 0,
            platform: Platform::default(),
            calls: BTreeMap::new(),
            calls_made: 0,
            permits: BTreeMap::new(),
            truth: Truth::new(blank),
            coverage: Coverage::default(),
            violation: None,
            quiet_since: None,
            verdicts: BTreeMap::new(),
            tracing,
            done: false,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.after(0, Next::Restart);
        for index in 0..self.gateways.len() {
            // The third one, if there is one, comes while a rollout may be under way.
            let delay = if index < 2 {
                self.rng.between(0, 800)
            } else {
                self.rng.between(5_000, 90_000)
            };
            self.after(delay, Next::Revive(index));
        }
        self.after(500, Next::Operator);
        self.after(2_000, Next::Arrival);
        self.after(5_000, Next::StaffCall);
        self.after(6_000, Next::Dial);
        self.after(4_000, Next::Trouble);
        let chaos = self.scenario.chaos;
        self.after(chaos.0, Next::Quiet);
    }

    /// Lets something happen in `delay` milliseconds.
    pub(crate) fn after(&mut self, delay: u64, next: Next) {
        self.order += 1;
        self.queue
            .insert((self.now + Millis(delay), self.order), next);
    }

    /// Lets something happen at a time, or now if that is past.
    pub(crate) fn at(&mut self, at: Timestamp, next: Next) {
        self.after(at.since(self.now).0, next);
    }

    /// A message between processes: lost, repeated, late, or simply a little later.
    pub(crate) fn send(&mut self, next: impl Fn() -> Next) {
        if self.rng.chance(self.faults.message_lost) {
            self.coverage.hit("fault", "message lost");
            return;
        }
        let copies = if self.rng.chance(self.faults.message_repeated) {
            self.coverage.hit("fault", "message repeated");
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = if self.rng.chance(self.faults.message_late) {
                self.coverage.hit("fault", "message late");
                self.rng.between(200, 6_000)
            } else {
                self.rng.between(1, 20)
            };
            self.after(delay, next());
        }
    }

    /// Runs to the end or to the first violation.
    pub(crate) fn run(&mut self) {
        while self.violation.is_none() && !self.done {
            let Some(((at, _), next)) = self.queue.pop_first() else {
                break;
            };
            self.now = self.now.max(at);
            self.happen(next);
        }
        if self.violation.is_none() {
            self.final_checks();
        }
    }

    fn happen(&mut self, next: Next) {
        match next {
            Next::Report { gateway, life } => self.report_due(gateway, life),
            Next::Presence {
                presence,
                gateway,
                sent,
                to,
            } => {
                if self.active.as_ref().is_some_and(|c| c.life == to) {
                    self.presence_arrives(&presence, gateway, sent);
                }
            }
            Next::Table { gateway, table } => self.table_arrives(gateway, &table),
            Next::Arrival => self.arrival(),
            Next::StaffCall => self.staff_call(),
            Next::Counted {
                gateway,
                call,
                placed,
            } => self.count(gateway, call, &placed),
            Next::CallEnds { call, round } => self.call_ends(call, round),
            Next::Reconnect { call, round } => self.reconnect(call, round),
            Next::PinEnds {
                gateway,
                life,
                call,
                round,
            } => self.pin_ends(gateway, life, call, round),
            Next::WorkerUp(worker) => self.worker_up(&worker),
            Next::WorkerDies(worker) => self.worker_dies(&worker),
            Next::SmokeEnds {
                life,
                rollout,
                attempt,
                verdict,
            } => self.smoke_ends(life, rollout, attempt, verdict),
            Next::Word { life, input } => self.word(life, &input),
            Next::Straggle {
                life,
                release,
                since,
            } => self.straggle(life, release, since),
            Next::EndCall {
                gateway,
                release,
                epoch,
                call,
            } => self.end_call(gateway, (release, epoch), call),
            Next::Dial => self.dial(),
            Next::PermitEnds(permit) => {
                self.permits.remove(&permit);
            }
            Next::Timer { life } => self.timer(life),
            Next::Relist { life } => self.relist(life),
            Next::Poll { life, round } => self.poll(life, round),
            Next::Operator => self.operator(),
            Next::Trouble => self.trouble(),
            Next::Heal(gateway) => self.gateways[gateway].linked = true,
            Next::Quicken(gateway) => self.gateways[gateway].slow = false,
            Next::Revive(gateway) => self.revive(gateway),
            Next::Restart => self.restart_controller(),
            Next::ZombieWakes => self.zombie_wakes(),
            Next::Quiet => self.fall_quiet(),
        }
    }

    /// Faults that come by themselves.
    fn trouble(&mut self) {
        if self.quiet_since.is_some() {
            return;
        }
        let next = self.rng.between(1_000, 6_000);
        self.after(next, Next::Trouble);
        let gateway = self.rng.index(self.gateways.len());
        if self.rng.chance(self.faults.partition) && self.gateways[gateway].linked {
            self.coverage.hit("fault", "partition");
            self.trace(|| format!("{gateway}: cut off"));
            self.gateways[gateway].linked = false;
            let length = self.rng.heavy(4_000, 60_000);
            self.after(length, Next::Heal(gateway));
        }
        if self.rng.chance(self.faults.slow_gateway) && !self.gateways[gateway].slow {
            self.coverage.hit("fault", "slow gateway");
            self.trace(|| format!("{gateway}: slow to install"));
            self.gateways[gateway].slow = true;
            let length = self.rng.heavy(4_000, 30_000);
            self.after(length, Next::Quicken(gateway));
        }
        if self.rng.chance(self.faults.gateway_killed) && self.gateways[gateway].up {
            self.coverage.hit("fault", "gateway killed");
            self.kill_gateway(gateway);
            let length = self.rng.heavy(3_000, 60_000);
            self.after(length, Next::Revive(gateway));
        }
        if self.rng.chance(self.faults.worker_killed) {
            self.kill_some_worker();
        }
    }

    /// Faults stop; what remains must come to rest by itself.
    fn fall_quiet(&mut self) {
        self.trace(|| "quiet: faults stop".to_owned());
        self.quiet_since = Some(self.now);
        self.faults = Faults::none();
        for index in 0..self.gateways.len() {
            self.gateways[index].linked = true;
            self.gateways[index].slow = false;
            if !self.gateways[index].up {
                self.after(100, Next::Revive(index));
            }
        }
        self.after(1_000, Next::Operator);
    }

    pub(crate) fn trace(&self, text: impl Fn() -> String) {
        if self.tracing {
            let at = self.now.since(START).0;
            eprintln!("{:>5}.{:03}  {}", at / 1_000, at % 1_000, text());
        }
    }

    /// An invariant does not hold. The first one is kept: what follows may follow from it.
    pub(crate) fn violate(&mut self, check: &'static str, text: String) {
        if self.violation.is_none() {
            self.trace(|| format!("VIOLATION {check}: {text}"));
            self.violation = Some(Violation { check, text });
        }
    }

    pub(crate) fn is_mutant(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// The label of a release, for traces.
    pub(crate) fn label(&self, release: ReleaseId) -> String {
        self.truth.agent.label(release)
    }
}
