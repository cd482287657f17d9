//! The keeper: a thread that holds duplicates of what a gateway would lose with its life.
//!
//! It decides nothing and relays nothing: it takes what gateways give, and gives it to the next
//! one. It never waits for a gateway, and nothing that one says ends it. It dies of nothing but
//! the end of its process; then the gateways give everything to the next keeper.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, Resource, geteuid, getrlimit, pidfd_open};

use super::lenders::Lenders;
use super::ward::{Fault, Ward, Wards};
use super::wire::{
    self, CallKey, KEEPER_VERSION, Message as _, ORPHANS_PER_RECORD, Record, ToGateway, ToKeeper,
    WardId,
};

/// Gateways and askers that are connected at once. There are two or three.
const GUESTS_MAX: usize = 32;

/// Descriptors that are left to the rest of this process, which starts gateways.
const FDS_SPARE: usize = 256;

/// Records of one gateway that are read before the others are looked at.
const RECORDS_PER_TURN: usize = 64;

/// Records that wait for a gateway that does not read; beyond that the connection is closed. The
/// orphans of two full gateways are about this many.
const OUTBOX_MAX: usize = 4_096;

/// How long a process that has no descriptors or cannot send waits before it tries again.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// How often orphans are looked at that nobody claims.
const EXPIRY_EVERY: Duration = Duration::from_secs(30);

