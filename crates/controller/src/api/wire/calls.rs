//! Calls: those in progress, their state, and permits of outbound ones.

use segue_core::link::CallInfo;
use segue_core::names::{CallId, GatewayId, ReleaseId, WorkerId};
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::schema;

/// `GET /v1/agents/{agent}/calls?limit=N`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CallsView {
    /// Oldest first.
    #[schema(value_type = Vec<schema::CallInfo>)]
    pub calls: Vec<CallInfo>,
    /// Gateways that did not answer.
    #[schema(value_type = Vec<schema::GatewayId>)]
    pub unknown: Vec<GatewayId>,
    /// Ask for what follows with `after` set to this; `null`: that was all.
    #[serde(default)]
    pub next: Option<String>,
}

/// The state of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CallStateView {
    /// Which call.
    #[schema(value_type = schema::CallId)]
    pub call: CallId,
    /// Grows with every write; the `ETag` is this in quotes.
    pub version: u64,
    /// What the agent wrote.
    #[schema(value_type = Object)]
    pub state: serde_json::Map<String, serde_json::Value>,
    /// When it is forgotten unless it is written again.
    #[schema(value_type = schema::Timestamp)]
    pub expires_at: Timestamp,
}

/// Body of `POST /v1/agents/{agent}/permits`: one of worker and release.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PermitBody {
    /// The worker that dials.
    #[serde(default)]
    #[schema(value_type = Option<schema::WorkerId>)]
    pub worker: Option<WorkerId>,
    /// The release that dials, by label or digest.
    #[serde(default)]
    #[schema(value_type = Option<schema::ReleaseName>)]
    pub release: Option<String>,
    /// The call's id, if the worker has one.
    #[serde(default)]
    #[schema(value_type = Option<schema::CallId>)]
    pub call: Option<CallId>,
    /// Seconds until it is overdue, or, without a worker, ends by itself; default 4 hours, at most
    /// 24.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400)]
    pub ttl: Option<u64>,
}

/// Body of `PUT /v1/agents/{agent}/permits/{permit}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewBody {
    /// Seconds from now until it is overdue, or, without a worker, ends by itself; default 4 hours,
    /// at most 24.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400)]
    pub ttl: Option<u64>,
}

/// Leave to make one outbound call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PermitView {
    /// Its id.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub permit: String,
    /// The call's id: the worker's, or one that was made up.
    pub call: String,
    /// The release that dials.
    pub release: String,
    /// Its identity.
    #[schema(value_type = schema::ReleaseId)]
    pub release_id: ReleaseId,
    /// Who asked for it: the name of the token.
    pub holder: String,
    /// The worker that dials, if it was named: until its process is gone the permit counts.
    #[serde(default)]
    #[schema(value_type = Option<schema::WorkerId>)]
    pub worker: Option<WorkerId>,
    /// When it was given.
    #[schema(value_type = schema::Timestamp)]
    pub granted_at: Timestamp,
    /// Its time is over, and it counts all the same: nobody can tell whether its call is.
    #[serde(default)]
    pub overdue: bool,
    /// When it is overdue, or, without a worker, ends by itself.
    #[schema(value_type = schema::Timestamp)]
    pub expires_at: Timestamp,
}

/// Answer to `GET /v1/agents/{agent}/permits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PermitsView {
    /// Oldest first.
    pub permits: Vec<PermitView>,
    /// Ask for what follows with `after` set to this; `null`: that was all.
    pub next: Option<String>,
}
