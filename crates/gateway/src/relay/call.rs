//! A live plain call: two sockets and the little that is known about them.
//!
//! A value without a task: whoever owns it moves its bytes, and handing it to another shard or
//! another process is handing over the value.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::net::sockopt;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::frames::{Observer, close_frame};
use crate::ledger::{By, Closed, Counters, End, Moved, Ticket};

/// A silent peer is asked for a sign of life after this long, then eight times every
/// [`KEEPALIVE_EVERY`]: a peer that vanished without a word is noticed after five minutes, and
/// one in a tunnel is not lost.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);

/// See [`KEEPALIVE_AFTER`].
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);

const KEEPALIVE_PROBES: u32 = 8;

/// Goes with code 1001 to both sides of a call that is ended by policy.
const FAREWELL_REASON: &str = "retired";

/// Has the kernel notice a peer that vanished. Every socket of the front gets it at once: waiting
/// callers, TLS calls and streamed answers may be silent for as long as any call.
pub(crate) fn keep_alive(socket: &impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    Ok(())
}

/// One of the two ends of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Worker,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Caller, Self::Worker];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Caller => Self::Worker,
            Self::Worker => Self::Caller,
        }
    }

    /// Its place among [`Side::BOTH`].
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Caller => 0,
            Self::Worker => 1,
        }
    }

    pub(crate) fn by(self) -> By {
        match self {
            Self::Caller => By::Caller,
            Self::Worker => By::Worker,
        }
    }
}

/// What is known of one direction. It travels in a handoff.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Bytes read but not yet written. While there are any, the source is not read.
    #[serde(with = "crate::handoff::bytes")]
    pub(crate) leftover: Vec<u8>,
    /// Whether the source has said its last byte.
    pub(crate) ended: bool,
    pub(crate) sink: Sink,
    pub(crate) observer: Observer,
}

/// The writing end of a [`Flow`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sink {
    /// Takes bytes.
    #[default]
    Open,
    /// Takes no more bytes of its source: a close frame of ours went there, or still waits in
    /// its leftover.
    Farewell,
    /// Was told that no more will come.
    Shut,
    /// Cannot be written any more; what comes for it is thrown away.
    Dead,
}

/// A call without its sockets, as it travels in a handoff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MovedCall {
    pub(crate) connection: Moved,
    pub(crate) up: Flow,
    pub(crate) down: Flow,
    pub(crate) closed: Option<Closed>,
    /// Crashes in a row in which a relay had it in its hands.
    #[serde(default)]
    pub(crate) strikes: u8,
}

/// See the module.
#[derive(Debug)]
pub struct LiveCall {
    pub(crate) ticket: Ticket,
    pub(crate) caller: TcpStream,
    pub(crate) worker: TcpStream,
    /// From the caller to the worker.
    pub(crate) up: Flow,
    /// From the worker to the caller.
    pub(crate) down: Flow,
    /// The first sign of the end.
    pub(crate) closed: Option<Closed>,
    /// Ended by policy: each side gets a close frame of ours, as soon as a frame ends.
    pub(crate) leaving: bool,
}

impl LiveCall {
    /// A call that was just upgraded. `early_up` and `early_down` are bytes that were read behind
    /// the two heads.
    ///
    /// # Errors
    ///
    /// When a socket option cannot be set: the socket is gone then.
    pub fn new(
        ticket: Ticket,
        caller: TcpStream,
        worker: TcpStream,
        early_up: Vec<u8>,
        early_down: Vec<u8>,
    ) -> io::Result<Self> {
        for socket in [&caller, &worker] {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
        }
        let mut call = Self {
            ticket,
            caller,
            worker,
            up: Flow::default(),
            down: Flow::default(),
            closed: None,
            leaving: false,
        };
        for (side, early) in [(Side::Caller, early_up), (Side::Worker, early_down)] {
            call.count(side, &early);
            call.see(side, &early);
            call.flow_from(side).leftover = early;
        }
        Ok(call)
    }

