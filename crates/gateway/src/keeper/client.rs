//! A gateway's side: gives what it has into keeping, for as long as it lives.
//!
//! The relay tells it of calls and never waits. A thread keeps the connection: when the keeper goes
//! away it looks for the next one and gives everything to that again; and when a gateway dies that
//! nobody starts again, because it took no new calls, it takes what that one left.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::relay::{Held, Keep, Relay};

use super::session::{KeeperError, Orphan, Session, census};
use super::unheld::Unheld;
use super::wire::{self, CALLS_PER_RECORD, CallKey, ToGateway, ToKeeper, WardId};

/// First wait before the keeper is looked for again, and the longest: calls are kept again within
/// this time after a keeper is back.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Wards that were ours and are said to be so again to each keeper. Each reconnection and each
/// orphan is one; a keeper holds sixteen.
const OWNED_MAX: usize = CALLS_PER_RECORD;

/// How long calls may take to be taken back before they are given up: a hundred times as long as
/// it takes.
const SETTLE_MAX: Duration = Duration::from_secs(1);

/// How long a ward counts beside the one that comes behind it on a new connection: a hundred times
/// as long as it takes to fill that again. Who dies meanwhile leaves both.
const OVERLAP: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Keeping {
    path: PathBuf,
    state: Mutex<State>,
    wake: OwnedFd,
    ends: AtomicBool,
    /// Held while we become another ward, or take what others left. See [`Keeping::still`].
    turns: Mutex<()>,
}

struct State {
    link: Option<Arc<Session>>,
    memory: Option<OwnedFd>,
    /// While we listen.
    listener: Option<OwnedFd>,
    /// Whether we take what others leave.
    watches: bool,
    /// Wards whose calls are in our hands, in the order in which they came.
    owned: Vec<WardId>,
    /// Whether we relay: before, our ward does not count.
    relays: bool,
    /// When what we had at earlier connections is to be dropped.
    overlap: Option<Instant>,
}

