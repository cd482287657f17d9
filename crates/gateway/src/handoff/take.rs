//! The side that starts and takes.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use segue_core::time::Timestamp;

use crate::front::Parked;
use crate::keeper::WardId;
use crate::ledger::{Late, Ledger};
use crate::relay::{LiveCall, MovedCall};

use super::peer::{Peer, check_folder};
use super::wire::{HandoffError, STEP_TIMEOUT, receive, send, set_timeouts};
use super::{Header, ToGiver, ToTaker, Versions, fail};

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
            (ToTaker::Welcome { version, binary }, _) => {
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

    /// Says that all is prepared, and takes the calls in: a batch while the giver still packs the
    /// next one. They stand still from here to [`Taking::confirm`], and are not ours before.
    /// Answers what ended since the ledger was sent. Blocks.
    pub(crate) fn calls(
        &self,
        mut take: impl FnMut(Vec<TakenCall>),
    ) -> Result<Vec<Late>, HandoffError> {
        fail::at("restored")?;
        self.stream.set_read_timeout(Some(STEP_TIMEOUT))?;
        send(&self.stream, &ToGiver::Prepared, &[])?;
        fail::at("prepared")?;
        let mut count = 0;
        loop {
            match self.receive()? {
                (ToTaker::Calls { calls }, fds) => {
                    fail::at("calls")?;
                    if fds.len() != 2 * calls.len() {
                        return Err(HandoffError::Protocol("calls without their sockets"));
                    }
                    count += calls.len();
                    take(with_sockets(calls, fds));
                }
                (ToTaker::Done(last), _) if last.calls == count => return Ok(last.late),
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
            Ok((ToTaker::Yours, _)) => {
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
            Ok((ToTaker::Calls { calls }, fds)) if fds.len() == 2 * calls.len() => {
                fail::at("late_came")?;
                Ok(Some(Came::Calls(with_sockets(calls, fds))))
            }
            Ok((ToTaker::Guests { guests }, fds)) if fds.len() == guests.len() => {
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

    fn receive(&self) -> Result<(ToTaker, Vec<std::os::fd::OwnedFd>), HandoffError> {
        match receive(&self.stream)? {
            (ToTaker::Refused { reason, hint }, _) => Err(HandoffError::Refused { reason, hint }),
            heard => Ok(heard),
        }
    }
}

fn with_sockets(calls: Vec<MovedCall>, fds: Vec<std::os::fd::OwnedFd>) -> Vec<TakenCall> {
    let mut fds = fds.into_iter().map(TcpStream::from);
    let sockets = std::iter::from_fn(|| fds.next().zip(fds.next()));
    let taken = calls.into_iter().zip(sockets);
    taken
        .map(|(moved, (caller, worker))| TakenCall {
            moved,
            caller,
            worker,
        })
        .collect()
}
