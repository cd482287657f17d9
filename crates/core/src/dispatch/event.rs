//! What happens, and what is to be done about it.

use serde::{Deserialize, Serialize};

use super::drains::Drains;
use super::facts::{Ask, Body, JobRecord, LineId, LineKey, WorkerKey};
use super::line::LineStatus;
use super::vacancy::{Dispatched, RoomAsk, RoomSeen, Vacancy};
use super::worker::Hello;
use crate::link::CallRecord;
use crate::names::{AgentName, CallId, Label, ReleaseId, WorkerId};
use crate::plane::{DrainedBy, Steer};
use crate::table::{Epoch, RoutingTable};
use crate::time::Millis;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A worker has registered.
    Registered(Box<Hello>),
    /// It says how it is.
    Status {
        /// Which connection.
        worker: WorkerKey,
        /// How it is.
        status: WorkerStatus,
    },
    /// It answers an offer.
    Answered {
        /// Which connection.
        worker: WorkerKey,
        /// Its answer.
        answer: Answer,
    },
    /// It says how a job is.
    JobUpdate {
        /// Which connection.
        worker: WorkerKey,
        /// Which job.
        job: CallId,
        /// `None`: it runs. Else whether it ended well, as far as the worker knows.
        ended_well: Option<bool>,
        /// The message.
        body: Body,
    },
    /// It has these jobs already.
    Claimed {
        /// Which connection.
        worker: WorkerKey,
        /// Which.
        jobs: Vec<CallId>,
    },
    /// It asks the server for a job, to be tried out.
    Simulated {
        /// Which connection.
        worker: WorkerKey,
        /// The message.
        body: Body,
    },
    /// Its connection is closed.
    Closed {
        /// Which connection.
        worker: WorkerKey,
        /// The code of its close frame, if it sent one.
        code: Option<u16>,
    },
    /// Somebody says that it takes no more jobs.
    Drain {
        /// Which connection.
        worker: WorkerKey,
        /// Who.
        by: DrainedBy,
    },
    /// Who said so takes it back.
    Undrain {
        /// Which connection.
        worker: WorkerKey,
        /// Who.
        by: DrainedBy,
    },
    /// An operator does something with a worker.
    Steer {
        /// Whose.
        agent: AgentName,
        /// Which.
        worker: WorkerId,
        /// What.
        what: Steer,
    },
    /// The server knows a line.
    LineUp {
        /// Which.
        line: LineKey,
    },
    /// The server is away, and has forgotten what it offered.
    LineDown {
        /// Which.
        line: LineKey,
    },
    /// The server offers a job.
    Offered {
        /// On which line.
        line: LineKey,
        /// The job.
        ask: Ask,
    },
    /// The server gives a job that was promised.
    Assigned {
        /// Which job.
        job: CallId,
        /// The message for the worker.
        body: Body,
    },
    /// The server ends a job.
    Terminated {
        /// Which job.
        job: CallId,
        /// The message.
        body: Body,
    },
    /// A table came.
    Table(Box<RoutingTable>),
    /// Every agent that exists.
    Agents {
        /// Their names.
        names: Vec<AgentName>,
    },
    /// These jobs are to end by policy.
    EndCalls {
        /// Whose.
        agent: AgentName,
        /// Of which release.
        release: ReleaseId,
        /// The table of the decision.
        epoch: Epoch,
        /// Which.
        calls: Vec<CallId>,
    },
    /// The server was asked who is in the room of a job.
    RoomSeen {
        /// Which job.
        job: CallId,
        /// What it says.
        seen: RoomSeen,
    },
    /// It was asked to dispatch a job again.
    Redispatched {
        /// Which job.
        job: CallId,
        /// What it says.
        answer: Dispatched,
    },
    /// No further job is taken here; those that are go on.
    Stop,
    /// Time passed.
    Tick,
}

/// How a worker says it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkerStatus {
    /// Whether it takes jobs; `None`: it does not say.
    pub available: Option<bool>,
    /// 0 to 1.
    pub load: f32,
    /// Whether it says that it drains.
    pub draining: bool,
}

