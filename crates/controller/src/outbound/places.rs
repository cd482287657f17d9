//! Places for calls that are made at the same time.
//!
//! Whoever does not answer holds a place until it is given up. So each kind of call has places of
//! its own, and of those nobody may take more than a few: a receiver that hangs delays itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The places of one kind.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// For one name.
    each: usize,
    /// Those of names that have one or wait for one.
    by_name: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _own: OwnedSemaphorePermit,
    _shared: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            each,
            by_name: Mutex::default(),
        }
    }

    /// Takes one for a name; `None`: none became free in time. Who waits for the name's own holds
    /// none of all.
    pub(super) async fn take(&self, name: &str, longest: Duration) -> Option<Place> {
        let own = self.own(name);
        let take = async {
            let own = own.acquire_owned().await;
            let shared = Arc::clone(&self.all).acquire_owned().await;
            Place {
                _own: own.expect("the semaphore is never closed"),
                _shared: shared.expect("the semaphore is never closed"),
            }
        };
        timeout(longest, take).await.ok()
    }

    /// How many are free.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.all.available_permits()
    }

    fn own(&self, name: &str) -> Arc<Semaphore> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        // Places and those who wait for them hold one more.
        by_name.retain(|_, places| Arc::strong_count(places) > 1);
        let places = by_name.entry(name.to_owned());
        Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(self.each))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_hangs_delays_nobody_else() {
        let places = Places::new(3, 2);
        let second = Duration::from_secs(1);
        let first = places.take("a", second).await.unwrap();
        let other = places.take("a", second).await.unwrap();
        assert!(places.take("a", second).await.is_none(), "two are its own");
        let third = places.take("b", second).await.unwrap();
        assert!(places.take("c", second).await.is_none(), "three in all");
        drop(first);
        let again = places.take("c", second).await;
        assert!(again.is_some());
        drop((other, third, again));
        assert!(places.take("d", second).await.is_some());
        assert_eq!(places.by_name.lock().unwrap().len(), 1, "no name is kept");
    }
}
