//! The judge: what became of every call, from the logs alone.
//!
//! It asks neither the controller nor the gateway, whose word is what is being judged. It believes
//! callers about whether a call connected and who ended it, workers about which release spoke, and
//! the operator about when a command was acknowledged. A call that nobody accounts for counts
//! against the deployment; so does a line that cannot be read.
//!
//! One directory holds the logs of one agent: calls do not say which agent they were meant for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Problems told in words; all are counted.
pub const PROBLEMS_MAX: usize = 50;

/// Characters told of a line that cannot be read: enough to find it by.
const LINE_CHARS_SHOWN: usize = 80;

/// The lines of each kind of log.
#[derive(Debug, Default, Clone)]
pub struct Logs {
    /// Of the callers: customers.
    pub callers: Vec<String>,
    /// Of the workers, of all releases.
    pub workers: Vec<String>,
    /// Of the operator: acknowledged commands.
    pub operator: Vec<String>,
    /// Of the smoke tests: their calls and what they found.
    pub smoke: Vec<String>,
}

/// What the logs say.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Calls that connected.
    pub started: u64,
    /// Of those, ended by the caller as planned.
    pub completed: u64,
    /// Of those, ended by anything else, or without an end in any log.
    pub dropped: u64,
    /// Of those, without an end in the callers' log, but ended by the caller as the worker says.
    pub undecided: u64,
    /// Calls turned away before they connected.
    pub refused: u64,
    /// Calls dialled and never heard of again.
    pub unanswered: u64,
    /// Calls dialled after a switch took effect and answered by the release switched away from.
    pub wrong_release_after_cutover: u64,
    /// Calls answered by a release that had not passed its smoke test yet.
    pub reached_unproven: u64,
    /// Calls answered by more than one release.
    pub moved: u64,
    /// Calls that connected and that no worker knows.
    pub unaccounted: u64,
    /// Lines that cannot be read.
    pub malformed: u64,
    /// Calls answered by each release.
    pub by_release: BTreeMap<String, u64>,
    /// Each of the above that is wrong, by call; at most [`PROBLEMS_MAX`].
    pub problems: Vec<String>,
    /// Problems found, told or not.
    pub problems_found: u64,
}

impl Verdict {
    /// Whether calls were made and nothing at all is wrong.
    pub fn is_clean(&self) -> bool {
        self.started > 0 && self.problems_found == 0
    }

    fn problem(&mut self, text: String) {
        self.problems_found += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "event")]
enum CallerLine {
    #[serde(rename = "call.dialled")]
    Dialled { t: u64, call: String },
    #[serde(rename = "call.connected")]
    Connected { call: String },
    #[serde(rename = "call.refused")]
    Refused { call: String, status: u16 },
    #[serde(rename = "call.ended")]
    Ended {
        t: u64,
        call: String,
        by: String,
        code: Option<u16>,
        #[serde(default)]
        turns: u64,
        #[serde(default)]
        turns_heard: u64,
    },
    #[serde(rename = "smoke.passed")]
    SmokePassed { t: u64, release: String },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "event")]
enum WorkerLine {
    #[serde(rename = "call.started")]
    Started {
        t: u64,
        call: String,
        release: String,
    },
    #[serde(rename = "call.ended")]
    Ended { call: String, by: String },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "event")]
enum OperatorLine {
    #[serde(rename = "cutover.acked", alias = "rollback.acked")]
    Switched {
        t: u64,
        agent: String,
        from: String,
        to: String,
    },
    #[serde(other)]
    Other,
}

/// What the callers' log says of one call.
#[derive(Default)]
struct Placed {
    dialled: Option<u64>,
    connected: bool,
    refused: Option<u16>,
    ends: Vec<(String, Option<u16>)>,
}

/// What the workers' logs say of one call.
#[derive(Default)]
struct Answered {
    /// Time and release of each start.
    starts: Vec<(u64, String)>,
    ends: Vec<String>,
}

struct Switch {
    t: u64,
    from: String,
    to: String,
}

struct Facts {
    placed: BTreeMap<String, Placed>,
    answered: BTreeMap<String, Answered>,
    /// In the order they took effect.
    switches: Vec<Switch>,
    /// When each release first passed its smoke test.
    proven: BTreeMap<String, u64>,
}

