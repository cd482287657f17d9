//! One thread, one epoll, its calls, and one read buffer for all of them.
//!
//! Level-triggered: one read and one write for each frame, and no state beyond the interest set.
//! A socket nobody wants anything from is taken out of the epoll set, because a hung-up socket is
//! reported whatever the interest, and would spin while a slow peer is waited for.
//!
//! While nothing but frames comes, an event is a look at its call, a read and a write: what the
//! call waits for is looked at only after something else happened, and the clock only while
//! something is due.

mod ahead;
mod arrivals;

use std::collections::{HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io;

use crate::clock;
use crate::front::arriving::Arriving;
use crate::shelves::Shelves;
use crate::slots::{Delta, Lane};

use super::Wake;
use super::call::LiveCall;
use super::interest::Interest;
use super::keeping::{DELAY, Keeping};
use super::running::{After, Running, Sketch};
use super::side::Side;
use super::{Keep, Rescuers};

use self::ahead::Awaited;
pub(super) use self::ahead::CaughtUp;
pub(super) use self::arrivals::Listen;
use self::arrivals::{Arrivals, DOOR};

/// Events taken from the kernel at once: bounds how long one batch keeps commands waiting.
const EVENTS_MAX: usize = 256;

/// Commands done at once: bounds how long calls that come by the hundred keep frames waiting.
const COMMANDS_MAX: usize = 64;

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
    /// Accepts callers, and sets up their calls.
    Listen(Arc<Listen>),
    /// No more. Answers when it does not.
    Unlisten(Option<Sender<()>>),
    /// Sets up a call of another shard.
    Arrive(Box<Arriving>),
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
    /// Shows some of the calls from this place on that can move, and from where on there may be
    /// more.
    Sketch(usize, Sender<(Vec<Sketch>, Option<usize>)>),
    /// Takes in calls that another process relays, with their numbers there, and touches none of
    /// them. Answers whether it can.
    Await(Vec<(u64, LiveCall)>, Sender<io::Result<()>>),
    /// Brings those to where they are now.
    CatchUp(Arc<Vec<Delta>>, Sender<CaughtUp>),
    /// Relays them: they are ours.
    GoOn,
    /// Stops the thread; its calls end.
    Stop,
}

