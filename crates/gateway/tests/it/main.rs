//! The gateway from outside: real sockets, real processes.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

mod child;

mod barred;
mod calls;
mod controller_killed;
mod exhausted;
mod gateway_killed;
mod handoff;
mod handoff_broken;
mod handoff_kept;
mod handoff_late;
mod held;
mod keeper;
mod kept_edges;
mod limits;
mod link;
mod malformed;
mod plain;
mod policy;
mod races;
mod records;
mod refusals;
mod rescue;
mod rescue_edges;
mod retiring;
mod routing;
mod slow;
mod tls;
