//! The decisions of Segue, and nothing else.
//!
//! No networking, no files, no clock, no randomness: time is an argument and facts are values.
//! So every rollout can be simulated, replayed and model-checked with the code that runs.

pub mod time;

pub mod names;

pub mod compat;

pub mod components;
pub mod redact;
pub mod release;
pub mod release_diff;
pub mod slot;
pub mod split;

pub mod spec;

pub mod plane;
pub mod presence;
pub mod route;
pub mod table;

pub mod rollout;

pub mod audit;
pub mod link;

pub mod dispatch;
