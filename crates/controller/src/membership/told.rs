//! What is told of memberships, until the driver takes it: gathered, and bounded.

use std::collections::BTreeMap;

use segue_core::names::{AgentName, WorkerId};
use segue_core::rollout::Notice;
use segue_core::time::Timestamp;

/// What waits of one agent, or of documents; the driver takes it several times a second. More of it is
/// left out, and counted.
const WAITING_MAX: usize = 100;

/// What waits for the log, each for an agent or for all of them.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) notices: Vec<(Option<AgentName>, Notice)>,
    /// How many are not among them.
    pub(crate) left_out: BTreeMap<Option<AgentName>, u64>,
}

impl Told {
    /// A worker was refused.
    pub(super) fn rejected(
        &mut self,
        agent: &AgentName,
        worker: &WorkerId,
        (reason, message): (&str, &str),
        now: Timestamp,
    ) {
        let same = self
            .notices
            .iter_mut()
            .find_map(|(of, notice)| match notice {
                Notice::WorkerRejected {
                    reason: is,
                    worker: Some(who),
                    times,
                    ..
                } if of.as_ref() == Some(agent) && who == worker && is == reason => Some(times),
                _ => None,
            });
        if let Some(times) = same {
            *times = times.saturating_add(1);
            return;
        }
        self.push(
            Some(agent),
            Notice::WorkerRejected {
                reason: reason.to_owned(),
                message: message.to_owned(),
                worker: Some(worker.clone()),
                label: None,
                from: None,
                times: 1,
                at: now,
            },
        );
    }

    /// A document was refused.
    pub(super) fn refused(&mut self, document: &str, why: (&str, &str), now: Timestamp) {
        let (reason, message) = why;
        self.push(
            None,
            Notice::MembershipRefused {
                document: document.to_owned(),
                reason: reason.to_owned(),
                message: message.to_owned(),
                times: 1,
                at: now,
            },
        );
    }

    fn push(&mut self, agent: Option<&AgentName>, notice: Notice) {
        let agent = agent.cloned();
        let same = self.notices.iter().filter(|(of, _)| *of == agent);
        if same.count() < WAITING_MAX {
            self.notices.push((agent, notice));
        } else {
            *self.left_out.entry(agent).or_default() += 1;
        }
    }

    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_agent_displaces_no_other_and_what_is_left_out_is_counted() {
        let (mut told, now) = (Told::default(), Timestamp(1));
        let [desk, jobs] = ["desk", "jobs"].map(|name| name.parse().unwrap());
        for number in 0..WAITING_MAX + 7 {
            let worker = format!("w{number}").parse().unwrap();
            told.rejected(&desk, &worker, ("proof", "no"), now);
        }
        told.rejected(&jobs, &"w1".parse().unwrap(), ("proof", "no"), now);
        told.refused("manifest", ("unread", "no"), now);
        let taken = told.take();
        assert_eq!(taken.notices.len(), WAITING_MAX + 2);
        assert_eq!(taken.left_out, BTreeMap::from([(Some(desk), 7)]));
        assert!(told.take().notices.is_empty() && told.left_out.is_empty());
    }
}
