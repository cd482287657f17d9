//! What the admin API says, as its clients read it. Wire types stay at the edge: nothing here is
//! decided on, and nothing in core is shaped by it.

use std::collections::BTreeMap;

use segue_core::link::CallInfo;
use segue_core::names::{AgentName, CallId, GatewayId, Label, ReleaseId, WorkerId};
use segue_core::slot::Slot;
use segue_core::spec::Step;
use segue_core::table::Epoch;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

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
    /// Ends by side and close code, as `worker:1000`.
    pub closes: BTreeMap<String, u64>,
    /// Its workers.
    pub workers: Vec<WorkerView>,
}

/// A worker, as the platform sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    /// Its id.
    #[schema(value_type = schema::WorkerId)]
    pub id: WorkerId,
    /// `starting`, `ready`, `allocated`, `backing-off` or `gone`.
    pub state: String,
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
}

/// Body of `POST /v1/agents/{agent}/deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployBody {
    /// What people call the release.
    #[schema(value_type = schema::NewLabel)]
    pub label: String,
    /// Program and arguments; default: the agent's `command`.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Added to the agent's `env`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
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
    /// `drain`, `retire`: label or digest; default: the only one it can mean. `rollback`: the one
    /// seen taking calls; if it does not any more, nothing is left to do.
    #[serde(default)]
    #[schema(value_type = Option<schema::ReleaseName>)]
    pub release: Option<String>,
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
    #[schema(min_length = 1, max_length = 1_000, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f][^\\x00-\\x1f\\x7f-\\x9f]*$")]
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
}

/// What somebody may do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and steers rollouts. A rollback is always theirs.
    Operator,
    /// Reads and approves. Who steers a rollout is somebody else.
    Approver,
    /// Everything, tokens included.
    Admin,
    /// An agent's process: the state of calls, and nothing else.
    Worker,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [
        Self::Viewer,
        Self::Operator,
        Self::Approver,
        Self::Admin,
        Self::Worker,
    ];

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
            Self::Worker => "worker",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = Box<dyn std::error::Error + Send + Sync>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let role = Self::ALL.into_iter().find(|role| role.word() == text);
        role.ok_or_else(|| format!("there is no role {text:?}").into())
    }
}

/// Body of `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBody {
    /// Who will use it; decisions are written down under this name.
    #[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$", max_length = 64)]
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Seconds until it ends by itself; default 90 days, at most 366.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 31_622_400)]
    pub expires_in: Option<u64>,
}

/// Answer to `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewTokenView {
    /// The token itself, shown this once: only a digest of it is kept. `null` in an answer that is
    /// replayed for its idempotency key.
    pub token: Option<String>,
    /// What is known of it from now on.
    #[serde(flatten)]
    pub view: TokenView,
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Its public part.
    #[schema(pattern = "^[0-9a-f]{12}$")]
    pub id: String,
    /// Who uses it.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When it was made.
    #[schema(value_type = schema::Timestamp)]
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// When it ends by itself.
    #[schema(value_type = schema::Timestamp)]
    pub expires_at: Timestamp,
    /// When it was revoked.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, give or take a minute.
    #[schema(value_type = Option<schema::Timestamp>)]
    pub used_at: Option<Timestamp>,
}

/// `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokensView {
    /// Oldest first; those that are no good any more for 90 days.
    pub tokens: Vec<TokenView>,
    /// Ask for what follows with `after` set to this; `null`: that was all.
    pub next: Option<String>,
}

/// A token was made or revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenEvent {
    /// Counts up.
    pub seq: u64,
    /// When.
    #[schema(value_type = schema::Timestamp)]
    pub at: Timestamp,
    /// `created` or `revoked`.
    pub event: String,
    /// The token's public part.
    pub token: String,
    /// Who it is for.
    pub name: String,
    /// What it permits.
    pub role: Role,
    /// Who did it.
    pub actor: String,
}

/// `GET /v1/tokens/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenEventsView {
    /// Oldest first.
    pub events: Vec<TokenEvent>,
    /// Ask for what follows with `after` set to this; `null`: that was all, for now.
    pub next: Option<u64>,
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
