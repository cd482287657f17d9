//! What each endpoint does.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use segue_core::names::{AgentName, GatewayId};
use segue_core::rollout::Event;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::problem::Reject;
use super::wire::{
    ActionView, AgentView, Ask as AskBody, AuditView, CallsView, DeployBody, ForgetView,
    StatusView, VerbBody, VerifyView,
};
use super::{ANSWER_MAX, Api};
use crate::copies::Kept;
use crate::driver::{self, Ask, Message, Wanted};
use crate::make::make;

/// Calls listed unless asked for more, and the most.
const CALLS: (usize, usize) = (100, 10_000);
/// Entries listed unless asked for more, and the most.
const ENTRIES: (usize, usize) = (100, 1_000);
/// Longest reason, in bytes: it is written down with the decision.
const REASON_BYTES_MAX: usize = 1_000;
/// Longest name of somebody who asks, in bytes.
const ACTOR_BYTES_MAX: usize = 64;

type Answer<T> = Result<Json<T>, Reject>;
type Body = Result<Bytes, BytesRejection>;

pub(super) async fn status(State(api): State<Arc<Api>>) -> Answer<StatusView> {
    api.status().await.map(Json)
}

pub(super) async fn agent(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
) -> Answer<AgentView> {
    api.agent(agent_name(&name)?).await.map(Json)
}

pub(super) async fn deploy(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    body: Body,
) -> Answer<ActionView> {
    let asked = Instant::now();
    let agent = agent_name(&name)?;
    let body: DeployBody = parse(body)?;
    let Some(spec) = api.specs.get(&agent).cloned() else {
        let hint = "write it into segue.toml and start `segue serve` again";
        return Err(Reject::not_found(
            format!("the configuration has no agent {agent}"),
            hint,
        ));
    };
    let (of, ask, directory) = (agent.clone(), body.ask.clone(), api.config_dir.clone());
    let (plan, copies) = (Box::new(spec.plan.clone()), api.copies.clone());
    // Reading files may take a while.
    let made =
        tokio::task::spawn_blocking(move || make(&of, &spec, &body, &directory, &copies)).await;
    let made = made.map_err(|error| Reject::unavailable("internal", error.to_string()))?;
    let (release, kept) = made?;
    let event = Event::Deploy {
        release: Box::new(release),
        plan,
    };
    let wanted = Wanted::Event(event);
    api.ask(agent, "deploy", wanted, ask, asked, Some(kept))
        .await
}

pub(super) async fn verb(
    State(api): State<Arc<Api>>,
    Path((name, verb)): Path<(String, String)>,
    body: Body,
) -> Answer<ActionView> {
    let asked = Instant::now();
    let agent = agent_name(&name)?;
    let body: VerbBody = parse(body)?;
    if body.skip_gates && body.ask.reason.is_none() {
        return Err(Reject::bad(
            "gates are skipped only for a reason",
            "say why with `--reason TEXT`; it is written down",
        ));
    }
    let (verb, wanted) = match verb.as_str() {
        "pause" => ("pause", Wanted::Event(Event::Pause)),
        "resume" => ("resume", Wanted::Event(Event::Resume)),
        "promote" => {
            let (full, skip_gates) = (body.full, body.skip_gates);
            (
                "promote",
                Wanted::Event(Event::Promote { full, skip_gates }),
            )
        }
        "abort" => ("abort", Wanted::Event(Event::Abort)),
        "rollback" => ("rollback", Wanted::Rollback(body.release)),
        "drain" => ("drain", Wanted::Drain(body.release)),
        "retire" => ("retire", Wanted::Retire(body.release)),
        _ => return Err(no_endpoint()),
    };
    api.ask(agent, verb, wanted, body.ask, asked, None).await
}

pub(super) async fn forget(
    State(api): State<Arc<Api>>,
    Path(gateway): Path<String>,
    body: Body,
) -> Answer<ForgetView> {
    let ask = checked(parse::<AskBody>(body)?)?;
    let gateway: GatewayId = gateway.parse().map_err(|_| unknown_gateway(&gateway))?;
    let Some(reason) = ask.reason else {
        return Err(Reject::bad(
            "a gateway is forgotten only for a reason",
            "say why its calls are gone with `--reason TEXT`; it is written down",
        ));
    };
    let actor = ask.actor.unwrap_or_else(default_actor);
    let (reply, answer) = oneshot::channel();
    let of = gateway.clone();
    api.send(Message::Forget {
        gateway: of,
        actor,
        reason,
        reply,
    })?;
    let agents = api.wait(answer).await??;
    Ok(Json(ForgetView { gateway, agents }))
}

