//! Who may take calls, as the driver sees it: levels, compared with what was decided.

use std::collections::BTreeMap;

use segue_core::names::{AgentName, WorkerId};
use segue_core::rollout::{Agent, Event};
use segue_core::time::{Millis, Timestamp};

use super::Driver;
use crate::clock;
use crate::platform::WorkerStatus;

/// How often it is written down that a worker shows another token: one that has two of them may show
/// them in turns as fast as it likes.
const SHOWED_EVERY: Millis = Millis::from_secs(60);

/// When it was written down of whom.
#[derive(Debug, Default)]
pub(super) struct Showed(BTreeMap<(AgentName, WorkerId), Timestamp>);

impl Showed {
    fn is_recent(&self, now: Timestamp, agent: &AgentName, worker: &WorkerId) -> bool {
        let last = self.0.get(&(agent.clone(), worker.clone()));
        last.is_some_and(|last| now < *last + SHOWED_EVERY)
    }

    fn note(&mut self, now: Timestamp, agent: &AgentName, worker: &WorkerId) {
        self.0.retain(|_, last| now < *last + SHOWED_EVERY);
        self.0.insert((agent.clone(), worker.clone()), now);
    }
}

impl Driver {
    /// Something was noticed, and is written down.
    pub(super) fn note_showed(&mut self, agent: &AgentName, event: &Event) {
        if let Event::WorkerStands {
            worker,
            badge: Some(_),
            barred: None,
        } = event
        {
            self.showed.note(clock::now(), agent, worker);
        }
    }

    /// Why a worker that has just come may take no new call, if it may not.
    pub(super) fn barred(&self, agent: &Agent, status: &WorkerStatus) -> Option<String> {
        let release = &agent.releases.get(&status.release)?.release;
        let (of, now) = ((release, None), clock::now());
        let membership = &self.parts.membership;
        membership.standing(&agent.name, &status.worker, of, now).1
    }

    /// Workers that stand otherwise than was decided.
    pub(super) fn standings(&self, name: &AgentName, agent: &Agent) -> Vec<Event> {
        let now = clock::now();
        let stands = agent.workers.iter().filter_map(|(worker, record)| {
            let release = &agent.releases.get(&record.release)?.release;
            let of = (release, record.badge.as_ref());
            let (badge, barred) = self.parts.membership.standing(name, worker, of, now);
            let is_first = record.badge.is_none() || !self.showed.is_recent(now, name, worker);
            let shows = badge.is_some() && badge != record.badge && barred.is_none() && is_first;
            (barred != record.barred || shows).then(|| Event::WorkerStands {
                worker: worker.clone(),
                badge,
                barred,
            })
        });
        stands.collect()
    }

    /// Takes over what is told of memberships.
    pub(super) fn note_memberships(&mut self, names: &[AgentName]) {
        let (told, now) = (self.parts.membership.told(), clock::now());
        for name in names {
            let is_its = |of: &Option<AgentName>| of.as_ref().is_none_or(|of| of == name);
            for (_, notice) in told.notices.iter().filter(|(of, _)| is_its(of)) {
                self.notices.push(now, name, "segue", notice.clone());
            }
            for (_, count) in told.left_out.iter().filter(|(of, _)| is_its(of)) {
                self.notices.miss(now, name, *count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_fills_no_journal_with_tokens() {
        let (mut showed, mut written) = (Showed::default(), 0);
        let (desk, w1) = ("desk".parse().unwrap(), "w1".parse().unwrap());
        for second in 0..3_600 {
            let now = Timestamp(0) + Millis::from_secs(second);
            if !showed.is_recent(now, &desk, &w1) {
                showed.note(now, &desk, &w1);
                written += 1;
            }
        }
        assert_eq!(written, 60);
        let other = "w2".parse().unwrap();
        let now = Timestamp(0) + Millis::from_secs(3_600);
        assert!(!showed.is_recent(now, &desk, &other));
        showed.note(now + SHOWED_EVERY, &desk, &other);
        assert_eq!(showed.0.len(), 1, "who is gone is forgotten");
    }
}
