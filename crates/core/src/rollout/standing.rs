//! Standings: which workers may take new calls, by their membership.
//!
//! Whoever checks signatures says how each worker stands, as a level; what changed becomes a fact. A
//! barred worker takes no new call and keeps its own. A release whose workers are barred has no room,
//! so a rollout waits for it, and what is being brought in is taken back if it bars itself.

use serde::{Deserialize, Serialize};

use crate::names::{ReleaseId, TokenId, WorkerId};
use crate::rollout::agent::{Agent, WorkerRecord};
use crate::rollout::fact::Fact;
use crate::rollout::hold::Hold;

/// The token by which a worker was admitted. It is remembered, so that the worker need not show it
/// again after a restart, and can be barred when it is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Badge {
    /// Its id.
    pub token: TokenId,
    /// The name of the key that signed it.
    pub signer: String,
    /// The worker that it names, if it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<WorkerId>,
}

impl WorkerRecord {
    /// Whether it may be given a new call.
    pub fn takes_calls(&self) -> bool {
        self.barred.is_none()
    }
}

impl Agent {
    /// How a worker stands now: barred for that reason, or not, by that badge.
    pub(super) fn stands(
        &self,
        worker: &WorkerId,
        badge: Option<&Badge>,
        barred: Option<&String>,
    ) -> Option<Fact> {
        let record = self.workers.get(worker)?;
        let worker = worker.clone();
        match barred {
            Some(why) if record.barred.as_ref() != Some(why) => Some(Fact::WorkerBarred {
                worker,
                why: why.clone(),
            }),
            Some(_) => None,
            None if record.barred.is_some() => Some(Fact::WorkerAdmitted {
                worker,
                badge: badge.cloned(),
            }),
            // Tokens are made anew every few minutes: routing has nothing to do with it.
            None => {
                let badge = badge.filter(|is| record.badge.as_ref() != Some(is))?;
                let badge = badge.clone();
                Some(Fact::WorkerShowed { worker, badge })
            }
        }
    }

    /// A worker stands otherwise.
    pub(super) fn standing_fact(&mut self, fact: &Fact) {
        match fact {
            Fact::WorkerAdmitted { worker, badge } => {
                if let Some(record) = self.workers.get_mut(worker) {
                    record.barred = None;
                    if badge.is_some() {
                        record.badge.clone_from(badge);
                    }
                }
            }
            Fact::WorkerShowed { worker, badge } => {
                if let Some(record) = self.workers.get_mut(worker) {
                    record.badge = Some(badge.clone());
                }
            }
            Fact::WorkerBarred { worker, why } => {
                if let Some(record) = self.workers.get_mut(worker) {
                    record.barred = Some(why.clone());
                }
            }
            _ => {}
        }
    }

    /// What keeps a release from having its workers, if all are there and some are barred.
    pub(super) fn barred_hold(&self, release: ReleaseId, missing: u32) -> Option<Hold> {
        let ours = self.workers.values().filter(|is| is.release == release);
        let mut barred = ours.filter_map(|worker| worker.barred.as_ref());
        let why = barred.next()?.clone();
        let workers = 1 + u32::try_from(barred.count()).unwrap_or(u32::MAX - 1);
        (workers >= missing).then_some(Hold::Barred { workers, why })
    }
}
