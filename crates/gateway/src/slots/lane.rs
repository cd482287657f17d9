//! A shard's own part of the memory: its read buffer, and the marker of what it has in hand.
//!
//! A flow is six words, and the kernel's buffers are elsewhere, so an instant in which all of it
//! fits together does not exist while bytes move. Before a shard touches a flow it notes which one,
//! and how it was; afterwards it takes the note back. Whoever finds a note asks the kernel how far
//! it came (see `recover`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use crate::relay::Side;

use super::Slots;
use super::cut::cut;
use super::flow::{FLOW_WORDS, FlowState, FlowWords, halves, raw, word};
use super::layout::{BUFFER_BYTES, Layout, MARKER_WORDS};
use super::memory::{Buffer, Memory};

/// What a shard does to the flow in its hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Deed {
    /// Reads into the buffer and writes on.
    Pump = 1,
    /// Writes what waits.
    Flush = 2,
    /// Changes the flow without moving a byte.
    Edit = 3,
}

/// See the module.
pub(crate) struct Lane {
    pub(super) slots: Arc<Slots>,
    index: usize,
    /// What was read last.
    pub(crate) buffer: Lent,
    /// Bytes on their way between memory and a socket.
    pub(crate) scratch: Vec<u8>,
}

/// The read buffer of a lane.
#[derive(Debug)]
pub(crate) struct Lent(Buffer);

impl std::ops::Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Lane {
    /// `None`: there is no such lane, or a shard has it.
    pub(super) fn new(slots: &Arc<Slots>, index: usize) -> Option<Self> {
        let buffer = slots.memory.lend(index, BUFFER_BYTES)?;
        Some(Self {
            slots: Arc::clone(slots),
            index,
            buffer: Lent(buffer),
            scratch: Vec::new(),
        })
    }

    /// All slots.
    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    fn marker(&self) -> &[AtomicU64] {
        marker(&self.slots.memory, self.index)
    }

    /// Takes the flow that comes from `side` in hand.
    #[inline]
    pub(crate) fn take(&self, slot: u32, side: Side, deed: Deed) -> FlowState {
        let marker = self.marker();
        let words = self.slots.flow_words(slot, side);
        let copy = raw(words);
        for (word, value) in marker[2..].iter().zip(copy) {
            cut();
            word.store(value, Ordering::Relaxed);
        }
        let generation = self.slots.generation(slot);
        cut();
        marker[1].store(generation.into(), Ordering::Relaxed);
        // A kill finds what was stored in the order of the program; only the compiler must be told.
        compiler_fence(Ordering::SeqCst);
        let what = u32::from(deed as u8) << 8 | u32::from(side == Side::Worker);
        cut();
        marker[0].store(word(slot, what), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        FlowState::unpack(copy)
    }

    /// Puts it back as it is now.
    #[inline]
    pub(crate) fn put(&self, slot: u32, side: Side, flow: &FlowState) {
        compiler_fence(Ordering::SeqCst);
        flow.store(self.slots.flow_words(slot, side));
        compiler_fence(Ordering::SeqCst);
        self.let_go();
    }

    /// Puts it back as it was.
    #[inline]
    pub(crate) fn let_go(&self) {
        cut();
        self.marker()[0].store(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }
}

/// What was found in a shard's hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InHand {
    pub(super) shard: usize,
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) side: Side,
    pub(super) deed: Deed,
    /// The flow as it was before.
    pub(super) before: FlowWords,
}

impl InHand {
    pub(super) fn find(memory: &Memory, shard: usize) -> Option<Self> {
        let marker = marker(memory, shard);
        let [slot, what] = halves(marker[0].load(Ordering::Relaxed));
        let deed = match what >> 8 {
            1 => Deed::Pump,
            2 => Deed::Flush,
            3 => Deed::Edit,
            _ => return None,
        };
        let [generation, _] = halves(marker[1].load(Ordering::Relaxed));
        Some(Self {
            shard,
            slot,
            generation,
            side: if what & 1 == 0 {
                Side::Caller
            } else {
                Side::Worker
            },
            deed,
            before: raw(&marker[2..2 + FLOW_WORDS]),
        })
    }
}

fn marker(memory: &Memory, shard: usize) -> &[AtomicU64] {
    memory.words(Layout::marker(shard), MARKER_WORDS)
}
