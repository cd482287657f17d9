//! The agent protocol's messages, as the test server and its simulated workers speak them.
//!
//! They are written a second time, apart from the dispatcher's own: whoever judges it must not
//! share a decoder with it. That they are right is shown by real workers, which decode them with
//! LiveKit's own package (`direct.rs`). A job is bytes, so that what is sent can be compared with
//! what arrives, bit by bit.

use prost::{Enumeration, Message, Oneof};

/// From a worker to the server.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WorkerMessage {
    #[prost(oneof = "FromWorker", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub(crate) message: Option<FromWorker>,
}

/// What a worker says.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum FromWorker {
    #[prost(message, tag = "1")]
    Register(Register),
    #[prost(message, tag = "2")]
    Availability(Answer),
    #[prost(message, tag = "3")]
    UpdateWorker(UpdateWorker),
    #[prost(message, tag = "4")]
    UpdateJob(UpdateJob),
    #[prost(message, tag = "5")]
    Ping(Ping),
    #[prost(message, tag = "6")]
    SimulateJob(SimulateJob),
    #[prost(message, tag = "7")]
    MigrateJob(MigrateJob),
}

/// From the server to a worker.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServerMessage {
    #[prost(oneof = "FromServer", tags = "1, 2, 3, 4, 5")]
    pub(crate) message: Option<FromServer>,
}

/// What the server says.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum FromServer {
    #[prost(message, tag = "1")]
    Register(Registered),
    #[prost(message, tag = "2")]
    Availability(Offer),
    #[prost(message, tag = "3")]
    Assignment(Assignment),
    #[prost(message, tag = "4")]
    Pong(Pong),
    #[prost(message, tag = "5")]
    Termination(Termination),
}

/// What a job is for, and a worker's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum JobType {
    Room = 0,
    Publisher = 1,
    Participant = 2,
}

/// A worker's own word for whether it takes jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum WorkerStatus {
    Available = 0,
    Full = 1,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum JobStatus {
    Pending = 0,
    Running = 1,
    Success = 2,
    Failed = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Register {
    #[prost(enumeration = "JobType", tag = "1")]
    pub(crate) kind: i32,
    #[prost(string, tag = "3")]
    pub(crate) version: String,
    #[prost(string, optional, tag = "6")]
    pub(crate) namespace: Option<String>,
    #[prost(bytes = "vec", optional, tag = "7")]
    pub(crate) permissions: Option<Vec<u8>>,
    #[prost(string, tag = "8")]
    pub(crate) agent_name: String,
    #[prost(string, tag = "9")]
    pub(crate) deployment: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Registered {
    #[prost(string, tag = "1")]
    pub(crate) worker_id: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) server: Option<ServerInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServerInfo {
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(int32, tag = "3")]
    pub(crate) protocol: i32,
    #[prost(string, tag = "4")]
    pub(crate) region: String,
    #[prost(string, tag = "5")]
    pub(crate) node_id: String,
    #[prost(int32, tag = "7")]
    pub(crate) agent_protocol: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Offer {
    /// A [`Job`].
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) job: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {
    #[prost(string, tag = "1")]
    pub(crate) job_id: String,
    #[prost(bool, tag = "2")]
    pub(crate) available: bool,
    #[prost(string, tag = "4")]
    pub(crate) name: String,
    #[prost(string, tag = "5")]
    pub(crate) identity: String,
    #[prost(string, tag = "6")]
    pub(crate) metadata: String,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(crate) attributes: std::collections::BTreeMap<String, String>,
    #[prost(bool, tag = "8")]
    pub(crate) terminate: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Assignment {
    /// A [`Job`].
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) job: Vec<u8>,
    #[prost(string, optional, tag = "2")]
    pub(crate) url: Option<String>,
    #[prost(string, tag = "3")]
    pub(crate) token: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Termination {
    #[prost(string, tag = "1")]
    pub(crate) job_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdateWorker {
    #[prost(enumeration = "WorkerStatus", optional, tag = "1")]
    pub(crate) status: Option<i32>,
    #[prost(float, tag = "3")]
    pub(crate) load: f32,
    #[prost(uint32, tag = "4")]
    pub(crate) job_count: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdateJob {
    #[prost(string, tag = "1")]
    pub(crate) job_id: String,
    #[prost(enumeration = "JobStatus", tag = "2")]
    pub(crate) status: i32,
    #[prost(string, tag = "3")]
    pub(crate) error: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ping {
    #[prost(int64, tag = "1")]
    pub(crate) timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Pong {
    #[prost(int64, tag = "1")]
    pub(crate) last_timestamp: i64,
    #[prost(int64, tag = "2")]
    pub(crate) timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SimulateJob {
    #[prost(bytes = "vec", optional, tag = "2")]
    pub(crate) room: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MigrateJob {
    #[prost(string, repeated, tag = "2")]
    pub(crate) job_ids: Vec<String>,
}

/// One call to be answered.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Job {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(enumeration = "JobType", tag = "2")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "3")]
    pub(crate) room: Option<Room>,
    #[prost(string, tag = "5")]
    pub(crate) namespace: String,
    #[prost(string, tag = "6")]
    pub(crate) metadata: String,
    #[prost(string, tag = "7")]
    pub(crate) agent_name: String,
    #[prost(message, optional, tag = "8")]
    pub(crate) state: Option<JobState>,
    #[prost(string, tag = "9")]
    pub(crate) dispatch_id: String,
    #[prost(string, tag = "11")]
    pub(crate) deployment: String,
    /// No field of LiveKit's: what a newer server might send, and must reach the worker.
    #[prost(string, tag = "1999")]
    pub(crate) of_tomorrow: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct JobState {
    #[prost(enumeration = "JobStatus", tag = "1")]
    pub(crate) status: i32,
    #[prost(int64, tag = "3")]
    pub(crate) started_at: i64,
    #[prost(int64, tag = "5")]
    pub(crate) updated_at: i64,
    #[prost(string, tag = "7")]
    pub(crate) worker_id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Room {
    #[prost(string, tag = "1")]
    pub(crate) sid: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "8")]
    pub(crate) metadata: String,
}

impl FromWorker {
    /// As the payload of a frame.
    pub(crate) fn frame(self) -> Vec<u8> {
        let message = Some(self);
        WorkerMessage { message }.encode_to_vec()
    }
}

impl FromServer {
    /// As the payload of a frame.
    pub(crate) fn frame(self) -> Vec<u8> {
        let message = Some(self);
        ServerMessage { message }.encode_to_vec()
    }
}
