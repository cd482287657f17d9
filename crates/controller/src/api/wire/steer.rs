//! Steering: what is asked for, and what came of it.

use std::collections::BTreeMap;

use segue_core::names::{AgentName, GatewayId, Label};
use segue_core::table::Epoch;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AgentView, Part};
use crate::api::schema;

/// Body of `POST /v1/agents/{agent}/deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployBody {
    /// What people call the release.
    #[schema(value_type = schema::NewLabel)]
    pub label: String,
    /// Label or digest of the release that it differs from only in what is given here. Default:
    /// the current one when a part, a version or a variable is given and no command; else the
    /// agent's configuration.
    #[serde(default)]
    #[schema(value_type = Option<schema::ReleaseName>)]
    pub from: Option<String>,
    /// Program and arguments; default: the agent's `command`.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Added to the agent's `env`; `COMPONENT:NAME` is a variable of a component.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The prompt; default: the agent's `prompt`.
    #[serde(default)]
    pub prompt: Option<PartBody>,
    /// Name of the model, or a file on the controller's machine; default: the agent's `model`.
    #[serde(default)]
    pub model: Option<String>,
    /// The worker's own configuration; default: the agent's `config`.
    #[serde(default)]
    pub config: Option<PartBody>,
    /// Versions of components, by name; default: the agent's.
    #[serde(default)]
    pub component_versions: BTreeMap<String, String>,
    /// Whether the ramp and the approval are skipped if it served well before; default: the
    /// agent's `fast_track`.
    #[serde(default)]
    pub fast_track: Option<bool>,
    /// Default: the agent's `workers`.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub workers: Option<u32>,
    /// Default: the agent's `capacity`.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub capacity: Option<u32>,
    /// Who, why and on what revision.
    #[serde(flatten)]
    pub ask: Ask,
}

/// A prompt or a configuration, as text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PartBody {
    /// Name of the file without a path: its ending tells a worker what it is.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// What is in it, at most 256 KiB.
    #[schema(max_length = 262_144)]
    pub content: String,
}

/// Body of every other `POST /v1/agents/{agent}/{verb}`: `pause`, `resume`, `promote`, `abort`,
/// `rollback`, `drain`, `retire`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerbBody {
    /// `promote`: straight to the cutover.
    #[serde(default)]
    pub full: bool,
    /// `promote`: without gates and without a look at the room. Needs a reason.
    #[serde(default)]
    pub skip_gates: bool,
    /// `drain`, `retire`, `contract`: label or digest; default: the only one it can mean.
    /// `approve`: the one that was looked at; if another one comes in by now, it is a conflict.
    /// `rollback`: the one seen taking calls; if it does not any more, nothing is left to do.
    #[serde(default)]
    #[schema(value_type = Option<schema::ReleaseName>)]
    pub release: Option<String>,
    /// `rollback`: takes this part alone back, as a release of its own on the fast track.
    #[serde(default)]
    pub only: Option<Part>,
    /// `rollback` with `only`: what that release is called; default: `CURRENT-PART-of-BEFORE`.
    #[serde(default)]
    #[schema(value_type = Option<schema::NewLabel>)]
    pub label: Option<String>,
    /// Who, why and on what revision.
    #[serde(flatten)]
    pub ask: Ask,
}

/// Who asks, why, and on what they looked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Ask {
    /// Who; default `api`. Believed of the local token only: others are called by their name.
    #[serde(default)]
    #[schema(max_length = 64, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*$")]
    pub actor: Option<String>,
    /// Why.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 1_000,
        pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f][^\\x00-\\x1f\\x7f-\\x9f]*$"
    )]
    pub reason: Option<String>,
    /// The revision they looked at.
    #[serde(default)]
    pub revision: Option<u64>,
}

/// Answer to a mutation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActionView {
    /// The agent, after it.
    pub agent: AgentView,
    /// What was decided, by name; empty: nothing was left to do.
    pub facts: Vec<String>,
    /// For a cutover or a rollback: how it was acknowledged.
    pub ack: Option<AckView>,
    /// For a deploy: the release that it differs from in what was asked for only.
    #[serde(default)]
    #[schema(value_type = Option<schema::Label>)]
    pub made_from: Option<Label>,
}

/// How a cutover or a rollback was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AckView {
    /// What had to be acknowledged.
    #[schema(value_type = schema::Epoch)]
    pub epoch: Epoch,
    /// Milliseconds from the request to the last acknowledgment, or to giving up.
    pub waited_ms: u64,
    /// When that was, by the controller's clock.
    #[schema(value_type = schema::Timestamp)]
    pub at: Timestamp,
    /// Gateways that have not acknowledged. Empty: it is a fact.
    #[schema(value_type = Vec<schema::GatewayId>)]
    pub unacked: Vec<GatewayId>,
}

/// Answer to `POST /v1/gateways/{gateway}/forget`, whose body is an [`Ask`] with a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForgetView {
    /// Which gateway.
    #[schema(value_type = schema::GatewayId)]
    pub gateway: GatewayId,
    /// The agents that do not wait for it any more.
    #[schema(value_type = Vec<schema::AgentName>)]
    pub agents: Vec<AgentName>,
}
