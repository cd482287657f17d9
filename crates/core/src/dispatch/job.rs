//! A job and where it is in its life.

use std::collections::BTreeMap;

use super::drains::Drains;
use super::event::{Action, Entry};
use super::facts::{Ask, Body, JobRecord, LineKey, WorkerKey};
use super::vacancy::Again;
use super::{CLAIM_WITHIN, MUTE_WITHIN};
use crate::names::{AgentName, CallId, ReleaseId, WorkerId};
use crate::route::Reason;
use crate::table::Epoch;
use crate::time::{Millis, Timestamp};

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: CallId,
    pub(super) agent: AgentName,
    pub(super) room: String,
    /// Where it was offered, or where its worker is registered.
    pub(super) line: Option<LineKey>,
    /// Its release, once decided: it is counted there.
    pub(super) decided: Option<Decided>,
    /// The last worker that had it.
    pub(super) worker: Option<WorkerId>,
    pub(super) offered: Timestamp,
    pub(super) begun: Option<Timestamp>,
    /// Its worker was told to end it by policy, on this connection.
    pub(super) ends: bool,
    /// Its worker says how it is.
    pub(super) spoken: bool,
    /// Who says that its worker takes no more jobs, beyond this connection.
    pub(super) drains: Drains,
    /// Its place in the room was offered to another one, and it holds the room no more.
    pub(super) is_left: bool,
    /// What is needed to dispatch it again, once it has begun.
    pub(super) again: Option<Box<Again>>,
    /// The server has ended it; then it is over, whatever its worker says.
    pub(super) over_by: Option<Timestamp>,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decided {
    pub(super) release: ReleaseId,
    pub(super) reason: Reason,
    pub(super) epoch: Epoch,
    pub(super) is_override: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// Nobody has it yet.
    Offering(Box<Offer>),
    /// A connected worker has it.
    Running(WorkerKey),
    /// Its worker is not connected.
    Away {
        /// Then it is over.
        until: Timestamp,
        /// What it means if nobody claims it.
        gone: Gone,
    },
}

/// Why nobody has a job, and so what became of it if nobody claims it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// Its worker's connection broke: the worker is dead.
    Broken,
    /// Its worker drained and closed in order, or is back without it: it is over, and only the last
    /// word is missing.
    Over,
    /// We were away: its worker may have said the last word to nobody.
    Unheard,
}

#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) ask: Ask,
    /// Whom it was asked of, and the count of that one's words then; `None`: not any more.
    pub(super) tried: BTreeMap<WorkerKey, Option<u64>>,
    /// How often somebody was asked.
    pub(super) asks: usize,
    /// Whether somebody was silent or gone, which is the release's fault.
    pub(super) at_fault: bool,
    pub(super) step: Step,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Nobody is asked; somebody may have room in a moment.
    Held,
    /// A worker is asked.
    Asking { worker: WorkerKey, until: Timestamp },
    /// A worker has promised, the server knows it, and has not assigned yet.
    Promised {
        worker: WorkerKey,
        identity: String,
        until: Timestamp,
    },
    /// The worker that had promised is lost. The server has signed, or will, for this identity.
    Replacing {
        identity: String,
        assignment: Option<Body>,
        asking: Option<(WorkerKey, Timestamp)>,
        until: Timestamp,
    },
}

/// How long a job is waited for whose worker is away.
pub(super) fn claim_within(spoken: bool) -> Millis {
    if spoken { CLAIM_WITHIN } else { MUTE_WITHIN }
}

impl Job {
    pub(super) fn offering(ask: Ask, agent: AgentName, line: LineKey, now: Timestamp) -> Self {
        Self {
            id: ask.job.clone(),
            agent,
            room: ask.room.clone(),
            line: Some(line),
            decided: None,
            worker: None,
            offered: now,
            begun: None,
            ends: false,
            spoken: false,
            drains: Drains::default(),
            is_left: false,
            again: None,
            over_by: None,
            stage: Stage::Offering(Box::new(Offer {
                ask,
                tried: BTreeMap::new(),
                asks: 0,
                at_fault: false,
                step: Step::Held,
            })),
        }
    }

    /// A job of a process before this one: it runs, and its worker will say so.
    pub(super) fn restored(record: JobRecord, now: Timestamp) -> Self {
        let until = now + claim_within(record.spoken);
        Self {
            id: record.job,
            agent: record.agent,
            room: record.room,
            line: None,
            decided: Some(Decided {
                release: record.release,
                reason: record.reason,
                epoch: record.epoch,
                is_override: record.is_override,
            }),
            worker: Some(record.worker),
            offered: record.decided,
            begun: Some(record.begun),
            ends: false,
            spoken: record.spoken,
            drains: record.drains,
            is_left: false,
            again: record.again,
            over_by: None,
            stage: Stage::Away {
                until,
                gone: Gone::Unheard,
            },
        }
    }

    /// What must be known of it after a restart; `None`: it runs nowhere yet.
    pub(super) fn record(&self) -> Option<JobRecord> {
        let decided = self.decided?;
        Some(JobRecord {
            job: self.id.clone(),
            agent: self.agent.clone(),
            room: self.room.clone(),
            release: decided.release,
            worker: self.worker.clone()?,
            epoch: decided.epoch,
            reason: decided.reason,
            is_override: decided.is_override,
            decided: self.offered,
            begun: self.begun?,
            spoken: self.spoken,
            drains: self.drains.clone(),
            again: self.again.clone(),
        })
    }

    /// Its worker is known to say how it is. What is to be written down of that, if it is news.
    pub(super) fn speaks(&mut self) -> Option<Action> {
        let is_news = !std::mem::replace(&mut self.spoken, true);
        let job = || self.id.clone();
        is_news.then(|| Action::Write(Entry::Spoken { job: job() }))
    }

    /// What is needed to dispatch it again, with who its agent will be. Only while it is promised.
    pub(super) fn again(&self) -> Option<Box<Again>> {
        let offer = self.offer()?;
        let (Step::Promised { identity, .. } | Step::Replacing { identity, .. }) = &offer.step
        else {
            return None;
        };
        let identity = identity.clone();
        let again = offer.ask.again.as_deref()?.clone();
        Some(Box::new(Again { identity, ..again }))
    }

    /// The room itself, where it is known.
    pub(super) fn sid(&self) -> Option<&str> {
        let offered = || self.offer()?.ask.again.as_ref();
        let again = self.again.as_ref().or_else(offered)?;
        Some(&again.sid)
    }

    pub(super) fn offer(&self) -> Option<&Offer> {
        match &self.stage {
            Stage::Offering(offer) => Some(offer),
            _ => None,
        }
    }

    pub(super) fn offer_mut(&mut self) -> Option<&mut Offer> {
        match &mut self.stage {
            Stage::Offering(offer) => Some(offer),
            _ => None,
        }
    }

    /// One word for people.
    pub(super) fn state(&self) -> &'static str {
        match &self.stage {
            Stage::Offering(_) => "dialling",
            Stage::Running(_) => "live",
            Stage::Away { .. } => "unknown",
        }
    }
}
