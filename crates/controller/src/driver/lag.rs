//! Gateways that do not act by the table of this epoch. A cutover lands without those that are
//! silent, and a rollback without those that do not take its table; then nothing waits for them,
//! and people must still be told: their callers go where the older table says.

use std::time::Duration;

use segue_core::names::{AgentName, GatewayId};
use tokio::time::Instant;

use super::{Driver, Holding};
use crate::clock;

/// A gateway reports twice a second, so this long it may be behind without anything being wrong.
const USUAL: Duration = Duration::from_secs(1);

impl Driver {
    /// Looks which gateways are behind.
    pub(super) fn note_lag(&mut self, name: &AgentName) {
        let Some(holding) = self.agents.get_mut(name) else {
            return;
        };
        let (agent, now) = (&holding.agent, clock::now());
        let behind = holding.seen.unacked(now, &agent.gateways, agent.epoch);
        let behind = behind.names();
        holding.lag.retain(|gateway, _| behind.contains(gateway));
        for gateway in behind {
            holding.lag.entry(gateway).or_insert_with(Instant::now);
        }
    }
}

impl Holding {
    /// Who has been behind for longer than usual, in words.
    pub(super) fn lagging(&self) -> Vec<String> {
        let late = self
            .lag
            .iter()
            .filter(|(_, since)| since.elapsed() >= USUAL);
        late.map(|(gateway, _)| self.lags(gateway)).collect()
    }

    fn lags(&self, gateway: &GatewayId) -> String {
        let ours = self.agent.epoch;
        match self.seen.epoch(gateway) {
            Some(theirs) if self.seen.is_leased(clock::now(), gateway) => {
                format!("{gateway} still acts by epoch {theirs} of {ours}")
            }
            Some(theirs) => {
                format!("{gateway} is silent; it last acted by epoch {theirs} of {ours}")
            }
            None => format!("{gateway} is silent; by which table it acts is not known"),
        }
    }
}
