//! One thread, one epoll, its calls, and one read buffer for all of them.
//!
//! Level-triggered: one read and one write for each frame, and no state beyond the interest set.
//! A socket nobody wants anything from is taken out of the epoll set, because a hung-up socket is
//! reported whatever the interest, and would spin while a slow peer is waited for.
//!
//! While nothing but frames comes, an event is a look at its call, a read and a write: what the
//! call waits for is looked at only after something else happened, and the clock only while
//! something is due.

use std::collections::{HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io;

use crate::clock;
use crate::shelves::Shelves;
use crate::slots::Lane;

use super::Wake;
use super::call::LiveCall;
use super::keeping::{DELAY, Keeping};
use super::running::{After, Running};
use super::side::Side;
use super::{Keep, Rescuers};

/// Events taken from the kernel at once: bounds how long one batch keeps commands waiting.
const EVENTS_MAX: usize = 256;

/// How long the last bytes of a call that is over may take to be read by a slow peer.
pub(super) const ENDING: Duration = Duration::from_secs(10);

/// How long a call that is ended by policy waits for the end of a frame, so that no side gets half
/// a frame: some fifty frames of audio. A side that stands still within a frame is cut.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// Marks the wake-up descriptor.
const WAKE: u64 = u64::MAX;

/// What a shard is asked to do.
pub(super) enum Command {
    /// Relays one more call.
    Adopt(Box<LiveCall>),
    /// Ends the calls that the ledger has marked.
    EndMarked,
    /// Lets go of every call that can move, by value.
    GiveAll(Sender<Vec<LiveCall>>),
    /// Has all calls held by this keeper from now on.
    KeepWith(Arc<dyn Keep>),
    /// Has all calls held again.
    HoldAll,
    /// Has these held again, by slot and generation.
    HoldAgain(Arc<HashSet<(u32, u32)>>),
    /// Stops the thread; its calls end.
    Stop,
}

struct Place {
    /// Tells a late event of the previous call in this place from one of this call.
    generation: u32,
    entry: Option<Entry>,
}

struct Entry {
    call: Running,
    interest: [Interest; 2],
    ending: bool,
}

/// What a socket is watched for. An idle call is little more than this, so it is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interest {
    Nothing,
    Read,
    Write,
    Both,
}

impl Interest {
    fn new(read: bool, write: bool) -> Self {
        match (read, write) {
            (false, false) => Self::Nothing,
            (true, false) => Self::Read,
            (false, true) => Self::Write,
            (true, true) => Self::Both,
        }
    }

    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Nothing => epoll::EventFlags::empty(),
            Self::Read => epoll::EventFlags::IN,
            Self::Write => epoll::EventFlags::OUT,
            Self::Both => epoll::EventFlags::IN | epoll::EventFlags::OUT,
        }
    }
}

pub(super) struct Shard {
    epoll: OwnedFd,
    wake: Arc<Wake>,
    commands: Receiver<Command>,
    places: Shelves<Place>,
    free: Vec<u32>,
    /// When calls that are over are cut; the wait is the same for all, so a queue is in order.
    deadlines: VecDeque<(Instant, u64)>,
    /// When calls that are ended by policy are cut if a frame to them is still not whole.
    farewells: VecDeque<(Instant, u64)>,
    lane: Lane,
    keeping: Keeping,
    rescuers: Rescuers,
}