/// A running keeper. Dropping it closes everything it holds.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts one that listens at `path`, which must lie in a directory of this user alone. What
    /// is there already is replaced: there is one keeper per state directory.
    ///
    /// # Errors
    ///
    /// When the socket or the thread cannot be had.
    pub fn start(path: &Path) -> io::Result<Self> {
        Self::bounded(path, descriptors_max())
    }

    /// As [`Keeper::start`], with at most so many descriptors in keeping.
    pub(super) fn bounded(path: &Path, fds_max: usize) -> io::Result<Self> {
        let listener = listen(path)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let wake = Arc::new(wake);
        let server = Server {
            listener,
            wake: Arc::clone(&wake),
            wards: Wards::new(),
            guests: Vec::new(),
            // Random, so that no ward of an earlier keeper has the number of one of ours.
            next: u64::from(rand32()) << 31,
            fds_max,
            crowded: None,
            expires: None,
            lenders: None,
        };
        let thread = std::thread::Builder::new()
            .name("keeper".to_owned())
            .spawn(move || server.run())?;
        Ok(Self {
            path: path.to_owned(),
            wake,
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The counter cannot overflow by one.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
        // It may be the next keeper's already, which then is found no more: but there is one
        // keeper at a time.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn rand32() -> u32 {
    let random = uuid::Uuid::now_v7();
    let bytes = random.as_bytes().last_chunk().expect("of sixteen bytes");
    u32::from_le_bytes(*bytes)
}

fn listen(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// What may be held, by the limit of this process.
fn descriptors_max() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .saturating_sub(FDS_SPARE)
}

struct Server {
    listener: OwnedFd,
    wake: Arc<OwnedFd>,
    wards: Wards<OwnedFd>,
    guests: Vec<Guest>,
    next: WardId,
    fds_max: usize,
    /// There was no descriptor for one who wants to come in; the next try is then.
    crowded: Option<Instant>,
    expires: Option<Instant>,
    /// While there is no room for more descriptors.
    lenders: Option<Lenders>,
}

/// Who is connected, or was and may still live.
struct Guest {
    /// The number of its ward, if it opens one.
    ward: WardId,
    process: OwnedFd,
    link: Link,
    watches: bool,
    outbox: VecDeque<Parcel>,
    /// It does not read, or descriptors are scarce; the next try is then.
    stuck: Option<Instant>,
}

enum Link {
    /// It has not said what it speaks.
    Strange(OwnedFd),
    Greeted(OwnedFd),
    /// It has closed the connection; its process may live.
    Cut,
    /// Its process has ended.
    Dead,
}

impl Link {
    fn socket(&self) -> Option<&OwnedFd> {
        match self {
            Self::Strange(socket) | Self::Greeted(socket) => Some(socket),
            Self::Cut | Self::Dead => None,
        }
    }
}

/// What is to be sent. Descriptors are looked up when it is: they may be gone by then.
enum Parcel {
    Record(Box<Record>),
    Orphan(WardId),
    Calls(WardId, Vec<CallKey>),
}

/// What a poll was about.
#[derive(Clone, Copy)]
enum Source {
    Wake,
    Listener,
    Socket(usize),
    Process(usize),
}

impl Server {
    fn run(mut self) {
        loop {
            let (ready, sources) = self.wait();
            if sources.contains_wake(&ready) {
                return;
            }
            self.turn(&ready, &sources.0);
        }
    }

    /// Waits until there is something to do; answers for each source whether it is ready.
    fn wait(&self) -> (Vec<bool>, Sources) {
        let mut fds = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        let mut sources = vec![Source::Wake];
        if self.crowded.is_none() && self.guests.len() < GUESTS_MAX {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
            sources.push(Source::Listener);
        }
        for (index, guest) in self.guests.iter().enumerate() {
            if let Some(socket) = guest.link.socket() {
                let mut want = PollFlags::IN;
                want.set(
                    PollFlags::OUT,
                    !guest.outbox.is_empty() && guest.stuck.is_none(),
                );
                fds.push(PollFd::new(socket, want));
                sources.push(Source::Socket(index));
            }
            fds.push(PollFd::new(&guest.process, PollFlags::IN));
            sources.push(Source::Process(index));
        }
        let stuck = self.guests.iter().filter_map(|guest| guest.stuck);
        let due = stuck.chain(self.crowded).chain(self.expires).min();
        let timeout = due
            .and_then(|due| Timespec::try_from(due.saturating_duration_since(Instant::now())).ok());
        let ready = match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
            // A signal; or no memory, which passes.
            Err(_) => vec![false; fds.len()],
        };
        (ready, Sources(sources))
    }

    fn turn(&mut self, ready: &[bool], sources: &[Source]) {
        let now = Instant::now();
        self.crowded = self.crowded.filter(|due| *due > now);
        for guest in &mut self.guests {
            guest.stuck = guest.stuck.filter(|due| *due > now);
        }
        let is_ready = || sources.iter().zip(ready).filter(|(_, ready)| **ready);
        // The dead first: who claims what they left is asking for it in the same turn.
        for (source, _) in is_ready() {
            if let Source::Process(index) = source {
                self.bury(*index, now);
            }
        }
        for (source, _) in is_ready() {
            match source {
                Source::Socket(index) => self.hear(*index, RECORDS_PER_TURN),
                Source::Listener => self.welcome(now),
                Source::Wake | Source::Process(_) => {}
            }
        }
        for index in 0..self.guests.len() {
            self.speak(index, now);
        }
        let wards = &self.wards;
        self.guests.retain(|guest| match guest.link {
            Link::Strange(_) | Link::Greeted(_) => true,
            Link::Cut => wards.get(guest.ward).is_some(),
            Link::Dead => false,
        });
        if self.expires.is_some_and(|due| due <= now) {
            let ended = self.wards.expire(now);
            if ended > 0 {
                tracing::error!(ended, "no gateway took these calls back; they end");
            }
        }
        let due = self.expires.filter(|due| *due > now);
        let orphaned = self.wards.has_orphans();
        self.expires = orphaned.then(|| due.unwrap_or(now + EXPIRY_EVERY));
    }

    fn welcome(&mut self, now: Instant) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let met = rustix::net::accept_with(&self.listener, flags).and_then(|socket| {
            let peer = rustix::net::sockopt::socket_peercred(&socket)?;
            if peer.uid != geteuid() {
                let uid = peer.uid.as_raw();
                tracing::warn!(uid, "another user asks the keeper; it is not heard");
                return Ok(None);
            }
            let process = pidfd_open(peer.pid, PidfdFlags::empty())?;
            Ok(Some((socket, process)))
        });
        match met {
            Ok(Some((socket, process))) => {
                self.next += 1;
                self.guests.push(Guest {
                    ward: self.next,
                    process,
                    link: Link::Strange(socket),
                    watches: false,
                    outbox: VecDeque::new(),
                    stuck: None,
                });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the keeper cannot let a gateway in");
                self.crowded = Some(now + RETRY_AFTER);
            }
        }
    }

    /// Hears a guest that is no more to its end; what it leaves is an orphan then.
    fn bury(&mut self, index: usize, now: Instant) {
        self.hear(index, usize::MAX);
        let guest = &mut self.guests[index];
        guest.link = Link::Dead;
        guest.watches = false;
        guest.outbox.clear();
        let ward = guest.ward;
        self.orphan(ward, now);
    }

    fn orphan(&mut self, ward: WardId, now: Instant) {
        if !self.wards.died(ward, now) {
            return;
        }
        let calls = self.wards.get(ward).map_or(0, Ward::len);
        tracing::info!(
            calls,
            "a gateway is no more; its calls are kept for the next one"
        );
        for guest in self.guests.iter_mut().filter(|guest| guest.watches) {
            guest.tell(&ToGateway::Orphaned);
        }
    }

    /// Hears what a guest says, at most so many records.
    fn hear(&mut self, index: usize, records: usize) {
        for _ in 0..records {
            let guest = &self.guests[index];
            let Some(socket) = guest.link.socket() else {
                return;
            };
            let ended = match wire::receive(socket) {
                Ok(Some(received)) => self.on_message(index, received),
                Ok(None) => Err("it has closed the connection"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    Err("what it says is not understood")
                }
                Err(_) => Err("the connection failed"),
            };
            if let Err(why) = ended {
                tracing::debug!(why, "a gateway left the keeper");
                self.cut(index);
                return;
            }
        }
    }

    /// Ends the connection; what becomes of the ward is known when the process has ended.
    fn cut(&mut self, index: usize) {
        let guest = &mut self.guests[index];
        guest.link = Link::Cut;
        guest.outbox.clear();
        guest.watches = false;
        self.wards.cut(guest.ward);
    }

    fn on_message(
        &mut self,
        index: usize,
        received: wire::Received<ToKeeper>,
    ) -> Result<(), &'static str> {
        let guest = &mut self.guests[index];
        let id = guest.ward;
        let fds = received.fds;
        match (&guest.link, received.message) {
            (Link::Strange(_), ToKeeper::Hello { version }) => {
                let (version, ward) = if version == KEEPER_VERSION {
                    (version, id)
                } else {
                    let refused = ToGateway::Refused {
                        version: KEEPER_VERSION,
                    };
                    guest.tell(&refused);
                    self.speak(index, Instant::now());
                    return Err("it speaks another version");
                };
                guest.tell(&ToGateway::Welcome { version, ward });
                let link = std::mem::replace(&mut guest.link, Link::Cut);
                if let Link::Strange(socket) = link {
                    guest.link = Link::Greeted(socket);
                }
                Ok(())
            }
            (Link::Strange(_), _) => Err("it did not greet"),
            (_, ToKeeper::Hello { .. }) => Err("it greets twice"),
            (_, ToKeeper::Claim) => self.on_claim(index),
            (_, ToKeeper::Open { memory, listener }) => {
                let mut fds = fds.into_iter();
                let memory = memory.then(|| fds.next()).flatten();
                let listener = listener.then(|| fds.next()).flatten();
                let opened = self.wards.open(id, memory, listener);
                opened.map_err(|_| "there are too many wards, or it has one")
            }
            (_, ToKeeper::Hold(calls)) => {
                self.on_hold(index, &calls, fds);
                Ok(())
            }
            (_, ToKeeper::Release(calls)) => {
                for call in calls {
                    self.wards.release(id, call);
                }
                Ok(())
            }
            (_, ToKeeper::Own(replaces)) => {
                // One that was taken over meanwhile owns nothing.
                let _ = self.wards.own(id, &replaces);
                self.lenders = None;
                Ok(())
            }
            (_, ToKeeper::Unlisten) => {
                self.wards.unlisten(id);
                Ok(())
            }
            (_, ToKeeper::Watch(watches)) => {
                guest.watches = watches;
                if watches && self.wards.has_unclaimed() {
                    guest.tell(&ToGateway::Orphaned);
                }
                Ok(())
            }
            (_, ToKeeper::Give) => {
                guest.watches = false;
                self.orphan(id, Instant::now());
                Ok(())
            }
            (_, ToKeeper::Bye) => {
                self.wards.bye(id);
                Ok(())
            }
            (_, ToKeeper::Census) => {
                guest.tell(&ToGateway::Figures(self.wards.figures()));
                Ok(())
            }
        }
    }

    /// Takes the calls whose descriptors arrived and for which there is room.
    fn on_hold(&mut self, index: usize, calls: &[CallKey], fds: Vec<OwnedFd>) {
        let id = self.guests[index].ward;
        let (mut fds, mut unheld) = (fds.into_iter(), Vec::new());
        for call in calls {
            let (caller, worker) = (fds.next(), fds.next());
            if self.wards.holds(id, *call) {
                continue;
            }
            let room = self.wards.descriptors() + 2 <= self.fds_max;
            let held = match (caller, worker) {
                (Some(caller), Some(worker)) if room => {
                    self.wards.hold(id, *call, [caller, worker])
                }
                (Some(caller), Some(_)) => self.share(id, *call, &caller),
                _ => Err(Fault::NoRoom),
            };
            if matches!(held, Err(Fault::TooManyCalls | Fault::NoRoom)) {
                unheld.push(*call);
            }
        }
        if !unheld.is_empty() {
            self.wards.count_unheld(unheld.len());
            self.guests[index].tell(&ToGateway::Unheld(unheld));
        }
    }

    /// Holds a call without descriptors of its own, if the gateway has it from another one whose
    /// calls are here, too: in a handoff, and after a crash.
    fn share(&mut self, id: WardId, call: CallKey, caller: &OwnedFd) -> Result<(), Fault> {
        let known = self.lenders.take();
        let lenders = known.filter(|lenders| lenders.are_of(id));
        let lenders = lenders.unwrap_or_else(|| Lenders::find(id, &self.wards));
        let lent = lenders.lent(caller, &self.wards);
        self.lenders = Some(lenders);
        self.wards.share(lent.ok_or(Fault::NoRoom)?, id, call)
    }

    /// Gives all orphans, those included whose gateway died this very moment.
    fn on_claim(&mut self, index: usize) -> Result<(), &'static str> {
        let now = Instant::now();
        for other in 0..self.guests.len() {
            if other != index && has_ended(&self.guests[other].process) {
                self.bury(other, now);
            }
        }
        let guest = &mut self.guests[index];
        let claimed = self.wards.claim(guest.ward);
        for id in &claimed {
            guest.outbox.push_back(Parcel::Orphan(*id));
            let ward = self.wards.get(*id).expect("it was just claimed");
            let calls: Vec<CallKey> = ward.keys().collect();
            for calls in calls.chunks(ORPHANS_PER_RECORD) {
                guest.outbox.push_back(Parcel::Calls(*id, calls.to_vec()));
            }
        }
        let wards = claimed.len() as u64;
        guest.tell(&ToGateway::Claimed { wards });
        if guest.outbox.len() > OUTBOX_MAX {
            return Err("it does not read");
        }
        Ok(())
    }

    /// Sends what a guest takes of what waits for it.
    fn speak(&mut self, index: usize, now: Instant) {
        let guest = &mut self.guests[index];
        if guest.stuck.is_some() {
            return;
        }
        let Some(socket) = guest.link.socket() else {
            return;
        };
        while let Some(parcel) = guest.outbox.front() {
            match deliver(socket, parcel, &self.wards) {
                Ok(()) => {
                    guest.outbox.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    guest.stuck = Some(now + RETRY_AFTER);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It is gone: hearing it says so.
                Err(_) => {
                    guest.outbox.clear();
                    return;
                }
            }
        }
    }
}

