//! One connection to a keeper, from the gateway's side.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::geteuid;

use super::wire::{
    self, CALLS_PER_RECORD, CallKey, Figures, KEEPER_VERSION, Message as _, Received, Record,
    ToGateway, ToKeeper, WardId,
};

/// How long a keeper may take for an answer. It answers within a millisecond; one that was stopped
/// must not keep a gateway from starting.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long until it is looked whether the keeper has read.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// Nobody is there, or it is gone.
    #[error("the keeper cannot be reached")]
    Io(#[from] io::Error),
    /// It does not answer.
    #[error("the keeper does not answer")]
    Silent,
    /// It speaks another version.
    #[error("the keeper speaks version {0}, not {KEEPER_VERSION}")]
    Version(u64),
    /// It runs as another user.
    #[error("the keeper runs as user {0}")]
    Stranger(u32),
    /// A message out of turn.
    #[error("the keeper broke the protocol")]
    Protocol,
}

/// Asks the keeper at `path` what it holds.
///
/// # Errors
///
/// When there is none that answers.
pub fn census(path: &Path) -> Result<Figures, KeeperError> {
    let session = Session::connect(path)?;
    session.say(&ToKeeper::Census)?;
    match session.next(Instant::now() + PATIENCE)?.message {
        ToGateway::Figures(figures) => Ok(figures),
        _ => Err(KeeperError::Protocol),
    }
}

/// What a gateway left behind.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) ward: WardId,
    pub(crate) memory: Option<OwnedFd>,
    pub(crate) listener: Option<OwnedFd>,
    pub(crate) calls: HashMap<CallKey, [OwnedFd; 2]>,
}

/// A connection on which both sides have greeted.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) socket: OwnedFd,
    ward: WardId,
}

