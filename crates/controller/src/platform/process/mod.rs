//! Workers as processes of this machine.

mod detached;
mod proc;

pub use detached::{Exit, Handle, MARKER, Record, Spawn};
pub use rustix::process::Signal;
