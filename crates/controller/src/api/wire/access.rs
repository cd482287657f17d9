//! Who may ask: roles and tokens.

use segue_core::names::AgentName;
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::schema;

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
    /// A process of one agent: the state of its calls and permits, and nothing else.
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
    /// Of which agent a worker is; every worker is of one, and nobody else.
    #[serde(default)]
    #[schema(value_type = Option<schema::AgentName>)]
    pub agent: Option<AgentName>,
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
    /// Of which agent a worker is.
    #[serde(default)]
    #[schema(value_type = Option<schema::AgentName>)]
    pub agent: Option<AgentName>,
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
