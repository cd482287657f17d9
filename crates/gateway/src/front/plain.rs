//! Plain requests: webhooks, session starts, whatever else the agent serves.
//!
//! One request for each connection, on both sides: a connection that is never reused cannot be
//! smuggled into.

use std::io::ErrorKind;
use std::time::Duration;

use rustix::net::sockopt::set_socket_recv_buffer_size;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::clock;
use crate::config::Limits;
use crate::http::Answer;
use crate::http::body::{Body, BodyReader, FORM_BYTES_MAX, copy_body, write};
use crate::http::head::Framing;
use crate::http::request::Request;
use crate::ledger::{End, Purpose, Unreached};
use crate::tls::Caller;

use super::dial::{self, Tried};
use super::facts::{Facts, find_table, headers_for_caller, headers_for_worker};
use super::{Guest, Outcome, answer_to, pairs, sent};

/// How long a worker may take to begin its answer: a session start may load a model.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// How much of an answer the kernel holds on each side of us, in bytes. Left to itself it takes
/// megabytes, and with slow readers it would take them from the calls.
const ANSWER_BUFFER_BYTES: usize = 128 * 1024;

impl Guest {
    pub(super) async fn plain(
        &self,
        caller: &mut Caller,
        request: &Request,
        waits: bool,
        behind: Vec<u8>,
    ) -> Outcome {
        let front = &self.front;
        let table = find_table(&front.ledger, request)?;
        let mut body = self.body(caller, request, waits, behind).await?;
        let is_form = request
            .headers
            .text("content-type")
            .and_then(|kind| kind.split(';').next())
            .is_some_and(|kind| {
                let kind = kind.trim();
                kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
            });
        let form = (is_form && body.bytes.len() <= FORM_BYTES_MAX).then_some(body.bytes.as_slice());
        let facts = Facts::read(&table, request, form)?;
        let purpose = if facts.minted {
            Purpose::Request
        } else {
            Purpose::Webhook
        };
        let up = |worker: &_, addr| front.health.up(worker, addr);
        let asking = facts.asking(&table, purpose);
        let begun = front.ledger.begin(asking, &up, clock::now());
        self.decided();
        let mut ticket = begun.map_err(answer_to)?;

        let tried = &mut Tried::default();
        let Some(mut worker) = dial::dial(front, &mut ticket, tried).await else {
            ticket.finish(End::Unreached(Unreached::Dial), clock::now());
            let answer = Answer::new(503, "no worker of the release could be reached");
            return Err(Some(answer.with("Retry-After", "1")));
        };
        dial::watch_peer(&worker);
        let ours = headers_for_worker(&ticket.identity(), request, self.peer, caller.scheme());
        let length = (request.framing != Framing::None).then_some(body.bytes.len());
        let mut message = request.to_worker(&pairs(&ours), length);
        message.extend_from_slice(&body.bytes);
        body.bytes = Vec::new();
        sent(&ticket, request);
        // If this fails, so does reading the answer.
        let _ = timeout(ANSWER_TIMEOUT, worker.write_all(&message)).await;
        drop((message, body));
        let read = dial::read_response(&mut worker, ANSWER_TIMEOUT, Vec::new()).await;
        // A 5xx is one request's; only of an upgrade does it tell how the worker is.
        if !matches!(&read, Ok((response, _)) if response.status >= 500) {
            let (worker, addr) = (ticket.worker(), ticket.addr());
            front.health.answered(worker, addr, read.is_ok());
        }
        // Another worker is not asked: this one may have done what the request says.
        let (response, behind) = match read {
            Ok((response, _)) if response.status == 101 => {
                ticket.finish(End::Unreached(Unreached::BadAnswer), clock::now());
                return Err(Some(Answer::new(502, "the worker upgraded unasked")));
            }
            Ok(read) => read,
            Err((why, answer)) => {
                ticket.finish(End::Unreached(why), clock::now());
                return Err(Some(answer));
            }
        };
        let end = response.body_end(request.method == "HEAD");
        let extra = headers_for_caller(&ticket.identity());
        caller.bound(ANSWER_BUFFER_BYTES);
        // At worst the kernel's own bounds hold.
        let _ = set_socket_recv_buffer_size(&worker, ANSWER_BUFFER_BYTES);
        let relayed = async {
            let stall = front.limits.stall_timeout;
            write(caller, &response.to_caller(&pairs(&extra)), stall).await?;
            copy_body(&mut worker, caller, end, behind, stall).await
        };
        let relayed = relayed.await;
        // A request that was turned down pins nothing: ids of strangers must not fill the ledger.
        let ended = if response.status < 400 {
            End::Answered
        } else {
            End::Unreached(Unreached::Status(response.status))
        };
        ticket.finish(ended, clock::now());
        if let Err(error) = relayed {
            tracing::debug!(%error, "an answer broke off");
            if error.kind() == ErrorKind::TimedOut {
                caller.forget();
            }
            return Err(None);
        }
        Ok(None)
    }

    async fn body(
        &self,
        caller: &mut Caller,
        request: &Request,
        waits: bool,
        behind: Vec<u8>,
    ) -> Result<Body<'_>, Option<Answer>> {
        if matches!(request.framing, Framing::None | Framing::Length(0)) {
            return Ok(Body::default());
        }
        let Limits {
            body_timeout,
            stall_timeout,
            ..
        } = self.front.limits;
        if waits && behind.is_empty() {
            let go_on = write(caller, b"HTTP/1.1 100 Continue\r\n\r\n", stall_timeout);
            go_on.await.map_err(|_| None)?;
        }
        let reader = BodyReader::new(&self.front.turns, body_timeout);
        reader.read(caller, request.framing, behind).await
    }
}