    /// What another process needs to go on with this call, beside its two sockets.
    pub(crate) fn describe(&self) -> MovedCall {
        MovedCall {
            connection: self.ticket.describe(),
            up: self.up.clone(),
            down: self.down.clone(),
            closed: self.closed,
            strikes: 0,
        }
    }

    /// The call is another process's now.
    pub(crate) fn given(self) {
        drop((self.caller, self.worker));
        self.ticket.given();
    }

    pub(crate) fn socket(&self, side: Side) -> &TcpStream {
        match side {
            Side::Caller => &self.caller,
            Side::Worker => &self.worker,
        }
    }

    fn flow_from(&mut self, side: Side) -> &mut Flow {
        match side {
            Side::Caller => &mut self.up,
            Side::Worker => &mut self.down,
        }
    }

    fn from(&self, side: Side) -> &Flow {
        match side {
            Side::Caller => &self.up,
            Side::Worker => &self.down,
        }
    }

    /// Whether bytes from this side are wanted now: also if they are only thrown away.
    pub(crate) fn wants_read(&self, side: Side) -> bool {
        let flow = self.from(side);
        !flow.ended && (flow.leftover.is_empty() || flow.sink == Sink::Farewell)
    }

    /// Whether bytes wait for this side.
    pub(crate) fn wants_write(&self, side: Side) -> bool {
        !self.from(side.other()).leftover.is_empty()
    }

    /// Both directions are through. Of a call that we end, they are when both sides have said
    /// their own goodbye.
    pub(crate) fn is_over(&self) -> bool {
        let ended = |flow: &Flow| flow.ended || self.leaving && flow.observer.is_done();
        [&self.up, &self.down]
            .into_iter()
            .all(|flow| ended(flow) && flow.leftover.is_empty())
    }

