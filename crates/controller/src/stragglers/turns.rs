//! When whose turn is: at a moment of its own, and never too many at once.

use std::collections::VecDeque;
use std::time::Duration;

use segue_core::names::CallId;
use segue_core::spec::Stragglers;
use segue_core::time::{Millis, Timestamp};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// What the rate is counted over.
const WINDOW: Duration = Duration::from_secs(1);

/// A call's place within a jitter: the same in every controller, and unlike its neighbours'.
pub(crate) fn offset(id: &str, jitter: Millis) -> Millis {
    let digest = Sha256::digest(id);
    let mut number = [0; 8];
    number.copy_from_slice(&digest[..8]);
    let place = u64::from_be_bytes(number).checked_rem(jitter.0);
    Millis(place.unwrap_or(0))
}

/// When a call's turn comes.
pub(super) fn turn(call: &CallId, since: Timestamp, stragglers: &Stragglers) -> Timestamp {
    since + offset(call.as_str(), stragglers.jitter)
}

/// Lets at most so many through in any second.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    last: VecDeque<Instant>,
}

impl Limiter {
    /// How many more may go now.
    pub(super) fn free(&mut self, now: Instant, per_second: u32) -> usize {
        while self
            .last
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) >= WINDOW)
        {
            self.last.pop_front();
        }
        let per_second = usize::try_from(per_second.max(1)).unwrap_or(usize::MAX);
        per_second.saturating_sub(self.last.len())
    }

    /// So many went now.
    pub(super) fn went(&mut self, now: Instant, count: usize) {
        self.last.extend(std::iter::repeat_n(now, count));
    }

    /// Whether one more may go now; if so, it counts.
    pub(super) fn take(&mut self, now: Instant, per_second: u32) -> bool {
        let free = self.free(now, per_second) > 0;
        if free {
            self.went(now, 1);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use segue_core::spec::StragglerPolicy;

    use super::*;

    #[test]
    fn turns_are_spread_over_the_jitter_and_always_the_same() {
        let stragglers = Stragglers {
            policy: StragglerPolicy::Announce,
            ceiling: None,
            jitter: Millis(1_000),
            per_second: 1,
        };
        let since = Timestamp(5_000);
        let turns: Vec<u64> = (0..1_000)
            .map(|number| format!("CA{number}").parse().unwrap())
            .map(|call| turn(&call, since, &stragglers).0)
            .collect();
        assert!(turns.iter().all(|turn| (5_000..6_000).contains(turn)));
        // Of a thousand at random, a tenth of the time gets 100, give or take far less than 60.
        for tenth in 0..10 {
            let from = 5_000 + tenth * 100;
            let count = turns
                .iter()
                .filter(|turn| (from..from + 100).contains(*turn));
            let count = count.count();
            assert!((40..160).contains(&count), "{count} from {from}");
        }
        // Pinned: a controller of another version must come to the same.
        assert_eq!(offset("CA1", Millis(30_000)), Millis(16_995));
        assert_eq!(offset("CA1", Millis(0)), Millis(0));
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_the_rate() {
        let mut limiter = Limiter::default();
        let mut went = Vec::new();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if limiter.take(Instant::now(), 5) {
                went.push(Instant::now());
            }
            tokio::time::advance(Duration::from_millis(7)).await;
        }
        for (from, first) in went.iter().enumerate() {
            let second = went[from..].iter();
            let within = second
                .filter(|at| at.duration_since(*first) < WINDOW)
                .count();
            assert!(within <= 5, "{within} within a second");
        }
        assert!(went.len() >= 45, "and it is used: {}", went.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_rate_counts_at_once() {
        let mut limiter = Limiter::default();
        let now = Instant::now();
        limiter.went(now, 3);
        assert_eq!(limiter.free(now, 5), 2);
        assert_eq!(limiter.free(now, 2), 0, "fewer than went already");
        assert_eq!(limiter.free(now, 50), 47);
        assert_eq!(limiter.free(now + WINDOW, 2), 2);
    }
}
