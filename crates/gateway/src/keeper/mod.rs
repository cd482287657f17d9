//! What a gateway would lose with its life, kept by another process.
//!
//! A gateway that is killed, panics or runs out of memory takes its sockets with it, unless
//! somebody else holds them too. The keeper does: a thread of `segue serve` that holds duplicates
//! of the listener, of both sockets of every live plain call, and of the memory that says how far
//! each call is (the [slots](crate::slots)). The next gateway takes all of it and relays on; the
//! kernel has kept what was said meanwhile, and callers who came in wait to be accepted.
//!
//! Being kept is a service and no condition: no call ever waits for the keeper. Without one calls
//! go on as well and would end with their gateway; with a new one they are given to it again.

mod client;
mod server;
mod session;
mod ward;
mod wire;

pub(crate) use self::client::Keeping;
pub use self::server::Keeper;
pub(crate) use self::session::{Orphan, Session};
pub use self::session::{KeeperError, census};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use self::wire::fuzz;
pub use self::wire::{CallKey, Figures, KEEPER_VERSION, WardId};

#[cfg(test)]
mod tests;
