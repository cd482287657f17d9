//! Membership from the outside: what is let in, what is refused and why, what a crash leaves.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets the unexpected should stop there"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "what is in files is looked at, too"
)]

mod world;

mod attacks;
mod files;
mod keysets;
mod life;
mod openrtc;
mod proofs;
mod properties;
