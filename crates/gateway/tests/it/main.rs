//! The gateway from outside: real sockets, real processes.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod support;

mod child;

mod calls;
mod controller_killed;
mod gateway_killed;
mod handoff;
mod keeper;
mod handoff_broken;
mod held;
mod limits;
mod link;
mod malformed;
mod plain;
mod policy;
mod races;
mod records;
mod refusals;
mod retiring;
mod routing;
mod slow;
mod tls;
