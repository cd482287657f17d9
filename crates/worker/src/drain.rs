//! When a worker may take a call, and when it may end. Pure: time is an argument.
//!
//! ```text
//! serving ──► draining ──► drained
//!                  ▲          │ a call that was assigned before
//!                  └──────────┘
//! ```
//!
//! A drain is never taken back: who begins one means to end the process. That its *release* drains is
//! another matter, which Segue decides and may undo; a worker then still takes whatever it is sent.
//!
//! Two calls are never refused: one that is on the line already (its second connection), and one that
//! somebody has accepted in this worker's name before (`assigned`). Refusing those is how accepted
//! calls get lost.
//!
//! Whether it may take new calls by its membership ([`Input::Stand`]) is apart from all that: it comes
//! and goes, and a worker that may not is no worker that drains.
//!
//! > **Invariant:** [`Effect::End`] needs both a `drain_timeout` and [`OnStraggler::End`], and comes
//! > only after that time, however often a drain is begun.

use std::collections::BTreeMap;

use segue_core::names::{BadName, CallId};
use segue_core::time::{Millis, Timestamp};

/// Calls that one worker may hold: what Segue believes of any worker, so that a caller's ids cannot
/// fill the memory.
pub const CALLS_MAX: usize = 100_000;

/// What becomes of calls that are still there when the drain has lasted for `drain_timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStraggler {
    /// They are named, and waited for.
    #[default]
    Wait,
    /// They are named, and ended.
    End,
}

impl OnStraggler {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::End => "end",
        }
    }
}

/// How long a drain may last, and what then. By default it lasts until the last call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// The ceiling, from the beginning of the drain, or from that of a call that came later.
    pub drain_timeout: Option<Millis>,
    /// What happens at the ceiling.
    pub on_straggler: OnStraggler,
}

/// What a worker may do by its membership.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Standing {
    /// Take new calls. So it is also as long as nobody has said anything.
    #[default]
    Admitted,
    /// End those that it has.
    Barred {
        /// Why, in one word.
        why: String,
    },
}

/// What happens to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A call, or one more connection of it, wants in.
    Enter {
        /// Which.
        call: CallId,
        /// Somebody accepted it in our name before: it is here already.
        assigned: bool,
    },
    /// A call, or one connection of it, is over.
    Exit {
        /// Which.
        call: CallId,
    },
    /// The process is to end once its calls have.
    BeginDrain,
    /// Segue says what it may do by its membership.
    Stand(Standing),
    /// Time has passed.
    Tick,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// From here on new calls are refused.
    Draining,
    /// From here on new calls are refused, until [`Effect::Admitted`].
    Barred {
        /// Why, in one word.
        why: String,
    },
    /// Its membership is no longer in the way of new calls.
    Admitted,
    /// These calls are still there at the ceiling. Said once of each.
    Overdue(Vec<CallId>),
    /// End these calls. Said once of each, behind [`Effect::Overdue`].
    End(Vec<CallId>),
    /// The last call has ended: the process may.
    Drained,
}

/// Why a call may not come in, or was none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Another worker takes it.
    #[error("this worker drains and takes no new calls")]
    Draining,
    /// Another worker takes it.
    #[error("this worker may take no new calls by its membership ({why})")]
    Barred {
        /// Why, in one word.
        why: String,
    },
    /// The agent leaks calls, or is sent too many.
    #[error("this worker has {CALLS_MAX} calls, and there is room for no more")]
    Full,
    /// The caller's id cannot be an id.
    #[error(transparent)]
    BadCall(#[from] BadName),
    /// What was exited had not entered, or had exited before.
    #[error("there is no such call here")]
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Serving,
    Draining { since: Timestamp },
    Drained { since: Timestamp },
}

/// A call that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Here {
    since: Timestamp,
    connections: u32,
    is_overdue: bool,
}

/// One worker's calls, and how far its drain is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    policy: Policy,
    state: State,
    standing: Standing,
    calls: BTreeMap<CallId, Here>,
}

