//! What the admin API says, as its clients read it. Wire types stay at the edge: nothing here is
//! decided on, and nothing in core is shaped by it.

use std::collections::BTreeMap;

use segue_core::link::CallInfo;
use segue_core::names::{AgentName, GatewayId, Label, ReleaseId, WorkerId};
use segue_core::slot::Slot;
use segue_core::spec::Step;
use segue_core::table::Epoch;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Of this program.
    pub version: String,
    /// The time the answer was made, by the controller's clock.
    pub at: Timestamp,
    /// Every agent, by name.
    pub agents: Vec<AgentView>,
    /// Every known gateway.
    pub gateways: Vec<GatewayView>,
    /// The journal.
    pub journal: JournalView,
}

/// One gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayView {
    /// Its id.
    pub gateway: GatewayId,
    /// Whether it holds a lease: reported within the last three seconds.
    pub leased: bool,
    /// The epoch it acts by, per agent, as last reported.
    pub epochs: BTreeMap<AgentName, Epoch>,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentView {
    /// Its name.
    pub name: AgentName,
    /// Send it back with a decision; another one by then is a conflict.
    pub revision: u64,
    /// The number of the routing table.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutView {
    /// Its number.
    pub id: u64,
    /// What is brought in.
    pub incoming: Label,
    /// Its identity.
    pub incoming_id: ReleaseId,
    /// What was current when it began.
    pub outgoing: Option<Label>,
    /// Index of the ramp step it is in.
    pub step: Option<usize>,
    /// The ramp.
    pub steps: Vec<Step>,
    /// Whether it waits for an operator.
    pub paused: bool,
    /// Why it was rolled back or failed.
    pub reason: Option<String>,
    /// Known gateways that did not acknowledge the last cutover or rollback.
    pub unacked: Vec<GatewayId>,
    /// When it began.
    pub started: Timestamp,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseView {
    /// Its identity.
    pub id: ReleaseId,
    /// What people call it.
    pub label: Label,
    /// Its place; `None`: a tail, or retired.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its id.
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployBody {
    /// What people call the release.
    pub label: String,
    /// Program and arguments; default: the agent's `command`.
    #[serde(default)]
    pub command: Option<Vec<String>>,
    /// Added to the agent's `env`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Default: the agent's `workers`.
    #[serde(default)]
    pub workers: Option<u32>,
    /// Default: the agent's `capacity`.
    #[serde(default)]
    pub capacity: Option<u32>,
    /// Who, why and on what revision.
    #[serde(flatten)]
    pub ask: Ask,
}

/// Body of every other `POST /v1/agents/{agent}/{verb}`: `pause`, `resume`, `promote`, `abort`,
/// `rollback`, `drain`, `retire`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    pub release: Option<String>,
    /// Who, why and on what revision.
    #[serde(flatten)]
    pub ask: Ask,
}

/// Who asks, why, and on what they looked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ask {
    /// Who; default `api`.
    #[serde(default)]
    pub actor: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// The revision they looked at.
    #[serde(default)]
    pub revision: Option<u64>,
}

/// Answer to a mutation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionView {
    /// The agent, after it.
    pub agent: AgentView,
    /// What was decided, by name; empty: nothing was left to do.
    pub facts: Vec<String>,
    /// For a cutover or a rollback: how it was acknowledged.
    pub ack: Option<AckView>,
}

/// How a cutover or a rollback was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckView {
    /// What had to be acknowledged.
    pub epoch: Epoch,
    /// Milliseconds from the request to the last acknowledgment, or to giving up.
    pub waited_ms: u64,
    /// When that was, by the controller's clock.
    pub at: Timestamp,
    /// Gateways that have not acknowledged. Empty: it is a fact.
    pub unacked: Vec<GatewayId>,
}

/// Answer to `POST /v1/gateways/{gateway}/forget`, whose body is an [`Ask`] with a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetView {
    /// Which gateway.
    pub gateway: GatewayId,
    /// The agents that do not wait for it any more.
    pub agents: Vec<AgentName>,
}

/// `GET /v1/agents/{agent}/calls?limit=N`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallsView {
    /// Oldest first.
    pub calls: Vec<CallInfo>,
    /// Gateways that did not answer.
    pub unknown: Vec<GatewayId>,
}

/// `GET /v1/audit?after=SEQ&limit=N&agent=NAME`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditView {
    /// Oldest first.
    pub entries: Vec<segue_core::audit::Entry>,
}

/// `GET /v1/audit/verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `about:blank`, or a name of ours such as `conflict`, `busy`, `no-room`, `unproven`,
    /// `journal`, `not-found`, `unauthorized`, `forbidden`, `bad-request`, `not-now`, `internal`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, in one sentence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What to do about it.
    pub hint: Option<String>,
}
