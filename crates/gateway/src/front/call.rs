//! WebSocket calls: from the request to the 101 of the worker.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::clock;
use crate::http::Answer;
use crate::http::body::copy_body;
use crate::http::request::Request;
use crate::ledger::{End, Purpose, Unreached};
use crate::tls::Caller;

use super::facts::{Facts, find_table, headers_for_worker};
use super::{Guest, Outcome, Upgraded, answer_to, dial};

/// How long a worker may take to answer an upgrade.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

impl Guest {
    /// `early` are bytes that came behind the head; they are held until the worker said yes.
    pub(super) async fn call(
        &self,
        caller: &mut Caller,
        request: &Request,
        key: &str,
        early: Vec<u8>,
    ) -> Outcome {
        let front = &self.front;
        let table = find_table(&front.ledger, request)?;
        let facts = Facts::read(&table, request, None)?;
        let asking = facts.asking(&table, Purpose::Call);
        let up = |worker: &_| front.health.up(worker);
        let begun = front.ledger.begin(asking, &up, clock::now());
        let mut ticket = begun.map_err(answer_to)?;

        let Some(mut worker) = dial::dial(front, &mut ticket).await else {
            ticket.finish(End::Unreached(Unreached::Dial), clock::now());
            let answer = Answer::new(503, "no worker of the release could be reached");
            return Err(Some(answer.with("Retry-After", "1")));
        };
        let ours = headers_for_worker(ticket.identity(), request, self.peer, caller.scheme());
        let ours: Vec<(&str, &str)> = ours.iter().map(|(n, v)| (*n, v.as_str())).collect();
        // If this fails, so does reading the answer.
        let _ = worker.write_all(&request.to_worker(&ours, None)).await;
        let (response, behind) = match dial::read_response(&mut worker, UPGRADE_TIMEOUT).await {
            Ok(read) => read,
            Err((why, answer)) => {
                ticket.finish(End::Unreached(why), clock::now());
                return Err(Some(answer));
            }
        };
        if !response.accepts(key) {
            let status = response.status;
            if status == 101 {
                ticket.finish(End::Unreached(Unreached::BadAnswer), clock::now());
                return Err(Some(Answer::new(502, "the worker's 101 is not valid")));
            }
            ticket.finish(End::Unreached(Unreached::Status(status)), clock::now());
            let relayed = async {
                caller.write_all(&response.to_caller(&[])).await?;
                copy_body(&mut worker, caller, response.body_end(false), behind).await
            };
            // Both sides are closed now, whether all of it came through or not.
            let _ = tokio::time::timeout(UPGRADE_TIMEOUT, relayed).await;
            return Ok(None);
        }
        let cookie = facts.cookie(&table, caller.scheme());
        let cookie: Vec<(&str, &str)> = cookie
            .iter()
            .map(|value| ("Set-Cookie", value.as_str()))
            .collect();
        let accepted = async {
            caller.write_all(&response.to_caller(&cookie)).await?;
            caller.flush().await
        };
        if accepted.await.is_err() {
            ticket.finish(End::Unreached(Unreached::CallerLeft), clock::now());
            return Err(None);
        }
        ticket.connected(clock::now());
        Ok(Some(Upgraded {
            ticket,
            worker,
            early_up: early,
            early_down: behind,
        }))
    }
}
