//! What is true, beside what the controller knows: folded from the journal's text and from what
//! the gateways really hold.

use std::collections::{BTreeMap, BTreeSet};

use segue_core::names::ReleaseId;
use segue_core::presence::{AgentPresence, LEASE, Totals};
use segue_core::release::ReleaseState;
use segue_core::rollout::{Agent, Fact, Gate, Phase};
use segue_core::spec::Plan;
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::Timestamp;

/// One end of a call, or one that never got through.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) at: Timestamp,
    pub(crate) gateway: usize,
    pub(crate) release: ReleaseId,
    pub(crate) bad: bool,
    pub(crate) ended: bool,
}

/// The last report of one gateway that reached a controller.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    pub(crate) at: Option<Timestamp>,
    pub(crate) sent: Timestamp,
    key: (String, u64),
    pub(crate) report: AgentPresence,
    /// Totals by life.
    lives: BTreeMap<String, BTreeMap<ReleaseId, Totals>>,
}

/// What is true.
#[derive(Debug)]
pub(crate) struct Truth {
    /// Folded from the journal's text.
    pub(crate) agent: Agent,
    /// Every table that a decision made.
    pub(crate) tables: BTreeMap<Epoch, RoutingTable>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) delivered: [Delivered; 3],
    /// Releases that may take calls by the split.
    pub(crate) proven: BTreeSet<ReleaseId>,
    gates: BTreeMap<ReleaseId, BTreeSet<Gate>>,
    /// Releases a rollback could go to, or the current one.
    pub(crate) was_current: BTreeSet<ReleaseId>,
    /// When the ramp and its last step began, by what each gateway had reported.
    pub(crate) ramp_sent: [Timestamp; 3],
    pub(crate) step_sent: [Timestamp; 3],
    ramp_totals: [BTreeMap<String, Totals>; 3],
}

impl Truth {
    pub(crate) fn new(agent: Agent) -> Self {
        Self {
            agent,
            tables: BTreeMap::new(),
            outcomes: Vec::new(),
            delivered: Default::default(),
            proven: BTreeSet::new(),
            gates: BTreeMap::new(),
            was_current: BTreeSet::new(),
            ramp_sent: Default::default(),
            step_sent: Default::default(),
            ramp_totals: Default::default(),
        }
    }

    /// A report reached the controller.
    pub(crate) fn delivered(
        &mut self,
        gateway: usize,
        now: Timestamp,
        sent: Timestamp,
        key: (String, u64),
        report: &AgentPresence,
    ) {
        let known = &mut self.delivered[gateway];
        if known.at.is_some() && key <= known.key {
            return;
        }
        let totals = report
            .releases
            .iter()
            .map(|(release, counts)| (*release, counts.totals.clone()));
        known.lives.insert(key.0.clone(), totals.collect());
        known.at = Some(now);
        known.sent = sent;
        known.key = key;
        known.report = report.clone();
    }

    /// Whether a gateway holds a lease, whoever the controller is.
    pub(crate) fn is_leased(&self, gateway: usize, now: Timestamp) -> bool {
        self.delivered[gateway]
            .at
            .is_some_and(|at| now.since(at) < LEASE)
    }

    /// Calls in progress as last reported: of all releases, and of one.
    pub(crate) fn reported_live(&self, known: &[usize], release: ReleaseId) -> (u64, u64) {
        let reports = || known.iter().map(|index| &self.delivered[*index].report);
        let all = reports()
            .flat_map(|report| report.releases.values())
            .map(|counts| counts.live)
            .sum();
        let own = reports()
            .filter_map(|report| report.releases.get(&release))
            .map(|counts| counts.live)
            .sum();
        (all, own)
    }

