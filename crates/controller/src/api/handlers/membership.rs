//! Registrations of workers.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use segue_core::names::WorkerId;

use super::workers::release_of;
use super::{Answer, agent_name, parse};
use crate::api::problem::Reject;
use crate::api::tokens::Principal;
use crate::api::wire::{AgentView, MembershipBody, MembershipState, MembershipView};
use crate::api::{Api, schema};
use crate::clock;
use crate::membership::NotRegistered;

/// Shows a worker token, and the proof that it is the worker's own. Without the proof the answer to
/// a token that is bound to a key is 401, with what to sign as `nonce`.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/workers/{worker}/membership",
    tag = "calls",
    params(
        ("agent" = schema::AgentName, Path, description = "Which agent"),
        ("worker" = schema::WorkerId, Path, description = "Which worker: its own name")
    ),
    request_body = MembershipBody,
    responses((status = 200, body = MembershipView))
)]
pub(crate) async fn register(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path((name, worker)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<MembershipView> {
    let agent = agent_name(&name)?;
    principal.check(&agent)?;
    let worker: WorkerId = worker.parse().map_err(|_| {
        let hint = "a worker finds its own name in SEGUE_WORKER_ID";
        Reject::bad("this is not the name of a worker", hint)
    })?;
    let body: MembershipBody = parse(&headers, &body)?;
    let view = api.agent(agent.clone()).await?;
    // One that Segue did not start is of whatever release its token says.
    let release = release_of(&view, &worker, None).map(|is| (&is.label, is.id));
    let is_in = remembered(&view, &worker).is_some_and(|is| is.state == MembershipState::Serving);
    let shown = (body.token.as_str(), body.proof.as_deref());
    let membership = &api.membership;
    let registered = membership.register((&agent, &worker), (release, is_in), shown, clock::now());
    registered.map(|why| Json(stands(why))).map_err(refused)
}

/// How a worker stands that Segue runs and that has registered once, as was decided.
pub(super) fn remembered(view: &AgentView, worker: &WorkerId) -> Option<MembershipView> {
    let mut workers = view.releases.iter().flat_map(|is| &is.workers);
    let worker = workers.find(|is| is.id == *worker && is.token.is_some())?;
    Some(stands(worker.barred.as_deref()))
}

pub(super) fn stands(why: Option<&str>) -> MembershipView {
    let state = match why {
        None => MembershipState::Serving,
        Some(_) => MembershipState::Draining,
    };
    let why = why.map(str::to_owned);
    MembershipView { state, why }
}

fn refused(refused: NotRegistered) -> Reject {
    match refused {
        NotRegistered::NotAsked => Reject::not_found(
            "no membership is asked for here",
            "go on without, or write [membership] into segue.toml",
        ),
        NotRegistered::Prove(nonce) => Reject::new(
            StatusCode::UNAUTHORIZED,
            "membership",
            "the token is bound to a key, and no proof of it came along",
            "sign `nonce` with that key and send the token again, with `proof`",
        )
        .because("proof-missing")
        .asking(nonce),
        NotRegistered::Refused { reason, message } => Reject::new(
            StatusCode::FORBIDDEN,
            "membership",
            format!("the membership is refused: {message}"),
            "see docs/guide/membership.md; calls that the worker has go on",
        )
        .because(reason),
        NotRegistered::Chance(error) => {
            Reject::unavailable("internal", format!("there are no random numbers: {error}"))
        }
    }
}
