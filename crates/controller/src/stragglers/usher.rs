//! The stragglers of one release: whose turn it is, and who was told already.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_core::link::CallInfo;
use segue_core::names::{AgentName, CallId, GatewayId, ReleaseId, WorkerId};
use segue_core::spec::{StragglerPolicy, Stragglers};
use segue_core::time::Timestamp;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::letter::{ANNOUNCE, HAND_OFF, Letter, backoff};
use super::sight::Sight;
use super::turns::{Limiter, turn};
use crate::clock;
use crate::link::Link;
use crate::outbound::Client;

/// How often the live calls are looked at. Turns are spread over seconds, and a list of ten
/// thousand calls is some megabytes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest pause between two looks, when turns come close together.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Calls looked at, the oldest first; the others come after them.
const CALLS_MAX: usize = 10_000;
/// How long after it was asked to end a call that is still there is asked once more: its gateway
/// may have been away.
const END_AGAIN: Duration = Duration::from_secs(5);

/// The release whose stragglers have their turns, and how.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) release: ReleaseId,
    pub(crate) label: String,
    /// Since when: turns are counted from here.
    pub(crate) since: Timestamp,
    pub(crate) stragglers: Stragglers,
    /// Where its workers are.
    pub(crate) workers: BTreeMap<WorkerId, SocketAddr>,
    /// The path on which they are told; `None`: they are not.
    pub(crate) path: Option<String>,
}

impl Wanted {
    /// Whether a call can have its turn: one whose worker is not up just now waits.
    fn can_tell(&self, call: &CallInfo) -> bool {
        self.path.is_none() || self.workers.contains_key(&call.worker)
    }
}

/// What is known of the stragglers of one release.
#[derive(Debug)]
pub(super) struct State {
    pub(super) wanted: Wanted,
    /// Calls whose end is due and not written down yet, in the order of their turns. Only such as
    /// a gateway has just named: while one is silent nothing piles up for it.
    due: Vec<(CallId, BTreeSet<GatewayId>)>,
    /// Calls that had their turn, until their gateway says that they are over.
    had: BTreeMap<CallId, Had>,
}

#[derive(Debug)]
struct Had {
    /// Gateways that named it last.
    on: BTreeSet<GatewayId>,
    what: What,
}

#[derive(Debug)]
enum What {
    /// It was asked to end, last at that moment.
    Asked(Instant),
    /// Its worker is told, or was.
    Told(AbortHandle),
    /// There is nobody to tell.
    Nobody,
}

pub(super) fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            due: Vec::new(),
            had: BTreeMap::new(),
        }
    }

    /// The first calls whose end is due.
    pub(super) fn due(&self, at_most: usize) -> Vec<CallId> {
        let first = self.due.iter().take(at_most);
        first.map(|(call, _)| call.clone()).collect()
    }

    /// These calls are asked to end now.
    pub(super) fn asked(&mut self, calls: &[CallId]) {
        for call in calls {
            let place = self.due.iter().position(|(is, _)| is == call);
            let on = place.map(|place| self.due.remove(place).1);
            let had = Had {
                on: on.unwrap_or_default(),
                what: What::Asked(Instant::now()),
            };
            self.had.insert(call.clone(), had);
        }
    }

    /// Nobody's end is due any more.
    pub(super) fn leave(&mut self) {
        self.due.clear();
    }

    /// Takes in what was seen, and forgets what is over.
    fn see(&mut self, sight: &Sight) {
        self.had.retain(|call, had| {
            if let Some((_, on)) = sight.calls.get(call) {
                had.on.clone_from(on);
                return true;
            }
            let over = sight.is_over(call, &had.on);
            if let (true, What::Told(teller)) = (over, &had.what) {
                teller.abort();
            }
            !over
        });
    }

    /// Calls that were asked to end long enough ago and are still there, the longest ago first.
    fn stubborn(&self, sight: &Sight) -> Vec<CallId> {
        let asked = self.had.iter().filter_map(|(call, had)| match had.what {
            What::Asked(at) => Some((at, call)),
            What::Told(_) | What::Nobody => None,
        });
        let mut asked: Vec<(Instant, &CallId)> = asked
            .filter(|(at, call)| at.elapsed() >= END_AGAIN && sight.calls.contains_key(*call))
            .collect();
        asked.sort_unstable();
        asked.into_iter().map(|(_, call)| call.clone()).collect()
    }
}

/// Gives the stragglers of one release their turns.
pub(super) struct Usher {
    pub(super) agent: AgentName,
    pub(super) client: Client,
    pub(super) link: Link,
    /// Rung when calls are due to end.
    pub(super) bell: Arc<Notify>,
    pub(super) state: Arc<Mutex<State>>,
    /// Of the agent: two releases that drain share its rate.
    pub(super) limiter: Arc<Mutex<Limiter>>,
    pub(super) tellers: JoinSet<()>,
}

