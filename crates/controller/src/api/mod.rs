//! The admin API: HTTP on loopback, for `segue` and for scripts.

mod guard;
mod handlers;
mod problem;
pub mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};
use segue_core::names::AgentName;
use segue_core::spec::AgentSpec;
use tokio::sync::mpsc;

use crate::copies::Copies;
use crate::driver::Message;
use crate::link::Link;
use crate::store::Journal;

/// Largest body: a command and an environment.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// How long an answer is waited for: longer than a cutover waits for its gateways.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// What the endpoints work with.
pub(crate) struct Api {
    pub(crate) specs: Arc<BTreeMap<AgentName, AgentSpec>>,
    pub(crate) config_dir: PathBuf,
    pub(crate) copies: Copies,
    pub(crate) token: String,
    pub(crate) driver: mpsc::Sender<Message>,
    pub(crate) link: Link,
    pub(crate) journal: Arc<dyn Journal>,
}

/// Every endpoint.
pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/status", get(handlers::status))
        .route("/v1/agents/{agent}", get(handlers::agent))
        .route("/v1/agents/{agent}/deploy", post(handlers::deploy))
        .route("/v1/agents/{agent}/calls", get(handlers::calls))
        .route("/v1/agents/{agent}/{verb}", post(handlers::verb))
        .route("/v1/audit", get(handlers::audit))
        .route("/v1/audit/verify", get(handlers::verify))
        .route("/v1/gateways/{gateway}/forget", post(handlers::forget))
        .fallback(handlers::no_such_path)
        .method_not_allowed_fallback(handlers::no_such_method)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            guard::guard,
        ))
        .route("/healthz", get(async || "ok\n"))
        .layer(middleware::map_response(problem::as_problem))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}
