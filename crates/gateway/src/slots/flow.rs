//! One direction of a call as it lies in its slot: six words.
//!
//! The relay works on this value between loading and storing it, and so does the repair after a
//! crash: what a read means for a flow is decided by one function for both.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::frames::{Observer, whole_frames};
use crate::relay::Sink;

use super::cut::cut;

pub(super) const FLOW_WORDS: usize = 6;

/// The words of a flow as they are kept, here and in a marker.
pub(super) type FlowWords = [u64; FLOW_WORDS];

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowState {
    /// Bytes read so far.
    pub(crate) read: u64,
    observer: [u64; 2],
    frames: u32,
    /// What the kernel's count of bytes read from the source is ahead of ours, modulo 2^32.
    pub(super) read_base: u32,
    /// The kernel's count of bytes written to the sink's socket, modulo 2^32.
    pub(super) written: u32,
    pub(crate) sink: Sink,
    /// Whether the source has said its last byte.
    pub(crate) ended: bool,
    /// What waits lies here in the extent of the flow.
    pub(crate) start: u32,
    /// See `start`.
    pub(crate) end: u32,
}

/// What bytes that were read mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Intake {
    /// So many of them, from the first on, go to the sink.
    pub(crate) forward: usize,
    /// Behind those, the sink gets our close frame and nothing more.
    pub(crate) farewell: bool,
    /// The close code that went by.
    pub(crate) code: Option<u16>,
}

impl FlowState {
    pub(crate) fn new(read: u64, observer: &Observer, sink: Sink, ended: bool) -> Self {
        Self {
            read,
            observer: observer.to_words(),
            frames: u32::try_from(observer.frames()).unwrap_or(u32::MAX),
            read_base: 0,
            written: 0,
            sink,
            ended,
            start: 0,
            end: 0,
        }
    }

    #[inline]
    pub(super) fn load(words: &[AtomicU64]) -> Self {
        Self::unpack(raw(words))
    }

    #[inline]
    pub(super) fn unpack(words: FlowWords) -> Self {
        let [read, seen, left, bases, state, range] = words;
        let [frames, read_base] = halves(bases);
        let [written, flags] = halves(state);
        let [start, end] = halves(range);
        Self {
            read,
            observer: [seen, left],
            frames,
            read_base,
            written,
            sink: match flags & 0xff {
                0 => Sink::Open,
                1 => Sink::Farewell,
                2 => Sink::Shut,
                _ => Sink::Dead,
            },
            ended: flags & 0x100 != 0,
            start,
            end,
        }
    }

    #[inline]
    pub(super) fn pack(&self) -> FlowWords {
        let sink: u32 = match self.sink {
            Sink::Open => 0,
            Sink::Farewell => 1,
            Sink::Shut => 2,
            Sink::Dead => 3,
        };
        let flags = sink | u32::from(self.ended) << 8;
        [
            self.read,
            self.observer[0],
            self.observer[1],
            word(self.frames, self.read_base),
            word(self.written, flags),
            word(self.start, self.end),
        ]
    }

    #[inline]
    pub(super) fn store(&self, words: &[AtomicU64]) {
        for (word, value) in words.iter().zip(self.pack()) {
            cut();
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Where the frames from the source stand.
    pub(crate) fn observer(&self) -> Observer {
        Observer::from_words(self.observer, self.frames.into())
    }

    fn set_observer(&mut self, observer: &Observer) {
        self.observer = observer.to_words();
        self.frames = u32::try_from(observer.frames()).unwrap_or(u32::MAX);
    }

    /// Whether bytes wait for the sink.
    #[inline]
    pub(crate) fn has_leftover(&self) -> bool {
        self.start != self.end
    }

    /// How many bytes wait for the sink.
    #[inline]
    pub(crate) fn waiting(&self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// Whether a close frame went by, or this is no WebSocket.
    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        Observer::is_done_in(self.observer)
    }

    /// Whether another frame may follow what was read.
    #[inline]
    pub(crate) fn is_between_frames(&self) -> bool {
        self.observer == [0, 0]
    }

    /// Notes that bytes went to the sink.
    #[inline]
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.written = self.written.wrapping_add(small(bytes));
    }

    /// Takes bytes that went to the sink off what waits.
    pub(crate) fn wrote_leftover(&mut self, bytes: usize) {
        self.start += small(bytes);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Accounts for bytes that were read. `leaving`: the call is ended by policy.
    #[inline]
    pub(crate) fn take_in(&mut self, bytes: &[u8], leaving: bool) -> Intake {
        self.read += bytes.len() as u64;
        if !leaving
            && self.observer == [0, 0]
            && let Some(frames) = whole_frames(bytes)
        {
            self.frames = self.frames.saturating_add(frames);
            return Intake {
                forward: if self.sink == Sink::Open {
                    bytes.len()
                } else {
                    0
                },
                farewell: false,
                code: None,
            };
        }
        self.take_in_parts(bytes, leaving)
    }

    fn take_in_parts(&mut self, bytes: &[u8], leaving: bool) -> Intake {
        let mut observer = self.observer();
        let open = self.sink == Sink::Open;
        let mut intake = Intake {
            forward: if open { bytes.len() } else { 0 },
            farewell: false,
            code: None,
        };
        if leaving && open {
            intake.forward = 0;
            if !observer.is_between_frames() {
                (intake.forward, intake.code) = observer.see_frame(bytes);
            }
            intake.farewell = observer.is_between_frames();
            // The rest only for the sight of a close frame.
            observer.see(&bytes[intake.forward..]);
        } else {
            intake.code = observer.see(bytes);
        }
        self.set_observer(&observer);
        intake
    }
}

#[inline]
pub(super) fn raw(words: &[AtomicU64]) -> FlowWords {
    std::array::from_fn(|n| words[n].load(Ordering::Relaxed))
}

#[inline]
pub(super) fn word(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "halves of a word")]
pub(super) fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// A number of bytes in one extent or one read.
#[inline]
pub(crate) fn small(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("an extent is far smaller")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_survives_its_words_whatever_they_are() {
        let mut observer = Observer::default();
        observer.see(&[0x82, 0x7e, 1]);
        for sink in [Sink::Open, Sink::Farewell, Sink::Shut, Sink::Dead] {
            let mut flow = FlowState::new(7 << 40, &observer, sink, sink == Sink::Shut);
            (flow.start, flow.end) = (3, 70_000);
            (flow.read_base, flow.written) = (u32::MAX, 5);
            assert_eq!(FlowState::unpack(flow.pack()), flow);
            assert_eq!(flow.observer(), observer);
        }
        for byte in 0..=u8::MAX {
            let words = [u64::from_ne_bytes([byte; 8]); FLOW_WORDS];
            // Whatever it says: it says it without a panic.
            let mut flow = FlowState::unpack(words);
            flow.read = 0;
            flow.take_in(&[0x82, 1, 7, 0x88, 0], byte % 2 == 0);
        }
    }

    #[test]
    fn a_call_that_leaves_forwards_to_the_end_of_its_frame() {
        let mut flow = FlowState::new(0, &Observer::default(), Sink::Open, false);
        let half = flow.take_in(&[0x82, 4, 1, 2], false);
        assert_eq!((half.forward, half.farewell), (4, false));
        let more = flow.take_in(&[3], true);
        assert_eq!((more.forward, more.farewell), (1, false));
        let rest = flow.take_in(&[4, 0x82, 9, 9], true);
        assert_eq!((rest.forward, rest.farewell), (1, true));
        assert_eq!(flow.read, 9);
    }
}
