//! One request, one decision.
//!
//! The choice between releases is a hash of (agent, rollout salt, key), so every gateway decides
//! alike with no coordination, and half-open, so a ramp only adds callers and 0 means none.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::names::{AgentName, CallId, ReleaseId, WorkerId};
use crate::spec::{OnRollback, RuleWhen};
use crate::table::{RoutingTable, WorkerRoute};

/// Past this many workers of a release, two are drawn by hash and the better one is taken, so
/// that a choice does not cost a walk over all of them.
pub const WALK_WORKERS_MAX: usize = 64;

/// What is known of a call when it is decided.
#[derive(Debug, Clone)]
pub struct CallFacts<'a> {
    /// Its id.
    pub call: &'a CallId,
    /// Callers with the same cohort key go the same way; else the call id is the key.
    pub cohort: Option<&'a str>,
    /// Who calls.
    pub caller: Option<&'a str>,
    /// For whom.
    pub tenant: Option<&'a str>,
    /// Headers, by lower-case name.
    pub headers: &'a [(String, String)],
    /// Its pin, if it has one that has not run out.
    pub pin: Option<Pin>,
    /// Whether a connection of it stands or is being made, where its pin says.
    pub connected: bool,
    /// The release that a permitted version override names.
    pub version_override: Option<&'a str>,
}

/// The fact "this call belongs to release R, last on worker W".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its release.
    pub release: ReleaseId,
    /// The worker that has or had it.
    pub worker: WorkerId,
}

/// Where a call goes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Its release.
    pub release: ReleaseId,
    /// Why.
    pub reason: Reason,
}

/// Why a call went to its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It is pinned there.
    Pin,
    /// A permitted override names it.
    Override,
    /// A targeting rule names it.
    Rule,
    /// The hash fell into its share.
    Split,
}

impl Reason {
    /// One word for logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pin => "pin",
            Self::Override => "override",
            Self::Rule => "rule",
            Self::Split => "split",
        }
    }
}

/// Why a call is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No release takes new calls.
    #[error("no release of this agent takes calls")]
    NothingServes,
    /// The override names no release.
    #[error("the version override names no release of this agent")]
    UnknownOverride,
    /// The release has no worker that is up.
    #[error("no worker of the release is up")]
    NoWorker,
    /// No worker of the release may take new calls, by its membership.
    #[error("every worker of the release is barred by its membership")]
    Barred,
    /// Every worker holds as many calls as it may.
    #[error("every worker of the release is full")]
    Full,
}

/// Decides where a call goes. The order: its pin, a permitted override, the rules, the split.
///
/// A pin holds as long as one worker of its release is up, unless the agent moves reconnects and
/// the release was rolled back, or the release was handed off and the call has no connection left:
/// a further connection of a call goes where the call is.
///
/// # Errors
///
/// A [`Refusal`] when nothing can take it.
pub fn route(table: &RoutingTable, facts: &CallFacts<'_>) -> Result<Decision, Refusal> {
    let has_worker = |release| {
        let mut workers = table.workers.values();
        workers.any(|worker| worker.release == release)
    };
    route_among(table, facts, &has_worker)
}

/// As [`route`], where others than the table know which releases have workers.
///
/// # Errors
///
/// A [`Refusal`] when nothing can take it.
pub fn route_among(
    table: &RoutingTable,
    facts: &CallFacts<'_>,
    has_worker: &dyn Fn(ReleaseId) -> bool,
) -> Result<Decision, Refusal> {
    if let Some(pin) = &facts.pin
        && pin_holds(table, pin, facts.connected)
        && has_worker(pin.release)
    {
        return Ok(Decision {
            release: pin.release,
            reason: Reason::Pin,
        });
    }
    if let Some(name) = facts.version_override {
        let release = table.find_release(name).ok_or(Refusal::UnknownOverride)?;
        return Ok(Decision {
            release,
            reason: Reason::Override,
        });
    }
    if let Some(release) = targeted(table, facts) {
        return Ok(Decision {
            release,
            reason: Reason::Rule,
        });
    }
    let point = point(&table.agent, &table.salt, key(facts));
    let release = table.split.at(point).ok_or(Refusal::NothingServes)?;
    Ok(Decision {
        release,
        reason: Reason::Split,
    })
}

