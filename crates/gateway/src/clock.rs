//! The one place where this crate reads the time of day.
//!
//! Pins and call records need wall-clock time, because they travel to other processes; but a
//! clock that is set back must not stretch a pin. So the wall clock is read once, at first use,
//! and the monotonic clock is added to it.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use segue_core::time::Timestamp;

/// Now, in milliseconds since the Unix epoch; never goes backwards within a process.
pub fn now() -> Timestamp {
    static START: OnceLock<(u64, Instant)> = OnceLock::new();
    let (wall_ms, start) = START.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        (wall.map_or(0, millis), Instant::now())
    });
    Timestamp(wall_ms.saturating_add(millis(start.elapsed())))
}

fn millis(length: std::time::Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
