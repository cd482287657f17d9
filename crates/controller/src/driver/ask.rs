//! What operators ask of the driver.

use segue_core::names::{AgentName, GatewayId, ReleaseId};
use segue_core::release::{Release, ReleaseState};
use segue_core::rollout::{Agent, Event, Illegal, Input};
use segue_core::table::Epoch;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Driver;
use super::ack::{Waiting, switch};
use super::bases::Bases;
use super::{PermitAsk, Permitted};
use crate::api::wire::{ActionView, AgentView, ReleaseView, StatusView};
use crate::clock;
use crate::copies::Kept;

/// A message to the driver. Its answer may never come when the driver ends.
#[derive(Debug)]
pub(crate) enum Message {
    Ask(Ask),
    Forget {
        gateway: GatewayId,
        actor: String,
        reason: String,
        reply: oneshot::Sender<Result<Vec<AgentName>, Refused>>,
    },
    Status(oneshot::Sender<StatusView>),
    Agent(AgentName, oneshot::Sender<Option<AgentView>>),
    /// The configuration was read again.
    Reloaded,
    /// What a release may be made from.
    Bases(AgentName, oneshot::Sender<Option<Bases>>),
    /// About permits of outbound calls.
    Permit(AgentName, PermitAsk, oneshot::Sender<Permitted>),
    /// A release by its label or digest, retired or not.
    Release(
        AgentName,
        String,
        oneshot::Sender<Result<(ReleaseView, Release), Refused>>,
    ),
}

/// Something asked of one agent.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) agent: AgentName,
    pub(crate) verb: &'static str,
    pub(crate) wanted: Wanted,
    pub(crate) actor: String,
    pub(crate) reason: Option<String>,
    pub(crate) revision: Option<u64>,
    pub(crate) asked: Instant,
    /// Files of the release that is asked for: they must stay until it is decided.
    pub(crate) kept: Option<Kept>,
    pub(crate) reply: oneshot::Sender<Result<ActionView, Refused>>,
}

/// What is asked; a release may still be named in words.
#[derive(Debug)]
pub(crate) enum Wanted {
    Event(Event),
    Drain(Option<String>),
    Rollback(Option<String>),
    Retire(Option<String>),
    Contract(Option<String>),
    /// The one that was looked at; another one is not approved.
    Approve(Option<String>),
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// It does not fit; nothing has happened.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// It could not be written down.
    #[error("the decision could not be written down: {0}")]
    Journal(String),
    /// Neither the configuration nor the journal has it.
    #[error("there is no such agent")]
    UnknownAgent,
    /// No release is called so.
    #[error("there is no release {0}")]
    NoSuchRelease(String),
    /// It is about another release by now.
    #[error("{named} is not the incoming release, {incoming} is")]
    NotIncoming { named: String, incoming: String },
    /// None can be meant.
    #[error("there is no release to {0}")]
    NothingTo(String),
    /// Several can be meant.
    #[error("name the release to {verb}: {names}")]
    Several { verb: String, names: String },
}

impl Message {
    /// Whether it is the way back, which goes before all others.
    pub(crate) fn is_rollback(&self) -> bool {
        matches!(self, Self::Ask(ask) if matches!(ask.wanted, Wanted::Rollback(_)))
    }
}

impl Driver {
    pub(super) async fn take(&mut self, message: Message) {
        // Whoever asked may have gone meanwhile; that is no error.
        match message {
            Message::Ask(ask) => self.ask(ask).await,
            Message::Forget {
                gateway,
                actor,
                reason,
                reply,
            } => {
                let _ = reply.send(self.forget(&gateway, &actor, &reason).await);
            }
            Message::Status(reply) => {
                let _ = reply.send(self.status_view());
            }
            Message::Agent(name, reply) => {
                let _ = reply.send(self.agent_view(&name));
            }
            Message::Reloaded => self.note_agents(),
            Message::Bases(name, reply) => {
                let _ = reply.send(self.bases(&name));
            }
            Message::Permit(name, ask, reply) => self.permit(&name, ask, reply),
            Message::Release(name, release, reply) => {
                let _ = reply.send(self.release(&name, &release));
            }
        }
    }

