//! The state of calls. Bodies are the callers' own and are never logged.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use segue_core::names::{AgentName, CallId};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Asked, is_json, query, unknown_agent};
use crate::api::problem::Reject;
use crate::api::tokens::Principal;
use crate::api::wire::CallStateView;
use crate::api::{Api, schema};
use crate::clock;
use crate::driver::blocking;
use crate::store::{
    CALL_STATE_BYTES_MAX, CallOf, CallState, CallStateError, Change, Condition, Versions,
};

/// Types of a whole state, and of a patch.
const WHOLE: [&str; 1] = ["application/json"];
const PATCH: [&str; 2] = ["application/merge-patch+json", "application/json"];

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfAgent {
    /// Whose call. A worker's token says it; others name it where there are several agents.
    #[param(value_type = Option<schema::AgentName>)]
    agent: Option<AgentName>,
}

/// The state of a call.
#[utoipa::path(
    get,
    path = "/v1/calls/{id}/state",
    tag = "calls",
    params(
        ("id" = schema::CallId, Path, description = "Which call"),
        OfAgent,
        ("If-None-Match" = Option<String>, Header, description = "Nothing is sent if the state is still this one")
    ),
    responses(
        (status = 200, body = CallStateView, headers(("ETag" = String, description = "The version in quotes"))),
        (status = 304, description = "It is still the one that is known")
    )
)]
pub(crate) async fn read(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    of: Asked<OfAgent>,
    headers: HeaderMap,
) -> Result<Response, Reject> {
    let of = call_of(&api, &principal, of, &id)?;
    let (states, call) = (Arc::clone(&api.states), of.1.clone());
    let state = blocking(move || states.read(&of, clock::now())).await?;
    let state = state.ok_or_else(none)?;
    let known = Condition {
        not: tags(&headers, &header::IF_NONE_MATCH)?.map(|tags| tags.all),
        ..Condition::default()
    };
    if !known.holds(Some(state.version)) {
        let tag = format!("\"{}\"", state.version);
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    Ok(shown(StatusCode::OK, call, state))
}

/// Replaces the state of a call, or makes one. It is kept for 1800 s after the last write.
#[utoipa::path(
    put,
    path = "/v1/calls/{id}/state",
    tag = "calls",
    params(
        ("id" = schema::CallId, Path, description = "Which call"),
        OfAgent,
        ("If-Match" = Option<String>, Header, description = "Only if the state is this one; `*`: only if there is one"),
        ("If-None-Match" = Option<String>, Header, description = "Only if the state is none of these; `*`: only if there is none")
    ),
    request_body(content = schema::StateObject, content_type = "application/json"),
    responses(
        (status = 200, body = CallStateView, headers(("ETag" = String, description = "The version in quotes"))),
        (status = 201, body = CallStateView, headers(("ETag" = String, description = "The version in quotes")))
    )
)]
pub(crate) async fn put(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    of: Asked<OfAgent>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Reject> {
    let state = object(&headers, &body, &WHOLE)?;
    let of = call_of(&api, &principal, of, &id)?;
    write(&api, of, &headers, Change::Put(state)).await
}

/// Merges into the state of a call (RFC 7396), or makes one. Patches at once lose nothing.
#[utoipa::path(
    patch,
    path = "/v1/calls/{id}/state",
    tag = "calls",
    params(
        ("id" = schema::CallId, Path, description = "Which call"),
        OfAgent,
        ("If-Match" = Option<String>, Header, description = "Only if the state is this one; `*`: only if there is one"),
        ("If-None-Match" = Option<String>, Header, description = "Only if the state is none of these; `*`: only if there is none")
    ),
    request_body(
        content(
            (schema::StateObject = "application/merge-patch+json"),
            (schema::StateObject = "application/json")
        )
    ),
    responses(
        (status = 200, body = CallStateView, headers(("ETag" = String, description = "The version in quotes"))),
        (status = 201, body = CallStateView, headers(("ETag" = String, description = "The version in quotes")))
    )
)]
pub(crate) async fn patch(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    of: Asked<OfAgent>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Reject> {
    let patch = object(&headers, &body, &PATCH)?;
    let of = call_of(&api, &principal, of, &id)?;
    write(&api, of, &headers, Change::Merge(patch)).await
}

/// Removes the state of a call.
#[utoipa::path(
    delete,
    path = "/v1/calls/{id}/state",
    tag = "calls",
    params(
        ("id" = schema::CallId, Path, description = "Which call"),
        OfAgent,
        ("If-Match" = Option<String>, Header, description = "Only if the state is this one")
    ),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn remove(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
    of: Asked<OfAgent>,
    headers: HeaderMap,
) -> Result<StatusCode, Reject> {
    let (of, condition) = (call_of(&api, &principal, of, &id)?, condition(&headers)?);
    let states = Arc::clone(&api.states);
    let remove = move || states.remove(&of, &condition, clock::now());
    if run(remove).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(none())
}

async fn write(
    api: &Api,
    of: CallOf,
    headers: &HeaderMap,
    change: Change,
) -> Result<Response, Reject> {
    let condition = condition(headers)?;
    let (states, call) = (Arc::clone(&api.states), of.1.clone());
    let write = move || states.write(&of, change, &condition, clock::now());
    let (state, new) = run(write).await?;
    let status = if new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(shown(status, call, state))
}

/// Runs a call of the store where it may block.
async fn run<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, CallStateError> + Send + 'static,
) -> Result<T, Reject> {
    match tokio::task::spawn_blocking(call).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(Reject::unavailable("internal", error.to_string())),
    }
}