/// Judges the logs in `dir`: `callers*.jsonl`, `workers*.jsonl`, `operator*.jsonl` and
/// `smoke*.jsonl`.
///
/// # Errors
///
/// When the directory or a log in it cannot be read. A log that is not there is an empty one: the
/// calls it does not account for are found by name.
pub fn judge_dir(dir: &Path) -> io::Result<Verdict> {
    let mut logs = Logs::default();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(kind) = name.and_then(|name| name.strip_suffix(".jsonl")) else {
            continue;
        };
        let lines = match kind {
            _ if kind.starts_with("callers") => &mut logs.callers,
            _ if kind.starts_with("workers") => &mut logs.workers,
            _ if kind.starts_with("operator") => &mut logs.operator,
            _ if kind.starts_with("smoke") => &mut logs.smoke,
            _ => continue,
        };
        // A process may be killed in the middle of a line, and of a letter.
        let text = fs::read(&path)?;
        lines.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
    }
    Ok(judge(&logs))
}

/// Judges the logs.
pub fn judge(logs: &Logs) -> Verdict {
    let mut verdict = Verdict::default();
    let facts = Facts::gather(logs, &mut verdict);
    for (call, placed) in &facts.placed {
        facts.judge_end(call, placed, &mut verdict);
        facts.judge_release(call, placed, &mut verdict);
    }
    verdict
}

fn parse<'a, T: Deserialize<'a>>(what: &str, lines: &'a [String], verdict: &mut Verdict) -> Vec<T> {
    let mut parsed = Vec::with_capacity(lines.len());
    for line in lines.iter().filter(|line| !line.is_empty()) {
        match serde_json::from_str(line) {
            Ok(value) => parsed.push(value),
            Err(error) => {
                verdict.malformed += 1;
                let shown: String = line.chars().take(LINE_CHARS_SHOWN).collect();
                verdict.problem(format!("{what}: cannot read {shown:?}: {error}"));
            }
        }
    }
    parsed
}

impl Facts {
    fn gather(logs: &Logs, verdict: &mut Verdict) -> Self {
        let mut facts = Self {
            placed: BTreeMap::new(),
            answered: BTreeMap::new(),
            switches: Vec::new(),
            proven: BTreeMap::new(),
        };
        for line in parse("callers", &logs.callers, verdict) {
            facts.caller(line);
        }
        let smoke = parse("smoke", &logs.smoke, verdict);
        for line in parse("workers", &logs.workers, verdict) {
            match line {
                WorkerLine::Started { t, call, release } => {
                    facts
                        .answered
                        .entry(call)
                        .or_default()
                        .starts
                        .push((t, release));
                }
                WorkerLine::Ended { call, by } => {
                    facts.answered.entry(call).or_default().ends.push(by);
                }
                WorkerLine::Other => {}
            }
        }
        facts.prove(&smoke, verdict);
        let mut agents = BTreeSet::new();
        for line in parse("operator", &logs.operator, verdict) {
            if let OperatorLine::Switched { t, agent, from, to } = line {
                agents.insert(agent);
                facts.switches.push(Switch { t, from, to });
            }
        }
        if agents.len() > 1 {
            let agents = agents.into_iter().collect::<Vec<_>>().join(", ");
            verdict.problem(format!(
                "the logs mix several agents ({agents}); judge each alone"
            ));
        }
        facts.switches.sort_by_key(|switch| switch.t);
        facts
    }

    /// A release is proven from when it is said to have passed, if that is true: a smoke call must
    /// have heard every answer by then, from a worker that says it is of that release.
    fn prove(&mut self, smoke: &[CallerLine], verdict: &mut Verdict) {
        let heard: Vec<(u64, &str)> = smoke
            .iter()
            .filter_map(|line| match line {
                CallerLine::Ended {
                    t,
                    call,
                    by,
                    turns,
                    turns_heard,
                    ..
                } => {
                    let good = by == "caller" && *turns > 0 && turns == turns_heard;
                    good.then_some((*t, call.as_str()))
                }
                _ => None,
            })
            .collect();
        for line in smoke {
            let CallerLine::SmokePassed { t, release } = line else {
                continue;
            };
            let backed = heard.iter().any(|(end, call)| {
                let answered = self.answered.get(*call);
                let starts = answered.map_or(&[][..], |answered| &answered.starts);
                end <= t && starts.iter().any(|(_, by)| by == release)
            });
            if backed {
                let first = self.proven.entry(release.clone()).or_insert(*t);
                *first = (*first).min(*t);
            } else {
                let text = format!("{release}: no smoke call heard what would prove it");
                verdict.problem(text);
            }
        }
    }

