//! A call that is decided and counted, on its way to its worker's 101: what is asked, what a good
//! answer is, and what its caller is told. How the bytes travel is the concern of who has it.

use std::net::SocketAddr;
use std::sync::Arc;

use segue_core::table::RoutingTable;

use crate::clock;
use crate::http::Answer;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::ledger::{Purpose, Ticket, Unreached};
use crate::rescue::{Lifeline, Recorded};

use super::facts::{Facts, headers_for_caller, headers_for_worker};
use super::{Guest, answer_to, pairs, sent};

/// Why there is no answer, and what the caller is told.
pub(super) type Failed = (Unreached, Answer);

/// See the module.
pub(super) struct Decided {
    pub(super) ticket: Ticket,
    table: Arc<RoutingTable>,
    facts: Facts,
    request: Request,
    key: String,
    scheme: &'static str,
    ours: Vec<(&'static str, String)>,
}

impl Guest {
    /// Decides and counts the call that `request` asks for with this key.
    pub(super) fn decide(
        &self,
        table: Arc<RoutingTable>,
        request: Request,
        key: String,
        scheme: &'static str,
    ) -> Result<Box<Decided>, Answer> {
        let front = &self.front;
        let facts = Facts::read(&table, &request, None)?;
        let asking = facts.asking(&table, Purpose::Call);
        let up = |worker: &_, addr| front.health.up(worker, addr);
        let begun = front.ledger.begin(asking, &up, clock::now());
        self.decided();
        let ticket = begun.map_err(answer_to)?;
        let request = match table.rescue {
            Some(_) => without_extensions(request),
            None => request,
        };
        let ours = headers_for_worker(&ticket.identity(), &request, self.peer, scheme);
        Ok(Box::new(Decided {
            ticket,
            table,
            facts,
            request,
            key,
            scheme,
            ours,
        }))
    }
}

impl Decided {
    /// Where its worker listens.
    pub(super) fn addr(&self) -> SocketAddr {
        self.ticket.addr()
    }

    /// The head for the worker.
    pub(super) fn head(&self) -> Vec<u8> {
        self.request.to_worker(&pairs(&self.ours), None)
    }

    /// The head goes to its worker.
    pub(super) fn sent(&self) {
        sent(&self.ticket, &self.request);
    }

    /// Whether the worker's answer is one to what was asked. A refusal is.
    pub(super) fn check(&self, response: &Response) -> Result<(), Failed> {
        let bad = |why| Err((Unreached::BadAnswer, Answer::new(502, why)));
        if response.status != 101 {
            return Ok(());
        }
        if !response.accepts(&self.key) {
            return bad("the worker's 101 is not valid");
        }
        if self.table.rescue.is_some() && response.extends() {
            return bad("the worker's 101 has an extension that was not offered");
        }
        Ok(())
    }

    /// Whether it was ended before it stood.
    pub(super) fn is_to_end(&self) -> bool {
        self.ticket.counters().is_to_end()
    }

    /// The head for the caller.
    pub(super) fn answer(&self, response: &Response) -> Vec<u8> {
        let mut extra = headers_for_caller(&self.ticket.identity());
        if response.status == 101 {
            let cookie = self.facts.cookie(&self.table, self.scheme);
            extra.extend(cookie.map(|value| ("Set-Cookie", value)));
        }
        response.to_caller(&pairs(&extra))
    }

    /// The caller was told: the call stands. Also how it can outlive its worker, if it is to.
    pub(super) fn stands(self, response: &Response) -> (Ticket, Option<Box<Lifeline>>) {
        self.ticket.connected(clock::now());
        let lifeline = self.table.rescue.and_then(|rescue| {
            let protocol = response.headers.text("sec-websocket-protocol");
            let request = Recorded::new(&self.request, &pairs(&self.ours), protocol);
            if request.is_none() {
                tracing::warn!("the head of a call is too long to be kept; it cannot be rescued");
            }
            Some(Box::new(Lifeline::new(request?, rescue.opening_messages)))
        });
        (self.ticket, lifeline)
    }
}

/// What a call may be asked for with that may be rescued: what is compressed, another worker could
/// not go on with.
fn without_extensions(mut request: Request) -> Request {
    let headers = &mut request.headers.0;
    headers.retain(|header| !header.is("Sec-WebSocket-Extensions"));
    request
}
