//! What must reach somebody else, in order, however long that takes: reports for Segue, and audit
//! events for a sink that may fail. Who puts something in never waits, so the queue is bounded; what
//! finds no room pushes out the oldest, which is counted.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::thread::lock;

/// Pause before the second try.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: how late who is back hears of it at most.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Characters kept of an error: it is shown, and may quote a page.
const ERROR_CHARS_MAX: usize = 300;

/// How a queue is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Waiting {
    /// Not through yet.
    pub pending: usize,
    /// Through.
    pub delivered: u64,
    /// Tries that failed.
    pub failed_tries: u64,
    /// Refused for good, or pushed out by later ones.
    pub lost: u64,
    /// Why the last try failed; none once one is through.
    pub last_error: Option<String>,
}

/// Why something did not get through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failed {
    /// It may the next time.
    Again(String),
    /// It never will.
    Never(String),
}

#[derive(Debug)]
pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    changed: Condvar,
    max: usize,
}

#[derive(Debug)]
struct Inner<T> {
    /// With their numbers: the first one may be pushed out while it is on its way.
    items: VecDeque<(u64, T)>,
    next: u64,
    waiting: Waiting,
    closing: Closing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// What is there is tried until then.
    By(Instant),
}

impl<T: Clone> Queue<T> {
    pub(crate) fn new(max: usize) -> Self {
        let inner = Inner {
            items: VecDeque::new(),
            next: 0,
            waiting: Waiting::default(),
            closing: Closing::No,
        };
        Self {
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            max,
        }
    }

    /// Puts one in. Never waits.
    pub(crate) fn put(&self, item: T) {
        let mut inner = lock(&self.inner);
        if inner.items.len() == self.max {
            inner.items.pop_front();
            inner.waiting.lost += 1;
        }
        let number = inner.next;
        inner.next += 1;
        inner.items.push_back((number, item));
        drop(inner);
        self.changed.notify_all();
    }

    pub(crate) fn waiting(&self) -> Waiting {
        let inner = lock(&self.inner);
        Waiting {
            pending: inner.items.len(),
            ..inner.waiting.clone()
        }
    }

    /// Delivers one after the other until it is closed.
    pub(crate) fn deliver(&self, mut send: impl FnMut(&T) -> Result<(), Failed>) {
        let mut pause = PAUSE_FIRST;
        while let Some((number, item)) = self.first() {
            let sent = send(&item);
            let mut inner = lock(&self.inner);
            let error = match sent {
                Ok(()) => {
                    inner.waiting.delivered += 1;
                    inner.waiting.last_error = None;
                    None
                }
                Err(Failed::Never(error)) => {
                    inner.waiting.lost += 1;
                    inner.waiting.failed_tries += 1;
                    inner.waiting.last_error = Some(short(&error));
                    None
                }
                Err(Failed::Again(error)) => {
                    inner.waiting.failed_tries += 1;
                    inner.waiting.last_error = Some(short(&error));
                    Some(())
                }
            };
            if error.is_none() {
                pause = PAUSE_FIRST;
                if inner.items.front().is_some_and(|(is, _)| *is == number) {
                    inner.items.pop_front();
                }
                drop(inner);
                self.changed.notify_all();
                continue;
            }
            drop(inner);
            self.pause(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The oldest, once there is one; none: it is closed.
    fn first(&self) -> Option<(u64, T)> {
        let mut inner = lock(&self.inner);
        loop {
            match (inner.items.front(), inner.closing) {
                (_, Closing::By(end)) if Instant::now() >= end => return None,
                (Some(first), _) => return Some(first.clone()),
                (None, Closing::By(_)) => return None,
                (None, Closing::No) => {
                    let waited = self.changed.wait(inner);
                    inner = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Waits before the next try; when it is closed meanwhile, no longer than that allows.
    fn pause(&self, pause: Duration) {
        let end = Instant::now() + pause;
        let mut inner = lock(&self.inner);
        loop {
            let end = match inner.closing {
                Closing::No => end,
                // Tried again at once, and then as often as there is time.
                Closing::By(by) => by.min(end).min(Instant::now() + PAUSE_FIRST),
            };
            let left = end.saturating_duration_since(Instant::now());
            let is_closing = inner.closing != Closing::No;
            let waited = self.changed.wait_timeout(inner, left);
            let (next, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            inner = next;
            if timeout.timed_out() || (!is_closing && inner.closing != Closing::No) {
                return;
            }
        }
    }

    /// What is there is tried for so long and no longer, and nothing afterwards. Answers whether all
    /// of it is through.
    pub(crate) fn close(&self, within: Duration) -> bool {
        lock(&self.inner).closing = Closing::By(Instant::now() + within);
        self.changed.notify_all();
        self.flush(within)
    }

    /// Waits until all that is there is through; `false`: it took longer.
    pub(crate) fn flush(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        let mut inner = lock(&self.inner);
        while !inner.items.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(inner, left);
            (inner, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

fn short(error: &str) -> String {
    error.chars().take(ERROR_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;

    /// Longer than any machine needs; nothing waits for it to pass.
    const SOON: Duration = Duration::from_secs(30);

    #[test]
    fn what_fails_is_tried_again_and_nothing_overtakes() {
        let queue = Arc::new(Queue::new(10));
        for number in 0..4 {
            queue.put(number);
        }
        let (to, from) = channel();
        let delivering = Arc::clone(&queue);
        let mut failures = 3;
        let thread = std::thread::spawn(move || {
            delivering.deliver(|number| {
                if *number == 1 && failures > 0 {
                    failures -= 1;
                    return Err(Failed::Again("the sink is full".to_owned()));
                }
                if *number == 2 {
                    return Err(Failed::Never("not this one".to_owned()));
                }
                to.send(*number).map_err(|_| Failed::Never(String::new()))
            });
        });
        assert!(queue.close(SOON));
        thread.join().unwrap();
        assert_eq!(from.iter().collect::<Vec<_>>(), [0, 1, 3]);
        let waiting = queue.waiting();
        assert_eq!(
            (waiting.delivered, waiting.failed_tries, waiting.lost),
            (3, 4, 1)
        );
        assert_eq!((waiting.pending, waiting.last_error), (0, None));
    }

    #[test]
    fn a_full_queue_loses_its_oldest_and_says_so() {
        let queue = Queue::new(2);
        for number in 0..5 {
            queue.put(number);
        }
        assert_eq!(queue.waiting().lost, 3);
        assert_eq!(queue.first(), Some((3, 3)));
        assert!(!queue.close(Duration::ZERO), "nobody delivers");
        assert_eq!(queue.waiting().pending, 2, "and it is said");
    }
}
