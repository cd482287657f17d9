//! The data plane: listen, route, connect, relay, count. See `DESIGN.md` §5.

pub mod call_log;
pub mod clock;
pub mod frames;
pub mod handoff;
mod http;
pub mod ledger;
pub mod relay;
