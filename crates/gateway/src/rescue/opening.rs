//! What a caller said first, and what it said last that its worker never had.
//!
//! The first messages are what makes a conversation one: who calls, in which format. They are
//! recorded as they go to the worker and told again to another one. Nothing is told twice and
//! nothing by half: a message that the dead worker had in part is told again whole if it is one of
//! the first, and else not at all.

use serde::{Deserialize, Serialize};

use crate::relay::whole::{Frame, Messages};

/// Longest record of one call. Carriers open with less than a kilobyte.
pub(crate) const OPENING_BYTES_MAX: usize = 64 * 1024;

/// The first messages of a caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Opening {
    messages_max: u64,
    messages: u64,
    /// Frames as the caller sent them, masks included, without the control frames between them.
    #[serde(with = "crate::handoff::bytes")]
    bytes: Vec<u8>,
    too_long: bool,
}

impl Opening {
    pub(crate) fn new(messages_max: u32) -> Self {
        Self {
            messages_max: messages_max.into(),
            messages: 0,
            bytes: Vec::new(),
            too_long: false,
        }
    }

    /// Whether more is to be recorded.
    pub(crate) fn is_open(&self) -> bool {
        !self.too_long && self.messages < self.messages_max
    }

    /// Whether it cannot be told again.
    pub(crate) fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// What is told again.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Looks at whole messages that go to the worker. True: with this it became too long.
    pub(crate) fn record(&mut self, passed: &[u8]) -> bool {
        let (mut messages, mut rest) = (Messages::default(), passed);
        while self.is_open() && !rest.is_empty() {
            let (taken, frame) = messages.step(rest);
            if let Some(Frame::Data { last }) = frame {
                if self.bytes.len() + taken > OPENING_BYTES_MAX {
                    self.give_up();
                    return true;
                }
                self.bytes.extend_from_slice(&rest[..taken]);
                self.messages += u64::from(last);
            }
            rest = &rest[taken..];
        }
        if !self.is_open() {
            self.bytes.shrink_to_fit();
        }
        false
    }

    /// A message came by that is not whole, or too long.
    pub(crate) fn give_up(&mut self) {
        self.too_long = true;
        self.bytes = Vec::new();
    }

    /// What of the bytes that wait for a dead worker goes to another one, behind this opening.
    /// `written` is where the bytes that went out ended; `passed` counts the messages up to the end
    /// of those that wait.
    pub(crate) fn unsent<'a>(
        &self,
        written: &Messages,
        waiting: &'a [u8],
        passed: u64,
    ) -> Vec<&'a [u8]> {
        let pieces = pieces(written.clone(), waiting);
        let told: u64 = pieces.iter().map(|piece| u64::from(piece.is_message)).sum();
        let mut number = passed - told;
        let mut unsent = Vec::new();
        for piece in pieces {
            number += u64::from(piece.is_message);
            // A ping between the fragments of what is told again is not worth its own rule.
            let again = piece.is_message && number <= self.messages;
            if piece.is_whole && !again {
                unsent.push(piece.bytes);
            }
        }
        unsent
    }
}

/// What must go in one piece: a message with the control frames in it, or a control frame.
struct Piece<'a> {
    bytes: &'a [u8],
    is_message: bool,
    /// Whether its beginning is here, too.
    is_whole: bool,
}

fn pieces(mut at: Messages, waiting: &[u8]) -> Vec<Piece<'_>> {
    let (mut pieces, mut rest) = (Vec::new(), waiting);
    while !rest.is_empty() {
        let is_whole = at.is_between();
        let (mut length, mut is_message) = (0, false);
        while length < rest.len() {
            let (taken, frame) = at.step(&rest[length..]);
            length += taken;
            is_message |= matches!(frame, Some(Frame::Data { last: true }));
            if at.is_between() {
                break;
            }
        }
        let (bytes, behind) = rest.split_at(length);
        rest = behind;
        pieces.push(Piece {
            bytes,
            is_message,
            is_whole,
        });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::whole::tests::{Dice, conversation, frame};

    const MASK: Option<[u8; 4]> = Some([7, 130, 9, 200]);

    #[test]
    fn the_first_messages_are_recorded_without_what_is_between_them() {
        let first = [frame(0x01, MASK, b"con"), frame(0x80, MASK, b"nected")];
        let (ping, second) = (frame(0x89, MASK, b"p"), frame(0x81, MASK, b"start"));
        let third = frame(0x82, MASK, b"audio");
        let mut opening = Opening::new(2);
        // A piece at a time, as they pass.
        let one = [&first[0][..], &ping, &first[1]].concat();
        assert!(!opening.record(&one));
        assert!(opening.is_open());
        assert!(!opening.record(&[&ping[..], &second, &third].concat()));
        assert!(!opening.is_open());
        assert!(!opening.record(&third));
        assert_eq!(opening.bytes(), [first.concat(), second].concat());
        assert_eq!(opening.messages, 2);
        assert!(!Opening::new(0).is_open());
    }

    #[test]
    fn one_that_is_too_long_is_not_kept() {
        let message = frame(0x82, MASK, &vec![1; OPENING_BYTES_MAX / 3]);
        let mut opening = Opening::new(8);
        assert!(!opening.record(&message));
        assert!(!opening.record(&message));
        assert!(opening.record(&message), "it is said once");
        assert!(!opening.record(&message));
        assert!(opening.is_too_long() && opening.bytes().is_empty() && !opening.is_open());
    }

    /// Wherever the worker dies: what it had whole is gone, but for the opening; the rest comes
    /// once, in order, and nothing of it by half.
    #[test]
    fn nothing_is_told_twice_or_by_half_wherever_the_worker_dies() {
        for seed in 0..60 {
            let mut dice = Dice::new(seed);
            let (pieces, _) = conversation(&mut dice, 6);
            let stream = pieces.concat();
            let mut opening = Opening::new(2);
            assert!(!opening.record(&stream));
            let (mut ends, mut numbers, mut total) = (vec![0], Vec::new(), 0);
            for piece in &pieces {
                ends.push(ends[ends.len() - 1] + piece.len());
                let is_message = piece[0] & 0x0f < 0x8;
                total += u64::from(is_message);
                numbers.push((is_message, total));
            }
            let step = if stream.len() > 2_000 { 61 } else { 1 };
            for cut in (0..=stream.len()).step_by(step) {
                let mut written = Messages::default();
                written.skip(&stream[..cut]);
                let expected: Vec<&[u8]> = (0..pieces.len())
                    .filter(|at| ends[*at] >= cut)
                    .filter(|at| !(numbers[*at].0 && numbers[*at].1 <= opening.messages))
                    .map(|at| &pieces[at][..])
                    .collect();
                let unsent = opening.unsent(&written, &stream[cut..], total);
                assert_eq!(
                    unsent.concat(),
                    expected.concat(),
                    "seed {seed}: cut at {cut}"
                );
            }
        }
    }
}
