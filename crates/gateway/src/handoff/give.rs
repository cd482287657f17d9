//! The side that runs and gives.

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;

use crate::relay::LiveCall;

use super::wire::{HandoffError, check_peer, receive, send, set_timeouts};
use super::{CALLS_PER_MESSAGE, HANDOFF_VERSION, Header, ToGiver, ToTaker};

/// Hears a taker out before anything stops. Blocks.
pub(crate) fn greet(stream: &UnixStream) -> Result<(), HandoffError> {
    set_timeouts(stream)?;
    check_peer(stream)?;
    let (hello, _) = receive(stream)?;
    let reason = match hello {
        ToGiver::Hello {
            version: HANDOFF_VERSION,
        } => return Ok(()),
        ToGiver::Hello { version } => {
            format!("it speaks handoff version {HANDOFF_VERSION}, not {version}")
        }
        ToGiver::Ready => return Err(HandoffError::Protocol("ready before hello")),
    };
    let refused = ToTaker::Refused {
        reason: reason.clone(),
    };
    send(stream, &refused, &[])?;
    Err(HandoffError::Refused(reason))
}

/// Sends everything. Once this returns `Ok` the calls are the taker's; otherwise they are ours and
/// the taker knows or is gone. Blocks.
pub(crate) fn hand_over(
    stream: &UnixStream,
    listener: &TcpListener,
    header: Header,
    calls: &[LiveCall],
) -> Result<(), HandoffError> {
    let given = offer(stream, listener, header, calls);
    if let Err(error) = &given {
        let reason = format!("it goes on serving: {error}");
        // If this does not arrive either, the closing stream says it.
        let _ = send(stream, &ToTaker::Refused { reason }, &[]);
    }
    given?;
    // From here on the taker takes a closed stream for our death, so this is the last word: if it
    // fails, the taker is gone, and the calls are still ours.
    send(stream, &ToTaker::Yours, &[])
}

fn offer(
    stream: &UnixStream,
    listener: &TcpListener,
    header: Header,
    calls: &[LiveCall],
) -> Result<(), HandoffError> {
    let header = ToTaker::Header(Box::new(header));
    send(stream, &header, &[listener.as_fd()])?;
    for batch in calls.chunks(CALLS_PER_MESSAGE) {
        let mut fds = Vec::with_capacity(2 * batch.len());
        for call in batch {
            fds.extend([call.caller.as_fd(), call.worker.as_fd()]);
        }
        let calls = batch.iter().map(LiveCall::describe).collect();
        send(stream, &ToTaker::Calls { calls }, &fds)?;
    }
    send(stream, &ToTaker::Done { calls: calls.len() }, &[])?;
    match receive(stream)?.0 {
        ToGiver::Ready => Ok(()),
        ToGiver::Hello { .. } => Err(HandoffError::Protocol("hello after done")),
    }
}
