//! How often one may ask: a bucket of requests per token, and per address for those without one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::config::Rate;

/// Buckets kept at once: of every token there may be, and as many addresses again.
const BUCKETS_MAX: usize = 4_096;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asker {
    /// Those with this token.
    Token(String),
    /// Those without a good one, from this address.
    Peer(IpAddr),
}

/// Every bucket.
#[derive(Debug)]
pub(super) struct Buckets {
    rate: Rate,
    buckets: Mutex<BTreeMap<Asker, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Buckets {
    pub(super) fn new(rate: Rate) -> Self {
        let buckets = Mutex::default();
        Self { rate, buckets }
    }

    /// Takes one request out of a bucket; or says how long to wait until there is one.
    pub(super) fn take(&self, asker: Asker, now: Instant) -> Result<(), Duration> {
        let (burst, rate) = (f64::from(self.rate.burst), f64::from(self.rate.per_second));
        let filled = |bucket: &Bucket| {
            let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
            (bucket.left + passed * rate).min(burst)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&asker) {
            // A full one holds nothing that is worth knowing.
            buckets.retain(|_, bucket| filled(bucket) < burst);
            if buckets.len() >= BUCKETS_MAX {
                buckets.pop_first();
            }
        }
        let full = Bucket {
            left: burst,
            at: now,
        };
        let bucket = buckets.entry(asker).or_insert(full);
        let left = filled(bucket);
        if left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - left) / rate));
        }
        *bucket = Bucket {
            left: left - 1.0,
            at: now,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_each_on_its_own() {
        let buckets = Buckets::new(Rate::per_second(10));
        let start = Instant::now();
        let token = |name: &str| Asker::Token(name.to_owned());
        for _ in 0..20 {
            buckets.take(token("a"), start).unwrap();
        }
        let wait = buckets.take(token("a"), start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        buckets.take(token("b"), start).unwrap();
        buckets
            .take(Asker::Peer([127, 0, 0, 1].into()), start)
            .unwrap();
        let later = start + Duration::from_millis(150);
        buckets.take(token("a"), later).unwrap();
        buckets.take(token("a"), later).unwrap_err();
    }

    #[test]
    fn there_are_never_too_many() {
        let buckets = Buckets::new(Rate::per_second(1));
        let start = Instant::now();
        for n in 0..10_000_u32 {
            buckets
                .take(Asker::Peer(IpAddr::V4(n.into())), start)
                .unwrap();
        }
        assert!(buckets.buckets.lock().unwrap().len() <= BUCKETS_MAX);
    }
}
