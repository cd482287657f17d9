//! What is true, beside what the controller knows: folded from the journal's text and from what
//! the gateways really hold.

use std::collections::{BTreeMap, BTreeSet};

use segue_core::names::ReleaseId;
use segue_core::presence::{AgentPresence, LEASE};
use segue_core::release::ReleaseState;
use segue_core::rollout::{Agent, Fact, Gate, Phase};
use segue_core::spec::{Before, Plan, StragglerPolicy};
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::Timestamp;

/// One end of a call, or one that never got through.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) at: Timestamp,
    pub(crate) gateway: usize,
    pub(crate) life: u64,
    pub(crate) release: ReleaseId,
    pub(crate) bad: bool,
    pub(crate) ended: bool,
}

/// The last report of one gateway that reached a controller.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    pub(crate) at: Option<Timestamp>,
    pub(crate) sent: Timestamp,
    life: u64,
    sequence: u64,
    pub(crate) report: AgentPresence,
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
    pub(crate) gates: BTreeMap<ReleaseId, BTreeSet<Gate>>,
    /// Let through without gates in their last rollout.
    pub(crate) skipped: BTreeSet<ReleaseId>,
    /// Landed at some time, and not rolled back from since.
    pub(crate) served_well: BTreeSet<ReleaseId>,
    /// Numbers of the first and the last rollout of each release.
    pub(crate) rollouts: BTreeMap<ReleaseId, (u64, u64)>,
    /// Whose calls the log has ever said are handed off: a gateway may act by a table of then, and
    /// that it was decided so is another check's.
    pub(crate) handed_off: BTreeSet<ReleaseId>,
    /// Calls that the log says are ended by policy.
    pub(crate) ending: BTreeSet<(ReleaseId, String)>,
    /// Releases a rollback could go to, or the current one.
    pub(crate) was_current: BTreeSet<ReleaseId>,
    /// When the ramp and its last step began, by what each gateway had reported.
    pub(crate) ramp_sent: [Timestamp; 3],
    pub(crate) step_sent: [Timestamp; 3],
    ramp_at: Timestamp,
    /// Gateways that were heard when it began. Others count from their first report.
    ramp_heard: [bool; 3],
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
            skipped: BTreeSet::new(),
            served_well: BTreeSet::new(),
            rollouts: BTreeMap::new(),
            handed_off: BTreeSet::new(),
            ending: BTreeSet::new(),
            was_current: BTreeSet::new(),
            ramp_sent: Default::default(),
            step_sent: Default::default(),
            ramp_at: Timestamp(0),
            ramp_heard: [false; 3],
        }
    }

    /// A report reached the controller.
    pub(crate) fn delivered(
        &mut self,
        gateway: usize,
        now: Timestamp,
        sent: Timestamp,
        (life, sequence): (u64, u64),
        report: &AgentPresence,
    ) {
        let known = &mut self.delivered[gateway];
        if known.at.is_some() && (life, sequence) <= (known.life, known.sequence) {
            return;
        }
        known.at = Some(now);
        known.sent = sent;
        (known.life, known.sequence) = (life, sequence);
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
        let counts = |o: &&Outcome| {
            let delivered = &self.delivered[o.gateway];
            o.release == release
                && o.ended
                && self.ramp_heard[o.gateway]
                && o.at > self.ramp_at
                && o.at < delivered.sent
                && (all_lives || o.life == delivered.life)
        };
        let counted = || self.outcomes.iter().filter(counts);
        let dropped = counted().filter(|o| o.bad).count();
        (dropped as u64, counted().count() as u64)
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
            Fact::Deployed {
                release, rollout, ..
            } => {
                self.proven.remove(&release.id);
                self.gates.remove(&release.id);
                self.skipped.remove(&release.id);
                let numbers = self.rollouts.entry(release.id);
                numbers.or_insert((*rollout, *rollout)).1 = *rollout;
            }
            Fact::GatePassed { release, gate, .. } => {
                let gates = self.gates.entry(*release).or_default();
                gates.insert(gate.clone());
                let plan = self.agent.rollout.as_ref().map(|r| &r.plan);
                if plan.is_some_and(|plan| asked(plan).is_subset(gates)) {
                    self.proven.insert(*release);
                }
            }
            Fact::GatesSkipped { release, .. } => {
                self.proven.insert(*release);
                self.skipped.insert(*release);
            }
            Fact::CeilingReached {
                release,
                policy: StragglerPolicy::HandOff,
                ..
            } => {
                self.handed_off.insert(*release);
            }
            Fact::CallsEnding { release, calls, .. } => {
                let calls = calls.iter().map(|call| (*release, call.clone()));
                self.ending.extend(calls);
            }
            Fact::Landed { .. } => {
                let incoming = self.agent.rollout.as_ref().map(|r| r.incoming);
                self.served_well.extend(incoming);
            }
            Fact::StepStarted { at, .. } => {
                self.step_sent = self.sent();
                if !matches!(self.phase(), Some(Phase::Canary { .. })) {
                    self.ramp_sent = self.sent();
                    self.ramp_at = *at;
                    self.ramp_heard = std::array::from_fn(|index| self.is_leased(index, *at));
                }
            }
            Fact::CutOver { at, .. } => {
                if !matches!(self.phase(), Some(Phase::Canary { .. })) {
                    self.ramp_sent = self.sent();
                    self.ramp_at = *at;
                    self.ramp_heard = std::array::from_fn(|index| self.is_leased(index, *at));
                }
                if let Some(rollout) = &self.agent.rollout {
                    self.was_current.insert(rollout.incoming);
                }
            }
            Fact::RollbackStarted { from, to, .. } => {
                if from != to {
                    self.was_current.remove(from);
                    self.served_well.remove(from);
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

/// Gates that a plan asks for before the first call by the split.
fn asked(plan: &Plan) -> BTreeSet<Gate> {
    let mut gates = BTreeSet::from([Gate::Readiness]);
    if plan.smoke.is_some() {
        gates.insert(Gate::Smoke);
    }
    if plan.hooks.before_deploy.is_some() {
        gates.insert(Gate::BeforeDeploy);
    }
    if plan.approval.is_some_and(|is| is.before == Before::Ramp) {
        gates.insert(Gate::Approval);
    }
    let webhooks = plan.webhooks.iter();
    gates.extend(webhooks.map(|is| Gate::Webhook(is.name.clone())));
    gates
}
