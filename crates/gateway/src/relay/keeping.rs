//! What a shard has yet to tell the keeper.
//!
//! Telling is batched and never waited for: a call goes on whether it is held or not. A call that
//! ends before the keeper heard of it is never mentioned, and what only calls need that last is done
//! when they are told of.

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
pub(super) const DELAY: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Default)]
pub(super) struct Keeping {
    keep: Option<Arc<dyn Keep>>,
    /// Keys of calls that are to be seasoned and held, and since when they are.
    holds: VecDeque<(Instant, u64)>,
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

    /// A call came, or has been there since then.
    pub(super) fn hold(&mut self, key: u64, since: Instant) {
        self.holds.push_back((since, key));
        self.due.get_or_insert(since + DELAY);
    }

    pub(super) fn release(&mut self, call: (u32, u32)) {
        if self.keep.is_some() {
            self.releases.push(call);
            let now = Instant::now();
            let due = self.due.get_or_insert(now + DELAY);
            if self.releases.len().is_multiple_of(BATCH) {
                *due = now.min(*due);
            }
        }
    }

    /// Tells what is due. `find` is the call of a key, if it is still there.
    pub(super) fn tell<'a>(&mut self, find: &dyn Fn(u64) -> Option<&'a Running>) {
        let now = Instant::now();
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        self.due = None;
        let keep = self.keep.clone();
        // First, so that the keeper has room.
        while let Some(keep) = &keep
            && !self.releases.is_empty()
        {
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
        // With those that are nearly as old, but none that perhaps ends at once.
        while let Some((since, _)) = self.holds.front()
            && *since + DELAY / 2 <= now
        {
            let old = self.holds.iter().take(BATCH);
            let batch = old
                .take_while(|(since, _)| *since + DELAY / 2 <= now)
                .count();
            match self.hold_batch(keep.as_deref(), batch, find) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.due = Some(now + DELAY);
                    return;
                }
                Ok(()) => drop(self.holds.drain(..batch)),
                Err(error) => {
                    tracing::debug!(%error, "calls are not held until a keeper is back");
                    self.holds.drain(..batch);
                }
            }
        }
        // What holding all calls took is given back.
        self.holds.shrink_to(self.holds.len().max(BATCH * 4));
        let next = self.holds.front().map(|(since, _)| *since + DELAY);
        self.due = next;
    }

    fn hold_batch<'a>(
        &self,
        keep: Option<&dyn Keep>,
        batch: usize,
        find: &dyn Fn(u64) -> Option<&'a Running>,
    ) -> io::Result<()> {
        let keys = self.holds.iter().take(batch);
        let calls: Vec<&Running> = keys.filter_map(|(_, key)| find(*key)).collect();
        for call in &calls {
            call.season();
        }
        let Some(keep) = keep else {
            return Ok(());
        };
        let is_kept = |call: &&Running| !call.is_held() && call.to_hold().is_some();
        let calls: Vec<&Running> = calls.into_iter().filter(is_kept).collect();
        let held: Vec<Held<'_>> = calls.iter().filter_map(|call| call.to_hold()).collect();
        if held.is_empty() {
            return Ok(());
        }
        for call in &calls {
            call.set_shared();
        }
        keep.hold(&held)?;
        for call in calls {
            call.set_held();
        }
        Ok(())
    }
}
