//! The dispatcher as LiveKit and its workers see it: real workers of `livekit-agents`, simulated
//! ones, and a server that keeps LiveKit's rules.

#![allow(clippy::unwrap_used, reason = "what fails here fails a test")]

mod alone;
mod alone_here;
mod behind;
mod bounds;
mod control;
mod direct;
mod dispatcher;
mod fleet;
mod judge;
mod key;
mod membership;
mod operators;
mod redispatch;
mod rogue;
mod rules;
mod sdk;
mod sim;
mod tls;
mod traffic;
mod upstream;
mod wire;
