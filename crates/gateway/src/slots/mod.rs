//! The memory of live calls: what a killed gateway leaves for the next one.
//!
//! All that the relay knows of a call lies in a slot of fixed size, in pages that somebody else may
//! hold (see [`Slots::memory`]). So a gateway that is killed between any two instructions leaves
//! every call as it was, but for the one in each shard's hand; and that one is put together again
//! from a note of how it was before and from the kernel's own counts. A call for which these
//! contradict each other is damaged: better closed by name than continued with a byte missing.
//!
//! Slots are written by one thread at a time, the shard that relays the call, with plain stores.
//! Recovery only reads: the calls it finds get slots in the memory of the process that recovers.

mod cut;
mod delta;
mod facts;
mod flow;
mod kernel;
mod lane;
mod layout;
mod memory;
mod places;
mod recover;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segue_core::names::WorkerId;
use segue_core::time::Timestamp;

use crate::ledger::{Closed, Identity};
use crate::relay::{SHARDS_MAX, Side};

pub(crate) use self::cut::cut;
pub(crate) use self::delta::Delta;
use self::facts::{DOWN, FACTS, STATUS, State, Status, UP};
use self::flow::FLOW_WORDS;
pub(crate) use self::flow::{FlowState, Intake, small};
use self::kernel::Counts;
pub(crate) use self::lane::{Deed, Lane};
pub(crate) use self::layout::EXTENT_BYTES;
use self::layout::{CAPACITY_MAX, COLD_BYTES, LAYOUT_VERSION, Layout, MAGIC, PAGE, SLOT_WORDS};
use self::memory::Memory;
use self::places::Places;
pub(crate) use self::recover::{Found, recover};

/// Stands for "no place" in a slot.
const NO_PLACE: u32 = u32::MAX;

/// The slots of one process.
#[derive(Debug)]
pub(crate) struct Slots {
    memory: Arc<Memory>,
    layout: Layout,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    places: Places,
    /// Slots that were used and are free.
    free: Vec<u32>,
    /// Slots from here on were never used.
    next: u32,
}

/// What is written down of a call when it gets a slot.
#[derive(Debug)]
pub(crate) struct Entered<'a> {
    pub(crate) identity: Identity,
    pub(crate) worker: &'a WorkerId,
    pub(crate) addr: SocketAddr,
    pub(crate) connected: Option<Timestamp>,
    pub(crate) closed: Option<Closed>,
    /// Whether it is to be ended by policy.
    pub(crate) ends: bool,
    /// Crashes in a row in which it was in a shard's hand.
    pub(crate) strikes: u8,
    /// Whether it can outlive this process.
    pub(crate) keepable: bool,
}

impl Slots {
    /// New memory for so many calls.
    ///
    /// # Errors
    ///
    /// When the system has no memory for us.
    pub(crate) fn create(capacity: usize) -> io::Result<Arc<Self>> {
        let layout = Layout::new(capacity.clamp(1, CAPACITY_MAX));
        let memory = Memory::create(layout.length(), layout.words(), layout.bytes_from())?;
        Ok(Self::with(memory, layout))
    }

    /// As [`Slots::create`], in memory that nobody else can have.
    #[cfg(test)]
    pub(crate) fn plain(capacity: usize) -> Arc<Self> {
        let layout = Layout::new(capacity);
        let memory = Memory::plain(layout.length(), layout.words(), layout.bytes_from());
        Self::with(memory, layout)
    }

    fn with(memory: Memory, layout: Layout) -> Arc<Self> {
        let header = [
            LAYOUT_VERSION,
            layout.capacity as u64,
            SHARDS_MAX as u64,
            MAGIC,
        ];
        for (word, value) in memory.words(0, 4).iter().zip(header) {
            word.store(value, Ordering::Relaxed);
        }
        Arc::new(Self {
            memory: Arc::new(memory),
            layout,
            books: Mutex::default(),
        })
    }

