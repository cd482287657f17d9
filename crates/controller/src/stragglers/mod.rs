//! Stragglers: calls that a draining release still holds at its ceiling.
//!
//! Each has its turn at a moment of its own, and only so many have theirs in one second: a hundred
//! callers who are sent away at once come back at once. What becomes of a call is the policy's
//! business. *Announce* and *hand-off* tell its worker; *end* puts the call on a list, and the
//! driver ends what is on it once that is written down, and not before.
//!
//! What was told is remembered here and nowhere else: a controller that was restarted tells again,
//! with the same event id, and workers lose nothing by hearing it twice.

mod letter;
mod turns;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_core::link::CallInfo;
use segue_core::names::{AgentName, CallId, ReleaseId, WorkerId};
use segue_core::spec::{StragglerPolicy, Stragglers};
use segue_core::time::Timestamp;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub(crate) use self::workers::{Hearer, Heralds, Stand};

use self::letter::{ANNOUNCE, HAND_OFF, Letter};
use self::turns::{Limiter, turn};
use crate::clock;
use crate::link::Link;
use crate::outbound::{Client, keyed_hash};

/// How often the live calls are looked at. Turns are spread over seconds, and a list of ten
/// thousand calls is some megabytes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The shortest pause between two looks, when turns come close together.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Calls looked at, the oldest first; the others come after them.
const CALLS_MAX: usize = 10_000;
/// How long after it was ended a call that is still there is ended once more: its gateway may have
/// been away.
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

/// Gives each straggler its turn.
#[derive(Debug)]
pub(crate) struct Ushers {
    client: Client,
    link: Link,
    /// Rung when calls are due to end.
    bell: Arc<Notify>,
    /// Names calls in the log without naming them.
    key: Vec<u8>,
    runs: BTreeMap<(AgentName, ReleaseId), Run>,
}

#[derive(Debug)]
struct Run {
    since: Timestamp,
    policy: StragglerPolicy,
    state: Arc<Mutex<State>>,
    /// Cut off when dropped.
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    /// Their turn has come, and it is not written down yet.
    due: BTreeSet<CallId>,
    /// When they were last ended.
    ended: BTreeMap<CallId, Instant>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ushers {
    pub(crate) fn new(client: Client, link: Link, bell: Arc<Notify>, key: &str) -> Self {
        Self {
            client,
            link,
            bell,
            key: key.as_bytes().to_owned(),
            runs: BTreeMap::new(),
        }
    }

    /// Says which releases of an agent have stragglers whose turns come. Saying it twice changes
    /// nothing; one that is not named any more is left alone from now on.
    pub(crate) fn want(&mut self, agent: &AgentName, wanted: Vec<Wanted>) {
        let same =
            |run: &Run, is: &Wanted| run.since == is.since && run.policy == is.stragglers.policy;
        self.runs.retain(|(of, release), run| {
            let is = wanted.iter().find(|is| is.release == *release);
            of != agent || is.is_some_and(|is| same(run, is))
        });
        for is in wanted {
            let key = (agent.clone(), is.release);
            if let Some(run) = self.runs.get(&key) {
                lock(&run.state).wanted = is;
                continue;
            }
            let run = self.start(agent, is);
            self.runs.insert(key, run);
        }
    }

    fn start(&self, agent: &AgentName, wanted: Wanted) -> Run {
        let Wanted {
            since, stragglers, ..
        } = wanted;
        let told = matches!(
            stragglers.policy,
            StragglerPolicy::Announce | StragglerPolicy::HandOff
        );
        if told && wanted.path.is_none() {
            let label = &wanted.label;
            tracing::warn!(%agent, release = label, "its workers have no `notify` path, so nobody can be told of its stragglers");
        }
        let state = Arc::new(Mutex::new(State {
            wanted,
            due: BTreeSet::new(),
            ended: BTreeMap::new(),
        }));
        let usher = Usher {
            agent: agent.clone(),
            client: self.client.clone(),
            link: self.link.clone(),
            bell: Arc::clone(&self.bell),
            state: Arc::clone(&state),
            had: BTreeSet::new(),
            limiter: Limiter::new(stragglers.per_second),
            tellers: JoinSet::new(),
        };
        let mut task = JoinSet::new();
        task.spawn(usher.run());
        Run {
            since,
            policy: stragglers.policy,
            state,
            _task: task,
        }
    }

    /// Calls of an agent whose end is due, by release: their ids, and what the log may say.
    pub(crate) fn due(&self, agent: &AgentName) -> Vec<(ReleaseId, Vec<CallId>, Vec<String>)> {
        let of_agent = self.runs.iter().filter(|((of, _), _)| of == agent);
        let due = of_agent.filter_map(|((_, release), run)| {
            let calls: Vec<CallId> = lock(&run.state).due.iter().cloned().collect();
            let hashes = calls
                .iter()
                .map(|call| keyed_hash(&self.key, call.as_str()));
            let hashes: Vec<String> = hashes.collect();
            (!calls.is_empty()).then_some((*release, calls, hashes))
        });
        due.collect()
    }

    /// Ends calls: that they end is written down.
    pub(crate) fn end(&self, agent: &AgentName, release: ReleaseId, calls: Vec<CallId>) {
        if let Some(run) = self.runs.get(&(agent.clone(), release)) {
            let mut state = lock(&run.state);
            for call in &calls {
                state.due.remove(call);
                state.ended.insert(call.clone(), Instant::now());
            }
        }
        self.link.end_calls(agent, release, calls);
    }

    /// Leaves calls alone whose end was due: the release is not ending calls any more.
    pub(crate) fn leave(&self, agent: &AgentName, release: ReleaseId) {
        if let Some(run) = self.runs.get(&(agent.clone(), release)) {
            lock(&run.state).due.clear();
        }
    }
}

/// The stragglers of one release.
struct Usher {
    agent: AgentName,
    client: Client,
    link: Link,
    bell: Arc<Notify>,
    state: Arc<Mutex<State>>,
    /// Calls that had their turn.
    had: BTreeSet<CallId>,
    limiter: Limiter,
    tellers: JoinSet<()>,
}

impl Usher {
    async fn run(mut self) {
        loop {
            let pause = self.look().await;
            sleep(pause).await;
            while self.tellers.try_join_next().is_some() {}
        }
    }

