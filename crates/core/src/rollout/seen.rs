//! What the controller has seen of its gateways: volatile, never journaled.
//!
//! After a restart nothing is known. An expired lease, a report under an old table or no report at
//! all is *unknown*; only a fresh report of every known gateway makes a number.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{GatewayId, ReleaseId};
use crate::presence::{AgentPresence, LEASE, Totals};
use crate::table::Epoch;
use crate::time::Timestamp;

/// Reports about one agent, the newest of each gateway.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    reports: BTreeMap<GatewayId, Report>,
}

#[derive(Debug, Clone)]
struct Report {
    at: Timestamp,
    incarnation: String,
    sequence: u64,
    presence: AgentPresence,
    /// Totals of earlier incarnations.
    before: BTreeMap<ReleaseId, Totals>,
}

/// How many calls a release holds, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Count {
    /// Every known gateway has a fresh report.
    Known {
        /// Calls in progress.
        live: u64,
        /// Calls without a connection whose pin has not run out.
        pinned: u64,
    },
    /// These gateways have none.
    Unknown {
        /// Their names.
        gateways: Vec<GatewayId>,
    },
}

impl Count {
    /// Whether it is known to be zero.
    pub fn is_zero(&self) -> bool {
        *self == Self::Known { live: 0, pinned: 0 }
    }
}

/// Which gateways do not act by an epoch yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unacked {
    /// Leased, but still on an earlier table.
    pub lagging: Vec<GatewayId>,
    /// Known, but their lease has run out.
    pub silent: Vec<GatewayId>,
}

impl Unacked {
    /// Whether every known gateway acts by the epoch.
    pub fn is_empty(&self) -> bool {
        self.lagging.is_empty() && self.silent.is_empty()
    }

    /// All of them.
    pub fn names(&self) -> Vec<GatewayId> {
        self.lagging.iter().chain(&self.silent).cloned().collect()
    }
}

impl Seen {
    /// Takes in a report. One that is older than what is known, by incarnation or by sequence,
    /// is ignored: reports may be late or repeated.
    pub fn observe(
        &mut self,
        now: Timestamp,
        gateway: &GatewayId,
        incarnation: &str,
        sequence: u64,
        presence: AgentPresence,
    ) {
        let mut before = BTreeMap::new();
        if let Some(known) = self.reports.get(gateway) {
            let newer = (incarnation, sequence) > (known.incarnation.as_str(), known.sequence);
            if !newer {
                return;
            }
            before.clone_from(&known.before);
            if known.incarnation != incarnation {
                for (release, counts) in &known.presence.releases {
                    before
                        .entry(*release)
                        .or_insert_with(Totals::default)
                        .add(&counts.totals);
                }
            }
        }
        let incarnation = incarnation.to_owned();
        let report = Report {
            at: now,
            incarnation,
            sequence,
            presence,
            before,
        };
        self.reports.insert(gateway.clone(), report);
    }

    /// Drops what is known of a gateway.
    pub fn forget(&mut self, gateway: &GatewayId) {
        self.reports.remove(gateway);
    }

    /// Whether a gateway's lease holds.
    pub fn is_leased(&self, now: Timestamp, gateway: &GatewayId) -> bool {
        self.fresh(now, gateway).is_some()
    }

    fn fresh(&self, now: Timestamp, gateway: &GatewayId) -> Option<&Report> {
        self.reports
            .get(gateway)
            .filter(|report| now.since(report.at) < LEASE)
    }

    /// The epoch a gateway last reported, fresh or not.
    pub fn epoch(&self, gateway: &GatewayId) -> Option<Epoch> {
        self.reports
            .get(gateway)
            .map(|report| report.presence.epoch)
    }

    /// Calls of a release over all `known` gateways, counted under table `from` or a later one:
    /// a gateway still on an earlier table may be starting calls there right now.
    pub fn count(
        &self,
        now: Timestamp,
        known: &BTreeSet<GatewayId>,
        release: ReleaseId,
        from: Epoch,
    ) -> Count {
        let (mut live, mut pinned, mut gateways) = (0, 0, Vec::new());
        for gateway in known {
            match self
                .fresh(now, gateway)
                .filter(|report| report.presence.epoch >= from)
            {
                Some(report) => {
                    if let Some(counts) = report.presence.releases.get(&release) {
                        live += counts.live;
                        pinned += counts.pinned;
                    }
                }
                None => gateways.push(gateway.clone()),
            }
        }
        if gateways.is_empty() {
            Count::Known { live, pinned }
        } else {
            Count::Unknown { gateways }
        }
    }

    /// What the last reports say, fresh or not: for people, never for a decision.
    pub fn last_count(&self, release: ReleaseId) -> (u64, u64) {
        self.reports
            .values()
            .filter_map(|report| report.presence.releases.get(&release))
            .fold((0, 0), |(live, pinned), counts| {
                (live + counts.live, pinned + counts.pinned)
            })
    }

    /// Counters of a release over every gateway and incarnation seen since this controller
    /// started. They may fall behind what a journaled baseline says; see [`since`].
    pub fn totals(&self, release: ReleaseId) -> Totals {
        let mut totals = Totals::default();
        for report in self.reports.values() {
            if let Some(before) = report.before.get(&release) {
                totals.add(before);
            }
            if let Some(counts) = report.presence.releases.get(&release) {
                totals.add(&counts.totals);
            }
        }
        totals
    }

    /// Which of the known gateways do not act by `epoch` yet.
    pub fn unacked(&self, now: Timestamp, known: &BTreeSet<GatewayId>, epoch: Epoch) -> Unacked {
        let mut unacked = Unacked::default();
        for gateway in known {
            match self.fresh(now, gateway) {
                Some(report) if report.presence.epoch >= epoch => {}
                Some(_) => unacked.lagging.push(gateway.clone()),
                None => unacked.silent.push(gateway.clone()),
            }
        }
        unacked
    }

    /// Whether any known gateway has no fresh report.
    pub fn silent(&self, now: Timestamp, known: &BTreeSet<GatewayId>) -> Vec<GatewayId> {
        known
            .iter()
            .filter(|gateway| !self.is_leased(now, gateway))
            .cloned()
            .collect()
    }
}

/// What was counted since `base`. Counters start anew with their process: a total below its base
/// is one that lost its past, so all of it is new.
pub fn since(total: u64, base: u64) -> u64 {
    if total >= base { total - base } else { total }
}
