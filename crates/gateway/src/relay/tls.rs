//! The relay of a TLS call: a task, because its keys live in user space and cannot move.
//!
//! It sees and counts what the plain relay does. Each direction has a buffer of its own.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::clock;
use crate::frames::Observer;
use crate::ledger::{By, Closed, End, Ticket};

use super::shard::ENDING;

/// Holds a few audio frames; a TLS record is at most this long.
const BUFFER_BYTES: usize = 16 * 1024;

/// Relays until the call ends, then uncounts it.
pub(crate) async fn relay<C: AsyncRead + AsyncWrite + Unpin + Send>(
    ticket: Ticket,
    caller: C,
    worker: TcpStream,
    early_up: Vec<u8>,
    early_down: Vec<u8>,
) {
    let closed = Mutex::new(None);
    let counters = ticket.counters();
    let (from_caller, to_caller) = tokio::io::split(caller);
    let (from_worker, to_worker) = worker.into_split();
    {
        let up = Direction {
            by: By::Caller,
            closed: &closed,
            bytes: &counters.bytes_in,
        };
        let down = Direction {
            by: By::Worker,
            closed: &closed,
            bytes: &counters.bytes_out,
        };
        let up = up.copy(from_caller, to_worker, early_up);
        let down = down.copy(from_worker, to_caller, early_down);
        tokio::pin!(up, down);
        let (clean, rest): (bool, Pin<&mut (dyn Future<Output = bool> + Send)>) = tokio::select! {
            clean = &mut up => (clean, down),
            clean = &mut down => (clean, up),
        };
        let goodbye = lock(&closed).is_some_and(|closed| closed.code.is_some());
        if clean && !goodbye {
            // One side has said its last byte and the other may go on: a half-close.
            rest.await;
        } else {
            // The call is over; what is left of it has a deadline.
            let _ = tokio::time::timeout(ENDING, rest).await;
        }
    }
    let fault = Closed {
        by: By::Gateway,
        code: None,
    };
    let closed = lock(&closed).unwrap_or(fault);
    ticket.finish(End::Closed(closed), clock::now());
}

fn lock(closed: &Mutex<Option<Closed>>) -> std::sync::MutexGuard<'_, Option<Closed>> {
    closed.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Direction<'a> {
    by: By,
    closed: &'a Mutex<Option<Closed>>,
    bytes: &'a AtomicU64,
}

impl Direction<'_> {
    /// False: a socket failed, so the call is over.
    async fn copy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        self,
        mut from: R,
        mut to: W,
        early: Vec<u8>,
    ) -> bool {
        let mut observer = Observer::default();
        let mut buffer = early;
        loop {
            self.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            if let Some(code) = observer.see(&buffer) {
                self.note(self.by, Some(code));
            }
            let written = async {
                to.write_all(&buffer).await?;
                to.flush().await
            };
            if written.await.is_err() {
                self.note(self.by.other(), None);
                return false;
            }
            buffer.clear();
            buffer.reserve(BUFFER_BYTES);
            let read = from.read_buf(&mut buffer).await;
            match read {
                Ok(1..) => {}
                ended => {
                    self.note(self.by, None);
                    // The other side may be gone already; reading it will show.
                    let _ = to.shutdown().await;
                    // Many peers end TLS without saying so.
                    return ended
                        .map_or_else(|e| e.kind() == io::ErrorKind::UnexpectedEof, |_| true);
                }
            }
        }
    }

    fn note(&self, by: By, code: Option<u16>) {
        lock(self.closed).get_or_insert(Closed { by, code });
    }
}
