//! Reaching a worker and getting a head from it.

use std::time::Duration;

use segue_core::names::WorkerId;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock;
use crate::http::Answer;
use crate::http::head::{ReadHeadError, read_head};
use crate::http::response::Response;
use crate::ledger::{Ticket, Unreached};

use super::Front;

/// How long one worker may take to accept: it is on this machine or the next one.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Workers tried for one connection.
const TRIES_MAX: usize = 3;

/// Interim responses (`100`, `103`) skipped before the real one.
const INTERIMS_MAX: usize = 4;

/// Connects to the ticket's worker, or to others of its release if it cannot be reached.
pub(super) async fn dial(front: &Front, ticket: &mut Ticket) -> Option<TcpStream> {
    let up = |worker: &WorkerId| front.health.up(worker);
    let mut tried = Vec::new();
    loop {
        let connect = TcpStream::connect(ticket.addr());
        let connected = timeout(DIAL_TIMEOUT, connect).await;
        let worker = ticket.worker().clone();
        front
            .health
            .dialled(&worker, matches!(connected, Ok(Ok(_))));
        if let Ok(Ok(stream)) = connected {
            // Small frames would wait for acknowledgements without it.
            let _ = stream.set_nodelay(true);
            return Some(stream);
        }
        tracing::warn!(%worker, addr = %ticket.addr(), "a worker could not be reached");
        tried.push(worker);
        if tried.len() >= TRIES_MAX || ticket.retry(&tried, &up, clock::now()).is_err() {
            return None;
        }
    }
}

/// Reads the worker's response head, and what came behind it.
pub(super) async fn read_response(
    worker: &mut TcpStream,
    patience: Duration,
) -> Result<(Response, Vec<u8>), (Unreached, Answer)> {
    let failed = |status, reason| (Unreached::BadAnswer, Answer::new(status, reason));
    let deadline = Instant::now() + patience;
    let mut read = Vec::new();
    for _ in 0..=INTERIMS_MAX {
        let (head, behind) = match timeout_at(deadline, read_head(worker, read)).await {
            Ok(Ok(read)) => read,
            Ok(Err(ReadHeadError::Ended | ReadHeadError::Io(_))) => {
                return Err(failed(502, "the worker closed the connection"));
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the worker's answer is malformed");
                return Err(failed(502, "the worker's answer is malformed"));
            }
            Err(_) => return Err(failed(504, "the worker did not answer in time")),
        };
        let response = Response::parse(&head).map_err(|error| {
            tracing::warn!(%error, "the worker's answer is malformed");
            failed(502, "the worker's answer is malformed")
        })?;
        if response.status == 101 || response.status >= 200 {
            return Ok((response, behind));
        }
        read = behind;
    }
    Err(failed(502, "the worker never came to its answer"))
}
