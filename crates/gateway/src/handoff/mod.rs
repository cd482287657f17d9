//! Two processes of one gateway exchange its live calls.
//!
//! The taker connects to the giver's Unix socket. What takes long comes first, while every call
//! flows: both say which versions they speak; the giver takes no new connections (they wait at the
//! listener, which it sends) and sends its ledger, and then, *ahead*, both sockets of each plain
//! call and what never changes about it. The taker restores the ledger, counts the calls, gives
//! them to the keeper and has them watched by shards that ask nothing yet; then it is prepared.
//! Only now are the calls taken out of the relay, and what changed about each is sent: a hundred
//! bytes. A call stands still from there to *took*, a millisecond or two.
//!
//! ```text
//! taker   hello                   restores, prepared                catches up, ready      owns, took → relays
//! giver         welcome, header, ahead              deltas, calls, done              yours            → lets go
//!               (calls flow)                        (calls stand still)
//! ```
//!
//! What came ahead and is in no delta has ended since. A call that cannot be told in two parts, since
//! it came in the meantime or may outlive its worker, is sent whole while the others stand still.
//!
//! The giver keeps its own copies of all sockets until *took*, and reads and writes none of them
//! meanwhile. So no byte is read by two processes, and there is one instant at which the calls
//! change hands, the writing of *took*:
//!
//! - before it, any failure leaves the giver with everything, and it goes on as if nothing were: a
//!   taker that ended cannot have relayed a byte, and one that is stuck behind *yours* is ended
//!   first;
//! - the taker relays nothing before it, and has told the [keeper](crate::keeper) that the calls
//!   are its own: a taker that dies behind *took* leaves them to the next gateway. One that dies
//!   between the two leaves a giver that tells the keeper so anew, before it relays;
//! - a giver that dies after the taker said *ready* leaves the taker with everything. That it has
//!   died is asked of the kernel: a closed stream alone is a giver that changed its mind.
//!
//! What is not through when the calls go comes behind them, on the same connection: callers who
//! have not said yet what they want at once, and calls as they stand, one by one with a *took* of
//! its own each. So the giver keeps no call that can move.
//!
//! TLS calls cannot move, because their keys live in the giver's memory. The giver relays them
//! until they end, and then it ends too.
//!
//! Both sides are the same user (`SO_PEERCRED` is checked), and the socket lies in a directory that
//! only this user may enter, or nothing happens.

pub(crate) mod bytes;
pub mod fail;
mod give;
mod messages;
mod peer;
mod take;
mod versions;
mod wire;

pub(crate) use self::give::{Giving, NotGiven};
pub(crate) use self::messages::{Header, Last};
pub(crate) use self::take::{AheadCall, Came, TakenCall, Taking};
pub use self::versions::{Misfit, Versions};
pub use self::wire::HandoffError;

/// Version of what travels, the newest that is spoken here.
pub const HANDOFF_VERSION: u32 = 3;

/// The oldest that is spoken here. Another one is refused, and the giver keeps serving.
pub const HANDOFF_OLDEST: u32 = 3;

/// Calls in one message: two descriptors each, and the kernel takes at most 253.
const CALLS_PER_MESSAGE: usize = 64;

/// What either side makes of bytes that are no message of ours; see [`crate::fuzz`].
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use std::io::Write as _;
    // More than a socket holds would wait for a reader.
    const BYTES_MAX: usize = 64 * 1024;
    messages::fuzz(bytes);
    let (mut sender, receiver) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let _ = sender.write_all(&bytes[..bytes.len().min(BYTES_MAX)]);
    drop(sender);
    while wire::receive::<messages::ToTaker>(&receiver).is_ok() {}
}
