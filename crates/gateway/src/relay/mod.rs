//! The relay: moves the bytes of live calls, on a few threads and not in a task per call.
//!
//! Each shard is one thread with one epoll and one read buffer. An idle call costs its two sockets
//! and a few hundred bytes; a flowing one costs one read and one write for each frame and no
//! allocation. Only under backpressure a call has a buffer of its own, about one read long, and its
//! source is not read until that is written; one that may outlive its worker also holds a message
//! back until it is whole. What is known of a call lies in a slot, where it outlives
//! this process. TLS calls are relayed by the same loop, but their keys, and so they, end with the
//! process.

mod ahead;
mod call;
mod interest;
mod keeping;
mod listening;
mod outlive;
mod running;
mod shard;
mod side;
mod tls;
pub(crate) mod whole;

use std::collections::HashSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc::UnboundedSender;

pub use self::call::{Flow, LiveCall, Sink};
pub(crate) use self::call::{MovedCall, farewell, goodbye, keep_alive};
pub(crate) use self::listening::Listening;
pub(crate) use self::running::Sketch;
use self::shard::{Command, Shard};
pub(crate) use self::side::Side;
use crate::ledger::CALLS_MAX;
use crate::slots::Slots;

/// Most shards: more threads than this never helped a relay that is bound by system calls.
pub const SHARDS_MAX: usize = 64;

/// Who holds duplicates of the sockets of live calls, so that they outlive this process.
pub(crate) trait Keep: Send + Sync {
    /// Never blocks.
    ///
    /// # Errors
    ///
    /// `WouldBlock`: asked again later; the calls go on unheld meanwhile. Others: these calls stay
    /// unheld until [`Relay::hold_all`].
    fn hold(&self, calls: &[Held<'_>]) -> io::Result<()>;

    /// These calls (slot and generation) have ended: both of their sockets are shut down. Never
    /// blocks.
    ///
    /// # Errors
    ///
    /// As for [`Keep::hold`].
    fn release(&self, calls: &[(u32, u32)]) -> io::Result<()>;
}

/// Who finds another worker for calls whose own is dead. It gives them back by [`Relay::adopt`].
pub(crate) type Rescuers = Arc<OnceLock<UnboundedSender<Box<LiveCall>>>>;

/// A call that is to be held.
pub(crate) struct Held<'a> {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) caller: BorrowedFd<'a>,
    pub(crate) worker: BorrowedFd<'a>,
}

struct Handle {
    commands: Sender<Command>,
    wake: Arc<Wake>,
    thread: Option<JoinHandle<()>>,
}

/// Wakes a shard, once for all that it is asked to do until it looks.
struct Wake {
    event: OwnedFd,
    /// It was woken, and has not looked yet.
    woken: AtomicBool,
    /// How many calls its shard has, those among them that are being set up.
    load: AtomicUsize,
}

impl Wake {
    fn new() -> io::Result<Arc<Self>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let woken = AtomicBool::new(false);
        let load = AtomicUsize::new(0);
        Ok(Arc::new(Self { event, woken, load }))
    }

    /// Behind what is to be found by whoever is woken.
    fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            // The counter cannot overflow, and a full one wakes just as well.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// Ahead of looking for what there is to do: what comes later wakes again. The counter just
    /// grows: it is watched for its changes.
    fn reset(&self) {
        self.woken.swap(false, Ordering::AcqRel);
    }
}

impl Handle {
    fn send(&self, command: Command) -> Result<(), Command> {
        self.commands.send(command).map_err(|unsent| unsent.0)?;
        self.wake.wake();
        Ok(())
    }
}

/// The shards. Dropping it ends every call it holds: give them away first.
pub struct Relay {
    slots: Arc<Slots>,
    shards: Vec<Handle>,
    next: AtomicUsize,
    rescuers: Rescuers,
}

