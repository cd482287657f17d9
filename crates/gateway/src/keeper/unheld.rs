//! Calls for which the keeper had no descriptors. They are offered again: others end, and wards that
//! were taken over go.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::wire::CallKey;

/// Wait before calls are offered again, and the longest.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Unheld {
    /// Slot and generation.
    calls: HashSet<(u32, u32)>,
    due: Option<Instant>,
    /// When they were offered again last, and how long that was waited for.
    tried: Option<(Instant, Duration)>,
}

impl Unheld {
    pub(super) fn add(&mut self, calls: Vec<CallKey>, now: Instant) {
        if calls.is_empty() {
            return;
        }
        if self.due.is_none() {
            let wait = match self.tried {
                // In vain.
                Some((at, waited)) if now.saturating_duration_since(at) < waited => {
                    (2 * waited).min(AGAIN_AFTER.1)
                }
                _ => {
                    tracing::warn!(
                        "the keeper has no descriptors left: some calls would end with this \
                         process, until others have ended"
                    );
                    AGAIN_AFTER.0
                }
            };
            self.due = Some(now + wait);
            self.tried = Some((now + wait, wait));
        }
        let keys = calls.into_iter().map(|call| (call.slot, call.generation));
        self.calls.extend(keys);
    }

    /// When they are to be offered again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Those that are to be offered again now.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<HashSet<(u32, u32)>> {
        self.due.take_if(|due| *due <= now)?;
        Some(std::mem::take(&mut self.calls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_offered_again_less_and_less_often() {
        let call = |slot| CallKey {
            slot,
            generation: 1,
        };
        let mut unheld = Unheld::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..12 {
            unheld.add(vec![call(1), call(2)], now);
            unheld.add(vec![call(2)], now);
            let due = unheld.due().unwrap();
            assert_eq!(unheld.take_due(now), None);
            waits.push(due - now);
            now = due;
            assert_eq!(unheld.take_due(now), Some([(1, 1), (2, 1)].into()));
            assert_eq!(unheld.due(), None);
            now += Duration::from_millis(15);
        }
        assert_eq!(waits[..3], [1, 2, 4].map(|times| times * AGAIN_AFTER.0));
        assert_eq!(waits[11], AGAIN_AFTER.1);
        // There was room; this is another shortage.
        now += 2 * AGAIN_AFTER.1;
        unheld.add(vec![call(3)], now);
        assert_eq!(unheld.due(), Some(now + AGAIN_AFTER.0));
    }
}
