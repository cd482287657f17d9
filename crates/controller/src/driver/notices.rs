//! What befell workers, on its way into the journal. Strangers can make some of it happen as often as
//! they like, so what is written down is bounded; what is not, is counted there.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash as _, Hasher as _};

use segue_core::names::{AgentName, GatewayId};
use segue_core::plane::{EVENTS_MAX, PlaneEvent};
use segue_core::rollout::{Event, Input, Notice};
use segue_core::time::{Millis, Timestamp};

use super::{Driver, Refused};
use crate::clock;

/// Notices of one agent that are written down at once: a whole fleet that begins to drain.
const NOTICES_AT_ONCE: u64 = 200;

/// Beyond, one in this time: at most 2 880 a day, each some hundred bytes and what was known then.
const NOTICE_EVERY: Millis = Millis::from_secs(30);

/// Notices of one agent that wait while the journal cannot be written.
const WAITING_MAX: usize = 400;

/// Notices of one agent that are written down before anything else is looked at: each waits for the
/// disk, and a rollback may wait behind them.
const WRITTEN_AT_ONCE: usize = 8;

/// There is room for so many again when it is told that some were left out, if nothing else is.
const QUIET_ROOM: u64 = 10;

/// Events of one gateway that are known again when it tells them twice. As many as it keeps.
const KNOWN_MAX: usize = EVENTS_MAX;

/// Notices that wait, and what was told before.
#[derive(Debug, Default)]
pub(super) struct Notices {
    waiting: BTreeMap<AgentName, Waiting>,
    told: BTreeMap<GatewayId, Told>,
}

/// Of one agent.
#[derive(Debug)]
struct Waiting {
    /// With the actor of each.
    queue: VecDeque<(String, Notice)>,
    /// How much may be written down now, and since when that was counted.
    room: u64,
    since: Timestamp,
    left_out: u64,
}

/// What one gateway told.
#[derive(Debug, Default)]
struct Told {
    known: BTreeSet<u64>,
    order: VecDeque<u64>,
    /// How much it has left out since it started, as it last said; `None`: it said nothing yet.
    left_out: Option<u64>,
}

impl Notices {
    /// Takes one in.
    pub(super) fn push(&mut self, now: Timestamp, agent: &AgentName, actor: &str, notice: Notice) {
        let waiting = self.waiting.entry(agent.clone());
        let waiting = waiting.or_insert_with(|| Waiting::new(now));
        waiting.refill(now);
        // Whoever reads of it should know that something is missing before it.
        let needed = 1 + u64::from(waiting.left_out > 0);
        if waiting.room < needed || waiting.queue.len() >= WAITING_MAX {
            waiting.left_out += 1;
            return;
        }
        waiting.tell_left_out(now);
        waiting.room -= 1;
        waiting.queue.push_back((actor.to_owned(), notice));
    }

    /// So many never came.
    pub(super) fn miss(&mut self, now: Timestamp, agent: &AgentName, count: u64) {
        let waiting = self.waiting.entry(agent.clone());
        waiting.or_insert_with(|| Waiting::new(now)).left_out += count;
    }

    /// The next one to write down. It stays until [`Self::written`].
    fn next(&mut self, now: Timestamp, agent: &AgentName) -> Option<(String, Notice)> {
        let waiting = self.waiting.get_mut(agent)?;
        waiting.refill(now);
        if waiting.room >= QUIET_ROOM {
            waiting.tell_left_out(now);
        }
        waiting.queue.front().cloned()
    }

    fn written(&mut self, agent: &AgentName) {
        if let Some(waiting) = self.waiting.get_mut(agent) {
            waiting.queue.pop_front();
        }
    }
}

impl Waiting {
    fn new(now: Timestamp) -> Self {
        Self {
            queue: VecDeque::new(),
            room: NOTICES_AT_ONCE,
            since: now,
            left_out: 0,
        }
    }

    fn refill(&mut self, now: Timestamp) {
        let more = now.since(self.since).0 / NOTICE_EVERY.0;
        self.since = self.since + Millis(more * NOTICE_EVERY.0);
        self.room = (self.room + more).min(NOTICES_AT_ONCE);
    }

    fn tell_left_out(&mut self, at: Timestamp) {
        if self.left_out > 0 && self.room > 0 {
            let count = std::mem::take(&mut self.left_out);
            self.room -= 1;
            let notice = Notice::EventsLeftOut { count, at };
            self.queue.push_back(("segue".to_owned(), notice));
        }
    }
}

impl Told {
    /// How much was left out since it told last, as it counts `left_out` since its start. Unknown, so
    /// none, when it tells for the first time: a controller before this one may have heard of it.
    fn missing(&mut self, left_out: u64) -> u64 {
        // One that was started again counts from zero.
        let before = self.left_out.replace(left_out);
        before.map_or(0, |before| left_out.saturating_sub(before))
    }