/// A panic leaves a call half relayed. The keeper saves the calls of a process that ends at once;
/// of one that goes on without this thread they would be silent for ever.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Shard {
    pub(super) fn new(
        wake: Arc<Wake>,
        commands: Receiver<Command>,
        lane: Lane,
        rescuers: Rescuers,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(WAKE);
        // Once for each time that it is woken, so that it need not be read.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &wake.event, data, flags)?;
        Ok(Self {
            epoll,
            wake,
            commands,
            places: Shelves::default(),
            free: Vec::new(),
            deadlines: VecDeque::new(),
            farewells: VecDeque::new(),
            lane,
            keeping: Keeping::default(),
            rescuers,
        })
    }

    pub(super) fn run(mut self) {
        let abort = AbortOnPanic;
        self.relay();
        for place in self.places.iter_mut() {
            if let Some(entry) = place.entry.take() {
                // Others may hold the sockets; the count goes with the call.
                entry.call.shut();
            }
        }
        drop(abort);
    }

    fn relay(&mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(io::Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "epoll_wait failed");
                    return;
                }
            }
            let mut woken = false;
            for event in &events {
                match event.data.u64() {
                    WAKE => woken = true,
                    key => self.on_event(key, event.flags),
                }
            }
            if woken && !self.on_commands() {
                return;
            }
            self.cut_overdue();
            self.tell_keeper();
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let fronts = [self.deadlines.front(), self.farewells.front()];
        let fronts = fronts.into_iter().flatten().map(|(deadline, _)| *deadline);
        let deadline = fronts.chain(self.keeping.due()).min()?;
        let left = deadline.saturating_duration_since(Instant::now());
        Timespec::try_from(left).ok()
    }

    /// False: stop.
    fn on_commands(&mut self) -> bool {
        self.wake.reset();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Adopt(call) => self.adopt(*call),
                Command::EndMarked => self.end_marked(),
                Command::GiveAll(reply) => {
                    let calls = self.give_all();
                    if let Err(unclaimed) = reply.send(calls) {
                        unclaimed.0.into_iter().for_each(|call| self.adopt(call));
                    }
                }
                Command::KeepWith(keep) => {
                    self.keeping.keep_with(keep);
                    self.hold_all();
                }
                Command::HoldAll => self.hold_all(),
                Command::HoldAgain(calls) => {
                    self.hold_again(|call| calls.contains(&call.number()));
                }
                Command::Stop => return false,
            }
        }
        true
    }

    fn adopt(&mut self, call: LiveCall) {
        let Some(call) = Running::new(call, &self.lane) else {
            return;
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                generation: 0,
                entry: None,
            });
            u32::try_from(self.places.len() - 1).expect("far fewer calls than 2^32")
        });
        let place = &mut self.places[index as usize];
        let entry = place.entry.insert(Entry {
            call,
            interest: [Interest::Nothing; 2],
            ending: false,
        });
        for side in Side::BOTH {
            entry.call.flush(side, &mut self.lane);
        }
        if entry.call.is_young() {
            let key = pack(index, place.generation, Side::Caller);
            self.keeping.hold(key, Instant::now());
        }
        self.end_if_marked(index);
        self.settle(index);
    }

    fn hold_all(&mut self) {
        self.keeping.forget_holds();
        self.hold_again(|_| true);
    }

    fn hold_again(&mut self, wanted: impl Fn(&Running) -> bool) {
        // They are as old as need be.
        let now = Instant::now();
        let since = now.checked_sub(DELAY).unwrap_or(now);
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Some(entry) = place.entry.as_mut().filter(|entry| wanted(&entry.call)) {
                entry.call.held.set(false);
                if entry.call.is_young() {
                    let index = u32::try_from(index).expect("made by adopt");
                    let key = pack(index, place.generation, Side::Caller);
                    self.keeping.hold(key, since);
                }
            }
        }
    }

    fn tell_keeper(&mut self) {
        if self.keeping.due().is_none() {
            return;
        }
        let places = &self.places;
        self.keeping.tell(&|key| {
            let (index, generation, _) = unpack(key);
            let place = places.get(index as usize)?;
            let entry = place.entry.as_ref();
            Some(&entry.filter(|_| place.generation == generation)?.call)
        });
    }

    fn end_marked(&mut self) {
        for index in 0..self.places.len() {
            let index = u32::try_from(index).expect("made by adopt");
            if self.end_if_marked(index) {
                self.settle(index);
            }
        }
    }

    /// True: it begins to end now.
    fn end_if_marked(&mut self, index: u32) -> bool {
        let place = &mut self.places[index as usize];
        let Some(entry) = &mut place.entry else {
            return false;
        };
        if entry.call.leaving || !entry.call.ticket.counters().is_to_end() {
            return false;
        }
        entry.call.leave(&mut self.lane);
        let key = pack(index, place.generation, Side::Caller);
        self.farewells.push_back((Instant::now() + FAREWELL, key));
        true
    }

    fn give_all(&mut self) -> Vec<LiveCall> {
        let mut calls = Vec::with_capacity(self.places.len() - self.free.len());
        for index in 0..self.places.len() {
            let movable = |entry: &Entry| entry.call.is_movable();
            if !self.places[index].entry.as_ref().is_some_and(movable) {
                continue;
            }
            let index = u32::try_from(index).expect("made by adopt");
            if let Some(call) = self.remove(index) {
                calls.push(call.into_call());
            }
        }
        calls
    }

    fn on_event(&mut self, key: u64, flags: epoll::EventFlags) {
        let (index, generation, side) = unpack(key);
        let Some(place) = self.places.get_mut(index as usize) else {
            return;
        };
        if place.generation != generation {
            return;
        }
        let Some(entry) = &mut place.entry else {
            return;
        };
        // What the call wants of this socket is what it is watched for.
        let wanted = entry.interest[side.index()];
        if flags == epoll::EventFlags::IN && wanted == Interest::Read {
            if entry.call.pump(side, &mut self.lane) == After::Changed {
                self.settle(index);
            }
            return;
        }
        let failed = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if (failed || flags.contains(epoll::EventFlags::OUT)) && entry.call.wants_write(side) {
            entry.call.flush(side, &mut self.lane);
        }
        if (failed || flags.contains(epoll::EventFlags::IN)) && entry.call.wants_read(side) {
            entry.call.pump(side, &mut self.lane);
        }
        self.settle(index);
    }

    /// Brings the epoll set in line with what the call wants now, and ends the call if it is over.
    fn settle(&mut self, index: u32) {
        let place = &mut self.places[index as usize];
        let Some(entry) = &mut place.entry else {
            return;
        };
        if entry.call.is_lost() {
            self.lose(index);
            return;
        }
        if entry.call.is_over() {
            self.end(index);
            return;
        }
        let mut failed = None;
        for (side, have) in Side::BOTH.into_iter().zip(&mut entry.interest) {
            let want = Interest::new(entry.call.wants_read(side), entry.call.wants_write(side));
            if want == *have {
                continue;
            }
            let socket = entry.call.socket(side);
            let data = epoll::EventData::new_u64(pack(index, place.generation, side));
            let done = match (*have, want) {
                (_, Interest::Nothing) => epoll::delete(&self.epoll, socket),
                (Interest::Nothing, want) => epoll::add(&self.epoll, socket, data, want.flags()),
                (_, want) => epoll::modify(&self.epoll, socket, data, want.flags()),
            };
            failed = failed.or(done.err());
            *have = want;
        }
        if !entry.ending && entry.call.is_ending() {
            entry.ending = true;
            let key = pack(index, place.generation, Side::Caller);
            self.deadlines.push_back((Instant::now() + ENDING, key));
        }
        if let Some(error) = failed {
            tracing::error!(%error, "a call cannot be watched and ends");
            self.end(index);
        }
    }

    fn cut_overdue(&mut self) {
        while let Some((deadline, key)) = self.farewells.front().copied()
            && deadline <= Instant::now()
        {
            self.farewells.pop_front();
            let (index, generation, _) = unpack(key);
            let place = &mut self.places[index as usize];
            let entry = place.entry.as_mut();
            match entry.filter(|_| place.generation == generation) {
                Some(entry) if entry.call.owes_farewell() => self.end(index),
                // Both sides were told. Whether they answer or not, it is over soon.
                Some(entry) if !entry.ending => {
                    entry.ending = true;
                    self.deadlines.push_back((Instant::now() + ENDING, key));
                }
                _ => {}
            }
        }
        while let Some((deadline, key)) = self.deadlines.front().copied()
            && deadline <= Instant::now()
        {
            self.deadlines.pop_front();
            let (index, generation, _) = unpack(key);
            if self.places[index as usize].generation == generation {
                self.end(index);
            }
        }
    }

    fn end(&mut self, index: u32) {
        let Some(entry) = self.take(index) else {
            return;
        };
        // Closing them takes sockets out that nobody else has.
        if entry.call.is_shared() {
            self.unwatch(&entry);
        }
        if entry.call.held.get() {
            self.keeping.release(entry.call.number());
        }
        entry.call.finish(clock::now());
    }

    /// Gives a call away whose worker is dead.
    fn lose(&mut self, index: u32) {
        let Some(call) = self.remove(index) else {
            return;
        };
        // What the keeper holds of it is not what it goes on with.
        if call.held.get() {
            self.keeping.release(call.number());
        }
        let call = Box::new(call.into_call().without_worker());
        let unclaimed = match self.rescuers.get() {
            Some(rescuers) => rescuers.send(call).err().map(|unsent| unsent.0),
            None => Some(call),
        };
        if let Some(call) = unclaimed {
            self.adopt(call.give_up());
        }
    }

    /// Takes a call out of its place and its sockets out of the epoll set.
    fn remove(&mut self, index: u32) -> Option<Running> {
        let entry = self.take(index)?;
        self.unwatch(&entry);
        Some(entry.call)
    }

    fn take(&mut self, index: u32) -> Option<Entry> {
        let place = &mut self.places[index as usize];
        let entry = place.entry.take()?;
        place.generation = (place.generation + 1) & GENERATION_MASK;
        self.free.push(index);
        Some(entry)
    }

    /// Takes sockets out of the epoll set. It is not left to closing them if another process may
    /// hold them, because then they would go on being reported.
    fn unwatch(&self, entry: &Entry) {
        for (side, interest) in Side::BOTH.into_iter().zip(entry.interest) {
            if interest != Interest::Nothing
                && let Err(error) = epoll::delete(&self.epoll, entry.call.socket(side))
            {
                tracing::warn!(%error, "a socket could not be taken out of epoll");
            }
        }
    }
}

