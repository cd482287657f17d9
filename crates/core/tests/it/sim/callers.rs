//! Callers: they call, hang up, lose their connection, call back, and some come by webhook.

use segue_core::route::Reason;
use segue_core::spec::OnRollback;
use segue_core::time::Millis;

use super::faults::Mutant;
use super::gateway::{Held, Nowhere, Placed};
use super::platform::Life;
use super::truth::Outcome;
use super::world::{Next, World};

/// One caller's conversation.
#[derive(Debug)]
pub(crate) struct Call {
    /// Where it is, and in which life of that gateway.
    home: (usize, u64),
    /// How often it will still lose its connection and come back.
    drops_left: u32,
    vip: bool,
    /// Counts connections.
    round: u32,
}

impl World {
    pub(crate) fn arrival(&mut self) {
        if self.quiet_for() > Millis(15_000) {
            return;
        }
        let gap = self.scenario.gap.0;
        let next = self.rng.between(1, gap * 2);
        self.after(next, Next::Arrival);
        let vip = self.rng.chance(150);
        let webhook = self.rng.chance(120);
        self.new_call(None, vip, webhook);
    }

    pub(crate) fn staff_call(&mut self) {
        if self.quiet_since.is_some() {
            return;
        }
        let next = self.rng.between(500, 9_000);
        self.after(next, Next::StaffCall);
        let releases = &self.scenario.releases;
        let label = releases[self.rng.index(releases.len())].label.to_string();
        self.new_call(Some(&label), false, false);
    }

    /// A new call at some gateway; answers whether it got through.
    pub(crate) fn new_call(&mut self, staff: Option<&str>, vip: bool, webhook: bool) -> bool {
        let up: Vec<usize> = (0..self.gateways.len())
            .filter(|index| self.gateways[*index].up)
            .collect();
        if up.is_empty() {
            return false;
        }
        let index = *self.rng.pick(&up);
        self.calls_made += 1;
        let call = self.calls_made;
        match self.place(index, call, (None, staff), vip) {
            Ok(placed) => {
                if webhook {
                    self.coverage.hit("call", "webhook pin");
                }
                self.coverage.hit("call", placed.reason.word());
                let drops_left = if self.rng.chance(250) { 2 } else { 0 };
                self.calls.insert(
                    call,
                    Call {
                        home: (index, self.gateways[index].life),
                        drops_left,
                        vip,
                        round: 0,
                    },
                );
                self.start(index, call, placed, webhook);
                true
            }
            Err(why) => {
                self.went_nowhere(index, why, staff.is_some());
                false
            }
        }
    }

    fn went_nowhere(&mut self, index: usize, why: Nowhere, labelled: bool) {
        self.coverage.hit("call", "refused");
        if let Nowhere::Unreached(release) = why
            && !labelled
        {
            let totals = self.gateways[index].totals.entry(release).or_default();
            totals.started += 1;
            totals.errors += 1;
            self.truth.outcomes.push(Outcome {
                at: self.now,
                gateway: index,
                life: self.gateways[index].life,
                release,
                bad: true,
                ended: false,
            });
        }
    }

    /// Counts a decision, at once as a gateway must, or later as the mutant does.
    fn start(&mut self, index: usize, call: u64, placed: Placed, webhook: bool) {
        if self.is_mutant(Mutant::GatewayCountsLate) {
            let delay = self.rng.between(1, 2_000);
            let placed = Box::new(placed);
            self.after(
                delay,
                Next::Counted {
                    gateway: index,
                    call,
                    placed,
                },
            );
            return;
        }
        self.count(index, call, &placed);
        if webhook && let Some(held) = self.gateways[index].ledger.get_mut(&call) {
            held.live = false;
            held.pinned_until = self.now;
            if let Some(worker) = self.platform.workers.get_mut(&placed.worker) {
                worker.calls.remove(&call);
            }
            self.pin_call(index, call);
            let delay = self.rng.between(50, 1_500);
            self.after(delay, Next::Reconnect { call, round: 0 });
        }
    }

    pub(crate) fn count(&mut self, index: usize, call: u64, placed: &Placed) {
        let Some(known) = self.calls.get(&call) else {
            return;
        };
        if known.home != (index, self.gateways[index].life) || !self.gateways[index].up {
            self.calls.remove(&call);
            return;
        }
        self.check_new_call(index, placed);
        let gateway = &mut self.gateways[index];
        if !placed.labelled {
            gateway.totals.entry(placed.release).or_default().started += 1;
        }
        let held = Held {
            placed: placed.clone(),
            live: true,
            pinned_until: self.now,
            round: 0,
            vouched: gateway.vouched.is_some(),
        };
        gateway.ledger.insert(call, held);
        self.connect(call, placed);
    }

    /// The connection stands: it will end one way or another.
    fn connect(&mut self, call: u64, placed: &Placed) {
        if let Some(worker) = self.platform.workers.get_mut(&placed.worker) {
            worker.calls.insert(call);
        }
        let length = self.rng.heavy(self.scenario.length.0, 120_000);
        let round = self.calls.get_mut(&call).map_or(0, |known| {
            known.round += 1;
            known.round
        });
        self.after(length, Next::CallEnds { call, round });
    }