impl Usher {
    pub(super) async fn run(mut self) {
        loop {
            let pause = self.look().await;
            sleep(pause).await;
            while self.tellers.try_join_next().is_some() {}
        }
    }

    /// Gives those their turn for whom it has come. Answers when to look again.
    async fn look(&mut self) -> Duration {
        let answers = self.link.look(Some(&self.agent), CALLS_MAX).await;
        let state = Arc::clone(&self.state);
        let mut state = lock(&state);
        let wanted = state.wanted.clone();
        let sight = Sight::of(answers, wanted.release, CALLS_MAX);
        state.see(&sight);
        let turn_of = |call: &CallInfo| turn(&call.call, wanted.since, &wanted.stragglers);
        let mut waiting: Vec<(Timestamp, &CallInfo, &BTreeSet<GatewayId>)> = sight
            .calls
            .values()
            .filter(|(call, _)| !state.had.contains_key(&call.call) && wanted.can_tell(call))
            .map(|(call, on)| (turn_of(call), call, on))
            .collect();
        waiting.sort_by(|a, b| (a.0, &a.1.call).cmp(&(b.0, &b.1.call)));
        let now = clock::now();
        let ripe = waiting.partition_point(|(turn, ..)| *turn <= now);
        let next = waiting.get(ripe).map(|(turn, ..)| turn.since(now).0);
        let next = next.map_or(LOOK_EVERY, Duration::from_millis);
        let ripe = &waiting[..ripe];
        if wanted.stragglers.policy == StragglerPolicy::End {
            let due = ripe
                .iter()
                .map(|(_, call, on)| (call.call.clone(), (*on).clone()));
            state.due = due.collect();
            self.press(&mut state, &sight);
        } else {
            for (_, call, on) in ripe {
                if !self.may_go(&wanted) {
                    return LOOK_AGAIN;
                }
                let what = self.tell(&wanted, call);
                let had = Had {
                    on: (*on).clone(),
                    what,
                };
                state.had.insert(call.call.clone(), had);
            }
        }
        next.clamp(LOOK_AGAIN, LOOK_EVERY)
    }

    fn may_go(&self, wanted: &Wanted) -> bool {
        let per_second = wanted.stragglers.per_second;
        lock(&self.limiter).take(Instant::now(), per_second)
    }

    /// Has the driver end what is due. Only when nothing is, calls that go on although they were
    /// asked to end are asked again, at the same rate; that they end is written down.
    fn press(&self, state: &mut State, sight: &Sight) {
        if !state.due.is_empty() {
            self.bell.notify_one();
            return;
        }
        let mut again = Vec::new();
        for call in state.stubborn(sight) {
            if !self.may_go(&state.wanted) {
                break;
            }
            again.push(call);
        }
        if !again.is_empty() {
            state.asked(&again);
            self.link
                .end_calls(&self.agent, state.wanted.release, again);
        }
    }

    /// Tells the worker of a call what becomes of it, until it has heard or the call is over.
    fn tell(&mut self, wanted: &Wanted, call: &CallInfo) -> What {
        let kind = match wanted.stragglers.policy {
            StragglerPolicy::Announce => ANNOUNCE,
            StragglerPolicy::HandOff => HAND_OFF,
            StragglerPolicy::Wait | StragglerPolicy::End => return What::Nobody,
        };
        if wanted.path.is_none() {
            return What::Nobody;
        }
        let letter = Letter {
            kind,
            agent: self.agent.to_string(),
            about: call.call.to_string(),
            since: wanted.since,
            data: json!({
                "call": call.call,
                "release": wanted.label,
                "agent": self.agent,
                "policy": wanted.stragglers.policy.word(),
            }),
        };
        let (client, state) = (self.client.clone(), Arc::clone(&self.state));
        let worker = call.worker.clone();
        let teller = async move {
            let mut backoff = backoff();
            let mut failed = false;
            loop {
                let place = place(&state, &worker);
                if let Some((addr, path)) = place {
                    match letter.deliver(&client, addr, &path).await {
                        Ok(()) => return,
                        Err(why) if !failed => letter.warn(addr, &why),
                        Err(_) => {}
                    }
                    failed = true;
                }
                sleep(backoff.pause()).await;
            }
        };
        What::Told(self.tellers.spawn(teller))
    }
}

/// Where a worker hears, as it is now.
fn place(state: &Mutex<State>, worker: &WorkerId) -> Option<(SocketAddr, String)> {
    let state = lock(state);
    let addr = state.wanted.workers.get(worker).copied();
    addr.zip(state.wanted.path.clone())
}
