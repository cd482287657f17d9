//! What changes about a call while it flows, as it travels behind the rest of it.
//!
//! All of it lies in the slot, so it goes as it lies there: a hundred bytes for a call, written and
//! read without a thought, because every call stands still meanwhile. The kernel's counts come
//! along, since they are of the sockets and not of a process.

use crate::ledger::{By, Closed};
use crate::relay::Side;

use super::Slot;
use super::facts::{self, Status};
use super::flow::{FLOW_WORDS, FlowState, small};
use super::layout::EXTENT_BYTES;

/// The last word of a flow says where its bytes lie in this memory, and does not travel.
const WORDS: usize = FLOW_WORDS - 1;

/// Bytes ahead of what waits.
const FIXED_BYTES: usize = 8 + 4 + 2 * 4 + 2 * WORDS * 8;

const ENDS: u8 = 1;
const COUNTED: u8 = 2;
const CODE: u8 = 4;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delta {
    /// Of the connection, where it comes from.
    pub(crate) number: u64,
    flows: [FlowState; 2],
    leftover: [Vec<u8>; 2],
    closed: Option<Closed>,
    /// Whether it is to be ended by policy.
    pub(crate) ends: bool,
    /// Whether the kernel's counts are in it.
    pub(crate) is_counted: bool,
}

impl Delta {
    /// Whether nothing but frames went by: it is to be watched for reading, and that is all.
    pub(crate) fn is_plain(&self) -> bool {
        let plain = |flow: &FlowState| {
            !flow.ended && flow.sink == crate::relay::Sink::Open && !flow.has_leftover()
        };
        !self.ends && self.closed.is_none() && self.flows.iter().all(plain)
    }

    /// Bytes read from a side so far.
    pub(crate) fn read(&self, side: Side) -> u64 {
        self.flows[side.index()].read
    }

    /// Writes it behind what is there.
    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let (by, code) = match self.closed {
            None => (0, None),
            Some(Closed { by, code }) => (number_of(by), code),
        };
        let flags = [
            (ENDS, self.ends),
            (COUNTED, self.is_counted),
            (CODE, code.is_some()),
        ];
        let flags = flags
            .into_iter()
            .fold(0, |all, (flag, is)| if is { all | flag } else { all });
        to.extend(self.number.to_le_bytes());
        to.extend([flags, by]);
        to.extend(code.unwrap_or(0).to_le_bytes());
        for leftover in &self.leftover {
            to.extend(small(leftover.len()).to_le_bytes());
        }
        for flow in &self.flows {
            for word in &flow.pack()[..WORDS] {
                to.extend(word.to_le_bytes());
            }
        }
        for leftover in &self.leftover {
            to.extend_from_slice(leftover);
        }
    }

    /// Reads one that [`Delta::write`] wrote, and takes it off the bytes. `None`: it is none.
    pub(crate) fn read_from(bytes: &mut &[u8]) -> Option<Self> {
        let (fixed, mut rest) = bytes.split_first_chunk::<FIXED_BYTES>()?;
        let (head, words) = fixed.split_at(FIXED_BYTES - 2 * WORDS * 8);
        let (number, head) = head.split_first_chunk()?;
        let (&[flags, by, a, b], head) = head.split_first_chunk()?;
        let (up, head) = head.split_first_chunk()?;
        let lengths = [
            u32::from_le_bytes(*up),
            u32::from_le_bytes(*head.first_chunk()?),
        ];
        let code = (flags & CODE != 0).then_some(u16::from_le_bytes([a, b]));
        let closed = match by {
            0 => None,
            by => Some(Closed {
                by: BYS.into_iter().find(|known| number_of(*known) == by)?,
                code,
            }),
        };
        let words = words
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word));
        let words: Vec<u64> = words.collect();
        let (mut flows, mut leftover) = ([None; 2], [Vec::new(), Vec::new()]);
        for (side, length) in Side::BOTH.into_iter().zip(lengths) {
            let length = usize::try_from(length).ok()?;
            if length > EXTENT_BYTES {
                return None;
            }
            let mut packed = [0; FLOW_WORDS];
            let from = side.index() * WORDS;
            packed[..WORDS].copy_from_slice(&words[from..from + WORDS]);
            flows[side.index()] = Some(FlowState::unpack(packed));
            let (waits, behind) = rest.split_at_checked(length)?;
            leftover[side.index()] = waits.to_vec();
            rest = behind;
        }
        *bytes = rest;
        let [Some(up), Some(down)] = flows else {
            return None;
        };
        let mut flows = [up, down];
        for (flow, leftover) in flows.iter_mut().zip(&leftover) {
            flow.end = small(leftover.len());
        }
        Some(Self {
            number: u64::from_le_bytes(*number),
            flows,
            leftover,
            closed,
            ends: flags & ENDS != 0,
            is_counted: flags & COUNTED != 0,
        })
    }
}

