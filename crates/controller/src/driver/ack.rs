//! Waiting for gateways to acknowledge a cutover or a rollback before its asker is answered.

use std::time::Duration;

use segue_core::names::{AgentName, GatewayId};
use segue_core::rollout::{Agent, Fact, Phase, ROLLBACK_WAIT};
use segue_core::table::Epoch;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Driver, Refused};
use crate::api::wire::{AckView, ActionView};
use crate::clock;

/// How long a cutover is waited for. It lands by itself later; who asked is told who is missing.
const CUTOVER_WAIT: Duration = Duration::from_secs(10);

/// What must be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    Cutover,
    Rollback,
}

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) agent: AgentName,
    pub(super) switch: Switch,
    pub(super) epoch: Epoch,
    pub(super) asked: Instant,
    pub(super) facts: Vec<String>,
    pub(super) reply: oneshot::Sender<Result<ActionView, Refused>>,
}

impl Waiting {
    fn patience(&self) -> Duration {
        match self.switch {
            Switch::Cutover => CUTOVER_WAIT,
            Switch::Rollback => Duration::from_millis(ROLLBACK_WAIT.0),
        }
    }
}

/// Whether what was just decided, or had been decided already, is a switch.
pub(super) fn switch(agent: &Agent, verb: &str, facts: &[Fact]) -> Option<(Switch, Epoch)> {
    let again = facts.is_empty() && matches!(verb, "promote" | "rollback" | "abort");
    let decided = facts
        .iter()
        .any(|fact| matches!(fact, Fact::CutOver { .. } | Fact::RollbackStarted { .. }));
    if !again && !decided {
        return None;
    }
    match agent.rollout.as_ref()?.phase {
        Phase::Promoting { epoch, .. } => Some((Switch::Cutover, epoch)),
        Phase::RollingBack { epoch, .. } => Some((Switch::Rollback, epoch)),
        _ => None,
    }
}

impl Driver {
    /// When somebody's patience ends.
    pub(super) fn until_ack(&self) -> Option<Duration> {
        let left = |waiting: &Waiting| waiting.patience().saturating_sub(waiting.asked.elapsed());
        self.waiting.iter().map(left).min()
    }

    /// Answers everybody who need not wait any longer.
    pub(super) fn answer_acknowledged(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            match self.unacked(&waiting) {
                Some(unacked) => self.answer(waiting, unacked),
                None => self.waiting.push(waiting),
            }
        }
    }

    /// Who has not acknowledged; `None`: they may still be waited for.
    fn unacked(&self, waiting: &Waiting) -> Option<Vec<GatewayId>> {
        let Some(holding) = self.agents.get(&waiting.agent) else {
            return Some(Vec::new());
        };
        let agent = &holding.agent;
        let unacked = holding
            .seen
            .unacked(clock::now(), &agent.gateways, waiting.epoch);
        let phase = agent.rollout.as_ref().map(|rollout| &rollout.phase);
        let under_way = match (waiting.switch, phase) {
            (Switch::Cutover, Some(Phase::Promoting { epoch, .. }))
            | (Switch::Rollback, Some(Phase::RollingBack { epoch, .. })) => *epoch == waiting.epoch,
            _ => false,
        };
        let over = waiting.asked.elapsed() >= waiting.patience();
        // While the journal cannot be written the phase stays, although all have acknowledged.
        let acknowledged = unacked.is_empty();
        (acknowledged || !under_way || over).then(|| unacked.names())
    }

    fn answer(&self, waiting: Waiting, unacked: Vec<GatewayId>) {
        let Some(agent) = self.agent_view(&waiting.agent) else {
            return;
        };
        let waited_ms = u64::try_from(waiting.asked.elapsed().as_millis()).unwrap_or(u64::MAX);
        let ack = Some(AckView {
            epoch: waiting.epoch,
            waited_ms,
            at: clock::now(),
            unacked,
        });
        // Who asked may have gone; what they asked for is done all the same.
        let _ = waiting.reply.send(Ok(ActionView {
            agent,
            facts: waiting.facts,
            ack,
            made_from: None,
        }));
    }
}