    pub(crate) fn call_ends(&mut self, call: u64, round: u32) {
        let Some(known) = self.calls.get(&call).filter(|known| known.round == round) else {
            return;
        };
        let (index, _) = known.home;
        let Some(held) = self.gateways[index].ledger.get(&call).filter(|h| h.live) else {
            return;
        };
        let quality = self.scenario.quality[&held.placed.release];
        let bad = match quality {
            super::scenario::Quality::Drops => true,
            super::scenario::Quality::TurnsBad => {
                self.truth.agent.current() == Some(held.placed.release)
            }
            _ => false,
        };
        let dropped = bad && self.rng.chance(500);
        self.disconnected(call, dropped);
    }

    /// A connection ended. The caller may come back.
    pub(crate) fn disconnected(&mut self, call: u64, dropped: bool) {
        let Some(known) = self.calls.get_mut(&call) else {
            return;
        };
        let (index, _) = known.home;
        let round = known.round;
        let again = known.drops_left > 0;
        known.drops_left = known.drops_left.saturating_sub(1);
        let gateway = &mut self.gateways[index];
        let Some(held) = gateway.ledger.get(&call).filter(|held| held.live) else {
            return;
        };
        let placed = held.placed.clone();
        if !placed.labelled {
            let life = gateway.life;
            let totals = gateway.totals.entry(placed.release).or_default();
            totals.ended += 1;
            totals.dropped += u64::from(dropped);
            self.truth.outcomes.push(Outcome {
                at: self.now,
                gateway: index,
                life,
                release: placed.release,
                bad: dropped,
                ended: true,
            });
        }
        if let Some(worker) = self.platform.workers.get_mut(&placed.worker) {
            worker.calls.remove(&call);
        }
        // A clean end with nothing to come back for still leaves a pin in most setups.
        if !again && self.rng.chance(300) {
            self.let_go(index, call);
            self.calls.remove(&call);
            return;
        }
        self.pin_call(index, call);
        if again {
            let delay = self.rng.heavy(400, 12_000);
            self.after(delay, Next::Reconnect { call, round });
        }
    }

    fn pin_call(&mut self, index: usize, call: u64) {
        let gateway = &mut self.gateways[index];
        let window = gateway.table.as_ref().map_or(Millis(0), |t| t.stickiness);
        let life = gateway.life;
        let Some(held) = gateway.ledger.get_mut(&call) else {
            return;
        };
        held.live = false;
        held.round += 1;
        held.pinned_until = self.now + window;
        let (round, until) = (held.round, held.pinned_until);
        self.at(
            until,
            Next::PinEnds {
                gateway: index,
                life,
                call,
                round,
            },
        );
    }

    pub(crate) fn reconnect(&mut self, call: u64, round: u32) {
        let Some(known) = self.calls.get(&call) else {
            return;
        };
        let (index, life) = known.home;
        let gone = !self.gateways[index].up || self.gateways[index].life != life;
        if gone || known.round != round {
            return;
        }
        let (vip, pin) = (known.vip, self.pin(index, call));
        let Some(before) = self.gateways[index].ledger.get(&call).cloned() else {
            return;
        };
        if before.live {
            return;
        }
        let answer = self.place(index, call, (pin.clone(), None), vip);
        if pin.is_some() {
            self.i2_a_call_keeps_its_release(index, &before, &answer);
        }
        match answer {
            Ok(mut placed) if placed.reason == Reason::Pin => {
                self.coverage.hit("call", "pin");
                placed.labelled = before.placed.labelled;
                placed.epoch = before.placed.epoch;
                let gateway = &mut self.gateways[index];
                let held = gateway.ledger.get_mut(&call).expect("found above");
                held.live = true;
                held.round += 1;
                held.placed = placed.clone();
                self.connect(call, &placed);
            }
            Ok(placed) => {
                if pin.is_some() {
                    self.coverage.hit("call", "moved on reconnect");
                    if self.truth.handed_off.contains(&before.placed.release) {
                        self.coverage.hit("way", "moved by a hand-off");
                    }
                }
                self.let_go(index, call);
                self.count(index, call, &placed);
            }
            Err(why) => self.went_nowhere(index, why, before.placed.labelled),
        }
    }

    /// Whether a worker takes a connection: one that was told to stop may, until it is gone.
    pub(crate) fn accepts(&self, worker: &segue_core::names::WorkerId) -> bool {
        self.platform
            .workers
            .get(worker)
            .is_some_and(|worker| matches!(worker.life, Life::Ready | Life::Stopping))
    }

    /// Whether a gateway may move a call on reconnect: its table says so.
    pub(crate) fn may_move(&self, index: usize, held: &Held) -> bool {
        let release = held.placed.release;
        self.gateways[index].table.as_ref().is_some_and(|table| {
            let rolled_back =
                table.on_rollback == OnRollback::Move && table.rolled_back.contains(&release);
            // Only what the log says first.
            let handed_off =
                table.handed_off.contains(&release) && self.truth.handed_off.contains(&release);
            rolled_back || handed_off
        })
    }

    fn quiet_for(&self) -> Millis {
        self.quiet_since
            .map_or(Millis(0), |since| self.now.since(since))
    }
}
