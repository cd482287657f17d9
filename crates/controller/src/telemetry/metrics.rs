//! The numbers of `/metrics`.
//!
//! Counts of calls are the gateways' own, over all of their lives that this controller has heard
//! of; when it restarts they begin again with what the gateways report, as counters may. What is
//! counted of decisions is counted from the journal, from its first entry on.
//!
//! Labels are the agent, the version (the label of a release) and, where a release *is* somewhere,
//! its track. A counter has no track: it would begin anew whenever its release moves on. No call,
//! caller or address is ever a label, and a retired release has no numbers any more, so there are
//! never more than there are releases.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segue_core::link::{CallInfo, CallOutcome, CallRecord};
use segue_core::names::{AgentName, Label, ReleaseId};
use segue_core::rollout::Fact;
use segue_core::route::Refusal;
use segue_core::time::Timestamp;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::fleet::{self, Listed, Notices};
use super::page::{Histogram, Labels, Page, labels};
use crate::api::wire::{AgentView, ReleaseView, StatusView};
use crate::follow::Follower;
use crate::link::Records;
use crate::notify::Tallies;

/// Seconds from the decision of a call to its 101: a worker on this machine takes milliseconds.
const SETUP_BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0];
/// Seconds from a rollback's decision to its acknowledgment. A second is what is promised.
const ROLLBACK_BOUNDS: [f64; 8] = [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 2.0];
/// Codes with which a worker drops a call; `none` is no close frame at all.
const DROPS: [&str; 5] = ["none", "1001", "1006", "1011", "1012"];
/// States of workers that are shown, also when no worker is in them.
const WORKER_STATES: [&str; 5] = ["starting", "ready", "allocated", "backing-off", "gone"];

/// Releases and verdicts that are counted between scrapes: workers name them, so they are bounded.
const OUTCOMES_MAX: usize = 1_000;

