//! What both sides say to each other.
//!
//! The first byte of a frame's prefix says what its body is. Words that are few are JSON with a name
//! in it, as every version reads them; so is the greeting, and so is a refusal. What is there for
//! each call has a kind of its own, so that nothing is read twice; and what is sent while calls
//! stand still is no JSON at all.

use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::keeper::WardId;
use crate::ledger::{Late, LedgerState, Moved};
use crate::relay::MovedCall;
use crate::slots::Delta;

use super::{HandoffError, Versions, bytes};

/// Body of a frame that is a word with a name.
const WORD: u8 = 0;

/// What is sent in one frame.
pub(super) trait Message: Sized {
    /// The kind and the body.
    fn to_body(&self) -> Result<(u8, Vec<u8>), HandoffError>;

    fn of_body(kind: u8, body: &[u8]) -> Result<Self, HandoffError>;
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ToGiver {
    Hello(Versions),
    /// The ledger is restored and what comes ahead is here; now the calls as they are.
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

/// Words of a giver.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Word {
    /// Nothing changes hands.
    Refused {
        reason: String,
        #[serde(default)]
        hint: Option<String>,
    },
    /// The version that is spoken from here on, and the giver's binary.
    Welcome { version: u32, binary: String },
    /// So many calls came ahead.
    Ahead { calls: usize },
    /// From here on the calls are the taker's.
    Yours,
}

#[derive(Debug)]
pub(super) enum ToTaker {
    Word(Word),
    /// Comes with the listener.
    Header(Box<Header>),
    /// What never changes about calls. Comes with two descriptors for each: caller, worker.
    Ahead(Vec<AheadCall>),
    /// What has changed about calls that came ahead, and are still there.
    Deltas(Deltas),
    /// Whole calls. Comes with two descriptors for each: caller, worker.
    Calls(Vec<MovedCall>),
    /// So many calls were sent.
    Done(Last),
    /// Callers who were accepted and have not said what they want. Comes with a descriptor for
    /// each.
    Guests(Vec<MovedGuest>),
}

const HEADER: u8 = 1;
const AHEAD: u8 = 2;
const DELTAS: u8 = 3;
const CALLS: u8 = 4;
const DONE: u8 = 5;
const GUESTS: u8 = 6;

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

/// A call without the sockets and without what changes, as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AheadCall {
    /// Of the connection, at the giver.
    pub(super) number: u64,
    pub(super) connection: Moved,
}

/// What has changed about calls, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    packed: Vec<u8>,
}

impl Deltas {
    pub(super) fn push(&mut self, delta: &Delta) {
        delta.write(&mut self.packed);
    }

    pub(super) fn len(&self) -> usize {
        self.packed.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    pub(super) fn unpack(&self) -> Result<Vec<Delta>, HandoffError> {
        let (mut rest, mut deltas) = (&self.packed[..], Vec::new());
        while !rest.is_empty() {
            let delta = Delta::read_from(&mut rest);
            deltas.push(delta.ok_or(HandoffError::Protocol("a change of a call is cut"))?);
        }
        Ok(deltas)
    }
}

/// A caller without the socket, as it travels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MovedGuest {
    pub(super) peer: SocketAddr,
    /// What it has said so far.
    #[serde(with = "bytes")]
    pub(super) said: Vec<u8>,
}

/// What goes behind the calls.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Last {
    pub(crate) calls: usize,
    /// What ended since the ledger was sent.
    #[serde(default)]
    pub(crate) late: Vec<Late>,
}

impl Message for ToGiver {
    fn to_body(&self) -> Result<(u8, Vec<u8>), HandoffError> {
        Ok((WORD, serde_json::to_vec(self)?))
    }

    fn of_body(kind: u8, body: &[u8]) -> Result<Self, HandoffError> {
        match kind {
            WORD => json(body),
            _ => Err(HandoffError::Protocol("an unknown kind of message")),
        }
    }
}

impl Message for ToTaker {
    fn to_body(&self) -> Result<(u8, Vec<u8>), HandoffError> {
        Ok(match self {
            Self::Word(word) => (WORD, serde_json::to_vec(word)?),
            Self::Header(header) => (HEADER, serde_json::to_vec(header)?),
            Self::Ahead(calls) => (AHEAD, serde_json::to_vec(calls)?),
            Self::Deltas(deltas) => (DELTAS, deltas.packed.clone()),
            Self::Calls(calls) => (CALLS, serde_json::to_vec(calls)?),
            Self::Done(last) => (DONE, serde_json::to_vec(last)?),
            Self::Guests(guests) => (GUESTS, serde_json::to_vec(guests)?),
        })
    }

    fn of_body(kind: u8, body: &[u8]) -> Result<Self, HandoffError> {
        match kind {
            WORD => json(body).map(Self::Word),
            HEADER => json(body).map(Self::Header),
            AHEAD => json(body).map(Self::Ahead),
            DELTAS => Ok(Self::Deltas(Deltas {
                packed: body.to_vec(),
            })),
            CALLS => json(body).map(Self::Calls),
            DONE => json(body).map(Self::Done),
            GUESTS => json(body).map(Self::Guests),
            _ => Err(HandoffError::Protocol("an unknown kind of message")),
        }
    }
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, HandoffError> {
    Ok(serde_json::from_slice(body)?)
}

/// What either side makes of bytes that are no message of ours; see [`crate::fuzz`].
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = ToGiver::of_body(WORD, bytes);
    for kind in WORD..=GUESTS {
        if let Ok(ToTaker::Deltas(deltas)) = ToTaker::of_body(kind, bytes)
            && let Ok(all) = deltas.unpack()
        {
            let mut again = Deltas::default();
            for delta in &all {
                again.push(delta);
            }
            assert_eq!(again.unpack().expect("we wrote it"), all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that a binary of any version says why it refuses another one, and is understood.
    #[test]
    fn greetings_and_refusals_are_what_every_version_reads() {
        let (kind, body) = ToGiver::Hello(Versions::ours()).to_body().unwrap();
        let hello: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((kind, &hello["type"]), (0, &"hello".into()));
        let refused = ToTaker::Word(Word::Refused {
            reason: "it is busy".to_owned(),
            hint: None,
        });
        let (kind, body) = refused.to_body().unwrap();
        let refused: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let said = serde_json::json!({"type": "refused", "reason": "it is busy", "hint": null});
        assert_eq!((kind, refused), (0, said));
    }
}
