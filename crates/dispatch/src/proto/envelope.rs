//! What a frame holds: one message of many kinds, said by a worker or by the server.

use super::MESSAGE_BYTES_MAX;
use super::messages::{
    AvailabilityRequest, AvailabilityResponse, JobAssignment, JobTermination, MigrateJobRequest,
    RegisterWorkerRequest, RegisterWorkerResponse, SimulateJobRequest, UpdateJobStatus,
    UpdateWorkerStatus, WorkerPing, WorkerPong,
};
use super::wire::{Fields, Malformed, Message as _, put_bytes};

/// A message of a kind that is not known here, or of none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Foreign {
    /// The whole frame.
    pub bytes: Vec<u8>,
}

macro_rules! envelope {
    ($(#[$doc:meta])* $name:ident { $($(#[$kind_doc:meta])* $number:literal $kind:ident($message:ident) $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $($(#[$kind_doc])* $kind($message),)*
            /// What a later version says. It is no fault.
            Foreign(Foreign),
        }

        impl $name {
            /// Reads a frame. Of several kinds in one the last counts, as protobuf has it.
            ///
            /// # Errors
            ///
            /// [`Malformed`] for whatever a strict reader would refuse.
            pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
                if frame.len() > MESSAGE_BYTES_MAX {
                    return Err(Malformed::TooLong);
                }
                let mut read = None;
                for field in Fields::of(frame) {
                    let field = field?;
                    read = match field.number {
                        $($number => Some(Self::$kind($message::decode(field.bytes()?)?)),)*
                        _ => read,
                    };
                }
                let foreign = || Self::Foreign(Foreign { bytes: frame.to_vec() });
                Ok(read.unwrap_or_else(foreign))
            }

            /// The frame.
            pub fn encode(&self) -> Vec<u8> {
                let mut out = Vec::new();
                match self {
                    $(Self::$kind(message) => put_bytes($number, &message.encode(), &mut out),)*
                    Self::Foreign(foreign) => out.extend_from_slice(&foreign.bytes),
                }
                out
            }

            /// One word for logs.
            pub fn word(&self) -> &'static str {
                match self {
                    $(Self::$kind(_) => $word,)*
                    Self::Foreign(_) => "unknown",
                }
            }
        }

        $(
            impl From<$message> for $name {
                fn from(message: $message) -> Self {
                    Self::$kind(message)
                }
            }
        )*
    };
}

envelope! {
    /// From a worker.
    WorkerMessage {
        /// Its first.
        1 Register(RegisterWorkerRequest) "register",
        /// Whether it takes a job.
        2 Availability(AvailabilityResponse) "availability",
        /// How it is.
        3 UpdateWorker(UpdateWorkerStatus) "update_worker",
        /// How a job is.
        4 UpdateJob(UpdateJobStatus) "update_job",
        /// A sign of life.
        5 Ping(WorkerPing) "ping",
        /// Asks for a job.
        6 SimulateJob(SimulateJobRequest) "simulate_job",
        /// What it has already.
        7 MigrateJob(MigrateJobRequest) "migrate_job",
    }
}

envelope! {
    /// From the server.
    ServerMessage {
        /// Its first.
        1 Register(RegisterWorkerResponse) "register",
        /// Offers a job.
        2 Availability(AvailabilityRequest) "availability",
        /// Gives one.
        3 Assignment(JobAssignment) "assignment",
        /// Answers a ping.
        4 Pong(WorkerPong) "pong",
        /// Ends a job.
        5 Termination(JobTermination) "termination",
    }
}