fn shown(status: StatusCode, call: CallId, state: CallState) -> Response {
    let tag = [(header::ETAG, format!("\"{}\"", state.version))];
    let view = CallStateView {
        call,
        version: state.version,
        state: state.state,
        expires_at: state.expires_at,
    };
    (status, tag, Json(view)).into_response()
}

fn object(headers: &HeaderMap, body: &[u8], types: &[&str]) -> Result<Map<String, Value>, Reject> {
    is_json(headers, types)?;
    if body.len() > CALL_STATE_BYTES_MAX {
        return Err(CallStateError::TooLarge.into());
    }
    serde_json::from_slice(body).map_err(|_| {
        // What is wrong with it may quote it.
        Reject::bad("the body is not a JSON object", "send the state itself")
    })
}

/// Which call is meant: of the agent that the token is for, or that is named, or of the only one.
fn call_of(
    api: &Api,
    principal: &Principal,
    of: Asked<OfAgent>,
    id: &str,
) -> Result<CallOf, Reject> {
    let (named, call) = (query(of)?.agent, call_id(id)?);
    if let Some(agent) = named.as_ref().or(principal.agent.as_ref()) {
        principal.check(agent)?;
        // Workers of one that is in no configuration any more may still have calls.
        if principal.agent.is_none() && api.specs.get(agent).is_none() {
            return Err(unknown_agent(agent.as_str()));
        }
        return Ok((agent.clone(), call));
    }
    let agents = api.specs.now();
    let mut agents = agents.keys();
    match (agents.next(), agents.next()) {
        (Some(only), None) => Ok((only.clone(), call)),
        _ => Err(Reject::bad(
            "whose call this is, is not said",
            "add `?agent=NAME`; the token of a worker says it by itself",
        )),
    }
}

fn call_id(text: &str) -> Result<CallId, Reject> {
    text.parse().map_err(|_| {
        Reject::bad(
            "this is not the id of a call",
            "use 1 to 128 of A-Z a-z 0-9 . _ -, not starting with a dot",
        )
    })
}

/// The versions of a header, and of them those that were not marked as weak. Tags that are none of
/// ours match nothing.
pub(super) struct Tags {
    pub(super) all: Versions,
    pub(super) strong: Versions,
}

pub(super) fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Reject> {
    let mut given = headers.get_all(name).iter().peekable();
    if given.peek().is_none() {
        return Ok(None);
    }
    let bad = || {
        let hint = "send ETags as they were given, in quotes, or *";
        Reject::bad(format!("{name} is not usable"), hint)
    };
    let (mut all, mut strong) = (Vec::new(), Vec::new());
    for value in given {
        let value = value.to_str().map_err(|_| bad())?.trim();
        if value == "*" {
            let (all, strong) = (Versions::Any, Versions::Any);
            return Ok(Some(Tags { all, strong }));
        }
        let listed = value.split(',').map(str::trim);
        for tag in listed.filter(|tag| !tag.is_empty()) {
            let weak = tag.strip_prefix("W/");
            let inner = weak
                .unwrap_or(tag)
                .strip_prefix('"')
                .and_then(|tag| tag.strip_suffix('"'))
                .ok_or_else(bad)?;
            let version: Option<u64> = inner.parse().ok();
            all.extend(version);
            strong.extend(version.filter(|_| weak.is_none()));
        }
    }
    let (all, strong) = (Versions::These(all), Versions::These(strong));
    Ok(Some(Tags { all, strong }))
}

fn condition(headers: &HeaderMap) -> Result<Condition, Reject> {
    let only = tags(headers, &header::IF_MATCH)?;
    let not = tags(headers, &header::IF_NONE_MATCH)?;
    Ok(Condition {
        only: only.map(|tags| tags.strong),
        not: not.map(|tags| tags.all),
    })
}

fn none() -> Reject {
    Reject::not_found(
        "this call has no state",
        "it is forgotten 30 minutes after it was last written",
    )
}

impl From<CallStateError> for Reject {
    fn from(error: CallStateError) -> Self {
        let title = error.to_string();
        match error {
            CallStateError::Precondition => Self::precondition(title),
            CallStateError::TooLarge => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                title,
                "keep less, or keep it elsewhere and its name here",
            ),
            CallStateError::Full => Self::unavailable("full", title),
            CallStateError::Store(error) => error.into(),
        }
    }
}
