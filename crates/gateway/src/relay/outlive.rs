//! What becomes of a call whose worker died: it goes on at another one, or is told that it ends.

use std::io;
use std::net::{Shutdown, TcpStream};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::frames::Observer;
use crate::ledger::{By, Closed};
use crate::rescue::{Lifeline, Way};

use super::call::{Age, Flow, LiveCall, Sink, goodbye};
use super::side::Side;

/// What the caller of a call is told that cannot be rescued: "internal error".
const LOST_CODE: u16 = 1011;
const LOST_REASON: &str = "worker lost";

/// What the caller of such a call is told that has said goodbye itself: "normal closure".
const ANSWER_CODE: u16 = 1000;

/// So much of what a caller says is looked at while its next worker is looked for: some seconds of
/// audio. A goodbye further behind is found once it is read.
const UNREAD_BYTES_MAX: usize = 64 * 1024;

impl LiveCall {
    /// The same, and from its first message on it may outlive its worker.
    #[must_use]
    pub(crate) fn with_lifeline(mut self, line: Option<Box<Lifeline>>) -> Self {
        if let Some(mut line) = line {
            let up = early(&mut line, Way::Up, &self.up.leftover);
            let down = early(&mut line, Way::Down, &self.down.leftover);
            // One that ends as it begins is like any other.
            self.lifeline = (up && down).then_some(line);
        }
        self
    }

    /// What is left of it once its worker is dead. Nothing keeps it until it goes on.
    #[must_use]
    pub(super) fn without_worker(mut self) -> Self {
        // Others may hold duplicates of the socket, so dropping it would not be enough.
        let _ = self.worker.shutdown(Shutdown::Both);
        (self.slot, self.age) = (None, Age::Shared);
        self
    }

    /// It goes on at this worker, which has had its request and its opening messages, and has said
    /// `said` already.
    ///
    /// # Errors
    ///
    /// When the socket of the worker is gone. The call is what it was then.
    pub(crate) fn go_on(&mut self, worker: TcpStream, said: Vec<u8>) -> io::Result<()> {
        worker.set_nonblocking(true)?;
        worker.set_nodelay(true)?;
        sockopt::set_socket_oobinline(&worker, true)?;
        if self.lifeline.is_none() {
            return Err(io::Error::other("a call without a lifeline is not rescued"));
        }
        self.worker = worker;
        self.drop_held_from_worker();
        let Some(line) = &mut self.lifeline else {
            unreachable!("it was there");
        };
        let held = self.up.leftover.len() - line.held(Way::Up);
        let (waiting, held) = self.up.leftover.split_at(held);
        let mut leftover = line.go_on(waiting).concat();
        leftover.extend_from_slice(held);
        (self.up.leftover, self.up.sink) = (leftover, Sink::Open);

        let whole = early(line, Way::Down, &said);
        if let Some(gap) = (!said.is_empty()).then(|| line.heard()).flatten() {
            self.ticket.counters().heard_again(gap);
        }
        if !whole {
            self.lifeline = None;
        }
        self.count(Side::Worker, &said);
        self.see(Side::Worker, &said);
        self.down.leftover.extend(said);
        Ok(())
    }

    /// How the caller ends the call that nobody relays, if it does: by what it said and nobody has
    /// read yet, or by being gone.
    pub(crate) fn caller_ends(&self) -> Option<Closed> {
        let ended = |code| Closed {
            by: Side::Caller.by(),
            code,
        };
        // What TLS sealed cannot be looked into without taking it.
        if let Some(line) = self.lifeline.as_ref().filter(|_| self.tls.is_none()) {
            let mut unread = vec![0; UNREAD_BYTES_MAX];
            // One that cannot be read is gone, which is asked next.
            let length = self.caller.peek(&mut unread).unwrap_or(0);
            if let Some(code) = line.goodbye_in(&unread[..length]) {
                return Some(ended(Some(code)));
            }
        }
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut asked = [PollFd::new(&self.caller, PollFlags::RDHUP)];
        // It fails for want of memory only, and then the caller is taken to be there.
        let _ = poll(&mut asked, Some(&Timespec::default()));
        asked[0].revents().intersects(gone).then(|| ended(None))
    }

    /// No other worker has it: its caller is told, where a message may begin, and it ends.
    #[must_use]
    pub(crate) fn give_up(mut self) -> Self {
        let whole = self
            .lifeline
            .as_ref()
            .is_none_or(|line| line.is_whole(Way::Down));
        if whole {
            self.drop_held_from_worker();
        }
        self.closed = self.closed.or_else(|| self.caller_ends());
        let by_caller = self.closed.is_some_and(|closed| closed.by == By::Caller);
        if let Some(line) = self.lifeline.take() {
            self.closed = self.closed.or(line.lost());
        }
        (self.up.leftover, self.up.sink) = (Vec::new(), Sink::Dead);
        self.down.ended = true;
        if self.down.sink == Sink::Open && self.down.observer.is_between_frames() {
            let (code, reason) = if by_caller {
                (ANSWER_CODE, "")
            } else {
                (LOST_CODE, LOST_REASON)
            };
            self.down
                .leftover
                .extend(goodbye(Side::Caller, code, reason));
            self.down.sink = Sink::Farewell;
            self.leaving = true;
        }
        self
    }

    /// What the dead worker said by half is not for the caller; what it said whole still is.
    fn drop_held_from_worker(&mut self) {
        if let Some(line) = &mut self.lifeline {
            let whole = self.down.leftover.len() - line.held(Way::Down);
            self.down.leftover.truncate(whole);
            line.discard(Way::Down);
        }
        self.down = Flow {
            leftover: std::mem::take(&mut self.down.leftover),
            ended: false,
            sink: self.down.sink,
            observer: Observer::default(),
        };
    }
}

/// Looks at bytes that came before the call was relayed. False: a goodbye is among them.
fn early(line: &mut Lifeline, way: Way, bytes: &[u8]) -> bool {
    let seen = line.see(way, bytes);
    if way == Way::Up && line.records() {
        line.record(&bytes[..seen.passes]);
    }
    seen.closed.is_none()
}