    /// Ends the call by policy. Again for one that was ended is no change.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
        self.closed.get_or_insert(Closed::BY_POLICY);
        for side in Side::BOTH {
            self.say_farewell(side);
            self.settle(side);
        }
    }

    /// Whether some side was told nothing yet, because a frame to it is not whole.
    pub(crate) fn owes_farewell(&self) -> bool {
        let owed = |flow: &Flow| flow.sink == Sink::Open && !flow.observer.is_done();
        self.leaving && [&self.up, &self.down].into_iter().any(owed)
    }

    /// Writes our close frame to the other side of `side`, if the frames from `side` are whole.
    fn say_farewell(&mut self, side: Side) {
        let flow = self.flow_from(side);
        if flow.sink == Sink::Open && flow.observer.is_between_frames() {
            flow.sink = Sink::Farewell;
            let frame = farewell(side.other());
            // What was read and not yet written goes first.
            let mut bytes = std::mem::take(&mut flow.leftover);
            bytes.extend(frame);
            self.write_out(side, &bytes);
        }
    }

    /// Relays the rest of a frame of a call that we end, and nothing behind it.
    fn relay_last(&mut self, side: Side, bytes: &[u8]) {
        let mut rest = bytes;
        if self.from(side).sink == Sink::Open && !self.from(side).observer.is_between_frames() {
            let (taken, code) = self.flow_from(side).observer.see_frame(bytes);
            if let Some(code) = code {
                self.note(side, Some(code));
            }
            self.forward(side, &bytes[..taken]);
            rest = &bytes[taken..];
        }
        self.say_farewell(side);
        // Only for the sight of a close frame.
        self.flow_from(side).observer.see(rest);
        self.settle(side);
        self.settle(side.other());
    }

    /// The call is over and only the last bytes are left: one side is gone for good, or one side
    /// ended its stream after a close frame. From here on the rest has a deadline; before, no
    /// call has any.
    pub(crate) fn is_ending(&self) -> bool {
        let said_goodbye = self.closed.is_some_and(|closed| closed.code.is_some());
        Side::BOTH.into_iter().any(|side| {
            let gone = self.from(side.other()).sink == Sink::Dead;
            self.from(side).ended && (said_goodbye || gone)
        })
    }

    /// Reads once from a side and writes to the other one.
    pub(crate) fn pump(&mut self, side: Side, buffer: &mut [u8]) {
        let read = self.socket(side).read(buffer);
        match read {
            Ok(0) => {
                self.note(side, None);
                self.flow_from(side).ended = true;
                self.settle(side);
            }
            Ok(length) => {
                let bytes = &buffer[..length];
                self.count(side, bytes);
                if self.leaving {
                    self.relay_last(side, bytes);
                } else {
                    self.see(side, bytes);
                    self.forward(side, bytes);
                }
            }
            Err(error) if is_passing(&error) => {}
            Err(_) => {
                self.note(side, None);
                self.flow_from(side).ended = true;
                self.kill(side);
                self.settle(side);
            }
        }
    }

    /// Writes what waits for a side.
    pub(crate) fn flush(&mut self, side: Side) {
        let source = side.other();
        let leftover = std::mem::take(&mut self.flow_from(source).leftover);
        self.write_out(source, &leftover);
        self.settle(source);
    }

    /// Writes bytes from `side` to the other one, and keeps what it does not take.
    fn forward(&mut self, side: Side, bytes: &[u8]) {
        if self.from(side).sink == Sink::Open {
            self.write_out(side, bytes);
        }
    }

    /// As [`LiveCall::forward`], also to a side that has had our close frame.
    fn write_out(&mut self, side: Side, bytes: &[u8]) {
        if matches!(self.from(side).sink, Sink::Shut | Sink::Dead) {
            return;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.socket(side.other()).write(rest) {
                Ok(written) => {
                    rest = &rest[written..];
                    if written < 1 {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.note(side.other(), None);
                    self.kill(side.other());
                    return;
                }
            }
        }
        self.flow_from(side).leftover.extend_from_slice(rest);
    }

    /// Tells the other side that no more will come, once that is so: `side` has ended; or the other
    /// side has had our close frame and answered it.
    fn settle(&mut self, side: Side) {
        let (flow, back) = (self.from(side), self.from(side.other()));
        let through = match flow.sink {
            Sink::Open => flow.ended,
            Sink::Farewell => back.ended || back.observer.is_done(),
            Sink::Shut | Sink::Dead => false,
        };
        if through && flow.leftover.is_empty() {
            // An error means that the socket is gone already, which reading it will show.
            let _ = self.socket(side.other()).shutdown(Shutdown::Write);
            self.flow_from(side).sink = Sink::Shut;
        }
    }

    /// Nothing can be written to this side any more. What it said before can still be read.
    fn kill(&mut self, side: Side) {
        let flow = self.flow_from(side.other());
        flow.sink = Sink::Dead;
        flow.leftover = Vec::new();
    }

    fn count(&self, side: Side, bytes: &[u8]) {
        let counters: &Counters = self.ticket.counters();
        let counter = match side {
            Side::Caller => &counters.bytes_in,
            Side::Worker => &counters.bytes_out,
        };
        counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    fn see(&mut self, side: Side, bytes: &[u8]) {
        if let Some(code) = self.flow_from(side).observer.see(bytes) {
            self.note(side, Some(code));
        }
    }

    fn note(&mut self, side: Side, code: Option<u16>) {
        let by = side.by();
        self.closed.get_or_insert(Closed { by, code });
    }

    /// Closes both sockets and uncounts the call.
    pub(crate) fn finish(self, now: Timestamp) {
        let fault = Closed {
            by: By::Gateway,
            code: None,
        };
        if self.leaving {
            for side in Side::BOTH {
                // Whoever reads what came before finds an end and no reset.
                let _ = self.socket(side).shutdown(Shutdown::Write);
            }
        }
        // The sockets close before the count goes, so that "uncounted" means "gone".
        drop((self.caller, self.worker));
        self.ticket
            .finish(End::Closed(self.closed.unwrap_or(fault)), now);
    }
}

/// What a side is told when its call is ended by policy.
pub(crate) fn farewell(to: Side) -> Vec<u8> {
    let mask = (to == Side::Worker).then(|| {
        let random = uuid::Uuid::now_v7();
        *random.as_bytes().last_chunk().expect("of sixteen bytes")
    });
    close_frame(1001, FAREWELL_REASON, mask)
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