/// A worker's answer to an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Which job.
    pub job: CallId,
    /// Whether it takes it.
    pub available: bool,
    /// Whether the job is to end without anybody taking it.
    pub terminate: bool,
    /// Who its participant would be: the token will be made out to it.
    pub identity: String,
    /// The message.
    pub body: Body,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// To be written down before anything behind it is done.
    Write(Entry),
    /// A message for a worker.
    ToWorker {
        /// Which connection.
        worker: WorkerKey,
        /// The message.
        body: Body,
    },
    /// A worker is to end a job.
    Terminate {
        /// Which connection.
        worker: WorkerKey,
        /// Which job.
        job: CallId,
    },
    /// A worker's connection is to be closed; it is gone already for whoever decides.
    Kick {
        /// Which connection.
        worker: WorkerKey,
    },
    /// A message for the server.
    ToServer {
        /// On which line.
        line: LineKey,
        /// The message.
        body: Body,
    },
    /// The server is to hear that nobody takes a job.
    Refuse {
        /// On which line.
        line: LineKey,
        /// Which job.
        job: CallId,
    },
    /// A line is to be registered, and again whenever the server was away.
    Open {
        /// Its key.
        line: LineKey,
        /// What it is.
        id: LineId,
    },
    /// A line is no longer needed.
    Close {
        /// Which.
        line: LineKey,
    },
    /// The server is to hear how a line is.
    Status {
        /// Which.
        line: LineKey,
        /// How.
        status: LineStatus,
    },
    /// The server is to hear what a line has already.
    Migrate {
        /// Which.
        line: LineKey,
        /// Its jobs.
        jobs: Vec<CallId>,
    },
    /// The server is to be asked who is in a room.
    LookAtRoom(Box<RoomAsk>),
    /// A room is to get another agent.
    Redispatch(Box<RoomAsk>),
    /// A room is to say which release answers it.
    Label {
        /// Which room.
        room: String,
        /// The release.
        label: Label,
    },
    /// A job is over, or nobody took it.
    Ended(Box<CallRecord>),
    /// Worth a line in a log.
    Note(Note),
}

/// One line of the durable table of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Entry {
    /// A job is given to a worker.
    Begun(JobRecord),
    /// Its worker says that it runs.
    Spoken {
        /// Which.
        job: CallId,
    },
    /// Its worker has another connection now.
    Moved {
        /// Which.
        job: CallId,
        /// The worker's new id.
        worker: WorkerId,
    },
    /// Who says that its worker takes no more jobs.
    Drained {
        /// Which.
        job: CallId,
        /// Who.
        drains: Drains,
    },
    /// It is over.
    Ended {
        /// Which.
        job: CallId,
    },
    /// The agent of a room may be gone, or was replaced: this is how far that is now.
    Vacant(Box<Vacancy>),
    /// It is not, or need not be known any more.
    Occupied {
        /// Which job it had.
        job: CallId,
    },
}

/// What people may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A worker takes no more jobs.
    WorkerDrains {
        /// Which.
        worker: WorkerId,
        /// Whose.
        agent: AgentName,
        /// Of which release.
        release: ReleaseId,
        /// How many jobs it still has.
        jobs: u32,
        /// On whose word.
        by: DrainedBy,
    },
    /// A worker takes jobs again: every word against it is taken back.
    WorkerServes {
        /// Which.
        worker: WorkerId,
        /// Whose.
        agent: AgentName,
        /// Of which release.
        release: ReleaseId,
    },
    /// A worker did not answer in time.
    WorkerSilent {
        /// Which.
        worker: WorkerId,
        /// What it was asked for.
        job: CallId,
    },
    /// A job goes on with a worker that came back.
    JobClaimed {
        /// Which.
        job: CallId,
        /// By whom.
        worker: WorkerId,
    },
    /// A worker has a job that nobody here knew.
    JobAdopted {
        /// Which.
        job: CallId,
        /// By whom.
        worker: WorkerId,
    },
    /// A worker claims a job of another release or agent.
    ClaimRefused {
        /// Which.
        job: CallId,
        /// By whom.
        worker: WorkerId,
    },
    /// A job's worker is away.
    JobAway {
        /// Which.
        job: CallId,
        /// Which it was.
        worker: WorkerId,
    },
    /// A job's worker was lost before it got the job, and another one is asked.
    JobReplaced {
        /// Which.
        job: CallId,
    },
    /// A job went to another release than its own, whose workers are all busy or gone.
    JobElsewhere {
        /// Which.
        job: CallId,
        /// Where it belongs.
        release: ReleaseId,
        /// Where it is asked for.
        instead: ReleaseId,
    },
    /// A room whose agent died was dispatched again.
    JobRedispatched {
        /// The job that it had.
        job: CallId,
        /// Whose.
        agent: AgentName,
        /// Of which release that was.
        release: ReleaseId,
    },
    /// A room whose agent died stays without one.
    RoomLeft {
        /// The job that it had.
        job: CallId,
        /// Why.
        why: &'static str,
    },
    /// Nobody took a job.
    JobRefused {
        /// Which.
        job: CallId,
        /// For so long it was looked for a worker.
        after: Millis,
        /// Why.
        why: &'static str,
    },
    /// The server assigned a job that is not expected any more.
    AssignmentUnexpected {
        /// Which.
        job: CallId,
    },
}