const GENERATION_MASK: u32 = u32::MAX >> 1;

fn pack(index: u32, generation: u32, side: Side) -> u64 {
    let side = match side {
        Side::Caller => 0,
        Side::Worker => 1,
    };
    // The highest generation bit is never set, so that no key is WAKE.
    u64::from(generation & GENERATION_MASK) << 33 | u64::from(index) << 1 | side
}

fn unpack(key: u64) -> (u32, u32, Side) {
    let index = u32::try_from(key >> 1 & u64::from(u32::MAX)).expect("masked");
    let generation = u32::try_from(key >> 33).expect("31 bits");
    let side = if key & 1 == 0 {
        Side::Caller
    } else {
        Side::Worker
    };
    (index, generation, side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_call_is_small_here() {
        let entry = size_of::<Place>();
        let own = entry - size_of::<crate::ledger::Ticket>();
        println!("entry: {entry} bytes, without its ticket {own}");
        assert!(own <= 64, "{own} bytes");
    }

    #[test]
    fn keys_survive_packing() {
        for index in [0, 1, u32::MAX] {
            for generation in [0, 1, GENERATION_MASK] {
                for side in Side::BOTH {
                    let key = pack(index, generation, side);
                    assert_eq!(unpack(key), (index, generation, side));
                }
            }
        }
        assert_ne!(pack(u32::MAX, GENERATION_MASK - 1, Side::Worker), WAKE);
    }
}