fn pin_holds(table: &RoutingTable, pin: &Pin, connected: bool) -> bool {
    let moved = table.on_rollback == OnRollback::Move && table.rolled_back.contains(&pin.release);
    let handed_off = table.handed_off.contains(&pin.release) && !connected;
    !moved && !handed_off
}

fn targeted(table: &RoutingTable, facts: &CallFacts<'_>) -> Option<ReleaseId> {
    let applies = |when: &RuleWhen| match when {
        RuleWhen::Header { name, equals } => facts
            .headers
            .iter()
            .any(|(header, value)| header == name && equals.as_ref().is_none_or(|v| v == value)),
        RuleWhen::Caller(list) => facts
            .caller
            .is_some_and(|caller| list.iter().any(|c| c == caller)),
        RuleWhen::Tenant(list) => facts
            .tenant
            .is_some_and(|tenant| list.iter().any(|t| t == tenant)),
        RuleWhen::List(list) => list.iter().any(|item| item == key(facts)),
    };
    table
        .ingress
        .rules
        .iter()
        .filter(|rule| applies(&rule.when))
        .find_map(|rule| {
            let release = table.find_release(&rule.release)?;
            table.releases[&release].takes_new_calls.then_some(release)
        })
}

fn key<'a>(facts: &CallFacts<'a>) -> &'a str {
    facts.cohort.unwrap_or_else(|| facts.call.as_str())
}

/// The hash point of a key, in `0..10_000`.
///
/// SHA-256 rather than a faster hash: callers choose their keys, and nobody should be able to
/// choose their release. The bias of the remainder is below 10⁻¹⁵.
pub fn point(agent: &AgentName, salt: &str, key: &str) -> u16 {
    let mut hash = Sha256::new();
    for part in [agent.as_str(), salt, key] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let head = u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
    u16::try_from(head % 10_000).expect("a remainder of 10 000 fits")
}