pub(super) struct Shard {
    epoll: OwnedFd,
    wake: Arc<Wake>,
    commands: Receiver<Command>,
    places: Shelves<Option<Running>>,
    free: Vec<u32>,
    /// Of the call that came last: see [`Running::generation`].
    generation: u32,
    /// When calls that are over are cut; the wait is the same for all, so a queue is in order.
    deadlines: VecDeque<(Instant, u64)>,
    /// When calls that are ended by policy are cut if a frame to them is still not whole.
    farewells: VecDeque<(Instant, u64)>,
    lane: Lane,
    keeping: Keeping,
    rescuers: Rescuers,
    arrivals: Arrivals,
    /// While there are calls that may not be touched.
    awaited: Option<Awaited>,
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
            generation: 0,
            deadlines: VecDeque::new(),
            farewells: VecDeque::new(),
            lane,
            keeping: Keeping::default(),
            rescuers,
            arrivals: Arrivals::default(),
            awaited: None,
        })
    }

    pub(super) fn run(mut self) {
        let abort = AbortOnPanic;
        self.relay();
        self.forget_awaited();
        for call in self.places.iter_mut().filter_map(Option::take) {
            // Others may hold the sockets; the count goes with the call.
            call.shut();
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
            let (mut woken, mut knocked) = (false, false);
            for event in &events {
                match event.data.u64() {
                    WAKE => woken = true,
                    DOOR => knocked = true,
                    key => self.on_event(key, event.flags),
                }
            }
            self.see_to_arrivals(knocked);
            if woken && !(self.on_commands() && self.await_word()) {
                return;
            }
            self.cut_overdue();
            self.tell_keeper();
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let fronts = [self.deadlines.front(), self.farewells.front()];
        let fronts = fronts.into_iter().flatten().map(|(deadline, _)| *deadline);
        let deadline = fronts.chain(self.keeping.due());
        let deadline = deadline.chain(self.arrivals.due()).min()?;
        let left = deadline.saturating_duration_since(Instant::now());
        Timespec::try_from(left).ok()
    }

    /// False: stop.
    fn on_commands(&mut self) -> bool {
        self.wake.reset();
        for _ in 0..COMMANDS_MAX {
            let Ok(command) = self.commands.try_recv() else {
                return true;
            };
            if !self.on_command(command) {
                return false;
            }
        }
        // There may be more, behind the frames that came meanwhile.
        self.wake.wake();
        true
    }

    /// False: stop. Whoever asked and is gone wants no answer.
    fn on_command(&mut self, command: Command) -> bool {
        match command {
            Command::Adopt(call) => self.adopt(*call),
            Command::Listen(listen) => self.listen(listen),
            Command::Unlisten(reply) => {
                self.unlisten();
                drop(reply);
            }
            Command::Arrive(arriving) => self.arrive(arriving),
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
            Command::Sketch(from, reply) => drop(reply.send(self.sketch(from))),
            Command::Await(calls, reply) => drop(reply.send(self.wait_with(calls))),
            Command::CatchUp(deltas, reply) => drop(reply.send(self.catch_up(&deltas))),
            Command::GoOn => self.go_on(),
            Command::Stop => return false,
        }
        true
    }

    fn adopt(&mut self, call: LiveCall) {
        if let Some(index) = self.place(call) {
            self.hold_if_young(index);
            self.begin(index);
        }
    }

    /// Gives a call its place here. `None`: it has ended.
    fn place(&mut self, call: LiveCall) -> Option<u32> {
        self.generation = (self.generation + 1) & GENERATION_MASK;
        let call = Running::new(call, &self.lane, self.generation)?;
        let index = self.room();
        self.places[index as usize] = Some(call);
        Some(index)
    }

    fn room(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).expect("far fewer calls than 2^32")
        })
    }

    fn hold_if_young(&mut self, index: u32) {
        if let Some(call) = &self.places[index as usize]
            && call.is_young()
        {
            let key = pack(index, call.generation, Side::Caller);
            self.keeping.hold(key, Instant::now());
        }
    }

    /// Writes what waits, and does what the call wants next.
    fn begin(&mut self, index: u32) {
        let Some(call) = &mut self.places[index as usize] else {
            return;
        };
        for side in Side::BOTH {
            call.flush(side, &mut self.lane);
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
        for (index, call) in self.places.iter().enumerate() {
            if let Some(call) = call.as_ref().filter(|call| wanted(call)) {
                call.set_unheld();
                if call.is_young() {
                    let index = u32::try_from(index).expect("made by adopt");
                    let key = pack(index, call.generation, Side::Caller);
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
            let call = places.get(index as usize)?.as_ref();
            call.filter(|call| call.generation == generation)
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
        let Some(call) = &mut self.places[index as usize] else {
            return false;
        };
        if call.is_leaving() || !call.ticket.counters().is_to_end() {
            return false;
        }
        call.leave(&mut self.lane);
        let key = pack(index, call.generation, Side::Caller);
        self.farewells.push_back((Instant::now() + FAREWELL, key));
        true
    }

    fn give_all(&mut self) -> Vec<LiveCall> {
        let mut calls = Vec::with_capacity(self.places.len() - self.free.len());
        for index in 0..self.places.len() {
            let call = self.places[index].as_ref();
            if !call.is_some_and(Running::is_movable) {
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
        let Some(call) = at(&mut self.places, index, generation) else {
            self.arrivals.note(key);
            return;
        };
        // What the call wants of this socket is what it is watched for.
        let wanted = call.interest[side.index()];
        if flags == epoll::EventFlags::IN && wanted == Interest::Read {
            if call.pump(side, &mut self.lane) == After::Changed {
                self.settle(index);
            }
            return;
        }
        let failed = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if (failed || flags.contains(epoll::EventFlags::OUT)) && call.wants_write(side) {
            call.flush(side, &mut self.lane);
        }
        if (failed || flags.contains(epoll::EventFlags::IN)) && call.wants_read(side) {
            call.pump(side, &mut self.lane);
        }
        self.settle(index);
    }

    /// Brings the epoll set in line with what the call wants now, and ends the call if it is over.
    fn settle(&mut self, index: u32) {
        let Some(call) = &mut self.places[index as usize] else {
            return;
        };
        if call.is_lost() {
            self.lose(index);
            return;
        }
        if call.is_over() {
            self.end(index);
            return;
        }
        let mut failed = None;
        for side in Side::BOTH {
            let have = call.interest[side.index()];
            let want = Interest::new(call.wants_read(side), call.wants_write(side));
            if want == have {
                continue;
            }
            let socket = call.socket(side);
            let data = epoll::EventData::new_u64(pack(index, call.generation, side));
            let done = match (have, want) {
                (_, Interest::Nothing) => epoll::delete(&self.epoll, socket),
                (Interest::Nothing, want) => epoll::add(&self.epoll, socket, data, want.flags()),
                (_, want) => epoll::modify(&self.epoll, socket, data, want.flags()),
            };
            failed = failed.or(done.err());
            call.interest[side.index()] = want;
        }
        if !call.ending && call.is_ending() {
            call.ending = true;
            let key = pack(index, call.generation, Side::Caller);
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
            match at(&mut self.places, index, generation) {
                Some(call) if call.owes_farewell() => self.end(index),
                // Both sides were told. Whether they answer or not, it is over soon.
                Some(call) if !call.ending => {
                    call.ending = true;
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
            if at(&mut self.places, index, generation).is_some() {
                self.end(index);
            }
        }
    }

    fn end(&mut self, index: u32) {
        let Some(call) = self.take(index) else {
            return;
        };
        // Closing them takes sockets out that nobody else has.
        if call.is_shared() {
            self.unwatch(&call);
        }
        if call.is_to_release() {
            self.keeping.release(call.number());
        }
        call.finish(clock::now());
    }

    /// Gives a call away whose worker is dead.
    fn lose(&mut self, index: u32) {
        let Some(call) = self.remove(index) else {
            return;
        };
        // What the keeper holds of it is not what it goes on with.
        if call.is_to_release() {
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
        let call = self.take(index)?;
        self.unwatch(&call);
        Some(call)
    }

    fn take(&mut self, index: u32) -> Option<Running> {
        let call = self.places[index as usize].take()?;
        self.free.push(index);
        Some(call)
    }

    /// Takes sockets out of the epoll set. It is not left to closing them if another process may
    /// hold them, because then they would go on being reported.
    fn unwatch(&self, call: &Running) {
        for (side, interest) in Side::BOTH.into_iter().zip(call.interest) {
            if interest != Interest::Nothing
                && let Err(error) = epoll::delete(&self.epoll, call.socket(side))
            {
                tracing::warn!(%error, "a socket could not be taken out of epoll");
            }
        }
    }
}

/// The call of a key. `None`: it is there no more.
fn at(places: &mut Shelves<Option<Running>>, index: u32, generation: u32) -> Option<&mut Running> {
    let call = places.get_mut(index as usize)?.as_mut();
    call.filter(|call| call.generation == generation)
}

const GENERATION_MASK: u32 = u32::MAX >> 1;

fn pack(index: u32, generation: u32, side: Side) -> u64 {
    let side = match side {
        Side::Caller => 0,
        Side::Worker => 1,
    };
    // No key is WAKE or DOOR: those would be of the place 2^32 - 1, and there are far fewer calls.
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
        let entry = size_of::<Option<Running>>();
        let own = entry - size_of::<crate::ledger::Ticket>();
        println!("entry: {entry} bytes, without its ticket {own}");
        assert!(own <= 48, "{own} bytes");
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
        let highest = pack(u32::MAX - 1, GENERATION_MASK, Side::Worker);
        assert!(highest < DOOR && DOOR < WAKE);
    }
}
