//! What is told of memberships, until the driver takes it: gathered, and bounded.

use segue_core::names::{AgentName, WorkerId};
use segue_core::rollout::Notice;
use segue_core::time::Timestamp;

/// What waits; the driver takes it several times a second. More of it is left out.
const WAITING_MAX: usize = 100;

/// What waits for the log.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<(Option<AgentName>, Notice)>);

impl Told {
    /// A worker was refused.
    pub(super) fn rejected(
        &mut self,
        agent: &AgentName,
        worker: &WorkerId,
        (reason, message): (&str, &str),
        now: Timestamp,
    ) {
        let same = self.0.iter_mut().find_map(|(of, notice)| match notice {
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
        if self.0.len() < WAITING_MAX {
            self.0.push((agent.cloned(), notice));
        }
    }

    pub(super) fn take(&mut self) -> Vec<(Option<AgentName>, Notice)> {
        std::mem::take(&mut self.0)
    }
}
