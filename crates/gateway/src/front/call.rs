//! WebSocket calls: from the request to the 101 of the worker.

use std::borrow::Cow;
use std::time::Duration;

use segue_core::spec::Rescue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::clock;
use crate::http::Answer;
use crate::http::body::{copy_body, write};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::ledger::{End, Purpose, Ticket, Unreached};
use crate::quiet::Quiet;
use crate::rescue::{Lifeline, Recorded};
use crate::tls::Caller;

use super::dial::{self, Tried};
use super::facts::{Facts, find_table, headers_for_caller, headers_for_worker};
use super::{Guest, Outcome, Upgraded, answer_to, pairs, sent};

/// How long a worker may take to answer an upgrade.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that a caller may send ahead of the 101. One that sends more is heard again behind it, and
/// until then we do not notice whether it hangs up.
const EARLY_BYTES_MAX: usize = 16 * 1024;

/// Upgrades that workers failed; what a caller asks for may be why.
static FAILED: Quiet = Quiet::new();

/// A worker's answer: its connection, its head, and what came behind that.
type Answered = (TcpStream, Response, Vec<u8>);

/// Why there is none, and what the caller is told.
type Failed = (Unreached, Answer);

impl Guest {
    /// `early` are bytes that came behind the head; they are held until the worker said yes.
    pub(super) async fn call(
        &self,
        caller: &mut Caller,
        request: &Request,
        key: &str,
        mut early: Vec<u8>,
    ) -> Outcome {
        let front = &self.front;
        let table = find_table(&front.ledger, request)?;
        let facts = Facts::read(&table, request, None)?;
        let asking = facts.asking(&table, Purpose::Call);
        let up = |worker: &_, addr| front.health.up(worker, addr);
        let begun = front.ledger.begin(asking, &up, clock::now());
        self.decided();
        let mut ticket = begun.map_err(answer_to)?;
        let request = &match table.rescue {
            Some(_) => Cow::Owned(without_extensions(request)),
            None => Cow::Borrowed(request),
        };

        let ours = headers_for_worker(&ticket.identity(), request, self.peer, caller.scheme());
        let head = request.to_worker(&pairs(&ours), None);
        let answered = tokio::select! {
            answered = self.ask(&mut ticket, request, &head, (key, table.rescue)) => answered,
            () = hung_up(caller, &mut early) => {
                ticket.finish(End::Unreached(Unreached::CallerLeft), clock::now());
                return Err(None);
            }
        };
        let (mut worker, response, behind) = match answered {
            Ok(answered) => answered,
            Err((why, answer)) => {
                ticket.finish(End::Unreached(why), clock::now());
                return Err(Some(answer));
            }
        };
        let mut extra = headers_for_caller(&ticket.identity());
        if response.status != 101 {
            let why = Unreached::Status(response.status);
            ticket.finish(End::Unreached(why), clock::now());
            let relayed = async {
                let stall = front.limits.stall_timeout;
                write(caller, &response.to_caller(&pairs(&extra)), stall).await?;
                copy_body(&mut worker, caller, response.body_end(false), behind, stall).await
            };
            // Both sides are closed now, whether all of it came through or not.
            if timeout(UPGRADE_TIMEOUT, relayed).await.is_err() {
                caller.forget();
            }
            return Ok(None);
        }
        if ticket.counters().is_to_end() {
            ticket.finish(End::Unreached(Unreached::Retired), clock::now());
            let answer = Answer::new(503, "the call was ended while it was being connected");
            return Err(Some(answer.with("Retry-After", "0")));
        }
        let cookie = facts.cookie(&table, caller.scheme());
        extra.extend(cookie.map(|value| ("Set-Cookie", value)));
        let accepted = response.to_caller(&pairs(&extra));
        let accepted = write(caller, &accepted, front.limits.stall_timeout);
        if accepted.await.is_err() {
            ticket.finish(End::Unreached(Unreached::CallerLeft), clock::now());
            return Err(None);
        }
        ticket.connected(clock::now());
        let lifeline = table.rescue.and_then(|rescue| {
            let protocol = response.headers.text("sec-websocket-protocol");
            let request = Recorded::new(request, &pairs(&ours), protocol);
            if request.is_none() {
                tracing::warn!("the head of a call is too long to be kept; it cannot be rescued");
            }
            Some(Box::new(Lifeline::new(request?, rescue.opening_messages)))
        });
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
    async fn ask(
        &self,
        ticket: &mut Ticket,
        request: &Request,
        head: &[u8],
        (key, rescue): (&str, Option<Rescue>),
    ) -> Result<Answered, Failed> {
        let mut tried = Tried::default();
        loop {
            let Some(mut worker) = dial::dial(&self.front, ticket, &mut tried).await else {
                let answer = Answer::new(503, "no worker of the release could be reached");
                return Err((Unreached::Dial, answer.with("Retry-After", "1")));
            };
            // If this fails, so does reading the answer.
            let _ = worker.write_all(head).await;
            sent(&ticket.identity(), ticket.addr(), request);
            let read = dial::read_response(&mut worker, UPGRADE_TIMEOUT).await;
            let answered = match read {
                Ok((response, _)) if response.status == 101 && !response.accepts(key) => Err((
                    Unreached::BadAnswer,
                    Answer::new(502, "the worker's 101 is not valid"),
                )),
                Ok((response, _))
                    if rescue.is_some() && response.status == 101 && response.extends() =>
                {
                    let why = "the worker's 101 has an extension that was not offered";
                    Err((Unreached::BadAnswer, Answer::new(502, why)))
                }
                Ok((response, behind)) => Ok((worker, response, behind)),
                Err(failed) => Err(failed),
            };
            let why = match &answered {
                Ok((_, response, _)) if response.status >= 500 => {
                    Unreached::Status(response.status)
                }
                Ok(_) => {
                    let (worker, addr) = (ticket.worker(), ticket.addr());
                    self.front.health.answered(worker, addr, true);
                    return answered;
                }
                Err((why, _)) => *why,
            };
            let worker = ticket.worker();
            if let Some(unsaid) = FAILED.may_say(clock::now()) {
                tracing::warn!(%worker, why = why.why(), unsaid, "a worker failed an upgrade");
            }
            if !tried.next(&self.front, ticket) {
                return answered;
            }
        }
    }
}

/// What a call may be asked for with that may be rescued: what is compressed, another worker could
/// not go on with.
fn without_extensions(request: &Request) -> Request {
    let mut request = request.clone();
    let headers = &mut request.headers.0;
    headers.retain(|header| !header.is("Sec-WebSocket-Extensions"));
    request
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
