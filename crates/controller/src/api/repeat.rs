//! Requests that are sent again. A client that heard no answer cannot know whether its request was
//! carried out; with an `Idempotency-Key` it may ask again and gets the first answer.
//!
//! The key is taken durably before anything is done, and what is done is finished whether or not
//! who asked still listens. When the process ends in between, nobody knows the outcome, and that is
//! the answer then, except for a rollback that names the release it leaves: to leave a release twice
//! is to leave it once. One that names none goes back from whatever is current then, and one of a
//! part alone is a deploy.
//!
//! The state of a call needs no key, and has none: what is written twice is the same, and a version
//! says whether somebody else wrote in between. So it is kept in no place but its own.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use segue_core::names::hex;
use sha2::{Digest as _, Sha256};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;

use super::problem::Reject;
use super::roles::{CALL_STATE, ROLLBACK, endpoint, writes};
use super::tokens::Principal;
use super::wire::{NewTokenView, Problem, VerbBody};
use super::{Api, BODY_BYTES_MAX};
use crate::clock;
use crate::driver::blocking;
use crate::store::{Begun, KeptAnswer, StoreError};

/// The header of the key.
pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key, in bytes: a UUID is 36.
const KEY_BYTES_MAX: usize = 128;
/// How long a body may take to come: 256 KiB at the speed of a bad line.
const BODY_WAIT: Duration = Duration::from_secs(10);
/// How long a rollback waits for its key, before and after. A commit takes less, and a file that is
/// locked must not be in its way.
const KEY_WAIT: Duration = Duration::from_millis(300);
/// Headers that are part of an answer.
const KEPT_HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::ETAG, header::RETRY_AFTER];

/// Whose key, which, and for what.
#[derive(Debug, Clone)]
struct Key {
    token: String,
    text: String,
    /// Digest of the request.
    request: String,
}

pub(super) async fn repeat(
    State(api): State<Arc<Api>>,
    request: Request,
    next: Next,
) -> Result<Response, Reject> {
    let path = request.extensions().get::<MatchedPath>();
    let path = path.map_or("", MatchedPath::as_str);
    // What is no endpoint is refused by the router.
    if !writes(request.method()) || endpoint(request.method(), path).is_none() {
        return Ok(next.run(request).await);
    }
    let is_rollback = path == ROLLBACK;
    // The state of a call is the callers' own: no answer about it is kept, so it takes no key.
    let key = match path {
        CALL_STATE => None,
        _ => key(request.headers())?,
    };
    let (head, body) = request.into_parts();
    let body = collect(body).await?;
    let principal = head.extensions.get::<Principal>();
    let (Some(key), Some(principal)) = (key, principal) else {
        return Ok(next.run(Request::from_parts(head, body.into())).await);
    };
    let path = head.uri.path_and_query();
    let path = path.map_or("", axum::http::uri::PathAndQuery::as_str);
    let key = Key {
        token: principal.id.clone(),
        text: key,
        request: digest(&[
            principal.id.as_bytes(),
            head.method.as_str().as_bytes(),
            path.as_bytes(),
            &body,
        ]),
    };
    let may_repeat = is_rollback && leaves_a_release(&body);
    let mut begun = tokio::spawn(begin(Arc::clone(&api), key.clone(), may_repeat));
    let answer = if may_repeat {
        timeout(KEY_WAIT, &mut begun).await.ok()
    } else {
        Some((&mut begun).await)
    };
    let mut late = None;
    match answer.map(|answer| answer.unwrap_or_else(|error| Err(failed(&error)))) {
        Some(Ok(Begun::New)) => {}
        Some(Ok(Begun::Answered(answer))) => return Ok(replayed(answer)),
        Some(Ok(Begun::Mismatch)) => return Err(mismatch()),
        Some(Ok(Begun::InProgress)) => return Err(in_progress()),
        Some(Ok(Begun::Unknown)) => return Err(unknown()),
        // Nothing may stand in the way of the way back.
        Some(Err(error)) if may_repeat => {
            tracing::warn!(%error, "a rollback goes on without its idempotency key");
        }
        None => {
            tracing::warn!("a rollback goes on before its idempotency key is taken");
            late = Some(begun);
        }
        // Whether it was done before cannot be told, and it must not be done twice.
        Some(Err(error)) if is_rollback => {
            return Err(Reject::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "store",
                error.to_string(),
                "name the release that you leave with `release`, or ask without a key",
            ));
        }
        Some(Err(error)) => return Err(error.into()),
    }
    let request = Request::from_parts(head, body.into());
    // In a task of its own: it goes on when whoever asked hangs up.
    let done = tokio::spawn(async move {
        let response = next.run(request).await;
        settle(&api, (key, late), response, may_repeat).await
    });
    match done.await {
        Ok(response) => Ok(response),
        Err(error) => Err(Reject::unavailable("internal", error.to_string())),
    }
}

/// Whether a rollback may be carried out twice.
fn leaves_a_release(body: &[u8]) -> bool {
    let body: Result<VerbBody, _> = serde_json::from_slice(body);
    body.is_ok_and(|body| body.release.is_some() && body.only.is_none())
}

fn failed(error: &JoinError) -> StoreError {
    StoreError::Unavailable {
        what: error.to_string(),
        source: None,
    }
}

