//! The worker's side of a deployment that drops no call.
//!
//! A worker that is to be replaced must know three things: whether it may take one more call, who
//! is still on the line, and when it may end. [`AgentPool`] knows them, for any framework: each call
//! is a guard ([`Call`]), `begin_drain` refuses new ones at once, and nothing here ends a call
//! unless its author has asked for that twice ([`Policy`]).
//!
//! ```
//! use segue_worker::AgentPool;
//!
//! let pool = AgentPool::builder("v2").build();
//! let call = pool.enter("CA1")?;
//! pool.begin_drain("a new release");
//! assert!(pool.enter("CA2").is_err());
//! drop(call);
//! assert!(pool.runtime_snapshot().drained);
//! # Ok::<(), segue_worker::Refused>(())
//! ```
//!
//! What is decided is in [`drain`], which has no clock, thread or socket. Segue itself is reached
//! through [`Segue`]; while it is away calls go on, and what is to be told waits in a bounded queue.

pub mod drain;

mod audit;
mod call;
mod event;
mod inner;
mod membership;
mod outcome;
mod pool;
mod queue;
mod report;
mod segue;
#[cfg(feature = "signals")]
mod signals;
mod snapshot;
mod thread;

pub use audit::{AuditEvent, SinkError};
pub use call::Call;
pub use drain::{OnStraggler, Policy, Refused, Standing};
pub use event::Event;
pub use outcome::{BadOutcome, Outcome, Verdict};
pub use pool::{AgentPool, Builder};
pub use queue::Waiting;
pub use segue::{CallState, Environment, NoSegue, Segue, SegueError};
#[cfg(feature = "signals")]
pub use signals::on_signals;
pub use snapshot::{Contact, Membership, Snapshot};

/// Membership by a shared secret, as OpenRTC has it; see [`segue_membership`] for what is stronger.
pub use segue_membership::{MembershipError, MembershipVerifier, sign_membership};
