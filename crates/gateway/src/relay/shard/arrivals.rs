//! Calls that a shard sets up by itself: see [`Arriving`].
//!
//! Live calls come first. Of callers who arrive, only a few are accepted and seen to in each turn,
//! behind the frames of that turn; the kernel reports the others again.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use crate::clock;
use crate::front::arriving::{Arriving, Awaits, Leaving, Next};
use crate::front::{ACCEPT_REST, Front, say_unaccepted};
use crate::quiet::Quiet;
use crate::relay::LiveCall;
use crate::relay::interest::Interest;
use crate::relay::listening::Mailbox;
use crate::relay::running::Running;
use crate::relay::side::Side;

use super::{Command, GENERATION_MASK, Shard, pack, unpack};

/// Marks the listener.
pub(super) const DOOR: u64 = u64::MAX - 1;

/// Accepted in one turn: a tenth of a millisecond, for which frames may wait.
const ACCEPTS_MAX: usize = 16;

/// Steps of callers who arrive in one turn. One that dials takes some 30 microseconds.
const STEPS_MAX: usize = 16;

/// How long an ordinary call takes at most, from the connection to the worker's 101: far longer
/// than on one machine or in one network. Who takes longer is waited for by a task.
const PATIENCE: Duration = Duration::from_millis(20);

/// Calls that a shard may have more than the emptiest one: moving each one costs a wake-up.
const LEAD_MAX: usize = 64;

/// Sockets that cannot be watched: while there is no room, each caller tries.
static UNWATCHED: Quiet = Quiet::new();

/// What shards need to accept by themselves.
pub(in crate::relay) struct Listen {
    pub(in crate::relay) listener: TcpListener,
    pub(in crate::relay) front: Arc<Front>,
    pub(in crate::relay) shards: Vec<Mailbox>,
}

/// Whether a shard accepts.
#[derive(Default)]
enum Door {
    #[default]
    Closed,
    Open(Arc<Listen>),
    /// No descriptor or no watch is left; open again then.
    Resting(Arc<Listen>, Instant),
}

/// See the module.
#[derive(Default)]
pub(super) struct Arrivals {
    door: Door,
    /// By the keys of their callers' sockets. Each has a place that nothing else is in.
    here: HashMap<u64, Box<Arriving>>,
    /// When they leave; the wait is the same for all, so a queue is in order.
    patience: VecDeque<(Instant, u64)>,
    /// Keys of sockets where something happened in this turn.
    ready: Vec<u64>,
}

impl Arrivals {
    /// Something happened on a socket that is none of a live call.
    pub(super) fn note(&mut self, key: u64) {
        if self.here.contains_key(&key_of_caller(key)) {
            self.ready.push(key);
        }
    }

    /// When something is to be done. `None`: nothing is.
    pub(super) fn due(&self) -> Option<Instant> {
        let opens = match &self.door {
            Door::Resting(_, until) => Some(*until),
            Door::Closed | Door::Open(_) => None,
        };
        let leaves = self.patience.front().map(|(deadline, _)| *deadline);
        opens.into_iter().chain(leaves).min()
    }
}

impl Shard {
    pub(super) fn listen(&mut self, listen: Arc<Listen>) {
        let data = EventData::new_u64(DOOR);
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        self.arrivals.door = match epoll::add(&self.epoll, &listen.listener, data, flags) {
            Ok(()) => Door::Open(listen),
            Err(error) => {
                say_unaccepted(&error.into());
                Door::Resting(listen, Instant::now() + ACCEPT_REST)
            }
        };
    }

    /// Accepts nobody any more. Who is arriving goes on elsewhere.
    pub(super) fn unlisten(&mut self) {
        self.leave_door();
        let here: Vec<u64> = self.arrivals.here.keys().copied().collect();
        for key in here {
            self.send_off(key);
        }
        self.arrivals.patience.clear();
    }

    /// Takes the listener out of the epoll set: others have it, too, so closing it is not enough.
    fn leave_door(&mut self) -> Option<Arc<Listen>> {
        match std::mem::take(&mut self.arrivals.door) {
            Door::Closed => None,
            Door::Open(listen) => {
                if let Err(error) = epoll::delete(&self.epoll, &listen.listener) {
                    tracing::warn!(%error, "the listener could not be taken out of epoll");
                }
                Some(listen)
            }
            Door::Resting(listen, _) => Some(listen),
        }
    }

    /// Sees to who arrives, behind the frames of a turn.
    pub(super) fn see_to_arrivals(&mut self, knocked: bool) {
        let mut ready = std::mem::take(&mut self.arrivals.ready);
        for key in ready.drain(..).take(STEPS_MAX) {
            self.step(key);
        }
        self.arrivals.ready = ready;
        if knocked {
            self.accept();
        }
        self.send_off_late();
        if let Door::Resting(listen, until) = &self.arrivals.door
            && *until <= Instant::now()
        {
            let listen = Arc::clone(listen);
            self.listen(listen);
        }
        self.wake.load.store(self.load(), Ordering::Relaxed);
    }

