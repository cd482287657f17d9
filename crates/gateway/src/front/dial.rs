//! Reaching a worker and getting a head from it.

use std::net::SocketAddr;
use std::time::Duration;

use segue_core::names::WorkerId;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock;
use crate::http::Answer;
use crate::http::head::{ReadHeadError, read_head};
use crate::http::response::Response;
use crate::ledger::{Ticket, Unreached};
use crate::quiet::Quiet;
use crate::relay::keep_alive;

use super::Front;

/// How long one worker may take to accept: it is on this machine or the next one.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Workers tried for one connection.
const TRIES_MAX: usize = 3;

/// Interim responses (`100`, `103`) skipped before the real one.
const INTERIMS_MAX: usize = 4;

/// Dials that failed: every call tries when no worker is there.
static UNREACHED: Quiet = Quiet::new();

/// Answers that could not be read.
static MALFORMED: Quiet = Quiet::new();

/// The workers that failed one connection.
#[derive(Debug, Default)]
pub(super) struct Tried(Vec<WorkerId>);

impl Tried {
    /// The ticket's worker failed: says so to those who choose workers, and moves the ticket to
    /// another one of its release. False: there is none, or enough were tried.
    pub(super) fn next(&mut self, front: &Front, ticket: &mut Ticket) -> bool {
        let (worker, addr) = (ticket.worker().clone(), ticket.addr());
        front.health.answered(&worker, addr, false);
        self.0.push(worker);
        let up = |worker: &WorkerId, addr| front.health.up(worker, addr);
        self.0.len() < TRIES_MAX && ticket.retry(&self.0, &up, clock::now()).is_ok()
    }

    /// As [`Tried::next`], for one that did not even accept, which is said.
    pub(super) fn next_for_unreached(&mut self, front: &Front, ticket: &mut Ticket) -> bool {
        if let Some(unsaid) = UNREACHED.may_say(clock::now()) {
            let (worker, addr) = (ticket.worker(), ticket.addr());
            tracing::warn!(%worker, %addr, unsaid, "a worker could not be reached");
        }
        self.next(front, ticket)
    }
}

/// Connects to a worker, for longer than a moment.
pub(crate) async fn connect(addr: SocketAddr) -> Option<TcpStream> {
    let stream = connect_lightly(addr).await?;
    watch_peer(&stream);
    Some(stream)
}

/// Has the kernel notice a worker that vanished.
pub(super) fn watch_peer(stream: &TcpStream) {
    if let Err(error) = keep_alive(stream) {
        tracing::debug!(%error, "no keepalive to a worker");
    }
}

/// As [`connect`], but for what only a connection needs that lasts: calls get it when they do.
async fn connect_lightly(addr: SocketAddr) -> Option<TcpStream> {
    let connect = TcpStream::connect(addr);
    let stream = timeout(DIAL_TIMEOUT, connect).await.ok()?.ok()?;
    // Small frames would wait for acknowledgements without it.
    let _ = stream.set_nodelay(true);
    Some(stream)
}

/// Connects to the ticket's worker, or to others of its release if it cannot be reached; lightly.
pub(super) async fn dial(
    front: &Front,
    ticket: &mut Ticket,
    tried: &mut Tried,
) -> Option<TcpStream> {
    loop {
        if let Some(stream) = connect_lightly(ticket.addr()).await {
            return Some(stream);
        }
        if !tried.next_for_unreached(front, ticket) {
            return None;
        }
    }
}

/// Waits until a worker accepts that was dialled without waiting.
pub(super) async fn accepts(worker: std::net::TcpStream) -> Option<TcpStream> {
    let worker = TcpStream::from_std(worker).ok()?;
    timeout(DIAL_TIMEOUT, worker.writable()).await.ok()?.ok()?;
    // What writes it says, too, but not that nobody listens there.
    matches!(worker.take_error(), Ok(None)).then_some(worker)
}

fn malformed(error: &dyn std::fmt::Display) {
    if let Some(unsaid) = MALFORMED.may_say(clock::now()) {
        tracing::warn!(%error, unsaid, "the worker's answer is malformed");
    }
}

/// Why there is no answer of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// The connection ended first.
    Ended,
    /// It is none.
    Malformed,
    /// It did not come in time.
    Late,
    /// There were only answers that announce another one.
    Interim,
}

impl NoAnswer {
    fn status(self) -> u16 {
        match self {
            Self::Ended | Self::Malformed | Self::Interim => 502,
            Self::Late => 504,
        }
    }

    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Ended => "the worker closed the connection",
            Self::Malformed => "the worker's answer is malformed",
            Self::Late => "the worker did not answer in time",
            Self::Interim => "the worker never came to its answer",
        }
    }
}

/// As [`read_answer`], with what the caller is told.
pub(super) async fn read_response(
    worker: &mut TcpStream,
    patience: Duration,
    said: Vec<u8>,
) -> Result<(Response, Vec<u8>), (Unreached, Answer)> {
    let answer = read_answer(worker, patience, said).await;
    answer.map_err(|none| {
        let told = Answer::new(none.status(), none.why());
        (Unreached::BadAnswer, told)
    })
}

/// Reads the worker's response head, and what came behind it. `read`: what it has said already.
pub(crate) async fn read_answer(
    worker: &mut TcpStream,
    patience: Duration,
    mut read: Vec<u8>,
) -> Result<(Response, Vec<u8>), NoAnswer> {
    let deadline = Instant::now() + patience;
    for _ in 0..=INTERIMS_MAX {
        let (head, behind) = match timeout_at(deadline, read_head(worker, read)).await {
            Ok(Ok(read)) => read,
            Ok(Err(ReadHeadError::Ended | ReadHeadError::Io(_))) => {
                return Err(NoAnswer::Ended);
            }
            Ok(Err(error)) => {
                malformed(&error);
                return Err(NoAnswer::Malformed);
            }
            Err(_) => return Err(NoAnswer::Late),
        };
        let response = Response::parse(&head).map_err(|error| {
            malformed(&error);
            NoAnswer::Malformed
        })?;
        if response.status == 101 || response.status >= 200 {
            return Ok((response, behind));
        }
        read = behind;
    }
    Err(NoAnswer::Interim)
}
