//! What a killed process left: its calls, each put together again or named as damaged.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::journal::Lost;
use crate::ledger::{Identity, Moved};
use crate::relay::{Flow, MovedCall, SHARDS_MAX, Side, Sink, farewell};

use super::facts::{self, DOWN, Facts, State, Status, UP};
use super::flow::{FLOW_WORDS, FlowState, small};
use super::kernel::Counts;
use super::lane::{Deed, InHand};
use super::layout::{
    BUFFER_BYTES, CAPACITY_MAX, COLD_BYTES, EXTENT_BYTES, LAYOUT_VERSION, Layout, MAGIC,
    SLOT_WORDS, WORD,
};
use super::memory::Memory;
use super::places::{self, Place};

/// Crashes in a row in which the same call was in a shard's hand before a byte of it was relayed, at
/// which it is closed rather than have it crash the next gateway too. The first of them may have
/// come at any time.
const STRIKES_MAX: u8 = 2;

/// Why memory is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SlotsError {
    /// It cannot be mapped, or was cut.
    #[error("the memory of calls cannot be read")]
    Io(#[from] io::Error),
    /// Another release of this program wrote it, or something else did.
    #[error("the memory of calls is of a kind that this gateway does not know")]
    Unknown,
}

/// Why a call cannot go on. Bytes of it may be missing, so it is closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Damaged {
    /// The gateway crashed over it, and then the next one did.
    #[error("the gateway crashed over this call twice")]
    Twice,
    /// What was noted and what the kernel counted do not fit together.
    #[error("bytes of this call cannot be accounted for: {0}")]
    Counts(&'static str),
    /// Its slot says things that cannot be.
    #[error("what was noted of this call cannot be read")]
    Unreadable,
    /// The kernel does not answer for a socket.
    #[error("a socket of this call cannot be asked")]
    Io(#[from] io::Error),
}

/// One call that was found. It borrows nothing: the memory stays mapped until the last one is gone.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    memory: Arc<Memory>,
    layout: Layout,
    place: Option<Place>,
    in_hand: Option<InHand>,
}

/// Reads what a process left. The process must be dead, or must have stopped relaying.
///
/// # Errors
///
/// [`SlotsError`]; all of its calls are lost then.
pub(crate) fn recover(memory: OwnedFd) -> Result<Vec<Found>, SlotsError> {
    // The capacity first: how long the memory must be follows from it.
    let mut header = [0; 4 * WORD];
    let read = rustix::io::pread(&memory, &mut header, 0).map_err(io::Error::from)?;
    let (words, _) = header.as_chunks();
    let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    let [LAYOUT_VERSION, capacity, shards, MAGIC] = words[..] else {
        return Err(SlotsError::Unknown);
    };
    let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
    if read != header.len()
        || !(1..=CAPACITY_MAX).contains(&capacity)
        || shards != SHARDS_MAX as u64
    {
        return Err(SlotsError::Unknown);
    }
    let layout = Layout::new(capacity);
    let memory = Memory::open(memory, layout.length(), layout.words(), layout.bytes_from())?;
    let memory = Arc::new(memory);
    let in_hand: HashMap<(u32, u32), InHand> = (0..SHARDS_MAX)
        .filter_map(|shard| InHand::find(&memory, shard))
        .map(|hand| ((hand.slot, hand.generation), hand))
        .collect();
    let mut places = HashMap::new();
    let mut found = Vec::new();
    for number in 0..capacity {
        let slot = memory.words(Layout::slot(number), SLOT_WORDS);
        let status = Status::load(slot);
        if status.state != State::Live {
            // Slots are taken from the first on, so behind one that never was there are no others.
            if status.generation == 0 {
                break;
            }
            continue;
        }
        let number = small(number);
        let place = Facts::load(slot).and_then(|facts| {
            let read = || places::read(&memory, layout, facts.place);
            places.entry(facts.place).or_insert_with(read).clone()
        });
        found.push(Found {
            number,
            generation: status.generation,
            memory: Arc::clone(&memory),
            layout,
            place,
            in_hand: in_hand.get(&(number, status.generation)).copied(),
        });
    }
    Ok(found)
}

