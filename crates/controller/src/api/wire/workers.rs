//! What workers say: how they are, and how their calls went.

use segue_core::names::{CallId, Label, WorkerId};
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::schema;

/// Body of `PUT /v1/agents/{agent}/workers/{worker}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatBody {
    /// One process of the worker: a random id of its own.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", max_length = 64)]
    pub instance: String,
    /// The label of the release that it is of.
    #[serde(default)]
    #[schema(value_type = Option<schema::Label>)]
    pub release: Option<Label>,
    /// Calls that it has.
    #[schema(maximum = 100_000)]
    pub active: u32,
    /// Of these, calls past the ceiling of its own drain.
    #[serde(default)]
    #[schema(maximum = 100_000)]
    pub overdue: u32,
    /// Whether it refuses new calls.
    #[serde(default)]
    pub draining: bool,
}

/// Answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatView {
    /// The release that is meant, by the worker's name or else by its label; `null`: there is none.
    #[schema(value_type = Option<schema::Label>)]
    pub release: Option<Label>,
    /// Its state in one word.
    pub state: Option<String>,
    /// It gets no new calls any more. A call of its own may still come back to it.
    pub retiring: bool,
    /// It was rolled back from.
    pub rolled_back: bool,
    /// Seconds until the next heartbeat.
    pub every: u64,
    /// What the worker may do by the membership that it has registered with; `null`: Segue knows of
    /// no registration of it, or asks for none.
    #[serde(default)]
    pub membership: Option<MembershipView>,
}

/// Body of `POST /v1/agents/{agent}/workers/{worker}/membership`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MembershipBody {
    /// The worker token.
    #[schema(max_length = 4_096)]
    pub token: String,
    /// The proof that the token is its bearer's own: the answer to `nonce` of the refusal before.
    #[serde(default)]
    #[schema(max_length = 2_048)]
    pub proof: Option<String>,
}

/// What a worker may do, by its membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MembershipView {
    /// `serving`: it takes new calls; `draining`: it ends those that it has.
    pub state: MembershipState,
    /// Why it drains, in one word; `null` while it serves.
    pub why: Option<String>,
}

/// Whether a worker takes new calls, by its membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MembershipState {
    /// It takes new calls.
    Serving,
    /// It ends those that it has.
    Draining,
}

/// A process of a worker, as it last said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeardView {
    /// Which worker.
    #[schema(value_type = schema::WorkerId)]
    pub worker: WorkerId,
    /// Which of its processes.
    pub instance: String,
    /// The label of the release that it is of.
    #[schema(value_type = Option<schema::Label>)]
    pub release: Option<Label>,
    /// Calls that it has.
    pub active: u32,
    /// Of these, calls past the ceiling of its own drain.
    pub overdue: u32,
    /// Whether it refuses new calls.
    pub draining: bool,
    /// When it said so.
    #[schema(value_type = schema::Timestamp)]
    pub at: Timestamp,
}

/// Whether a call was what it should be, as its agent saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The caller got what they came for.
    Success,
    /// They did not, and it is our fault.
    Failure,
    /// They left before anybody could tell.
    Abandoned,
}

impl Verdict {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Body of `POST /v1/agents/{agent}/calls/{call}/outcome`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutcomeBody {
    /// The worker's own id of this report: sent again, it is the same.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", max_length = 64)]
    pub report: String,
    /// How it went.
    pub verdict: Verdict,
    /// Why, in a sentence without control characters.
    #[serde(default)]
    #[schema(max_length = 200, min_length = 1)]
    pub reason: Option<String>,
    /// What belongs to it: at most 8 KiB of JSON.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub data: Option<serde_json::Map<String, serde_json::Value>>,
    /// The label of the release that had the call.
    #[serde(default)]
    #[schema(value_type = Option<schema::Label>)]
    pub release: Option<Label>,
    /// The worker that had it.
    #[serde(default)]
    #[schema(value_type = Option<schema::WorkerId>)]
    pub worker: Option<WorkerId>,
}

/// A report that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutcomeView {
    /// The worker's own id of it.
    pub report: String,
    /// `success`, `failure` or `abandoned`.
    pub verdict: String,
    /// Why, in a sentence.
    pub reason: Option<String>,
    /// What belongs to it.
    #[schema(value_type = Object)]
    pub data: serde_json::Map<String, serde_json::Value>,
    /// The label of the release that had the call.
    #[schema(value_type = Option<schema::Label>)]
    pub release: Option<Label>,
    /// The worker that had it.
    #[schema(value_type = Option<schema::WorkerId>)]
    pub worker: Option<WorkerId>,
    /// When it came.
    #[schema(value_type = schema::Timestamp)]
    pub at: Timestamp,
}

/// `GET /v1/agents/{agent}/calls/{call}/outcome`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OutcomesView {
    /// Which call.
    #[schema(value_type = schema::CallId)]
    pub call: CallId,
    /// Oldest first: one for each time that it was on a line.
    pub outcomes: Vec<OutcomeView>,
}
