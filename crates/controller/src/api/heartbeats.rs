//! What workers say of themselves. It is seen and not decided on: calls are counted by the gateways,
//! and a worker that says nothing is no worse than one that cannot. So it is kept in memory, for as
//! long as it is fresh.
//!
//! A worker may be several processes (a LiveKit worker has one for each job), so each names itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use segue_core::names::{AgentName, Label, WorkerId};
use segue_core::time::{Millis, Timestamp};

/// How often a worker says it, in seconds.
pub(super) const EVERY_S: u64 = 5;
/// How long it is believed: three heartbeats may get lost.
const FRESH: Millis = Millis::from_secs(4 * EVERY_S);
/// Processes that are listened to: ten for each worker of a large agent.
const PROCESSES_MAX: usize = 10_000;

/// Whose process, and which.
pub(super) type Process = (AgentName, WorkerId, String);

/// What it said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beat {
    pub(super) release: Option<Label>,
    pub(super) active: u32,
    pub(super) overdue: u32,
    pub(super) draining: bool,
    pub(super) at: Timestamp,
}

/// Every process that has said something lately.
#[derive(Debug, Default)]
pub(crate) struct Heartbeats(Mutex<BTreeMap<Process, Beat>>);

impl Heartbeats {
    /// Takes one in. Answers whether this process begins to drain; `None`: there are too many.
    pub(super) fn take(&self, of: Process, beat: Beat) -> Option<bool> {
        let mut beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if beats.len() >= PROCESSES_MAX && !beats.contains_key(&of) {
            let now = beat.at;
            beats.retain(|_, is| now.since(is.at) < FRESH);
            if beats.len() >= PROCESSES_MAX {
                return None;
            }
        }
        let drains = beat.draining;
        let before = beats.insert(of, beat);
        Some(drains && before.is_none_or(|before| !before.draining))
    }

    /// Those of an agent that are fresh, by worker and process.
    pub(super) fn of(&self, agent: &AgentName, now: Timestamp) -> Vec<(Process, Beat)> {
        let mut beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        beats.retain(|_, is| now.since(is.at) < FRESH);
        let ours = beats.iter().filter(|((of, _, _), _)| of == agent);
        ours.map(|(of, beat)| (of.clone(), beat.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_believed_while_it_is_fresh() {
        let beats = Heartbeats::default();
        let of = |instance: &str| {
            let (agent, worker) = ("desk".parse().unwrap(), "w1".parse().unwrap());
            (agent, worker, instance.to_owned())
        };
        let beat = |draining, at| Beat {
            release: None,
            active: 1,
            overdue: 0,
            draining,
            at: Timestamp(at),
        };
        assert_eq!(beats.take(of("a"), beat(false, 0)), Some(false));
        assert_eq!(beats.take(of("a"), beat(true, 1)), Some(true));
        assert_eq!(
            beats.take(of("a"), beat(true, 2)),
            Some(false),
            "it does already"
        );
        assert_eq!(beats.take(of("b"), beat(true, 2)), Some(true));
        let fresh = |at| beats.of(&"desk".parse().unwrap(), Timestamp(at)).len();
        assert_eq!((fresh(1 + FRESH.0), fresh(2 + FRESH.0)), (2, 0));
        for number in 0..PROCESSES_MAX {
            beats
                .take(of(&number.to_string()), beat(false, 100))
                .unwrap();
        }
        assert_eq!(beats.take(of("more"), beat(false, 100)), None);
        assert_eq!(beats.take(of("0"), beat(false, 100)), Some(false));
        assert!(beats.take(of("more"), beat(false, 100 + FRESH.0)).is_some());
    }
}
