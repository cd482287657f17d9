//! Steps over WebSocket frame headers to see how a call ends.
//!
//! Bytes are relayed whatever this says: it only looks at the 2 to 14 bytes of each header, and at
//! the two bytes of a close code. It never buffers and never fails; a stream that is no WebSocket
//! is noticed by its opcode and then left alone.

use serde::{Deserialize, Serialize};

/// Close frame without a code, as RFC 6455 §7.1.5 names it.
pub const NO_STATUS: u16 = 1005;

const HEADER_BYTES_MAX: usize = 14;
const OPCODE_CLOSE: u8 = 0x8;

/// One direction of one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observer {
    step: Step,
    frames: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    /// Collecting a header.
    Header {
        have: u8,
        bytes: [u8; HEADER_BYTES_MAX],
    },
    /// Skipping payload.
    Payload { left: u64 },
    /// Collecting a close code; `left` bytes of a reason follow it.
    Code {
        mask: [u8; 2],
        first: Option<u8>,
        #[serde(default)]
        left: u8,
    },
    /// Skipping the reason of a close frame.
    Reason { left: u8 },
    /// A close frame went by, or this is no WebSocket: nothing more to see.
    Done,
}

/// Kinds of steps in [`Observer::to_words`]; a header is zero.
const PAYLOAD: u8 = 1;
const CODE: u8 = 2;
const REASON: u8 = 3;
const DONE: u8 = 4;

fn words(packed: [u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(packed);
    let [low, high] = [both, both >> 64].map(|half| half & u128::from(u64::MAX));
    [low, high].map(|half| u64::try_from(half).expect("masked"))
}

impl Default for Step {
    fn default() -> Self {
        Self::Header {
            have: 0,
            bytes: [0; HEADER_BYTES_MAX],
        }
    }
}

impl Observer {
    /// All but the count of frames, in two words; two zeros are "between frames".
    pub(crate) fn to_words(&self) -> [u64; 2] {
        let mut packed = [0_u8; 16];
        let tail = match &self.step {
            Step::Header { have, bytes } => {
                packed[1] = *have;
                packed[2..].copy_from_slice(bytes);
                return words(packed);
            }
            Step::Payload { left } => {
                packed[0] = PAYLOAD;
                *left
            }
            Step::Code { mask, first, left } => {
                packed[..2].copy_from_slice(&[CODE, *left]);
                packed[2..4].copy_from_slice(mask);
                packed[4..6].copy_from_slice(&[u8::from(first.is_some()), first.unwrap_or(0)]);
                0
            }
            Step::Reason { left } => {
                packed[..2].copy_from_slice(&[REASON, *left]);
                0
            }
            Step::Done => {
                packed[0] = DONE;
                0
            }
        };
        let [state, _] = words(packed);
        [state, tail]
    }

    /// The reverse of [`Observer::to_words`]. What cannot be is taken for what is no WebSocket.
    pub(crate) fn from_words(packed: [u64; 2], frames: u64) -> Self {
        let [state, tail] = packed;
        let [kind, small, a, b, is_some, first, ..] = state.to_le_bytes();
        let step = match kind {
            0 => {
                let mut bytes = [0; HEADER_BYTES_MAX];
                bytes[..6].copy_from_slice(&state.to_le_bytes()[2..]);
                bytes[6..].copy_from_slice(&tail.to_le_bytes());
                let have = usize::from(small);
                if have < HEADER_BYTES_MAX && (have == 0 || have < wanted(&bytes[..have])) {
                    Step::Header { have: small, bytes }
                } else {
                    Step::Done
                }
            }
            PAYLOAD if tail > 0 => Step::Payload { left: tail },
            CODE => Step::Code {
                mask: [a, b],
                first: (is_some != 0).then_some(first),
                left: small,
            },
            REASON if small > 0 => Step::Reason { left: small },
            _ => Step::Done,
        };
        Self { step, frames }
    }

    /// [`Observer::is_done`] of packed words.
    pub(crate) fn is_done_in(packed: [u64; 2]) -> bool {
        packed[0].to_le_bytes()[0] == DONE
    }

    /// Whole frame headers seen.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Looks at the next bytes of the stream. Answers the close code once, when a close frame's
    /// code went by ([`NO_STATUS`] for one without).
    pub fn see(&mut self, bytes: &[u8]) -> Option<u16> {
        let (mut code, mut rest) = (None, bytes);
        while !rest.is_empty() && self.step != Step::Done {
            let (seen, closed) = self.see_frame(rest);
            code = code.or(closed);
            rest = &rest[seen..];
        }
        code
    }

    /// Whether all that was seen are whole frames, so that another one may follow.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.step, Step::Header { have: 0, .. })
    }

    /// Whether nothing more will be seen: a whole close frame went by, or this is no WebSocket.
    pub fn is_done(&self) -> bool {
        self.step == Step::Done
    }

    /// As [`Observer::see`], but no further than to the end of the frame that the bytes begin in
    /// or with; all of them once there are no more frames. Answers how many bytes that were, too.
    pub fn see_frame(&mut self, bytes: &[u8]) -> (usize, Option<u16>) {
        let all = bytes.len();
        let (mut bytes, mut code) = (bytes, None);
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.step {
                Step::Done => return (all, code),
                Step::Reason { left } => {
                    let skipped = usize::from(*left).min(bytes.len());
                    *left -= u8::try_from(skipped).expect("at most what was left");
                    bytes = &bytes[skipped..];
                    if *left == 0 {
                        self.step = Step::Done;
                    }
                }
                Step::Payload { left } => {
                    let skipped = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    *left -= skipped as u64;
                    bytes = &bytes[skipped..];
                    if *left == 0 {
                        self.step = Step::default();
                    }
                }
                Step::Header {
                    have,
                    bytes: header,
                } => {
                    header[usize::from(*have)] = byte;
                    *have += 1;
                    bytes = rest;
                    let header = &header[..usize::from(*have)];
                    if header.len() == wanted(header) {
                        self.frames += 1;
                        let is_close = header[0] & 0x0f == OPCODE_CLOSE;
                        self.step = after(header);
                        if is_close && !matches!(self.step, Step::Code { .. }) {
                            code = Some(NO_STATUS);
                        }
                    }
                }
                Step::Code { mask, first, left } => {
                    bytes = rest;
                    match *first {
                        None => *first = Some(byte ^ mask[0]),
                        Some(high) => {
                            code = Some(u16::from_be_bytes([high, byte ^ mask[1]]));
                            self.step = match *left {
                                0 => Step::Done,
                                left => Step::Reason { left },
                            };
                        }
                    }
                }
            }
            if self.is_between_frames() {
                break;
            }
        }
        (all - bytes.len(), code)
    }
}

