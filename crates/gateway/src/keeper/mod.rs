//! What a gateway would lose with its life, kept by another process.
//!
//! A gateway that is killed, panics or runs out of memory takes its sockets with it, unless
//! somebody else holds them too. The keeper does: a thread of `segue serve` that holds duplicates
//! of the listener, of both sockets of every live plain call, and of the memory that says how far
//! each call is (the slots). The next gateway takes all of it and relays on; the
//! kernel has kept what was said meanwhile, and callers who came in wait to be accepted.
//!
//! Being kept is a service and no condition: no call ever waits for the keeper. Without one calls
//! go on as well and would end with their gateway; with a new one they are given to it again.

mod calls;
mod client;
mod lenders;
mod recovery;
mod server;
mod session;
mod unheld;
mod ward;
mod wire;

pub(crate) use self::client::Keeping;
pub(crate) use self::recovery::{Known, Recovered};
pub use self::server::Keeper;
pub use self::session::{KeeperError, census};
pub(crate) use self::session::{Orphan, Session};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use self::wire::fuzz;
pub use self::wire::{CallKey, Figures, KEEPER_VERSION, WardId};

/// Dies here if a test asks for it: `SEGUE_FAIL_AT=keeper.claimed=crash` in the environment of a
/// build with debug assertions or with the feature `failpoints`.
#[cfg(any(debug_assertions, feature = "failpoints"))]
pub(crate) fn fail_at(step: &str) {
    if crate::handoff::fail::asked("keeper", step).is_some() {
        crate::handoff::fail::crash();
    }
}

/// Nothing dies here.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[inline]
pub(crate) fn fail_at(_: &str) {}

#[cfg(test)]
mod tests;
