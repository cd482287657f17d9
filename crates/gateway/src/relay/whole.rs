//! Whole messages: where they end, and what of them may go on.
//!
//! A call that may be rescued from a dead worker must never be left within a message: the caller
//! would take the rest of one for the beginning of another, and so would the next worker. So an
//! incomplete message is held back until it is whole. One that is longer than [`HELD_BYTES_MAX`]
//! streams through instead, and until its end the call cannot be rescued.
//!
//! What is held goes in one piece: the fragments of a message and the control frames between them.
//! A close frame is held until it is whole, too, because its code decides.
//!
//! Pure: bytes come in, numbers come out. The bytes themselves stay where they are.

use serde::{Deserialize, Serialize};

use crate::frames::{NO_STATUS, payload, wanted};

/// Longest message that is held back until it is whole: a second of uncompressed 16 kHz audio.
/// Wherever it lies among what waits, there is room for one more read behind it.
pub(crate) const HELD_BYTES_MAX: usize = 30 * 1024;

const HEADER_BYTES_MAX: usize = 14;

/// Steps over the frames of one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Messages {
    step: Step,
    /// Behind a fragment of a message, and before its last one.
    fragmented: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    /// Collecting a header.
    Header {
        have: u8,
        bytes: [u8; HEADER_BYTES_MAX],
    },
    /// Skipping the payload of a frame.
    Payload { frame: Frame, left: u64 },
    /// Within the payload of a close frame, which begins with a code.
    Close {
        mask: [u8; 2],
        have: u8,
        code: [u8; 2],
        left: u64,
    },
    /// A close frame went by, or this is no WebSocket: nothing more to see.
    Done,
}

impl Default for Step {
    fn default() -> Self {
        Self::Header {
            have: 0,
            bytes: [0; HEADER_BYTES_MAX],
        }
    }
}

/// A frame, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Frame {
    /// Ping or pong.
    Control,
    /// Of a message.
    Data {
        /// Whether the message ends with it.
        last: bool,
    },
    /// Says goodbye, with this code; [`NO_STATUS`] if without.
    Close(u16),
    /// None of a WebSocket without extensions.
    Foreign,
}

impl Messages {
    /// Whether all that was seen are whole messages, so that another one may follow.
    pub(crate) fn is_between(&self) -> bool {
        !self.fragmented && matches!(self.step, Step::Header { have: 0, .. })
    }

    /// Steps to the end of the next frame, or of the bytes. Answers how many bytes that were, and
    /// the frame if it is whole now.
    pub(crate) fn step(&mut self, bytes: &[u8]) -> (usize, Option<Frame>) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let rest = bytes.len() - at;
            let ended = match &mut self.step {
                Step::Done => return (bytes.len(), None),
                Step::Header {
                    have,
                    bytes: header,
                } => {
                    header[usize::from(*have)] = byte;
                    *have += 1;
                    at += 1;
                    let header = &header[..usize::from(*have)];
                    if header.len() < wanted(header) {
                        continue;
                    }
                    let (frame, step) = begun(header, self.fragmented);
                    let ended = matches!(step, Step::Payload { left: 0, .. } | Step::Done);
                    self.step = step;
                    ended.then_some(frame)
                }
                Step::Payload { frame, left } => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest);
                    *left -= taken as u64;
                    at += taken;
                    (*left == 0).then_some(*frame)
                }
                Step::Close {
                    mask,
                    have,
                    code,
                    left,
                } => {
                    at += 1;
                    *left -= 1;
                    if let Some(place) = code.get_mut(usize::from(*have)) {
                        *place = byte ^ mask[usize::from(*have)];
                        *have += 1;
                    }
                    let said = if *have < 2 {
                        NO_STATUS
                    } else {
                        u16::from_be_bytes(*code)
                    };
                    (*left == 0).then_some(Frame::Close(said))
                }
            };
            if let Some(frame) = ended {
                self.end(frame);
                return (at, Some(frame));
            }
        }
        (at, None)
    }

    /// As [`Messages::step`], over all the bytes.
    pub(crate) fn skip(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (taken, _) = self.step(rest);
            rest = &rest[taken..];
        }
    }

    fn end(&mut self, frame: Frame) {
        self.step = match frame {
            Frame::Control | Frame::Data { .. } => Step::default(),
            Frame::Close(_) | Frame::Foreign => Step::Done,
        };
        if let Frame::Data { last } = frame {
            self.fragmented = !last;
        }
    }

    /// Payload of the frame that is still to come.
    fn left(&self) -> u64 {
        match self.step {
            Step::Payload { left, .. } | Step::Close { left, .. } => left,
            Step::Header { .. } | Step::Done => 0,
        }
    }
}