const BYS: [By; 4] = [By::Caller, By::Worker, By::Gateway, By::Policy];

fn number_of(by: By) -> u8 {
    match by {
        By::Caller => 1,
        By::Worker => 2,
        By::Gateway => 3,
        By::Policy => 4,
    }
}

impl Slot {
    /// What another process needs that knows the rest. Nobody may relay the call meanwhile.
    pub(crate) fn delta(&self, number: u64, ends: bool) -> Delta {
        let mut leftover = [Vec::new(), Vec::new()];
        let flows = Side::BOTH.map(|side| {
            let mut flow = self.flow(side);
            let waits = &mut leftover[side.index()];
            self.leftover(side, &flow, waits);
            (flow.start, flow.end) = (0, small(waits.len()));
            flow
        });
        Delta {
            number,
            flows,
            leftover,
            closed: Status::load(self.words()).closed,
            ends,
            is_counted: self.is_keepable(),
        }
    }

    /// Brings a slot in which nothing has happened to where the call is.
    pub(crate) fn catch_up(&self, delta: &Delta) {
        for side in Side::BOTH {
            let mut flow = delta.flows[side.index()];
            (flow.start, flow.end) = (0, 0);
            self.append(side, &mut flow, &delta.leftover[side.index()]);
            self.set_flow(side, &flow);
        }
        let read = Side::BOTH.map(|side| delta.read(side));
        facts::set_progress(self.words(), read[0].wrapping_add(read[1]));
        if let Some(closed) = delta.closed {
            self.close(closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::Observer;
    use crate::relay::Sink;

    fn delta() -> Delta {
        let mut observer = Observer::default();
        observer.see(&[0x82, 0x05, 1, 2]);
        let flow = |read, sink, ended| {
            let mut flow = FlowState::new(read, &observer, sink, ended);
            (flow.read_base, flow.written) = (u32::MAX, 77);
            flow
        };
        let (mut up, down) = (
            flow(1 << 40, Sink::Farewell, false),
            flow(9, Sink::Shut, true),
        );
        up.end = 3;
        Delta {
            number: u64::MAX - 1,
            flows: [up, down],
            leftover: [b"abc".to_vec(), Vec::new()],
            closed: Some(Closed {
                by: By::Worker,
                code: Some(1000),
            }),
            ends: true,
            is_counted: true,
        }
    }

    #[test]
    fn what_travels_arrives() {
        let plain = Delta {
            number: 3,
            flows: [FlowState::new(1, &Observer::default(), Sink::Open, false); 2],
            leftover: [Vec::new(), Vec::new()],
            closed: None,
            ends: false,
            is_counted: false,
        };
        assert!(plain.is_plain() && !delta().is_plain());
        let without_code = Delta {
            closed: Some(Closed {
                by: By::Policy,
                code: None,
            }),
            ..plain.clone()
        };
        assert!(!without_code.is_plain());
        let all = [plain, delta(), without_code];
        let mut bytes = Vec::new();
        for delta in &all {
            delta.write(&mut bytes);
        }
        let mut rest = &bytes[..];
        for delta in &all {
            assert_eq!(Delta::read_from(&mut rest).as_ref(), Some(delta));
        }
        assert_eq!(rest, b"");
        assert_eq!(Delta::read_from(&mut rest), None);
    }

    #[test]
    fn what_is_cut_or_too_long_is_none() {
        let mut bytes = Vec::new();
        delta().write(&mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(Delta::read_from(&mut &bytes[..cut]), None, "{cut} bytes");
        }
        let long = u32::try_from(EXTENT_BYTES + 1).unwrap();
        bytes[12..16].copy_from_slice(&long.to_le_bytes());
        bytes.resize(bytes.len() + 2 * EXTENT_BYTES, 0);
        assert_eq!(Delta::read_from(&mut &bytes[..]), None);
        let mut bytes = Vec::new();
        delta().write(&mut bytes);
        bytes[9] = 5;
        assert_eq!(Delta::read_from(&mut &bytes[..]), None, "nobody's end");
    }
}