    /// Gives those their turn for whom it has come. Answers when to look again.
    async fn look(&mut self) -> Duration {
        let (calls, _) = self.link.list_calls(Some(&self.agent), CALLS_MAX).await;
        let wanted = lock(&self.state).wanted.clone();
        let live = |call: &&CallInfo| call.release == wanted.release && call.state == "live";
        let calls: Vec<CallInfo> = calls.iter().filter(live).cloned().collect();
        self.end_again(&wanted, &calls);
        let turn_of = |call: &CallInfo| turn(&call.call, wanted.since, &wanted.stragglers);
        let mut waiting: Vec<(Timestamp, CallInfo)> = calls
            .into_iter()
            .filter(|call| !self.had.contains(&call.call) && wanted.can_tell(call))
            .map(|call| (turn_of(&call), call))
            .collect();
        waiting.sort_by(|a, b| (a.0, &a.1.call).cmp(&(b.0, &b.1.call)));
        for (turn, call) in waiting {
            let now = clock::now();
            if turn > now {
                let until = Duration::from_millis(turn.since(now).0);
                return until.clamp(LOOK_AGAIN, LOOK_EVERY);
            }
            if !self.limiter.take(Instant::now()) {
                return LOOK_AGAIN;
            }
            self.act(&wanted, call);
        }
        LOOK_EVERY
    }

    fn act(&mut self, wanted: &Wanted, call: CallInfo) {
        let kind = match wanted.stragglers.policy {
            StragglerPolicy::Wait => return,
            StragglerPolicy::Announce => ANNOUNCE,
            StragglerPolicy::HandOff => HAND_OFF,
            StragglerPolicy::End => {
                lock(&self.state).due.insert(call.call.clone());
                self.had.insert(call.call);
                self.bell.notify_one();
                return;
            }
        };
        self.had.insert(call.call.clone());
        let (Some(path), Some(addr)) = (&wanted.path, wanted.workers.get(&call.worker)) else {
            return;
        };
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
        let (client, addr, path) = (self.client.clone(), *addr, path.clone());
        self.tellers
            .spawn(async move { letter.deliver(&client, addr, &path).await });
    }

    /// What was ended and is still there is ended once more; that was written down.
    fn end_again(&self, wanted: &Wanted, calls: &[CallInfo]) {
        let mut state = lock(&self.state);
        state
            .ended
            .retain(|call, _| calls.iter().any(|is| is.call == *call));
        let mut again = Vec::new();
        for (call, at) in &mut state.ended {
            if at.elapsed() >= END_AGAIN {
                *at = Instant::now();
                again.push(call.clone());
            }
        }
        drop(state);
        if !again.is_empty() {
            self.link.end_calls(&self.agent, wanted.release, again);
        }
    }
}
