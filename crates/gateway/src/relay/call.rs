//! A live call that stands still: two sockets and the little that is known about them.
//!
//! A value without a task: whoever owns it may relay it, and handing it to a shard or to another
//! process is handing over the value. While it is relayed, a shard has it as `Running`.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::ServerConnection;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::frames::{Observer, close_frame};
use crate::ledger::{Closed, Counters, Ledger, Moved, Ticket};
use crate::rescue::Lifeline;
use crate::slots::{Delta, EXTENT_BYTES, Entered, FlowState, Slot, Slots};

use super::side::Side;
use super::{Held, tls};

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

/// How far the life of a call's sockets is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// It may end at once: what only a call needs that lasts is not done yet.
    Fresh,
    /// See [`season`].
    Seasoned,
    /// Another process has or had duplicates of them, so closing them may not end them.
    Shared,
    /// As `Shared`; and the keeper was given them, and has not been told that they ended.
    Held,
    /// As `Held`, but the keeper may have lost them, and is to be given them again.
    Doubted,
}

/// Does what only a call needs that lasts: has the kernel notice a worker that vanished, and notes
/// the kernel's counts. Nobody may read or write the sockets meanwhile.
pub(super) fn season(slot: &Slot, caller: &TcpStream, worker: &TcpStream) {
    if let Err(error) = keep_alive(worker) {
        tracing::debug!(%error, "no keepalive to a worker");
    }
    note_counts(slot, caller, worker);
}

/// Notes the kernel's counts. Nobody may read or write the sockets meanwhile.
pub(super) fn note_counts(slot: &Slot, caller: &TcpStream, worker: &TcpStream) {
    if slot.is_keepable()
        && let Err(error) = slot.note_counts(caller, worker)
    {
        // It is relayed all the same; only a crash would end it.
        tracing::debug!(%error, "a call cannot be kept");
        slot.set_unkeepable();
    }
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
    /// How it can outlive its worker, if it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lifeline: Option<Box<Lifeline>>,
}

