//! The routing table: the one document by which the controller steers the gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::names::{AgentName, Label, ReleaseId, WorkerId};
use crate::spec::{Ingress, OnRollback, Rescue};
use crate::split::Split;
use crate::time::Millis;

/// The number of a routing table. It only grows, and a gateway refuses a smaller one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The following epoch.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Everything a gateway needs to decide about the calls of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingTable {
    /// Whose calls.
    pub agent: AgentName,
    /// The number of this table.
    pub epoch: Epoch,
    /// Mixed into the routing hash; a new one for each rollout, so that the same callers are not
    /// always the first to try a release.
    pub salt: String,
    /// Shares of new calls.
    pub split: Split,
    /// Releases that may hold calls or be named by an override.
    pub releases: BTreeMap<ReleaseId, ReleaseRoute>,
    /// Workers that are up.
    pub workers: BTreeMap<WorkerId, WorkerRoute>,
    /// Which requests are this agent's and how to read them.
    pub ingress: Ingress,
    /// How long a pin outlives its call's last connection.
    pub stickiness: Millis,
    /// Whether a rollback moves reconnecting calls.
    pub on_rollback: OnRollback,
    /// Releases that were rolled back: with [`OnRollback::Move`] their calls reconnect elsewhere.
    pub rolled_back: BTreeSet<ReleaseId>,
    /// Draining releases past their ceiling under the policy `hand-off`: their calls reconnect
    /// elsewhere.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub handed_off: BTreeSet<ReleaseId>,
    /// How a call goes on whose worker dies; `None`: it ends with its worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue: Option<Rescue>,
    /// SHA-256 in hexadecimal of the token that permits a version override. `None`: no overrides.
    pub override_digest: Option<String>,
}

/// One release as a gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRoute {
    /// What people call it; targeting rules and overrides name it so, or by its digest.
    pub label: Label,
    /// Whether targeting rules may send new calls to it. Drained, draining and unproven releases
    /// say no; only an override reaches them.
    pub takes_new_calls: bool,
    /// Whether it winds down: whoever speaks to its workers is told so (`X-Segue-Retiring`).
    #[serde(default)]
    pub retiring: bool,
}

/// One worker as a gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRoute {
    /// Whose release it runs.
    pub release: ReleaseId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// How many calls it may hold.
    pub capacity: u32,
    /// Path of its health check; `None`: a TCP connect.
    pub health_path: Option<String>,
    /// Whether its membership keeps it from new calls. It keeps those that it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub barred: bool,
}

impl RoutingTable {
    /// Whether calls of a release may be ended on the word of table `decided`: this is that one or
    /// a later one, and by it the release winds down. One that was rolled back to does not.
    pub fn may_end(&self, release: ReleaseId, decided: Epoch) -> bool {
        let route = self.releases.get(&release);
        self.epoch >= decided && route.is_some_and(|route| route.retiring)
    }

    /// The release that `name` (a label, a digest or the first 12 digits of one) means. Where
    /// labels collide the one that takes new calls wins, because the label is for people.
    pub fn find_release(&self, name: &str) -> Option<ReleaseId> {
        let named = |(id, route): &(&ReleaseId, &ReleaseRoute)| {
            route.label.as_str() == name || id.short() == name || String::from(**id) == name
        };
        self.releases
            .iter()
            .filter(named)
            .max_by_key(|(_, route)| route.takes_new_calls)
            .map(|(id, _)| *id)
    }
}
