//! What of a dispatcher the controller is linked to, as to a gateway.

use std::sync::{Arc, Mutex, PoisonError};

use segue_core::dispatch::Event;
use segue_core::link::{CallInfo, CallRecord};
use segue_core::names::{AgentName, CallId, GatewayId, ReleaseId, WorkerId};
use segue_core::plane::PlaneEvent;
use segue_core::plane::{ConnectedWorker, Steer};
use segue_core::presence::Presence;
use segue_core::table::{Epoch, RoutingTable};
use segue_gateway::clock;
use segue_gateway::link::Linked;

use crate::hub::Hub;

pub(crate) struct LinkedDispatcher {
    pub(crate) hub: Arc<Hub>,
    /// This life of the dispatcher.
    pub(crate) incarnation: String,
    pub(crate) sequence: Mutex<u64>,
}

impl Linked for LinkedDispatcher {
    fn gateway(&self) -> GatewayId {
        self.hub.config.gateway.clone()
    }

    fn report(&self) -> Presence {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        *sequence += 1;
        Presence {
            gateway: self.gateway(),
            incarnation: self.incarnation.clone(),
            sequence: *sequence,
            agents: self.hub.presence(),
        }
    }

    fn install(&self, table: Box<RoutingTable>) {
        tracing::info!(agent = %table.agent, epoch = %table.epoch, "installed a table");
        self.hub.step(Event::Table(table));
    }

    fn keep_agents(&self, names: &[AgentName]) {
        let names = names.to_vec();
        self.hub.step(Event::Agents { names });
    }

    fn end_calls(&self, agent: AgentName, of: (ReleaseId, Epoch), calls: Vec<CallId>) {
        let (release, epoch) = of;
        self.hub.step(Event::EndCalls {
            agent,
            release,
            epoch,
            calls,
        });
    }

    fn list_calls(&self, agent: Option<&AgentName>, limit: usize) -> Vec<CallInfo> {
        self.hub.list(agent, limit)
    }

    fn holds_calls(&self) -> bool {
        self.hub.job_count() > 0
    }

    fn take_ended(&self) -> (Vec<CallRecord>, u64) {
        self.hub.take_ended()
    }

    fn put_back_ended(&self, records: Vec<CallRecord>) {
        self.hub.put_back_ended(records);
    }

    fn list_workers(&self, agent: Option<&AgentName>, limit: usize) -> Vec<ConnectedWorker> {
        self.hub.list_workers(agent, limit)
    }

    fn steer(&self, agent: &AgentName, worker: &WorkerId, what: Steer) -> Option<ConnectedWorker> {
        self.hub.steer(agent, worker, what)
    }
    fn take_events(&self, all: bool) -> (Vec<PlaneEvent>, u64) {
        self.hub.events.take(clock::now(), all)
    }

    fn put_back_events(&self, events: Vec<PlaneEvent>) {
        self.hub.events.put_back(events);
    }
}
