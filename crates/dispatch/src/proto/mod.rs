//! LiveKit's agent worker protocol, as far as it is read or changed here.
//!
//! Written by hand and not generated, because every message must come out as it came in: fields
//! that are not known here are kept as bytes, in their order, behind those that are, and what is
//! only passed on (jobs, rooms, permissions, the server's description) is never taken apart.
//!
//! ```
//! use segue_dispatch::proto::{JobAssignment, ServerMessage};
//!
//! let sent = ServerMessage::Assignment(JobAssignment { token: "t".to_owned(), ..Default::default() });
//! assert_eq!(ServerMessage::decode(&sent.encode()).unwrap(), sent);
//! ```

mod wire;

pub mod api;

mod envelope;
mod job;
mod messages;

#[cfg(test)]
mod tests;

pub use self::envelope::{Foreign, ServerMessage, WorkerMessage};
pub use self::job::{JobView, job_with_text};
pub use self::messages::{
    AvailabilityRequest, AvailabilityResponse, JobAssignment, JobStatus, JobTermination, JobType,
    MigrateJobRequest, RegisterWorkerRequest, RegisterWorkerResponse, SimulateJobRequest,
    UpdateJobStatus, UpdateWorkerStatus, WorkerPing, WorkerPong, WorkerStatus,
};
pub use self::wire::{Malformed, Message};

/// Longest message, in bytes: the server's own limit.
pub const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
