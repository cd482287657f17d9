//! The side that starts and takes.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use segue_core::time::Timestamp;

use crate::front::Parked;
use crate::keeper::WardId;
use crate::ledger::{Late, Ledger, Moved};
use crate::relay::{LiveCall, MovedCall};
use crate::slots::Delta;

use super::messages::{self, Header, ToGiver, ToTaker, Word};
use super::peer::{Peer, check_folder};
use super::wire::{HandoffError, STEP_TIMEOUT, receive, send, set_timeouts};
use super::{Versions, fail};

/// How long the giver may take for connections that are being set up, and to stop reporting.
const SETTLE_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// A giver that fits; calls flow there.
#[derive(Debug)]
pub(crate) struct Taking {
    stream: UnixStream,
    peer: Peer,
}

/// A call that was sent over.
pub(crate) struct TakenCall {
    pub(crate) moved: MovedCall,
    pub(crate) caller: TcpStream,
    pub(crate) worker: TcpStream,
}

/// A call that the giver still relays: nothing may be read from its sockets or written to them.
pub(crate) struct AheadCall {
    /// Of the connection, at the giver.
    pub(crate) number: u64,
    connection: Moved,
    caller: TcpStream,
    worker: TcpStream,
}

/// What comes while calls stand still.
pub(crate) struct Come {
    /// Where the calls are that came ahead; those of which nothing is said have ended.
    pub(crate) deltas: Vec<Delta>,
    /// What ended since the ledger was sent.
    pub(crate) late: Vec<Late>,
}

/// What comes behind the calls.
pub(crate) enum Came {
    /// Calls that stood late. Nobody relays them until [`Taking::took_late`].
    Calls(Vec<TakenCall>),
    /// Callers who have not said what they want.
    Guests(Vec<Parked>),
}

impl TakenCall {
    /// Counts it here. `None`: its agent is unknown here, which the giver's ledger rules out.
    pub(crate) fn adopt(self, ledger: &Arc<Ledger>, now: Timestamp) -> Option<LiveCall> {
        LiveCall::moved(ledger, self.moved, (self.caller, self.worker), now)
    }
}

impl AheadCall {
    /// As [`TakenCall::adopt`], of what never changes.
    pub(crate) fn adopt(self, ledger: &Arc<Ledger>, now: Timestamp) -> Option<LiveCall> {
        let moved = MovedCall::fresh(self.connection);
        LiveCall::moved(ledger, moved, (self.caller, self.worker), now)
    }
}

impl Taking {
    /// Asks the gateway at `path`. Nothing has stopped there when this returns. Blocks.
    pub(crate) fn ask(path: &Path) -> Result<Self, HandoffError> {
        check_folder(path)?;
        let stream = UnixStream::connect(path)?;
        set_timeouts(&stream, STEP_TIMEOUT)?;
        let peer = Peer::of(&stream)?;
        let taking = Self { stream, peer };
        fail::at("connected")?;
        send(&taking.stream, &ToGiver::Hello(Versions::ours()), &[])?;
        match taking.receive()? {
            (ToTaker::Word(Word::Welcome { version, binary }), _) => {
                tracing::info!(version, %binary, "taking over");
            }
            _ => return Err(HandoffError::Protocol("no welcome")),
        }
        fail::at("welcomed")?;
        Ok(taking)
    }

    /// What is to be restored, and the listener. Calls flow on with the giver. Blocks.
    pub(crate) fn header(&self) -> Result<(Header, TcpListener), HandoffError> {
        self.stream.set_read_timeout(Some(SETTLE_MAX))?;
        let (header, listener) = match self.receive()? {
            (ToTaker::Header(header), mut fds) => (header, fds.pop()),
            _ => return Err(HandoffError::Protocol("no header")),
        };
        let listener = listener.ok_or(HandoffError::Protocol("no listener"))?;
        Ok((*header, listener.into()))
    }

    /// Takes in what never changes about the calls, which flow on with the giver: a batch while the
    /// giver still packs the next one. Blocks.
    pub(crate) fn ahead(
        &self,
        mut take: impl FnMut(Vec<AheadCall>) -> Result<(), HandoffError>,
    ) -> Result<(), HandoffError> {
        self.stream.set_read_timeout(Some(STEP_TIMEOUT))?;
        let mut count = 0;
        loop {
            match self.receive()? {
                (ToTaker::Ahead(calls), fds) => {
                    if fds.len() != 2 * calls.len() {
                        return Err(HandoffError::Protocol("calls without their sockets"));
                    }
                    count += calls.len();
                    let ahead = |(call, (caller, worker)): (messages::AheadCall, _)| AheadCall {
                        number: call.number,
                        connection: call.connection,
                        caller,
                        worker,
                    };
                    take(calls.into_iter().zip(pairs(fds)).map(ahead).collect())?;
                    fail::at("ahead_came")?;
                }
                (ToTaker::Word(Word::Ahead { calls }), _) if calls == count => return Ok(()),
                _ => return Err(HandoffError::Protocol("calls are missing ahead")),
            }
        }
    }

