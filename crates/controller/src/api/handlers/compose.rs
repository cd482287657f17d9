//! Releases that are made from others, and what tells two of them apart.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use segue_core::names::{AgentName, Label};
use segue_core::release::Release;
use segue_core::rollout::Event;
use segue_core::spec::AgentSpec;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{Answer, Asked, agent_name, query, unknown_agent};
use crate::api::problem::Reject;
use crate::api::wire::{ChangeView, DeployBody, DiffView};
use crate::api::{Api, schema};
use crate::copies::Kept;
use crate::driver::{Bases, Message, Wanted};
use crate::make::{self, NoRevert, Origin, Part, Reverted};

/// A release that was made, on its way to the driver.
pub(super) struct Made {
    pub(super) verb: &'static str,
    pub(super) wanted: Wanted,
    pub(super) kept: Option<Kept>,
    /// What it was made from.
    pub(super) from: Option<Label>,
    /// At which revision of the agent.
    pub(super) revision: Option<u64>,
}

/// Makes the release that a deploy asks for.
pub(super) async fn deploy(
    api: &Api,
    agent: &AgentName,
    spec: AgentSpec,
    body: DeployBody,
) -> Result<Made, Reject> {
    let bases = bases(api, agent).await?;
    let base = match &body.from {
        Some(name) => Some(find(&bases, name)?),
        None if asks_for_a_part(&body) => bases.current.as_ref(),
        None => None,
    };
    let from = base.map(|base| base.label.clone());
    let made = make(api, agent, spec, body, base.cloned()).await?;
    Ok(Made {
        from,
        ..put(made, None)
    })
}

/// Makes the current release with one part of the one before.
pub(super) async fn revert(
    api: &Api,
    agent: &AgentName,
    part: Part,
    label: Option<String>,
) -> Result<Made, Reject> {
    let bases = bases(api, agent).await?;
    let (current, before) = (bases.current.as_ref(), bases.before.as_ref());
    let base = match make::revert(part, current, before)? {
        Reverted::Before => {
            let from = current.map(|is| String::from(is.id));
            return Ok(Made {
                verb: "rollback",
                wanted: Wanted::Rollback(from),
                kept: None,
                from: None,
                revision: None,
            });
        }
        Reverted::Other(base) => *base,
    };
    let is_taken = |label: &Label| bases.all.iter().any(|is| is.label == *label);
    let ours = || {
        let before = &before?.label;
        make::label(part, (&base.label, before), is_taken)
    };
    let label = label.or_else(|| ours().map(String::from));
    let from = base.label.clone();
    let mut spec = spec_of(api, agent)?;
    // What is taken back was tried before: no ramp, and nobody has to agree.
    spec.plan.steps.clear();
    spec.plan.approval = None;
    let body = DeployBody {
        label: label.unwrap_or_default(),
        ..DeployBody::default()
    };
    let made = make(api, agent, spec, body, Some(base)).await?;
    Ok(Made {
        from: Some(from),
        ..put(made, Some(bases.revision))
    })
}

fn put(made: make::Made, revision: Option<u64>) -> Made {
    let event = Event::Deploy {
        release: Box::new(made.release),
        plan: Box::new(made.plan),
    };
    Made {
        verb: "deploy",
        wanted: Wanted::Event(event),
        kept: Some(made.kept),
        from: None,
        revision,
    }
}

/// Whether something else than a program is asked for: then the program stays.
fn asks_for_a_part(body: &DeployBody) -> bool {
    let parts = body.prompt.is_some() || body.model.is_some() || body.config.is_some();
    let others = !body.env.is_empty() || !body.component_versions.is_empty();
    body.command.is_none() && (parts || others)
}

/// Reading files may take a while.
async fn make(
    api: &Api,
    agent: &AgentName,
    spec: AgentSpec,
    body: DeployBody,
    base: Option<Release>,
) -> Result<make::Made, Reject> {
    let (agent, directory, copies) = (agent.clone(), api.config_dir.clone(), api.copies.clone());
    let made = tokio::task::spawn_blocking(move || {
        let origin = Origin {
            agent: &agent,
            spec: &spec,
            config_dir: &directory,
            base: base.as_ref(),
        };
        make::make(origin, &body, &copies)
    });
    let made = made.await;
    let made = made.map_err(|error| Reject::unavailable("internal", error.to_string()))?;
    Ok(made?)
}

fn spec_of(api: &Api, agent: &AgentName) -> Result<AgentSpec, Reject> {
    api.specs.get(agent).ok_or_else(|| {
        let hint = "write it into segue.toml and start `segue serve` again";
        Reject::not_found(format!("the configuration has no agent {agent}"), hint)
    })
}

async fn bases(api: &Api, agent: &AgentName) -> Result<Bases, Reject> {
    let (reply, answer) = oneshot::channel();
    api.send(Message::Bases(agent.clone(), reply))?;
    let bases = api.wait(answer).await?;
    bases.ok_or_else(|| unknown_agent(agent.as_str()))
}

fn find<'a>(bases: &'a Bases, name: &str) -> Result<&'a Release, Reject> {
    bases.find(name).ok_or_else(|| {
        let hint = "see what there is with `segue status`";
        Reject::not_found(format!("there is no release {name}"), hint)
    })
}

impl From<NoRevert> for Reject {
    fn from(error: NoRevert) -> Self {
        let status = axum::http::StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, "not-now", error.to_string(), error.hint())
    }
}

/// Which releases are compared.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DiffQuery {
    /// Label or digest of the one; default: the release that a rollback goes to.
    #[param(value_type = Option<schema::ReleaseName>)]
    from: Option<String>,
    /// Label or digest of the other; default: the current release.
    #[param(value_type = Option<schema::ReleaseName>)]
    to: Option<String>,
}

/// What tells two releases apart, as they were written.
///
/// Values that look like secrets are not shown, only that they differ.
#[utoipa::path(
    get,
    path = "/v1/agents/{agent}/diff",
    tag = "read",
    params(("agent" = schema::AgentName, Path, description = "Which agent"), DiffQuery),
    responses((status = 200, body = DiffView))
)]
pub(crate) async fn diff(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    asked: Asked<DiffQuery>,
) -> Answer<DiffView> {
    let asked = query(asked)?;
    let bases = bases(&api, &agent_name(&name)?).await?;
    let none = |what: &str| {
        let hint = "name both releases, as in `segue diff v1 v2`";
        Reject::not_found(format!("there is no {what} release"), hint)
    };
    let from = match &asked.from {
        Some(name) => find(&bases, name)?,
        None => bases.before.as_ref().ok_or_else(|| none("earlier"))?,
    };
    let to = match &asked.to {
        Some(name) => find(&bases, name)?,
        None => bases.current.as_ref().ok_or_else(|| none("current"))?,
    };
    let changes = from.diff(to).into_iter().map(|change| ChangeView {
        field: change.field,
        before: change.before,
        after: change.after,
        secret: change.secret,
    });
    Ok(Json(DiffView {
        from: from.label.clone(),
        from_id: from.id,
        to: to.label.clone(),
        to_id: to.id,
        changes: changes.collect(),
    }))
}
