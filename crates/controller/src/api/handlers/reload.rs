//! Reading the configuration again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::Answer;
use crate::api::Api;
use crate::api::problem::Reject;
use crate::api::wire::ReloadView;
use crate::driver::Message;
use crate::specs::NoReload;

/// Reads the agents of the configuration again, and the API's certificate.
///
/// All of the file is taken, or nothing when it has a fault. Releases that are deployed stay what
/// they are; the next deploy follows the new settings. Listeners are not changed.
#[utoipa::path(
    post,
    path = "/v1/reload",
    tag = "steer",
    responses((status = 200, body = ReloadView))
)]
pub(crate) async fn reload(State(api): State<Arc<Api>>) -> Answer<ReloadView> {
    let (reloader, identity) = (Arc::clone(&api.reloader), api.identity.clone());
    let read = move || {
        if let Some(Err(error)) = identity.map(|identity| identity.reload()) {
            let what = format!("the identity of the API cannot be used: {error}");
            return Err(NoReload::Faults(vec![what]));
        }
        reloader.reload()
    };
    let reloaded = tokio::task::spawn_blocking(read).await;
    let reloaded = reloaded.map_err(|error| Reject::unavailable("internal", error.to_string()))?;
    let reloaded = reloaded.map_err(|error| {
        let (kind, hint) = match &error {
            NoReload::Faults(_) => (
                "bad-config",
                "nothing was changed; mend the file and try again",
            ),
            NoReload::NoFile => ("not-now", "start it with `segue serve --config FILE`"),
        };
        Reject::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            kind,
            error.to_string(),
            hint,
        )
    })?;
    api.send(Message::Reloaded)?;
    Ok(Json(ReloadView {
        changed: reloaded.changed,
        removed: reloaded.removed,
        restart: reloaded.restart.into_iter().map(str::to_owned).collect(),
        dispatcher: reloaded.dispatcher,
    }))
}
