//! Log lines that strangers can cause: a few of them, and then how many more there were.
//!
//! Whoever can make us write a line for each connection can fill the disk, and bury what else is
//! said.

use std::sync::{Mutex, PoisonError};

use segue_core::time::Timestamp;

/// Lines of one kind in one [`WINDOW_MS`]: enough to see who it is.
const LINES_MAX: u32 = 10;

/// How long a count holds, in milliseconds.
const WINDOW_MS: u64 = 10_000;

/// Counts lines of one kind.
#[derive(Debug)]
pub(crate) struct Quiet(Mutex<Window>);

#[derive(Debug)]
struct Window {
    start: Timestamp,
    said: u32,
    unsaid: u64,
}

impl Quiet {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Window {
            start: Timestamp(0),
            said: 0,
            unsaid: 0,
        }))
    }

    /// Whether the line may be written; if so, how many were not since the last one that was.
    pub(crate) fn may_say(&self, now: Timestamp) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0.saturating_sub(window.start.0) >= WINDOW_MS {
            window.start = now;
            window.said = 0;
        }
        if window.said == LINES_MAX {
            window.unsaid += 1;
            return None;
        }
        window.said += 1;
        Some(std::mem::take(&mut window.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_are_said_and_the_rest_is_counted() {
        let quiet = Quiet::new();
        let at = |ms| quiet.may_say(Timestamp(1_000_000 + ms));
        let said = (0..100).filter(|ms| at(*ms).is_some()).count();
        assert_eq!(said, 10);
        assert_eq!(at(WINDOW_MS - 1), None);
        assert_eq!(at(WINDOW_MS), Some(91));
        assert_eq!(at(WINDOW_MS + 1), Some(0));
    }
}
