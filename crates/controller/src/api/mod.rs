//! The admin API: HTTP for `segue`, for scripts, and for agents that keep the state of their calls.

mod bucket;
mod config;
mod doc;
mod events;
mod guard;
mod handlers;
mod heartbeats;
mod identity;
mod places;
mod problem;
mod redact;
mod repeat;
mod roles;
mod schema;
mod serve;
mod tokens;
pub mod wire;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Json, Router, middleware};
use tokio::sync::{Semaphore, mpsc, watch};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::copies::Copies;
use crate::driver::Message;
use crate::link::Link;
use crate::membership::Membership;
use crate::specs::{Reloader, Specs};
use crate::store::{CallStates, ControlStore, Journal, Outcomes};
use crate::telemetry::Metrics;

pub use config::{ApiConfig, ApiTls, RATE_PER_SECOND, Rate};
pub use doc::document;
pub(crate) use heartbeats::Heartbeats;
pub(crate) use identity::Identity;
pub(crate) use serve::serve;
pub(crate) use tokens::Tokens;
pub(crate) use workers::WorkerTokens;

use self::bucket::Buckets;
use self::guard::Names;
use self::handlers::{
    agents, audit, calls, compose, fleet, membership, metrics, outcomes, permits, reload, states,
    tokens as of_tokens, verbs, workers as of_workers,
};

/// Largest body: a command, an environment, a prompt and a configuration, as JSON.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How long an answer is waited for: longer than a cutover waits for its gateways.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// What the endpoints work with.
pub(crate) struct Api {
    pub(crate) specs: Specs,
    pub(crate) reloader: Arc<Reloader>,
    pub(crate) config_dir: PathBuf,
    pub(crate) copies: Copies,
    pub(crate) driver: mpsc::Sender<Message>,
    /// The same for rollbacks alone.
    pub(crate) rollbacks: mpsc::Sender<Message>,
    /// The number of the last entry of the journal.
    pub(crate) head: watch::Receiver<u64>,
    pub(crate) link: Link,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) control: Arc<dyn ControlStore>,
    pub(crate) states: Arc<CallStates>,
    pub(crate) outcomes: Arc<Outcomes>,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) tokens: Tokens,
    pub(crate) access: Access,
    /// What clients beyond loopback are shown.
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) membership: Membership,
}

/// Who is let in, how often, and how many listen.
pub(crate) struct Access {
    names: Names,
    buckets: Buckets,
    listeners: Arc<Semaphore>,
    /// Requests of workers that are answered at once.
    workers: Semaphore,
}

impl Access {
    pub(crate) fn new(config: &ApiConfig) -> Self {
        Self {
            names: Names::new(&config.names),
            buckets: Buckets::new(config.rate),
            listeners: Arc::new(Semaphore::new(events::LISTENERS_MAX)),
            workers: Semaphore::new(guard::WORKERS_AT_ONCE),
        }
    }
}

/// Every endpoint below `/v1`, with its description. Each has a row in [`roles::ENDPOINTS`].
fn endpoints() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(doc::Frame::openapi())
        .routes(routes!(openapi))
        .routes(routes!(agents::status))
        .routes(routes!(agents::agent))
        .routes(routes!(agents::release))
        .routes(routes!(calls::calls))
        .routes(routes!(metrics::metrics))
        .routes(routes!(permits::list, permits::grant))
        .routes(routes!(permits::renew, permits::end))
        .routes(routes!(fleet::list))
        .routes(routes!(fleet::one, of_workers::beat))
        .routes(routes!(fleet::drain))
        .routes(routes!(fleet::undrain))
        .routes(routes!(fleet::kick))
        .routes(routes!(membership::register))
        .routes(routes!(outcomes::read, outcomes::report))
        .routes(routes!(verbs::deploy))
        .routes(routes!(verbs::pause))
        .routes(routes!(verbs::resume))
        .routes(routes!(verbs::promote))
        .routes(routes!(verbs::abort))
        .routes(routes!(verbs::rollback))
        .routes(routes!(verbs::drain))
        .routes(routes!(verbs::retire))
        .routes(routes!(verbs::approve))
        .routes(routes!(verbs::contract))
        .routes(routes!(compose::diff))
        .routes(routes!(reload::reload))
        .routes(routes!(verbs::forget))
        .routes(routes!(audit::audit))
        .routes(routes!(audit::verify))
        .routes(routes!(audit::events))
        .routes(routes!(of_tokens::list, of_tokens::create))
        .routes(routes!(of_tokens::events))
        .routes(routes!(of_tokens::revoke))
        .routes(routes!(
            states::read,
            states::put,
            states::patch,
            states::remove
        ))
}

/// This description.
#[utoipa::path(
    get,
    path = "/v1/openapi.json",
    tag = "read",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
async fn openapi() -> Json<serde_json::Value> {
    Json(document())
}

/// Every endpoint, guarded.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let (endpoints, _) = endpoints().split_for_parts();
    endpoints
        .fallback(async || handlers::no_such_path())
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            repeat::repeat,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            guard::guard,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&api),
            metrics::count,
        ))
        .route("/healthz", get(async || "ok\n"))
        .layer(middleware::map_response(problem::as_problem))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}
