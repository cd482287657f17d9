//! What each endpoint does.

pub(super) mod agents;
pub(super) mod audit;
pub(super) mod calls;
pub(super) mod compose;
pub(super) mod fleet;
pub(super) mod membership;
pub(super) mod metrics;
pub(super) mod outcomes;
pub(super) mod permits;
pub(super) mod reload;
pub(super) mod states;
pub(super) mod tokens;
pub(super) mod verbs;
pub(super) mod workers;

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderMap, StatusCode, header};
use segue_core::names::AgentName;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::problem::Reject;
use super::tokens::Principal;
use super::wire::{AgentView, Ask as AskBody, StatusView};
use super::{ANSWER_MAX, Api};
use crate::driver::Message;

/// Longest reason, in characters: it is written down with the decision.
const REASON_CHARS_MAX: usize = 1_000;
/// Longest name of somebody who asks, in characters.
const ACTOR_CHARS_MAX: usize = 64;

/// Largest number of anything that is counted: stores and many clients count in 63 bits.
const NUMBER_MAX: u64 = i64::MAX as u64;

type Answer<T> = Result<Json<T>, Reject>;
type Asked<T> = Result<Query<T>, QueryRejection>;

pub(super) fn no_such_path() -> Reject {
    Reject::not_found(
        "there is no such path",
        "the paths are in docs/reference/api.md",
    )
}

impl Api {
    async fn status(&self) -> Result<StatusView, Reject> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Status(reply))?;
        self.wait(answer).await
    }

    async fn agent(&self, name: AgentName) -> Result<AgentView, Reject> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Agent(name.clone(), reply))?;
        self.wait(answer)
            .await?
            .ok_or_else(|| unknown_agent(name.as_str()))
    }

    fn send(&self, message: Message) -> Result<(), Reject> {
        let busy = |_| Reject::unavailable("busy", "the controller has too much to do");
        let queue = if message.is_rollback() {
            &self.rollbacks
        } else {
            &self.driver
        };
        queue.try_send(message).map_err(busy)
    }

    async fn wait<T>(&self, answer: oneshot::Receiver<T>) -> Result<T, Reject> {
        match timeout(ANSWER_MAX, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Reject::unavailable("internal", "the controller is ending")),
            Err(_) => Err(Reject::unavailable(
                "journal",
                "the controller did not answer in time; its disk may be stuck",
            )),
        }
    }
}

/// A JSON body of one of these types; without a type it is taken for JSON.
fn is_json(headers: &HeaderMap, types: &[&str]) -> Result<(), Reject> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = kind.to_str().unwrap_or_default().split(';').next();
    let kind = kind.unwrap_or_default().trim().to_ascii_lowercase();
    if types.contains(&kind.as_str()) {
        return Ok(());
    }
    Err(Reject::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "bad-request",
        "the body is not of a type that is understood",
        format!("send `Content-Type: {}`", types[0]),
    ))
}

/// The body of a request; an empty one is an empty object.
fn parse<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Reject> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    if !body.is_empty() {
        is_json(headers, &["application/json"])?;
    }
    let hint = "the bodies are in docs/reference/api.md";
    // A list of the fields' values would be taken for them, too.
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(Reject::bad("the body is no JSON object", hint));
    }
    serde_json::from_slice(text).or_else(|error| {
        let whole = serde_json::from_slice(text).map(|mut value| {
            make_whole(&mut value);
            value
        });
        whole
            .and_then(serde_json::from_value)
            .map_err(|_| Reject::bad(format!("the body is not what is expected: {error}"), hint))
    })
}

/// Makes `7.0` a `7`: to JSON, and to clients that know one kind of number, they are the same.
fn make_whole(value: &mut Value) {
    /// Up to here every whole number has a floating point form of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Object(fields) => fields.values_mut().for_each(make_whole),
        Value::Array(values) => values.iter_mut().for_each(make_whole),
        Value::Number(number) if number.is_f64() => {
            let float = number.as_f64().unwrap_or(f64::NAN);
            if float.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&float) {
                let digits = format!("{float:.0}");
                *value = digits.parse::<u64>().map_or(Value::Null, Value::from);
            }
        }
        _ => {}
    }
}

fn query<T>(query: Asked<T>) -> Result<T, Reject> {
    let bad = |error: QueryRejection| {
        let hint = "the queries are in docs/reference/api.md";
        Reject::bad(error.body_text(), hint)
    };
    query.map(|Query(query)| query).map_err(bad)
}

/// Checks who asks and why. Only the holder of the local token speaks for others.
fn checked(ask: AskBody, principal: &Principal) -> Result<AskBody, Reject> {
    let printable = |text: &str| !text.chars().any(char::is_control);
    let actor = ask.actor.as_deref().unwrap_or_default();
    if actor.chars().count() > ACTOR_CHARS_MAX || !printable(actor) {
        let hint = format!("at most {ACTOR_CHARS_MAX} characters, without control characters");
        return Err(Reject::bad("the name of who asks is not usable", hint));
    }
    let reason = ask.reason.as_deref().unwrap_or("-");
    let is_long = reason.chars().count() > REASON_CHARS_MAX;
    if reason.trim().is_empty() || is_long || !printable(reason) {
        let hint = format!("1 to {REASON_CHARS_MAX} characters, without control characters");
        return Err(Reject::bad("the reason is not usable", hint));
    }
    if ask.revision.is_some_and(|revision| revision > NUMBER_MAX) {
        let hint = "send the revision of the agent as you read it";
        return Err(Reject::bad("the revision is not usable", hint));
    }
    let said = ask.actor.filter(|_| principal.is_local);
    Ok(AskBody {
        actor: Some(said.unwrap_or_else(|| principal.name.clone())),
        ..ask
    })
}

fn bounded(asked: Option<usize>, (default, max): (usize, usize)) -> Result<usize, Reject> {
    let limit = asked.unwrap_or(default);
    if (1..=max).contains(&limit) {
        return Ok(limit);
    }
    let hint = format!("ask for 1 to {max}, and go on with `after`");
    Err(Reject::bad("the limit is not usable", hint))
}

fn agent_name(text: &str) -> Result<AgentName, Reject> {
    text.parse().map_err(|_| unknown_agent(text))
}

fn unknown_agent(name: &str) -> Reject {
    Reject::not_found(
        format!("there is no agent {name}"),
        "see which there are with `segue status`",
    )
}
