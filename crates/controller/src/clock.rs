//! The one place where the controller reads the time.

use std::time::{SystemTime, UNIX_EPOCH};

use segue_core::time::Timestamp;

/// Now. A clock before 1970 reads as zero.
pub(crate) fn now() -> Timestamp {
    let passed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
}
