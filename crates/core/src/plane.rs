//! What a dispatcher says of its workers, what it may be asked to do with one, and what it has to tell
//! that belongs into the audit log.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::names::{AgentName, CallId, Label, ReleaseId, WorkerId};
use crate::time::Timestamp;

/// Events that wait for the controller; beyond, the oldest are left out and counted.
pub const EVENTS_MAX: usize = 1_024;

/// Events of one kind, agent and reason are gathered for so long: a worker that is turned away tries
/// again every few seconds, and there may be hundreds of them.
pub const EVENTS_GATHERED_FOR: crate::time::Millis = crate::time::Millis::from_secs(10);

/// A connected worker, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectedWorker {
    /// The id it was told. It has another one with each connection.
    pub worker: WorkerId,
    /// Whose.
    pub agent: AgentName,
    /// Its release.
    pub release: ReleaseId,
    /// Since when it is connected.
    pub since: Timestamp,
    /// Whether it would be given a job now.
    pub available: bool,
    /// Who says that it takes no more jobs; `None`: nobody.
    pub drain: Option<DrainedBy>,
    /// What it says of its load, in thousandths.
    pub load: u32,
    /// Whether it failed to answer lately.
    pub slow: bool,
    /// Its jobs.
    pub jobs: Vec<CallId>,
    /// The version of its library, as it says.
    pub library: String,
    /// Where it connected from.
    pub from: Option<IpAddr>,
}

/// Who ordered that a worker takes no more jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainedBy {
    /// The worker itself. Never lifted.
    Worker,
    /// An operator. Lifted by an operator.
    Operator,
    /// Its membership. Lifted when it is admitted again.
    Membership,
}

/// What an operator does with one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Steer {
    /// It takes no more jobs, and finishes those that it has. By them it is known when it comes back;
    /// one that has none is another worker for everybody with its next connection, and takes jobs.
    Drain,
    /// The operator's word is taken back; the worker's own and its membership's are not.
    Undrain,
    /// It drains, and its connection is closed. Its jobs go on: it claims them when it comes back,
    /// and drains then, too. One without jobs is not known again, and takes jobs.
    Kick,
}

/// Something for the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaneEvent {
    /// When it happened first.
    pub at: Timestamp,
    /// Whose workers it is about.
    pub agent: AgentName,
    /// How often, since the last event of the same kind, agent and reason.
    pub times: u32,
    /// What.
    pub what: Told,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Told {
    /// A worker was not let in.
    WorkerRejected {
        /// Why, in one word: that of `segue_membership::Reject`, or of the dispatcher.
        reason: String,
        /// Why, in a sentence.
        message: String,
        /// The release that it says it is of; nobody has proved it.
        release: Option<Label>,
        /// Where it came from.
        from: Option<IpAddr>,
    },
    /// A worker takes no more jobs from now on.
    WorkerDraining {
        /// Which.
        worker: WorkerId,
        /// Of which release.
        release: ReleaseId,
        /// How many jobs it still has.
        jobs: u32,
        /// On whose word.
        by: DrainedBy,
    },
    /// Key sets or a manifest that were offered are not believed; those before stay in force.
    MembershipRefused {
        /// `keys` or `manifest`.
        document: String,
        /// Why, in one word.
        reason: String,
        /// Why, in a sentence.
        message: String,
    },
    /// A job whose worker died with its room still open was dispatched again.
    JobRedispatched {
        /// Which job.
        job: CallId,
        /// Of which release.
        release: ReleaseId,
    },
}
