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
    /// Collecting a close code.
    Code { mask: [u8; 2], first: Option<u8> },
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

impl Observer {
    /// Whole frame headers seen.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Looks at the next bytes of the stream. Answers the close code once, when a close frame's
    /// code went by ([`NO_STATUS`] for one without).
    pub fn see(&mut self, mut bytes: &[u8]) -> Option<u16> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.step {
                Step::Done => return None,
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
                        let bare_close = header[0] & 0x0f == OPCODE_CLOSE;
                        self.step = after(header);
                        if bare_close && self.step == Step::Done {
                            return Some(NO_STATUS);
                        }
                    }
                }
                Step::Code { mask, first } => {
                    bytes = rest;
                    match *first {
                        None => *first = Some(byte ^ mask[0]),
                        Some(high) => {
                            let low = byte ^ mask[1];
                            self.step = Step::Done;
                            return Some(u16::from_be_bytes([high, low]));
                        }
                    }
                }
            }
        }
        None
    }
}

/// How long the header that begins so is.
fn wanted(header: &[u8]) -> usize {
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

/// What follows a whole header.
fn after(header: &[u8]) -> Step {
    let known = matches!(header[0] & 0x0f, 0x0..=0x2 | 0x8..=0xa);
    if !known {
        return Step::Done;
    }
    let (short, masked) = (header[1] & 0x7f, header[1] & 0x80 != 0);
    let wide = &header[2..header.len() - if masked { 4 } else { 0 }];
    let length = if wide.is_empty() {
        u64::from(short)
    } else {
        wide.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
    };
    let mask = match masked.then(|| header.last_chunk::<4>()).flatten() {
        Some([a, b, _, _]) => [*a, *b],
        None => [0, 0],
    };
    match (header[0] & 0x0f, length) {
        (OPCODE_CLOSE, 0 | 1) => Step::Done,
        (OPCODE_CLOSE, _) => Step::Code { mask, first: None },
        (_, 0) => Step::default(),
        (_, left) => Step::Payload { left },
    }
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
                }
            }
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