impl MovedCall {
    /// A call in which nothing has happened yet.
    pub(crate) fn fresh(connection: Moved) -> Self {
        Self {
            connection,
            up: Flow::default(),
            down: Flow::default(),
            closed: None,
            strikes: 0,
            lifeline: None,
        }
    }
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
    pub(super) leaving: bool,
    /// When it stood.
    pub(super) connected: Option<Timestamp>,
    /// Crashes in a row in which a relay had it in its hands.
    pub(super) strikes: u8,
    /// Its place in this process's memory, once it has one. What is there is what is here.
    pub(super) slot: Option<Slot>,
    pub(super) age: Age,
    /// The keys of the caller's side, if it speaks TLS. They cannot leave this process.
    pub(super) tls: Option<Box<ServerConnection>>,
    /// How it can outlive its worker, if it can.
    pub(crate) lifeline: Option<Box<Lifeline>>,
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
        sockopt::set_socket_oobinline(&caller, true)?;
        keep_alive(&worker)?;
        let call = Self::of_ready(ticket, caller, worker, early_up, early_down)?;
        // Nobody knows who else has these sockets.
        let age = Age::Shared;
        Ok(Self { age, ..call })
    }

    /// As [`LiveCall::new`], of sockets that nobody else has, and that do not block and do not
    /// delay; the caller's has the options of the front's listener.
    ///
    /// # Errors
    ///
    /// Those of [`LiveCall::new`].
    pub(crate) fn of_ready(
        ticket: Ticket,
        caller: TcpStream,
        worker: TcpStream,
        early_up: Vec<u8>,
        early_down: Vec<u8>,
    ) -> io::Result<Self> {
        let mut call = Self {
            ticket,
            caller,
            worker,
            up: Flow::default(),
            down: Flow::default(),
            closed: None,
            leaving: false,
            connected: Some(clock::now()),
            strikes: 0,
            slot: None,
            age: Age::Fresh,
            tls: None,
            lifeline: None,
        };
        // A byte that is sent as urgent is relayed in its turn, like any other: out of turn the
        // kernel would keep one such byte, throw others away, and count what nobody read.
        sockopt::set_socket_oobinline(&call.worker, true)?;
        for (side, early) in [(Side::Caller, early_up), (Side::Worker, early_down)] {
            call.count(side, &early);
            call.see(side, &early);
            call.flow_from(side).leftover = early;
        }
        Ok(call)
    }

    /// As [`LiveCall::new`], for a caller who speaks TLS, behind its handshake.
    ///
    /// # Errors
    ///
    /// Those of [`LiveCall::new`], and when what is left in `tls` cannot be read.
    pub(crate) fn new_tls(
        ticket: Ticket,
        (caller, mut tls): (TcpStream, ServerConnection),
        worker: TcpStream,
        mut early_up: Vec<u8>,
        early_down: Vec<u8>,
    ) -> io::Result<Self> {
        tls::prepare(&mut tls, &mut early_up)?;
        let call = Self::new(ticket, caller, worker, early_up, early_down)?;
        Ok(Self {
            tls: Some(Box::new(tls)),
            ..call
        })
    }

    /// A call of another process.
    pub(crate) fn moved(
        ledger: &Arc<Ledger>,
        moved: MovedCall,
        (caller, worker): (TcpStream, TcpStream),
        now: Timestamp,
    ) -> Option<Self> {
        let connected = moved.connection.connected;
        let call = Self {
            ticket: ledger.adopt(moved.connection, now)?,
            caller,
            worker,
            up: moved.up,
            down: moved.down,
            closed: moved.closed,
            // Its mark came along, and its relay looks for that.
            leaving: false,
            connected,
            strikes: moved.strikes,
            slot: None,
            age: Age::Shared,
            tls: None,
            lifeline: moved.lifeline,
        };
        if let Some(line) = &call.lifeline {
            call.ticket.counters().set_rescued(line.rescued());
        }
        Some(call)
    }

    /// What another process needs to go on with this call, beside its two sockets.
    pub(crate) fn describe(&self) -> MovedCall {
        MovedCall {
            connection: self.ticket.describe(),
            up: self.up.clone(),
            down: self.down.clone(),
            closed: self.closed,
            strikes: 0,
            lifeline: self.lifeline.clone(),
        }
    }

    /// The call is another process's now.
    pub(crate) fn given(self) {
        drop((self.caller, self.worker));
        // Its slot stays as it is: should the taker die before the keeper hears of it, the call is
        // taken back from here. This process ends soon.
        std::mem::forget(self.slot);
        self.ticket.given();
    }

    /// Gives it a slot, so that it can be held before it is relayed. Nobody may read or write its
    /// sockets until it is relayed.
    ///
    /// # Errors
    ///
    /// When all slots are in use, or more waits than there is room for.
    pub(crate) fn enroll(&mut self, slots: &Arc<Slots>) -> io::Result<()> {
        let slot = self.enter(slots)?;
        if self.age == Age::Fresh {
            season(&slot, &self.caller, &self.worker);
            self.age = Age::Seasoned;
        } else {
            note_counts(&slot, &self.caller, &self.worker);
        }
        self.slot = Some(slot);
        Ok(())
    }

    /// As [`LiveCall::enroll`], of a call that another process still relays: the kernel's counts
    /// come behind it.
    ///
    /// # Errors
    ///
    /// Those of [`LiveCall::enroll`].
    pub(crate) fn enroll_ahead(&mut self, slots: &Arc<Slots>) -> io::Result<()> {
        self.slot = Some(self.enter(slots)?);
        Ok(())
    }

    /// As [`LiveCall::enroll`], but for what is done later to a fresh call.
    pub(super) fn enroll_lightly(&mut self, slots: &Arc<Slots>) -> io::Result<()> {
        if self.age != Age::Fresh {
            return self.enroll(slots);
        }
        self.slot = Some(self.enter(slots)?);
        Ok(())
    }

    fn enter(&mut self, slots: &Arc<Slots>) -> io::Result<Slot> {
        let waits = self.up.leftover.len().max(self.down.leftover.len());
        if waits > EXTENT_BYTES {
            return Err(io::Error::other("more waits in a call than ever can"));
        }
        let slot = slots.take(&Entered {
            identity: self.ticket.identity(),
            worker: self.ticket.worker(),
            addr: self.ticket.addr(),
            connected: self.connected,
            closed: self.closed,
            ends: self.leaving,
            strikes: self.strikes,
            keepable: self.tls.is_none(),
        });
        let slot = slot.ok_or_else(|| io::Error::other("no slot is free for a call"))?;
        let (bytes_in, bytes_out) = self.ticket.counters().read();
        for (side, read, flow) in [
            (Side::Caller, bytes_in, &self.up),
            (Side::Worker, bytes_out, &self.down),
        ] {
            let mut state = FlowState::new(read, &flow.observer, flow.sink, flow.ended);
            slot.append(side, &mut state, &flow.leftover);
            slot.set_flow(side, &state);
        }
        if matches!(self.age, Age::Held | Age::Doubted) {
            // It was so by another slot.
            self.age = Age::Shared;
        }
        Ok(slot)
    }

    /// What a process needs that had its sketch. `None`: it has no slot.
    pub(crate) fn delta(&self) -> Option<Delta> {
        let slot = self.slot.as_ref()?;
        let ends = self.ticket.counters().is_to_end();
        Some(slot.delta(self.ticket.number(), ends))
    }

    /// What the keeper needs. `None`: it has no slot, or cannot be kept.
    pub(crate) fn to_hold(&self) -> Option<Held<'_>> {
        let slot = self.slot.as_ref().filter(|slot| slot.is_keepable())?;
        Some(Held {
            slot: slot.number(),
            generation: slot.generation(),
            caller: self.caller.as_fd(),
            worker: self.worker.as_fd(),
        })
    }

    /// The keeper has it.
    pub(crate) fn set_held(&mut self) {
        self.age = Age::Held;
    }

    fn flow_from(&mut self, side: Side) -> &mut Flow {
        match side {
            Side::Caller => &mut self.up,
            Side::Worker => &mut self.down,
        }
    }

    /// Looks at bytes that came before it is relayed.
    pub(super) fn see(&mut self, side: Side, bytes: &[u8]) {
        if let Some(code) = self.flow_from(side).observer.see(bytes) {
            let by = side.by();
            self.closed.get_or_insert(Closed {
                by,
                code: Some(code),
            });
        }
    }

    pub(super) fn count(&self, side: Side, bytes: &[u8]) {
        let counters: &Counters = self.ticket.counters();
        let counter = match side {
            Side::Caller => &counters.bytes_in,
            Side::Worker => &counters.bytes_out,
        };
        counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
}

/// What a side is told when its call is ended by policy.
pub(crate) fn farewell(to: Side) -> Vec<u8> {
    goodbye(to, 1001, FAREWELL_REASON)
}

/// A close frame of ours for a side. Towards a worker we are the client, and a client masks.
pub(crate) fn goodbye(to: Side, code: u16, reason: &str) -> Vec<u8> {
    let mask = (to == Side::Worker).then(|| {
        let random = uuid::Uuid::now_v7();
        *random.as_bytes().last_chunk().expect("of sixteen bytes")
    });
    close_frame(code, reason, mask)
}
