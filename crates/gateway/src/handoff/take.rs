//! The side that starts and takes.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use segue_core::time::Timestamp;

use crate::ledger::Ledger;
use crate::relay::{LiveCall, MovedCall};

use super::wire::{HandoffError, check_peer, receive, send, set_timeouts};
use super::{HANDOFF_VERSION, Header, ToGiver, ToTaker};

/// Everything, but not ours yet: see [`Taken::confirm`].
pub(crate) struct Taken {
    pub(crate) header: Header,
    pub(crate) listener: TcpListener,
    pub(crate) calls: Vec<TakenCall>,
    stream: UnixStream,
}

/// A call that was sent over.
pub(crate) struct TakenCall {
    pub(crate) moved: MovedCall,
    pub(crate) caller: TcpStream,
    pub(crate) worker: TcpStream,
}

impl TakenCall {
    /// Counts it here. `None`: its agent is unknown here, which the giver's ledger rules out.
    pub(crate) fn adopt(self, ledger: &Arc<Ledger>, now: Timestamp) -> Option<LiveCall> {
        Some(LiveCall {
            ticket: ledger.adopt(self.moved.connection, now)?,
            caller: self.caller,
            worker: self.worker,
            up: self.moved.up,
            down: self.moved.down,
            closed: self.moved.closed,
            // Its mark came along, and its relay looks for that.
            leaving: false,
        })
    }
}

/// Asks the gateway at `path` for everything it has. Blocks.
pub(crate) fn take(path: &Path) -> Result<Taken, HandoffError> {
    let stream = UnixStream::connect(path)?;
    set_timeouts(&stream)?;
    check_peer(&stream)?;
    let version = HANDOFF_VERSION;
    send(&stream, &ToGiver::Hello { version }, &[])?;
    let (header, listener) = match receive(&stream)? {
        (ToTaker::Header(header), mut fds) => (header, fds.pop()),
        (ToTaker::Refused { reason }, _) => return Err(HandoffError::Refused(reason)),
        _ => return Err(HandoffError::Protocol("no header")),
    };
    let listener = listener.ok_or(HandoffError::Protocol("no listener"))?;
    let mut taken = Vec::new();
    loop {
        match receive(&stream)? {
            (ToTaker::Calls { calls }, fds) => {
                if fds.len() != 2 * calls.len() {
                    return Err(HandoffError::Protocol("calls without their sockets"));
                }
                let mut fds = fds.into_iter().map(TcpStream::from);
                for moved in calls {
                    let (Some(caller), Some(worker)) = (fds.next(), fds.next()) else {
                        return Err(HandoffError::Protocol("calls without their sockets"));
                    };
                    taken.push(TakenCall {
                        moved,
                        caller,
                        worker,
                    });
                }
            }
            (ToTaker::Done { calls }, _) if calls == taken.len() => break,
            (ToTaker::Refused { reason }, _) => return Err(HandoffError::Refused(reason)),
            _ => return Err(HandoffError::Protocol("calls are missing")),
        }
    }
    Ok(Taken {
        header: *header,
        listener: listener.into(),
        calls: taken,
        stream,
    })
}

impl Taken {
    /// Says that we are ready and waits for the word that makes everything ours. A giver that dies
    /// here leaves it to us. Blocks.
    pub(crate) fn confirm(stream: &UnixStream) -> Result<(), HandoffError> {
        send(stream, &ToGiver::Ready, &[])?;
        // However long it takes: the giver may have said yes already, and giving up on that would
        // lose the calls. It answers, or it dies.
        stream.set_read_timeout(None)?;
        match receive(stream) {
            Ok((ToTaker::Yours, _)) => Ok(()),
            Ok((ToTaker::Refused { reason }, _)) => Err(HandoffError::Refused(reason)),
            Ok(_) => Err(HandoffError::Protocol("neither yes nor no")),
            Err(HandoffError::Io(error)) if is_death(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn into_parts(self) -> (Header, TcpListener, Vec<TakenCall>, UnixStream) {
        (self.header, self.listener, self.calls, self.stream)
    }
}

fn is_death(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
    )
}
