//! Tokens: made, listed, revoked.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use serde::Deserialize;

use super::{Answer, Asked, NUMBER_MAX, bounded, parse, query, unknown_agent};
use crate::api::Api;
use crate::api::problem::Reject;
use crate::api::tokens::{NoToken, Principal};
use crate::api::wire::{NewTokenView, TokenBody, TokenEventsView, TokenView, TokensView};
use crate::clock;
use crate::driver::blocking;

/// Tokens listed unless asked for more, and the most.
const TOKENS: (usize, usize) = (100, 1_000);

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TokensQuery {
    /// At most this many; default 100.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
    /// `next` of the page before.
    #[param(pattern = "^[0-9]{1,19}:[0-9a-f]{12}$")]
    after: Option<String>,
}

/// Tokens, oldest first, without their secrets.
#[utoipa::path(
    get,
    path = "/v1/tokens",
    tag = "tokens",
    params(TokensQuery),
    responses((status = 200, body = TokensView))
)]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    asked: Asked<TokensQuery>,
) -> Answer<TokensView> {
    let asked = query(asked)?;
    let limit = bounded(asked.limit, TOKENS)?;
    let mut tokens = api.tokens.list();
    if let Some(after) = &asked.after {
        let (since, id) = after
            .split_once(':')
            .and_then(|(since, id)| Some((since.parse::<u64>().ok()?, id)))
            .ok_or_else(|| {
                let hint = "send `next` of the page before, or begin again without";
                Reject::bad("`after` is not usable", hint)
            })?;
        tokens.retain(|token| (token.created_at.0, token.id.as_str()) > (since, id));
    }
    let more = tokens.len() > limit;
    tokens.truncate(limit);
    let cursor = |last: &TokenView| format!("{}:{}", last.created_at.0, last.id);
    let next = tokens.last().filter(|_| more).map(cursor);
    Ok(Json(TokensView { tokens, next }))
}

/// Makes a token. Its secret is in this answer and nowhere else.
#[utoipa::path(
    post,
    path = "/v1/tokens",
    tag = "tokens",
    request_body = TokenBody,
    responses((status = 201, body = NewTokenView))
)]
pub(crate) async fn create(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<NewTokenView>), Reject> {
    let body: TokenBody = parse(&headers, &body)?;
    let unknown = body
        .agent
        .as_ref()
        .filter(|agent| api.specs.get(agent).is_none());
    if let Some(agent) = unknown {
        return Err(unknown_agent(agent.as_str()));
    }
    let (of, now) = (Arc::clone(&api), clock::now());
    let make = move || of.tokens.make(body, &principal.name, now);
    let made = tokio::task::spawn_blocking(make).await;
    let made = made.map_err(|error| Reject::unavailable("internal", error.to_string()))?;
    Ok((StatusCode::CREATED, Json(made?)))
}

/// Revokes a token: from the answer on it opens nothing.
#[utoipa::path(
    delete,
    path = "/v1/tokens/{id}",
    tag = "tokens",
    params(("id" = String, Path, description = "The token's public part", pattern = "^[0-9a-f]{12}$")),
    responses((status = 204, description = "It is revoked"))
)]
pub(crate) async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path(id): Path<String>,
) -> Result<StatusCode, Reject> {
    let (of, now, actor) = (Arc::clone(&api), clock::now(), principal.name);
    let revoked = blocking(move || of.tokens.revoke(&id, &actor, now)).await?;
    if revoked {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Reject::not_found(
        "there is no such token, or it was revoked before",
        "`segue token list` shows them",
    ))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TokenEventsQuery {
    /// Those that follow the event of this number; default: from the first on.
    #[serde(default)]
    #[param(required = false, minimum = 0, maximum = 9_223_372_036_854_775_807_i64)]
    after: u64,
    /// At most this many; default 100.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
}

/// When tokens were made and revoked, and by whom, oldest first.
#[utoipa::path(
    get,
    path = "/v1/tokens/events",
    tag = "tokens",
    params(TokenEventsQuery),
    responses((status = 200, body = TokenEventsView))
)]
pub(crate) async fn events(
    State(api): State<Arc<Api>>,
    asked: Asked<TokenEventsQuery>,
) -> Answer<TokenEventsView> {
    let asked = query(asked)?;
    let limit = bounded(asked.limit, TOKENS)?;
    if asked.after > NUMBER_MAX {
        let hint = "send the number of an event";
        return Err(Reject::bad("`after` is not usable", hint));
    }
    let store = Arc::clone(&api.control);
    let events = blocking(move || store.token_events(asked.after, limit)).await?;
    let next = events.last().filter(|_| events.len() == limit);
    let next = next.map(|last| last.seq);
    Ok(Json(TokenEventsView { events, next }))
}

impl From<NoToken> for Reject {
    fn from(error: NoToken) -> Self {
        let title = error.to_string();
        match error {
            NoToken::BadName(_) => Self::bad(
                title,
                "use 1 to 64 of A-Z a-z 0-9 . _ -, not starting with a dot",
            ),
            NoToken::BadExpiry => Self::bad(title, "send `expires_in` in seconds"),
            NoToken::NoAgent => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "ambiguous",
                title,
                "name it with `agent`, or `segue token create --role worker --agent NAME`",
            ),
            NoToken::NotOfAgent(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "ambiguous",
                title,
                "leave `agent` out, or ask for the role worker",
            ),
            NoToken::NameTaken(_) => Self::new(
                StatusCode::CONFLICT,
                "name-taken",
                title,
                "revoke that one first, or take another name",
            ),
            NoToken::TooMany => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "full",
                title,
                "revoke those that are not needed any more",
            ),
            NoToken::NoRandom(_) => Self::unavailable("internal", title),
            NoToken::Store(error) => error.into(),
        }
    }
}
