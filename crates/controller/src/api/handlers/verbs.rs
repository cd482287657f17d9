//! Steering: what asks for a decision.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::{Extension, Json};
use segue_core::names::{AgentName, BadName, GatewayId, Label};
use segue_core::rollout::Event;
use segue_core::spec::is_plain_label;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::states::tags;
use super::{Answer, agent_name, checked, compose, parse};
use crate::api::problem::Reject;
use crate::api::tokens::Principal;
use crate::api::wire::{ActionView, Ask as AskBody, DeployBody, ForgetView, VerbBody};
use crate::api::{Api, schema};
use crate::copies::Kept;
use crate::driver::{Ask, Message, Wanted};
use crate::store::Versions;

/// Begins a rollout.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/deploy",
    tag = "steer",
    params(("agent" = schema::AgentName, Path, description = "Which agent")),
    request_body = DeployBody,
    responses((status = 200, body = ActionView))
)]
pub(crate) async fn deploy(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<ActionView> {
    let asked = Instant::now();
    let agent = agent_name(&name)?;
    let body: DeployBody = parse(&headers, &body)?;
    let steer = Steer::new(&api, &principal, &headers, body.ask.clone(), asked)?;
    let Some(spec) = api.specs.get(&agent) else {
        let hint = "write it into segue.toml and start `segue serve` again";
        return Err(Reject::not_found(
            format!("the configuration has no agent {agent}"),
            hint,
        ));
    };
    let made = compose::deploy(&api, &agent, spec, body).await?;
    let mut view = steer.ask(&name, "deploy", made.wanted, made.kept).await?;
    view.made_from = made.from;
    Ok(view)
}

/// One verb: its name, its path, and what it asks for.
macro_rules! verb {
    ($(#[$doc:meta])* $name:ident, $path:literal, |$body:ident| $wanted:expr) => {
        $(#[$doc])*
        #[utoipa::path(
            post,
            path = $path,
            tag = "steer",
            params(("agent" = schema::AgentName, Path, description = "Which agent")),
            request_body = VerbBody,
            responses((status = 200, body = ActionView))
        )]
        pub(crate) async fn $name(
            State(api): State<Arc<Api>>,
            Extension(principal): Extension<Principal>,
            Path(agent): Path<String>,
            headers: HeaderMap,
            body: Bytes,
        ) -> Answer<ActionView> {
            let asked = Instant::now();
            agent_name(&agent)?;
            #[allow(unused_mut, reason = "not every verb takes something out of it")]
            let mut $body: VerbBody = verb_body(&headers, &body)?;
            let ask = std::mem::take(&mut $body.ask);
            let steer = Steer::new(&api, &principal, &headers, ask, asked)?;
            let wanted = steer.want($wanted, &$body)?;
            steer.ask(&agent, stringify!($name), wanted, None).await
        }
    };
}

verb! {
    /// Makes the rollout wait where it is.
    pause, "/v1/agents/{agent}/pause", |body| Wanted::Event(Event::Pause)
}
verb! {
    /// Lets a paused rollout go on.
    resume, "/v1/agents/{agent}/resume", |body| Wanted::Event(Event::Resume)
}
verb! {
    /// Goes on to the next share, or with `full` to all new calls.
    ///
    /// A cutover is answered once every gateway acts by it, or could not say so in time.
    promote, "/v1/agents/{agent}/promote", |body| Wanted::Event(Event::Promote {
        full: body.full,
        skip_gates: body.skip_gates,
    })
}
verb! {
    /// Ends the rollout; the current release stays.
    abort, "/v1/agents/{agent}/abort", |body| Wanted::Event(Event::Abort)
}
verb! {
    /// Runs the contract hook of the current release now, if no process of an older one is left.
    ///
    /// One that failed is run again.
    contract, "/v1/agents/{agent}/contract", |body| Wanted::Contract(body.release.take())
}

/// Gives all new calls back to the release before, or with `only` takes one part back.
///
/// It waits for no gate, worker or person, and is never refused for asking too often. It is
/// answered once every gateway acts by it, or could not say so in time. With `only` it begins the
/// rollout of a release that differs from the current one in that part alone, without ramp and
/// approval.
#[utoipa::path(
    post,
    path = "/v1/agents/{agent}/rollback",
    tag = "steer",
    params(("agent" = schema::AgentName, Path, description = "Which agent")),
    request_body = VerbBody,
    responses((status = 200, body = ActionView))
)]
pub(crate) async fn rollback(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<ActionView> {
    let asked = Instant::now();
    agent_name(&name)?;
    let mut body: VerbBody = verb_body(&headers, &body)?;
    let ask = std::mem::take(&mut body.ask);
    let mut steer = Steer::new(&api, &principal, &headers, ask, asked)?;
    let wanted = steer.want(Wanted::Rollback(body.release.take()), &body)?;
    let Some(part) = body.only else {
        return steer.ask(&name, "rollback", wanted, None).await;
    };
    let agent = agent_name(&name)?;
    let made = compose::revert(&api, &agent, part, body.label).await?;
    // What it was made from must still be what it is put beside.
    steer.ask.revision = steer.ask.revision.or(made.revision);
    let mut view = steer.ask(&name, made.verb, made.wanted, made.kept).await?;
    view.made_from = made.from;
    Ok(view)
}
verb! {
    /// Takes the current release out of service.
    drain, "/v1/agents/{agent}/drain", |body| Wanted::Drain(body.release.take())
}
verb! {
    /// Retires a drained release now.
    retire, "/v1/agents/{agent}/retire", |body| Wanted::Retire(body.release.take())
}
verb! {
    /// Agrees to the rollout, in the role of an approver.
    ///
    /// With `release`, only if that is the release that comes in.
    approve, "/v1/agents/{agent}/approve", |body| Wanted::Approve(body.release.take())
}

/// Vouches that a gateway is gone for good, so that its calls no longer count. Needs a reason.
#[utoipa::path(
    post,
    path = "/v1/gateways/{gateway}/forget",
    tag = "steer",
    params(("gateway" = schema::GatewayId, Path, description = "Which gateway")),
    request_body = AskBody,
    responses((status = 200, body = ForgetView))
)]
pub(crate) async fn forget(
    State(api): State<Arc<Api>>,
    Extension(principal): Extension<Principal>,
    Path(gateway): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<ForgetView> {
    let ask = checked(parse::<AskBody>(&headers, &body)?, &principal)?;
    let gateway: GatewayId = gateway.parse().map_err(|_| unknown_gateway(&gateway))?;
    let Some(reason) = ask.reason else {
        return Err(reason_needed(
            "a gateway is forgotten only for a reason",
            "say why its calls are gone with `--reason TEXT`; it is written down",
        ));
    };
    let actor = ask.actor.unwrap_or(principal.name);
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

/// The body of a verb. Names in it are names, whether or not the verb looks at them.
fn verb_body(headers: &HeaderMap, body: &[u8]) -> Result<VerbBody, Reject> {
    let body: VerbBody = parse(headers, body)?;
    let label = body.label.as_deref().map(str::parse::<Label>).transpose();
    let release = body.release.as_deref().map(str::parse::<Label>).transpose();
    let name = |error: BadName| Reject::bad(error.to_string(), "see them with `segue status`");
    release.map_err(name)?;
    if let Some(label) = label.map_err(name)?.filter(|label| !is_plain_label(label)) {
        let title = format!("the label {label} looks like the digest of a release");
        let hint = "use a label that is not 12 or more hexadecimal digits";
        return Err(Reject::bad(title, hint));
    }
    Ok(body)
}

/// Somebody who asks for a decision, checked.
pub(super) struct Steer<'a> {
    api: &'a Api,
    ask: AskBody,
    /// Revisions that `If-Match` permits.
    permitted: Option<Vec<u64>>,
    asked: Instant,
}

impl<'a> Steer<'a> {
    pub(super) fn new(
        api: &'a Api,
        principal: &Principal,
        headers: &HeaderMap,
        ask: AskBody,
        asked: Instant,
    ) -> Result<Self, Reject> {
        let ask = checked(ask, principal)?;
        let permitted = if_match(headers)?;
        Ok(Self {
            api,
            ask,
            permitted,
            asked,
        })
    }

    /// Why, in their words.
    pub(super) fn reason(&self) -> Option<&str> {
        self.ask.reason.as_deref()
    }

    /// The revision it must still be, of those that the headers and the body permit.
    async fn revision(&self, agent: &AgentName) -> Result<Option<u64>, Reject> {
        let Some(permitted) = &self.permitted else {
            return Ok(self.ask.revision);
        };
        let others = || Reject::precondition("If-Match names other revisions of this agent");
        match (permitted.as_slice(), self.ask.revision) {
            ([only], None) => Ok(Some(*only)),
            (_, Some(revision)) if permitted.contains(&revision) => Ok(Some(revision)),
            (_, Some(_)) => Err(others()),
            (_, None) => {
                let now = self.api.agent(agent.clone()).await?.revision;
                permitted
                    .contains(&now)
                    .then_some(Some(now))
                    .ok_or_else(others)
            }
        }
    }

    fn want(&self, wanted: Wanted, body: &VerbBody) -> Result<Wanted, Reject> {
        if body.skip_gates && self.ask.reason.is_none() {
            return Err(reason_needed(
                "gates are skipped only for a reason",
                "say why with `--reason TEXT`; it is written down",
            ));
        }
        Ok(wanted)
    }

    pub(super) async fn ask(
        self,
        agent: &str,
        verb: &'static str,
        wanted: Wanted,
        kept: Option<Kept>,
    ) -> Answer<ActionView> {
        let agent = agent_name(agent)?;
        let revision = self.revision(&agent).await?;
        let (reply, answer) = oneshot::channel();
        self.api.send(Message::Ask(Ask {
            agent,
            verb,
            wanted,
            actor: self.ask.actor.unwrap_or_default(),
            reason: self.ask.reason,
            revision,
            asked: self.asked,
            kept,
            reply,
        }))?;
        match self.api.wait(answer).await? {
            Ok(view) => Ok(Json(view)),
            Err(refused) => {
                let title = refused.to_string();
                let reject = Reject::from(refused);
                if self.permitted.is_some() && reject.kind() == "conflict" {
                    return Err(Reject::precondition(title));
                }
                Err(reject)
            }
        }
    }
}

/// The revisions that `If-Match` permits. `*` permits all: every agent there is has one. A tag that
/// was never given out is not the one of now.
fn if_match(headers: &HeaderMap) -> Result<Option<Vec<u64>>, Reject> {
    match tags(headers, &header::IF_MATCH)?.map(|tags| tags.strong) {
        None | Some(Versions::Any) => Ok(None),
        Some(Versions::These(revisions)) if revisions.is_empty() => Err(Reject::precondition(
            "If-Match names no revision of this agent",
        )),
        Some(Versions::These(revisions)) => Ok(Some(revisions)),
    }
}

fn reason_needed(title: &str, hint: &str) -> Reject {
    let status = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
    Reject::new(status, "reason-needed", title, hint)
}

fn unknown_gateway(name: &str) -> Reject {
    Reject::not_found(
        format!("no gateway {name} is known"),
        "`segue status --output json` lists the gateways",
    )
}
