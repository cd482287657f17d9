//! Permits of outbound calls (`may_dial`).

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use segue_core::time::Millis;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{Answer, Asked, agent_name, bounded, parse, query, unknown_agent};
use crate::api::problem::Reject;
use crate::api::tokens::Principal;
use crate::api::wire::{PermitBody, PermitView, PermitsView, RenewBody};
use crate::api::{Api, schema};
use crate::clock;
use crate::driver::{Message, PermitAsk, PermitRefused, Refused};
use crate::permits::{NoPermit, TTL, TTL_MAX};
use crate::store::Permit;

/// Permits listed unless asked for more, and the most.
const PERMITS: (usize, usize) = (100, 1_000);

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PermitsQuery {
    /// At most this many; default 100.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
    /// `next` of the page before.
    #[param(pattern = "^[0-9]{1,19}:[0-9a-f]{32}$")]
    after: Option<String>,
}

/// Permits that are out, oldest first.
#[utoipa::path(
    get,
    path = "/v1/agents/{agent}/permits",
    tag = "calls",
    params(("agent" = schema::AgentName, Path, description = "Which agent"), PermitsQuery),
    responses((status = 200, body = PermitsView))
)]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    asked: Asked<PermitsQuery>,
) -> Answer<PermitsView> {
    let asked = query(asked)?;
    let limit = bounded(asked.limit, PERMITS)?;
    let mut permits = ask(&api, &name, PermitAsk::List).await?;
    permits.sort_by(|a, b| (a.granted_at, &a.permit).cmp(&(b.granted_at, &b.permit)));
    if let Some(after) = &asked.after {
        let (since, permit) = after
            .split_once(':')
            .and_then(|(since, permit)| Some((since.parse::<u64>().ok()?, permit)))
            .ok_or_else(|| {
                let hint = "send `next` of the page before, or begin again without";
                Reject::bad("`after` is not usable", hint)
            })?;
        permits.retain(|given| (given.granted_at.0, given.permit.as_str()) > (since, permit));
    }
    let more = permits.len() > limit;
    permits.truncate(limit);
    let cursor = |last: &PermitView| format!("{}:{}", last.granted_at.0, last.permit);
    let next = permits.last().filter(|_| more).map(cursor);
    Ok(Json(PermitsView { permits, next }))
}

/// Asks whether a call may be dialled. The permit counts as a call of its release until it is
/// returned, or the process that dials is gone; one that names no worker ends with its time. A
/// release that takes no new calls gives none.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/permits",
    tag = "calls",
    params(("agent" = schema::AgentName, Path, description = "Which agent")),
    request_body = PermitBody,
    responses((status = 201, body = PermitView))
)]
pub(crate) async fn grant(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<PermitView>), Reject> {
    check(&principal, &name)?;
    let body: PermitBody = parse(&headers, &body)?;
    if body.worker.is_some() == body.release.is_some() {
        return Err(Reject::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "ambiguous",
            "name the worker that dials, or its release",
            "a worker finds its own name in SEGUE_WORKER_ID",
        ));
    }
    let wanted = PermitAsk::Grant {
        worker: body.worker,
        release: body.release,
        call: body.call.map(String::from),
        holder: principal.name,
        ttl: ttl(body.ttl)?,
    };
    let given = only(ask(&api, &name, wanted).await?)?;
    Ok((StatusCode::CREATED, Json(given)))
}

/// Makes a permit last longer, counted from now; also while its release drains.
#[utoipa::path(
    put,
    path = "/v1/agents/{agent}/permits/{permit}",
    tag = "calls",
    params(
        ("agent" = schema::AgentName, Path, description = "Which agent"),
        ("permit" = String, Path, description = "Which permit", pattern = "^[0-9a-f]{32}$")
    ),
    request_body = RenewBody,
    responses((status = 200, body = PermitView))
)]
pub(crate) async fn renew(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path((name, permit)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<PermitView> {
    check(&principal, &name)?;
    let body: RenewBody = parse(&headers, &body)?;
    let ttl = ttl(body.ttl)?;
    let wanted = PermitAsk::Renew { permit, ttl };
    only(ask(&api, &name, wanted).await?).map(Json)
}

/// Returns a permit: its call is over.
#[utoipa::path(
    delete,
    path = "/v1/agents/{agent}/permits/{permit}",
    tag = "calls",
    params(
        ("agent" = schema::AgentName, Path, description = "Which agent"),
        ("permit" = String, Path, description = "Which permit", pattern = "^[0-9a-f]{32}$")
    ),
    responses((status = 204, description = "It counts no more"))
)]
pub(crate) async fn end(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path((name, permit)): Path<(String, String)>,
) -> Result<StatusCode, Reject> {
    check(&principal, &name)?;
    ask(&api, &name, PermitAsk::End { permit }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A worker dials for its own agent alone.
fn check(principal: &Principal, name: &str) -> Result<(), Reject> {
    principal.check(&agent_name(name)?)
}

async fn ask(api: &Api, name: &str, wanted: PermitAsk) -> Result<Vec<PermitView>, Reject> {
    let (reply, answer) = oneshot::channel();
    api.send(Message::Permit(agent_name(name)?, wanted, reply))?;
    let permits = api.wait(answer).await?.map_err(|refused| match refused {
        PermitRefused::Name(Refused::UnknownAgent) => unknown_agent(name),
        refused => refused.into(),
    })?;
    Ok(permits.into_iter().map(view).collect())
}

fn only(mut permits: Vec<PermitView>) -> Result<PermitView, Reject> {
    let none = || Reject::unavailable("internal", "the permit got lost");
    permits.pop().ok_or_else(none)
}

fn view((permit, label): (Permit, String)) -> PermitView {
    PermitView {
        overdue: permit.is_overdue(clock::now()),
        worker: permit.dialler.map(|dialler| dialler.worker),
        permit: permit.id,
        call: permit.call,
        release: label,
        release_id: permit.release,
        holder: permit.holder,
        granted_at: permit.granted_at,
        expires_at: permit.expires_at,
    }
}

fn ttl(seconds: Option<u64>) -> Result<Millis, Reject> {
    match seconds {
        None => Ok(TTL),
        Some(seconds) if (1..=TTL_MAX.0 / 1_000).contains(&seconds) => {
            Ok(Millis::from_secs(seconds))
        }
        Some(_) => Err(Reject::bad(
            "the time a permit lasts is not usable",
            format!(
                "send `ttl` of 1 to {} seconds, and renew it for longer calls",
                TTL_MAX.0 / 1_000
            ),
        )),
    }
}

impl From<PermitRefused> for Reject {
    fn from(refused: PermitRefused) -> Self {
        let title = refused.to_string();
        match refused {
            PermitRefused::Name(refused) => refused.into(),
            PermitRefused::NoSuchWorker(_) => Self::not_found(
                title,
                "`segue status --output json` lists the workers that are up",
            ),
            PermitRefused::NoPermit(NoPermit::Draining { .. }) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "draining",
                title,
                "have a worker of the current release dial",
            ),
            PermitRefused::NoPermit(NoPermit::Unknown) => {
                Self::not_found(title, "ask for a new one before you dial")
            }
            PermitRefused::NoPermit(NoPermit::TooMany) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "full",
                title,
                "return permits whose calls are over with DELETE",
            ),
            PermitRefused::NoPermit(NoPermit::Busy) => Self::unavailable("busy", title),
            PermitRefused::NoPermit(NoPermit::Store(_)) => Self::unavailable("store", title),
        }
    }
}