    /// Whether it is told for the first time.
    fn is_new(&mut self, event: &PlaneEvent) -> bool {
        let mut hasher = DefaultHasher::new();
        let text = serde_json::to_string(event).expect("events always serialise");
        text.hash(&mut hasher);
        let digest = hasher.finish();
        if !self.known.insert(digest) {
            return false;
        }
        self.order.push_back(digest);
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

impl Driver {
    /// A gateway has something for the audit log.
    pub(super) fn told(&mut self, gateway: &GatewayId, events: Vec<PlaneEvent>, left_out: u64) {
        let actor = format!("gateway:{gateway}");
        let told = self.notices.told.entry(gateway.clone()).or_default();
        if told.left_out.is_none() && left_out > 0 {
            tracing::warn!(%gateway, left_out, "it has left out events of workers since it started");
        }
        let missing = told.missing(left_out);
        if missing > 0 {
            tracing::warn!(%gateway, missing, "events of workers were left out on their way here");
            // Nobody knows whose they were.
            for agent in self.agents.keys() {
                self.notices.miss(clock::now(), agent, missing);
            }
        }
        for event in events {
            let told = self.notices.told.entry(gateway.clone()).or_default();
            if !self.agents.contains_key(&event.agent) || !told.is_new(&event) {
                continue;
            }
            let agent = event.agent.clone();
            let ushers = &self.parts.outreach.ushers;
            let notice = Notice::told(event, |call| ushers.hashed(call));
            self.notices.push(clock::now(), &agent, &actor, notice);
        }
    }

    /// Writes down what befell the workers of an agent.
    pub(super) async fn write_notices(&mut self, name: &AgentName) -> Result<(), Refused> {
        for _ in 0..WRITTEN_AT_ONCE {
            let Some((actor, notice)) = self.notices.next(clock::now(), name) else {
                return Ok(());
            };
            let input = Input {
                actor,
                ..Input::noticed(Event::Notice(Box::new(notice)))
            };
            match self.decide(name, input).await {
                Err(refused @ Refused::Journal(_)) => return Err(refused),
                Ok(_) | Err(_) => self.notices.written(name),
            }
        }
        // There may be more.
        self.parts.bell.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use segue_core::plane;

    use super::*;

    fn seconds(seconds: u64) -> Timestamp {
        Timestamp(0) + Millis::from_secs(seconds)
    }

    fn rejected(at: Timestamp) -> Notice {
        Notice::WorkerRejected {
            reason: "signature".to_owned(),
            message: "no key that is known has signed it".to_owned(),
            worker: None,
            label: None,
            from: None,
            times: 1,
            at,
        }
    }

    /// How many are written down now, and how many of them say what is missing.
    fn write(notices: &mut Notices, agent: &AgentName, now: Timestamp) -> (usize, Vec<u64>) {
        let (mut written, mut missing) = (0, Vec::new());
        while let Some((_, notice)) = notices.next(now, agent) {
            written += 1;
            if let Notice::EventsLeftOut { count, .. } = notice {
                missing.push(count);
            }
            notices.written(agent);
        }
        (written, missing)
    }

    #[test]
    fn a_flood_does_not_fill_the_journal_and_is_counted() {
        let (mut notices, desk) = (Notices::default(), "desk".parse().unwrap());
        for _ in 0..10_000 {
            notices.push(seconds(0), &desk, "gateway:gw", rejected(seconds(0)));
        }
        let at_once = usize::try_from(NOTICES_AT_ONCE).unwrap();
        assert_eq!(write(&mut notices, &desk, seconds(0)), (at_once, vec![]));
        // Another agent has room of its own.
        let other = "other".parse().unwrap();
        notices.push(seconds(0), &other, "gateway:gw", rejected(seconds(0)));
        assert_eq!(write(&mut notices, &other, seconds(0)), (1, vec![]));
        // It goes on for an hour: two in a minute, with what is missing.
        let mut written = 0;
        for second in 1..=3_610 {
            notices.push(seconds(second), &desk, "gateway:gw", rejected(seconds(0)));
            written += write(&mut notices, &desk, seconds(second)).0;
        }
        assert_eq!(written, 120);
        // It is quiet: the rest is told once.
        let later = seconds(3_610 + 30 * QUIET_ROOM);
        let (written, missing) = write(&mut notices, &desk, later);
        assert!(written == 1 && missing.len() == 1, "{missing:?}");
        assert_eq!(write(&mut notices, &desk, later), (0, vec![]));
    }

    #[test]
    fn what_never_came_is_told_too() {
        let (mut notices, desk) = (Notices::default(), "desk".parse().unwrap());
        notices.miss(seconds(0), &desk, 3);
        notices.miss(seconds(0), &desk, 4);
        assert_eq!(write(&mut notices, &desk, seconds(1)), (1, vec![7]));
    }

    #[test]
    fn what_is_not_written_down_yet_stays() {
        let (mut notices, desk) = (Notices::default(), "desk".parse().unwrap());
        notices.push(seconds(0), &desk, "gateway:gw", rejected(seconds(0)));
        let first = notices.next(seconds(1), &desk);
        assert!(first.is_some() && first == notices.next(seconds(2), &desk));
        notices.written(&desk);
        assert_eq!(notices.next(seconds(2), &desk), None);
    }

    #[test]
    fn what_a_gateway_left_out_before_it_was_known_is_not_told_again() {
        let mut told = Told::default();
        assert_eq!(
            told.missing(900),
            0,
            "its lifetime, or since a controller before"
        );
        assert_eq!(told.missing(903), 3);
        assert_eq!(told.missing(0), 0, "started again");
        assert_eq!(told.missing(2), 2);
        let mut told = Told::default();
        assert_eq!((told.missing(0), told.missing(4)), (0, 4), "also from zero");
    }

    #[test]
    fn what_is_told_twice_is_known() {
        let event = |at| PlaneEvent {
            at: Timestamp(at),
            agent: "desk".parse().unwrap(),
            times: 1,
            what: plane::Told::MembershipRefused {
                document: "keys".to_owned(),
                reason: "rollback".to_owned(),
                message: String::new(),
            },
        };
        let mut told = Told::default();
        for at in 0..=KNOWN_MAX as u64 {
            assert!(told.is_new(&event(at)) && !told.is_new(&event(at)));
        }
        assert_eq!(told.known.len(), KNOWN_MAX);
        assert!(told.is_new(&event(0)), "the oldest is forgotten");
    }
}
