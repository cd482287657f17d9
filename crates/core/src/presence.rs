//! What a gateway reports, and what a controller knows from it.
//!
//! A report is an observation and never a decision, so it is not journaled: after a restart the
//! controller knows nothing until every gateway reports again. *Unknown* is never read as zero.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::names::{AgentName, GatewayId, ReleaseId, WorkerId};
use crate::table::Epoch;
use crate::time::Millis;

/// How long a report counts. A gateway reports at least four times in this time, so that one
/// late report is no loss of the lease.
pub const LEASE: Millis = Millis::from_secs(3);

/// How often a gateway reports when nothing changes.
pub const PRESENCE_EVERY: Millis = Millis(500);

/// One gateway's report about every agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Who reports.
    pub gateway: GatewayId,
    /// Which life of it; counters start at zero in each. A later life sorts after an earlier one
    /// as text (a `UUIDv7` does), so that a report that arrives late is known for what it is.
    pub incarnation: String,
    /// Reports of one incarnation count up.
    pub sequence: u64,
    /// Per agent.
    pub agents: BTreeMap<AgentName, AgentPresence>,
}

/// One gateway's report about one agent, taken under one lock together with the epoch, so that
/// no decision under an earlier epoch is missing from the counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AgentPresence {
    /// The table it decides by.
    pub epoch: Epoch,
    /// Counts per release.
    pub releases: BTreeMap<ReleaseId, ReleaseCounts>,
    /// Live calls per worker, override calls included.
    pub workers: BTreeMap<WorkerId, u32>,
}

/// Counts of one release on one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReleaseCounts {
    /// Calls in progress, from the accepted upgrade request on; override calls included.
    pub live: u64,
    /// Calls with no connection whose pin has not run out; webhook pins included.
    pub pinned: u64,
    /// Counters of this incarnation.
    #[serde(flatten)]
    pub totals: Totals,
}

/// Counters that only grow within an incarnation. Override calls are outside of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// New calls decided.
    pub started: u64,
    /// Calls that ended, in any way, after they were connected.
    pub ended: u64,
    /// Of those, the ones ended abnormally from the worker's side (no close frame, or 1001, 1006,
    /// 1011, 1012).
    pub dropped: u64,
    /// Calls that never got through, by the release's fault: no worker, a failed dial, no or no
    /// valid answer, or a status of 500 and more. What callers can bring about is not counted.
    pub errors: u64,
    /// Calls lost with a gateway that died under them. Their release is not to blame, so they are
    /// neither ended nor dropped.
    #[serde(default)]
    pub lost: u64,
    /// Calls ended by policy: by the straggler policy `end`. Neither ended nor dropped.
    #[serde(default)]
    pub policy: u64,
    /// Times that a call went on at another worker because its own had died. They are neither ended
    /// nor dropped, but count towards the limit on drops: a release whose workers die is no better
    /// for it that its callers do not notice.
    #[serde(default)]
    pub rescued: u64,
    /// Ends by side and close code, as `worker:1000` or `caller:none`.
    pub closes: BTreeMap<String, u64>,
}

impl Totals {
    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.ended += other.ended;
        self.dropped += other.dropped;
        self.errors += other.errors;
        self.lost += other.lost;
        self.policy += other.policy;
        self.rescued += other.rescued;
        for (code, count) in &other.closes {
            *self.closes.entry(code.clone()).or_default() += count;
        }
    }
}
