//! The workers of an agent, whoever runs them.

use std::net::IpAddr;

use segue_core::names::{CallId, GatewayId, Label, ReleaseId, WorkerId};
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{HeardView, WorkerView};
use crate::api::schema;

/// How Segue knows of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WorkerKind {
    /// Segue runs its process.
    Process,
    /// It is connected to the dispatcher, by the agent protocol of LiveKit.
    Livekit,
    /// It says how it is, and nothing else is known.
    Reported,
}

impl WorkerKind {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Livekit => "livekit",
            Self::Reported => "reported",
        }
    }
}

/// One worker. A LiveKit worker that Segue runs is in the list twice: as the process that Segue
/// knows, and under the id that it has as long as it is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerEntry {
    /// Its id.
    #[schema(value_type = schema::WorkerId)]
    pub worker: WorkerId,
    /// How Segue knows of it.
    pub kind: WorkerKind,
    /// The label of its release; `null`: it is not known.
    #[schema(value_type = Option<schema::Label>)]
    pub release: Option<Label>,
    /// That release.
    #[schema(value_type = Option<schema::ReleaseId>)]
    pub release_id: Option<ReleaseId>,
    /// `starting`, `ready`, `allocated` (it has calls), `backing-off` or `gone`; of LiveKit workers
    /// also `busy` (it asks for no more), `silent` (it failed to answer lately); `draining`.
    pub state: String,
    /// Calls or jobs that it has.
    pub calls: u32,
    /// Its process, if Segue runs it.
    #[serde(default)]
    pub process: Option<WorkerView>,
    /// Its connection, if it is a LiveKit worker.
    #[serde(default)]
    pub connection: Option<ConnectionView>,
    /// What its processes say of themselves.
    #[serde(default)]
    pub heard: Vec<HeardView>,
}

/// The connection of a LiveKit worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionView {
    /// The dispatcher.
    #[schema(value_type = schema::GatewayId)]
    pub gateway: GatewayId,
    /// Since when.
    #[schema(value_type = schema::Timestamp)]
    pub since: Timestamp,
    /// Who says that it takes no more jobs: `worker`, `operator` or `membership`; `null`: nobody.
    pub drained_by: Option<String>,
    /// Whether it would be given a job now.
    pub available: bool,
    /// What it says of its load, in thousandths.
    pub load: u32,
    /// The version of its library, as it says.
    pub library: String,
    /// Where it connected from.
    #[schema(value_type = Option<String>)]
    pub from: Option<IpAddr>,
    /// Its jobs.
    #[schema(value_type = Vec<schema::CallId>)]
    pub jobs: Vec<CallId>,
}

/// `GET /v1/agents/{agent}/workers?limit=N`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkersView {
    /// By id.
    pub workers: Vec<WorkerEntry>,
    /// Gateways and dispatchers that did not answer: workers that are connected to them are missing.
    #[serde(default)]
    #[schema(value_type = Vec<schema::GatewayId>)]
    pub unknown: Vec<GatewayId>,
    /// Ask for what follows with `after` set to this; `null`: that was all.
    #[serde(default)]
    pub next: Option<String>,
}

/// Answer to `POST /v1/agents/{agent}/workers/{worker}/{drain, undrain, kick}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SteeredView {
    /// The worker, as it is then. One that was kicked is shown as it was when its connection was
    /// closed.
    pub worker: WorkerEntry,
}
