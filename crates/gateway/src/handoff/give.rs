//! The side that runs and gives.

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::front::Parked;
use crate::keeper::WardId;
use crate::relay::LiveCall;

use super::peer::{Peer, check_folder};
use super::wire::GREETING_BYTES_MAX;
use super::wire::{
    HandoffError, STEP_TIMEOUT, STILL_TIMEOUT, receive, receive_bounded, send, set_timeouts,
};
use super::{CALLS_PER_MESSAGE, Header, Last, MovedGuest, ToGiver, ToTaker, Versions, fail};

/// A taker that fits.
#[derive(Debug)]
pub(crate) struct Giving {
    stream: UnixStream,
    peer: Peer,
}

/// Why the calls are still ours.
#[derive(Debug)]
pub(crate) struct NotGiven {
    pub(crate) error: HandoffError,
    /// What the taker was to the keeper, if it may have said there that they are its own.
    pub(crate) theirs: Option<WardId>,
}

impl From<HandoffError> for NotGiven {
    fn from(error: HandoffError) -> Self {
        let theirs = None;
        Self { error, theirs }
    }
}

impl Giving {
    /// Hears a taker out before anything stops. `socket` is ours, where it came in. Blocks.
    pub(crate) fn greet(stream: UnixStream, socket: &Path) -> Result<Self, HandoffError> {
        set_timeouts(&stream, STEP_TIMEOUT)?;
        let peer = Peer::of(&stream)?;
        let giving = Self { stream, peer };
        let welcomed = giving.welcome(socket);
        giving.or_refuse(welcomed)?;
        Ok(giving)
    }

    fn welcome(&self, socket: &Path) -> Result<(), HandoffError> {
        check_folder(socket)?;
        let heard = receive_bounded(&self.stream, GREETING_BYTES_MAX)?.0;
        let ToGiver::Hello(theirs) = heard else {
            return Err(HandoffError::Protocol("no hello"));
        };
        let ours = Versions::ours();
        let version = ours.agree(&theirs).map_err(Box::new)?;
        fail::at("greeted")?;
        tracing::info!(version, binary = %theirs.binary, "another gateway asks to take over");
        let binary = ours.binary;
        send(&self.stream, &ToTaker::Welcome { version, binary }, &[])
    }

    /// Sends what takes long, and waits until the taker is prepared. Calls flow meanwhile. Blocks.
    pub(crate) fn prepare(
        &self,
        listener: &TcpListener,
        header: Header,
    ) -> Result<(), HandoffError> {
        let prepared = (|| {
            fail::at("sealed")?;
            let header = ToTaker::Header(Box::new(header));
            send(&self.stream, &header, &[listener.as_fd()])?;
            match receive(&self.stream)?.0 {
                ToGiver::Prepared => Ok(()),
                _ => Err(HandoffError::Protocol("not prepared")),
            }
        })();
        self.or_refuse(prepared)
    }

    /// Sends the calls, which nobody relays meanwhile. Once this returns `Ok` they are the taker's;
    /// otherwise they are ours, and the taker knows or is gone. Blocks.
    pub(crate) fn hand_over(&self, calls: &[LiveCall], last: Last) -> Result<(), NotGiven> {
        let theirs = self.offer(calls, last);
        let theirs = self.or_refuse(theirs)?;
        let given = self.give();
        given.map_err(|error| NotGiven { error, theirs })
    }

    fn give(&self) -> Result<(), HandoffError> {
        // If this fails, the taker is gone, and the calls are still ours.
        send(&self.stream, &ToTaker::Yours, &[])?;
        let heard = fail::at("said_yours").and_then(|()| receive(&self.stream));
        let taken = match heard {
            Ok((ToGiver::Took, _)) => Ok(()),
            Ok(_) => Err(HandoffError::Protocol("neither took nor gone")),
            Err(error) => Err(error),
        };
        let Err(error) = taken else {
            return fail::at("heard_took").or(Ok(()));
        };
        if error.is_end() {
            // It did not say that it took, so it has relayed nothing and will not.
            return Err(error);
        }
        // It may be about to. Only when it is no more can these calls be touched again.
        tracing::warn!(%error, "the other gateway is stuck, and is ended");
        if !self.peer.kill() {
            self.stream.set_read_timeout(None)?;
        }
        match receive(&self.stream) {
            Ok((ToGiver::Took, _)) => Ok(()),
            _ => Err(error),
        }
    }

    /// Answers what the taker is to the keeper.
    fn offer(&self, calls: &[LiveCall], last: Last) -> Result<Option<WardId>, HandoffError> {
        set_timeouts(&self.stream, STILL_TIMEOUT)?;
        fail::at("stopped")?;
        for batch in calls.chunks(CALLS_PER_MESSAGE) {
            self.send_calls(batch)?;
        }
        send(&self.stream, &ToTaker::Done(last), &[])?;
        fail::at("sent")?;
        match receive(&self.stream)?.0 {
            ToGiver::Ready { ward } => fail::at("heard_ready").map(|()| ward),
            _ => Err(HandoffError::Protocol("not ready")),
        }
    }

    fn send_calls(&self, batch: &[LiveCall]) -> Result<(), HandoffError> {
        let mut fds = Vec::with_capacity(2 * batch.len());
        for call in batch {
            fds.extend([call.caller.as_fd(), call.worker.as_fd()]);
        }
        let calls = batch.iter().map(LiveCall::describe).collect();
        send(&self.stream, &ToTaker::Calls { calls }, &fds)
    }

    /// Sends a call that stood only behind the others, and that nobody relays. Once this returns
    /// `Ok` it is the taker's; otherwise it is ours. Blocks.
    pub(crate) fn give_late(&self, call: &LiveCall) -> Result<(), HandoffError> {
        set_timeouts(&self.stream, STEP_TIMEOUT)?;
        // If it does not arrive whole, it is not taken.
        self.send_calls(std::slice::from_ref(call))?;
        fail::at("late_sent")?;
        // It answers or it ends. It cannot be ended for being slow: it has all the other calls.
        self.stream.set_read_timeout(None)?;
        match receive(&self.stream)?.0 {
            ToGiver::Took => Ok(()),
            _ => Err(HandoffError::Protocol("neither took nor gone")),
        }
    }

    /// Sends callers who have not said yet what they want. Blocks.
    pub(crate) fn give_guests(&self, parked: &[Parked]) -> Result<(), HandoffError> {
        set_timeouts(&self.stream, STEP_TIMEOUT)?;
        for batch in parked.chunks(CALLS_PER_MESSAGE) {
            let fds: Vec<_> = batch.iter().map(|guest| guest.socket.as_fd()).collect();
            let moved = |guest: &Parked| MovedGuest {
                peer: guest.peer,
                said: guest.said.clone(),
            };
            let guests = batch.iter().map(moved).collect();
            send(&self.stream, &ToTaker::Guests { guests }, &fds)?;
        }
        Ok(())
    }

    /// Tells the taker why there is no handoff.
    fn or_refuse<T>(&self, done: Result<T, HandoffError>) -> Result<T, HandoffError> {
        if let Err(error) = &done {
            let refused = ToTaker::Refused {
                reason: error.to_string(),
                hint: error.hint(),
            };
            // If this does not arrive either, the closed stream of a living process says it.
            let _ = send(&self.stream, &refused, &[]);
        }
        done
    }
}