/// How many frames these bytes are, if they are whole ones, and nothing but audio, text, ping and
/// pong of an everyday length. What the observer would see of them is then only their number: the
/// short way for nearly all reads of a call.
#[inline]
pub(crate) fn whole_frames(bytes: &[u8]) -> Option<u32> {
    let (mut rest, mut frames) = (bytes, 0);
    while let [first, second, ..] = *rest {
        if !matches!(first & 0x0f, 0x0..=0x2 | 0x9 | 0xa) {
            return None;
        }
        let mask = usize::from(second & 0x80 != 0) * 4;
        let length = match second & 0x7f {
            126 => 4 + usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?])),
            127 => return None,
            short => 2 + usize::from(short),
        };
        rest = rest.get(length + mask..)?;
        frames += 1;
    }
    rest.is_empty().then_some(frames)
}

/// How long the header that begins so is.
pub(crate) fn wanted(header: &[u8]) -> usize {
    let Some(second) = header.get(1) else {
        return 2;
    };
    let length = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    2 + length + mask
}

/// How long the payload behind a whole header is, and what its first two bytes are masked with.
pub(crate) fn payload(header: &[u8]) -> (u64, [u8; 2]) {
    let (short, masked) = (header[1] & 0x7f, header[1] & 0x80 != 0);
    let wide = &header[2..header.len() - if masked { 4 } else { 0 }];
    let length = if wide.is_empty() {
        u64::from(short)
    } else {
        wide.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
    };
    match header.last_chunk() {
        Some([a, b, _, _]) if masked => (length, [*a, *b]),
        _ => (length, [0, 0]),
    }
}

/// What follows a whole header.
fn after(header: &[u8]) -> Step {
    let known = matches!(header[0] & 0x0f, 0x0..=0x2 | 0x8..=0xa);
    if !known {
        return Step::Done;
    }
    let (length, mask) = payload(header);
    match (header[0] & 0x0f, length) {
        (OPCODE_CLOSE, 0) => Step::Done,
        (OPCODE_CLOSE, 1) => Step::Reason { left: 1 },
        // A longer one breaks the protocol; its end is of no interest.
        (OPCODE_CLOSE, length) => Step::Code {
            mask,
            first: None,
            left: u8::try_from(length - 2).unwrap_or(u8::MAX),
        },
        (_, 0) => Step::default(),
        (_, left) => Step::Payload { left },
    }
}