    /// Drops and ends of a release since its ramp began, as delivered: over the gateways' present
    /// lives, or over all of them.
    pub(crate) fn since_ramp(&self, release: ReleaseId, all_lives: bool) -> (u64, u64) {
        let mut sum = (0, 0);
        for (delivered, base) in self.delivered.iter().zip(&self.ramp_totals) {
            for (life, totals) in &delivered.lives {
                let Some(totals) = totals.get(&release) else {
                    continue;
                };
                if !all_lives && *life != delivered.key.0 {
                    continue;
                }
                let none = Totals::default();
                let base = base.get(life).unwrap_or(&none);
                sum.0 += totals.dropped - base.dropped.min(totals.dropped);
                sum.1 += totals.ended - base.ended.min(totals.ended);
            }
        }
        sum
    }

    /// Calls of a release that ended, or went wrong, since some moment of each gateway.
    pub(crate) fn count_outcomes(
        &self,
        release: ReleaseId,
        since: &[Timestamp; 3],
        pred: impl Fn(&Outcome) -> bool,
    ) -> u64 {
        self.outcomes
            .iter()
            .filter(|o| o.release == release && o.at >= since[o.gateway] && pred(o))
            .count() as u64
    }

    /// Takes in a journaled fact.
    pub(crate) fn take(&mut self, fact: &Fact) {
        match fact {
            Fact::Deployed { release, .. } => {
                self.proven.remove(&release.id);
                self.gates.remove(&release.id);
            }
            Fact::GatePassed { release, gate, .. } => {
                let gates = self.gates.entry(*release).or_default();
                gates.insert(*gate);
                let plan = self.agent.rollout.as_ref().map(|r| &r.plan);
                let needs_smoke = plan.is_some_and(|plan: &Plan| plan.smoke.is_some());
                let smoke = !needs_smoke || gates.contains(&Gate::Smoke);
                if smoke && gates.contains(&Gate::Readiness) {
                    self.proven.insert(*release);
                }
            }
            Fact::GatesSkipped { release, .. } => {
                self.proven.insert(*release);
            }
            Fact::StepStarted { .. } => {
                self.step_sent = self.sent();
                let ramps = matches!(self.phase(), Some(Phase::Canary { .. }));
                if !ramps {
                    self.begin_ramp();
                }
            }
            Fact::CutOver { .. } => {
                if let Some(rollout) = &self.agent.rollout {
                    self.was_current.insert(rollout.incoming);
                }
            }
            Fact::RollbackStarted { from, to, .. } => {
                if from != to {
                    self.was_current.remove(from);
                }
                self.proven.insert(*to);
            }
            Fact::Retired { release, .. } => {
                self.was_current.remove(release);
            }
            _ => {}
        }
        self.agent.apply(fact);
    }

    fn begin_ramp(&mut self) {
        let Some(incoming) = self.agent.rollout.as_ref().map(|r| r.incoming) else {
            return;
        };
        self.ramp_sent = self.sent();
        for (base, delivered) in self.ramp_totals.iter_mut().zip(&self.delivered) {
            let of = |(life, totals): (&String, &BTreeMap<ReleaseId, Totals>)| {
                Some((life.clone(), totals.get(&incoming)?.clone()))
            };
            *base = delivered.lives.iter().filter_map(of).collect();
        }
    }

    fn sent(&self) -> [Timestamp; 3] {
        std::array::from_fn(|index| self.delivered[index].sent)
    }

    pub(crate) fn phase(&self) -> Option<&Phase> {
        self.agent.rollout.as_ref().map(|rollout| &rollout.phase)
    }

    pub(crate) fn state(&self, release: ReleaseId) -> Option<ReleaseState> {
        self.agent.releases.get(&release).map(|record| record.state)
    }

    /// Releases that a rollback could go to by what DESIGN promises: every one that was current,
    /// was not rolled back from and is not retired.
    pub(crate) fn rollback_targets(&self) -> Vec<ReleaseId> {
        let current = self.agent.current();
        self.was_current
            .iter()
            .copied()
            .filter(|release| Some(*release) != current)
            .filter(|release| {
                let incoming = self.agent.rollout.as_ref().map(|r| r.incoming);
                !(self.agent.is_rolling_out() && incoming == Some(*release))
            })
            .collect()
    }
}
