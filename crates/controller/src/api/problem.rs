//! Errors as clients read them (RFC 9457), each with what to do about it.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use segue_core::rollout::Illegal;

use super::wire::Problem;
use crate::driver::Refused;
use crate::make::MakeError;
use crate::store::StoreError;

const PROBLEM_JSON: &str = "application/problem+json";

/// A problem on its way out.
#[derive(Debug)]
pub(super) struct Reject {
    /// Boxed: an answer that is well is not to carry the room for one that is not.
    problem: Box<Problem>,
    /// Seconds after which it is worth asking again.
    retry_after_s: Option<u64>,
}

impl Reject {
    pub(super) fn new(
        status: StatusCode,
        kind: &str,
        title: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            problem: Box::new(Problem {
                kind: kind.to_owned(),
                title: title.into(),
                status: status.as_u16(),
                hint: Some(hint.into()),
                reason: None,
                nonce: None,
            }),
            retry_after_s: None,
        }
    }

    /// It is worth asking again after a while.
    pub(super) fn after(mut self, wait: Duration) -> Self {
        self.retry_after_s = Some(wait.as_secs() + 1);
        self
    }

    /// Why a membership was refused, in one word.
    pub(super) fn because(mut self, reason: &str) -> Self {
        self.problem.reason = Some(reason.to_owned());
        self
    }

    /// What a worker is to sign.
    pub(super) fn asking(mut self, nonce: String) -> Self {
        self.problem.nonce = Some(nonce);
        self
    }

    /// Which problem it is.
    pub(super) fn kind(&self) -> &str {
        &self.problem.kind
    }

    /// What was asked for is not what is there, by the caller's own condition.
    pub(super) fn precondition(title: impl Into<String>) -> Self {
        let hint = "read it again, look, and send the new ETag";
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition-failed",
            title,
            hint,
        )
    }

    pub(super) fn bad(title: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", title, hint)
    }

    pub(super) fn not_found(title: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", title, hint)
    }

    pub(super) fn unavailable(kind: &str, title: impl Into<String>) -> Self {
        let hint = "calls go on, nothing is decided; see `segue status` and the log of the \
                    controller, then look what was done before you ask again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, hint)
    }
}

impl IntoResponse for Reject {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status);
        let mut response = (
            status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            axum::Json(&self.problem),
        )
            .into_response();
        if let Some(seconds) = self.retry_after_s {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.problem.nonce.is_some() {
            let headers = response.headers_mut();
            let scheme = HeaderValue::from_static("Membership");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        let kind = HeaderValue::from_static(PROBLEM_JSON);
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl From<Refused> for Reject {
    fn from(refused: Refused) -> Self {
        let title = refused.to_string();
        match refused {
            Refused::Illegal(illegal) => illegal.into(),
            Refused::Journal(_) => Self::unavailable("journal", title),
            Refused::UnknownAgent | Refused::NoSuchRelease(_) => {
                Self::not_found(title, "see what there is with `segue status`")
            }
            Refused::NotIncoming { .. } => Self::new(
                StatusCode::CONFLICT,
                "conflict",
                title,
                "look at it with `segue diff`, then approve it by its name",
            ),
            Refused::NothingTo(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "not-now",
                title,
                "see where the releases are with `segue status`",
            ),
            Refused::Several { .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "ambiguous",
                title,
                "name it by its label or its digest",
            ),
        }
    }
}

impl From<Illegal> for Reject {
    fn from(illegal: Illegal) -> Self {
        let (status, kind) = match &illegal {
            Illegal::Conflict { .. } => (StatusCode::CONFLICT, "conflict"),
            Illegal::UnknownGateway { .. } => (StatusCode::NOT_FOUND, "not-found"),
            Illegal::Busy { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "busy"),
            Illegal::Unproven { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "unproven"),
            Illegal::NoRoom { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "no-room"),
            _ => (StatusCode::UNPROCESSABLE_ENTITY, "not-now"),
        };
        Self::new(status, kind, illegal.to_string(), illegal.hint())
    }
}

impl From<MakeError> for Reject {
    fn from(error: MakeError) -> Self {
        let hint = error.hint();
        let title = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "bad-release", title, hint)
    }
}

impl From<StoreError> for Reject {
    fn from(error: StoreError) -> Self {
        Self::unavailable("journal", crate::driver::describe(&error))
    }
}

/// What the framework itself refuses is a problem like any other.
pub(super) async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let told = kind.is_some_and(|kind| kind == PROBLEM_JSON);
    if told || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let title = status
        .canonical_reason()
        .unwrap_or("the request was refused");
    let hint = "the paths and bodies are in docs/reference/api.md";
    let mut problem = Reject::new(status, "bad-request", title, hint).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        let headers = problem.headers_mut();
        headers.insert(header::ALLOW, allow.clone());
    }
    problem
}
