//! What a run reached: a simulator that never gets somewhere proves nothing about it.

use std::collections::{BTreeMap, BTreeSet};

use segue_core::rollout::FACT_NAMES;

/// Counts by kind and name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Coverage(BTreeMap<(&'static str, String), u64>);

impl Coverage {
    pub(crate) fn hit(&mut self, kind: &'static str, name: impl Into<String>) {
        *self.0.entry((kind, name.into())).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (key, count) in &other.0 {
            *self.0.entry(key.clone()).or_default() += count;
        }
    }

    pub(crate) fn count(&self, kind: &'static str, name: &str) -> u64 {
        self.0.get(&(kind, name.to_owned())).copied().unwrap_or(0)
    }

    /// What had to be reached and was not.
    pub(crate) fn missing(&self) -> Vec<String> {
        required()
            .into_iter()
            .filter(|(kind, name)| self.count(kind, name) == 0)
            .map(|(kind, name)| format!("{kind}: {name}"))
            .collect()
    }

    pub(crate) fn table(&self) -> String {
        let line = |((kind, name), count): (&(&str, String), &u64)| {
            format!("{count:>10}  {kind:<8} {name}\n")
        };
        self.0.iter().map(line).collect()
    }
}

const PHASES: [&str; 12] = [
    "none",
    "provisioning",
    "verifying",
    "canary",
    "promoting",
    "draining",
    "settling",
    "standby",
    "complete",
    "rolling back",
    "rolled back",
    "failed",
];

const EVENTS: [&str; 22] = [
    "configured",
    "deploy",
    "worker_ready",
    "worker_gone",
    "worker_stands",
    "gateway_joined",
    "smoke_finished",
    "gate_finished",
    "contract_finished",
    "approve",
    "contract",
    "end_calls",
    "pause",
    "resume",
    "promote",
    "abort",
    "rollback",
    "drain",
    "retire",
    "forget_gateway",
    "notice",
    "tick",
];

/// Before the first deploy no worker was ever started, no smoke call made and nobody asked. And a
/// contract runs when nothing older lives, so that its end in the short phases with two releases is
/// met by few seeds in a thousand.
const NEVER: [(&str, &str); 10] = [
    ("none", "worker_ready"),
    ("none", "worker_gone"),
    ("none", "worker_stands"),
    ("none", "smoke_finished"),
    ("none", "gate_finished"),
    ("none", "contract_finished"),
    ("promoting", "contract_finished"),
    ("settling", "contract_finished"),
    ("standby", "contract_finished"),
    ("rolling back", "contract_finished"),
];

const FAULTS: [&str; 22] = [
    "crash at append",
    "crash at apply",
    "crash at publish",
    "crash at effects",
    "crash in recovery",
    "freeze at append",
    "freeze at apply",
    "freeze at publish",
    "freeze at effects",
    "zombie wakes",
    "zombie fenced by the journal",
    "zombie fenced by the platform",
    "store unwritable",
    "store answer lost",
    "message lost",
    "message repeated",
    "message late",
    "partition",
    "slow gateway",
    "gateway killed",
    "worker killed",
    "live gateway forgotten",
];

const REFUSALS: [&str; 28] = [
    "Conflict",
    "Busy",
    "AlreadyCurrent",
    "BeingRetired",
    "TooManyTails",
    "NotNow",
    "AlreadyPaused",
    "NotPaused",
    "Unproven",
    "Unapproved",
    "NoApproval",
    "OtherRelease",
    "ContractRuns",
    "NoContract",
    "ContractDone",
    "OlderReleaseLives",
    "Baking",
    "NotEnding",
    "NoWorkers",
    "NoRoom",
    "NothingBefore",
    "NotCurrent",
    "UnknownGateway",
    "GatewayAlive",
    "NotListenedYet",
    "NotDrained",
    "StillHolds",
    "Settling",
];

const CALLS: [&str; 9] = [
    "split",
    "rule",
    "override",
    "pin",
    "webhook pin",
    "refused",
    "moved on reconnect",
    "lost with worker",
    "lost with gateway",
];

/// What gates, bake windows, migrations, policies and permits came to.
const WAYS: [&str; 15] = [
    "approved",
    "webhook agreed",
    "hook before deploy",
    "contract started",
    "fast track",
    "baked",
    "bake rolls back",
    "baked smoke rolls back",
    "announced",
    "handed off",
    "ended by policy",
    "the word to end came late",
    "moved by a hand-off",
    "permit granted",
    "permit refused",
];

fn required() -> BTreeSet<(&'static str, String)> {
    let mut all = BTreeSet::new();
    for phase in PHASES {
        for event in EVENTS {
            if !NEVER.contains(&(phase, event)) {
                all.insert(("event", format!("{phase} x {event}")));
            }
        }
    }
    let lists: [(&'static str, &[&str]); 5] = [
        ("fact", &FACT_NAMES),
        ("way", &WAYS),
        ("fault", &FAULTS),
        ("refusal", &REFUSALS),
        ("call", &CALLS),
    ];
    for (kind, names) in lists {
        all.extend(names.iter().map(|name| (kind, (*name).to_owned())));
    }
    all
}
