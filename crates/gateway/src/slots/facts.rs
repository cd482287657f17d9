//! What a slot says of a call beside its bytes: its state, how it ends, and who it is.

use std::sync::atomic::{AtomicU64, Ordering};

use segue_core::names::{CALL_ID_BYTES_MAX, CallId};
use segue_core::route::Reason;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ledger::{By, Closed, Identity, Purpose};

use super::cut::cut;
use super::flow::{FLOW_WORDS, halves, word};
use super::layout::SLOT_WORDS;

// Words of a slot. The first fourteen are used while bytes flow.
pub(super) const STATUS: usize = 0;
pub(super) const FACTS: usize = 1;
pub(super) const UP: usize = 2;
pub(super) const DOWN: usize = UP + FLOW_WORDS;
const SINCE: usize = DOWN + FLOW_WORDS;
const CONNECTED: usize = SINCE + 1;
/// Bytes that were read, in both directions, when the slot was taken.
const PROGRESS: usize = CONNECTED + 1;
const ID: usize = PROGRESS + 1;

/// Longest call id in the slot itself; UUIDs have 36 bytes and Twilio's ids 34.
const INLINE_BYTES: usize = (SLOT_WORDS - ID) * 8 - 1;

/// Stands for "never" among times.
const NEVER: u64 = u64::MAX;

/// Of what use a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// A call that can outlive this process.
    Live,
    /// A call that cannot: its keys are in this process alone.
    Unkeepable,
}

/// First word: state, end and generation. Each change is one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) state: State,
    pub(super) closed: Option<Closed>,
    pub(super) generation: u32,
}

impl Status {
    pub(super) fn load(slot: &[AtomicU64]) -> Self {
        let [low, generation] = halves(slot[STATUS].load(Ordering::Acquire));
        let [state, by, a, b] = low.to_le_bytes();
        let code = (by & 8 != 0).then_some(u16::from_le_bytes([a, b]));
        let by = match by & 7 {
            1 => Some(By::Caller),
            2 => Some(By::Worker),
            3 => Some(By::Gateway),
            4 => Some(By::Policy),
            _ => None,
        };
        Self {
            state: match state {
                1 => State::Live,
                2 => State::Unkeepable,
                _ => State::Free,
            },
            closed: by.map(|by| Closed { by, code }),
            generation,
        }
    }

    pub(super) fn store(self, slot: &[AtomicU64]) {
        let state = match self.state {
            State::Free => 0,
            State::Live => 1,
            State::Unkeepable => 2,
        };
        let by = self.closed.map_or(0, |closed| match closed.by {
            By::Caller => 1,
            By::Worker => 2,
            By::Gateway => 3,
            By::Policy => 4,
        });
        let code = self.closed.and_then(|closed| closed.code);
        let with_code = u8::from(code.is_some()) << 3;
        let [a, b] = code.unwrap_or(0).to_le_bytes();
        let low = u32::from_le_bytes([state, by | with_code, a, b]);
        cut();
        // Behind everything that was stored before: a slot that is live is whole.
        slot[STATUS].store(word(low, self.generation), Ordering::Release);
    }
}

const OVERRIDE: u8 = 1;
const RESUME: u8 = 2;
const RETIRING: u8 = 4;
/// The call is being ended by policy.
const ENDS: u8 = 8;
/// The same in the second word.
const ENDS_WORD: u64 = (ENDS as u64) << 56;
/// More is in the cold cell.
const COLD: u8 = 16;

/// Second word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) place: u32,
    /// Crashes in a row in which a shard had this call in its hands.
    pub(super) strikes: u8,
    pub(super) purpose: Purpose,
    pub(super) reason: Reason,
    flags: u8,
}

impl Facts {
    pub(super) fn load(slot: &[AtomicU64]) -> Option<Self> {
        let [place, high] = halves(slot[FACTS].load(Ordering::Relaxed));
        let [strikes, purpose, reason, flags] = high.to_le_bytes();
        let purpose = [Purpose::Call, Purpose::Webhook, Purpose::Request]
            .into_iter()
            .find(|known| *known as u8 == purpose)?;
        let reason = [Reason::Pin, Reason::Override, Reason::Rule, Reason::Split]
            .into_iter()
            .find(|known| *known as u8 == reason)?;
        Some(Self {
            place,
            strikes,
            purpose,
            reason,
            flags,
        })
    }