    fn load(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn accept(&mut self) {
        let Door::Open(listen) = &self.arrivals.door else {
            return;
        };
        let listen = Arc::clone(listen);
        for _ in 0..ACCEPTS_MAX {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match acceptfrom_with(&listen.listener, flags) {
                Ok((socket, peer)) => {
                    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    let socket = TcpStream::from(socket);
                    // Without its peer it is gone already.
                    let taken = peer.and_then(|peer| listen.front.take_up(socket, peer));
                    if let Some(arriving) = taken {
                        self.seat(arriving, &listen.shards);
                    }
                    if !matches!(self.arrivals.door, Door::Open(_)) {
                        return;
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    say_unaccepted(&error.into());
                    self.rest();
                    return;
                }
            }
        }
    }

    /// The kernel has no room for one more: nobody is accepted for a moment.
    fn rest(&mut self) {
        if let Some(listen) = self.leave_door() {
            let until = Instant::now() + ACCEPT_REST;
            self.arrivals.door = Door::Resting(listen, until);
        }
    }

    /// A task goes on with whoever cannot be watched here.
    fn rest_unwatched(&mut self, error: Errno) {
        if let Some(unsaid) = UNWATCHED.may_say(clock::now()) {
            tracing::error!(%error, unsaid, "a caller or its worker cannot be watched");
        }
        self.rest();
    }

    /// Here, or where there is far more room.
    fn seat(&mut self, arriving: Box<Arriving>, shards: &[Mailbox]) {
        let emptiest = shards.iter().min_by_key(|shard| shard.load());
        let there = emptiest.filter(|shard| self.load() > shard.load() + LEAD_MAX);
        let unsent = match there {
            Some(shard) => shard.send(Command::Arrive(arriving)).err(),
            None => Some(Command::Arrive(arriving)),
        };
        if let Some(Command::Arrive(arriving)) = unsent {
            self.arrive(arriving);
        }
    }

    pub(super) fn arrive(&mut self, arriving: Box<Arriving>) {
        if matches!(self.arrivals.door, Door::Closed) {
            arriving.leave().go();
            return;
        }
        self.generation = (self.generation + 1) & GENERATION_MASK;
        let index = self.room();
        let key = pack(index, self.generation, Side::Caller);
        if let Err(error) = self.watch(arriving.caller(), key, EventFlags::IN) {
            self.free.push(index);
            self.rest_unwatched(error);
            arriving.leave().go();
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        self.arrivals.patience.push_back((deadline, key));
        self.arrivals.here.insert(key, arriving);
    }

    fn watch(&self, socket: &TcpStream, key: u64, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, socket, EventData::new_u64(key), flags)
    }

    fn step(&mut self, key: u64) {
        let Some(arriving) = self.arrivals.here.remove(&key_of_caller(key)) else {
            return;
        };
        let (index, generation, side) = unpack(key);
        let awaited = arriving.awaits();
        let buffer = &mut *self.lane.buffer;
        // What one stranger says must not end this thread and all its calls.
        let next = catch_unwind(AssertUnwindSafe(|| arriving.step(side, buffer)));
        match next {
            Ok(Next::Waits(arriving)) => self.wait_on(index, generation, awaited, arriving),
            Ok(Next::Stands(call, guest)) => {
                self.stand(index, generation, *call);
                drop(guest);
            }
            Ok(Next::Leaves(leaving)) => {
                self.free.push(index);
                self.let_go(leaving, awaited);
            }
            // Its sockets are closed, and nobody else had them.
            Ok(Next::Gone) | Err(_) => self.free.push(index),
        }
    }

    fn wait_on(&mut self, index: u32, generation: u32, had: Awaits, arriving: Box<Arriving>) {
        let key = pack(index, generation, Side::Worker);
        let data = EventData::new_u64(key);
        let flags = |awaits| match awaits {
            Awaits::Connected => EventFlags::OUT,
            Awaits::NoWorker | Awaits::Bytes => EventFlags::IN,
        };
        let awaits = arriving.awaits();
        let watched = match arriving.worker() {
            Some(worker) if had == Awaits::NoWorker => self.watch(worker, key, flags(awaits)),
            Some(worker) if had != awaits => {
                epoll::modify(&self.epoll, worker, data, flags(awaits))
            }
            _ => Ok(()),
        };
        if let Err(error) = watched {
            self.free.push(index);
            self.rest_unwatched(error);
            self.let_go(arriving.leave(), had);
            return;
        }
        self.arrivals.here.insert(key_of_caller(key), arriving);
    }

    /// A call stands whose sockets are watched already.
    fn stand(&mut self, index: u32, generation: u32, call: LiveCall) {
        let Some(mut call) = Running::new(call, &self.lane, generation) else {
            self.free.push(index);
            return;
        };
        call.interest = [Interest::Read; 2];
        self.places[index as usize] = Some(call);
        self.hold_if_young(index);
        self.begin(index);
    }

    fn send_off_late(&mut self) {
        while let Some((deadline, key)) = self.arrivals.patience.front().copied() {
            if self.arrivals.here.contains_key(&key) {
                if deadline > Instant::now() {
                    return;
                }
                self.send_off(key);
            }
            self.arrivals.patience.pop_front();
        }
    }

    /// A task goes on with it.
    fn send_off(&mut self, key: u64) {
        let Some(arriving) = self.arrivals.here.remove(&key) else {
            return;
        };
        let (index, ..) = unpack(key);
        self.free.push(index);
        let awaited = arriving.awaits();
        self.let_go(arriving.leave(), awaited);
    }

    fn let_go(&self, leaving: Leaving, awaited: Awaits) {
        let (caller, worker) = leaving.sockets();
        let worker = worker.filter(|_| awaited != Awaits::NoWorker);
        for socket in [Some(caller), worker].into_iter().flatten() {
            if let Err(error) = epoll::delete(&self.epoll, socket) {
                tracing::warn!(%error, "a socket could not be taken out of epoll");
            }
        }
        leaving.go();
    }
}

fn key_of_caller(key: u64) -> u64 {
    let (index, generation, _) = unpack(key);
    pack(index, generation, Side::Caller)
}
