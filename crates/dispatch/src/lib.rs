//! Jobs of LiveKit workers, given out by the releases of their agents.
//!
//! Workers speak the agent worker protocol to us instead of to LiveKit, and we speak it to LiveKit
//! in their place. A job goes to a worker of the release that the routing table chooses, with the
//! address of the real server: media never passes here. What is decided is decided in
//! [`segue_core::dispatch`]; here are the sockets, the files and the clock around it.
//!
//! A dispatcher may be killed: jobs run elsewhere, the file of jobs says whose they are, and workers
//! come back by themselves.

pub mod proto;

pub mod address;
pub mod admit;
pub mod config;
pub mod signed;
pub mod token;
pub mod trust;

mod events;
mod job_file;

mod dial;
mod head;
mod hub;
mod line;
mod link;
mod server;
mod server_api;
mod worker;

mod run;

#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;

pub use self::config::{AgentConfig, ApiKey, Config};
pub use self::job_file::jobs_left;
pub use self::run::{RunError, Running, run, start};