impl Guest {
    fn tell(&mut self, message: &ToGateway) {
        if self.outbox.len() < OUTBOX_MAX {
            self.outbox
                .push_back(Parcel::Record(Box::new(message.record())));
        }
    }
}

struct Sources(Vec<Source>);

impl Sources {
    fn contains_wake(&self, ready: &[bool]) -> bool {
        let woken = |(source, ready): (&Source, &bool)| matches!(source, Source::Wake) && *ready;
        self.0.iter().zip(ready).any(woken)
    }
}

fn deliver(socket: &OwnedFd, parcel: &Parcel, wards: &Wards<OwnedFd>) -> io::Result<()> {
    match parcel {
        Parcel::Record(record) => wire::send(socket, record, &[]),
        Parcel::Orphan(id) => {
            let Some(ward) = wards.get(*id) else {
                return Ok(());
            };
            let message = ToGateway::Orphan {
                ward: *id,
                memory: ward.memory.is_some(),
                listener: ward.listener.is_some(),
            };
            let fds = ward.memory.iter().chain(&ward.listener);
            let fds: Vec<BorrowedFd<'_>> = fds.map(|fd| fd.as_fd()).collect();
            wire::send(socket, &message.record(), &fds)
        }
        Parcel::Calls(id, calls) => {
            let Some(ward) = wards.get(*id) else {
                return Ok(());
            };
            let (mut there, mut fds) = (Vec::new(), Vec::new());
            for call in calls {
                if let Some(ends) = ward.ends(*call) {
                    there.push(*call);
                    fds.extend(ends.iter().map(|fd| fd.as_fd()));
                }
            }
            let message = ToGateway::Calls {
                ward: *id,
                calls: there,
            };
            wire::send(socket, &message.record(), &fds)
        }
    }
}

/// Whether a process is no more.
fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
}
