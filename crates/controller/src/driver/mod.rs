//! The one task that owns every agent. It hears what happens, has core decide, writes the decision
//! down, and only then acts on it.
//!
//! What comes in wakes it and is taken in; then everything that follows is settled, at its own
//! pace. Apart from what operators ask and gateways report, inputs are levels: workers, smoke
//! outcomes and the configuration are compared with what was decided, so that nothing is lost
//! while the journal cannot be written. Then nothing is decided: gateways go on by the tables they
//! have, and operators are told.

mod ack;
mod ask;
mod bases;
mod carry;
mod decide;
mod dialling;
mod goodbye;
mod hooks;
mod lag;
mod members;
mod notices;
mod reach;
mod trouble;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use segue_core::names::{AgentName, GatewayId};
use segue_core::presence::Presence;
use segue_core::rollout::{Agent, Event, Input, Seen};
use segue_core::table::{Epoch, RoutingTable};
use segue_core::time::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use crate::clock;
use crate::copies::Copies;
use crate::hooks::Hooks;
use crate::link::{Heard, Link};
use crate::membership::Membership;
use crate::platform::Platform;
use crate::smoke::Smoker;
use crate::specs::Specs;
use crate::store::{Head, Journal, StoreError};

use self::ack::Waiting;
pub(crate) use self::ask::{Ask, Message, Refused, Wanted};
pub(crate) use self::bases::Bases;
use self::decide::replay;
pub(crate) use self::decide::{blocking, describe, verify};
pub(crate) use self::dialling::{PermitAsk, PermitRefused, Permitted};
use self::members::Showed;
use self::notices::Notices;
pub(crate) use self::reach::Outreach;
use self::trouble::Trouble;

/// Messages of operators that wait; more are refused.
const ASKS_MAX: usize = 64;
/// Rollbacks that wait. They have a queue of their own, which goes first: whatever else is asked,
/// there is room for the way back.
const ROLLBACKS_MAX: usize = 16;
/// Reports of gateways that wait; more wait in their sockets.
pub(crate) const HEARD_MAX: usize = 256;

/// The longest the driver sleeps: leases run out without a message.
const SLEEP_MAX: Duration = Duration::from_millis(250);
/// Reports taken in before what follows from them is settled.
const HEARD_BATCH_MAX: usize = 64;
/// Decisions that may follow from one another at once. A rollout has no cycles that take no time.
const TICKS_MAX: usize = 64;
/// How long the journal is left alone after it could not be written; operators still try it.
const JOURNAL_RETRY: Duration = Duration::from_secs(1);
/// How often everything is carried out again although nothing was decided. It costs little, and
/// mends whatever a platform missed.
const CARRY_AGAIN: Duration = Duration::from_secs(5);

/// One agent: what was decided, and what was seen.
#[derive(Debug)]
struct Holding {
    agent: Agent,
    seen: Seen,
    /// The effects of the last decision are not carried out yet.
    dirty: bool,
    /// Since when smoke calls wait for a gateway.
    smoke_waits: Option<Instant>,
    /// What is wrong with the workers of the last rollout.
    trouble: Option<Trouble>,
    /// Since when gateways have been behind.
    lag: BTreeMap<GatewayId, Instant>,
}

impl Holding {
    fn new(agent: Agent) -> Self {
        Self {
            agent,
            seen: Seen::new(clock::now()),
            dirty: true,
            smoke_waits: None,
            trouble: None,
            lag: BTreeMap::new(),
        }
    }
}

/// What wakes the driver.
enum Woken {
    Asked(Box<Message>),
    Heard(Heard),
    /// Nobody can ask any more.
    Alone,
    /// Something was done, or time passed.
    Rung,
}

/// Where the driver is asked.
pub(crate) struct Asks {
    pub(crate) rollbacks: mpsc::Receiver<Message>,
    pub(crate) others: mpsc::Receiver<Message>,
}

impl Asks {
    /// The two queues, and where to send to each: rollbacks first.
    pub(crate) fn new() -> ([mpsc::Sender<Message>; 2], Self) {
        let (first, rollbacks) = mpsc::channel(ROLLBACKS_MAX);
        let (second, others) = mpsc::channel(ASKS_MAX);
        ([first, second], Self { rollbacks, others })
    }
}

/// What the driver works with.
pub(crate) struct Parts {
    pub(crate) specs: Specs,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) link: Link,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) smoker: Smoker,
    pub(crate) copies: Copies,
    pub(crate) hooks: Hooks,
    /// Rung by the platform and by smoke calls.
    pub(crate) bell: Arc<Notify>,
    pub(crate) override_digest: String,
    pub(crate) outreach: Outreach,
    pub(crate) membership: Membership,
    /// Where the number of the last entry is announced, once it is written.
    pub(crate) announce: watch::Sender<u64>,
}

