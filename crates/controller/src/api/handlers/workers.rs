//! Heartbeats of workers.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use segue_core::names::{Label, WorkerId};

use super::membership::{remembered, stands};
use super::{Answer, agent_name, parse};
use crate::api::heartbeats::{Beat, EVERY_S};
use crate::api::problem::Reject;
use crate::api::tokens::Principal;
use crate::api::wire::{AgentView, HeartbeatBody, HeartbeatView, ReleaseView};
use crate::api::{Api, schema};
use crate::clock;

/// Calls that one worker may hold, as in the configuration.
const CALLS_MAX: u32 = 100_000;
/// Longest id that a worker gives one of its own, in bytes.
const ID_BYTES_MAX: usize = 64;

/// Says how a worker is. The answer says what becomes of its release.
#[utoipa::path(
    put,
    path = "/v1/agents/{agent}/workers/{worker}",
    tag = "calls",
    params(
        ("agent" = schema::AgentName, Path, description = "Which agent"),
        ("worker" = schema::WorkerId, Path, description = "Which worker: its own name")
    ),
    request_body = HeartbeatBody,
    responses((status = 200, body = HeartbeatView))
)]
pub(crate) async fn beat(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path((name, worker)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<HeartbeatView> {
    let agent = agent_name(&name)?;
    principal.check(&agent)?;
    let worker: WorkerId = worker.parse().map_err(|_| {
        let hint = "a worker finds its own name in SEGUE_WORKER_ID";
        Reject::bad("this is not the name of a worker", hint)
    })?;
    let body: HeartbeatBody = parse(&headers, &body)?;
    own_id(&body.instance)?;
    if body.active.max(body.overdue) > CALLS_MAX {
        let hint = format!("a worker has at most {CALLS_MAX} calls");
        return Err(Reject::bad("no worker has that many calls", hint));
    }
    let view = api.agent(agent.clone()).await?;
    let release = release_of(&view, &worker, body.release.as_ref());
    let now = clock::now();
    let runs = release_of(&view, &worker, None).map(|is| (&is.label, is.id));
    let registered = (api.membership).registered(&agent, &worker, runs, now);
    let attested = || (api.membership).attested(&agent, &worker, runs?, now);
    // One that was let in before this controller began need not show a token again, which may have
    // ended meanwhile.
    let membership = registered
        .map(|is| stands(is.barred))
        .or_else(|| remembered(&view, &worker))
        .or_else(|| attested().map(|is| stands(is.barred)));
    let answer = HeartbeatView {
        release: release.map(|is| is.label.clone()),
        state: release.map(|is| is.state.clone()),
        retiring: release.is_some_and(is_leaving),
        rolled_back: release.is_some_and(|is| was_left(&view, is)),
        every: EVERY_S,
        membership,
    };
    let beat = Beat {
        release: body.release,
        active: body.active,
        overdue: body.overdue,
        draining: body.draining,
        at: clock::now(),
    };
    let (calls, of) = (body.active, (agent, worker.clone(), body.instance));
    let drains = api.heartbeats.take(of, beat).ok_or_else(|| {
        Reject::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "full",
            "too many processes say how they are",
            "have fewer of them name a worker",
        )
    })?;
    if drains {
        tracing::info!(agent = name, %worker, calls, "a worker drains by itself");
    }
    Ok(Json(answer))
}

/// By the worker's name if Segue runs it, else by its label: the one that is in use, if several
/// releases have had it.
pub(super) fn release_of<'a>(
    view: &'a AgentView,
    worker: &WorkerId,
    label: Option<&Label>,
) -> Option<&'a ReleaseView> {
    let runs = |is: &&ReleaseView| is.workers.iter().any(|ours| ours.id == *worker);
    let ran = view.releases.iter().find(runs);
    ran.or_else(|| view.releases.iter().find(|is| Some(&is.label) == label))
}

fn is_leaving(release: &ReleaseView) -> bool {
    matches!(
        release.state.as_str(),
        "draining" | "drained" | "retiring" | "retired"
    )
}

/// Whether the last rollout brought it in and was taken back.
fn was_left(view: &AgentView, release: &ReleaseView) -> bool {
    let brought = view.rollout.as_ref().map(|rollout| rollout.incoming_id);
    matches!(view.phase.as_str(), "rolling back" | "rolled back") && brought == Some(release.id)
}

/// An id of the worker's own making.
pub(super) fn own_id(text: &str) -> Result<(), Reject> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(good) {
        return Ok(());
    }
    let hint = format!("use 1 to {ID_BYTES_MAX} of A-Z a-z 0-9 _ -, at random");
    Err(Reject::bad("this is not a usable id", hint))
}