    fn caller(&mut self, line: CallerLine) {
        let calls = &mut self.placed;
        match line {
            CallerLine::Dialled { t, call } => calls.entry(call).or_default().dialled = Some(t),
            CallerLine::Connected { call } => calls.entry(call).or_default().connected = true,
            CallerLine::Refused { call, status } => {
                calls.entry(call).or_default().refused = Some(status);
            }
            CallerLine::Ended { call, by, code, .. } => {
                calls.entry(call).or_default().ends.push((by, code));
            }
            CallerLine::SmokePassed { .. } | CallerLine::Other => {}
        }
    }

    /// How the call ended.
    fn judge_end(&self, call: &str, placed: &Placed, verdict: &mut Verdict) {
        if !placed.connected {
            if let Some(status) = placed.refused {
                verdict.refused += 1;
                verdict.problem(format!("{call}: refused with status {status}"));
            } else {
                verdict.unanswered += 1;
                verdict.problem(format!("{call}: dialled, and then nothing"));
            }
            return;
        }
        verdict.started += 1;
        let worker_ends = self
            .answered
            .get(call)
            .map(|answered| answered.ends.as_slice());
        match placed.ends.as_slice() {
            [(by, _)] if by == "caller" => verdict.completed += 1,
            [] => match worker_ends.unwrap_or_default() {
                [] => {
                    verdict.dropped += 1;
                    verdict.problem(format!("{call}: no log says that it ended"));
                }
                ends if ends.iter().all(|by| by == "caller") => {
                    verdict.undecided += 1;
                    let text = format!("{call}: ended by the caller, who does not say so");
                    verdict.problem(text);
                }
                ends => {
                    verdict.dropped += 1;
                    let text = format!("{call}: ended by {}, as the worker says", ends.join(", "));
                    verdict.problem(text);
                }
            },
            [(by, code)] => {
                verdict.dropped += 1;
                let code = code.map_or("no code".to_owned(), |code| format!("code {code}"));
                verdict.problem(format!("{call}: ended by {by}, {code}"));
            }
            several => {
                verdict.dropped += 1;
                verdict.problem(format!("{call}: ended {} times", several.len()));
            }
        }
    }

    /// Which release answered.
    fn judge_release(&self, call: &str, placed: &Placed, verdict: &mut Verdict) {
        let starts = self
            .answered
            .get(call)
            .map(|answered| answered.starts.as_slice());
        let starts = starts.unwrap_or_default();
        if starts.is_empty() && placed.connected {
            verdict.unaccounted += 1;
            verdict.problem(format!("{call}: connected, and no worker knows it"));
        }
        let releases: BTreeSet<&str> = starts.iter().map(|(_, release)| release.as_str()).collect();
        for &release in &releases {
            *verdict.by_release.entry(release.to_owned()).or_default() += 1;
        }
        if releases.len() > 1 {
            verdict.moved += 1;
            let releases = releases.iter().copied().collect::<Vec<_>>().join(" and ");
            verdict.problem(format!("{call}: answered by releases {releases}"));
        } else if starts.len() > 1 {
            verdict.problem(format!("{call}: answered {} times", starts.len()));
        }
        let unproven = |(t, release): &&(u64, String)| {
            self.proven.get(release).is_none_or(|proven| t < proven)
        };
        if let Some((_, release)) = starts.iter().find(unproven) {
            verdict.reached_unproven += 1;
            verdict.problem(format!(
                "{call}: reached {release} before it had passed its smoke test"
            ));
        }
        let Some(dialled) = placed.dialled else {
            verdict.problem(format!("{call}: was never dialled"));
            return;
        };
        let left = self.left_by(dialled);
        if let Some((from, Switch { t, to, .. })) =
            left.into_iter().find(|(from, _)| releases.contains(from))
        {
            verdict.wrong_release_after_cutover += 1;
            verdict.problem(format!(
                "{call}: dialled {} ms after the switch to {to}, answered by {from}",
                dialled - t
            ));
        }
    }

    /// Every release that was switched away from before this moment and not back to since, with
    /// the switch that left it: it takes no new calls, however many releases came after it.
    fn left_by(&self, moment: u64) -> BTreeMap<&str, &Switch> {
        let mut left = BTreeMap::new();
        for switch in self.switches.iter().filter(|switch| switch.t < moment) {
            left.insert(switch.from.as_str(), switch);
            left.remove(switch.to.as_str());
        }
        left
    }
}

#[cfg(test)]
mod tests;
