//! The workers of an agent, whoever runs them; and what an operator does with one.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use segue_core::names::{AgentName, GatewayId, WorkerId};
use segue_core::plane::{ConnectedWorker, DrainedBy, Steer as SteerWorker};
use segue_core::rollout::{Event, Notice};
use serde::Deserialize;
use tokio::time::Instant;

use super::verbs::Steer;
use super::workers::release_of;
use super::{Answer, Asked, agent_name, bounded, parse, query};
use crate::api::problem::Reject;
use crate::api::tokens::Principal;
use crate::api::wire::{
    AgentView, Ask as AskBody, ConnectionView, HeardView, SteeredView, WorkerEntry, WorkerKind,
    WorkersView,
};
use crate::api::{Api, schema};
use crate::clock;
use crate::driver::Wanted;
use crate::link::{Fleet, state_of};

/// Workers listed unless asked for more, and the most.
const WORKERS: (usize, usize) = (100, 1_000);

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct WorkersQuery {
    /// At most this many; default 100.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
    /// `next` of the page before.
    #[param(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]
    after: Option<String>,
}

/// The workers of an agent: processes that Segue runs, LiveKit workers that are connected, and
/// whoever says how it is.
#[utoipa::path(
    get,
    path = "/v1/agents/{agent}/workers",
    tag = "read",
    params(("agent" = schema::AgentName, Path, description = "Which agent"), WorkersQuery),
    responses((status = 200, body = WorkersView))
)]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    asked: Asked<WorkersQuery>,
) -> Answer<WorkersView> {
    let asked = query(asked)?;
    let limit = bounded(asked.limit, WORKERS)?;
    let after = asked.after.as_deref().map(str::parse::<WorkerId>);
    let after = after.transpose().map_err(|_| {
        let hint = "send `next` of the page before, or begin again without";
        Reject::bad("`after` is not usable", hint)
    })?;
    let agent = agent_name(&name)?;
    let (mut workers, unknown) = api.workers(&agent).await?;
    if let Some(after) = &after {
        workers.retain(|is| is.worker > *after);
    }
    let more = workers.len() > limit;
    workers.truncate(limit);
    let next = workers.last().filter(|_| more);
    let next = next.map(|last| last.worker.to_string());
    Ok(Json(WorkersView {
        workers,
        unknown,
        next,
    }))
}

/// One worker.
#[utoipa::path(
    get,
    path = "/v1/agents/{agent}/workers/{worker}",
    tag = "read",
    params(
        ("agent" = schema::AgentName, Path, description = "Which agent"),
        ("worker" = schema::WorkerId, Path, description = "Which worker")
    ),
    responses((status = 200, body = WorkerEntry))
)]
pub(crate) async fn one(
    State(api): State<Arc<Api>>,
    Path((name, worker)): Path<(String, String)>,
) -> Answer<WorkerEntry> {
    let agent = agent_name(&name)?;
    Ok(Json(api.worker(&agent, &worker).await?))
}

/// One verb: its name, its path, and what the dispatcher is told.
macro_rules! steer {
    ($(#[$doc:meta])* $name:ident, $path:literal, $what:expr) => {
        $(#[$doc])*
        #[utoipa::path(
            post,
            path = $path,
            tag = "steer",
            params(
                ("agent" = schema::AgentName, Path, description = "Which agent"),
                ("worker" = schema::WorkerId, Path, description = "Which LiveKit worker")
            ),
            request_body = AskBody,
            responses((status = 200, body = SteeredView))
        )]
        pub(crate) async fn $name(
            State(api): State<Arc<Api>>,
            Extension(principal): Extension<Principal>,
            Path((agent, worker)): Path<(String, String)>,
            headers: HeaderMap,
            body: Bytes,
        ) -> Answer<SteeredView> {
            let asked = Instant::now();
            let ask = parse::<AskBody>(&headers, &body)?;
            let steer = Steer::new(&api, &principal, &headers, ask, asked)?;
            api.steer_worker((&agent, &worker), stringify!($name), $what, steer).await
        }
    };
}

