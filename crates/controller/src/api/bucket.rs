//! How often one may ask: a bucket of requests per token, and per address for those without one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::config::Rate;
use crate::store::TOKENS_MAX;

/// Buckets of tokens kept at once: of every one there may be, and of workers that are given theirs.
/// Who has none cannot push one out.
const TOKENS: usize = 2 * TOKENS_MAX;
/// Buckets of strangers' addresses kept at once.
const STRANGERS: usize = 4_096;
/// How much more the workers of an agent may ask than one person: they share a token, and each of
/// 200 calls reads and writes its state at every turn, which is 130 requests a second.
const WORKERS_FOLD: u32 = 10;
/// Leading bits of an IPv6 address that are one site's: whoever has one has all that follow.
const SITE_BITS: u32 = 64;

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asker {
    /// Those with this token.
    Token(String),
    /// Those with this token, which several workers of one agent share.
    Workers(String),
    /// Those without a good one, from this address.
    Stranger(IpAddr),
}

/// Every bucket.
#[derive(Debug)]
pub(super) struct Buckets {
    rate: Rate,
    tokens: Shelf<String>,
    strangers: Shelf<IpAddr>,
}

impl Buckets {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            rate,
            tokens: Shelf::new(TOKENS),
            strangers: Shelf::new(STRANGERS),
        }
    }

    /// Takes one request out of a bucket; or says how long to wait until there is one.
    pub(super) fn take(&self, asker: Asker, now: Instant) -> Result<(), Duration> {
        match asker {
            Asker::Token(id) => self.tokens.take(id, self.rate, now),
            Asker::Workers(id) => self.tokens.take(id, self.rate.times(WORKERS_FOLD), now),
            Asker::Stranger(from) => self.strangers.take(site(from), self.rate, now),
        }
    }
}

/// The part of an address that stands for all of whoever has it.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let site = u128::from(address) & (u128::MAX << (u128::BITS - SITE_BITS));
            Ipv6Addr::from(site).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn filled(self, rate: Rate, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + passed * f64::from(rate.per_second)).min(f64::from(rate.burst))
    }
}

/// Buckets of one kind.
#[derive(Debug)]
struct Shelf<K> {
    max: usize,
    buckets: Mutex<BTreeMap<K, Bucket>>,
}

impl<K: Ord> Shelf<K> {
    fn new(max: usize) -> Self {
        let buckets = Mutex::default();
        Self { max, buckets }
    }

    fn take(&self, key: K, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= self.max && !buckets.contains_key(&key) {
            // A full one holds nothing that is worth knowing.
            buckets.retain(|_, bucket| bucket.filled(rate, now) < f64::from(rate.burst));
            if buckets.len() >= self.max {
                buckets.pop_first();
            }
        }
        let full = Bucket {
            left: f64::from(rate.burst),
            at: now,
        };
        let bucket = buckets.entry(key).or_insert(full);
        let left = bucket.filled(rate, now);
        if left < 1.0 {
            let rate = f64::from(rate.per_second);
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
            .take(Asker::Stranger([127, 0, 0, 1].into()), start)
            .unwrap();
        let later = start + Duration::from_millis(150);
        buckets.take(token("a"), later).unwrap();
        buckets.take(token("a"), later).unwrap_err();
    }

    #[test]
    fn workers_of_an_agent_have_more_and_it_is_their_own() {
        let buckets = Buckets::new(Rate::per_second(10));
        let start = Instant::now();
        let workers = |agent: &str| Asker::Workers(format!("workers:{agent}"));
        for _ in 0..200 {
            buckets.take(workers("desk"), start).unwrap();
        }
        buckets.take(workers("desk"), start).unwrap_err();
        buckets.take(workers("other"), start).unwrap();
        buckets.take(Asker::Token("ann".to_owned()), start).unwrap();
        // What 200 calls need, for long.
        let usual = Buckets::new(Rate::per_second(super::super::RATE_PER_SECOND));
        for second in 0..10 {
            let now = start + Duration::from_secs(second);
            for _ in 0..2 * 200 {
                usual.take(workers("desk"), now).unwrap();
            }
        }
    }

    #[test]
    fn strangers_are_never_too_many_and_push_no_token_out() {
        let buckets = Buckets::new(Rate::per_second(1));
        let start = Instant::now();
        let token = || Asker::Token("a".to_owned());
        for _ in 0..2 {
            buckets.take(token(), start).unwrap();
        }
        for n in 0..10_000_u32 {
            buckets
                .take(Asker::Stranger(IpAddr::V4(n.into())), start)
                .unwrap();
        }
        assert!(buckets.strangers.buckets.lock().unwrap().len() <= STRANGERS);
        buckets.take(token(), start).unwrap_err();
    }

    #[test]
    fn addresses_of_one_site_are_one_stranger() {
        let buckets = Buckets::new(Rate::per_second(1));
        let start = Instant::now();
        let take = |address: &str| {
            let from = Asker::Stranger(address.parse().unwrap());
            buckets.take(from, start).is_ok()
        };
        assert!(take("2001:db8:1:2::1") && take("2001:db8:1:2:ffff::2"));
        assert!(!take("2001:db8:1:2:8000::3"));
        assert!(take("2001:db8:1:3::1"));
        assert!(take("192.0.2.1") && take("::ffff:192.0.2.1"));
        assert!(!take("192.0.2.1"));
        assert!(take("192.0.2.2"));
    }
}
