//! Numbers for Prometheus.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::api::Api;
use crate::api::problem::Reject;

/// What the text is (`OpenMetrics` 1.0, which every Prometheus since 2.5 reads).
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Calls looked at for the age of the oldest.
const CALLS_MAX: usize = 10_000;

/// Numbers for Prometheus.
///
/// Labels are agent, version and track; never a call or a caller. A retired release has none.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "read",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"))
)]
pub(crate) async fn metrics(
    State(api): State<Arc<Api>>,
) -> Result<([(HeaderName, &'static str); 1], String), Reject> {
    let status = api.status().await?;
    let drains = |agent: &crate::api::wire::AgentView| {
        agent.releases.iter().any(|is| is.state == "draining")
    };
    // All of them at once: a gateway that does not answer is waited for once, not once per agent.
    let calls = if status.agents.iter().any(drains) {
        api.link.list_calls(None, CALLS_MAX).await.0
    } else {
        Vec::new()
    };
    let workers = api.link.count_workers().await.workers;
    let page = api.metrics.page(&status, &calls, &workers);
    Ok(([(header::CONTENT_TYPE, TEXT)], page))
}

/// Counts every request by its path as it is described, never as it was asked for.
pub(crate) async fn count(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let known = matches!(
        request.method().as_str(),
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE"
    );
    let method = if known {
        request.method().to_string()
    } else {
        "other".to_owned()
    };
    let response = next.run(request).await;
    let path = path.as_ref().map_or("unknown", MatchedPath::as_str);
    let status = response.status().as_u16();
    api.metrics.requested(&method, path, status);
    response
}
