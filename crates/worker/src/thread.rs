//! Threads of our own, which end with the pool, and the clock they go by.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use segue_core::time::{Millis, Timestamp};

/// Starts a thread that nobody waits for.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map(drop)
}

/// What is behind the lock. What a panic of a listener left is whole: no lock is held while others'
/// code runs.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wall-clock time that no adjustment moves: a ceiling must not come early.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    began: Instant,
    at: Timestamp,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let at = since.map_or(0, |since| since.as_millis());
        Self {
            began: Instant::now(),
            at: Timestamp(u64::try_from(at).unwrap_or(u64::MAX)),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.at + self.uptime()
    }

    pub(crate) fn uptime(&self) -> Millis {
        let passed = self.began.elapsed().as_millis();
        Millis(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}
