//! What the admin API says, as its clients read it. Wire types stay at the edge: nothing here is
//! decided on, and nothing in core is shaped by it.

mod access;
mod calls;
mod fleet;
mod steer;
mod workers;

use std::collections::BTreeMap;

use segue_core::names::{AgentName, ComponentName, GatewayId, Label, ReleaseId, TokenId, WorkerId};
use segue_core::slot::Slot;
use segue_core::spec::Step;
use segue_core::table::Epoch;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;
pub use crate::make::Part;

pub use access::{
    NewTokenView, Role, TokenBody, TokenEvent, TokenEventsView, TokenView, TokensView,
};
pub use calls::{CallStateView, CallsView, PermitBody, PermitView, PermitsView, RenewBody};
pub use fleet::{ConnectionView, SteeredView, WorkerEntry, WorkerKind, WorkersView};
pub use steer::{AckView, ActionView, Ask, DeployBody, ForgetView, PartBody, VerbBody};
pub use workers::{
    HeardView, HeartbeatBody, HeartbeatView, MembershipBody, MembershipState, MembershipView,
    OutcomeBody, OutcomeView, OutcomesView, Verdict,
};

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// Of this program.
    pub version: String,
    /// The time the answer was made, by the controller's clock.
    #[schema(value_type = schema::Timestamp)]
    pub at: Timestamp,
    /// Every agent, by name.
    pub agents: Vec<AgentView>,
    /// Every known gateway.
    pub gateways: Vec<GatewayView>,
    /// The journal.
    pub journal: JournalView,
}

/// One gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GatewayView {
    /// Its id.
    #[schema(value_type = schema::GatewayId)]
    pub gateway: GatewayId,
    /// Whether it holds a lease: reported within the last three seconds.
    pub leased: bool,
    /// The epoch it acts by, per agent, as last reported.
    #[schema(value_type = BTreeMap<schema::AgentName, schema::Epoch>)]
    pub epochs: BTreeMap<AgentName, Epoch>,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalView {
    /// Entries written.
    pub entries: u64,
    /// Digest of the last one.
    pub head: String,
    /// Why it cannot be written, or must not be because a gateway knows of later decisions, and
    /// what to do. Calls go on; decisions wait.
    pub error: Option<String>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AgentView {
    /// Its name.
    #[schema(value_type = schema::AgentName)]
    pub name: AgentName,
    /// Send it back with a decision; another one by then is a conflict.
    pub revision: u64,
    /// The number of the routing table.
    #[schema(value_type = schema::Epoch)]
    pub epoch: Epoch,
    /// The phase of its rollout in one word; `none` before the first.
    pub phase: String,
    /// Why the rollout does not move on, and in any phase which gateways do not act by this epoch;
    /// in words.
    pub holds: Vec<String>,
    /// The last rollout.
    pub rollout: Option<RolloutView>,
    /// Its releases that are not retired, the current one first; then up to 5 retired ones.
    pub releases: Vec<ReleaseView>,
    /// Calls in progress.
    pub live: u64,
    /// Contract hooks: those that wait for older releases to be gone, run, or ran.
    #[serde(default)]
    pub contracts: Vec<ContractView>,
    /// Hooks that run, or have just ended.
    #[serde(default)]
    pub hooks: Vec<HookView>,
}

/// The contract half of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContractView {
    /// Whose.
    #[schema(value_type = schema::Label)]
    pub release: Label,
    /// Its identity.
    #[schema(value_type = schema::ReleaseId)]
    pub id: ReleaseId,
    /// `waiting`, `running`, `failed` or `done`.
    pub state: String,
    /// Why it failed, if it did.
    pub reason: Option<String>,
}

/// A run of a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HookView {
    /// `before_deploy` or `after_retire`.
    pub hook: String,
    /// Whose.
    #[schema(value_type = schema::Label)]
    pub release: Label,
    /// Counts up from 1.
    pub attempt: u32,
    /// `running`, `done` or `failed`.
    pub state: String,
    /// Its output.
    pub log: String,
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    /// Its number.
    pub id: u64,
    /// What is brought in.
    #[schema(value_type = schema::Label)]
    pub incoming: Label,
    /// Its identity.
    #[schema(value_type = schema::ReleaseId)]
    pub incoming_id: ReleaseId,
    /// What was current when it began.
    #[schema(value_type = Option<schema::Label>)]
    pub outgoing: Option<Label>,
    /// Index of the ramp step it is in.
    pub step: Option<usize>,
    /// The ramp.
    #[schema(value_type = Vec<schema::Step>)]
    pub steps: Vec<Step>,
    /// Whether it waits for an operator.
    pub paused: bool,
    /// Why it was rolled back or failed.
    pub reason: Option<String>,
    /// Known gateways that did not acknowledge the last cutover or rollback.
    #[schema(value_type = Vec<schema::GatewayId>)]
    pub unacked: Vec<GatewayId>,
    /// When it began.
    #[schema(value_type = schema::Timestamp)]
    pub started: Timestamp,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseView {
    /// Its identity.
    #[schema(value_type = schema::ReleaseId)]
    pub id: ReleaseId,
    /// What people call it.
    #[schema(value_type = schema::Label)]
    pub label: Label,
    /// Its place; `None`: a tail, or retired.
    #[schema(value_type = Option<schema::Slot>)]
    pub slot: Option<Slot>,
    /// Its state in one word.
    pub state: String,
    /// Its share of new calls, in basis points.
    pub share_bp: u16,
    /// Its share of the calls in progress, in basis points.
    pub live_share_bp: u16,
    /// Calls in progress, as last reported.
    pub live: u64,
    /// Pins without a connection, as last reported.
    pub pinned: u64,
    /// Gateways without a fresh report; if any, the counts are not to be relied on.
    #[schema(value_type = Vec<schema::GatewayId>)]
    pub unknown: Vec<GatewayId>,
    /// Workers that are up.
    pub workers_ready: u32,
    /// Workers it should have.
    pub workers_want: u32,
    /// Calls its workers may hold together.
    pub capacity: u64,
    /// New calls decided.
    pub started: u64,
    /// Calls ended.
    pub ended: u64,
    /// Calls dropped.
    pub dropped: u64,
    /// Calls that never got through.
    pub errors: u64,
    /// Calls lost with a gateway that died under them.
    #[serde(default)]
    pub lost: u64,
    /// Calls ended by the straggler policy.
    #[serde(default)]
    pub policy: u64,
    /// Times that a call went on at another worker because its own had died.
    #[serde(default)]
    pub rescued: u64,
    /// Ends by side and close code, as `worker:1000`.
    pub closes: BTreeMap<String, u64>,
    /// Its workers.
    pub workers: Vec<WorkerView>,
    /// Its components, by name. While one that was ready is not, its workers go on.
    #[serde(default)]
    pub components: Vec<ComponentView>,
}

