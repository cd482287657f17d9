//! What of a gateway the controller is linked to.

use std::sync::Arc;

use segue_core::link::{CallInfo, CallRecord};
use segue_core::names::{AgentName, CallId, GatewayId, ReleaseId};
use segue_core::presence::Presence;
use segue_core::table::{Epoch, RoutingTable};

use crate::clock;
use crate::ledger::Ledger;
use crate::link::Linked;
use crate::relay::Relay;
use crate::report::Reporter;

pub(crate) struct LinkedGateway {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) relay: Arc<Relay>,
    pub(crate) reporter: Arc<Reporter>,
}

impl Linked for LinkedGateway {
    fn gateway(&self) -> GatewayId {
        self.reporter.life().gateway.clone()
    }

    fn report(&self) -> Presence {
        self.reporter.report()
    }

    fn install(&self, table: Box<RoutingTable>) {
        let (agent, epoch) = (table.agent.clone(), table.epoch);
        match self.ledger.install(*table, clock::now()) {
            Ok(()) => tracing::info!(%agent, %epoch, "installed a table"),
            Err(stale) => tracing::debug!(%agent, %stale, "a table is ignored"),
        }
    }

    fn keep_agents(&self, names: &[AgentName]) {
        self.ledger.keep_agents(names, clock::now());
    }

    fn end_calls(&self, agent: AgentName, of: (ReleaseId, Epoch), calls: Vec<CallId>) {
        let marked = self.ledger.end_calls(&agent, of, &calls);
        if marked > 0 {
            let (release, _) = of;
            tracing::info!(%agent, %release, marked, "ending calls by policy");
            self.relay.end_marked();
        }
    }

    fn list_calls(&self, agent: Option<&AgentName>, limit: usize) -> Vec<CallInfo> {
        self.ledger.list(agent, limit)
    }

    fn holds_calls(&self) -> bool {
        *self.ledger.open().borrow() > 0
    }

    fn take_ended(&self) -> (Vec<CallRecord>, u64) {
        let ended = self.ledger.take_ended();
        (ended.records, ended.left_out)
    }

    fn put_back_ended(&self, records: Vec<CallRecord>) {
        self.ledger.put_back_ended(records);
    }
}
