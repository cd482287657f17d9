//! The relay of a TLS call: a task, because its keys live in user space and cannot move.
//!
//! It sees and counts what the plain relay does, and ends a call by policy as that does: each side
//! gets a close frame of ours as soon as a frame to it is whole, and may answer it. Each direction
//! has a buffer of its own.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::clock;
use crate::frames::Observer;
use crate::ledger::{By, Closed, End, Ticket};

use super::call::{Side, farewell};
use super::shard::{ENDING, FAREWELL};

/// Holds a few audio frames; a TLS record is at most this long.
const BUFFER_BYTES: usize = 16 * 1024;

/// What both directions share.
struct Shared {
    /// The first sign of the end.
    closed: Mutex<Option<Closed>>,
    /// Directions in which a call that we end may still have half a frame under way.
    owed: AtomicU8,
}

/// Relays until the call ends, then uncounts it.
pub(crate) async fn relay<C: AsyncRead + AsyncWrite + Unpin + Send>(
    ticket: Ticket,
    caller: C,
    worker: TcpStream,
    early_up: Vec<u8>,
    early_down: Vec<u8>,
) {
    let shared = Shared {
        closed: Mutex::new(None),
        owed: AtomicU8::new(2),
    };
    let told = ticket.told_to_end();
    let counters = ticket.counters();
    let (from_caller, to_caller) = tokio::io::split(caller);
    let (from_worker, to_worker) = worker.into_split();
    {
        let direction = |from, bytes| Direction {
            from,
            shared: &shared,
            bytes,
            told: told.clone(),
        };
        let up = direction(Side::Caller, &counters.bytes_in).copy(from_caller, to_worker, early_up);
        let down =
            direction(Side::Worker, &counters.bytes_out).copy(from_worker, to_caller, early_down);
        tokio::pin!(up, down);
        let both = async {
            let (clean, rest): (bool, Pin<&mut (dyn Future<Output = bool> + Send)>) = tokio::select! {
                clean = &mut up => (clean, down),
                clean = &mut down => (clean, up),
            };
            let goodbye = shared.closed().is_some_and(|closed| closed.code.is_some());
            if clean && !goodbye {
                // One side has said its last byte and the other may go on: a half-close.
                rest.await;
            } else {
                // The call is over; what is left of it has a deadline.
                let _ = tokio::time::timeout(ENDING, rest).await;
            }
        };
        tokio::select! {
            () = both => {}
            () = overdue(told.clone(), &shared) => {}
        }
    }
    let fault = Closed {
        by: By::Gateway,
        code: None,
    };
    let closed = shared.closed().unwrap_or(fault);
    ticket.finish(End::Closed(closed), clock::now());
}

/// Ends when a call that we end must be cut.
async fn overdue(mut told: watch::Receiver<bool>, shared: &Shared) {
    to_leave(&mut told).await;
    tokio::time::sleep(FAREWELL).await;
    if shared.owed.load(Ordering::Relaxed) == 0 {
        // Both sides were told. Whether they answer or not, it is over soon.
        tokio::time::sleep(ENDING).await;
    }
}

async fn to_leave(told: &mut watch::Receiver<bool>) {
    if told.wait_for(|told| *told).await.is_err() {
        // Nobody can tell us any more.
        std::future::pending::<()>().await;
    }
}

/// One direction's part in [`Shared::owed`].
struct Owed<'a>(Option<&'a AtomicU8>);

impl Owed<'_> {
    fn settle(&mut self) {
        if let Some(owed) = self.0.take() {
            owed.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Shared {
    fn closed(&self) -> Option<Closed> {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, closed: Closed) {
        let mut first = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(closed);
    }
}

struct Direction<'a> {
    from: Side,
    shared: &'a Shared,
    bytes: &'a AtomicU64,
    told: watch::Receiver<bool>,
}

impl Direction<'_> {
    /// False: a socket failed, so the call is over.
    async fn copy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        mut self,
        mut from: R,
        mut to: W,
        early: Vec<u8>,
    ) -> bool {
        let mut observer = Observer::default();
        let (mut buffer, mut said) = (early, false);
        let mut owed = Owed(Some(&self.shared.owed));
        loop {
            self.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            let leaving = *self.told.borrow();
            let written = if leaving {
                self.shared.note(Closed::BY_POLICY);
                let last = self.last(&mut observer, &buffer, &mut said);
                let written = write(&mut to, &last).await;
                if said || observer.is_done() {
                    owed.settle();
                }
                written
            } else {
                self.see(&mut observer, &buffer);
                write(&mut to, &buffer).await
            };
            if written.is_err() {
                self.note(self.from.other(), None);
                return false;
            }
            if said && observer.is_done() {
                // Our goodbye was answered; the other side hears no more.
                let _ = to.shutdown().await;
                return true;
            }
            buffer.clear();
            buffer.reserve(BUFFER_BYTES);
            let read = tokio::select! {
                read = from.read_buf(&mut buffer) => read,
                () = to_leave(&mut self.told), if !leaving => continue,
            };
            match read {
                Ok(1..) => {}
                ended => {
                    self.note(self.from, None);
                    // The other side may be gone already; reading it will show.
                    let _ = to.shutdown().await;
                    // Many peers end TLS without saying so.
                    return ended
                        .map_or_else(|e| e.kind() == io::ErrorKind::UnexpectedEof, |_| true);
                }
            }
        }
    }

    /// What is still written of a call that we end: the rest of a frame, our close frame, and
    /// nothing behind it.
    fn last(&self, observer: &mut Observer, bytes: &[u8], said: &mut bool) -> Vec<u8> {
        let (mut last, mut rest) = (Vec::new(), bytes);
        if !*said {
            if !observer.is_between_frames() {
                let (taken, code) = observer.see_frame(rest);
                if let Some(code) = code {
                    self.note(self.from, Some(code));
                }
                last.extend_from_slice(&rest[..taken]);
                rest = &rest[taken..];
            }
            *said = observer.is_between_frames();
            if *said {
                last.extend(farewell(self.from.other()));
            }
        }
        // Only for the sight of a close frame.
        observer.see(rest);
        last
    }

    fn see(&self, observer: &mut Observer, bytes: &[u8]) {
        if let Some(code) = observer.see(bytes) {
            self.note(self.from, Some(code));
        }
    }

    fn note(&self, side: Side, code: Option<u16>) {
        let by = side.by();
        self.shared.note(Closed { by, code });
    }
}

async fn write<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}
