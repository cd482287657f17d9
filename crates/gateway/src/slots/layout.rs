//! Where things lie in the memory of live calls.
//!
//! Everything is at a place that follows from the capacity alone, and pages cost nothing until they
//! are touched, so each region has room for the worst case. A change here is another
//! [`LAYOUT_VERSION`]: memory of another version is not read, and its calls are lost by name of the
//! journal only.

use crate::relay::{SHARDS_MAX, Side};

/// First word of the memory.
pub(super) const MAGIC: u64 = u64::from_be_bytes(*b"segue\0\0\x01");

/// Version of everything in this file and of the packings in `flow` and `facts`.
pub(super) const LAYOUT_VERSION: u64 = 1;

/// Most slots of a memory. It is the bound for memory that somebody else made.
pub(super) const CAPACITY_MAX: usize = 1 << 20;

pub(super) const WORD: usize = 8;
pub(super) const PAGE: usize = 4096;

/// Words of a marker: two cache lines, so that no two shards share one.
pub(super) const MARKER_WORDS: usize = 16;

/// Words of a slot: three cache lines, of which the first two are used while bytes flow.
pub(super) const SLOT_WORDS: usize = 24;

/// Bytes of a slot.
pub(super) const SLOT_BYTES: usize = SLOT_WORDS * WORD;

/// Read buffer of a shard: larger than any audio frame, and one read drains a burst.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024;

/// Places where calls may be at once: releases times workers, of all agents.
pub(super) const PLACES_MAX: usize = 32 * 1024;

/// One place as JSON: three names of at most 64 bytes, a digest of 64, an address, and the keys.
pub(super) const PLACE_BYTES: usize = 512;

/// A call id that is too long for the slot, at most 128 bytes, and a trace context of 55, as JSON.
pub(super) const COLD_BYTES: usize = 256;

/// Bytes that wait in one direction: one read, a farewell frame, and what came before the call
/// stood, twice over.
pub(crate) const EXTENT_BYTES: usize = 128 * 1024;

/// Offsets for one capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) capacity: usize,
    places: usize,
    cold: usize,
    extents: usize,
}

impl Layout {
    pub(super) fn new(capacity: usize) -> Self {
        let buffers = Self::words_end(capacity);
        let places = buffers + SHARDS_MAX * BUFFER_BYTES;
        let cold = places + PLACES_MAX * PLACE_BYTES;
        let extents = (cold + capacity * COLD_BYTES).next_multiple_of(PAGE);
        Self {
            capacity,
            places,
            cold,
            extents,
        }
    }

    fn words_end(capacity: usize) -> usize {
        (Self::slot(capacity)).next_multiple_of(PAGE)
    }

    /// Where words end and the read buffers begin.
    pub(super) fn words(self) -> usize {
        Self::words_end(self.capacity)
    }

    /// Where the read buffers end and bytes begin.
    pub(super) fn bytes_from(self) -> usize {
        self.places
    }

    pub(super) fn length(self) -> usize {
        self.extents + self.capacity * 2 * EXTENT_BYTES
    }

    pub(super) fn marker(shard: usize) -> usize {
        PAGE + shard * MARKER_WORDS * WORD
    }

    #[inline]
    pub(super) fn slot(number: usize) -> usize {
        PAGE + SHARDS_MAX * MARKER_WORDS * WORD + number * SLOT_BYTES
    }

    pub(super) fn place(self, index: usize) -> usize {
        self.places + index * PLACE_BYTES
    }

    pub(super) fn cold(self, number: usize) -> usize {
        self.cold + number * COLD_BYTES
    }

    /// What waits of the bytes that come from `side`.
    pub(super) fn extent(self, number: usize, side: Side) -> usize {
        self.extents + (2 * number + side.index()) * EXTENT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_call_takes_three_cache_lines() {
        println!("slot: {SLOT_BYTES} bytes");
        const { assert!(SLOT_BYTES <= 192 && SLOT_BYTES.is_multiple_of(64)) };
        assert!(Layout::slot(0).is_multiple_of(64) && Layout::marker(1).is_multiple_of(64));
    }

    #[test]
    fn regions_do_not_overlap() {
        for capacity in [1, 7, 1_000, 131_072] {
            let layout = Layout::new(capacity);
            let last = capacity - 1;
            let starts = [
                Layout::marker(0),
                Layout::marker(SHARDS_MAX - 1) + MARKER_WORDS * WORD - 1,
                Layout::slot(0),
                Layout::slot(last) + SLOT_BYTES - 1,
                layout.words(),
                layout.words() + SHARDS_MAX * BUFFER_BYTES - 1,
                layout.bytes_from(),
                layout.place(PLACES_MAX - 1) + PLACE_BYTES - 1,
                layout.cold(0),
                layout.cold(last) + COLD_BYTES - 1,
                layout.extent(0, Side::Caller),
                layout.extent(last, Side::Worker) + EXTENT_BYTES - 1,
                layout.length(),
            ];
            assert!(starts.is_sorted_by(|a, b| a < b), "{starts:?}");
            assert!(layout.extent(0, Side::Caller).is_multiple_of(PAGE));
        }
    }
}