async fn collect(body: Body) -> Result<Bytes, Reject> {
    match timeout(BODY_WAIT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) => {
            let is_large = std::error::Error::source(&error)
                .is_some_and(|source| source.to_string().contains("length limit"));
            if !is_large {
                let hint = "send it again, whole";
                return Err(Reject::bad("the body did not come to its end", hint));
            }
            let hint = format!("send at most {BODY_BYTES_MAX} bytes");
            Err(Reject::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "the body is too large",
                hint,
            ))
        }
        Err(_) => Err(Reject::new(
            StatusCode::REQUEST_TIMEOUT,
            "too-slow",
            format!("the body took longer than {} s", BODY_WAIT.as_secs()),
            "send it again on a better line",
        )),
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Reject> {
    let mut given = headers.get_all(KEY).iter();
    let Some(key) = given.next() else {
        return Ok(None);
    };
    let visible = |key: &HeaderValue| key.as_bytes().iter().all(u8::is_ascii_graphic);
    if given.next().is_some() || !visible(key) || !(1..=KEY_BYTES_MAX).contains(&key.len()) {
        let hint = format!("send one, of 1 to {KEY_BYTES_MAX} visible ASCII characters");
        return Err(Reject::bad("the Idempotency-Key is not usable", hint));
    }
    Ok(key.to_str().ok().map(str::to_owned))
}

/// A digest that no two lists of parts share.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

async fn begin(api: Arc<Api>, key: Key, may_repeat: bool) -> Result<Begun, StoreError> {
    let (store, now) = (Arc::clone(&api.control), clock::now());
    blocking(move || {
        let begun = store.begin(&key.token, &key.text, &key.request, now)?;
        if begun == Begun::Unknown && may_repeat {
            store.begin_again(&key.token, &key.text)?;
            return Ok(Begun::New);
        }
        Ok(begun)
    })
    .await
}

/// A key that is still being taken.
type Late = JoinHandle<Result<Begun, StoreError>>;

/// Keeps the answer, or gives the key back if nothing was done. A rollback does not wait long for
/// that.
async fn settle(
    api: &Arc<Api>,
    (key, late): (Key, Option<Late>),
    response: Response,
    is_urgent: bool,
) -> Response {
    let status = response.status();
    let (head, body) = response.into_parts();
    // Answers are made in memory; there is nothing to wait for.
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let outcome = if status == StatusCode::TOO_MANY_REQUESTS || is_busy(status, &body) {
        Outcome::NotDone
    } else if status.is_server_error() {
        Outcome::Unknown
    } else {
        Outcome::Done(KeptAnswer {
            status: status.as_u16(),
            headers: kept_headers(&head.headers),
            body: without_secret(&body),
        })
    };
    let store = Arc::clone(&api.control);
    let keep = async move {
        if let Some(late) = late
            && !matches!(late.await, Ok(Ok(Begun::New)))
        {
            return;
        }
        let kept = blocking(move || match outcome {
            Outcome::NotDone => store.release(&key.token, &key.text),
            Outcome::Unknown => store.finish(&key.token, &key.text, None),
            Outcome::Done(answer) => store.finish(&key.token, &key.text, Some(&answer)),
        });
        if let Err(error) = kept.await {
            tracing::warn!(%error, "an answer could not be kept for its idempotency key");
        }
    };
    if is_urgent {
        let _ = timeout(KEY_WAIT, tokio::spawn(keep)).await;
    } else {
        keep.await;
    }
    Response::from_parts(head, body.into())
}

enum Outcome {
    Done(KeptAnswer),
    NotDone,
    Unknown,
}

/// The controller had too much to do to begin with it.
fn is_busy(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::SERVICE_UNAVAILABLE
        && serde_json::from_slice(body).is_ok_and(|problem: Problem| problem.kind == "busy")
}

fn kept_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let kept = KEPT_HEADERS.iter().filter_map(|name| {
        let value = headers.get(name)?.to_str().ok()?;
        Some((name.as_str().to_owned(), value.to_owned()))
    });
    kept.collect()
}

/// The answer to keep: a new token is shown once, and kept nowhere.
fn without_secret(body: &Bytes) -> Vec<u8> {
    match serde_json::from_slice::<NewTokenView>(body) {
        Ok(mut made) if made.token.is_some() => {
            made.token = None;
            serde_json::to_vec(&made).expect("views always serialise")
        }
        _ => body.to_vec(),
    }
}

fn replayed(answer: KeptAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, answer.body).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

fn mismatch() -> Reject {
    Reject::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency-mismatch",
        "this Idempotency-Key was used for another request",
        "use a new key for each thing that you want done",
    )
}

fn in_progress() -> Reject {
    Reject::new(
        StatusCode::CONFLICT,
        "in-progress",
        "this very request is being carried out",
        "ask again in a moment, with the same key, for its answer",
    )
    .after(Duration::ZERO)
}

fn unknown() -> Reject {
    Reject::new(
        StatusCode::CONFLICT,
        "outcome-unknown",
        "this request was begun, and nobody knows how it ended",
        "look what was done with `segue status` and `segue audit`; ask again with a new key if it \
         was not",
    )
}
