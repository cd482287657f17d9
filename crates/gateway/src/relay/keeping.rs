//! What a shard has yet to tell the keeper.
//!
//! Telling is batched and never waited for: a call goes on whether it is held or not. A call that
//! ends before the keeper heard of it is never mentioned.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::running::Running;
use super::{Held, Keep};

/// Calls in one message: two descriptors each, and the kernel takes at most 253.
pub(super) const BATCH: usize = 64;

/// How long news for the keeper may wait for more of it; and for room in its socket. For so long a
/// new call would be lost with its gateway.
const DELAY: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Default)]
pub(super) struct Keeping {
    keep: Option<Arc<dyn Keep>>,
    /// Keys of calls that are to be held.
    holds: VecDeque<u64>,
    /// Slot and generation of calls that were held and have ended.
    releases: Vec<(u32, u32)>,
    due: Option<Instant>,
}

impl Keeping {
    pub(super) fn keep_with(&mut self, keep: Arc<dyn Keep>) {
        self.keep = Some(keep);
    }

    /// Forgets which calls were to be held. What has ended is told all the same: the keeper may
    /// have been told to hold it, and lets nothing go by itself.
    pub(super) fn forget_holds(&mut self) {
        self.holds.clear();
    }

    /// When something is to be told. `None`: nothing is.
    #[inline]
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn hold(&mut self, key: u64) {
        if self.keep.is_some() {
            self.holds.push_back(key);
            self.wake();
        }
    }

    pub(super) fn release(&mut self, call: (u32, u32)) {
        if self.keep.is_some() {
            self.releases.push(call);
            self.wake();
        }
    }

    fn wake(&mut self) {
        let waiting = self.holds.len().max(self.releases.len());
        let now = Instant::now();
        let due = *self.due.get_or_insert(now + DELAY);
        if waiting.is_multiple_of(BATCH) && due > now {
            self.due = Some(now);
        }
    }

    /// Tells what is due. `find` is the call of a key, if it is still there.
    pub(super) fn tell<'a>(&mut self, find: &dyn Fn(u64) -> Option<&'a Running>) {
        let now = Instant::now();
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        self.due = None;
        let Some(keep) = self.keep.clone() else {
            return;
        };
        // First, so that the keeper has room.
        while !self.releases.is_empty() {
            let batch = self.releases.len().min(BATCH);
            match keep.release(&self.releases[..batch]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.due = Some(now + DELAY);
                    return;
                }
                // A keeper that is gone holds nothing.
                Ok(()) | Err(_) => drop(self.releases.drain(..batch)),
            }
        }
        while !self.holds.is_empty() {
            let batch = self.holds.len().min(BATCH);
            match self.hold_batch(&*keep, batch, find) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.due = Some(now + DELAY);
                    return;
                }
                Ok(()) => drop(self.holds.drain(..batch)),
                Err(error) => {
                    tracing::debug!(%error, "calls are not held until a keeper is back");
                    self.holds.clear();
                }
            }
        }
    }

    fn hold_batch<'a>(
        &self,
        keep: &dyn Keep,
        batch: usize,
        find: &dyn Fn(u64) -> Option<&'a Running>,
    ) -> io::Result<()> {
        let keys = self.holds.iter().take(batch);
        let calls: Vec<&Running> = keys.filter_map(|key| find(*key)).collect();
        let held: Vec<Held<'_>> = calls.iter().filter_map(|call| call.to_hold()).collect();
        if held.is_empty() {
            return Ok(());
        }
        keep.hold(&held)?;
        for call in calls {
            call.held.set(true);
        }
        Ok(())
    }
}
