//! Places of connections: so many, and whoever comes finds one. When all are taken, the connection
//! that has asked for nothing for the longest time gives up its own, so a worker, a browser or a
//! stranger who keeps lines open does not stand in the way of a rollback.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// How long a connection is at least idle before it gives up its place: an answer is on its way by
/// then.
const IDLE_MIN: Duration = Duration::from_millis(250);
/// How often the places are looked at while all are taken by connections that ask for something.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    lines: BTreeMap<u64, Line>,
}

#[derive(Debug)]
struct Line {
    /// Since when it has asked for nothing; `None`: it is being answered.
    idle: Option<Instant>,
    over: Arc<Notify>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    places: Arc<Places>,
    over: Arc<Notify>,
}

impl Places {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// A place for who has just come. It is waited for only while all others are being answered.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take(Instant::now()) {
                return place;
            }
            let _ = timeout(LOOK_AGAIN, self.freed.notified()).await;
        }
    }

    fn try_take(self: &Arc<Self>, now: Instant) -> Option<Place> {
        let mut taken = self.lock();
        if taken.lines.len() >= self.max {
            let lines = taken.lines.iter();
            let idle = lines.filter_map(|(id, line)| Some((line.idle?, *id)));
            let (since, id) = idle.min()?;
            if now.saturating_duration_since(since) < IDLE_MIN {
                return None;
            }
            let line = taken.lines.remove(&id)?;
            line.over.notify_one();
        }
        let (id, over) = (taken.next, Arc::new(Notify::new()));
        taken.next += 1;
        let line = Line {
            idle: Some(now),
            over: Arc::clone(&over),
        };
        taken.lines.insert(id, line);
        let places = Arc::clone(self);
        Some(Place { id, places, over })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// It asks for something: it keeps its place.
    pub(super) fn busy(&self) {
        self.set(None);
    }

    /// It was answered.
    pub(super) fn idle(&self) {
        self.set(Some(Instant::now()));
    }

    fn set(&self, idle: Option<Instant>) {
        if let Some(line) = self.places.lock().lines.get_mut(&self.id) {
            line.idle = idle;
        }
    }

    /// Returns when the place was given to somebody else.
    pub(super) async fn over(&self) {
        self.over.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().lines.remove(&self.id);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn is_over(place: &Place) -> bool {
        futures_util::FutureExt::now_or_never(place.over()).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_gets_the_place_of_the_line_that_is_idle_longest() {
        let places = Places::new(3);
        let (first, second) = (places.take().await, places.take().await);
        advance(Duration::from_millis(1)).await;
        let third = places.take().await;
        first.busy();
        advance(IDLE_MIN).await;
        let fourth = places.take().await;
        assert!(is_over(&second), "the first is being answered");
        assert!(!is_over(&first) && !is_over(&third));
        first.idle();
        fourth.busy();
        third.busy();
        // All are being answered, or have just been: who comes waits until one is idle.
        assert!(places.try_take(Instant::now()).is_none());
        let fifth = places.take().await;
        assert!(is_over(&first));
        fifth.busy();
        // A line that gave up its place has none to give back.
        drop((first, second));
        assert!(places.try_take(Instant::now()).is_none());
        drop(third);
        assert!(places.try_take(Instant::now()).is_some());
        assert!(!is_over(&fourth) && !is_over(&fifth));
    }
}
