//! A gateway: tables, a ledger, exact counts, reports. Deciding and counting are one act.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use segue_core::names::{CallId, GatewayId, ReleaseId, WorkerId};
use segue_core::presence::{AgentPresence, PRESENCE_EVERY, Presence, ReleaseCounts, Totals};
use segue_core::route::{CallFacts, Pin, Reason, Refusal, choose_worker, route};
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::Timestamp;

use super::faults::Mutant;
use super::world::{Next, World};

/// One gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) id: GatewayId,
    pub(crate) up: bool,
    /// Counts its restarts.
    pub(crate) life: u64,
    pub(crate) linked: bool,
    /// Takes seconds to install a table.
    pub(crate) slow: bool,
    pub(crate) table: Option<Arc<RoutingTable>>,
    disk: Option<Arc<RoutingTable>>,
    pub(crate) ledger: BTreeMap<u64, Held>,
    pub(crate) totals: BTreeMap<ReleaseId, Totals>,
    sequence: u64,
    /// The largest epoch it ever reported, over all of its lives.
    pub(crate) acknowledged: Epoch,
    /// Workers of the tables of this life.
    pub(crate) known_workers: BTreeSet<WorkerId>,
    /// When each release last held a call or pin here that is not an override's.
    pub(crate) last_busy: BTreeMap<ReleaseId, Timestamp>,
    /// An operator said it was gone; so its calls are theirs until it acts by this epoch again.
    pub(crate) vouched: Option<Epoch>,
}

/// One call in the ledger.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) placed: Placed,
    pub(crate) live: bool,
    pub(crate) pinned_until: Timestamp,
    /// Counts its changes, so that an event about an earlier one is known for what it is.
    pub(crate) round: u32,
    pub(crate) vouched: bool,
}

/// Where a call went.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) release: ReleaseId,
    pub(crate) worker: WorkerId,
    pub(crate) reason: Reason,
    pub(crate) epoch: Epoch,
    /// Brought in by an override, now or when it began.
    pub(crate) labelled: bool,
}

/// Why a call went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nowhere {
    NoTable,
    Refused(Refusal),
    /// Decided, but no worker of the release took it.
    Unreached(ReleaseId),
}

impl Gateway {
    pub(crate) fn new(index: usize) -> Self {
        Self {
            id: format!("g{index}").parse().expect("a good name"),
            up: false,
            life: 0,
            linked: true,
            slow: false,
            table: None,
            disk: None,
            ledger: BTreeMap::new(),
            totals: BTreeMap::new(),
            sequence: 0,
            acknowledged: Epoch(0),
            known_workers: BTreeSet::new(),
            last_busy: BTreeMap::new(),
            vouched: None,
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.table.as_ref().map_or(Epoch(0), |table| table.epoch)
    }

    /// Live calls and pins of a release that are not vouched away: with `labelled`, override
    /// calls too.
    pub(crate) fn holds(&self, release: ReleaseId, labelled: bool) -> usize {
        self.ledger
            .values()
            .filter(|held| held.placed.release == release && !held.vouched)
            .filter(|held| labelled || !held.placed.labelled)
            .count()
    }

    fn report(&self) -> AgentPresence {
        let mut releases: BTreeMap<ReleaseId, ReleaseCounts> = BTreeMap::new();
        for (release, totals) in &self.totals {
            releases.entry(*release).or_default().totals = totals.clone();
        }
        let mut workers = BTreeMap::new();
        for held in self.ledger.values() {
            let counts = releases.entry(held.placed.release).or_default();
            if held.live {
                counts.live += 1;
                *workers.entry(held.placed.worker.clone()).or_default() += 1;
            } else {
                counts.pinned += 1;
            }
        }
        AgentPresence {
            epoch: self.epoch(),
            releases,
            workers,
        }
    }

    fn live_on(&self, worker: &WorkerId) -> u32 {
        let on = |held: &&Held| held.live && held.placed.worker == *worker;
        u32::try_from(self.ledger.values().filter(on).count()).expect("few calls")
    }
}

impl World {
    pub(crate) fn revive(&mut self, index: usize) {
        let gateway = &mut self.gateways[index];
        if gateway.up {
            return;
        }
        gateway.up = true;
        gateway.life += 1;
        gateway.sequence = 0;
        gateway.totals.clear();
        gateway.known_workers.clear();
        gateway.table.clone_from(&gateway.disk);
        if let Some(table) = &gateway.table {
            gateway.known_workers.extend(table.workers.keys().cloned());
        }
        let life = gateway.life;
        self.trace(|| format!("g{index}: up, life {life}"));
        self.after(
            1,
            Next::Report {
                gateway: index,
                life,
            },
        );
    }

    /// Kills a gateway: its calls are lost, which is stated and counted, and no violation.
    pub(crate) fn kill_gateway(&mut self, index: usize) {
        self.trace(|| format!("g{index}: killed"));
        let now = self.now;
        let gateway = &mut self.gateways[index];
        gateway.up = false;
        gateway.table = None;
        for (call, held) in std::mem::take(&mut gateway.ledger) {
            if !held.placed.labelled {
                gateway.last_busy.insert(held.placed.release, now);
            }
            if held.live {
                self.coverage.hit("call", "lost with gateway");
                if let Some(worker) = self.platform.workers.get_mut(&held.placed.worker) {
                    worker.calls.remove(&call);
                }
            }
            self.calls.remove(&call);
        }
    }

