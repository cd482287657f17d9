//! The one place where the controller reads the time.
//!
//! Leases are judged by it, so it never stands still or goes back: set back by an administrator it
//! goes on from where it was, and set forward it follows. What is off after a step back is right
//! again after the next start.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use segue_core::time::{Millis, Timestamp};

/// A time of day, and when it was read.
static BASE: Mutex<Option<(Timestamp, Instant)>> = Mutex::new(None);

/// Now. A clock before 1970 reads as zero.
pub(crate) fn now() -> Timestamp {
    let passed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let wall = Timestamp(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX));
    let mut base = BASE.lock().unwrap_or_else(PoisonError::into_inner);
    advance(&mut base, wall, Instant::now())
}

fn advance(base: &mut Option<(Timestamp, Instant)>, wall: Timestamp, at: Instant) -> Timestamp {
    let steady = base.map(|(from, since)| {
        let passed = at.saturating_duration_since(since).as_millis();
        from + Millis(u64::try_from(passed).unwrap_or(u64::MAX))
    });
    match steady {
        Some(steady) if steady >= wall => steady,
        _ => {
            *base = Some((wall, at));
            wall
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_time() {
        let (mut base, start) = (None, Instant::now());
        let mut at = |wall, passed| {
            let at = start + Duration::from_millis(passed);
            advance(&mut base, Timestamp(wall), at).0
        };
        assert_eq!(at(10_000, 0), 10_000);
        assert_eq!(at(10_100, 100), 10_100);
        assert_eq!(at(5_000, 200), 10_200, "set back");
        assert_eq!(at(5_100, 300), 10_300);
        assert_eq!(at(60_000, 400), 60_000, "set forward");
        assert_eq!(at(60_100, 500), 60_100);
    }
}
