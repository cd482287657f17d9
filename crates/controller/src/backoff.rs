//! Pauses between tries: each twice as long as the one before, and never quite the same.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

/// Pauses that grow up to a longest one.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// The next pause, half of it at random: what failed for many at once is not tried again by
    /// all of them at once.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        whole.mul_f64(0.5 + fraction() / 2.0)
    }
}

/// A number from 0 to 1 that nobody relies on: each `RandomState` is seeded anew.
fn fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    let small = u32::try_from(bits >> 32).unwrap_or(u32::MAX);
    f64::from(small) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for whole in [100, 200, 350, 350] {
            let pause = backoff.pause();
            let whole = Duration::from_millis(whole);
            assert!(
                pause >= whole / 2 && pause <= whole,
                "{pause:?} of {whole:?}"
            );
        }
    }
}
