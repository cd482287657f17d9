//! The one place where the controller reads the time.
//!
//! Leases are judged by it, so it never stands still or goes back: set back by an administrator it
//! goes on from where it was, and set forward it follows. What is off after a step back is right
//! again after the next start.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use segue_core::time::{Millis, Timestamp};

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

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

/// A moment as RFC 3339 says it, in UTC: `2026-01-31T09:05:00.250Z`.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let (day, ms) = (at.0 / DAY_MS, at.0 % DAY_MS);
    let (year, month, day) = civil(day);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    let ms = ms % 1_000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`). Years are
/// counted from March, so that the leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next, month, date)
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
    fn moments_are_written_as_rfc_3339_says() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_826_154_007, "2000-02-29T12:09:14.007Z"),
            (1_769_850_300_250, "2026-01-31T09:05:00.250Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(ms)), text);
        }
    }

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