    fn store(self, slot: &[AtomicU64]) {
        let bytes = [
            self.strikes,
            self.purpose as u8,
            self.reason as u8,
            self.flags,
        ];
        let facts = word(self.place, u32::from_le_bytes(bytes));
        slot[FACTS].store(facts, Ordering::Relaxed);
    }

    pub(super) fn ends(self) -> bool {
        self.flags & ENDS != 0
    }

    pub(super) fn is_override(self) -> bool {
        self.flags & OVERRIDE != 0
    }

    pub(super) fn is_resume(self) -> bool {
        self.flags & RESUME != 0
    }

    pub(super) fn retiring(self) -> bool {
        self.flags & RETIRING != 0
    }

    pub(super) fn is_cold(self) -> bool {
        self.flags & COLD != 0
    }
}

/// Notes how far the call had come when its slot was taken.
pub(super) fn set_progress(slot: &[AtomicU64], read: u64) {
    slot[PROGRESS].store(read, Ordering::Relaxed);
}

/// See [`set_progress`].
pub(super) fn progress(slot: &[AtomicU64]) -> u64 {
    slot[PROGRESS].load(Ordering::Relaxed)
}

/// Notes that the call is being ended by policy.
pub(super) fn set_ends(slot: &[AtomicU64]) {
    let facts = slot[FACTS].load(Ordering::Relaxed);
    cut();
    slot[FACTS].store(facts | ENDS_WORD, Ordering::Relaxed);
}

/// See [`set_ends`].
#[inline]
pub(super) fn ends(slot: &[AtomicU64]) -> bool {
    slot[FACTS].load(Ordering::Relaxed) & ENDS_WORD != 0
}

/// What does not fit into the slot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Cold {
    pub(super) call: CallId,
    pub(super) traceparent: Option<String>,
}

/// Writes who a call is; answers what did not fit.
pub(super) fn write(
    slot: &[AtomicU64],
    identity: &Identity,
    (place, strikes, ends): (u32, u8, bool),
    connected: Option<Timestamp>,
) -> Option<Cold> {
    let id = identity.call.as_str().as_bytes();
    let is_cold = id.len() > INLINE_BYTES || identity.traceparent.is_some();
    let flags = [
        (OVERRIDE, identity.is_override),
        (RESUME, identity.is_resume),
        (RETIRING, identity.retiring),
        (ENDS, ends),
        (COLD, is_cold),
    ];
    let facts = Facts {
        place,
        strikes,
        purpose: identity.purpose,
        reason: identity.reason,
        flags: flags
            .into_iter()
            .fold(0, |all, (flag, is)| if is { all | flag } else { all }),
    };
    facts.store(slot);
    slot[SINCE].store(identity.since.0, Ordering::Relaxed);
    let connected = connected.map_or(NEVER, |at| at.0);
    slot[CONNECTED].store(connected, Ordering::Relaxed);
    let mut packed = [0_u8; INLINE_BYTES + 1];
    if !is_cold {
        packed[0] = u8::try_from(id.len()).expect("it fits");
        packed[1..=id.len()].copy_from_slice(id);
    }
    for (word, bytes) in slot[ID..].iter().zip(packed.as_chunks().0) {
        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
    }
    is_cold.then(|| Cold {
        call: identity.call.clone(),
        traceparent: identity.traceparent.clone(),
    })
}

/// The id of a call that is all in its slot.
pub(super) fn inline_id(slot: &[AtomicU64]) -> Option<CallId> {
    let words = slot[ID..].iter();
    let bytes: Vec<u8> = words
        .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
        .collect();
    let (length, id) = bytes.split_first()?;
    let id = id.get(..usize::from(*length))?;
    const { assert!(INLINE_BYTES < CALL_ID_BYTES_MAX) };
    str::from_utf8(id).ok()?.parse().ok()
}

pub(super) fn since(slot: &[AtomicU64]) -> Timestamp {
    Timestamp(slot[SINCE].load(Ordering::Relaxed))
}

pub(super) fn connected(slot: &[AtomicU64]) -> Option<Timestamp> {
    let at = slot[CONNECTED].load(Ordering::Relaxed);
    (at != NEVER).then_some(Timestamp(at))
}
