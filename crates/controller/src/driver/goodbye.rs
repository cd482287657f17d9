//! Gateways that said goodbye: forgotten without an operator.
//!
//! After a handoff the old process stays for what it could not give, under a name of its own. With
//! its last call it ends, and nobody needs to wait for its lease or to be asked whether it is gone:
//! it said so itself, after a report that showed no call, and it takes none under that name.

use std::collections::BTreeSet;

use segue_core::names::GatewayId;
use segue_core::presence::LEASE;
use segue_core::rollout::Event;

use super::{Driver, Holding};
use crate::clock;

/// What the audit log says of it.
const REASON: &str = "said goodbye with no calls";

impl Driver {
    pub(super) fn on_goodbye(&mut self, gateway: GatewayId) {
        self.met.remove(&gateway);
        self.reports.remove(&gateway);
        for holding in self.agents.values_mut() {
            // It reports no more, so its lease is no reason to keep it.
            holding.seen.forget(&gateway);
        }
        let agents = self.agents.values().map(|holding| &holding.agent);
        let known: BTreeSet<&GatewayId> = agents.flat_map(|agent| &agent.gateways).collect();
        self.goodbyes.insert(gateway);
        self.goodbyes.retain(|gateway| known.contains(gateway));
        self.note_behind();
    }

    /// To be forgotten by an agent, once the controller has listened for long enough to forget
    /// anyone.
    pub(super) fn goodbyes(&self, holding: &Holding) -> Vec<Event> {
        if clock::now().since(holding.seen.began()) < LEASE {
            return Vec::new();
        }
        let gone = self.goodbyes.intersection(&holding.agent.gateways);
        let forget = |gateway: &GatewayId| Event::ForgetGateway {
            gateway: gateway.clone(),
        };
        gone.map(forget).collect()
    }
}

/// Why an event was noticed, if its fact is to say.
pub(super) fn reason(event: &Event) -> Option<String> {
    matches!(event, Event::ForgetGateway { .. }).then(|| REASON.to_owned())
}
