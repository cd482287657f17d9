//! The data plane: listen, decide, connect, relay, count.
//!
//! A connection comes in at the front, which reads its request and asks the [`ledger`] for a
//! decision; the ledger counts it in the same step. The front dials the worker, and after a valid
//! `101` the call is a value in the [`relay`], without a task, and what is known of it lies in memory
//! that outlives a crash. The link brings routing tables from the controller and carries reports
//! back; it is never in the way of a call. In a [`handoff`] all of this moves to the next process.

pub mod ledger;

pub mod frames;
pub mod relay;
mod rescue;
mod slots;

pub mod health;
pub mod tables;
pub mod tls;

mod front;
mod http;

pub mod link;
mod linked;
mod report;

pub mod handoff;
pub mod keeper;

mod batches;
pub mod call_log;
pub mod clock;
pub mod config;
pub mod descriptors;
mod files;
pub mod journal;
mod low;
mod quiet;
mod shelves;
mod stop;

#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod offer;

mod run;
mod setup;

pub use self::config::{Config, Limits, TlsFiles};
pub use self::report::id_after_handoff;
pub use self::run::{RunError, run};
pub use self::setup::Up;
