//! What one gateway is still to be told. Bounded by what there is to tell: one table per agent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use segue_core::link::ToGateway;
use segue_core::names::AgentName;
use segue_core::table::RoutingTable;
use tokio::sync::Notify;

/// Questions that wait; a gateway that does not read gets no more.
const ASKS_MAX: usize = 32;

#[derive(Debug)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug)]
struct Waiting {
    agents: Option<Vec<AgentName>>,
    tables: BTreeMap<AgentName, Arc<RoutingTable>>,
    asks: VecDeque<ToGateway>,
}

impl Outbox {
    /// One that says everything.
    pub(super) fn new(
        agents: Vec<AgentName>,
        tables: BTreeMap<AgentName, Arc<RoutingTable>>,
    ) -> Self {
        let waiting = Waiting {
            agents: Some(agents),
            tables,
            asks: VecDeque::new(),
        };
        let filled = Notify::new();
        filled.notify_one();
        Self {
            waiting: Mutex::new(waiting),
            filled,
        }
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.filled.notify_one();
    }

    pub(super) fn set_agents(&self, names: Vec<AgentName>) {
        self.change(|waiting| waiting.agents = Some(names));
    }

    /// Replaces a table of the same agent that was not sent yet.
    pub(super) fn set_table(&self, table: Arc<RoutingTable>) {
        self.change(|waiting| {
            waiting.tables.insert(table.agent.clone(), table);
        });
    }

    pub(super) fn ask(&self, ask: ToGateway) {
        self.change(|waiting| {
            if waiting.asks.len() < ASKS_MAX {
                waiting.asks.push_back(ask);
            }
        });
    }

    /// Waits until there is something to say, and takes all of it. Agents come first: a gateway
    /// drops tables of agents that it was not told of.
    pub(super) async fn take(&self) -> Vec<ToGateway> {
        loop {
            let messages = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let names = waiting
                    .agents
                    .take()
                    .map(|names| ToGateway::Agents { names });
                let tables = std::mem::take(&mut waiting.tables);
                let asks = std::mem::take(&mut waiting.asks);
                let table = |table: Arc<RoutingTable>| {
                    ToGateway::Table(Box::new(Arc::unwrap_or_clone(table)))
                };
                let tables = tables.into_values().map(table);
                names
                    .into_iter()
                    .chain(tables)
                    .chain(asks)
                    .collect::<Vec<_>>()
            };
            if !messages.is_empty() {
                return messages;
            }
            self.filled.notified().await;
        }
    }
}
