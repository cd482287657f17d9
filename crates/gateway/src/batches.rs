//! A queue to a thread that takes what waits all at once, and is woken once for all of it.
//!
//! Waking a thread for each line costs more than the line, and a thread that is woken under its
//! waker's lock has everybody wait who wants that lock. So the reader rests for a moment after each
//! batch: with much to do it is never woken, it finds the next batch when it comes back; with
//! little to do it is woken at once.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the reader rests after it took a batch: what a process that is killed may take along,
/// and far more than a thread switch takes.
const REST: Duration = Duration::from_millis(2);

/// How much less of a busy processor the reader gets than those who relay: a third of a share.
const NICE: i32 = 5;

/// The way in. The reader ends when the last clone is dropped and everything is read.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Queue<T>>);

/// The way out.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    queue: Arc<Queue<T>>,
    rested: Option<Instant>,
}

/// The queue is full, or nobody reads it any more.
#[derive(Debug)]
pub(crate) struct Unsent<T>(pub(crate) T);

#[derive(Debug)]
struct Queue<T> {
    inner: Mutex<Inner<T>>,
    items: Condvar,
    room: Condvar,
    length_max: usize,
}

#[derive(Debug)]
struct Inner<T> {
    items: Vec<T>,
    senders: usize,
    is_read: bool,
    /// The reader waits for an item.
    idle: bool,
    /// So many senders wait for room.
    crowd: usize,
}

/// For a reader's thread: lines can wait, frames cannot.
pub(crate) fn stand_back() {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "a writer takes its turns like any other thread");
    }
}

/// A queue of at most so many items.
pub(crate) fn queue<T>(length_max: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(Queue {
        inner: Mutex::new(Inner {
            items: Vec::new(),
            senders: 1,
            is_read: true,
            idle: false,
            crowd: 0,
        }),
        items: Condvar::new(),
        room: Condvar::new(),
        length_max,
    });
    let receiver = Receiver {
        queue: Arc::clone(&queue),
        rested: None,
    };
    (Sender(queue), receiver)
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Whole after every change, so a panic elsewhere is no reason to lose it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, mut inner: MutexGuard<'_, Inner<T>>, item: T) {
        inner.items.push(item);
        let wakes = mem::take(&mut inner.idle);
        drop(inner);
        if wakes {
            self.items.notify_one();
        }
    }
}

impl<T> Sender<T> {
    /// Queues an item; waits while the queue is full. Without a reader the item comes back.
    pub(crate) fn send(&self, item: T) -> Result<(), Unsent<T>> {
        let mut inner = self.0.lock();
        while inner.is_read && inner.items.len() >= self.0.length_max {
            inner.crowd += 1;
            let woken = self.0.room.wait(inner);
            inner = woken.unwrap_or_else(PoisonError::into_inner);
            inner.crowd -= 1;
        }
        if !inner.is_read {
            return Err(Unsent(item));
        }
        self.0.push(inner, item);
        Ok(())
    }

    /// Queues an item; never waits.
    pub(crate) fn try_send(&self, item: T) -> Result<(), Unsent<T>> {
        let inner = self.0.lock();
        if !inner.is_read || inner.items.len() >= self.0.length_max {
            return Err(Unsent(item));
        }
        self.0.push(inner, item);
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.senders -= 1;
        let last = inner.senders == 0;
        drop(inner);
        if last {
            self.0.items.notify_one();
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for items and takes all that are there, in place of what is in `batch`. False: there
    /// are none and none will come.
    #[expect(
        clippy::disallowed_methods,
        reason = "the reader is a thread of its own, and to rest is what it does"
    )]
    pub(crate) fn take(&mut self, batch: &mut Vec<T>) -> bool {
        batch.clear();
        if let Some(rested) = self.rested.take() {
            std::thread::sleep(REST.saturating_sub(rested.elapsed()));
        }
        let mut inner = self.queue.lock();
        while inner.items.is_empty() {
            if inner.senders == 0 {
                return false;
            }
            inner.idle = true;
            let woken = self.queue.items.wait(inner);
            inner = woken.unwrap_or_else(PoisonError::into_inner);
        }
        inner.idle = false;
        mem::swap(&mut inner.items, batch);
        let crowded = inner.crowd > 0;
        drop(inner);
        if crowded {
            self.queue.room.notify_all();
        }
        self.rested = Some(Instant::now());
        true
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut inner = self.queue.lock();
        inner.is_read = false;
        let unread = mem::take(&mut inner.items);
        drop(inner);
        drop(unread);
        self.queue.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_out_once_and_in_order() {
        let (sender, mut receiver) = queue(8);
        let reader = std::thread::spawn(move || {
            let (mut all, mut batch) = (Vec::new(), Vec::new());
            while receiver.take(&mut batch) {
                assert!(batch.len() <= 8);
                all.append(&mut batch);
            }
            all
        });
        let also = sender.clone();
        for number in 0..100 {
            // Waits when the queue is full.
            sender.send(number).unwrap();
        }
        drop(sender);
        also.send(100).unwrap();
        drop(also);
        assert_eq!(reader.join().unwrap(), (0..=100).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_queue_and_one_that_nobody_reads_take_nothing() {
        let (sender, receiver) = queue(1);
        sender.try_send(1).unwrap();
        assert_eq!(sender.try_send(2).unwrap_err().0, 2);
        drop(receiver);
        assert_eq!(sender.try_send(3).unwrap_err().0, 3);
        assert_eq!(sender.send(4).unwrap_err().0, 4);
    }

    #[test]
    fn who_waits_for_room_is_let_go_with_the_reader() {
        let (sender, receiver) = queue(1);
        sender.send(1).unwrap();
        let waits = std::thread::spawn(move || sender.send(2).is_err());
        while receiver.queue.lock().crowd == 0 {
            std::thread::yield_now();
        }
        drop(receiver);
        assert!(waits.join().unwrap());
    }
}
