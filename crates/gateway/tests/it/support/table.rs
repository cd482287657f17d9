//! Routing tables for tests: agent `desk`, releases `v1` and `v2`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use segue_core::names::{AgentName, ReleaseId, hex};
use segue_core::spec::{Ingress, OnRollback};
use segue_core::split::Split;
use segue_core::table::{Epoch, ReleaseRoute, RoutingTable, WorkerRoute};
use segue_core::time::Millis;
use sha2::{Digest as _, Sha256};

/// The token that permits overrides.
pub(crate) const TOKEN: &str = "smoke-token";

pub(crate) fn desk() -> AgentName {
    "desk".parse().unwrap()
}

pub(crate) fn release(label: &str) -> ReleaseId {
    ReleaseId::of(label.as_bytes())
}

/// All new calls to `serving`; `workers` are (id, label of its release, address).
pub(crate) fn table(
    epoch: u64,
    serving: &str,
    workers: &[(&str, &str, SocketAddr)],
) -> RoutingTable {
    let route = |label: &str| ReleaseRoute {
        label: label.parse().unwrap(),
        takes_new_calls: label == serving,
        retiring: false,
    };
    let worker = |(id, label, addr): &(&str, &str, SocketAddr)| {
        let route = WorkerRoute {
            release: release(label),
            addr: *addr,
            capacity: 10_000,
            health_path: None,
            barred: false,
        };
        (id.parse().unwrap(), route)
    };
    RoutingTable {
        agent: desk(),
        epoch: Epoch(epoch),
        salt: "salt".to_owned(),
        split: Split::all(release(serving)),
        releases: ["v1", "v2"].map(|v| (release(v), route(v))).into(),
        workers: workers.iter().map(worker).collect::<BTreeMap<_, _>>(),
        ingress: Ingress::default(),
        stickiness: Millis::from_secs(300),
        on_rollback: OnRollback::Stay,
        rolled_back: BTreeSet::new(),
        handed_off: BTreeSet::new(),
        rescue: None,
        override_digest: Some(hex(&Sha256::digest(TOKEN))),
    }
}
