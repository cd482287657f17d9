//! Two processes of one gateway exchange its live calls.
//!
//! The taker connects to the giver's Unix socket. The giver stops accepting and reporting, takes
//! every plain call out of its relay, and sends its listener, its ledger, and the two sockets of
//! each call with what is known of it. It keeps its own copies of all of them until the taker says
//! that it is ready; then it says `Yours` and never touches them again. So there is one
//! instant at which the calls change hands, and no byte is read by two processes:
//!
//! - before it, any failure leaves the giver with everything, and it goes on as if nothing were;
//! - the taker relays nothing before it;
//! - a giver that dies after the taker said *ready* leaves the taker with everything.
//!
//! TLS calls cannot move, because their keys live in the giver's memory. The giver relays them
//! until they end, and then it ends too.
//!
//! Both sides are the same user (`SO_PEERCRED` is checked), and the socket lies in a directory that
//! only this user may enter.

pub(crate) mod bytes;
mod give;
mod take;
mod wire;

use serde::{Deserialize, Serialize};

use crate::ledger::LedgerState;
use crate::relay::MovedCall;

pub(crate) use self::give::{greet, hand_over};
pub(crate) use self::take::{Taken, TakenCall, take};
pub use self::wire::HandoffError;

/// Version of what travels. Another one is refused, and the giver keeps serving.
pub const HANDOFF_VERSION: u32 = 1;

/// Calls in one message: two descriptors each, and the kernel takes at most 253.
const CALLS_PER_MESSAGE: usize = 64;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToGiver {
    Hello { version: u32 },
    Ready,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToTaker {
    /// Nothing changes hands.
    Refused { reason: String },
    /// Comes with the listener.
    Header(Box<Header>),
    /// Comes with two descriptors for each call: caller, worker.
    Calls { calls: Vec<MovedCall> },
    /// So many calls were sent.
    Done { calls: usize },
    /// From here on the calls are the taker's.
    Yours,
}

/// What the taker goes on with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) incarnation: String,
    pub(crate) sequence: u64,
    pub(crate) ledger: LedgerState,
}