/// A close frame of ours. Towards a worker we are the client, and a client masks.
pub(crate) fn close_frame(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let length = 2 + u8::try_from(reason.len()).expect("a word or two");
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x80 | OPCODE_CLOSE, bit | length];
    let mask = mask.inspect(|mask| frame.extend(mask)).unwrap_or([0; 4]);
    let payload = code.to_be_bytes().into_iter().chain(reason.bytes());
    frame.extend(payload.zip(mask.into_iter().cycle()).map(|(p, m)| p ^ m));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let bit = if mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match payload.len() {
            n @ 0..126 => bytes.push(bit | u8::try_from(n).unwrap()),
            n @ 126..65_536 => {
                bytes.push(bit + 126);
                bytes.extend(u16::try_from(n).unwrap().to_be_bytes());
            }
            n => {
                bytes.push(bit + 127);
                bytes.extend((n as u64).to_be_bytes());
            }
        }
        let mask = mask.inspect(|mask| bytes.extend(mask)).unwrap_or([0; 4]);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(p, m)| p ^ m));
        bytes
    }

    #[test]
    fn every_split_of_a_stream_shows_the_same() {
        let masks = [None, Some([7, 130, 9, 200])];
        for mask in masks {
            for (close, code) in [
                (&b""[..], 1005),
                (&[0x03, 0xe8][..], 1000),
                (&[0x03, 0xf4, b'b', b'y', b'e'][..], 1012),
            ] {
                let mut stream = Vec::new();
                for length in [0, 1, 125, 126, 200, 70_000] {
                    stream.extend(frame(2, mask, &vec![0x88; length]));
                }
                stream.extend(frame(8, mask, close));
                stream.extend(b"trailing rubbish");
                for chunk in [1, 2, 3, 7, 128, 4_096, stream.len()] {
                    let mut observer = Observer::default();
                    let codes: Vec<u16> = stream
                        .chunks(chunk)
                        .filter_map(|c| observer.see(c))
                        .collect();
                    assert_eq!(codes, [code], "chunks of {chunk}");
                    assert_eq!(observer.frames(), 7);
                    let mut packed = Observer::default();
                    let codes: Vec<u16> = stream
                        .chunks(chunk)
                        .filter_map(|c| {
                            packed = Observer::from_words(packed.to_words(), packed.frames());
                            packed.see(c)
                        })
                        .collect();
                    assert_eq!((codes, &packed), (vec![code], &observer), "in words");
                    assert!(Observer::is_done_in(packed.to_words()));
                }
            }
        }
    }

    #[test]
    fn frames_end_where_they_end_however_they_come() {
        let mut stream = Vec::new();
        let mut ends = Vec::new();
        for length in [0, 1, 125, 126, 70_000] {
            stream.extend(frame(2, Some([1, 2, 3, 4]), &vec![0x88; length]));
            ends.push(stream.len());
        }
        stream.extend(frame(8, None, b"\x03\xe9retired"));
        for chunk in [1, 3, 128, 4_096, stream.len()] {
            let mut observer = Observer::default();
            let (mut at, mut seen) = (0, Vec::new());
            for mut bytes in stream.chunks(chunk) {
                while !bytes.is_empty() {
                    let (taken, _) = observer.see_frame(bytes);
                    (at, bytes) = (at + taken, &bytes[taken..]);
                    if observer.is_between_frames() {
                        seen.push(at);
                    }
                }
            }
            assert_eq!(seen, ends, "chunks of {chunk}");
            assert!(observer.is_done());
            let mut cut = Observer::default();
            assert_eq!(cut.see(&stream[..stream.len() - 1]), Some(1001));
            assert!(!cut.is_done(), "the reason is not whole");
        }
    }

    #[test]
    fn the_short_way_sees_what_the_observer_sees() {
        let mask = Some([1, 2, 3, 4]);
        let audio = frame(2, mask, &[7; 160]);
        let short = [frame(9, None, b"?"), audio.clone(), frame(1, mask, b"")].concat();
        let long = frame(2, None, &vec![7; 70_000]);
        let close = frame(8, None, b"\x03\xe8");
        for (bytes, frames) in [
            (&short[..], Some(3)),
            (&audio[..], Some(1)),
            (&audio[..audio.len() - 1], None),
            (&audio[1..], None),
            (&audio[..1], None),
            (&long[..], None),
            (&close[..], None),
            (&[0x83, 0][..], None),
        ] {
            assert_eq!(whole_frames(bytes), frames);
            if let Some(frames) = frames {
                let mut observer = Observer::default();
                assert_eq!(observer.see(bytes), None);
                assert!(observer.is_between_frames());
                assert_eq!(observer.to_words(), [0, 0]);
                assert_eq!(observer.frames(), u64::from(frames));
            }
        }
    }

    #[test]
    fn our_close_frame_says_what_it_should_to_either_side() {
        for mask in [None, Some([7, 130, 9, 200])] {
            let bytes = close_frame(1001, "retired", mask);
            let mut observer = Observer::default();
            assert_eq!(observer.see(&bytes), Some(1001));
            assert!(observer.is_done());
            assert_eq!(bytes, frame(8, mask, b"\x03\xe9retired"));
        }
    }

    #[test]
    fn what_is_no_websocket_is_left_alone() {
        let mut observer = Observer::default();
        assert_eq!(observer.see(b"GET / HTTP/1.1\r\n\x88\x02\x03\xe8"), None);
        let endless = [
            0x82, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ];
        assert_eq!(Observer::default().see(&endless), None);
    }
}
