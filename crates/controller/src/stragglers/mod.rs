//! Stragglers: calls that a draining release still holds at its ceiling.
//!
//! Each has its turn at a moment of its own, and only so many have theirs in one second: a hundred
//! callers who are sent away at once come back at once. What becomes of a call is the policy's
//! business. *Announce* and *hand-off* tell its worker; *end* puts the call on a list, and the
//! driver ends what is on it once that is written down, and not before. The rate counts what was
//! written down, so that nothing goes at once which had to wait for the log.
//!
//! What was told is remembered here and nowhere else: a controller that was restarted tells again,
//! with the same event id, and workers lose nothing by hearing it twice.

mod letter;
mod sight;
mod turns;
mod usher;
mod workers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use segue_core::names::{AgentName, CallId, ReleaseId};
use segue_core::spec::StragglerPolicy;
use segue_core::time::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) use self::usher::Wanted;
pub(crate) use self::workers::{Hearer, Heralds, Stand};

use self::turns::Limiter;
use self::usher::{State, Usher, lock};
use crate::link::Link;
use crate::outbound::{Client, keyed_hash};

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
    /// Of each agent, over all its releases and policies.
    limiters: BTreeMap<AgentName, Arc<Mutex<Limiter>>>,
}

#[derive(Debug)]
struct Run {
    since: Timestamp,
    policy: StragglerPolicy,
    state: Arc<Mutex<State>>,
    /// Cut off when dropped.
    _task: JoinSet<()>,
}

impl Ushers {
    pub(crate) fn new(client: Client, link: Link, bell: Arc<Notify>, key: &str) -> Self {
        Self {
            client,
            link,
            bell,
            key: key.as_bytes().to_owned(),
            runs: BTreeMap::new(),
            limiters: BTreeMap::new(),
        }
    }

    /// Says which releases of an agent have stragglers whose turns come. Saying it twice changes
    /// nothing; one that is not named any more is left alone from now on. Another rate or jitter
    /// holds from now on, too.
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

    fn start(&mut self, agent: &AgentName, wanted: Wanted) -> Run {
        let (since, policy) = (wanted.since, wanted.stragglers.policy);
        let told = matches!(policy, StragglerPolicy::Announce | StragglerPolicy::HandOff);
        if told && wanted.path.is_none() {
            let label = &wanted.label;
            tracing::warn!(%agent, release = label, "its workers have no `notify` path, so nobody can be told of its stragglers");
        }
        let state = Arc::new(Mutex::new(State::new(wanted)));
        let limiter = self.limiters.entry(agent.clone()).or_default();
        let usher = Usher {
            agent: agent.clone(),
            client: self.client.clone(),
            link: self.link.clone(),
            bell: Arc::clone(&self.bell),
            state: Arc::clone(&state),
            limiter: Arc::clone(limiter),
            tellers: JoinSet::new(),
        };
        let mut task = JoinSet::new();
        task.spawn(usher.run());
        Run {
            since,
            policy,
            state,
            _task: task,
        }
    }

    /// Calls of an agent whose end is due and which may end now, by release: their ids, and what
    /// the log may say. At most as many as the rate lets go.
    pub(crate) fn due(&self, agent: &AgentName) -> Vec<(ReleaseId, Vec<CallId>, Vec<String>)> {
        let Some(limiter) = self.limiters.get(agent) else {
            return Vec::new();
        };
        let (mut due, mut taken) = (Vec::new(), 0);
        for ((of, release), run) in &self.runs {
            if of != agent {
                continue;
            }
            let state = lock(&run.state);
            let per_second = state.wanted.stragglers.per_second;
            let free = lock(limiter).free(Instant::now(), per_second);
            let calls = state.due(free.saturating_sub(taken));
            drop(state);
            if calls.is_empty() {
                continue;
            }
            taken += calls.len();
            let hashes = calls
                .iter()
                .map(|call| keyed_hash(&self.key, call.as_str()));
            let hashes = hashes.collect();
            due.push((*release, calls, hashes));
        }
        due
    }

    /// How the log names a call.
    pub(crate) fn hashed(&self, call: &str) -> String {
        keyed_hash(&self.key, call)
    }

    /// Ends calls: that they end is written down. From now on they count for the rate.
    pub(crate) fn end(&self, agent: &AgentName, release: ReleaseId, calls: Vec<CallId>) {
        if let Some(run) = self.runs.get(&(agent.clone(), release)) {
            lock(&run.state).asked(&calls);
        }
        if let Some(limiter) = self.limiters.get(agent) {
            lock(limiter).went(Instant::now(), calls.len());
        }
        self.link.end_calls(agent, release, calls);
    }

    /// Leaves calls alone whose end was due: the release is not ending calls any more.
    pub(crate) fn leave(&self, agent: &AgentName, release: ReleaseId) {
        if let Some(run) = self.runs.get(&(agent.clone(), release)) {
            lock(&run.state).leave();
        }
    }
}
