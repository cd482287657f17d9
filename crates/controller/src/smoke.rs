//! Smoke calls: real calls through the gateway's own listener to a release that takes no others.
//!
//! What is wanted is a level: an attempt that is wanted runs once, its outcome stands until
//! something else is wanted, and one that is no longer wanted is cut off. A restarted controller
//! makes the calls of its attempt again.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use segue_core::names::{AgentName, ReleaseId};
use segue_core::rollout::Verdict;
use segue_core::spec::Smoke;
use segue_voice::calllog::CallLog;
use segue_voice::scenario::{self, Scenario, ScenarioReport};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::secret::random_hex;
use crate::state::StateDir;
use crate::trust;

/// Header that names the release of a call.
const OVERRIDE: &str = "X-Segue-Override";
/// Header that permits it.
const OVERRIDE_TOKEN: &str = "X-Segue-Override-Token";

/// How long a gateway is waited for that has not said where it listens.
const GATEWAY_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked for.
const GATEWAY_POLL: Duration = Duration::from_millis(100);

/// Random bytes in the id of a call.
const FRESH_BYTES: usize = 4;

/// Smoke calls of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Attempt {
    /// Number of the rollout, and of the attempt in it.
    pub(crate) of: (u64, u32),
    pub(crate) release: ReleaseId,
    pub(crate) label: String,
    pub(crate) smoke: Smoke,
    /// The release that serves now, to compare with when the new one fails.
    pub(crate) current: Option<ReleaseId>,
    /// What the agent's calls ask for, if it minds.
    pub(crate) host: Option<String>,
    /// The path that the agent's calls are below.
    pub(crate) prefix: String,
}

/// The gateway's front door, and what it takes to come in.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) state: StateDir,
    /// Permits an override.
    pub(crate) token: String,
    /// The gateway's certificate; `None`: it speaks plain.
    pub(crate) certificate: Option<PathBuf>,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) rollout: u64,
    pub(crate) attempt: u32,
    pub(crate) verdict: Verdict,
    pub(crate) report: Value,
}

/// Makes smoke calls, at most one attempt per agent at a time.
#[derive(Debug)]
pub(crate) struct Smoker {
    door: Door,
    /// Rung when an attempt ended.
    bell: Arc<Notify>,
    runs: BTreeMap<AgentName, Run>,
}

#[derive(Debug)]
struct Run {
    of: (u64, u32),
    outcome: Arc<Mutex<Option<Outcome>>>,
    /// Cut off when dropped.
    _task: JoinSet<()>,
}

impl Smoker {
    pub(crate) fn new(door: Door, bell: Arc<Notify>) -> Self {
        let runs = BTreeMap::new();
        Self { door, bell, runs }
    }

    /// Whether this attempt runs or has ended.
    pub(crate) fn has(&self, agent: &AgentName, of: (u64, u32)) -> bool {
        self.runs.get(agent).is_some_and(|run| run.of == of)
    }

    /// Nothing is wanted for an agent.
    pub(crate) fn cancel(&mut self, agent: &AgentName) {
        self.runs.remove(agent);
    }

    /// Makes the calls of an attempt, if it was not begun yet.
    pub(crate) fn begin(&mut self, agent: &AgentName, attempt: Attempt) {
        let of = attempt.of;
        if self.has(agent, of) {
            return;
        }
        let outcome = Arc::new(Mutex::new(None));
        let (result, bell) = (Arc::clone(&outcome), Arc::clone(&self.bell));
        let door = self.door.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (verdict, report) = Box::pin(run(&door, &attempt)).await;
            let (rollout, attempt) = of;
            let outcome = Outcome {
                rollout,
                attempt,
                verdict,
                report,
            };
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            bell.notify_one();
        });
        self.runs.insert(
            agent.clone(),
            Run {
                of,
                outcome,
                _task: task,
            },
        );
    }

    /// Ends an attempt that could not begin.
    pub(crate) fn give_up(&mut self, agent: &AgentName, of: (u64, u32), why: &str) {
        let (rollout, attempt) = of;
        let outcome = Outcome {
            rollout,
            attempt,
            verdict: Verdict::Inconclusive(why.to_owned()),
            report: json!({ "calls": [] }),
        };
        let outcome = Arc::new(Mutex::new(Some(outcome)));
        self.runs.insert(
            agent.clone(),
            Run {
                of,
                outcome,
                _task: JoinSet::new(),
            },
        );
        self.bell.notify_one();
    }

    /// What came of the last attempt, if it has ended.
    pub(crate) fn outcome(&self, agent: &AgentName) -> Option<Outcome> {
        let run = self.runs.get(agent)?;
        run.outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn run(door: &Door, attempt: &Attempt) -> (Verdict, Value) {
    let inconclusive = |why: String| (Verdict::Inconclusive(why), json!({ "calls": [] }));
    let Some(scenario) = Scenario::builtin(&attempt.smoke.scenario) else {
        return inconclusive(format!("there is no scenario {:?}", attempt.smoke.scenario));
    };
    let Some(gateway) = gateway_addr(&door.state.gateway_addr()).await else {
        return inconclusive("no gateway says where it listens".to_owned());
    };
    // Read each time: certificates are replaced while we run.
    let tls = match door.certificate.as_deref().map(trust::only).transpose() {
        Ok(tls) => tls,
        Err(error) => return inconclusive(error.to_string()),
    };
    let log = match CallLog::open(&door.state.smoke_log()) {
        Ok(log) => Arc::new(log),
        Err(error) => return inconclusive(format!("the log of smoke calls: {error}")),
    };
    let caller = Caller {
        gateway,
        tls,
        token: &door.token,
        attempt,
        scenario,
        log,
    };
    let mut calls = Vec::new();
    for number in 1..=attempt.smoke.calls {
        let report = caller.call(attempt.release, &number.to_string()).await;
        let failed = why_failed(&report);
        calls.push(report);
        if let Some(why) = failed {
            return caller.compare(why, calls).await;
        }
    }
    caller.log.smoke_passed(&attempt.label);
    (Verdict::Successful, json!({ "calls": calls }))
}

struct Caller<'a> {
    gateway: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    token: &'a str,
    attempt: &'a Attempt,
    scenario: Scenario,
    log: Arc<CallLog>,
}