/// Chooses a worker of a release: the pinned one if it is up, else the one with the most room
/// (fewest live calls for its capacity; ties by id, so that the answer is always the same).
///
/// `live` answers the calls a worker holds; `up` whether it may be dialled (healthy, not ejected,
/// not tried already). A pinned worker is taken even when it is full: its call was there first. So is
/// one that is barred; and if every worker is, a call of the release's own, which is what a pin says,
/// goes to one of them all the same.
///
/// # Errors
///
/// [`Refusal::NoWorker`], [`Refusal::Barred`] or [`Refusal::Full`].
pub fn choose_worker(
    table: &RoutingTable,
    release: ReleaseId,
    pin: Option<&Pin>,
    live: impl Fn(&WorkerId) -> u32,
    up: impl Fn(&WorkerId) -> bool,
    key: &str,
) -> Result<WorkerId, Refusal> {
    let mut ours: Vec<(&WorkerId, &WorkerRoute)> = table
        .workers
        .iter()
        .filter(|(id, w)| w.release == release && up(id))
        .collect();
    if let Some(pin) = pin
        && ours.iter().any(|(id, _)| **id == pin.worker)
    {
        return Ok(pin.worker.clone());
    }
    if ours.is_empty() {
        return Err(Refusal::NoWorker);
    }
    if pin.is_none() || ours.iter().any(|(_, worker)| !worker.barred) {
        ours.retain(|(_, worker)| !worker.barred);
    }
    if ours.is_empty() {
        return Err(Refusal::Barred);
    }
    let drawn: Vec<&(&WorkerId, &WorkerRoute)> = if ours.len() > WALK_WORKERS_MAX {
        let draw = |salt: &str| usize::from(point(&table.agent, salt, key)) * ours.len() / 10_000;
        vec![&ours[draw("first")], &ours[draw("second")]]
    } else {
        ours.iter().collect()
    };
    let best = drawn
        .into_iter()
        .map(|(id, worker)| (live(id), *id, *worker))
        .min_by(|(a, a_id, aw), (b, b_id, bw)| {
            // Compare a/capacity with b/capacity without dividing.
            let (left, right) = (
                u64::from(*a) * u64::from(bw.capacity),
                u64::from(*b) * u64::from(aw.capacity),
            );
            left.cmp(&right).then_with(|| a_id.cmp(b_id))
        })
        .expect("at least one worker was drawn");
    if best.0 >= best.2.capacity {
        // Two drawn workers may both be full while others are not.
        return ours
            .iter()
            .find(|(id, worker)| live(id) < worker.capacity)
            .map(|(id, _)| (*id).clone())
            .ok_or(Refusal::Full);
    }
    Ok(best.1.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rollout::Agent;
    use crate::split::Split;

    fn table() -> (RoutingTable, ReleaseId, ReleaseId) {
        let (old, new) = (ReleaseId::of(b"old"), ReleaseId::of(b"new"));
        let worker = |id: &str, release| {
            let route = WorkerRoute {
                release,
                addr: ([127, 0, 0, 1], 1).into(),
                capacity: 1,
                health_path: None,
                barred: false,
            };
            (id.parse().expect("a good id"), route)
        };
        let table = RoutingTable {
            split: Split::all(new),
            workers: BTreeMap::from([worker("old-1", old), worker("new-1", new)]),
            ..Agent::new("desk".parse().expect("a good name")).table()
        };
        (table, old, new)
    }

    /// Where a call goes that is pinned to the old release.
    fn of_pinned(table: &RoutingTable, release: ReleaseId, connected: bool) -> Decision {
        let facts = CallFacts {
            call: &"a".parse().expect("a good id"),
            cohort: None,
            caller: None,
            tenant: None,
            headers: &[],
            pin: Some(Pin {
                release,
                worker: "old-1".parse().expect("a good id"),
            }),
            connected,
            version_override: None,
        };
        route(table, &facts).expect("somewhere")
    }

    #[test]
    fn a_barred_worker_gets_no_new_call_and_keeps_its_own() {
        let (mut table, old, _) = table();
        let second = table.workers[&"old-1".parse().unwrap()].clone();
        table.workers.insert("old-2".parse().unwrap(), second);
        let pin = |worker: &str| Pin {
            release: old,
            worker: worker.parse().unwrap(),
        };
        let choose = |table: &RoutingTable, pin: Option<Pin>, up: &[&str]| {
            let up = |id: &WorkerId| up.contains(&id.as_str());
            let chosen = choose_worker(table, old, pin.as_ref(), |_| 0, up, "a");
            chosen.map(|id| id.to_string())
        };
        let both = ["old-1", "old-2"];
        let bar = |table: &mut RoutingTable, id: &str| {
            table.workers.get_mut(&id.parse().unwrap()).unwrap().barred = true;
        };
        bar(&mut table, "old-1");
        assert_eq!(choose(&table, None, &both).unwrap(), "old-2");
        assert_eq!(
            choose(&table, Some(pin("old-1")), &both).unwrap(),
            "old-1",
            "its own call comes back"
        );
        assert_eq!(
            choose(&table, Some(pin("gone")), &both).unwrap(),
            "old-2",
            "the release's call goes to who is not barred"
        );
        bar(&mut table, "old-2");
        assert_eq!(choose(&table, None, &both), Err(Refusal::Barred));
        assert_eq!(choose(&table, None, &[]), Err(Refusal::NoWorker));
        assert_eq!(
            choose(&table, Some(pin("old-1")), &["old-2"]).unwrap(),
            "old-2",
            "a call of the release goes on at whoever is left of it"
        );
    }

    #[test]
    fn a_handed_off_release_keeps_its_connected_calls_and_no_others() {
        let (mut table, old, new) = table();
        for connected in [true, false] {
            assert_eq!(of_pinned(&table, old, connected).reason, Reason::Pin);
        }
        table.handed_off.insert(old);
        let stays = of_pinned(&table, old, true);
        assert_eq!((stays.release, stays.reason), (old, Reason::Pin));
        let moves = of_pinned(&table, old, false);
        assert_eq!((moves.release, moves.reason), (new, Reason::Split));
        // Of a release that is not handed off nothing changes.
        table.handed_off = [new].into();
        assert_eq!(of_pinned(&table, old, false).release, old);
    }
}