#[derive(Deserialize)]
pub(super) struct CallsQuery {
    limit: Option<usize>,
}

pub(super) async fn calls(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    query: Result<Query<CallsQuery>, QueryRejection>,
) -> Answer<CallsView> {
    let agent = agent_name(&name)?;
    let Query(query) = query.map_err(|error| bad_query(&error))?;
    let limit = bounded(query.limit, CALLS);
    api.agent(agent.clone()).await?;
    let (calls, answered) = api.link.list_calls(Some(&agent), limit).await;
    let known = api
        .status()
        .await?
        .gateways
        .into_iter()
        .map(|known| known.gateway);
    let unknown = known
        .filter(|gateway| !answered.contains(gateway))
        .collect();
    Ok(Json(CallsView { calls, unknown }))
}

#[derive(Deserialize)]
pub(super) struct AuditQuery {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    agent: Option<AgentName>,
}

pub(super) async fn audit(
    State(api): State<Arc<Api>>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Answer<AuditView> {
    let Query(query) = query.map_err(|error| bad_query(&error))?;
    let journal = Arc::clone(&api.journal);
    let limit = bounded(query.limit, ENTRIES);
    let read = move || journal.read(query.after, limit, query.agent.as_ref());
    let entries = driver::blocking(read).await?;
    Ok(Json(AuditView { entries }))
}

pub(super) async fn verify(State(api): State<Arc<Api>>) -> Answer<VerifyView> {
    let journal = Arc::clone(&api.journal);
    let (good, broken) = driver::blocking(move || driver::verify(&*journal)).await?;
    Ok(Json(VerifyView {
        ok: broken.is_none(),
        entries: good.seq,
        head: good.hash,
        error: broken.map(|broken| broken.to_string()),
    }))
}

pub(super) async fn no_such_path() -> Reject {
    no_endpoint()
}

pub(super) async fn no_such_method() -> Reject {
    Reject::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "bad-request",
        "this path does not take this method",
        "read with GET, change with POST",
    )
}

fn no_endpoint() -> Reject {
    Reject::not_found(
        "there is no such path",
        "the paths are in docs/reference/api.md",
    )
}

impl Api {
    async fn ask(
        &self,
        agent: AgentName,
        verb: &'static str,
        wanted: Wanted,
        ask: AskBody,
        asked: Instant,
        kept: Option<Kept>,
    ) -> Answer<ActionView> {
        let ask = checked(ask)?;
        let (reply, answer) = oneshot::channel();
        self.send(Message::Ask(Ask {
            agent,
            verb,
            wanted,
            actor: ask.actor.unwrap_or_else(default_actor),
            reason: ask.reason,
            revision: ask.revision,
            asked,
            kept,
            reply,
        }))?;
        Ok(Json(self.wait(answer).await??))
    }

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
        self.driver.try_send(message).map_err(busy)
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

fn parse<T: DeserializeOwned>(body: Body) -> Result<T, Reject> {
    let bytes = body.map_err(|error| {
        Reject::new(
            error.status(),
            "bad-request",
            error.body_text(),
            "send a smaller body",
        )
    })?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(|error| {
        let hint = "the bodies are in docs/reference/api.md";
        Reject::bad(format!("the body is not what is expected: {error}"), hint)
    })
}

fn checked(ask: AskBody) -> Result<AskBody, Reject> {
    let printable = |text: &str| !text.chars().any(char::is_control);
    let actor = ask.actor.as_deref().unwrap_or_default();
    if actor.len() > ACTOR_BYTES_MAX || !printable(actor) {
        let hint = format!("at most {ACTOR_BYTES_MAX} bytes, without control characters");
        return Err(Reject::bad("the name of who asks is not usable", hint));
    }
    let reason = ask.reason.as_deref().unwrap_or("-");
    if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX || !printable(reason) {
        let hint = format!("1 to {REASON_BYTES_MAX} bytes, without control characters");
        return Err(Reject::bad("the reason is not usable", hint));
    }
    Ok(ask)
}

fn default_actor() -> String {
    "api".to_owned()
}

fn bounded(asked: Option<usize>, (default, max): (usize, usize)) -> usize {
    asked.unwrap_or(default).min(max)
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

fn unknown_gateway(name: &str) -> Reject {
    Reject::not_found(
        format!("no gateway {name} is known"),
        "`segue status --output json` lists the gateways",
    )
}

fn bad_query(error: &QueryRejection) -> Reject {
    Reject::bad(
        error.body_text(),
        "the queries are in docs/reference/api.md",
    )
}
