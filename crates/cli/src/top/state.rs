//! What is shown.

use segue_controller::api::wire::{AgentView, StatusView};
use segue_core::link::CallInfo;
use segue_core::time::Timestamp;

/// Newest events that are kept: more than any screen has lines.
pub(super) const EVENTS_MAX: usize = 200;

/// What is shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// The last status; `None`: not heard of yet.
    pub(super) status: Option<StatusView>,
    /// Name of the agent that is shown; `None`: the first.
    pub(super) agent: Option<String>,
    /// Its calls, oldest first.
    pub(super) calls: Vec<CallInfo>,
    /// Gateways that did not list theirs.
    pub(super) calls_unknown: Vec<String>,
    /// What was decided lately, the newest last.
    pub(super) events: Vec<Event>,
    /// How many calls are scrolled away at the top.
    pub(super) scroll: usize,
    /// What the operator is asked.
    pub(super) dialog: Option<Dialog>,
    /// Whether the page with the keys is shown.
    pub(super) help: bool,
    /// What came of the last verb.
    pub(super) said: Option<String>,
    /// Why nothing new is heard.
    pub(super) away: Option<String>,
}

/// Something that was decided, in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(super) seq: u64,
    pub(super) at: Timestamp,
    pub(super) actor: String,
    pub(super) what: String,
}

/// A verb that waits for a yes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dialog {
    pub(super) verb: Verb,
    pub(super) agent: String,
    /// What the operator looked at; somebody else's decision in between is a conflict.
    pub(super) revision: u64,
    /// What will happen.
    pub(super) consequence: String,
}

/// The verbs that have a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Pause,
    Resume,
    Promote,
    Rollback,
    Abort,
}

impl Verb {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Abort => "abort",
        }
    }
}

/// What is heard from the controller.
#[derive(Debug)]
pub(crate) struct News {
    pub(super) status: StatusView,
    pub(super) calls: Vec<CallInfo>,
    pub(super) calls_unknown: Vec<String>,
    pub(super) events: Vec<Event>,
    /// Of which agent calls and events are.
    pub(super) agent: Option<String>,
}

impl State {
    /// The agent that is shown.
    pub(super) fn shown(&self) -> Option<&AgentView> {
        let agents = &self.status.as_ref()?.agents;
        let named = |agent: &&AgentView| {
            let wanted = self.agent.as_deref();
            wanted.is_none_or(|wanted| agent.name.as_str() == wanted)
        };
        agents.iter().find(named)
    }

    /// Takes in what was heard.
    pub(super) fn take(&mut self, news: News) {
        self.away = None;
        self.status = Some(news.status);
        let is = self.shown().map(|agent| agent.name.to_string());
        // It may be of the agent that was shown a moment ago.
        if news.agent == is {
            self.calls = news.calls;
            self.calls_unknown = news.calls_unknown;
            self.events.extend(news.events);
            let old = self.events.len().saturating_sub(EVENTS_MAX);
            self.events.drain(..old);
            self.scroll = self.scroll.min(self.calls.len().saturating_sub(1));
        }
    }

    /// Shows the agent after this one.
    pub(super) fn next_agent(&mut self) {
        let Some(status) = &self.status else { return };
        let names: Vec<&str> = status.agents.iter().map(|is| is.name.as_str()).collect();
        let at = self.shown().map(|agent| agent.name.as_str());
        let at = names.iter().position(|name| Some(*name) == at);
        let next = at.map_or(0, |at| (at + 1) % names.len().max(1));
        let next = names.get(next).map(|name| (*name).to_owned());
        if next != self.agent {
            self.agent = next;
            self.calls.clear();
            self.events.clear();
            self.scroll = 0;
        }
    }
}