impl Drain {
    /// A worker that takes calls and has none.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            state: State::Serving,
            standing: Standing::Admitted,
            calls: BTreeMap::new(),
        }
    }

    /// Takes in what happened. Nothing has changed when it is refused.
    ///
    /// # Errors
    ///
    /// A [`Refused`].
    pub fn step(&mut self, now: Timestamp, input: Input) -> Result<Vec<Effect>, Refused> {
        match (self.state, input) {
            (state, Input::Enter { call, assigned }) => self.enter(now, state, call, assigned),
            (state, Input::Exit { call }) => self.exit(state, &call),
            (State::Serving, Input::BeginDrain) => {
                self.state = State::Draining { since: now };
                let mut effects = vec![Effect::Draining];
                effects.extend(self.settle());
                Ok(effects)
            }
            // A second signal brings nothing forward.
            (State::Draining { .. } | State::Drained { .. }, Input::BeginDrain)
            | (State::Serving | State::Drained { .. }, Input::Tick) => Ok(Vec::new()),
            (State::Draining { since }, Input::Tick) => Ok(self.look(now, since)),
            (_, Input::Stand(standing)) => Ok(self.stand(standing)),
        }
    }

    fn stand(&mut self, standing: Standing) -> Vec<Effect> {
        if self.standing == standing {
            return Vec::new();
        }
        self.standing = standing;
        vec![match &self.standing {
            Standing::Admitted => Effect::Admitted,
            Standing::Barred { why } => Effect::Barred { why: why.clone() },
        }]
    }

    fn enter(
        &mut self,
        now: Timestamp,
        state: State,
        call: CallId,
        assigned: bool,
    ) -> Result<Vec<Effect>, Refused> {
        if let Some(here) = self.calls.get_mut(&call) {
            here.connections = here.connections.saturating_add(1);
            return Ok(Vec::new());
        }
        match state {
            _ if self.calls.len() >= CALLS_MAX => return Err(Refused::Full),
            State::Draining { .. } | State::Drained { .. } if !assigned => {
                return Err(Refused::Draining);
            }
            State::Serving => {
                if let (Standing::Barred { why }, false) = (&self.standing, assigned) {
                    return Err(Refused::Barred { why: why.clone() });
                }
            }
            State::Draining { since } | State::Drained { since } => {
                self.state = State::Draining { since };
            }
        }
        let here = Here {
            since: now,
            connections: 1,
            is_overdue: false,
        };
        self.calls.insert(call, here);
        Ok(Vec::new())
    }

    fn exit(&mut self, state: State, call: &CallId) -> Result<Vec<Effect>, Refused> {
        let here = self.calls.get_mut(call).ok_or(Refused::Unknown)?;
        here.connections -= 1;
        if here.connections == 0 {
            self.calls.remove(call);
        }
        Ok(match state {
            State::Draining { .. } => self.settle(),
            State::Serving | State::Drained { .. } => Vec::new(),
        })
    }

    /// Whether this drain is over.
    fn settle(&mut self) -> Vec<Effect> {
        match self.state {
            State::Draining { since } if self.calls.is_empty() => {
                self.state = State::Drained { since };
                vec![Effect::Drained]
            }
            _ => Vec::new(),
        }
    }

    /// Which calls have reached the ceiling.
    fn look(&mut self, now: Timestamp, since: Timestamp) -> Vec<Effect> {
        let Some(ceiling) = self.policy.drain_timeout else {
            return Vec::new();
        };
        let mut overdue = Vec::new();
        for (call, here) in &mut self.calls {
            if !here.is_overdue && now >= since.max(here.since) + ceiling {
                here.is_overdue = true;
                overdue.push(call.clone());
            }
        }
        match self.policy.on_straggler {
            _ if overdue.is_empty() => Vec::new(),
            OnStraggler::Wait => vec![Effect::Overdue(overdue)],
            OnStraggler::End => vec![Effect::Overdue(overdue.clone()), Effect::End(overdue)],
        }
    }

    /// When a [`Input::Tick`] has something to do, if no input comes before.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let ceiling = self.policy.drain_timeout?;
        let State::Draining { since } = self.state else {
            return None;
        };
        let waiting = self.calls.values().filter(|here| !here.is_overdue);
        waiting.map(|here| since.max(here.since) + ceiling).min()
    }

    /// Calls that are here.
    pub fn active(&self) -> usize {
        self.calls.len()
    }

    /// Calls that are here past the ceiling.
    pub fn overdue(&self) -> usize {
        self.calls.values().filter(|here| here.is_overdue).count()
    }

    /// What it may do by its membership.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether a call that is new here may come in.
    pub fn takes_calls(&self) -> bool {
        self.state == State::Serving && self.standing == Standing::Admitted
    }

    /// Since when it drains, if it does or has.
    pub fn draining_since(&self) -> Option<Timestamp> {
        match self.state {
            State::Serving => None,
            State::Draining { since } | State::Drained { since } => Some(since),
        }
    }

    /// Whether the process may end.
    pub fn is_drained(&self) -> bool {
        matches!(self.state, State::Drained { .. })
    }

    /// What it goes by.
    pub fn policy(&self) -> Policy {
        self.policy
    }
}

#[cfg(test)]
mod tests;