impl Found {
    fn slot(&self) -> &[AtomicU64] {
        self.memory
            .words(Layout::slot(self.number as usize), SLOT_WORDS)
    }

    /// Whether a shard had it in hand.
    pub(crate) fn was_in_hand(&self) -> bool {
        self.in_hand.is_some()
    }

    /// Who it is. `None`: even that cannot be read.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let (slot, place) = (self.slot(), self.place.clone()?);
        let facts = Facts::load(slot)?;
        let (call, traceparent) = if facts.is_cold() {
            let at = self.layout.cold(self.number as usize);
            let cold: facts::Cold = places::json(&self.memory, at, COLD_BYTES)?;
            (cold.call, cold.traceparent)
        } else {
            (facts::inline_id(slot)?, None)
        };
        Some(Identity {
            agent: place.agent,
            call,
            release: place.release,
            label: place.label,
            epoch: place.epoch,
            reason: facts.reason,
            is_override: facts.is_override(),
            is_resume: facts.is_resume(),
            purpose: facts.purpose,
            since: facts::since(slot),
            retiring: facts.retiring(),
            traceparent,
        })
    }

    /// As whom it is named if it cannot go on. `None`: even that cannot be read.
    pub(crate) fn lost(&self) -> Option<Lost> {
        Some(Lost {
            identity: self.identity()?,
            worker: self.place.clone()?.worker,
            connected: facts::connected(self.slot()),
        })
    }

    /// Whether exactly whole frames went to a side, so that it can be told that the call ends.
    pub(crate) fn is_whole(&self, to: Side, caller: &impl AsFd, worker: &impl AsFd) -> bool {
        let (at, counts) = match to {
            Side::Caller => (DOWN, Counts::of(caller)),
            Side::Worker => (UP, Counts::of(worker)),
        };
        let flow = FlowState::load(&self.slot()[at..at + FLOW_WORDS]);
        let in_hand = self.in_hand.is_some_and(|hand| hand.side != to);
        let told = counts.is_ok_and(|counts| !counts.gone && counts.written == flow.written);
        let waits = flow.start != flow.end || flow.sink != Sink::Open;
        told && !in_hand && !waits && flow.observer().is_between_frames()
    }

    /// The call as it must go on, with every byte that was read and not written. Its sockets must
    /// not be read or written before it is relayed.
    ///
    /// # Errors
    ///
    /// [`Damaged`]: it must not go on.
    pub(crate) fn reconcile(
        &self,
        caller: &impl AsFd,
        worker: &impl AsFd,
    ) -> Result<MovedCall, Damaged> {
        let slot = self.slot();
        let identity = self.identity().ok_or(Damaged::Unreadable)?;
        let place = self.place.clone().ok_or(Damaged::Unreadable)?;
        let facts = Facts::load(slot).ok_or(Damaged::Unreadable)?;
        let strikes = match self.in_hand {
            Some(_) if self.went_on() => 1,
            Some(_) => facts.strikes.saturating_add(1),
            None => 0,
        };
        if strikes >= STRIKES_MAX {
            return Err(Damaged::Twice);
        }
        let [caller, worker] = [Counts::of(caller)?, Counts::of(worker)?];
        let mut closed = Status::load(slot).closed;
        let mut flow = |side: Side, source, sink| {
            let repaired = self.repair(side, facts.ends(), source, sink)?;
            if let Some(code) = repaired.code {
                closed.get_or_insert(crate::ledger::Closed {
                    by: side.by(),
                    code: Some(code),
                });
            }
            Ok::<_, Damaged>((repaired.read, repaired.flow))
        };
        let (bytes_in, up) = flow(Side::Caller, caller, worker)?;
        let (bytes_out, down) = flow(Side::Worker, worker, caller)?;
        let connection = Moved {
            identity,
            worker: place.worker,
            addr: place.addr,
            connected: facts::connected(slot),
            bytes_in,
            bytes_out,
            ends: facts.ends(),
        };
        Ok(MovedCall {
            connection,
            up,
            down,
            closed,
            strikes,
            // What is held back goes on as it is; but it ends with its worker.
            lifeline: None,
        })
    }

    /// Whether bytes were read since it got its slot: then it was not this call that crashed us at
    /// once, and not a crash in a row.
    fn went_on(&self) -> bool {
        let read = [UP, DOWN].map(|at| self.slot()[at].load(Ordering::Relaxed));
        read[0].wrapping_add(read[1]) != facts::progress(self.slot())
    }

    fn leftover(&self, side: Side, flow: &FlowState) -> Result<Vec<u8>, Damaged> {
        let (start, end) = (flow.start as usize, flow.end as usize);
        if start > end || end > EXTENT_BYTES {
            return Err(Damaged::Unreadable);
        }
        let at = self.layout.extent(self.number as usize, side);
        let mut bytes = Vec::new();
        self.memory.read(at + start..at + end, &mut bytes);
        Ok(bytes)
    }

    /// Puts the flow that comes from `side` together, out of its note and the kernel's counts.
    fn repair(
        &self,
        side: Side,
        leaving: bool,
        source: Counts,
        sink: Counts,
    ) -> Result<Repaired, Damaged> {
        let hand = self.in_hand.filter(|hand| hand.side == side);
        let mut flow = hand.map_or_else(
            || {
                let at = match side {
                    Side::Caller => UP,
                    Side::Worker => DOWN,
                };
                FlowState::load(&self.slot()[at..at + FLOW_WORDS])
            },
            |hand| FlowState::unpack(hand.before),
        );
        let mut leftover = self.leftover(side, &flow)?;
        let expected = flow
            .read_base
            .wrapping_add(super::flow::halves(flow.read)[0]);
        let mut read = source.read.wrapping_sub(expected) as usize;
        let mut written = sink.written.wrapping_sub(flow.written) as usize;
        if source.gone && read == 1 && hand.is_none() {
            // The end of a stream that was reset later.
            read = 0;
        }
        if sink.gone || matches!(flow.sink, Sink::Shut | Sink::Dead) {
            // Nothing more is written there, so it does not matter what was.
            written = 0;
        }
        let mut code = None;
        match hand.map(|hand| (hand.deed, hand.shard)) {
            Some((Deed::Pump, shard)) => {
                if read > BUFFER_BYTES {
                    return Err(Damaged::Counts("more was read than there is room for"));
                }
                if source.gone && read > 0 {
                    return Err(Damaged::Counts("it was reset while it was read"));
                }
                let bytes = self.memory.look(shard, BUFFER_BYTES, read);
                let intake = flow.take_in(&bytes, leaving);
                code = intake.code;
                let rest = bytes[..intake.forward].get(written..);
                let rest = rest.ok_or(Damaged::Counts("more was written than was read"))?;
                leftover.extend_from_slice(rest);
                if intake.farewell {
                    leftover.extend(farewell(side.other()));
                    flow.sink = Sink::Farewell;
                }
            }
            Some((Deed::Flush, _)) => {
                if read != 0 {
                    return Err(Damaged::Counts("bytes were read by nobody"));
                }
                if written > leftover.len() {
                    return Err(Damaged::Counts("more was written than waited"));
                }
                leftover.drain(..written);
            }
            Some((Deed::Edit, _)) | None if read != 0 => {
                return Err(Damaged::Counts("bytes were read by nobody"));
            }
            Some((Deed::Edit, _)) | None if written != 0 => {
                return Err(Damaged::Counts("bytes were written by nobody"));
            }
            Some((Deed::Edit, _)) | None => {}
        }
        if sink.gone {
            flow.sink = Sink::Dead;
            leftover.clear();
        }
        Ok(Repaired {
            read: flow.read,
            code,
            flow: Flow {
                leftover,
                ended: flow.ended,
                sink: flow.sink,
                observer: flow.observer(),
            },
        })
    }
}

struct Repaired {
    read: u64,
    code: Option<u16>,
    flow: Flow,
}