impl Caller<'_> {
    async fn call(&self, release: ReleaseId, number: &str) -> ScenarioReport {
        let Attempt {
            of: (rollout, attempt),
            smoke,
            host,
            prefix,
            ..
        } = self.attempt;
        // A controller that was restarted makes the same calls again, and those are others.
        let fresh = random_hex(FRESH_BYTES).unwrap_or_default();
        let call_id = format!("smoke-{rollout}-{attempt}-{number}-{fresh}");
        let path = below(prefix, &smoke.path).replace("{call_id}", &call_id);
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        let url = format!("{scheme}://{}{path}", self.gateway);
        let mut headers = vec![
            (OVERRIDE.to_owned(), String::from(release)),
            (OVERRIDE_TOKEN.to_owned(), self.token.to_owned()),
        ];
        headers.extend(host.clone().map(|host| ("Host".to_owned(), host)));
        let tls = self.tls.as_ref();
        scenario::run(&self.scenario, &url, &headers, tls, &call_id, &self.log).await
    }

    /// A release that fails is to blame only if the one that serves now does not fail too.
    async fn compare(&self, why: String, calls: Vec<ScenarioReport>) -> (Verdict, Value) {
        let other = self
            .attempt
            .current
            .filter(|current| *current != self.attempt.release);
        let Some(current) = other else {
            return (Verdict::Failed(why), json!({ "calls": calls }));
        };
        let report = self.call(current, "current").await;
        let verdict = match why_failed(&report) {
            Some(too) => {
                Verdict::Inconclusive(format!("{why}; but the current release fails too: {too}"))
            }
            None => Verdict::Failed(why),
        };
        (verdict, json!({ "calls": calls, "current": report }))
    }
}

fn why_failed(report: &ScenarioReport) -> Option<String> {
    match &report.verdict {
        scenario::Verdict::Passed => None,
        scenario::Verdict::Failed { reasons } => Some(reasons.join("; ")),
    }
}

/// A request path that is the agent's: one that is not below its prefix gets it in front.
fn below(prefix: &str, path: &str) -> String {
    let prefix = prefix.trim_end_matches('/');
    let rest = path.strip_prefix(prefix);
    if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?'])) {
        path.to_owned()
    } else {
        format!("{prefix}{path}")
    }
}

async fn gateway_addr(path: &Path) -> Option<SocketAddr> {
    let deadline = Instant::now() + GATEWAY_WAIT;
    loop {
        if let Ok(addr) = read_addr(path) {
            return Some(addr);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(GATEWAY_POLL).await;
    }
}

/// An address to call at, from the first word of a file; what listens everywhere also listens on
/// loopback.
fn read_addr(path: &Path) -> io::Result<SocketAddr> {
    let text = std::fs::read_to_string(path)?;
    let word = text.split_whitespace().next().unwrap_or_default();
    let mut addr: SocketAddr = word
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoke_calls_are_below_the_agents_path() {
        for (prefix, path, whole) in [
            ("/", "/ws/{call_id}", "/ws/{call_id}"),
            ("/desk", "/ws/{call_id}", "/desk/ws/{call_id}"),
            ("/desk", "/desk/ws/{call_id}", "/desk/ws/{call_id}"),
            ("/desk", "/desk?x=1", "/desk?x=1"),
            ("/desk", "/desktop/ws", "/desk/desktop/ws"),
            ("/ws", "/ws/{call_id}", "/ws/{call_id}"),
        ] {
            assert_eq!(below(prefix, path), whole, "{prefix} {path}");
        }
    }
}
