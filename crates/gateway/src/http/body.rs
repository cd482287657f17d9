//! Bodies: a request's is read whole before anything goes upstream, a response's streams through.
//!
//! Reading a request whole makes "refused, and nothing sent upstream" true for its body too, lets a
//! carrier's form name the call, and keeps a slow sender away from the workers.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout, timeout_at};

use super::Answer;
use super::chunked::Decoder;
use super::head::Framing;
use super::response::BodyEnd;

/// Longest request body, in bytes: webhooks and session starts, no uploads.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Longest form that is looked into for a call id, in bytes. Twilio's are below 4 KiB.
pub(crate) const FORM_BYTES_MAX: usize = 64 * 1024;

const COPY_BYTES: usize = 16 * 1024;

/// Bodies longer than [`BODY_BYTES_FREE`] that are in memory at once: 64 MiB. Further ones wait.
const TURNS_MAX: usize = 64;

/// How much of a body is read without waiting for a turn: who sends long bodies slowly must not
/// keep webhooks waiting. All connections together hold 64 MiB of it.
const BODY_BYTES_FREE: usize = 16 * 1024;

/// How long a body waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// Slowest body, in bytes per second, beyond its time to begin. A mobile phone sends faster.
const BODY_BYTES_PER_SECOND_MIN: u64 = 16 * 1024;

/// Long bodies that may be in memory at once.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(TURNS_MAX))
    }
}

/// A body that was read, and its turn, if it needed one.
#[derive(Debug, Default)]
pub(crate) struct Body<'a> {
    pub(crate) bytes: Vec<u8>,
    /// Given back when the body is gone.
    turn: Option<SemaphorePermit<'a>>,
}

/// Reads a request body. It may take `grace`, and longer only as far as it comes fast enough.
pub(crate) struct BodyReader<'a> {
    turns: &'a Turns,
    grace: Duration,
    start: Instant,
    body: Body<'a>,
}

impl<'a> BodyReader<'a> {
    pub(crate) fn new(turns: &'a Turns, grace: Duration) -> Self {
        Self {
            turns,
            grace,
            start: Instant::now(),
            body: Body::default(),
        }
    }

    /// `read` is what came behind the head. An `Err` of `None`: the caller is gone.
    pub(crate) async fn read<S: AsyncRead + Unpin>(
        mut self,
        stream: &mut S,
        framing: Framing,
        read: Vec<u8>,
    ) -> Result<Body<'a>, Option<Answer>> {
        match framing {
            Framing::None => {}
            Framing::Length(length) => {
                let length = usize::try_from(length).map_err(|_| too_long())?;
                if length > BODY_BYTES_MAX {
                    return Err(Some(too_long()));
                }
                self.body.bytes = read;
                self.body.bytes.truncate(length);
                while self.body.bytes.len() < length {
                    self.taketurn().await?;
                    let left = length - self.body.bytes.len();
                    let part = &mut (&mut *stream).take(left as u64);
                    let deadline = self.deadline();
                    more(part, &mut self.body.bytes, deadline).await?;
                }
            }
            Framing::Chunked => {
                let (mut decoder, mut part) = (Decoder::default(), read);
                loop {
                    let body = &mut self.body.bytes;
                    let step = decoder.step(&part, |data| body.extend_from_slice(data));
                    step.map_err(|malformed| Some(malformed.into()))?;
                    if body.len() > BODY_BYTES_MAX {
                        return Err(Some(too_long()));
                    }
                    if decoder.is_done() {
                        break;
                    }
                    self.taketurn().await?;
                    part.clear();
                    more(stream, &mut part, self.deadline()).await?;
                }
            }
        }
        Ok(self.body)
    }

    fn deadline(&self) -> Instant {
        let bytes = self.body.bytes.len() as u64;
        self.start + self.grace + Duration::from_millis(bytes * 1_000 / BODY_BYTES_PER_SECOND_MIN)
    }

    async fn taketurn(&mut self) -> Result<(), Answer> {
        if self.body.turn.is_some() || self.body.bytes.len() < BODY_BYTES_FREE {
            return Ok(());
        }
        let waited = Instant::now();
        let Ok(turn) = timeout(TURN_TIMEOUT, self.turns.0.acquire()).await else {
            let answer = Answer::new(503, "as many long bodies are being read as may be");
            return Err(answer.with("Retry-After", "1"));
        };
        self.body.turn = Some(turn.expect("the semaphore is never closed"));
        // The wait was not the caller's doing.
        self.start += waited.elapsed();
        Ok(())
    }
}

fn too_long() -> Answer {
    Answer::new(
        413,
        format!("the body is longer than {BODY_BYTES_MAX} bytes"),
    )
}

/// Reads some more bytes; that there are none is an error.
async fn more<S: AsyncRead + Unpin>(
    stream: &mut S,
    bytes: &mut Vec<u8>,
    deadline: Instant,
) -> Result<(), Option<Answer>> {
    bytes.reserve(COPY_BYTES);
    match timeout_at(deadline, stream.read_buf(bytes)).await {
        Ok(Ok(1..)) => Ok(()),
        Ok(Ok(0) | Err(_)) => Err(None),
        Err(_) => Err(Some(Answer::new(408, "the body took too long"))),
    }
}

/// Writes to a caller. One that leaves a part unread for as long as `stall` is given up: it must
/// not hold a worker for ever.
pub(crate) async fn write<W: AsyncWrite + Unpin>(
    to: &mut W,
    bytes: &[u8],
    stall: Duration,
) -> io::Result<()> {
    for part in bytes.chunks(COPY_BYTES) {
        timeout(stall, to.write_all(part)).await??;
    }
    timeout(stall, to.flush()).await?
}

/// Streams a response body to its end; `read` is what came behind the head. A worker may be silent
/// for as long as it likes; for a caller see [`write`].
pub(crate) async fn copy_body<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    from: &mut R,
    to: &mut W,
    end: BodyEnd,
    read: Vec<u8>,
    stall: Duration,
) -> io::Result<()> {
    let cut = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut decoder = Decoder::default();
    let mut left = match end {
        BodyEnd::Length(length) => length,
        BodyEnd::Chunked | BodyEnd::Close => u64::MAX,
    };
    let mut part = read;
    loop {
        let mut length = part.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if end == BodyEnd::Chunked {
            length = decoder.step(&part, |_| {}).map_err(|m| cut(m.0))?;
        }
        write(to, &part[..length], stall).await?;
        if let BodyEnd::Length(_) = end {
            left -= length as u64;
        }
        if left == 0 || decoder.is_done() {
            return Ok(());
        }
        part.clear();
        part.reserve(COPY_BYTES);
        if from.read_buf(&mut part).await? == 0 {
            return match end {
                BodyEnd::Close => Ok(()),
                _ => Err(cut("the worker ended within its body")),
            };
        }
    }
}