steer! {
    /// Gives a LiveKit worker no more jobs; it finishes those that it has.
    drain, "/v1/agents/{agent}/workers/{worker}/drain", SteerWorker::Drain
}
steer! {
    /// Takes an operator's drain back. Its own drain, and that by its membership, stay.
    undrain, "/v1/agents/{agent}/workers/{worker}/undrain", SteerWorker::Undrain
}
steer! {
    /// Drains a LiveKit worker and closes its connection. Its jobs go on: it claims them when it
    /// comes back, and takes no new ones then.
    kick, "/v1/agents/{agent}/workers/{worker}/kick", SteerWorker::Kick
}

impl Api {
    /// Every worker by its id, and who did not answer.
    async fn workers(
        &self,
        agent: &AgentName,
    ) -> Result<(Vec<WorkerEntry>, Vec<GatewayId>), Reject> {
        let view = self.agent(agent.clone()).await?;
        let fleet = self.link.list_workers(agent).await;
        let mut unknown = fleet.silent.clone();
        // One that counts and is not even connected.
        let known = self.status().await?.gateways.into_iter();
        let known = known.map(|known| known.gateway);
        unknown.extend(known.filter(|is| !fleet.answered.contains(is)));
        unknown.sort();
        unknown.dedup();
        let now = clock::now();
        let heard = self.heartbeats.of(agent, now).into_iter();
        let heard = heard.map(|((_, worker, instance), beat)| HeardView {
            worker,
            instance,
            release: beat.release,
            active: beat.active,
            overdue: beat.overdue,
            draining: beat.draining,
            at: beat.at,
        });
        Ok((merged(&view, fleet, heard), unknown))
    }

    async fn worker(&self, agent: &AgentName, worker: &str) -> Result<WorkerEntry, Reject> {
        let (workers, unknown) = self.workers(agent).await?;
        let found = workers.into_iter().find(|is| is.worker.as_str() == worker);
        found.ok_or_else(|| unknown_worker(agent, worker, &unknown))
    }

    /// It is written down who asks before the worker's dispatcher hears of it.
    async fn steer_worker(
        &self,
        (name, worker): (&str, &str),
        verb: &'static str,
        what: SteerWorker,
        steer: Steer<'_>,
    ) -> Answer<SteeredView> {
        let agent = agent_name(name)?;
        let entry = self.worker(&agent, worker).await?;
        let (WorkerKind::Livekit, Some(release)) = (entry.kind, entry.release_id) else {
            return Err(not_alone(&entry, verb));
        };
        let worker = entry.worker;
        let notice = Box::new(Notice::WorkerSteered {
            worker: worker.clone(),
            release,
            what,
            reason: steer.reason().map(str::to_owned),
            at: clock::now(),
        });
        let wanted = Wanted::Event(Event::Notice(notice));
        let _ = steer.ask(name, verb, wanted, None).await?;
        let fleet = self.link.steer_worker(&agent, &worker, what).await;
        if fleet.workers.is_empty() && (!fleet.silent.is_empty() || fleet.answered.is_empty()) {
            // It is written down, and nobody is left who could have done it.
            let who = match &fleet.silent[..] {
                [] => "its dispatcher".to_owned(),
                silent => names(silent),
            };
            let title = format!("{who} did not answer whether {worker} heard of it");
            return Err(Reject::unavailable("unanswered", title));
        }
        let view = self.agent(agent.clone()).await?;
        let mut steered = merged(&view, fleet, std::iter::empty()).into_iter();
        steered
            .find(|is| is.worker == worker && is.kind == WorkerKind::Livekit)
            .map(|worker| Json(SteeredView { worker }))
            .ok_or_else(|| unknown_worker(&agent, worker.as_str(), &[]))
    }
}

