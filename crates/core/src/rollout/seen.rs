//! What the controller has seen of its gateways: volatile, never journaled.
//!
//! After a restart nothing is known. An expired lease, a report under an old table or no report at
//! all is *unknown*; only a fresh report of every known gateway makes a number. And a controller
//! that has only just begun to listen cannot tell a gateway that is gone from one it has not heard.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{GatewayId, ReleaseId};
use crate::presence::{AgentPresence, LEASE, ReleaseCounts, Totals};
use crate::rollout::agent::{Baseline, Mark};
use crate::table::Epoch;
use crate::time::Timestamp;

/// Earlier lives of one gateway whose counters are kept. One that restarts more often than this
/// within one rollout loses the oldest of them: then harm counts for less, and no verdict for more.
const LIVES_MAX: usize = 16;

/// Reports about one agent, the newest of each gateway.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    began: Timestamp,
    listened: Timestamp,
    reports: BTreeMap<GatewayId, Report>,
    /// Permits of outbound calls: each counts as a call. The driver says before every step.
    permits: BTreeMap<ReleaseId, u64>,
    /// Releases of which the platform sees a process. The driver says before every step; `None`:
    /// it has not looked yet, and that is unknown.
    processes: Option<BTreeSet<ReleaseId>>,
    /// Processes of which nobody can say whose they are. The driver says before every step.
    strays: u32,
}

#[derive(Debug, Clone)]
struct Report {
    at: Timestamp,
    incarnation: String,
    sequence: u64,
    presence: AgentPresence,
    /// Totals of earlier incarnations, as last reported.
    earlier: BTreeMap<String, BTreeMap<ReleaseId, Totals>>,
    /// The first report of all, by incarnation and totals.
    first: (String, BTreeMap<ReleaseId, Totals>),
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
    /// Nothing is known to a controller that begins to listen now.
    pub fn new(now: Timestamp) -> Self {
        Self {
            began: now,
            listened: now,
            reports: BTreeMap::new(),
            permits: BTreeMap::new(),
            processes: None,
            strays: 0,
        }
    }

    /// Says which permits of outbound calls are out, by release.
    pub fn set_permits(&mut self, permits: BTreeMap<ReleaseId, u64>) {
        self.permits = permits;
    }

    /// Says of which releases the platform sees a process.
    pub fn set_processes(&mut self, processes: BTreeSet<ReleaseId>) {
        self.processes = Some(processes);
    }

    /// Says how many processes of the agent belong to no release that is known: of a journal that
    /// is gone, or with a record that cannot be read.
    pub fn set_strays(&mut self, strays: u32) {
        self.strays = strays;
    }

    /// Processes of the agent that belong to no release that is known: each may be of an older one.
    pub fn strays(&self) -> u32 {
        self.strays
    }

    /// Permits of a release that are out.
    pub fn permits(&self, release: ReleaseId) -> u64 {
        self.permits.get(&release).copied().unwrap_or_default()
    }

    /// Whether a release may have a process: yes, as long as nobody has looked.
    pub fn has_process(&self, release: ReleaseId) -> bool {
        self.processes
            .as_ref()
            .is_none_or(|processes| processes.contains(&release))
    }

    /// Says that the controller listens at this moment: the driver does before every step, and at
    /// least once a second.
    ///
    /// After a gap (a stopped process, a suspended machine) reports lie unread, so that silence
    /// means as little as after a restart and counts anew.
    pub fn listen(&mut self, now: Timestamp) {
        if now.since(self.listened) >= LEASE {
            self.began = now;
        }
        self.listened = self.listened.max(now);
    }

    /// Since when this controller has listened without a gap.
    pub fn began(&self) -> Timestamp {
        self.began
    }

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
        let mut earlier = BTreeMap::new();
        let mut first = (incarnation.to_owned(), totals_of(&presence));
        if let Some(known) = self.reports.get(gateway) {
            let newer = (incarnation, sequence) > (known.incarnation.as_str(), known.sequence);
            if !newer {
                return;
            }
            first.clone_from(&known.first);
            earlier.clone_from(&known.earlier);
            if known.incarnation != incarnation {
                earlier.insert(known.incarnation.clone(), totals_of(&known.presence));
                if earlier.len() > LIVES_MAX {
                    earlier.pop_first();
                }
            }
        }
        let incarnation = incarnation.to_owned();
        let report = Report {
            at: now,
            incarnation,
            sequence,
            presence,
            earlier,
            first,
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
        let (mut live, mut pinned, mut gateways) = (self.permits(release), 0, Vec::new());
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
    /// started: for people. Decisions count from a baseline, see [`since`](Self::since).
    pub fn totals(&self, release: ReleaseId) -> Totals {
        let mut totals = Totals::default();
        for report in self.reports.values() {
            for (_, life) in report.lives(release) {
                totals.add(life);
            }
        }
        totals
    }

    /// Counters of a release as every gateway last reported them, to count from later.
    pub fn baseline(&self, release: ReleaseId) -> Baseline {
        let mark = |(gateway, report): (&GatewayId, &Report)| {
            let counts = report.presence.releases.get(&release);
            let totals = counts.map(|counts| counts.totals.clone());
            let mark = Mark::new(&report.incarnation, &totals.unwrap_or_default());
            (gateway.clone(), mark)
        };
        Baseline(self.reports.iter().map(mark).collect())
    }

    /// What is known to have been counted since `base`.
    ///
    /// Counters start anew with each life of a gateway, so each is compared with its own past
    /// only: a life that began after the baseline counts in full, one before it not at all. A
    /// gateway that is missing from the baseline counts from the first report seen of it. So what
    /// was counted before the baseline is never counted again, whoever restarted in between; what
    /// cannot be told apart is left out, and a verdict waits longer.
    pub fn since(&self, release: ReleaseId, base: &Baseline) -> Totals {
        let mut totals = Totals::default();
        for (gateway, report) in &self.reports {
            let mark = base.0.get(gateway).cloned().unwrap_or_else(|| {
                let (incarnation, first) = &report.first;
                let none = Totals::default();
                Mark::new(incarnation, first.get(&release).unwrap_or(&none))
            });
            for (incarnation, life) in report.lives(release) {
                match incarnation.cmp(mark.incarnation.as_str()) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => totals.add(&mark.until(life)),
                    std::cmp::Ordering::Greater => totals.add(life),
                }
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

impl Report {
    /// Counters of a release in each life of the gateway, the present one last.
    fn lives(&self, release: ReleaseId) -> impl Iterator<Item = (&str, &Totals)> {
        let earlier = self
            .earlier
            .iter()
            .filter_map(move |(life, totals)| Some((life.as_str(), totals.get(&release)?)));
        let present = self.presence.releases.get(&release);
        earlier.chain(present.map(|counts| (self.incarnation.as_str(), &counts.totals)))
    }
}

fn totals_of(presence: &AgentPresence) -> BTreeMap<ReleaseId, Totals> {
    let totals =
        |(release, counts): (&ReleaseId, &ReleaseCounts)| (*release, counts.totals.clone());
    presence.releases.iter().map(totals).collect()
}
