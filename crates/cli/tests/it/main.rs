//! Black-box tests: the real binary, real processes and sockets, real audio; and what must hold
//! of the tree itself.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected should stop there"
)]

mod site;

mod tidy;

mod cli;
mod config;
mod crash;
mod demo;
mod operate;
mod releases;
mod supervise;
mod tls;
