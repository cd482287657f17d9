//! The side that runs and gives.

use std::collections::HashSet;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::front::Parked;
use crate::keeper::WardId;
use crate::relay::{LiveCall, Relay, Sketch};

use super::messages::{AheadCall, Deltas, Header, Last, MovedGuest, ToGiver, ToTaker, Word};
use super::peer::{Peer, check_folder};
use super::wire::GREETING_BYTES_MAX;
use super::wire::{
    HandoffError, STEP_TIMEOUT, STILL_TIMEOUT, receive, receive_bounded, send, set_timeouts,
};
use super::{CALLS_PER_MESSAGE, Versions, fail};

/// What changed is sent in parts of about this length, so that nobody needs room for all of it: only
/// calls under backpressure make it more than one.
const DELTAS_BYTES: usize = 1024 * 1024;

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

    /// Whether the taker is a process of its own.
    pub(crate) fn is_to_another(&self) -> bool {
        !self.peer.is_this()
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
        self.say(Word::Welcome { version, binary })
    }

    /// Sends what takes long, and waits until the taker is prepared. Calls flow meanwhile. Answers
    /// which calls went ahead. Blocks.
    pub(crate) fn prepare(
        &self,
        listener: &TcpListener,
        header: Header,
        relay: &Relay,
    ) -> Result<HashSet<u64>, HandoffError> {
        let prepared = (|| {
            fail::at("sealed")?;
            let header = ToTaker::Header(Box::new(header));
            send(&self.stream, &header, &[listener.as_fd()])?;
            let mut ahead = HashSet::new();
            relay.sketch(|calls| {
                ahead.extend(calls.iter().map(|call| call.number));
                self.send_ahead(&calls)
            })?;
            let calls = ahead.len();
            self.say(Word::Ahead { calls })?;
            fail::at("ahead_sent")?;
            match receive(&self.stream)?.0 {
                ToGiver::Prepared => Ok(ahead),
                _ => Err(HandoffError::Protocol("not prepared")),
            }
        })();
        self.or_refuse(prepared)
    }

    fn send_ahead(&self, calls: &[Sketch]) -> Result<(), HandoffError> {
        for batch in calls.chunks(CALLS_PER_MESSAGE) {
            let mut fds = Vec::with_capacity(2 * batch.len());
            for call in batch {
                fds.extend([call.caller.as_fd(), call.worker.as_fd()]);
            }
            let ahead = |call: &Sketch| AheadCall {
                number: call.number,
                connection: call.connection.clone(),
            };
            let calls = ToTaker::Ahead(batch.iter().map(ahead).collect());
            send(&self.stream, &calls, &fds)?;
        }
        Ok(())
    }

    /// Sends the calls, which nobody relays meanwhile: of those that went `ahead` only what has
    /// changed. Once this returns `Ok` they are the taker's; otherwise they are ours, and the taker
    /// knows or is gone. Blocks.
    pub(crate) fn hand_over(
        &self,
        calls: &[LiveCall],
        ahead: &HashSet<u64>,
        last: Last,
    ) -> Result<(), NotGiven> {
        let theirs = self.offer(calls, ahead, last);
        let theirs = self.or_refuse(theirs)?;
        let given = self.give();
        given.map_err(|error| NotGiven { error, theirs })
    }

    fn give(&self) -> Result<(), HandoffError> {
        // If this fails, the taker is gone, and the calls are still ours.
        self.say(Word::Yours)?;
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
        // Behind this it cannot say so any more, and what it said before is here to be read. So
        // nobody is ended who relays already, and one that cannot be ended will not relay.
        self.stream.shutdown(Shutdown::Read)?;
        if let Ok((ToGiver::Took, _)) = receive(&self.stream) {
            return Ok(());
        }
        // It will not relay, but it might still tell the keeper that the calls are its own.
        tracing::warn!(%error, "the other gateway is stuck, and is ended");
        self.peer.kill();
        Err(error)
    }

    /// Answers what the taker is to the keeper.
    fn offer(
        &self,
        calls: &[LiveCall],
        ahead: &HashSet<u64>,
        last: Last,
    ) -> Result<Option<WardId>, HandoffError> {
        set_timeouts(&self.stream, STILL_TIMEOUT)?;
        fail::at("stopped")?;
        let (mut deltas, mut whole) = (Deltas::default(), Vec::new());
        for call in calls {
            if !ahead.contains(&call.ticket.number()) {
                whole.push(call);
                continue;
            }
            let delta = call.delta();
            deltas.push(&delta.ok_or(HandoffError::Protocol("a call has no slot"))?);
            if deltas.len() >= DELTAS_BYTES {
                let deltas = ToTaker::Deltas(std::mem::take(&mut deltas));
                send(&self.stream, &deltas, &[])?;
            }
        }
        if !deltas.is_empty() {
            send(&self.stream, &ToTaker::Deltas(deltas), &[])?;
        }
        for batch in whole.chunks(CALLS_PER_MESSAGE) {
            self.send_calls(batch)?;
        }
        send(&self.stream, &ToTaker::Done(last), &[])?;
        fail::at("sent")?;
        match receive(&self.stream)?.0 {
            ToGiver::Ready { ward } => fail::at("heard_ready").map(|()| ward),
            _ => Err(HandoffError::Protocol("not ready")),
        }
    }

    fn send_calls(&self, batch: &[&LiveCall]) -> Result<(), HandoffError> {
        let mut fds = Vec::with_capacity(2 * batch.len());
        for call in batch {
            fds.extend([call.caller.as_fd(), call.worker.as_fd()]);
        }
        let calls = batch.iter().map(|call| call.describe()).collect();
        send(&self.stream, &ToTaker::Calls(calls), &fds)
    }

    /// Sends a call that stood only behind the others, and that nobody relays. Once this returns
    /// `Ok` it is the taker's; otherwise it is ours. Blocks.
    pub(crate) fn give_late(&self, call: &LiveCall) -> Result<(), HandoffError> {
        set_timeouts(&self.stream, STEP_TIMEOUT)?;
        // If it does not arrive whole, it is not taken.
        self.send_calls(&[call])?;
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
            send(&self.stream, &ToTaker::Guests(guests), &fds)?;
        }
        Ok(())
    }

    /// Tells the taker why there is no handoff.
    fn or_refuse<T>(&self, done: Result<T, HandoffError>) -> Result<T, HandoffError> {
        if let Err(error) = &done {
            let refused = Word::Refused {
                reason: error.to_string(),
                hint: error.hint(),
            };
            // If this does not arrive either, the closed stream of a living process says it.
            let _ = self.say(refused);
        }
        done
    }

    fn say(&self, word: Word) -> Result<(), HandoffError> {
        send(&self.stream, &ToTaker::Word(word), &[])
    }
}