impl Keeping {
    /// Nothing is kept until [`Keeping::begin`].
    pub(crate) fn new(path: PathBuf) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            path,
            state: Mutex::new(State {
                link: None,
                memory: None,
                listener: None,
                watches: false,
                owned: Vec::new(),
                relays: false,
                overlap: None,
            }),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ends: AtomicBool::new(false),
            turns: Mutex::default(),
        }))
    }

    /// Greets the keeper. Says once why there is none.
    pub(crate) fn connect(&self) -> Option<Session> {
        match Session::connect(&self.path) {
            Ok(session) => Some(session),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "calls are not kept: they would end with this process, should it die"
                );
                None
            }
        }
    }

    /// Gives our memory and our listener into keeping, on this connection if there is one and on
    /// every later one.
    pub(crate) fn begin(
        &self,
        session: Option<Session>,
        memory: Option<OwnedFd>,
        listener: Option<OwnedFd>,
    ) {
        {
            let mut state = self.state();
            (state.memory, state.listener) = (memory, listener);
        }
        if let Some(session) = session {
            self.open(session);
        }
    }

    /// Gives memory and listener to a keeper that has greeted us. False: it does not take them.
    fn open(&self, session: Session) -> bool {
        // Not under the lock, which the relay takes.
        let (memory, listener, relays, watches) = {
            let mut state = self.state();
            state.owned.push(session.ward());
            let again = |fd: &Option<OwnedFd>| fd.as_ref().and_then(|fd| fd.try_clone().ok());
            let (memory, listener) = (again(&state.memory), again(&state.listener));
            (memory, listener, state.relays, state.watches)
        };
        let memory = memory.as_ref().map(|fd| fd.as_fd());
        let listener = listener.as_ref().map(|fd| fd.as_fd());
        let opened = session.open(memory, listener).and_then(|()| {
            if relays {
                // What this keeper may still have of us is full, and counts until this ward is.
                session.say(&ToKeeper::Own(Vec::new()))?;
            }
            session.say(&ToKeeper::Watch(watches))
        });
        match opened {
            Ok(()) => {
                let mut state = self.state();
                state.link = Some(Arc::new(session));
                state.overlap = relays.then(|| Instant::now() + OVERLAP);
            }
            Err(error) => tracing::warn!(%error, "the keeper does not take us"),
        }
        self.state().link.is_some()
    }

    fn tell(&self, link: Option<&Arc<Session>>, messages: &[ToKeeper]) {
        let Some(link) = link else { return };
        for message in messages {
            if let Err(error) = link.say(message) {
                self.lose(link, &error);
                return;
            }
        }
    }

    /// Waits until the keeper has room for these calls, but for no longer than `patience`, which is
    /// the less for it. Only before they are relayed. False: it does not have them all.
    pub(crate) fn hold_first(&self, calls: &[Held<'_>], patience: &mut Duration) -> bool {
        let link = self.state().link.clone();
        let Some(link) = link else { return false };
        let held = calls
            .iter()
            .map(|call| (key(call), [call.caller, call.worker]));
        match link.hold_all(held, patience) {
            Ok(()) => true,
            // The relay gives it the others, whenever it reads on.
            Err(KeeperError::Silent) => false,
            Err(error) => {
                self.lose(&link, &error);
                false
            }
        }
    }

    /// These calls (slot and generation) ended with somebody else, before they were ours.
    pub(crate) fn let_go(&self, calls: &[(u32, u32)]) {
        if let Err(error) = self.release(calls) {
            // Their slots are free, so nobody takes them back.
            tracing::debug!(%error, "the keeper holds calls that are over");
        }
    }

    /// Another gateway may have told the keeper that our calls are its own, and is no more. Gives
    /// them into keeping again, in the place of that, before anybody relays them.
    pub(crate) fn renew(&self, theirs: WardId, calls: &[Held<'_>], patience: &mut Duration) {
        super::fail_at("renewing");
        let session = self.connect();
        let (before, memory, listener, watches, owned) = {
            let mut state = self.state();
            state.owned.push(theirs);
            state.owned.extend(session.as_ref().map(Session::ward));
            let again = |fd: &Option<OwnedFd>| fd.as_ref().and_then(|fd| fd.try_clone().ok());
            let (memory, listener) = (again(&state.memory), again(&state.listener));
            let (watches, owned) = (state.watches, state.owned());
            (state.link.take(), memory, listener, watches, owned)
        };
        if let Some(session) = session {
            let memory = memory.as_ref().map(|fd| fd.as_fd());
            let listener = listener.as_ref().map(|fd| fd.as_fd());
            let held = calls
                .iter()
                .map(|call| (key(call), [call.caller, call.worker]));
            let renewed = session
                .open(memory, listener)
                .and_then(|()| session.hold_all(held, patience))
                .and_then(|()| session.say(&ToKeeper::Own(owned)))
                .and_then(|()| session.say(&ToKeeper::Watch(watches)));
            match renewed {
                Ok(()) => self.state().link = Some(Arc::new(session)),
                // The thread looks for a keeper, and tells it all of that.
                Err(error) => tracing::warn!(%error, "calls are not kept for a moment"),
            }
        }
        if let Some(before) = before {
            // The thread hears the end of it, and goes on with the other one.
            let _ = rustix::net::shutdown(&before.socket, rustix::net::Shutdown::Both);
        }
        super::fail_at("renewed");
    }

    /// While this is held, what we are to the keeper stays as it is, and nothing is taken that
    /// others left.
    pub(crate) fn still(&self) -> MutexGuard<'_, ()> {
        // There is nothing behind it.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What we are to the keeper, and were.
    pub(crate) fn wards(&self) -> Vec<WardId> {
        self.state().owned()
    }

    /// Waits until nobody's calls wait to be taken back, for at most [`SETTLE_MAX`].
    pub(crate) fn settle(&self) {
        let began = Instant::now();
        while began.elapsed() < SETTLE_MAX
            && census(&self.path).is_ok_and(|figures| figures.orphaned > 0)
        {
            self.rest(None, Some(BACKOFF.0));
        }
    }

    /// The calls of these wards are in our hands, and may be relayed once this returns: without the
    /// keeper, if that does not read for so long.
    pub(crate) fn own(&self, wards: &[WardId], patience: &mut Duration) {
        let mut state = self.state();
        state.owned.extend(wards);
        (state.relays, state.overlap) = (true, None);
        let (link, owned) = (state.link.clone(), state.owned());
        drop(state);
        if let Some(link) = link
            && let Err(error) = link.say_within(&ToKeeper::Own(owned), patience)
        {
            self.lose(&link, &error);
        }
    }

    /// Drops what we had at earlier connections, if it is time.
    fn end_overlap(&self, now: Instant) {
        let mut state = self.state();
        if state.overlap.is_none_or(|due| due > now) {
            return;
        }
        state.overlap = None;
        let (link, owned) = (state.link.clone(), state.owned());
        drop(state);
        self.tell(link.as_ref(), &[ToKeeper::Own(owned)]);
    }

    /// What we are to the keeper.
    pub(crate) fn ward(&self) -> Option<WardId> {
        self.state().link.as_ref().map(|link| link.ward())
    }

    /// We listen no more, and take no more of what others leave.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        (state.listener, state.watches) = (None, false);
        let link = state.link.clone();
        drop(state);
        self.tell(link.as_ref(), &[ToKeeper::Watch(false), ToKeeper::Unlisten]);
    }

    /// Our calls are another gateway's now.
    pub(crate) fn give(&self) {
        // What stays with us cannot be kept.
        let link = self.state().link.take();
        self.tell(link.as_ref(), &[ToKeeper::Give]);
        self.end();
    }

    /// We end in order.
    pub(crate) fn bye(&self) {
        let link = self.state().link.take();
        self.tell(link.as_ref(), &[ToKeeper::Bye]);
        self.end();
    }

    fn end(&self) {
        self.ends.store(true, Ordering::Release);
        // The counter cannot overflow by one.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Keeps the connection on a thread of its own, until we end. `adopt` takes calls that others
    /// left.
    pub(crate) fn run(
        self: &Arc<Self>,
        relay: Arc<Relay>,
        adopt: impl Fn(Vec<Orphan>) + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let link = {
            let mut state = self.state();
            state.watches = true;
            state.link.clone()
        };
        self.tell(link.as_ref(), &[ToKeeper::Watch(true)]);
        let keeping = Arc::clone(self);
        std::thread::Builder::new()
            .name("keeping".to_owned())
            .spawn(move || keeping.keep(&relay, &adopt))
    }

    fn keep(&self, relay: &Relay, adopt: &dyn Fn(Vec<Orphan>)) {
        let mut backoff = BACKOFF.0;
        while !self.ends.load(Ordering::Acquire) {
            let link = self.state().link.clone();
            if let Some(link) = link {
                let ended = self.listen(&link, relay, adopt);
                if let Err(error) = ended {
                    self.lose(&link, &error);
                }
                backoff = BACKOFF.0;
                continue;
            }
            let turn = self.still();
            if self.ends.load(Ordering::Acquire) {
                return;
            }
            if Session::connect(&self.path).is_ok_and(|session| self.open(session)) {
                tracing::info!("a keeper is there; calls are kept again");
                relay.hold_all();
            } else {
                drop(turn);
                self.rest(None, Some(backoff));
                backoff = (backoff * 2).min(BACKOFF.1);
            }
        }
    }

    /// Hears the keeper until it or we end.
    fn listen(
        &self,
        link: &Session,
        relay: &Relay,
        adopt: &dyn Fn(Vec<Orphan>),
    ) -> Result<(), KeeperError> {
        let mut unheld = Unheld::default();
        while !self.ends.load(Ordering::Acquire) {
            match wire::receive(&link.socket) {
                Ok(Some(received)) => match received.message {
                    ToGateway::Orphaned => {
                        let _turn = self.still();
                        if self.ends.load(Ordering::Acquire) {
                            // Whoever has our calls takes those, too.
                            return Ok(());
                        }
                        let (mut orphans, calls) = link.claim_and_hear()?;
                        unheld.add(calls, Instant::now());
                        let owned = self.state().owned.clone();
                        // Ours already: the keeper was not told in time.
                        let known: Vec<WardId> = orphans
                            .extract_if(.., |orphan| owned.contains(&orphan.ward))
                            .map(|orphan| orphan.ward)
                            .collect();
                        if !known.is_empty() {
                            link.say(&ToKeeper::Own(known))?;
                        }
                        if !orphans.is_empty() {
                            adopt(orphans);
                        }
                    }
                    ToGateway::Unheld(calls) => unheld.add(calls, Instant::now()),
                    _ => return Err(KeeperError::Protocol),
                },
                Ok(None) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let due = [unheld.due(), self.state().overlap].into_iter().flatten();
                    let due = due.min();
                    let left = due.map(|due| due.saturating_duration_since(Instant::now()));
                    self.rest(Some(link), left);
                    if self.state().link.is_none() {
                        return Ok(());
                    }
                    let now = Instant::now();
                    self.end_overlap(now);
                    if let Some(calls) = unheld.take_due(now) {
                        relay.hold_again(calls);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for a word of the keeper, for the end, or for so long.
    fn rest(&self, link: Option<&Session>, patience: Option<Duration>) {
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        fds.extend(link.map(|link| PollFd::new(&link.socket, PollFlags::IN)));
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        // A signal, or no memory, which passes.
        let _ = poll(&mut fds, patience.as_ref());
    }

    /// The connection is of no use any more.
    fn lose(&self, link: &Arc<Session>, error: &KeeperError) {
        let mut state = self.state();
        if let Some(current) = &state.link
            && Arc::ptr_eq(current, link)
        {
            state.link = None;
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "the keeper is gone; calls go on, unkept until there is another"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after every change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends without waiting. With no keeper there is nothing to do: the next one is given
    /// everything.
    fn send(&self, record: &wire::Record, fds: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
        let state = self.state();
        let Some(link) = &state.link else {
            return Ok(());
        };
        match wire::send(&link.socket, record, fds) {
            // The thread hears the end of the connection, too, and gives everything to the next.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(()),
            sent => sent,
        }
    }
}

impl State {
    fn owned(&self) -> Vec<WardId> {
        let from = self.owned.len().saturating_sub(OWNED_MAX);
        self.owned[from..].to_vec()
    }
}

fn key(call: &Held<'_>) -> CallKey {
    CallKey {
        slot: call.slot,
        generation: call.generation,
    }
}

impl Keep for Keeping {
    fn hold(&self, calls: &[Held<'_>]) -> io::Result<()> {
        for calls in calls.chunks(CALLS_PER_RECORD) {
            let fds: Vec<_> = calls
                .iter()
                .flat_map(|call| [call.caller, call.worker])
                .collect();
            self.send(&wire::hold(calls.iter().map(key)), &fds)?;
        }
        Ok(())
    }

    fn release(&self, slots: &[(u32, u32)]) -> io::Result<()> {
        for slots in slots.chunks(CALLS_PER_RECORD) {
            let keys = slots.iter().map(|(slot, generation)| CallKey {
                slot: *slot,
                generation: *generation,
            });
            self.send(&wire::release(keys), &[])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::keeper::{Figures, Keeper};

    #[test]
    fn what_a_keeper_has_of_us_counts_until_it_was_told_again() {
        let name = format!("keeping-{}", uuid::Uuid::now_v7().simple());
        let path = std::env::temp_dir().join(name);
        let _keeper = Keeper::start(&path).unwrap();
        let until = |wished: &dyn Fn(&Figures) -> bool| {
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                let figures = census(&path).unwrap();
                if wished(&figures) {
                    return figures;
                }
                assert!(Instant::now() < deadline, "in vain: {figures:?}");
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ends = [(); 2].map(|()| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let call = || Held {
            slot: 1,
            generation: 1,
            caller: ends[0].as_fd(),
            worker: ends[1].as_fd(),
        };
        let keeping = Keeping::new(path.clone()).unwrap();
        keeping.begin(keeping.connect(), None, None);
        keeping.own(&[], &mut Duration::from_secs(1));
        keeping.hold(&[call()]).unwrap();
        until(&|figures| figures.held == 1);

        // The connection breaks, and another one is made.
        keeping.state().link = None;
        let session = keeping.connect().unwrap();
        assert!(keeping.open(session));
        let figures = until(&|figures| figures.gateways == 2);
        assert_eq!(figures.held, 1, "nothing was told again yet");
        keeping.hold(&[call()]).unwrap();
        until(&|figures| figures.held == 2);
        keeping.end_overlap(Instant::now());
        assert_eq!(census(&path).unwrap().gateways, 2, "it may not be all");
        keeping.end_overlap(Instant::now() + OVERLAP);
        let figures = until(&|figures| figures.gateways == 1);
        assert_eq!((figures.held, figures.orphaned), (1, 0));
    }
}