pub(crate) struct Driver {
    parts: Parts,
    agents: BTreeMap<AgentName, Holding>,
    head: Head,
    /// Gateways that greeted or reported; their calls count, or will as soon as that is written.
    met: BTreeSet<GatewayId>,
    /// Gateways that said goodbye and are not forgotten yet.
    goodbyes: BTreeSet<GatewayId>,
    /// The newest report of each gateway, for people.
    reports: BTreeMap<GatewayId, Presence>,
    waiting: Vec<Waiting>,
    /// What befell workers and is not written down yet.
    notices: Notices,
    /// Whose token was written down lately.
    showed: Showed,
    journal_error: Option<String>,
    /// A gateway knows of decisions that the journal does not.
    behind: Option<String>,
    journal_retry: Option<Instant>,
    carried: Instant,
}

impl Driver {
    /// Replays the journal.
    pub(crate) async fn load(parts: Parts) -> Result<Self, StoreError> {
        let (agents, head) = replay(&parts.journal).await?;
        let mut driver = Self {
            parts,
            agents: agents
                .into_iter()
                .map(|(name, agent)| (name, Holding::new(agent)))
                .collect(),
            head,
            met: BTreeSet::new(),
            goodbyes: BTreeSet::new(),
            reports: BTreeMap::new(),
            waiting: Vec::new(),
            notices: Notices::default(),
            showed: Showed::default(),
            journal_error: None,
            behind: None,
            journal_retry: None,
            carried: Instant::now(),
        };
        driver.note_agents();
        driver.announce();
        Ok(driver)
    }

    /// Tells who listens how far the journal is.
    fn announce(&self) {
        self.parts.announce.send_replace(self.head.seq);
    }