/// One list of what the platform, the dispatchers and the workers themselves say.
fn merged(
    view: &AgentView,
    fleet: Fleet,
    heard: impl Iterator<Item = HeardView>,
) -> Vec<WorkerEntry> {
    let mut workers: BTreeMap<WorkerId, WorkerEntry> = BTreeMap::new();
    for release in &view.releases {
        for process in &release.workers {
            let entry = WorkerEntry {
                worker: process.id.clone(),
                kind: WorkerKind::Process,
                release: Some(release.label.clone()),
                release_id: Some(release.id),
                state: process.state.clone(),
                calls: process.calls,
                process: Some(process.clone()),
                connection: None,
                heard: Vec::new(),
            };
            workers.insert(entry.worker.clone(), entry);
        }
    }
    for (gateway, worker) in fleet.workers {
        let entry = connected(view, gateway, worker);
        workers.insert(entry.worker.clone(), entry);
    }
    for beat in heard {
        let entry = workers.entry(beat.worker.clone()).or_insert_with(|| {
            let release = release_of(view, &beat.worker, beat.release.as_ref());
            WorkerEntry {
                worker: beat.worker.clone(),
                kind: WorkerKind::Reported,
                release: release.map(|is| is.label.clone()),
                release_id: release.map(|is| is.id),
                state: "ready".to_owned(),
                calls: 0,
                process: None,
                connection: None,
                heard: Vec::new(),
            }
        });
        if entry.kind == WorkerKind::Reported {
            entry.calls = entry.calls.saturating_add(beat.active);
            let drains = beat.draining || entry.state == "draining";
            state(drains, entry.calls).clone_into(&mut entry.state);
        }
        entry.heard.push(beat);
    }
    workers.into_values().collect()
}

fn state(drains: bool, calls: u32) -> &'static str {
    match calls {
        _ if drains => "draining",
        0 => "ready",
        _ => "allocated",
    }
}

fn connected(view: &AgentView, gateway: GatewayId, worker: ConnectedWorker) -> WorkerEntry {
    let calls = u32::try_from(worker.jobs.len()).unwrap_or(u32::MAX);
    let label = view.releases.iter().find(|is| is.id == worker.release);
    let state = state_of(&worker);
    WorkerEntry {
        worker: worker.worker,
        kind: WorkerKind::Livekit,
        release: label.map(|is| is.label.clone()),
        release_id: Some(worker.release),
        state: state.to_owned(),
        calls,
        process: None,
        connection: Some(ConnectionView {
            gateway,
            since: worker.since,
            drained_by: worker.drain.map(|by| drained_by(by).to_owned()),
            available: worker.available,
            load: worker.load,
            library: worker.library,
            from: worker.from,
            jobs: worker.jobs,
        }),
        heard: Vec::new(),
    }
}

fn drained_by(by: DrainedBy) -> &'static str {
    match by {
        DrainedBy::Worker => "worker",
        DrainedBy::Operator => "operator",
        DrainedBy::Membership => "membership",
    }
}

fn names(gateways: &[GatewayId]) -> String {
    let names: Vec<&str> = gateways.iter().map(GatewayId::as_str).collect();
    names.join(", ")
}

fn unknown_worker(agent: &AgentName, worker: &str, unknown: &[GatewayId]) -> Reject {
    let hint = match unknown {
        [] => {
            "see which there are with `segue workers`; a LiveKit worker has another id with each \
               connection"
                .to_owned()
        }
        _ => format!("it may be connected to {}: no answer came", names(unknown)),
    };
    Reject::not_found(format!("{agent} has no worker {worker}"), hint)
}

/// Why only a worker that is connected can be steered alone.
fn not_alone(entry: &WorkerEntry, verb: &str) -> Reject {
    let worker = &entry.worker;
    let (title, hint) = match entry.kind {
        WorkerKind::Process => (
            format!("{worker} is run by Segue, which cannot {verb} one process alone"),
            "a release drains as a whole: `segue rollback`, `segue drain`, or deploy the next one; \
             if it is a LiveKit worker, name it by the id of its connection (kind livekit)",
        ),
        WorkerKind::Livekit | WorkerKind::Reported => (
            format!("{worker} only says how it is; nobody here gives it calls that could {verb}"),
            "drain it where it runs: SIGTERM, or `begin_drain()` of the SDK",
        ),
    };
    Reject::new(StatusCode::CONFLICT, "not-alone", title, hint)
}
