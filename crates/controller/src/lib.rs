//! The control plane of Segue: it has core decide, writes the decision down, publishes it to the
//! gateways, and carries it out.
//!
//! It may be killed at any instant. Gateways go on by the tables they have, workers run on, and the
//! next controller takes up every rollout where the journal says it is.

mod clock;
pub mod secret;
pub mod state;

pub mod copies;
mod digest;

pub mod store;

mod hooks;
pub mod link;
pub mod make;
pub mod platform;
mod smoke;
mod specs;
mod trust;

mod backoff;
mod follow;
mod notify;
mod outbound;
mod outside;
mod permits;
mod stragglers;
mod telemetry;
mod webhooks;

mod membership;

mod driver;

pub mod api;

mod run;

pub use membership::{MembershipConfig, OpenError};
pub use specs::Source;

pub use run::{ControllerConfig, RunError, run};
