//! Operators: they ask for sensible things, for the wrong ones, and two of them at once.

use segue_core::names::WorkerId;
use segue_core::plane::{DrainedBy, Steer};
use segue_core::release::ReleaseState;
use segue_core::rollout::{Badge, Event, Input, Notice};
use segue_core::time::Millis;

use super::driver::Answer;
use super::scenario::{ingress, plan, policy};
use super::world::{Next, World};

impl World {
    /// The agent's first settings.
    pub(crate) fn configure(&mut self) {
        let policy = self.scenario.policy.clone();
        let ingress = Box::new(ingress(&mut self.rng));
        self.submit(&Input::noticed(Event::Configured { ingress, policy }));
    }

    pub(crate) fn operator(&mut self) {
        if let Some(since) = self.quiet_since {
            self.last_operator(self.now.since(since));
            return;
        }
        let next = self.rng.between(50, self.scenario.patience.0 * 2);
        self.after(next, Next::Operator);
        self.stand();
        let revision = self.truth.agent.revision;
        let two = self.rng.chance(120);
        let token = match self.rng.below(10) {
            _ if two => Some(revision),
            0..=1 => Some(revision),
            2 => Some(revision.saturating_sub(1)),
            _ => None,
        };
        let first = self.verb();
        self.ask("ada", first, token);
        if two {
            let second = self.verb();
            self.ask("bob", second, token);
        }
    }

    /// Once faults have stopped: time for things to end by themselves, then an end to the rest.
    fn last_operator(&mut self, quiet: Millis) {
        self.rest();
        self.after(1_000, Next::Operator);
        self.admit_all();
        let phase = self.truth.agent.phase_word();
        let waits = matches!(phase, "provisioning" | "verifying" | "canary");
        if waits && quiet > Millis(30_000) {
            self.ask("ada", Event::Abort, None);
        }
        if self.active.is_none() {
            self.after(0, Next::Restart);
        }
    }

    fn ask(&mut self, who: &str, event: Event, token: Option<u64>) {
        let mut input = Input::asked(who, event);
        input.if_revision = token;
        input.reason = self.rng.chance(300).then(|| "because".to_owned());
        let rollback = matches!(input.event, Event::Rollback { .. }) && token.is_none();
        self.trace(|| format!("{who} asks: {} if {token:?}", input.event.name()));
        match self.submit(&input) {
            Answer::Refused(illegal) => {
                let debug = format!("{illegal:?}");
                let end = debug
                    .find(|c: char| !c.is_alphanumeric())
                    .unwrap_or(debug.len());
                self.coverage.hit("refusal", &debug[..end]);
                self.trace(|| format!("refused: {illegal}"));
                let current = self.active.as_ref().is_some_and(|c| self.is_up_to_date(c));
                if rollback && current {
                    self.i5_rollback_is_never_refused(&illegal.to_string());
                }
            }
            Answer::Done if rollback => self.i5_is_published(),
            Answer::Done | Answer::Nobody => {}
        }
    }

    fn verb(&mut self) -> Event {
        let agent = &self.truth.agent;
        let rolling = agent.is_rolling_out();
        match self.rng.below(100) {
            0..=9 if rolling => self.approval(),
            0..=29 if rolling => Event::Promote {
                full: self.rng.chance(300),
                skip_gates: self.rng.chance(300),
            },
            30..=39 if rolling => Event::Resume,
            40..=45 if rolling => Event::Abort,
            46..=51 => Event::Rollback { from: None },
            0..=60 if !rolling => self.deploy(),
            _ => self.any_verb(),
        }
    }

    fn any_verb(&mut self) -> Event {
        match self.rng.below(17) {
            0 => Event::Pause,
            1 => Event::Resume,
            2 => Event::Promote {
                full: self.rng.chance(500),
                skip_gates: self.rng.chance(200),
            },
            3 => Event::Abort,
            4 => Event::Rollback { from: None },
            5 => {
                let release = self.some_release(|state| matches!(state, ReleaseState::Current));
                Event::Drain { release }
            }
            6 | 7 => {
                let release = self.some_release(|state| {
                    matches!(
                        state,
                        ReleaseState::Drained { .. } | ReleaseState::Draining { .. }
                    )
                });
                Event::Retire { release }
            }
            8 | 9 => {
                let index = self.rng.index(self.gateways.len());
                let silent = (0..self.gateways.len())
                    .find(|index| !self.truth.is_leased(*index, self.now))
                    .filter(|_| self.rng.chance(500));
                let gateway = self.gateways[silent.unwrap_or(index)].id.clone();
                Event::ForgetGateway { gateway }
            }
            12 => self.approval(),
            13 | 14 => {
                let waiting = self.truth.agent.contracts.keys().next().copied();
                let release = match waiting.filter(|_| self.rng.chance(700)) {
                    Some(release) => release,
                    None => self.rng.pick(&self.scenario.releases).id,
                };
                Event::Contract { release }
            }
            15 => {
                let release = self.rng.pick(&self.scenario.releases).id;
                let calls = vec!["nobody's".to_owned()];
                Event::EndCalls { release, calls }
            }
            16 => Event::Notice(Box::new(self.notice())),
            10 => {
                let mut policy = policy(&mut self.rng);
                // Somebody has second thoughts about the ceiling and nothing else.
                let is = &self.truth.agent.policy;
                if is.stragglers.ceiling.is_some() && self.rng.chance(500) {
                    policy = is.clone();
                    policy.stragglers.ceiling = Some(Millis(self.rng.below(20_000)));
                }
                let ingress = Box::new(ingress(&mut self.rng));
                Event::Configured { ingress, policy }
            }
            _ => self.deploy(),
        }
    }

