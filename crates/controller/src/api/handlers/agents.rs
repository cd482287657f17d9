//! Reading: agents, releases, everything.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderName, header};
use tokio::sync::oneshot;

use super::{Answer, agent_name, unknown_agent};
use crate::api::problem::Reject;
use crate::api::wire::{AgentView, ReleaseDetail, StatusView};
use crate::api::{Api, redact, schema};
use crate::driver::Message;

/// Agents, gateways and the journal.
#[utoipa::path(get, path = "/v1/status", tag = "read", responses((status = 200, body = StatusView)))]
pub(crate) async fn status(State(api): State<Arc<Api>>) -> Answer<StatusView> {
    api.status().await.map(Json)
}

/// One agent: its phase, what it waits for, its releases.
///
/// The `ETag` is its revision in quotes, for `If-Match` of a decision. It says what was decided,
/// not what is counted.
#[utoipa::path(
    get,
    path = "/v1/agents/{agent}",
    tag = "read",
    params(("agent" = schema::AgentName, Path, description = "Which agent")),
    responses((status = 200, body = AgentView, headers(("ETag" = String, description = "The revision"))))
)]
pub(crate) async fn agent(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
) -> Result<([(HeaderName, String); 1], Json<AgentView>), Reject> {
    let view = api.agent(agent_name(&name)?).await?;
    let tag = format!("\"{}\"", view.revision);
    Ok(([(header::ETAG, tag)], Json(view)))
}

/// One release with everything it is made of.
///
/// Values of variables whose names look like secrets are shown as `***`.
#[utoipa::path(
    get,
    path = "/v1/agents/{agent}/releases/{release}",
    tag = "read",
    params(
        ("agent" = schema::AgentName, Path, description = "Which agent"),
        ("release" = schema::ReleaseName, Path, description = "Its label, or its digest, whole or the first 12 digits")
    ),
    responses((status = 200, body = ReleaseDetail))
)]
pub(crate) async fn release(
    State(api): State<Arc<Api>>,
    Path((name, release)): Path<(String, String)>,
) -> Answer<ReleaseDetail> {
    let agent = agent_name(&name)?;
    let (reply, answer) = oneshot::channel();
    api.send(Message::Release(agent, release, reply))?;
    let found = api.wait(answer).await?;
    let (view, release) = found.map_err(|refused| match refused {
        crate::driver::Refused::UnknownAgent => unknown_agent(&name),
        refused => refused.into(),
    })?;
    let mut release = serde_json::to_value(release).expect("releases always serialise");
    redact::redact(&mut release);
    Ok(Json(ReleaseDetail { view, release }))
}
