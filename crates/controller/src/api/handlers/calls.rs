//! The calls in progress.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use segue_core::link::CallInfo;
use serde::Deserialize;

use super::{Answer, Asked, agent_name, bounded, query};
use crate::api::problem::Reject;
use crate::api::wire::CallsView;
use crate::api::{Api, schema};

/// Calls listed unless asked for more, and the most.
const CALLS: (usize, usize) = (100, 10_000);
/// Calls that are asked of each gateway, at most: no page lies beyond.
const REACH: usize = 50_000;

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct CallsQuery {
    /// At most this many; default 100.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<usize>,
    /// `next` of the page before.
    #[param(pattern = "^[0-9]{1,19}:[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$")]
    after: Option<String>,
}

/// Live and pinned calls, oldest first.
#[utoipa::path(
    get,
    path = "/v1/agents/{agent}/calls",
    tag = "read",
    params(("agent" = schema::AgentName, Path, description = "Which agent"), CallsQuery),
    responses((status = 200, body = CallsView))
)]
pub(crate) async fn calls(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    asked: Asked<CallsQuery>,
) -> Answer<CallsView> {
    let agent = agent_name(&name)?;
    let asked = query(asked)?;
    let limit = bounded(asked.limit, CALLS)?;
    let after = asked.after.as_deref().map(parse).transpose()?;
    api.agent(agent.clone()).await?;
    // Gateways know no pages: with a cursor they are asked for all that may lie before it, too.
    let reach = if after.is_some() { REACH } else { limit + 1 };
    let (mut calls, answered) = api.link.list_calls(Some(&agent), reach).await;
    if let Some(after) = &after {
        calls.retain(|call| (call.since.0, call.call.as_str()) > (after.0, after.1));
    }
    let more = calls.len() > limit;
    calls.truncate(limit);
    let next = calls.last().filter(|_| more).map(cursor);
    let known = api.status().await?.gateways.into_iter();
    let known = known.map(|known| known.gateway);
    let unknown = known
        .filter(|gateway| !answered.contains(gateway))
        .collect();
    Ok(Json(CallsView {
        calls,
        unknown,
        next,
    }))
}

fn cursor(call: &CallInfo) -> String {
    format!("{}:{}", call.since.0, call.call)
}

fn parse(cursor: &str) -> Result<(u64, &str), Reject> {
    let parsed = cursor
        .split_once(':')
        .and_then(|(since, call)| Some((since.parse().ok()?, call)));
    parsed.ok_or_else(|| Reject::bad("`after` is not usable", "send `next` of the page before"))
}