    /// Says that all is prepared, and takes the calls in: a batch while the giver still packs the
    /// next one. They stand still from here to [`Taking::confirm`], and are not ours before.
    /// Answers what is known of those that came ahead. Blocks.
    pub(crate) fn calls(&self, mut take: impl FnMut(Vec<TakenCall>)) -> Result<Come, HandoffError> {
        fail::at("restored")?;
        self.stream.set_read_timeout(Some(STEP_TIMEOUT))?;
        send(&self.stream, &ToGiver::Prepared, &[])?;
        fail::at("prepared")?;
        let (mut count, mut deltas) = (0, Vec::new());
        loop {
            match self.receive()? {
                (ToTaker::Deltas(more), _) => {
                    fail::at("calls")?;
                    deltas.append(&mut more.unpack()?);
                }
                (ToTaker::Calls(calls), fds) => {
                    fail::at("calls")?;
                    if fds.len() != 2 * calls.len() {
                        return Err(HandoffError::Protocol("calls without their sockets"));
                    }
                    count += calls.len();
                    take(with_sockets(calls, fds));
                }
                (ToTaker::Done(last), _) if last.calls == count + deltas.len() => {
                    let late = last.late;
                    return Ok(Come { deltas, late });
                }
                _ => return Err(HandoffError::Protocol("calls are missing")),
            }
        }
    }

    /// Says that we are ready and waits for the word that makes everything ours. A giver that dies
    /// here leaves it to us. `ward` is what we are to the keeper, and `own` tells it that the calls
    /// are ours: before the giver lets go of them, and before we relay. Blocks.
    pub(crate) fn confirm(
        &self,
        ward: Option<WardId>,
        own: impl FnOnce(),
    ) -> Result<(), HandoffError> {
        fail::at("adopted")?;
        send(&self.stream, &ToGiver::Ready { ward }, &[])?;
        fail::at("ready")?;
        // However long it takes: the giver may have said yes already, and giving up on that would
        // lose the calls. It answers, or it dies.
        self.stream.set_read_timeout(None)?;
        let mut own = Some(own);
        let confirmed = match self.receive() {
            Ok((ToTaker::Word(Word::Yours), _)) => {
                fail::at("yours")?;
                if let Some(own) = own.take() {
                    own();
                }
                fail::at("owned")?;
                send(&self.stream, &ToGiver::Took, &[])
            }
            Ok(_) => Err(HandoffError::Protocol("neither yes nor no")),
            Err(error) => Err(error),
        };
        match confirmed {
            Err(error) if error.is_end() && self.peer.has_died() => {
                tracing::warn!("the other gateway died; its calls are here");
                if let Some(own) = own.take() {
                    own();
                }
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => fail::at("took").or(Ok(())),
        }
    }

    /// What the giver hands over behind the calls. `None`: that was all, or the giver is gone.
    /// Blocks.
    pub(crate) fn next(&self) -> Result<Option<Came>, HandoffError> {
        self.stream.set_read_timeout(None)?;
        match self.receive() {
            Ok((ToTaker::Calls(calls), fds)) if fds.len() == 2 * calls.len() => {
                fail::at("late_came")?;
                Ok(Some(Came::Calls(with_sockets(calls, fds))))
            }
            Ok((ToTaker::Guests(guests), fds)) if fds.len() == guests.len() => {
                let parked = guests.into_iter().zip(fds).map(|(guest, socket)| Parked {
                    peer: guest.peer,
                    said: guest.said,
                    socket: socket.into(),
                });
                Ok(Some(Came::Guests(parked.collect())))
            }
            Ok(_) => Err(HandoffError::Protocol("neither calls nor callers")),
            Err(error) if error.is_end() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The calls that came last are ours. On an error they are the giver's.
    pub(crate) fn took_late(&self) -> Result<(), HandoffError> {
        match send(&self.stream, &ToGiver::Took, &[]) {
            // Then they are nobody else's.
            Err(error) if error.is_end() && self.peer.has_died() => Ok(()),
            sent => sent,
        }
    }

    fn receive(&self) -> Result<(ToTaker, Vec<OwnedFd>), HandoffError> {
        match receive(&self.stream)? {
            (ToTaker::Word(Word::Refused { reason, hint }), _) => {
                Err(HandoffError::Refused { reason, hint })
            }
            heard => Ok(heard),
        }
    }
}

fn with_sockets(calls: Vec<MovedCall>, fds: Vec<OwnedFd>) -> Vec<TakenCall> {
    let taken = calls.into_iter().zip(pairs(fds));
    taken
        .map(|(moved, (caller, worker))| TakenCall {
            moved,
            caller,
            worker,
        })
        .collect()
}

/// Caller and worker of each call.
fn pairs(fds: Vec<OwnedFd>) -> impl Iterator<Item = (TcpStream, TcpStream)> {
    let mut fds = fds.into_iter().map(TcpStream::from);
    std::iter::from_fn(move || fds.next().zip(fds.next()))
}