    /// The memory, for whoever is to hold it for the next process. `None`: nobody can.
    pub(crate) fn memory(&self) -> Option<BorrowedFd<'_>> {
        self.memory.fd()
    }

    /// The part of a shard. `None`: there is no such shard, or somebody has its part.
    pub(crate) fn lane(self: &Arc<Self>, shard: usize) -> Option<Lane> {
        Lane::new(self, shard)
    }

    /// A slot for a call. `None`: all are in use.
    pub(crate) fn take(self: &Arc<Self>, call: &Entered<'_>) -> Option<Slot> {
        let mut books = self.books();
        let number = match books.free.pop() {
            Some(number) => number,
            None if (books.next as usize) < self.layout.capacity => {
                books.next += 1;
                books.next - 1
            }
            None => return None,
        };
        let at = (call.worker, call.addr);
        let places = &mut books.places;
        let place = places.enter(&self.memory, self.layout, &call.identity, at);
        drop(books);
        let place = place.unwrap_or(NO_PLACE);

        let words = self.words(number);
        let generation = Status::load(words).generation.wrapping_add(1);
        let about = (place, call.strikes, call.ends);
        let cold = facts::write(words, &call.identity, about, call.connected);
        let named = cold.is_none_or(|cold| self.write_cold(number, &cold));
        // A call that nobody could name is not to be found again.
        let keepable = call.keepable && place != NO_PLACE && named;
        let status = Status {
            state: if keepable {
                State::Live
            } else {
                State::Unkeepable
            },
            closed: call.closed,
            generation,
        };
        status.store(words);
        Some(Slot {
            slots: Arc::clone(self),
            number,
            generation,
        })
    }

    /// False: it does not fit.
    fn write_cold(&self, number: u32, cold: &facts::Cold) -> bool {
        let at = self.layout.cold(number as usize);
        let bytes = serde_json::to_vec(cold).unwrap_or_default();
        if bytes.is_empty() || bytes.len() + 2 > COLD_BYTES {
            return false;
        }
        let length = u16::try_from(bytes.len()).expect("it fits");
        self.memory.write(at, &length.to_le_bytes());
        self.memory.write(at + 2, &bytes);
        true
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn words(&self, number: u32) -> &[AtomicU64] {
        self.memory.words(Layout::slot(number as usize), SLOT_WORDS)
    }

    #[inline]
    fn flow_words(&self, number: u32, side: Side) -> &[AtomicU64] {
        let at = match side {
            Side::Caller => UP,
            Side::Worker => DOWN,
        };
        &self.words(number)[at..at + FLOW_WORDS]
    }

    #[inline]
    fn generation(&self, number: u32) -> u32 {
        flow::halves(self.words(number)[STATUS].load(Ordering::Relaxed))[1]
    }
}

/// One slot, owned: it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    number: u32,
    generation: u32,
}

impl Slot {
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Tells this call from others that had the slot before.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether it is one of these.
    pub(crate) fn is_of(&self, lane: &Lane) -> bool {
        Arc::ptr_eq(&self.slots, &lane.slots)
    }

