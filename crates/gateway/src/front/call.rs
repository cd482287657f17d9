//! WebSocket calls that a task sets up: from the request to the 101 of the worker.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clock;
use crate::http::Answer;
use crate::http::body::{copy_body, write};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::ledger::{End, Unreached};
use crate::quiet::Quiet;
use crate::tls::Caller;

use super::decided::{Decided, Failed};
use super::dial::{self, Tried};
use super::facts::find_table;
use super::{Guest, Outcome, Upgraded};

/// How long a worker may take to answer an upgrade.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that a caller may send ahead of the 101. One that sends more is heard again behind it, and
/// until then we do not notice whether it hangs up.
const EARLY_BYTES_MAX: usize = 16 * 1024;

/// Upgrades that workers failed; what a caller asks for may be why.
static FAILED: Quiet = Quiet::new();

/// A worker's answer: its connection, its head, and what came behind that.
type Answered = (TcpStream, Response, Vec<u8>);

/// How far the first worker of a call was asked already.
#[derive(Debug)]
pub(super) enum Asked {
    /// Not at all.
    Nobody,
    /// It was dialled and has not accepted yet.
    Dialled(std::net::TcpStream),
    /// It accepted, was sent all of the head but these bytes, and has said the beginning of an
    /// answer.
    Reached {
        worker: std::net::TcpStream,
        unsent: Vec<u8>,
        said: Vec<u8>,
    },
}

impl Guest {
    /// `early` are bytes that came behind the head; they are held until the worker said yes.
    pub(super) async fn call(
        &self,
        caller: &mut Caller,
        request: Request,
        key: String,
        early: Vec<u8>,
    ) -> Outcome {
        let table = find_table(&self.front.ledger, &request)?;
        let decided = self.decide(table, request, key, caller.scheme())?;
        self.connect(caller, decided, Asked::Nobody, early).await
    }

    /// Goes on with a call that is decided.
    pub(super) async fn connect(
        &self,
        caller: &mut Caller,
        mut decided: Box<Decided>,
        asked: Asked,
        mut early: Vec<u8>,
    ) -> Outcome {
        let stall = self.front.limits.stall_timeout;
        let answered = tokio::select! {
            answered = self.ask(&mut decided, asked) => answered,
            () = hung_up(caller, &mut early) => {
                decided.ticket.finish(End::Unreached(Unreached::CallerLeft), clock::now());
                return Err(None);
            }
        };
        let (mut worker, response, behind) = match answered {
            Ok(answered) => answered,
            Err((why, answer)) => {
                decided.ticket.finish(End::Unreached(why), clock::now());
                return Err(Some(answer));
            }
        };
        if response.status != 101 {
            let head = decided.answer(&response);
            let why = Unreached::Status(response.status);
            decided.ticket.finish(End::Unreached(why), clock::now());
            let relayed = async {
                write(caller, &head, stall).await?;
                copy_body(&mut worker, caller, response.body_end(false), behind, stall).await
            };
            // Both sides are closed now, whether all of it came through or not.
            if timeout(UPGRADE_TIMEOUT, relayed).await.is_err() {
                caller.forget();
            }
            return Ok(None);
        }
        if decided.is_to_end() {
            let why = Unreached::Retired;
            decided.ticket.finish(End::Unreached(why), clock::now());
            let answer = Answer::new(503, "the call was ended while it was being connected");
            return Err(Some(answer.with("Retry-After", "0")));
        }
        let accepted = decided.answer(&response);
        if write(caller, &accepted, stall).await.is_err() {
            let why = Unreached::CallerLeft;
            decided.ticket.finish(End::Unreached(why), clock::now());
            return Err(None);
        }
        let (ticket, lifeline) = decided.stands(&response);
        Ok(Some(Upgraded {
            ticket,
            worker,
            early_up: early,
            early_down: behind,
            lifeline,
        }))
    }

    /// Asks for the upgrade until a worker gives a valid 101 or refuses; what else it answers is
    /// its fault, and another one is asked. Nothing but a head was sent, so asking again is safe.
    async fn ask(&self, decided: &mut Decided, mut asked: Asked) -> Result<Answered, Failed> {
        let mut tried = Tried::default();
        let head = decided.head();
        loop {
            let (front, ticket) = (&self.front, &mut decided.ticket);
            let (reached, unsent, said) = match std::mem::replace(&mut asked, Asked::Nobody) {
                Asked::Nobody => (dial::dial(front, ticket, &mut tried).await, None, vec![]),
                Asked::Dialled(worker) => {
                    let reached = dial::accepts(worker).await;
                    if reached.is_none() && tried.next_for_unreached(front, ticket) {
                        continue;
                    }
                    (reached, None, vec![])
                }
                Asked::Reached {
                    worker,
                    unsent,
                    said,
                } => (TcpStream::from_std(worker).ok(), Some(unsent), said),
            };
            let Some(mut worker) = reached else {
                let answer = Answer::new(503, "no worker of the release could be reached");
                return Err((Unreached::Dial, answer.with("Retry-After", "1")));
            };
            // If this fails, so does reading the answer.
            let _ = worker.write_all(unsent.as_deref().unwrap_or(&head)).await;
            if unsent.is_none() {
                decided.sent();
            }
            let read = dial::read_response(&mut worker, UPGRADE_TIMEOUT, said).await;
            let answered = read.and_then(|(response, behind)| {
                decided.check(&response)?;
                Ok((worker, response, behind))
            });
            let why = match &answered {
                Ok((_, response, _)) if response.status >= 500 => {
                    Unreached::Status(response.status)
                }
                Ok(_) => {
                    let (worker, addr) = (decided.ticket.worker(), decided.ticket.addr());
                    self.front.health.answered(worker, addr, true);
                    return answered;
                }
                Err((why, _)) => *why,
            };
            let worker = decided.ticket.worker();
            if let Some(unsaid) = FAILED.may_say(clock::now()) {
                tracing::warn!(%worker, why = why.why(), unsaid, "a worker failed an upgrade");
            }
            if !tried.next(&self.front, &mut decided.ticket) {
                return answered;
            }
        }
    }
}

/// Ends when the caller does, and keeps what it says until then.
async fn hung_up(caller: &mut Caller, early: &mut Vec<u8>) {
    while early.len() < EARLY_BYTES_MAX {
        early.reserve(1_024);
        if !matches!(caller.read_buf(early).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending::<()>().await;
}
