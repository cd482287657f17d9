//! What belongs into the audit log, until the controller has it.
//!
//! A worker that is turned away tries again every few seconds, and there may be hundreds of them. So
//! the first event of a kind, agent and reason is told at once, and those that follow it soon are
//! gathered into one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use segue_core::names::AgentName;
use segue_core::plane::{EVENTS_GATHERED_FOR, EVENTS_MAX, PlaneEvent, Told};
use segue_core::time::Timestamp;

/// Longest sentence of one event, in bytes. It may repeat what a stranger says.
const MESSAGE_BYTES_MAX: usize = 512;

/// What is told together: whose, and a kind with its reason.
type Kind = (AgentName, &'static str, String);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Events(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Oldest first.
    ready: VecDeque<PlaneEvent>,
    /// What was told lately. A kind per agent and reason, so there are few.
    gathering: BTreeMap<Kind, Gathering>,
    left_out: u64,
}

#[derive(Debug)]
struct Gathering {
    until: Timestamp,
    /// What came since the last one was told.
    next: Option<PlaneEvent>,
}

impl Events {
    /// Something happened.
    pub(crate) fn tell(&self, now: Timestamp, agent: &AgentName, what: Told) {
        let event = PlaneEvent {
            at: now,
            agent: agent.clone(),
            times: 1,
            what: brief(what),
        };
        let mut waiting = self.lock();
        let Some((kind, reason)) = gathered(&event.what) else {
            return waiting.push(event);
        };
        let kind = (agent.clone(), kind, reason);
        waiting.close(|until| until <= now);
        match waiting.gathering.get_mut(&kind) {
            Some(Gathering {
                next: Some(next), ..
            }) => next.times = next.times.saturating_add(1),
            Some(Gathering { next, .. }) => *next = Some(event),
            None => {
                let gathering = Gathering {
                    until: now + EVENTS_GATHERED_FOR,
                    next: None,
                };
                waiting.gathering.insert(kind, gathering);
                waiting.push(event);
            }
        }
    }

    /// What is ready to be sent, and how much was left out ever; `all`: also what is gathered still.
    pub(crate) fn take(&self, now: Timestamp, all: bool) -> (Vec<PlaneEvent>, u64) {
        let mut waiting = self.lock();
        waiting.close(|until| all || until <= now);
        (waiting.ready.drain(..).collect(), waiting.left_out)
    }

    /// Takes back what may not have arrived, ahead of what came since.
    pub(crate) fn put_back(&self, events: Vec<PlaneEvent>) {
        let mut waiting = self.lock();
        let since = std::mem::replace(&mut waiting.ready, events.into());
        for event in since {
            waiting.push(event);
        }
    }

    /// It is whole after each step, so a panic elsewhere is no reason to lose it.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn push(&mut self, event: PlaneEvent) {
        if self.ready.len() >= EVENTS_MAX {
            // Ten thousand workers drain with one manifest: they must not push out why.
            let drains = |event: &PlaneEvent| matches!(event.what, Told::WorkerDraining { .. });
            let least = self.ready.iter().position(drains).unwrap_or(0);
            self.ready.remove(least);
            self.left_out += 1;
        }
        self.ready.push_back(event);
    }

    /// Ends gatherings. One that gathered something is followed by the next one, so that a kind is
    /// told once in its time for as long as it goes on.
    fn close(&mut self, is_over: impl Fn(Timestamp) -> bool) {
        let mut closed = Vec::new();
        self.gathering.retain(|_, gathering| {
            if !is_over(gathering.until) {
                return true;
            }
            gathering.until = gathering.until + EVENTS_GATHERED_FOR;
            let event = gathering.next.take();
            let goes_on = event.is_some();
            closed.extend(event);
            goes_on
        });
        closed.sort_by_key(|event| event.at);
        for event in closed {
            self.push(event);
        }
    }
}

/// The kind and the reason of what is told together with others like it. The rest is about one
/// worker or one job.
fn gathered(what: &Told) -> Option<(&'static str, String)> {
    match what {
        Told::WorkerRejected { reason, .. } => Some(("worker", reason.clone())),
        Told::MembershipRefused {
            document, reason, ..
        } => Some(("membership", format!("{document} {reason}"))),
        Told::WorkerDraining { .. } | Told::JobRedispatched { .. } => None,
    }
}

fn brief(mut what: Told) -> Told {
    if let Told::WorkerRejected { message, .. } | Told::MembershipRefused { message, .. } =
        &mut what
    {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    }
    what
}

#[cfg(test)]
mod tests {
    use segue_core::time::Millis;

    use super::*;

