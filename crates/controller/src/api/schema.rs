//! What the types of core look like in the API's description. Core knows nothing of it: these stand
//! in for them there, with the bounds that core checks.

#![expect(dead_code, reason = "these are read by a macro and never made")]

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The deployable thing, for example `receptionist`.
#[derive(Serialize, ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$", max_length = 64)]
pub(super) struct AgentName(String);

/// What people call a release, for example `v2.1.0`.
#[derive(Serialize, ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$", max_length = 64)]
pub(super) struct Label(String);

/// A label that does not look like a digest.
#[derive(Serialize, ToSchema)]
#[schema(
    pattern = "^(?![0-9A-Fa-f]{12,}$)[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$",
    max_length = 64
)]
pub(super) struct NewLabel(String);

/// A release by its label or its digest, whole or its first 12 digits.
#[derive(Serialize, ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$", max_length = 64)]
pub(super) struct ReleaseName(String);

/// One running instance of an agent.
#[derive(Serialize, ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$", max_length = 64)]
pub(super) struct WorkerId(String);

/// One gateway process.
#[derive(Serialize, ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$", max_length = 64)]
pub(super) struct GatewayId(String);

/// One conversation.
#[derive(Serialize, ToSchema)]
#[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$", max_length = 128)]
pub(super) struct CallId(String);

/// Identity of a release: SHA-256 over everything it is made of.
#[derive(Serialize, ToSchema)]
#[schema(pattern = "^[0-9a-f]{64}$", min_length = 64, max_length = 64)]
pub(super) struct ReleaseId(String);

/// Milliseconds since 1970, UTC.
#[derive(Serialize, ToSchema)]
#[schema(minimum = 0)]
pub(super) struct Timestamp(u64);

/// The number of a routing table; it only grows.
#[derive(Serialize, ToSchema)]
#[schema(minimum = 0)]
pub(super) struct Epoch(u64);

/// The two places of a rollout.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Slot {
    /// One of the two.
    Blue,
    /// The other.
    Green,
}

/// One step of the ramp. It ends when all of its conditions hold.
#[derive(Serialize, ToSchema)]
pub(super) struct Step {
    /// Share of new calls for the incoming release, in basis points.
    #[schema(maximum = 10_000)]
    share: u16,
    /// Calls of the incoming release that must have ended in this step.
    min_calls: u64,
    /// Milliseconds it must last.
    min_duration: u64,
    /// Whether to wait for an operator at its end.
    pause: bool,
}

/// One live or pinned call.
#[derive(Serialize, ToSchema)]
pub(super) struct CallInfo {
    /// The call.
    #[schema(inline)]
    call: CallId,
    /// Its agent.
    agent: AgentName,
    /// Its release.
    release: ReleaseId,
    /// Its worker.
    worker: WorkerId,
    /// Under which table it was decided.
    epoch: Epoch,
    /// When it was pinned.
    since: Timestamp,
    /// `pinned`, `dialling`, or `live`.
    state: String,
    /// Why it went there: `split`, `rule`, `override` or `pin`.
    reason: String,
    /// Bytes from the caller.
    bytes_in: u64,
    /// Bytes to the caller.
    bytes_out: u64,
}

/// One decision, as it was written down before it took effect. Secrets in it are shown as `***`,
/// and its digest is that of what was written.
#[derive(Serialize, ToSchema)]
pub(super) struct Entry {
    /// Counts up by one from 1.
    seq: u64,
    /// When it was decided.
    at: Timestamp,
    /// Whose rollout.
    agent: AgentName,
    /// Who decided: `operator:NAME`, or `segue` for the machine itself.
    actor: String,
    /// The fact, as journaled; its name is in `fact.fact`.
    #[schema(value_type = Object)]
    fact: Value,
    /// What was known at that moment.
    inputs: Value,
    /// Digest of the entry before.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    prev: String,
    /// Digest of this entry.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    hash: String,
}

/// A JSON object of the agent's own making.
#[derive(Serialize, ToSchema)]
#[schema(value_type = Object)]
pub(super) struct StateObject(Value);