impl Relay {
    /// Starts the threads; at least one, at most [`SHARDS_MAX`].
    ///
    /// # Errors
    ///
    /// When a descriptor or a thread cannot be had.
    pub fn start(shards: usize) -> io::Result<Self> {
        let slots = Slots::create(CALLS_MAX)?;
        let rescuers = Rescuers::default();
        let start = |index: usize| {
            let lane = slots
                .lane(index)
                .expect("they are new, and have SHARDS_MAX lanes");
            let wake = Wake::new()?;
            let (commands, receiver) = channel();
            let shard = Shard::new(Arc::clone(&wake), receiver, lane, Arc::clone(&rescuers))?;
            let thread = std::thread::Builder::new()
                .name(format!("relay-{index}"))
                .spawn(move || shard.run())?;
            Ok(Handle {
                commands,
                wake,
                thread: Some(thread),
            })
        };
        let shards: io::Result<Vec<Handle>> = (0..shards.clamp(1, SHARDS_MAX)).map(start).collect();
        Ok(Self {
            shards: shards?,
            slots,
            next: AtomicUsize::new(0),
            rescuers,
        })
    }

    /// The memory of its calls. What a call is given here before it is relayed is kept from then
    /// on: see [`LiveCall::enroll`].
    pub(crate) fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Has this keeper hold all calls, those of now and those to come. Calls that it was told of
    /// already, by [`LiveCall::set_held`], are told again.
    pub(crate) fn keep_with(&self, keep: &Arc<dyn Keep>) {
        for shard in &self.shards {
            // A shard that is gone holds no calls.
            let _ = shard.send(Command::KeepWith(Arc::clone(keep)));
        }
    }

    /// Gives calls that can outlive their worker to this one, when that dies. Only the first one is
    /// heard; before it, such calls end as others do.
    pub(crate) fn rescue_with(&self, rescuers: UnboundedSender<Box<LiveCall>>) {
        let _ = self.rescuers.set(rescuers);
    }

    /// Tells the keeper of all calls again: it lost what it held.
    pub(crate) fn hold_all(&self) {
        for shard in &self.shards {
            let _ = shard.send(Command::HoldAll);
        }
    }

    /// Tells the keeper of these calls (slot and generation) again: it could not hold them.
    pub(crate) fn hold_again(&self, calls: HashSet<(u32, u32)>) {
        let calls = Arc::new(calls);
        for shard in &self.shards {
            let _ = shard.send(Command::HoldAgain(Arc::clone(&calls)));
        }
    }

    /// Relays a call until it ends or is given away.
    pub fn adopt(&self, call: LiveCall) {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let adopt = Command::Adopt(Box::new(call));
        if self.shards[index].send(adopt).is_err() {
            tracing::error!(index, "a relay thread is gone, and a call with it");
        }
    }

    /// Ends the calls that the ledger has marked: see
    /// [`Ledger::end_calls`](crate::ledger::Ledger::end_calls). Calls that come later and are
    /// marked end as they come.
    pub fn end_marked(&self) {
        for shard in &self.shards {
            // A shard that is gone holds no calls.
            let _ = shard.send(Command::EndMarked);
        }
    }

    /// Takes every call that can move out of the relay: all but those with TLS. Not a byte of them
    /// is read after this returns.
    pub fn give_all(&self) -> Vec<LiveCall> {
        let (reply, calls) = channel();
        for shard in &self.shards {
            // A shard that is gone holds no calls.
            let _ = shard.send(Command::GiveAll(reply.clone()));
        }
        drop(reply);
        calls.into_iter().flatten().collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for shard in &mut self.shards {
            let _ = shard.send(Command::Stop);
            // The last one to have us may be one of them.
            let own = |thread: &JoinHandle<()>| thread.thread().id() == std::thread::current().id();
            if let Some(thread) = shard.thread.take().filter(|thread| !own(thread)) {
                // A thread that panicked has said so already.
                let _ = thread.join();
            }
        }
    }
}

#[cfg(test)]
mod tests;
