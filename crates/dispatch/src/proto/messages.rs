//! The messages within the two envelopes.

use std::collections::BTreeMap;

use super::wire::{enumeration, message};

enumeration! {
    /// What a job is about.
    JobType {
        /// A room.
        0 Room,
        /// One who publishes.
        1 Publisher,
        /// One who takes part.
        2 Participant,
    }
}

enumeration! {
    /// Whether a worker takes jobs.
    WorkerStatus {
        /// It does.
        0 Available,
        /// It does not: full or draining.
        1 Full,
    }
}

enumeration! {
    /// How a job is.
    JobStatus {
        /// Not begun.
        0 Pending,
        /// It runs.
        1 Running,
        /// It ended. Workers say so also of jobs whose code failed.
        2 Success,
        /// Its process ended badly.
        3 Failed,
    }
}

message! {
    /// A worker's first message.
    RegisterWorkerRequest {
        /// What its jobs are about.
        1 kind: JobType,
        /// Of its library.
        3 version: String,
        /// Seconds between its pings, if it sends any.
        5 ping_interval: u32,
        /// Older servers tell workers apart by it.
        6 namespace: Option<String>,
        /// What its participants may do; passed on.
        7 allowed_permissions: Option<Vec<u8>>,
        /// Empty: it takes jobs of every room.
        8 agent_name: String,
        /// Which deployment it is of; empty: production.
        9 deployment: String,
    }
}

message! {
    /// The server's first message.
    RegisterWorkerResponse {
        /// The worker's id, a new one for each connection.
        1 worker_id: String,
        /// What the server says of itself; passed on.
        2 server_info: Vec<u8>,
    }
}

message! {
    /// Asks whether a worker takes a job.
    AvailabilityRequest {
        /// The job; passed on.
        1 job: Vec<u8>,
        /// Whether it ran before.
        2 resuming: bool,
    }
}

message! {
    /// Answers it.
    AvailabilityResponse {
        /// Which job.
        1 job_id: String,
        /// Whether it takes it.
        2 available: bool,
        /// Whether it could go on with one that ran before.
        3 supports_resume: bool,
        /// The name of its participant.
        4 participant_name: String,
        /// The identity of its participant.
        5 participant_identity: String,
        /// For its participant.
        6 participant_metadata: String,
        /// For its participant.
        7 participant_attributes: BTreeMap<String, String>,
        /// The job is to end without anybody taking it.
        8 terminate: bool,
    }
}

message! {
    /// Gives a job to the worker that said it takes it.
    JobAssignment {
        /// The job; passed on.
        1 job: Vec<u8>,
        /// Where its room is; `None`: where the worker is connected to.
        2 url: Option<String>,
        /// Lets its participant in.
        3 token: String,
    }
}

message! {
    /// Asks a worker to end a job.
    JobTermination {
        /// Which.
        1 job_id: String,
    }
}

message! {
    /// How a worker is.
    UpdateWorkerStatus {
        /// Whether it takes jobs; `None`: as before.
        1 status: Option<WorkerStatus>,
        /// 0 to 1.
        3 load: f32,
        /// Jobs it has.
        4 job_count: u32,
        /// Whether it drains. Older workers never say.
        5 draining: bool,
    }
}

message! {
    /// How a job is.
    UpdateJobStatus {
        /// Which.
        1 job_id: String,
        /// How.
        2 status: JobStatus,
        /// What went wrong.
        3 error: String,
    }
}

message! {
    /// Jobs that a worker has already, after it connected anew.
    MigrateJobRequest {
        /// Which.
        2 job_ids: Vec<String>,
    }
}

message! {
    /// Asks for a job, for trying a worker out.
    SimulateJobRequest {
        /// What it is about.
        1 kind: JobType,
        /// Its room; passed on.
        2 room: Vec<u8>,
        /// Its participant; passed on.
        3 participant: Vec<u8>,
    }
}

message! {
    /// A sign of life.
    WorkerPing {
        /// The worker's time, in milliseconds.
        1 timestamp: i64,
    }
}

message! {
    /// Answers it.
    WorkerPong {
        /// The time of the ping.
        1 last_timestamp: i64,
        /// The server's time, in milliseconds.
        2 timestamp: i64,
    }
}