/// The frame with this whole header, and what follows the header.
fn begun(header: &[u8], fragmented: bool) -> (Frame, Step) {
    const LAST: u8 = 0x80;
    const RESERVED: u8 = 0x70;
    let (first, (left, mask)) = (header[0], payload(header));
    let last = first & LAST != 0;
    let frame = match first & !LAST {
        // An extension that nobody was offered; its messages mean nothing to another worker.
        bits if bits & RESERVED != 0 => Frame::Foreign,
        0x0 if fragmented => Frame::Data { last },
        0x1 | 0x2 if !fragmented => Frame::Data { last },
        // Control frames are never fragmented, and never long.
        0x8 if last && left <= 125 => Frame::Close(NO_STATUS),
        0x9 | 0xa if last && left <= 125 => Frame::Control,
        _ => Frame::Foreign,
    };
    let step = match frame {
        Frame::Foreign => Step::Done,
        Frame::Close(_) if left == 0 => Step::Done,
        Frame::Close(_) => Step::Close {
            mask,
            have: 0,
            code: [0; 2],
            left,
        },
        Frame::Control | Frame::Data { .. } => Step::Payload { frame, left },
    };
    (frame, step)
}

/// What of one direction may go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whole {
    read: Messages,
    /// Bytes read since a message ended.
    since: u64,
    /// Whole messages read so far.
    messages: u64,
    /// Whether what comes is passed on as it comes: within a long message, behind a close frame
    /// that was passed on, or in what is no WebSocket.
    streams: bool,
}

/// What [`Whole::see`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How many of the bytes may go on. If any, then all that was held goes first; what is behind
    /// them is held.
    pub(crate) passes: usize,
    /// The code of a whole close frame that was found. Behind `passes` are the close frame and
    /// perhaps an unfinished message before it; whether they go is to be decided.
    pub(crate) closed: Option<u16>,
}

impl Whole {
    /// Looks at the next bytes.
    pub(crate) fn see(&mut self, bytes: &[u8]) -> Seen {
        let (mut at, mut passes) = (0, 0);
        while at < bytes.len() && !self.is_done() {
            let (taken, ended) = self.read.step(&bytes[at..]);
            at += taken;
            self.since += taken as u64;
            match ended {
                Some(Frame::Data { last: true }) => {
                    self.messages += 1;
                    self.pass();
                    passes = at;
                }
                Some(Frame::Control) if self.read.is_between() => {
                    self.pass();
                    passes = at;
                }
                Some(Frame::Close(code)) if !self.streams => {
                    return Seen {
                        passes,
                        closed: Some(code),
                    };
                }
                Some(Frame::Foreign) => self.streams = true,
                Some(Frame::Data { .. } | Frame::Control | Frame::Close(_)) | None => {}
            }
            if self.since + self.read.left() > HELD_BYTES_MAX as u64 {
                self.streams = true;
            }
        }
        if self.streams {
            passes = bytes.len();
        }
        Seen {
            passes,
            closed: None,
        }
    }

    fn pass(&mut self) {
        (self.since, self.streams) = (0, false);
    }

    fn is_done(&self) -> bool {
        self.read.step == Step::Done
    }

    /// How many of the bytes seen are held back.
    pub(crate) fn held(&self) -> usize {
        if self.streams {
            return 0;
        }
        usize::try_from(self.since).expect("else it streams")
    }