/// A component of a release, as the platform sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComponentView {
    /// Its name.
    #[schema(value_type = schema::Label)]
    pub name: ComponentName,
    /// Its version, if it has one.
    pub version: Option<String>,
    /// `starting`, `ready`, `backing-off` or `gone`.
    pub state: String,
    /// Its process.
    pub pid: Option<u32>,
    /// Its port on loopback: the same for as long as its release has any process.
    pub port: u16,
    /// How often it was started again.
    pub restarts: u32,
    /// Its log file.
    pub log: String,
    /// Why it is not running, or what it waits for.
    #[serde(default)]
    pub why: Option<String>,
}

/// A worker, as the platform sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    /// Its id.
    #[schema(value_type = schema::WorkerId)]
    pub id: WorkerId,
    /// `starting`, `ready`, `allocated`, `backing-off` or `gone`.
    pub state: String,
    /// Calls in progress with it, as the gateways say.
    #[serde(default)]
    pub calls: u32,
    /// Its process.
    pub pid: Option<u32>,
    /// Its port on loopback.
    pub port: u16,
    /// How often it was started again.
    pub restarts: u32,
    /// Its log file.
    pub log: String,
    /// Why it is not running, if it is not; or that it runs copies of its files.
    #[serde(default)]
    pub why: Option<String>,
    /// Why it gets no new call by its membership, in one word; `null`: it may, or is not up yet.
    #[serde(default)]
    pub barred: Option<String>,
    /// The id of the token by which it has registered, for `segue membership revoke`; `null`: it has
    /// shown none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub token: Option<TokenId>,
}

/// `GET /v1/audit?after=SEQ&limit=N&agent=NAME`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditView {
    /// Oldest first.
    #[schema(value_type = Vec<schema::Entry>)]
    pub entries: Vec<segue_core::audit::Entry>,
    /// Ask for what follows with `after` set to this; `null`: that was all, for now.
    #[serde(default)]
    pub next: Option<u64>,
}

/// `GET /v1/audit/verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerifyView {
    /// Whether the chain holds.
    pub ok: bool,
    /// Entries that do.
    pub entries: u64,
    /// Digest of the last good one.
    pub head: String,
    /// Where it breaks.
    pub error: Option<String>,
}

/// An error (RFC 9457), as `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `about:blank`, or a name of ours such as `conflict`, `busy`, `no-room`, `unproven`,
    /// `journal`, `not-found`, `unauthorized`, `forbidden`, `bad-request`, `not-now`, `internal`.
    /// All are in docs/reference/api.md.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, in one sentence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// Why a membership was refused, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the worker is to sign, together with its token (`reason` is `proof-missing`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
}

/// `GET /v1/agents/{agent}/releases/{release}`: a release with everything it is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReleaseDetail {
    /// How it is.
    pub view: ReleaseView,
    /// What it is made of. Values of variables that look like secrets are shown as `***`.
    #[schema(value_type = Object)]
    pub release: serde_json::Value,
}

/// Answer to `POST /v1/reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReloadView {
    /// Agents that are new, or whose settings are.
    #[schema(value_type = Vec<schema::AgentName>)]
    pub changed: Vec<AgentName>,
    /// Agents that are not in the file any more. They are kept: they may have calls.
    #[schema(value_type = Vec<schema::AgentName>)]
    pub removed: Vec<AgentName>,
    /// Tables that differ from what runs and are read at a start only.
    pub restart: Vec<String>,
    /// Whether the dispatcher's settings have changed since they were read last. It reads them at its
    /// own start, and may be killed for that: its jobs go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dispatcher: bool,
}

/// `GET /v1/agents/{agent}/diff?from=A&to=B`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiffView {
    /// The one.
    #[schema(value_type = schema::Label)]
    pub from: Label,
    /// Its identity.
    #[schema(value_type = schema::ReleaseId)]
    pub from_id: ReleaseId,
    /// The other.
    #[schema(value_type = schema::Label)]
    pub to: Label,
    /// Its identity.
    #[schema(value_type = schema::ReleaseId)]
    pub to_id: ReleaseId,
    /// What tells the other from the one; empty: nothing does.
    pub changes: Vec<ChangeView>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeView {
    /// Which field, as `env.GREETING` or `components.engine.command`.
    pub field: String,
    /// What it was; `null`: it was not there.
    pub before: Option<String>,
    /// What it is; `null`: it is not there any more.
    pub after: Option<String>,
    /// Whether the values are not shown.
    #[serde(default)]
    pub secret: bool,
}
