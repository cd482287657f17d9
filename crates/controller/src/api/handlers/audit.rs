//! The audit log: read, verified, and heard as it grows.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use segue_core::names::AgentName;
use serde::Deserialize;

use super::{Answer, Asked, NUMBER_MAX, bounded, query};
use crate::api::events::{Feed, KEEP_ALIVE};
use crate::api::problem::Reject;
use crate::api::tokens::Principal;
use crate::api::wire::{AuditView, VerifyView};
use crate::api::{Api, redact, schema};
use crate::{clock, driver};

/// Entries listed unless asked for more, and the most.
const ENTRIES: (usize, usize) = (100, 1_000);
/// Where a listener goes on who comes back.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Those that follow the entry of this number; default: from the first on.
    #[serde(default)]
    #[param(required = false, minimum = 0, maximum = 9_223_372_036_854_775_807_i64)]
    after: u64,
    /// At most this many; default 100.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
    /// Only of this agent.
    #[param(value_type = Option<schema::AgentName>)]
    agent: Option<AgentName>,
}

/// Entries of the audit log, oldest first.
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "read",
    params(AuditQuery),
    responses((status = 200, body = AuditView))
)]
pub(crate) async fn audit(
    State(api): State<Arc<Api>>,
    asked: Asked<AuditQuery>,
) -> Answer<AuditView> {
    let asked = query(asked)?;
    let limit = bounded(asked.limit, ENTRIES)?;
    let after = seq(asked.after)?;
    let journal = Arc::clone(&api.journal);
    let read = move || journal.read(after, limit, asked.agent.as_ref());
    let entries = driver::blocking(read).await?;
    let next = entries.last().filter(|_| entries.len() == limit);
    let next = next.map(|last| last.seq);
    let entries = entries.into_iter().map(redact::entry).collect();
    Ok(Json(AuditView { entries, next }))
}

/// Whether the chain of the audit log holds.
#[utoipa::path(get, path = "/v1/audit/verify", tag = "read", responses((status = 200, body = VerifyView)))]
pub(crate) async fn verify(State(api): State<Arc<Api>>) -> Answer<VerifyView> {
    let journal = Arc::clone(&api.journal);
    let (good, broken) = driver::blocking(move || driver::verify(&*journal)).await?;
    Ok(Json(VerifyView {
        ok: broken.is_none(),
        entries: good.seq,
        head: good.hash,
        error: broken.map(|broken| broken.to_string()),
    }))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Those that follow the entry of this number; default: from now on.
    #[param(minimum = 0, maximum = 9_223_372_036_854_775_807_i64)]
    after: Option<u64>,
    /// Only of this agent.
    #[param(value_type = Option<schema::AgentName>)]
    agent: Option<AgentName>,
}

/// Every decision as it is taken: server-sent events.
///
/// Of each, `id` is the entry's number, `event` the name of its fact, `data` the entry.
/// `Last-Event-ID`, which goes before `after`, resumes without a gap. Comments keep a quiet line
/// open. Who takes nothing for 30 s is told `cut-off` and may come back.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "read",
    params(
        EventsQuery,
        ("Last-Event-ID" = Option<u64>, Header, description = "The last event that was heard")
    ),
    responses((status = 200, content_type = "text/event-stream", body = String))
)]
pub(crate) async fn events(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    asked: Asked<EventsQuery>,
) -> Result<Response, Reject> {
    let asked = query(asked)?;
    let last = match headers.get(LAST_EVENT_ID) {
        Some(id) => {
            let id = id.to_str().ok().and_then(|id| id.parse().ok());
            let bad = || Reject::bad("Last-Event-ID is not usable", "send the id of an event");
            Some(id.ok_or_else(bad)?)
        }
        None => asked.after,
    };
    let place = Arc::clone(&api.access.listeners).try_acquire_owned();
    let place = place.map_err(|_| {
        Reject::unavailable("busy", "there are too many listeners").after(KEEP_ALIVE)
    })?;
    let (head, of) = (api.head.clone(), Arc::clone(&api));
    let now = *head.borrow();
    let feed = Feed {
        journal: Arc::clone(&api.journal),
        head,
        agent: asked.agent,
        after: seq(last.unwrap_or(now))?,
        good: Box::new(move || of.tokens.is_good(&principal, clock::now())),
        place,
    };
    let alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(feed.events()).keep_alive(alive).into_response())
}

fn seq(asked: u64) -> Result<u64, Reject> {
    if asked > NUMBER_MAX {
        let hint = "send the number of an entry";
        return Err(Reject::bad("`after` is not usable", hint));
    }
    Ok(asked)
}
