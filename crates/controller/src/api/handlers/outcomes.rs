//! How calls went, as their workers saw it. What is in `data` is never logged.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use segue_core::names::CallId;

use super::workers::own_id;
use super::{Answer, agent_name, parse, unknown_agent};
use crate::api::problem::Reject;
use crate::api::tokens::Principal;
use crate::api::wire::{OutcomeBody, OutcomeView, OutcomesView};
use crate::api::{Api, schema};
use crate::clock;
use crate::driver::blocking;
use crate::store::{CallOf, OutcomeError, OutcomeRecord};

/// Longest reason, in characters: a sentence.
const REASON_CHARS_MAX: usize = 200;
/// Largest data, in bytes of JSON: numbers and names, no transcript.
const DATA_BYTES_MAX: usize = 8 * 1024;

/// Says how a call went. Kept for a week.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/calls/{call}/outcome",
    tag = "calls",
    params(
        ("agent" = schema::AgentName, Path, description = "Which agent"),
        ("call" = schema::CallId, Path, description = "Which call")
    ),
    request_body = OutcomeBody,
    responses(
        (status = 200, description = "This report is there already", body = OutcomeView),
        (status = 201, body = OutcomeView)
    )
)]
pub(crate) async fn report(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path((name, call)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<OutcomeView>), Reject> {
    let body: OutcomeBody = parse(&headers, &body)?;
    let agent = agent_name(&name)?;
    principal.check(&agent)?;
    // Workers of one that is in no configuration any more may still have calls.
    if principal.agent.is_none() && api.specs.get(&agent).is_none() {
        return Err(unknown_agent(&name));
    }
    let of = (agent, call_id(&call)?);
    let record = checked(body)?;
    let outcomes = Arc::clone(&api.outcomes);
    let (of_call, kept) = (of.clone(), record);
    let added = tokio::task::spawn_blocking(move || outcomes.add(&of_call, &kept));
    let added = added
        .await
        .map_err(|error| Reject::unavailable("internal", error.to_string()))?;
    let (record, is_new) = added?;
    if !is_new {
        return Ok((StatusCode::OK, Json(view(record))));
    }
    api.metrics
        .reported(&of.0, record.release.as_ref(), &record.verdict);
    Ok((StatusCode::CREATED, Json(view(record))))
}

/// How a call went.
#[utoipa::path(
    get,
    path = "/v1/agents/{agent}/calls/{call}/outcome",
    tag = "calls",
    params(
        ("agent" = schema::AgentName, Path, description = "Which agent"),
        ("call" = schema::CallId, Path, description = "Which call")
    ),
    responses((status = 200, body = OutcomesView))
)]
pub(crate) async fn read(
    State(api): State<Arc<Api>>,
    Path((name, call)): Path<(String, String)>,
) -> Answer<OutcomesView> {
    let of: CallOf = (agent_name(&name)?, call_id(&call)?);
    let (outcomes, call) = (Arc::clone(&api.outcomes), of.1.clone());
    let found = blocking(move || outcomes.of(&of)).await?;
    if found.is_empty() {
        return Err(Reject::not_found(
            "nobody has said how this call went",
            "workers say it, and it is kept for a week",
        ));
    }
    let outcomes = found.into_iter().map(view).collect();
    Ok(Json(OutcomesView { call, outcomes }))
}

fn checked(body: OutcomeBody) -> Result<OutcomeRecord, Reject> {
    own_id(&body.report)?;
    if let Some(reason) = &body.reason {
        let is_long = reason.chars().count() > REASON_CHARS_MAX;
        if is_long || reason.trim().is_empty() || reason.chars().any(char::is_control) {
            let hint = format!("1 to {REASON_CHARS_MAX} characters, without control characters");
            return Err(Reject::bad("the reason is not usable", hint));
        }
    }
    let data = body.data.unwrap_or_default();
    let bytes = serde_json::to_string(&data).map_or(usize::MAX, |text| text.len());
    if bytes > DATA_BYTES_MAX {
        return Err(Reject::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("the data is larger than {DATA_BYTES_MAX} bytes"),
            "send numbers and names; keep the rest elsewhere",
        ));
    }
    Ok(OutcomeRecord {
        report: body.report,
        release: body.release,
        worker: body.worker,
        verdict: body.verdict.word().to_owned(),
        reason: body.reason,
        data,
        at: clock::now(),
    })
}

fn view(record: OutcomeRecord) -> OutcomeView {
    OutcomeView {
        report: record.report,
        verdict: record.verdict,
        reason: record.reason,
        data: record.data,
        release: record.release,
        worker: record.worker,
        at: record.at,
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

impl From<OutcomeError> for Reject {
    fn from(error: OutcomeError) -> Self {
        let title = error.to_string();
        match error {
            OutcomeError::Another => Self::new(
                StatusCode::CONFLICT,
                "conflict",
                title,
                "give each report an id of its own",
            ),
            OutcomeError::Full => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "full",
                title,
                "report once for each connection",
            ),
            OutcomeError::Store(error) => error.into(),
        }
    }
}