impl Session {
    /// Greets the keeper at `path`.
    pub(crate) fn connect(path: &Path) -> Result<Self, KeeperError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let socket = made.map_err(io::Error::from)?;
        let addr = SocketAddrUnix::new(path).map_err(io::Error::from)?;
        rustix::net::connect(&socket, &addr).map_err(io::Error::from)?;
        let peer = rustix::net::sockopt::socket_peercred(&socket).map_err(io::Error::from)?;
        if peer.uid != geteuid() {
            return Err(KeeperError::Stranger(peer.uid.as_raw()));
        }
        let mut session = Self { socket, ward: 0 };
        session.say(&ToKeeper::Hello {
            version: KEEPER_VERSION,
        })?;
        match session.next(Instant::now() + PATIENCE)?.message {
            ToGateway::Welcome {
                version: KEEPER_VERSION,
                ward,
            } => session.ward = ward,
            ToGateway::Welcome { version, .. } | ToGateway::Refused { version } => {
                return Err(KeeperError::Version(version));
            }
            _ => return Err(KeeperError::Protocol),
        }
        Ok(session)
    }

    /// The number of our ward at this keeper.
    pub(crate) fn ward(&self) -> WardId {
        self.ward
    }

    /// Takes what gateways left that are no more. It stays with the keeper, too, until we own it.
    pub(crate) fn claim(&self) -> Result<Vec<Orphan>, KeeperError> {
        self.claim_and_hear().map(|(orphans, _)| orphans)
    }

    /// As [`Session::claim`]; and which of our own calls could not be kept, if that came meanwhile.
    pub(super) fn claim_and_hear(&self) -> Result<(Vec<Orphan>, Vec<CallKey>), KeeperError> {
        self.say(&ToKeeper::Claim)?;
        let (mut orphans, mut unheld) = (Vec::<Orphan>::new(), Vec::new());
        loop {
            let Received { message, fds } = self.next(Instant::now() + PATIENCE)?;
            let mut fds = fds.into_iter();
            match message {
                ToGateway::Orphan {
                    ward,
                    memory,
                    listener,
                } => orphans.push(Orphan {
                    ward,
                    memory: memory.then(|| fds.next()).flatten(),
                    listener: listener.then(|| fds.next()).flatten(),
                    calls: HashMap::new(),
                }),
                ToGateway::Calls { ward, calls } => {
                    let orphan = orphans.iter_mut().find(|orphan| orphan.ward == ward);
                    let orphan = orphan.ok_or(KeeperError::Protocol)?;
                    for call in calls {
                        // If descriptors are missing we have no room for them.
                        if let (Some(caller), Some(worker)) = (fds.next(), fds.next()) {
                            orphan.calls.insert(call, [caller, worker]);
                        }
                    }
                }
                ToGateway::Claimed { wards } if wards == orphans.len() as u64 => {
                    return Ok((orphans, unheld));
                }
                ToGateway::Orphaned => {}
                ToGateway::Unheld(calls) => unheld.extend(calls),
                _ => return Err(KeeperError::Protocol),
            }
        }
    }

    /// Begins our ward.
    pub(crate) fn open(
        &self,
        memory: Option<BorrowedFd<'_>>,
        listener: Option<BorrowedFd<'_>>,
    ) -> Result<(), KeeperError> {
        let message = ToKeeper::Open {
            memory: memory.is_some(),
            listener: listener.is_some(),
        };
        let fds: Vec<BorrowedFd<'_>> = memory.into_iter().chain(listener).collect();
        self.send(&message.record(), &fds)
    }

    /// Gives calls into keeping, and waits until the keeper has room for them, but for no longer
    /// than `patience`, which is the less for it.
    pub(crate) fn hold_all<'a>(
        &self,
        calls: impl Iterator<Item = (CallKey, [BorrowedFd<'a>; 2])>,
        patience: &mut Duration,
    ) -> Result<(), KeeperError> {
        let calls: Vec<_> = calls.collect();
        for calls in calls.chunks(CALLS_PER_RECORD) {
            let record = wire::hold(calls.iter().map(|(call, _)| *call));
            let fds: Vec<BorrowedFd<'_>> = calls.iter().flat_map(|(_, ends)| *ends).collect();
            self.send_within(&record, &fds, patience)?;
        }
        Ok(())
    }

    /// Says something that needs no descriptors, and waits until there is room for it.
    pub(crate) fn say(&self, message: &ToKeeper) -> Result<(), KeeperError> {
        self.send(&message.record(), &[])
    }

    /// As [`Session::say`], with so much patience.
    pub(crate) fn say_within(
        &self,
        message: &ToKeeper,
        patience: &mut Duration,
    ) -> Result<(), KeeperError> {
        self.send_within(&message.record(), &[], patience)
    }

    fn send(&self, record: &Record, fds: &[BorrowedFd<'_>]) -> Result<(), KeeperError> {
        let mut patience = PATIENCE;
        self.send_within(record, fds, &mut patience)
    }

    fn send_within(
        &self,
        record: &Record,
        fds: &[BorrowedFd<'_>],
        patience: &mut Duration,
    ) -> Result<(), KeeperError> {
        loop {
            match wire::send(&self.socket, record, fds) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if patience.is_zero() {
                        return Err(KeeperError::Silent);
                    }
                    let began = Instant::now();
                    // Room for bytes is not yet room for descriptors, of which nobody tells.
                    self.wait(PollFlags::OUT, began + *patience)?;
                    self.wait(PollFlags::empty(), Instant::now() + LOOK_AGAIN)?;
                    *patience = patience.saturating_sub(began.elapsed());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What the keeper says next.
    pub(super) fn next(&self, deadline: Instant) -> Result<Received<ToGateway>, KeeperError> {
        loop {
            match wire::receive(&self.socket) {
                Ok(Some(received)) => return Ok(received),
                Ok(None) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::IN, deadline)? {
                        return Err(KeeperError::Silent);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// False: the deadline has passed.
    fn wait(&self, what: PollFlags, deadline: Instant) -> io::Result<bool> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut fds = [PollFd::new(&self.socket, what)];
        match poll(&mut fds, Some(&left)) {
            Ok(0) => Ok(Instant::now() < deadline),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}