    /// The label is for people: of several that are called so, one that lives is meant, else the
    /// one that was retired last.
    fn release(&self, name: &AgentName, called: &str) -> Result<(ReleaseView, Release), Refused> {
        let agent = &self.agents.get(name).ok_or(Refused::UnknownAgent)?.agent;
        let last = |id: &ReleaseId| match agent.releases[id].state {
            ReleaseState::Retired { since } => (false, since),
            _ => (true, clock::now()),
        };
        agent
            .in_state(|_| true)
            .filter(|id| is_called(agent, *id, called))
            .max_by_key(last)
            .and_then(|id| self.release_view(name, id))
            .ok_or_else(|| Refused::NoSuchRelease(called.to_owned()))
    }

    async fn ask(&mut self, ask: Ask) {
        match self.decide_ask(&ask).await {
            Err(refused) => {
                if ask.kept.is_some() {
                    drop(ask.kept);
                    self.collect_copies();
                }
                let _ = ask.reply.send(Err(refused));
            }
            Ok((facts, None)) => {
                self.settle().await;
                let view = self.agent_view(&ask.agent).ok_or(Refused::UnknownAgent);
                let answer = view.map(|agent| ActionView {
                    agent,
                    facts,
                    ack: None,
                    made_from: None,
                });
                let _ = ask.reply.send(answer);
            }
            Ok((facts, Some((switch, epoch)))) => self.waiting.push(Waiting {
                agent: ask.agent,
                switch,
                epoch,
                asked: ask.asked,
                facts,
                reply: ask.reply,
            }),
        }
    }

    async fn decide_ask(
        &mut self,
        ask: &Ask,
    ) -> Result<(Vec<String>, Option<(super::ack::Switch, Epoch)>), Refused> {
        let holding = self.agents.get(&ask.agent).ok_or(Refused::UnknownAgent)?;
        let event = match &ask.wanted {
            Wanted::Event(event) => super::reach::discreet(event.clone()),
            Wanted::Drain(name) => {
                let release = choose(&holding.agent, name.as_deref(), "drain", |state| {
                    matches!(state, ReleaseState::Current)
                })?;
                Event::Drain { release }
            }
            Wanted::Rollback(name) => {
                let from = name.as_deref().map(|name| {
                    // Whatever its state: one that takes no calls any more is the point of asking.
                    choose(
                        &holding.agent,
                        Some(name),
                        "roll back from",
                        ReleaseState::takes_new_calls,
                    )
                });
                Event::Rollback {
                    from: from.transpose()?,
                }
            }
            Wanted::Retire(name) => {
                let release = choose(&holding.agent, name.as_deref(), "retire", |state| {
                    matches!(
                        state,
                        ReleaseState::Drained { .. } | ReleaseState::Draining { .. }
                    )
                })?;
                Event::Retire { release }
            }
            Wanted::Contract(name) => Event::Contract {
                release: contract_of(&holding.agent, name.as_deref())?,
            },
            Wanted::Approve(name) => {
                let release = looked_at(&holding.agent, name.as_deref())?;
                Event::Approve { release }
            }
        };
        let input = Input {
            actor: format!("operator:{}", ask.actor),
            reason: ask.reason.clone(),
            if_revision: ask.revision,
            event,
        };
        // The journal may not have been written when they came.
        let joins = self.agents.get(&ask.agent).map(|of| self.joins(&of.agent));
        for event in joins.unwrap_or_default() {
            self.decide(&ask.agent, Input::noticed(event)).await?;
        }
        let facts = self.decide(&ask.agent, input).await?;
        let agent = &self
            .agents
            .get(&ask.agent)
            .ok_or(Refused::UnknownAgent)?
            .agent;
        let switch = switch(agent, ask.verb, &facts);
        Ok((
            facts.iter().map(segue_core::rollout::Fact::name).collect(),
            switch,
        ))
    }