/// What is counted between scrapes.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    counted: Mutex<Counted>,
    notify: Tallies,
    spans_sent: AtomicU64,
    spans_lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Counted {
    setup: BTreeMap<(AgentName, ReleaseId), Histogram>,
    refused: BTreeMap<(AgentName, ReleaseId, &'static str), u64>,
    rollbacks: BTreeMap<(AgentName, &'static str), u64>,
    rolling_back: BTreeMap<AgentName, Timestamp>,
    rollback_seconds: BTreeMap<AgentName, Histogram>,
    requests: BTreeMap<(String, String, u16), u64>,
    outcomes: BTreeMap<(AgentName, Label, String), u64>,
    records_missed: u64,
    notices: Notices,
}

/// Counts what is decided.
pub(super) async fn follow(metrics: Arc<Metrics>, mut follower: Follower) {
    while let Some(entries) = follower.next().await {
        for entry in entries {
            let Ok(fact) = serde_json::from_value::<Fact>(entry.fact.clone()) else {
                continue;
            };
            let mut counted = metrics.lock();
            match fact {
                Fact::RollbackStarted { at, .. } => {
                    let trigger = if entry.actor == "segue" {
                        "segue"
                    } else {
                        "operator"
                    };
                    let key = (entry.agent.clone(), trigger);
                    *counted.rollbacks.entry(key).or_default() += 1;
                    counted.rolling_back.insert(entry.agent, at);
                }
                Fact::RolledBack { at, .. } => {
                    if let Some(since) = counted.rolling_back.remove(&entry.agent) {
                        let histogram = counted.rollback_seconds.entry(entry.agent);
                        let value = seconds(at.since(since).0);
                        histogram.or_default().observe(&ROLLBACK_BOUNDS, value);
                    }
                }
                Fact::Notice(notice) => counted.notices.count(entry.agent, &notice),
                _ => {}
            }
        }
    }
}

/// Counts what becomes of calls, as far as the gateways' totals do not say it.
pub(super) async fn listen(metrics: Arc<Metrics>, mut records: broadcast::Receiver<Records>) {
    loop {
        match records.recv().await {
            Ok(records) => records.calls.iter().for_each(|call| metrics.ended(call)),
            Err(RecvError::Lagged(missed)) => metrics.lock().records_missed += missed,
            Err(RecvError::Closed) => return,
        }
    }
}

impl Metrics {
    pub(crate) fn new(notify: Tallies) -> Self {
        Self {
            notify,
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, call: &CallRecord) {
        // Calls of ours, as smoke calls are, are nobody's experience.
        if call.reason == "override" {
            return;
        }
        let mut counted = self.lock();
        let (agent, release) = (call.agent.clone(), call.release);
        if let Some(ms) = call.setup_ms {
            let histogram = counted.setup.entry((agent.clone(), release)).or_default();
            histogram.observe(&SETUP_BOUNDS, seconds(ms));
        }
        if call.outcome == CallOutcome::Failed && call.worker.is_none() {
            let reason = if call.cause == Refusal::Full.to_string() {
                "full"
            } else if call.cause == Refusal::NoWorker.to_string() {
                "no-worker"
            } else {
                "other"
            };
            let key = (agent, release, reason);
            *counted.refused.entry(key).or_default() += 1;
        }
    }

    /// Counts how a call went, as its worker says.
    pub(crate) fn reported(&self, agent: &AgentName, release: Option<&Label>, verdict: &str) {
        let Some(release) = release else { return };
        let mut counted = self.lock();
        let key = (agent.clone(), release.clone(), verdict.to_owned());
        if counted.outcomes.len() < OUTCOMES_MAX || counted.outcomes.contains_key(&key) {
            *counted.outcomes.entry(key).or_default() += 1;
        }
    }

    /// Counts a request to the API, by its path as it is described.
    pub(crate) fn requested(&self, method: &str, path: &str, status: u16) {
        let key = (method.to_owned(), path.to_owned(), status);
        *self.lock().requests.entry(key).or_default() += 1;
    }

    pub(super) fn spans_sent(&self, count: u64) {
        self.spans_sent.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn spans_lost(&self, count: u64) {
        self.spans_lost.fetch_add(count, Ordering::Relaxed);
    }

    /// The page, from what is known now. `calls` are live calls; those of releases that drain are
    /// looked at.
    pub(crate) fn page(&self, status: &StatusView, calls: &[CallInfo], fleet: &[Listed]) -> String {
        let mut page = Page::default();
        let releases = running(status);
        calls_counted(&mut page, &releases);
        releases_are(&mut page, status, &releases, calls);
        fleet::connected(&mut page, &releases, fleet);
        self.lock().notices.show(&mut page);
        self.counted(&mut page, &releases);
        self.of_ours(&mut page, status);
        page.text()
    }

    /// What was counted here, of releases that still run.
    fn counted(&self, page: &mut Page, releases: &[(&AgentView, &ReleaseView)]) {
        let mut counted = self.lock();
        let names: BTreeMap<(AgentName, ReleaseId), Labels> = releases
            .iter()
            .map(|(agent, is)| ((agent.name.clone(), is.id), version(agent, is)))
            .collect();
        counted.setup.retain(|key, _| names.contains_key(key));
        counted
            .refused
            .retain(|(agent, release, _), _| names.contains_key(&(agent.clone(), *release)));
        let setup = counted.setup.iter();
        page.histograms(
            "call_setup_seconds",
            "Seconds from the decision of a call to its 101, as told at its end",
            &SETUP_BOUNDS,
            setup.map(|(key, histogram)| (names[key].clone(), histogram.clone())),
        );
        let refused = counted.refused.iter();
        page.counters(
            "admission_rejected",
            "Calls turned away because no worker of their release could take them",
            refused.map(|((agent, release, reason), count)| {
                let mut labels = names[&(agent.clone(), *release)].clone();
                labels.push(("reason".to_owned(), (*reason).to_owned()));
                (labels, *count)
            }),
        );
        let labelled: BTreeMap<(&AgentName, &Label), Labels> = releases
            .iter()
            .map(|(agent, is)| ((&agent.name, &is.label), version(agent, is)))
            .collect();
        counted
            .outcomes
            .retain(|(agent, release, _), _| labelled.contains_key(&(agent, release)));
        let outcomes = counted.outcomes.iter();
        page.counters(
            "call_outcomes",
            "How calls went, as their workers said",
            outcomes.map(|((agent, release, verdict), count)| {
                let mut labels = labelled[&(agent, release)].clone();
                labels.push(("verdict".to_owned(), verdict.clone()));
                (labels, *count)
            }),
        );
        let rollbacks = counted.rollbacks.iter();
        page.counters(
            "rollbacks",
            "Rollbacks that were decided, since the beginning of the journal",
            rollbacks.map(|((agent, trigger), count)| {
                (
                    labels([("agent", agent.as_str()), ("trigger", trigger)]),
                    *count,
                )
            }),
        );
        let durations = counted.rollback_seconds.iter();
        page.histograms(
            "rollback_duration_seconds",
            "Seconds from the decision of a rollback until every gateway had acknowledged it, or was not waited for any more",
            &ROLLBACK_BOUNDS,
            durations.map(|(agent, histogram)| {
                (labels([("agent", agent.as_str())]), histogram.clone())
            }),
        );
        let requests = counted.requests.iter();
        page.counters(
            "http_requests",
            "Requests to the admin API",
            requests.map(|((method, path, status), count)| {
                let status = status.to_string();
                let pairs = [
                    ("method", method.as_str()),
                    ("path", path),
                    ("status", &status),
                ];
                (labels(pairs), *count)
            }),
        );
        page.counters(
            "call_records_missed",
            "Batches of ended calls that came faster than they were counted",
            [(labels([]), counted.records_missed)],
        );
    }

    /// What the controller knows of itself and of those it talks to.
    fn of_ours(&self, page: &mut Page, status: &StatusView) {
        let leased = |leased: bool| {
            let gateways = status.gateways.iter().filter(|is| is.leased == leased);
            let word = if leased { "true" } else { "false" };
            (labels([("leased", word)]), number(gateways.count()))
        };
        page.gauges(
            "gateways",
            "Gateways, by whether they have reported lately",
            [leased(true), leased(false)],
        );
        page.gauges(
            "audit_tree_size",
            "Entries of the audit log",
            [(labels([]), real(status.journal.entries))],
        );
        let works = if status.journal.error.is_none() {
            1.0
        } else {
            0.0
        };
        page.gauges(
            "journal_writable",
            "Whether decisions can be written down",
            [(labels([]), works)],
        );
        let notified = self.notify.iter().flat_map(|(name, tally)| {
            let of = |outcome: &str, count: &AtomicU64| {
                let pairs = [("target", name.as_str()), ("outcome", outcome)];
                (labels(pairs), count.load(Ordering::Relaxed))
            };
            [
                of("delivered", &tally.delivered),
                of("failed-try", &tally.failed_tries),
                of("skipped", &tally.skipped),
            ]
        });
        page.counters(
            "notifications",
            "Notifications, by what became of them",
            notified,
        );
        let count = |of: &AtomicU64| [(labels([]), of.load(Ordering::Relaxed))];
        page.counters(
            "spans_sent",
            "Spans that a collector took",
            count(&self.spans_sent),
        );
        page.counters(
            "spans_lost",
            "Spans that no collector took",
            count(&self.spans_lost),
        );
        let version = env!("CARGO_PKG_VERSION");
        let info = [(labels([("version", version)]), 1.0)];
        page.gauges("build_info", "This version of Segue", info);
    }
}

/// Releases that are not retired, each with its agent.
fn running(status: &StatusView) -> Vec<(&AgentView, &ReleaseView)> {
    let mut all = Vec::new();
    for agent in &status.agents {
        let running = agent.releases.iter().filter(|is| is.state != "retired");
        all.extend(running.map(|is| (agent, is)));
    }
    all
}

fn calls_counted(page: &mut Page, releases: &[(&AgentView, &ReleaseView)]) {
    let all = releases.iter();
    page.counters(
        "calls_started",
        "New calls decided",
        all.map(|(agent, is)| (version(agent, is), is.started)),
    );
    let ended = releases.iter().flat_map(|(agent, is)| {
        let of = |outcome: &str, count: u64| {
            let mut labels = version(agent, is);
            labels.push(("outcome".to_owned(), outcome.to_owned()));
            (labels, count)
        };
        [
            of("completed", is.ended.saturating_sub(is.dropped)),
            of("dropped", is.dropped),
            of("failed", is.errors),
            of("policy", is.policy),
            of("lost", is.lost),
        ]
    });
    page.counters(
        "calls_ended",
        "Calls that ended, by how: completed in order, dropped by the worker's side, failed before they stood, ended by policy, lost with a gateway",
        ended,
    );
    let dropped = releases.iter().flat_map(|(agent, is)| {
        let of = |cause: &str, count: u64| {
            let mut labels = version(agent, is);
            labels.push(("cause".to_owned(), cause.to_owned()));
            (labels, count)
        };
        let codes = DROPS.iter().map(|code| format!("worker:{code}"));
        let dropped = codes.filter_map(|key| Some((is.closes.get(&key).copied()?, key)));
        let dropped: Vec<_> = dropped.map(|(count, key)| of(&key, count)).collect();
        let lost = (is.lost > 0).then(|| of("gateway", is.lost));
        dropped.into_iter().chain(lost)
    });
    page.counters(
        "calls_dropped",
        "Calls that were cut off, by the side and close code, or by a gateway that died",
        dropped,
    );
    let all = releases.iter();
    page.counters(
        "calls_rescued",
        "Times that a call went on at another worker because its own had died",
        all.map(|(agent, is)| (version(agent, is), is.rescued)),
    );
}

fn releases_are(
    page: &mut Page,
    status: &StatusView,
    releases: &[(&AgentView, &ReleaseView)],
    calls: &[CallInfo],
) {
    page.gauges(
        "release_info",
        "Releases that run, and their digests",
        releases.iter().map(|(agent, is)| {
            let mut labels = track(agent, is);
            labels.push(("release".to_owned(), is.id.short()));
            (labels, 1.0)
        }),
    );
    page.gauges(
        "calls_active",
        "Calls in progress, as last reported",
        releases
            .iter()
            .map(|(agent, is)| (track(agent, is), real(is.live))),
    );
    page.gauges(
        "canary_weight_ratio",
        "Share of new calls",
        releases.iter().map(|(agent, is)| {
            let share = f64::from(is.share_bp) / 10_000.0;
            (track(agent, is), share)
        }),
    );
    page.gauges(
        "worker_state",
        "Workers, by how far they are",
        releases.iter().flat_map(|(agent, is)| {
            WORKER_STATES.map(|state| {
                let mut labels = track(agent, is);
                labels.push(("state".to_owned(), state.to_owned()));
                let workers = is.workers.iter().filter(|worker| worker.state == state);
                (labels, number(workers.count()))
            })
        }),
    );
    let oldest = oldest(calls);
    let draining = releases.iter().filter(|(_, is)| is.state == "draining");
    page.gauges(
        "drain_oldest_call_seconds",
        "Age of the oldest call of a release that drains; none: it has no call",
        draining.filter_map(|(agent, is)| {
            let since = *oldest.get(&(&agent.name, is.id))?;
            Some((version(agent, is), seconds(status.at.since(since).0)))
        }),
    );
}

/// Since when the oldest live call of each release is there. Calls are many: they are looked at
/// once, and not once for each release.
fn oldest(calls: &[CallInfo]) -> BTreeMap<(&AgentName, ReleaseId), Timestamp> {
    let mut oldest = BTreeMap::new();
    for call in calls.iter().filter(|call| call.state == "live") {
        let since = oldest
            .entry((&call.agent, call.release))
            .or_insert(call.since);
        *since = call.since.min(*since);
    }
    oldest
}

fn version(agent: &AgentView, is: &ReleaseView) -> Labels {
    labels([
        ("agent", agent.name.as_str()),
        ("version", is.label.as_str()),
    ])
}

pub(super) fn track(agent: &AgentView, is: &ReleaseView) -> Labels {
    let track = match is.state.as_str() {
        "current" => "current",
        "ramping" => "canary",
        "draining" => "draining",
        _ => "idle",
    };
    let mut labels = version(agent, is);
    labels.push(("track".to_owned(), track.to_owned()));
    labels
}

fn seconds(ms: u64) -> f64 {
    real(ms) / 1_000.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a metric is a float; above 2^53 nobody counts calls"
)]
fn real(count: u64) -> f64 {
    count as f64
}

fn number(count: usize) -> f64 {
    real(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use segue_core::table::Epoch;
    use serde_json::{Value, json};

    use super::*;

    fn release(number: u32, state: &str, workers: u32) -> Value {
        let worker = |worker: u32| {
            json!({
                "id": format!("w-{worker}"), "state": "ready", "pid": null, "port": 1,
                "restarts": 0, "log": "",
            })
        };
        json!({
            "id": ReleaseId::of(&number.to_be_bytes()), "label": format!("v{number}"),
            "slot": null, "state": state, "share_bp": 0, "live_share_bp": 0, "live": 0,
            "pinned": 0, "unknown": [], "workers_ready": workers, "workers_want": workers,
            "capacity": 1, "started": 9, "ended": 8, "dropped": 1, "errors": 0,
            "closes": { "worker:1011": 1, "worker:4711": 1, "caller:1000": 7 },
            "workers": (0..workers).map(worker).collect::<Vec<_>>(),
        })
    }

    fn status(agents: u32, running: u32, retired: u32, workers: u32) -> StatusView {
        let releases: Vec<Value> = (0..running)
            .map(|number| release(number, "draining", workers))
            .chain((running..running + retired).map(|number| release(number, "retired", 0)))
            .collect();
        let agent = |number: u32| {
            json!({
                "name": format!("agent-{number}"), "revision": 1, "epoch": 1, "phase": "idle",
                "holds": [], "rollout": null, "releases": releases, "live": 0,
            })
        };
        let status = json!({
            "version": "1", "at": 100_000, "gateways": [],
            "agents": (0..agents).map(agent).collect::<Vec<_>>(),
            "journal": { "entries": 1, "head": "", "error": null },
        });
        serde_json::from_value(status).unwrap()
    }

    fn live(number: u32) -> CallInfo {
        CallInfo {
            call: format!("CA{number}").parse().unwrap(),
            agent: "agent-0".parse().unwrap(),
            release: ReleaseId::of(&0_u32.to_be_bytes()),
            worker: "w-0".parse().unwrap(),
            epoch: Epoch(1),
            since: Timestamp(u64::from(number)),
            state: "live".to_owned(),
            reason: "split".to_owned(),
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    #[test]
    fn a_page_grows_with_releases_that_run_and_with_nothing_else() {
        let calls: Vec<CallInfo> = (40_000..50_000).map(live).collect();
        let metrics = Metrics::new(Tallies::default());
        let lines = |status: &StatusView| metrics.page(status, &calls, &[]).lines().count();
        let small = lines(&status(10, 3, 0, 1));
        assert_eq!(lines(&status(10, 3, 0, 500)), small, "workers are counted");
        assert_eq!(
            lines(&status(10, 3, 300, 1)),
            small,
            "retired ones are gone"
        );
        let (one, two) = (lines(&status(10, 4, 0, 1)), lines(&status(10, 5, 0, 1)));
        assert_eq!((one - small) % 10, 0, "the same for each agent");
        assert_eq!(two - one, one - small, "the same for each release");
        let page = metrics.page(&status(1, 1, 0, 1), &calls, &[]);
        let oldest = "segue_drain_oldest_call_seconds{agent=\"agent-0\",version=\"v0\"} 60.0";
        assert!(page.lines().any(|line| line == oldest), "{page}");
        assert!(!page.contains("4711"), "callers choose no label: {page}");
    }

    #[test]
    fn what_is_counted_of_a_release_goes_with_it() {
        let metrics = Metrics::new(Tallies::default());
        for number in 0..1_000_u32 {
            let call = live(number);
            metrics.ended(&CallRecord {
                call: call.call,
                agent: call.agent,
                release: ReleaseId::of(&number.to_be_bytes()),
                worker: Some(call.worker),
                started: call.since,
                ended: call.since,
                setup_ms: Some(1),
                outcome: CallOutcome::Completed,
                cause: String::new(),
                reason: "split".to_owned(),
                bytes_in: 0,
                bytes_out: 0,
                traceparent: None,
                rescued: None,
            });
        }
        let page = metrics.page(&status(1, 2, 0, 1), &[], &[]);
        assert_eq!(page.matches("call_setup_seconds_count{").count(), 2);
        assert_eq!(metrics.lock().setup.len(), 2);
    }
}