    pub(crate) fn report_due(&mut self, index: usize, life: u64) {
        let gateway = &self.gateways[index];
        if !gateway.up || gateway.life != life {
            return;
        }
        self.report(index);
        self.after(
            PRESENCE_EVERY.0,
            Next::Report {
                gateway: index,
                life,
            },
        );
    }

    fn report(&mut self, index: usize) {
        let gateway = &mut self.gateways[index];
        gateway.sequence += 1;
        if !gateway.linked {
            return;
        }
        let agents = BTreeMap::from([(self.name.clone(), gateway.report())]);
        gateway.acknowledged = gateway.acknowledged.max(gateway.epoch());
        let presence = Presence {
            gateway: gateway.id.clone(),
            incarnation: format!("{:08}", gateway.life),
            sequence: gateway.sequence,
            agents,
        };
        let (sent, to) = (self.now, self.lives);
        self.send(|| Next::Presence {
            presence: Box::new(presence.clone()),
            gateway: index,
            sent,
            to,
        });
    }

    /// The gateway end of a published table.
    pub(crate) fn table_arrives(&mut self, index: usize, table: &Arc<RoutingTable>) {
        let gateway = &self.gateways[index];
        let larger = table.epoch > gateway.epoch();
        if !gateway.up || !gateway.linked {
            return;
        }
        if !larger && !self.is_mutant(Mutant::GatewayTakesSmallerEpoch) {
            return;
        }
        self.i9_a_table_follows_from_the_journal(table);
        let persists = !self.is_mutant(Mutant::GatewayForgetsTable);
        let gateway = &mut self.gateways[index];
        gateway.known_workers.extend(table.workers.keys().cloned());
        // On disk first: a restart must not act by less than was acknowledged.
        if persists || gateway.disk.is_none() {
            gateway.disk = Some(table.clone());
        }
        gateway.table = Some(table.clone());
        if gateway.vouched.is_some_and(|epoch| table.epoch >= epoch) {
            gateway.vouched = None;
        }
        self.trace(|| format!("g{index}: epoch {}", table.epoch));
        self.i4_epochs_only_grow(index);
        self.report(index);
    }

    /// Decides where a call goes, and finds a worker that answers.
    pub(crate) fn place(
        &mut self,
        index: usize,
        call: u64,
        (pin, version_override): (Option<Pin>, Option<&str>),
        vip: bool,
    ) -> Result<Placed, Nowhere> {
        let Some(table) = self.gateways[index].table.clone() else {
            return Err(Nowhere::NoTable);
        };
        let id: CallId = format!("c{call}").parse().expect("a good id");
        let headers = [("x-vip".to_owned(), "yes".to_owned())];
        let held = self.gateways[index].ledger.get(&call);
        let facts = CallFacts {
            call: &id,
            cohort: None,
            caller: None,
            tenant: None,
            headers: if vip { &headers } else { &[] },
            pin: pin.clone(),
            connected: held.is_some_and(|held| held.live),
            version_override,
        };
        let decision = route(&table, &facts).map_err(Nowhere::Refused)?;
        let pin = pin.filter(|pin| pin.release == decision.release);
        let mut tried = BTreeSet::new();
        loop {
            let gateway = &self.gateways[index];
            let chosen = choose_worker(
                &table,
                decision.release,
                pin.as_ref(),
                |worker| gateway.live_on(worker),
                |worker| !tried.contains(worker),
                id.as_str(),
            );
            let Ok(worker) = chosen else {
                return Err(Nowhere::Unreached(decision.release));
            };
            if pin.is_none() && table.workers[&worker].barred {
                let text = format!("c{call} is new at {worker}");
                self.violate("a_barred_worker_gets_no_new_call", text);
            }
            // A worker that was told to stop may still answer.
            if self.accepts(&worker) {
                return Ok(Placed {
                    release: decision.release,
                    worker,
                    reason: decision.reason,
                    epoch: table.epoch,
                    labelled: decision.reason == Reason::Override,
                });
            }
            tried.insert(worker);
        }
    }

    /// The pin of a call, if it has not run out.
    pub(crate) fn pin(&self, index: usize, call: u64) -> Option<Pin> {
        let held = self.gateways[index].ledger.get(&call)?;
        (held.live || held.pinned_until > self.now).then(|| Pin {
            release: held.placed.release,
            worker: held.placed.worker.clone(),
        })
    }

    pub(crate) fn pin_ends(&mut self, index: usize, life: u64, call: u64, round: u32) {
        let gateway = &mut self.gateways[index];
        let ends = gateway
            .ledger
            .get(&call)
            .is_some_and(|held| !held.live && held.round == round);
        if gateway.life == life && ends {
            self.let_go(index, call);
            self.calls.remove(&call);
        }
    }

    /// Takes a call out of the ledger.
    pub(crate) fn let_go(&mut self, index: usize, call: u64) {
        let now = self.now;
        let gateway = &mut self.gateways[index];
        if let Some(held) = gateway.ledger.remove(&call)
            && !held.placed.labelled
            && !held.vouched
        {
            gateway.last_busy.insert(held.placed.release, now);
        }
    }
}