    fn rejected(reason: &str) -> Told {
        Told::WorkerRejected {
            reason: reason.to_owned(),
            message: "é".repeat(1_000),
            release: None,
            from: None,
        }
    }

    fn redispatched(job: &str) -> Told {
        Told::JobRedispatched {
            job: job.parse().unwrap(),
            release: segue_core::names::ReleaseId::of(b"v1"),
        }
    }

    fn agent() -> AgentName {
        "desk".parse().unwrap()
    }

    fn seconds(seconds: u64) -> Timestamp {
        Timestamp(0) + Millis::from_secs(seconds)
    }

    /// When each one was told, and how often it stands for.
    fn taken(events: &Events, now: u64, all: bool) -> Vec<(u64, u32)> {
        let (events, _) = events.take(seconds(now), all);
        let told = events.iter().map(|event| (event.at.0 / 1_000, event.times));
        told.collect()
    }

    #[test]
    fn the_first_is_told_at_once_and_those_that_follow_together() {
        let events = Events::default();
        for second in [100, 101, 102] {
            events.tell(seconds(second), &agent(), rejected("signature"));
        }
        events.tell(seconds(102), &agent(), rejected("expired"));
        events.tell(seconds(102), &"other".parse().unwrap(), rejected("expired"));
        assert_eq!(taken(&events, 102, false), [(100, 1), (102, 1), (102, 1)]);
        assert_eq!(taken(&events, 109, false), []);
        assert_eq!(taken(&events, 110, false), [(101, 2)]);
        // It goes on, so it is gathered still.
        events.tell(seconds(112), &agent(), rejected("signature"));
        assert_eq!(taken(&events, 112, false), []);
        assert_eq!(taken(&events, 120, false), [(112, 1)]);
        // It was quiet for long enough to be news.
        assert_eq!(taken(&events, 140, false), []);
        events.tell(seconds(141), &agent(), rejected("signature"));
        assert_eq!(taken(&events, 141, false), [(141, 1)]);
    }

    #[test]
    fn the_last_message_has_what_is_gathered_still() {
        let events = Events::default();
        events.tell(seconds(1), &agent(), rejected("signature"));
        events.tell(seconds(2), &agent(), rejected("signature"));
        assert_eq!(taken(&events, 2, true), [(1, 1), (2, 1)]);
    }

    #[test]
    fn what_did_not_arrive_is_told_again_in_order() {
        let events = Events::default();
        events.tell(seconds(1), &agent(), redispatched("a"));
        let (sent, _) = events.take(seconds(1), false);
        events.tell(seconds(2), &agent(), redispatched("b"));
        events.put_back(sent);
        assert_eq!(taken(&events, 2, false), [(1, 1), (2, 1)]);
    }

    #[test]
    fn a_flood_leaves_out_the_oldest_and_says_so() {
        let events = Events::default();
        for second in 0..EVENTS_MAX as u64 + 3 {
            events.tell(seconds(second), &agent(), redispatched("a"));
        }
        let (told, left_out) = events.take(seconds(0), false);
        assert_eq!((told.len(), left_out), (EVENTS_MAX, 3));
        assert_eq!(told[0].at, seconds(3));
        // Nothing is lost when it comes back, nor is there more than fits.
        events.tell(seconds(5_000), &agent(), redispatched("b"));
        events.put_back(told);
        let (told, left_out) = events.take(seconds(0), false);
        assert_eq!((told.len(), left_out), (EVENTS_MAX, 4));
        assert_eq!(told.last().unwrap().at, seconds(5_000));
    }

    #[test]
    fn a_flood_of_drains_pushes_out_nothing_else() {
        let events = Events::default();
        events.tell(seconds(0), &agent(), rejected("signature"));
        for second in 1..=EVENTS_MAX as u64 + 9 {
            let drains = Told::WorkerDraining {
                worker: "AW_1".parse().unwrap(),
                release: segue_core::names::ReleaseId::of(b"v1"),
                jobs: 0,
                by: segue_core::plane::DrainedBy::Membership,
            };
            events.tell(seconds(second), &agent(), drains);
        }
        let (told, left_out) = events.take(seconds(1), false);
        assert_eq!((told.len(), left_out), (EVENTS_MAX, 10));
        assert!(matches!(told[0].what, Told::WorkerRejected { .. }));
        assert_eq!(told[1].at, seconds(11), "the oldest of them go first");
    }

    #[test]
    fn a_strangers_words_are_cut() {
        let events = Events::default();
        events.tell(seconds(1), &agent(), rejected("signature"));
        let (told, _) = events.take(seconds(1), false);
        let Told::WorkerRejected { message, .. } = &told[0].what else {
            panic!("{told:?}");
        };
        assert_eq!(message.len(), MESSAGE_BYTES_MAX);
    }
}