    /// Membership bars a worker now and then, and thinks better of it.
    fn stand(&mut self) {
        let workers: Vec<WorkerId> = self.truth.agent.workers.keys().cloned().collect();
        if workers.is_empty() || !self.rng.chance(150) {
            return;
        }
        let worker = self.rng.pick(&workers).clone();
        let why = ["fell-out", "stale"][usize::from(self.rng.chance(500))];
        let barred = self.rng.chance(400).then(|| why.to_owned());
        // Most show another token each time.
        let shows = barred.is_none() && !self.now.0.is_multiple_of(4);
        let badge = shows.then(|| Badge {
            token: format!("t{}", self.now.0).parse().expect("it is usable"),
            signer: "k1".to_owned(),
            sub: None,
        });
        self.submit(&stands(worker, badge, barred));
    }

    /// Nobody is barred any more.
    fn admit_all(&mut self) {
        let workers = self.truth.agent.workers.iter();
        let barred = workers.filter(|(_, is)| !is.takes_calls());
        let barred: Vec<WorkerId> = barred.map(|(worker, _)| worker.clone()).collect();
        for worker in barred {
            self.submit(&stands(worker, None, None));
        }
    }

    /// Something that befell a worker: it must change nothing, whenever it comes.
    fn notice(&mut self) -> Notice {
        let at = self.now;
        let release = self.rng.pick(&self.scenario.releases).id;
        let worker: WorkerId = "AW_1".parse().expect("it is a name");
        match self.rng.below(6) {
            0 => Notice::WorkerRejected {
                reason: "revoked".to_owned(),
                message: "its token is revoked".to_owned(),
                worker: Some(worker),
                label: None,
                from: None,
                times: 2,
                at,
            },
            1 => Notice::WorkerDraining {
                worker,
                release,
                jobs: 1,
                by: DrainedBy::Worker,
                at,
            },
            2 => Notice::WorkerSteered {
                worker,
                release,
                what: Steer::Kick,
                reason: None,
                at,
            },
            3 => Notice::MembershipRefused {
                document: "manifest".to_owned(),
                reason: "rollback".to_owned(),
                message: "its version is older".to_owned(),
                times: 1,
                at,
            },
            4 => Notice::JobRedispatched {
                call: "9f86d081".to_owned(),
                release,
                at,
            },
            _ => Notice::EventsLeftOut { count: 3, at },
        }
    }

    /// Of what is rolled out, of what somebody took it for, or of whatever it is.
    fn approval(&mut self) -> Event {
        let incoming = self.truth.agent.rollout.as_ref().map(|is| is.incoming);
        let release = match self.rng.below(10) {
            0..=3 => None,
            4..=7 => incoming,
            _ => Some(self.rng.pick(&self.scenario.releases).id),
        };
        Event::Approve { release }
    }

    fn deploy(&mut self) -> Event {
        let release = Box::new(self.rng.pick(&self.scenario.releases).clone());
        let plan = Box::new(plan(&mut self.rng));
        Event::Deploy { release, plan }
    }

    /// Mostly one in a fitting state, sometimes any.
    fn some_release(
        &mut self,
        fits: impl Fn(&ReleaseState) -> bool,
    ) -> segue_core::names::ReleaseId {
        let fitting: Vec<_> = self.truth.agent.in_state(fits).collect();
        if fitting.is_empty() || self.rng.chance(200) {
            self.rng.pick(&self.scenario.releases).id
        } else {
            *self.rng.pick(&fitting)
        }
    }
}

fn stands(worker: WorkerId, badge: Option<Badge>, barred: Option<String>) -> Input {
    Input::noticed(Event::WorkerStands {
        worker,
        badge,
        barred,
    })
}