    /// Whether the other side has had whole messages only.
    pub(crate) fn is_whole(&self) -> bool {
        !self.streams
    }

    /// Whole messages so far.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Where in a message the bytes end that may go on.
    pub(crate) fn passed(&self) -> Messages {
        if self.streams {
            self.read.clone()
        } else {
            Messages::default()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame as the wire has it.
    pub(crate) fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let bit = if mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match payload.len() {
            n @ 0..126 => bytes.push(bit | u8::try_from(n).unwrap()),
            n @ 126..65_536 => {
                bytes.push(bit | 0x7e);
                bytes.extend(u16::try_from(n).unwrap().to_be_bytes());
            }
            n => {
                bytes.push(bit | 0x7f);
                bytes.extend((n as u64).to_be_bytes());
            }
        }
        let mask = mask.inspect(|mask| bytes.extend(mask)).unwrap_or([0; 4]);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(p, m)| p ^ m));
        bytes
    }

    /// Numbers that look random and are the same each time.
    pub(crate) struct Dice(u64);

    impl Dice {
        pub(crate) fn new(seed: u64) -> Self {
            Self(seed * 2 + 1)
        }

        pub(crate) fn below(&mut self, bound: usize) -> usize {
            for shift in [13_i32, -7, 17] {
                let shifted = if shift > 0 {
                    self.0 << shift
                } else {
                    self.0 >> -shift
                };
                self.0 ^= shifted;
            }
            usize::try_from(self.0 % bound as u64).unwrap()
        }
    }

    /// Messages in pieces, each of which must go in one piece; and how many messages those are.
    pub(crate) fn conversation(dice: &mut Dice, pieces: usize) -> (Vec<Vec<u8>>, u64) {
        let mask = (dice.below(2) == 0).then_some([7, 130, 9, 200]);
        let mut messages = 0;
        let control = |dice: &mut Dice| {
            let length = dice.below(126);
            frame(
                0x89 + u8::try_from(dice.below(2)).unwrap(),
                mask,
                &vec![5; length],
            )
        };
        let pieces = (0..pieces).map(|_| {
            if dice.below(4) == 0 {
                return control(dice);
            }
            messages += 1;
            let fragments = 1 + dice.below(3);
            let mut piece = Vec::new();
            for number in 1..=fragments {
                let opcode = if number == 1 { 0x2 } else { 0x0 };
                let last = if number == fragments { 0x80 } else { 0 };
                let length = [0, 1, 125, 126, 320, 5_000][dice.below(6)];
                piece.extend(frame(last | opcode, mask, &vec![0x88; length]));
                if last == 0 && dice.below(2) == 0 {
                    piece.extend(control(dice));
                }
            }
            piece
        });
        (pieces.collect(), messages)
    }

    /// The stream in splits of random lengths.
    fn splits<'a>(dice: &mut Dice, stream: &'a [u8]) -> Vec<&'a [u8]> {
        let (mut splits, mut rest) = (Vec::new(), stream);
        while !rest.is_empty() {
            let longest = [1, 3, 200, 9_000][dice.below(4)];
            let (split, behind) = rest.split_at((1 + dice.below(longest)).min(rest.len()));
            splits.push(split);
            rest = behind;
        }
        splits
    }

    /// However the bytes come: what passes ends where a message does, nothing is held that is
    /// whole, and all of it comes through in order.
    #[test]
    fn only_whole_messages_pass_however_they_come() {
        for seed in 0..300 {
            let mut dice = Dice::new(seed);
            let (pieces, messages) = conversation(&mut dice, 12);
            let mut ends = vec![0];
            for piece in &pieces {
                ends.push(ends[ends.len() - 1] + piece.len());
            }
            let stream = pieces.concat();
            let (mut whole, mut read, mut passed) = (Whole::default(), 0, 0);
            for split in splits(&mut dice, &stream) {
                let seen = whole.see(split);
                assert_eq!(seen.closed, None);
                if seen.passes > 0 {
                    passed = read + seen.passes;
                }
                read += split.len();
                let end = ends.iter().rfind(|end| **end <= read).unwrap();
                assert_eq!(passed, *end, "seed {seed}: at {read}");
                assert_eq!(whole.held(), read - passed, "seed {seed}");
                assert!(whole.is_whole());
                assert!(whole.passed().is_between());
            }
            assert_eq!((passed, whole.held()), (stream.len(), 0));
            assert_eq!(whole.messages(), messages, "seed {seed}");
        }
    }

    #[test]
    fn a_close_frame_is_held_until_it_is_whole_and_then_told() {
        let hello = frame(0x81, None, b"hello");
        for (payload, code) in [
            (&b""[..], 1005),
            (&b"\x03"[..], 1005),
            (&b"\x03\xf4"[..], 1012),
            (&b"\x03\xe8bye"[..], 1000),
        ] {
            for mask in [None, Some([1, 2, 3, 4])] {
                // Also within a message, which then never ends.
                for before in [hello.clone(), frame(0x01, None, b"half")] {
                    let close = frame(0x88, mask, payload);
                    let stream = [&before[..], &close, b"rubbish"].concat();
                    for first in 1..stream.len() {
                        let mut whole = Whole::default();
                        let seen = [&stream[..first], &stream[first..]].map(|s| whole.see(s));
                        let closed = seen.map(|seen| seen.closed);
                        let found = closed.into_iter().flatten().collect::<Vec<_>>();
                        assert_eq!(found, [code], "{payload:?} split at {first}");
                        let passed = seen[0].passes
                            + if seen[1].passes > 0 { first } else { 0 }
                            + seen[1].passes;
                        let passes = if before[0] == 0x81 { hello.len() } else { 0 };
                        assert_eq!(passed.min(hello.len()), passes, "split at {first}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_message_streams_and_the_next_one_is_whole_again() {
        let long = [
            frame(0x02, None, &vec![1; HELD_BYTES_MAX / 2]),
            frame(0x80, None, &vec![1; HELD_BYTES_MAX]),
        ];
        let mut whole = Whole::default();
        assert_eq!(whole.see(&long[0]).passes, 0);
        assert_eq!(whole.held(), long[0].len());
        // Its header says that it will be too long: no reason to wait any longer.
        assert_eq!(whole.see(&long[1][..10]).passes, 10);
        assert_eq!((whole.held(), whole.is_whole()), (0, false));
        assert!(!whole.passed().is_between());
        let next = frame(0x81, None, b"next");
        let mut rest = long[1][10..].to_vec();
        let end = rest.len();
        rest.extend(&next[..3]);
        assert_eq!(whole.see(&rest).passes, end);
        assert_eq!((whole.held(), whole.is_whole()), (3, true));
        assert_eq!(whole.see(&next[3..]).passes, next.len() - 3);
        assert_eq!(whole.messages(), 2);
    }

    #[test]
    fn what_no_worker_could_take_up_is_left_alone() {
        for stream in [
            // Compressed, a continuation of nothing, a message within a message, no WebSocket.
            frame(0xc1, None, b"deflated"),
            frame(0x80, None, b"more"),
            [frame(0x01, None, b"a"), frame(0x81, None, b"b")].concat(),
            b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        ] {
            let mut whole = Whole::default();
            let seen = whole.see(&stream);
            assert_eq!(seen.passes, stream.len(), "{stream:?}");
            assert!(!whole.is_whole(), "{stream:?}");
            assert_eq!(whole.see(b"anything").passes, 8);
        }
    }

    #[test]
    fn it_travels_in_a_handoff_within_a_frame() {
        let message = frame(0x82, Some([1, 2, 3, 4]), &[9; 300]);
        for cut in 1..message.len() {
            let mut whole = Whole::default();
            assert_eq!(whole.see(&message[..cut]).passes, 0);
            let sent = serde_json::to_vec(&whole).unwrap();
            let mut there: Whole = serde_json::from_slice(&sent).unwrap();
            assert_eq!(there, whole);
            assert_eq!(there.see(&message[cut..]).passes, message.len() - cut);
        }
    }
}