    /// The agents as they were decided, for finding their workers again.
    pub(crate) fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.values().map(|holding| &holding.agent)
    }

    /// Those of the configuration exist; those of the journal too, whatever the configuration
    /// says now: they may have calls.
    pub(super) fn note_agents(&mut self) {
        let specs = self.parts.specs.now();
        for name in specs.keys() {
            let new = || Holding::new(Agent::new(name.clone()));
            self.agents.entry(name.clone()).or_insert_with(new);
        }
        for name in self.agents.keys().filter(|name| !specs.contains_key(*name)) {
            tracing::warn!(agent = %name, "this agent is not in the configuration any more; it is kept");
        }
        self.parts
            .link
            .set_agents(self.agents.keys().cloned().collect());
    }

    /// Drives until it is told to stop, or the senders are gone. What was begun then is finished: a
    /// decision that is being written down is written, applied and published.
    pub(crate) async fn run(
        mut self,
        mut asks: Asks,
        mut heard: mpsc::Receiver<Heard>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let bell = Arc::clone(&self.parts.bell);
        self.collect_copies();
        self.settle().await;
        loop {
            let wait = self.until_next();
            let others = async {
                tokio::select! {
                    message = asks.others.recv() => {
                        message.map_or(Woken::Alone, |message| Woken::Asked(Box::new(message)))
                    }
                    Some(first) = heard.recv() => Woken::Heard(first),
                    () = bell.notified() => Woken::Rung,
                    () = sleep(wait) => Woken::Rung,
                }
            };
            let woken = tokio::select! {
                biased;
                _ = &mut stop => return,
                Some(rollback) = asks.rollbacks.recv() => Woken::Asked(Box::new(rollback)),
                woken = others => woken,
            };
            match woken {
                Woken::Asked(message) => self.take(*message).await,
                Woken::Heard(first) => {
                    self.hear(first);
                    for _ in 1..HEARD_BATCH_MAX {
                        let Ok(next) = heard.try_recv() else { break };
                        self.hear(next);
                    }
                }
                Woken::Alone => return,
                Woken::Rung => {}
            }
            self.settle().await;
        }
    }

    fn until_next(&self) -> Duration {
        let now = clock::now();
        let deadlines = self
            .agents
            .values()
            .filter_map(|holding| holding.agent.next_deadline());
        // One in the past waits for something else than time.
        let next = deadlines.filter(|deadline| *deadline > now).min();
        let next = next.map_or(SLEEP_MAX, |deadline| {
            Duration::from_millis(deadline.since(now).0)
        });
        self.until_ack()
            .into_iter()
            .chain([next, SLEEP_MAX])
            .min()
            .unwrap_or(SLEEP_MAX)
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Goodbye(gateway) => self.on_goodbye(gateway),
            Heard::Hello(gateway) => {
                self.goodbyes.remove(&gateway);
                self.met.insert(gateway);
            }
            Heard::Presence { at, presence } => self.observe(at, presence),
            Heard::Events {
                gateway,
                events,
                left_out,
            } => self.told(&gateway, events, left_out),
        }
    }

    fn observe(&mut self, at: Timestamp, presence: Presence) {
        self.met.insert(presence.gateway.clone());
        for (name, of_agent) in &presence.agents {
            if let Some(holding) = self.agents.get_mut(name) {
                holding.seen.observe(
                    at,
                    &presence.gateway,
                    &presence.incarnation,
                    presence.sequence,
                    of_agent.clone(),
                );
            }
        }
        self.reports.insert(presence.gateway.clone(), presence);
        self.note_behind();
    }

    /// Everything that follows from what is known now, for every agent.
    async fn settle(&mut self) {
        let names: Vec<AgentName> = self.agents.keys().cloned().collect();
        self.note_memberships(&names);
        if self.carried.elapsed() >= CARRY_AGAIN {
            self.carried = Instant::now();
            self.agents
                .values_mut()
                .for_each(|holding| holding.dirty = true);
        }
        if self.journal_error.is_some() {
            // The next append may take its time, and who waits for an acknowledgment has none.
            self.answer_acknowledged();
        }
        for name in &names {
            self.carry_out(name);
            self.note_trouble(name);
            if self.journal_rests() {
                continue;
            }
            if let Err(Refused::Journal(_)) = self.follow(name).await {
                self.journal_retry = Some(Instant::now() + JOURNAL_RETRY);
            } else if let Err(Refused::Journal(_)) = self.end_stragglers(name).await {
                self.journal_retry = Some(Instant::now() + JOURNAL_RETRY);
            } else if let Err(Refused::Journal(_)) = self.write_notices(name).await {
                self.journal_retry = Some(Instant::now() + JOURNAL_RETRY);
            }
            self.carry_out(name);
        }
        for name in &names {
            self.note_lag(name);
        }
        self.answer_acknowledged();
    }

    fn journal_rests(&self) -> bool {
        self.journal_retry
            .is_some_and(|retry| Instant::now() < retry)
    }

    /// Notices what is there and lets time pass, until nothing follows any more.
    async fn follow(&mut self, name: &AgentName) -> Result<(), Refused> {
        for event in self.noticed(name) {
            self.note_showed(name, &event);
            let reason = goodbye::reason(&event);
            let input = Input {
                reason,
                ..Input::noticed(event)
            };
            let gone = match &input.event {
                Event::WorkerGone { worker, .. } => Some(worker.clone()),
                _ => None,
            };
            self.decide(name, input).await?;
            if let Some(worker) = gone {
                self.parts.membership.forget(name, &worker);
            }
        }
        for _ in 0..TICKS_MAX {
            if self
                .decide(name, Input::noticed(Event::Tick))
                .await?
                .is_empty()
            {
                return Ok(());
            }
        }
        tracing::error!(agent = %name, "more decisions followed at once than should be possible");
        Ok(())
    }

    /// What is not as it was decided. A gateway comes first: its calls must count before anything
    /// is decided about calls.
    fn noticed(&self, name: &AgentName) -> Vec<Event> {
        let Some(holding) = self.agents.get(name) else {
            return Vec::new();
        };
        let mut events = Vec::new();
        let agent = &holding.agent;
        let specs = self.parts.specs.now();
        let spec = specs.get(name).filter(|spec| {
            agent.epoch == Epoch::default()
                || agent.ingress != spec.ingress
                || agent.policy != spec.policy
        });
        if let Some(spec) = spec {
            events.push(Event::Configured {
                ingress: Box::new(spec.ingress.clone()),
                policy: spec.policy.clone(),
            });
        }
        events.extend(self.joins(agent));
        events.extend(self.goodbyes(holding));
        events.extend(self.worker_events(name, agent));
        events.extend(self.standings(name, agent));
        let outcome = self.parts.smoker.outcome(name);
        events.extend(outcome.map(|outcome| Event::SmokeFinished {
            rollout: outcome.rollout,
            attempt: outcome.attempt,
            verdict: outcome.verdict,
            report: outcome.report,
        }));
        events.extend(self.hook_events(name));
        events.extend(self.parts.outreach.asker.outcomes(name));
        events
    }

    fn joins(&self, agent: &Agent) -> Vec<Event> {
        let unknown = self.met.difference(&agent.gateways);
        let join = |gateway: &GatewayId| Event::GatewayJoined {
            gateway: gateway.clone(),
        };
        unknown.map(join).collect()
    }

    fn table(&self, agent: &Agent) -> RoutingTable {
        let override_digest = Some(self.parts.override_digest.clone());
        RoutingTable {
            override_digest,
            ..agent.table()
        }
    }
}

#[cfg(test)]
mod tests;
