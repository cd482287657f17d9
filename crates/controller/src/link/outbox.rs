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
    /// Batches that were read, if that was not said yet.
    read: Option<u64>,
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
            read: None,
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

    /// So many batches were read by now.
    pub(super) fn set_read(&self, batches: u64) {
        self.change(|waiting| waiting.read = Some(batches));
    }

    pub(super) fn set_agents(&self, names: Vec<AgentName>) {
        self.change(|waiting| waiting.agents = Some(names));
    }

    /// Replaces a table of the same agent that was not sent yet. By the new one some release may
    /// wind down no more: what was to end its calls is taken back.
    pub(super) fn set_table(&self, table: Arc<RoutingTable>) {
        self.change(|waiting| {
            waiting.asks.retain(|ask| match ask {
                ToGateway::EndCalls {
                    agent,
                    release,
                    epoch,
                    ..
                } => *agent != table.agent || table.may_end(*release, *epoch),
                _ => true,
            });
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
                let read = waiting.read.take();
                let read = read.map(|batches| ToGateway::Read { batches });
                let table = |table: Arc<RoutingTable>| {
                    ToGateway::Table(Box::new(Arc::unwrap_or_clone(table)))
                };
                let tables = tables.into_values().map(table);
                names
                    .into_iter()
                    .chain(tables)
                    .chain(asks)
                    .chain(read)
                    .collect::<Vec<_>>()
            };
            if !messages.is_empty() {
                return messages;
            }
            self.filled.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use segue_core::names::ReleaseId;
    use segue_core::rollout::Agent;
    use segue_core::table::{Epoch, ReleaseRoute};

    use super::*;

    fn table(agent: &str, epoch: u64) -> Arc<RoutingTable> {
        let mut table = Agent::new(agent.parse().unwrap()).table();
        table.epoch = Epoch(epoch);
        Arc::new(table)
    }

    #[tokio::test]
    async fn a_slow_reader_gets_the_newest_table_of_each_agent() {
        let outbox = Outbox::new(vec!["a".parse().unwrap()], BTreeMap::new());
        for epoch in 1..=1_000 {
            outbox.set_table(table("a", epoch));
            outbox.set_table(table("b", epoch));
            outbox.ask(ToGateway::ListCalls {
                request: epoch,
                agent: None,
                limit: 1,
            });
        }
        let messages = outbox.take().await;
        assert_eq!(messages.len(), 1 + 2 + ASKS_MAX);
        assert!(matches!(&messages[0], ToGateway::Agents { names } if names.len() == 1));
        assert_eq!(
            messages[1],
            ToGateway::Table(Box::new((*table("a", 1_000)).clone()))
        );
        assert_eq!(
            messages[2],
            ToGateway::Table(Box::new((*table("b", 1_000)).clone()))
        );
    }

    #[tokio::test]
    async fn calls_of_a_release_that_is_current_again_are_not_ended() {
        let release = ReleaseId::of(b"v1");
        let table = |epoch, retiring: bool| {
            let mut table = (*table("a", epoch)).clone();
            let route = ReleaseRoute {
                label: "v1".parse().unwrap(),
                takes_new_calls: !retiring,
                retiring,
            };
            table.releases.insert(release, route);
            Arc::new(table)
        };
        let end = |agent: &str| ToGateway::EndCalls {
            agent: agent.parse().unwrap(),
            release,
            epoch: Epoch(1),
            calls: Vec::new(),
        };
        let outbox = Outbox::new(Vec::new(), BTreeMap::new());
        outbox.set_table(table(1, true));
        outbox.ask(end("a"));
        outbox.ask(end("b"));
        outbox.set_table(table(2, true));
        let asks = |messages: Vec<ToGateway>| {
            let ends = |is: &ToGateway| matches!(is, ToGateway::EndCalls { .. });
            messages.into_iter().filter(ends).collect::<Vec<_>>()
        };
        assert_eq!(asks(outbox.take().await), [end("a"), end("b")]);
        outbox.ask(end("a"));
        outbox.ask(end("b"));
        // Back, and drained again: the word was of the drain before.
        outbox.set_table(table(3, false));
        outbox.set_table(table(4, true));
        assert_eq!(asks(outbox.take().await), [end("b")]);
    }
}
