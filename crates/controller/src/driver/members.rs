//! Who may take calls, as the driver sees it: levels, compared with what was decided.

use segue_core::names::AgentName;
use segue_core::rollout::{Agent, Event};

use super::Driver;
use crate::clock;
use crate::platform::WorkerStatus;

impl Driver {
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
            let shows = badge.is_some() && badge != record.badge && barred.is_none();
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
        for (agent, notice) in self.parts.membership.notices() {
            for name in names {
                if agent.as_ref().is_none_or(|agent| agent == name) {
                    let now = clock::now();
                    self.notices.push(now, name, "segue", notice.clone());
                }
            }
        }
    }
}