    /// Whether the call can outlive this process.
    pub(crate) fn is_keepable(&self) -> bool {
        self.slots.memory.fd().is_some() && Status::load(self.words()).state == State::Live
    }

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        self.slots.words(self.number)
    }

    /// The flow that comes from `side`.
    #[inline]
    pub(crate) fn flow(&self, side: Side) -> FlowState {
        FlowState::load(self.slots.flow_words(self.number, side))
    }

    /// Changes one thing of a flow; what can be seen half changed is a [`Deed`].
    #[inline]
    pub(crate) fn set_flow(&self, side: Side, flow: &FlowState) {
        flow.store(self.slots.flow_words(self.number, side));
    }

    /// Notes where the kernel's counts stand, as what belongs to the flows as they are now. Only a
    /// call that has this can be repaired.
    pub(crate) fn note_counts(&self, caller: &impl AsFd, worker: &impl AsFd) -> io::Result<()> {
        let [caller, worker] = [Counts::of(caller)?, Counts::of(worker)?];
        let read = Side::BOTH.map(|side| self.flow(side).read);
        facts::set_progress(self.words(), read[0].wrapping_add(read[1]));
        for (side, source, sink) in [
            (Side::Caller, caller, worker),
            (Side::Worker, worker, caller),
        ] {
            let mut flow = self.flow(side);
            let [read, _] = flow::halves(flow.read);
            flow.read_base = source.read.wrapping_sub(read);
            flow.written = sink.written;
            self.set_flow(side, &flow);
        }
        Ok(())
    }

    /// The first sign of the end.
    pub(crate) fn closed(&self) -> Option<Closed> {
        Status::load(self.words()).closed
    }

    /// Notes the first sign of the end; later ones are none.
    pub(crate) fn close(&self, closed: Closed) {
        let mut status = Status::load(self.words());
        status.closed.get_or_insert(closed);
        status.store(self.words());
    }

    /// The call ends with this process.
    pub(crate) fn set_unkeepable(&self) {
        let mut status = Status::load(self.words());
        status.state = State::Unkeepable;
        status.store(self.words());
    }

    /// When the call stood.
    pub(crate) fn connected(&self) -> Option<Timestamp> {
        facts::connected(self.words())
    }

    /// Whether the call is being ended by policy.
    #[inline]
    pub(crate) fn ends(&self) -> bool {
        facts::ends(self.words())
    }

    /// The call is being ended by policy.
    pub(crate) fn set_ends(&self) {
        facts::set_ends(self.words());
    }

    /// Adds bytes to what waits; they count once the flow is put back.
    ///
    /// # Panics
    ///
    /// When they are more than [`EXTENT_BYTES`].
    pub(crate) fn append(&self, side: Side, flow: &mut FlowState, bytes: &[u8]) {
        let at = self.slots.layout.extent(self.number as usize, side);
        let end = flow.end as usize + bytes.len();
        assert!(end <= EXTENT_BYTES, "a leftover is bounded");
        self.slots.memory.write(at + flow.end as usize, bytes);
        flow.end = small(end);
    }

    /// Copies what waits.
    pub(crate) fn leftover(&self, side: Side, flow: &FlowState, to: &mut Vec<u8>) {
        let at = self.slots.layout.extent(self.number as usize, side);
        let range = at + flow.start as usize..at + flow.end as usize;
        self.slots.memory.read(range, to);
    }

    /// Gives pages of what waited back, when nothing waits there any more: those behind the first
    /// byte of the range. They are given back only after the flow says so.
    pub(crate) fn forget(&self, side: Side, range: Range<u32>) {
        let at = self.slots.layout.extent(self.number as usize, side);
        let page = |byte: u32| at + (byte as usize).next_multiple_of(PAGE);
        if page(range.start) < page(range.end) {
            let pages = page(range.start)..page(range.end);
            self.slots.memory.forget(pages);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let words = self.words();
        let [place, _] = flow::halves(words[FACTS].load(Ordering::Relaxed));
        let flows = Side::BOTH.map(|side| (side, self.flow(side)));
        let free = Status {
            state: State::Free,
            closed: None,
            generation: self.generation,
        };
        free.store(words);
        for (side, flow) in flows {
            if flow.end > 0 {
                self.forget(side, 0..flow.end);
            }
        }
        let mut books = self.slots.books();
        if place != NO_PLACE {
            books.places.leave(place);
        }
        books.free.push(self.number);
    }
}

/// How many bytes the kernel has counted as read from a socket and as written to it, modulo 2^32
/// and from anywhere on.
#[cfg(test)]
pub(crate) fn counted(socket: &impl AsFd) -> [u32; 2] {
    let counts = Counts::of(socket).expect("it is a TCP socket");
    [counts.read, counts.written]
}

#[cfg(test)]
pub(crate) use self::cut::look_while;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
