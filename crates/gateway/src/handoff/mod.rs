//! Two processes of one gateway exchange its live calls.
//!
//! The taker connects to the giver's Unix socket. What takes long comes first, while every call
//! flows: both say which versions they speak; the giver takes no new connections (they wait at the
//! listener, which it sends) and sends its ledger; the taker restores that and says that it is
//! prepared. Only then are the plain calls taken out of the relay and sent, the two sockets of each
//! with what is known of it. A call stands still from there to *took*, some milliseconds.
//!
//! ```text
//! taker   hello            restores, prepared              adopts, ready         owns, took → relays
//! giver         welcome, header               calls, done               yours               → lets go
//!               (calls flow)                  (calls stand still)
//! ```
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
mod peer;
mod take;
mod versions;
mod wire;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::keeper::WardId;
use crate::ledger::{Late, LedgerState};
use crate::relay::MovedCall;

pub(crate) use self::give::{Giving, NotGiven};
pub(crate) use self::take::{Came, TakenCall, Taking};
pub use self::versions::{Misfit, Versions};
pub use self::wire::HandoffError;

/// Version of what travels, the newest that is spoken here.
pub const HANDOFF_VERSION: u32 = 2;

/// The oldest that is spoken here. Another one is refused, and the giver keeps serving.
pub const HANDOFF_OLDEST: u32 = 2;

/// Calls in one message: two descriptors each, and the kernel takes at most 253.
const CALLS_PER_MESSAGE: usize = 64;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToGiver {
    Hello(Versions),
    /// The ledger is restored; now the calls.
    Prepared,
    /// The calls may be ours.
    Ready {
        /// What we are to the keeper.
        #[serde(default)]
        ward: Option<WardId>,
    },
    /// They are; also said to calls that come late.
    Took,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToTaker {
    /// Nothing changes hands.
    Refused {
        reason: String,
        #[serde(default)]
        hint: Option<String>,
    },
    /// The version that is spoken from here on, and the giver's binary.
    Welcome { version: u32, binary: String },
    /// Comes with the listener.
    Header(Box<Header>),
    /// Comes with two descriptors for each call: caller, worker.
    Calls { calls: Vec<MovedCall> },
    /// So many calls were sent.
    Done(Last),
    /// From here on the calls are the taker's.
    Yours,
    /// Callers who were accepted and have not said what they want. Comes with a descriptor for
    /// each.
    Guests { guests: Vec<MovedGuest> },
}

/// What either side makes of bytes that are no message of ours; see [`crate::fuzz`].
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use std::io::Write as _;
    // More than a socket holds would wait for a reader.
    const BYTES_MAX: usize = 64 * 1024;
    let _ = serde_json::from_slice::<ToGiver>(bytes);
    let _ = serde_json::from_slice::<ToTaker>(bytes);
    let (mut sender, receiver) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let _ = sender.write_all(&bytes[..bytes.len().min(BYTES_MAX)]);
    drop(sender);
    while wire::receive::<ToTaker>(&receiver).is_ok() {}
}

/// What the taker goes on with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) incarnation: String,
    pub(crate) sequence: u64,
    pub(crate) ledger: LedgerState,
    /// What the giver is to the keeper, and was.
    #[serde(default)]
    pub(crate) wards: Vec<WardId>,
}

/// A caller without the socket, as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct MovedGuest {
    peer: SocketAddr,
    /// What it has said so far.
    #[serde(with = "bytes")]
    said: Vec<u8>,
}

/// What goes behind the calls.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) calls: usize,
    /// What ended since the ledger was sent.
    #[serde(default)]
    pub(crate) late: Vec<Late>,
}
