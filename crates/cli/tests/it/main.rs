//! Black-box tests: the real binary, real processes and sockets, real audio; and what must hold
//! of the tree itself.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected should stop there"
)]

mod python;
mod site;
mod terminal;

mod tidy;

// LiveKit's server, and who judges, are the dispatcher's tests': `crates/dispatch/tests/it`.
#[path = "../../../dispatch/tests/it/judge.rs"]
mod judge;
#[allow(dead_code, reason = "simulated workers need more of it")]
#[path = "../../../dispatch/tests/it/key.rs"]
mod key;
#[allow(dead_code, reason = "the dispatcher's own tests need more of it")]
#[path = "../../../dispatch/tests/it/sim.rs"]
mod sim;
#[path = "../../../dispatch/tests/it/traffic.rs"]
mod traffic;
#[allow(dead_code, reason = "the dispatcher's own tests need more of it")]
#[path = "../../../dispatch/tests/it/upstream/mod.rs"]
mod upstream;
#[allow(dead_code, reason = "simulated workers need more of it")]
#[path = "../../../dispatch/tests/it/wire.rs"]
mod wire;

mod audit;
mod bench;
mod cli;
mod components;
mod config;
mod crash;
mod demo;
mod dist;
mod gates;
mod help;
mod hooks;
mod keeper;
mod livekit;
mod livekit_fleet;
mod livekit_workers;
mod look;
mod members;
mod membership;
mod observe;
mod operate;
mod parts;
mod permits;
mod pipecat;
mod receiver;
mod receptionist;
mod registered;
mod releases;
mod reload;
mod schemathesis;
mod sdk;
mod soak;
mod stragglers;
mod supervise;
mod tls;
mod token;
mod top;
mod upgrade;
mod verbs;