    async fn forget(
        &mut self,
        gateway: &GatewayId,
        actor: &str,
        reason: &str,
    ) -> Result<Vec<AgentName>, Refused> {
        let knows = |agent: &Agent| agent.gateways.contains(gateway);
        let names: Vec<AgentName> = self
            .agents()
            .filter(|agent| knows(agent))
            .map(|agent| agent.name.clone())
            .collect();
        let alive = self
            .agents
            .values()
            .any(|holding| holding.seen.is_leased(clock::now(), gateway));
        let gateway = gateway.clone();
        if names.is_empty() {
            return Err(Illegal::UnknownGateway { gateway }.into());
        }
        if alive {
            return Err(Illegal::GatewayAlive { gateway }.into());
        }
        // From now on only a new greeting or report makes it known again.
        self.met.remove(&gateway);
        self.reports.remove(&gateway);
        self.note_behind();
        for name in &names {
            let event = Event::ForgetGateway {
                gateway: gateway.clone(),
            };
            let mut input = Input::asked(actor, event);
            input.reason = Some(reason.to_owned());
            self.decide(name, input).await?;
            if let Some(holding) = self.agents.get_mut(name) {
                holding.seen.forget(&gateway);
            }
        }
        Ok(names)
    }
}

/// The release that is named, or the only one that can be meant.
pub(super) fn choose(
    agent: &Agent,
    name: Option<&str>,
    verb: &str,
    fits: impl Fn(&ReleaseState) -> bool,
) -> Result<ReleaseId, Refused> {
    let alive = |state: &ReleaseState| !matches!(state, ReleaseState::Retired { .. });
    let mut found: Vec<ReleaseId> = match name {
        Some(name) => agent
            .in_state(alive)
            .filter(|id| is_called(agent, *id, name))
            .collect(),
        None => agent.in_state(&fits).collect(),
    };
    // The label is for people: of two, the one that the verb fits is meant.
    if found.len() > 1 && name.is_some() {
        found.retain(|id| fits(&agent.releases[id].state));
    }
    match (found.as_slice(), name) {
        ([release], _) => Ok(*release),
        ([], Some(name)) => Err(Refused::NoSuchRelease(name.to_owned())),
        ([], None) => Err(Refused::NothingTo(verb.to_owned())),
        (several, _) => {
            let names = several
                .iter()
                .map(|id| format!("{} ({id})", agent.label(*id)));
            let names = names.collect::<Vec<_>>().join(", ");
            let verb = verb.to_owned();
            Err(Refused::Several { verb, names })
        }
    }
}

/// The release whose contract hook is meant: of several that have one, the current release.
fn contract_of(agent: &Agent, name: Option<&str>) -> Result<ReleaseId, Refused> {
    let nothing = || Refused::NothingTo("run a contract hook of".to_owned());
    match name {
        Some(_) => choose(agent, name, "run the contract hook of", |_| true),
        None => agent.current().ok_or_else(nothing),
    }
}

/// Who approves has looked at a release, and it must still be the one that comes in.
fn looked_at(agent: &Agent, name: Option<&str>) -> Result<Option<ReleaseId>, Refused> {
    let (Some(name), Some(rollout)) = (name, &agent.rollout) else {
        return Ok(None);
    };
    if is_called(agent, rollout.incoming, name) {
        return Ok(Some(rollout.incoming));
    }
    if !agent
        .in_state(|_| true)
        .any(|id| is_called(agent, id, name))
    {
        return Err(Refused::NoSuchRelease(name.to_owned()));
    }
    Err(Refused::NotIncoming {
        named: name.to_owned(),
        incoming: agent.label(rollout.incoming).clone(),
    })
}

fn is_called(agent: &Agent, id: ReleaseId, name: &str) -> bool {
    agent.label(id) == name || id.short() == name || String::from(id) == name
}
