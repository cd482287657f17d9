//! The logs of callers and workers: one JSON object a line, one write a line.
//!
//! Several processes may append to one file. Each line is written whole by a single `write(2)` on a
//! file opened in append mode, so lines of different writers do not mix, and a process that is
//! killed leaves every line it had reached. Nothing is buffered: a line that was lost with its
//! process would turn a finished call into a dropped one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or(Duration::ZERO).as_millis()).unwrap_or(u64::MAX)
}

/// A file of JSON lines, or nothing at all.
#[derive(Debug)]
struct Lines(Option<File>);

impl Lines {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self(Some(file)))
    }

    /// A log that cannot be written must not end a live call, so a failure is only told.
    fn write(&self, line: &impl Serialize) {
        let Some(mut file) = self.0.as_ref() else {
            return;
        };
        let mut text = serde_json::to_vec(line).expect("log lines are plain structs");
        text.push(b'\n');
        if let Err(error) = file.write_all(&text) {
            let _ = writeln!(io::stderr(), "cannot write to the call log: {error}");
        }
    }
}

/// Who ended a call, as the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CallerEnd {
    /// The caller hung up as planned.
    Caller,
    /// The far end closed or vanished.
    Remote,
    /// The caller gave up, or failed.
    Error,
}

/// Who ended a call, as the worker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerEnd {
    /// The caller said stop or closed.
    Caller,
    /// The worker did.
    Worker,
    /// The connection broke.
    Error,
}

#[derive(Serialize)]
#[serde(tag = "event")]
enum CallerLine<'a> {
    #[serde(rename = "call.dialled")]
    Dialled { t: u64, call: &'a str },
    #[serde(rename = "call.connected")]
    Connected { t: u64, call: &'a str },
    #[serde(rename = "call.refused")]
    Refused { t: u64, call: &'a str, status: u16 },
    #[serde(rename = "call.ended")]
    Ended {
        t: u64,
        call: &'a str,
        by: CallerEnd,
        code: Option<u16>,
        turns: usize,
        turns_heard: usize,
        longest_gap_ms: u64,
    },
    #[serde(rename = "smoke.passed")]
    SmokePassed { t: u64, release: &'a str },
}

/// The log of the caller's side.
#[derive(Debug)]
pub struct CallLog(Lines);

impl CallLog {
    /// Appends to the file at `path`.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Lines::open(path).map(Self)
    }

    /// Keeps nothing.
    pub fn none() -> Self {
        Self(Lines(None))
    }

    /// Notes that `release` passed its smoke test: from now on calls may reach it.
    pub fn smoke_passed(&self, release: &str) {
        self.0.write(&CallerLine::SmokePassed {
            t: unix_ms(),
            release,
        });
    }

    pub(crate) fn dialled(&self, call: &str) {
        self.0.write(&CallerLine::Dialled { t: unix_ms(), call });
    }

    pub(crate) fn connected(&self, call: &str) {
        self.0.write(&CallerLine::Connected { t: unix_ms(), call });
    }

    /// `status` is zero when there was no answer over HTTP at all.
    pub(crate) fn refused(&self, call: &str, status: u16) {
        self.0.write(&CallerLine::Refused {
            t: unix_ms(),
            call,
            status,
        });
    }

    pub(crate) fn ended(&self, call: &str, by: CallerEnd, code: Option<u16>, heard: Tally) {
        let Tally {
            turns,
            turns_heard,
            longest_gap_ms,
        } = heard;
        self.0.write(&CallerLine::Ended {
            t: unix_ms(),
            call,
            by,
            code,
            turns,
            turns_heard,
            longest_gap_ms,
        });
    }
}

/// What a caller has to say about a call that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) turns: usize,
    pub(crate) turns_heard: usize,
    pub(crate) longest_gap_ms: u64,
}

/// A command that moved new calls from one release to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Switch {
    /// To the new release.
    #[serde(rename = "cutover.acked")]
    Cutover,
    /// Back to the old one.
    #[serde(rename = "rollback.acked")]
    Rollback,
}

#[derive(Serialize)]
struct OperatorLine<'a> {
    t: u64,
    event: Switch,
    agent: &'a str,
    to: &'a str,
    from: &'a str,
}

/// The log of whoever commands the deployment.
#[derive(Debug)]
pub struct OperatorLog(Lines);

impl OperatorLog {
    /// Appends to the file at `path`.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Lines::open(path).map(Self)
    }

    /// Notes that a switch of `agent` was acknowledged just now.
    pub fn acked(&self, event: Switch, agent: &str, from: &str, to: &str) {
        self.0.write(&OperatorLine {
            t: unix_ms(),
            event,
            agent,
            to,
            from,
        });
    }
}

#[derive(Serialize)]
struct WorkerLine<'a> {
    t: u64,
    event: &'a str,
    call: &'a str,
    release: &'a str,
    worker: &'a str,
    #[serde(flatten)]
    rest: WorkerRest,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WorkerRest {
    Started { pid: u32 },
    Ended { by: WorkerEnd, code: Option<u16> },
    Told { kind: String },
}

/// The log of the agent's side.
#[derive(Debug)]
pub(crate) struct WorkerLog {
    lines: Lines,
    release: String,
    worker: String,
}

impl WorkerLog {
    pub(crate) fn open(path: Option<&Path>, release: &str, worker: &str) -> io::Result<Self> {
        let lines = path.map_or(Ok(Lines(None)), Lines::open)?;
        let (release, worker) = (release.to_owned(), worker.to_owned());
        Ok(Self {
            lines,
            release,
            worker,
        })
    }

    pub(crate) fn started(&self, call: &str) {
        let pid = std::process::id();
        self.write("call.started", call, WorkerRest::Started { pid });
    }

    pub(crate) fn ended(&self, call: &str, by: WorkerEnd, code: Option<u16>) {
        self.write("call.ended", call, WorkerRest::Ended { by, code });
    }

    /// What Segue told us, about a call or about all of them.
    pub(crate) fn told(&self, kind: &str, call: &str) {
        let kind = kind.to_owned();
        self.write("worker.told", call, WorkerRest::Told { kind });
    }

    fn write(&self, event: &str, call: &str, rest: WorkerRest) {
        let Self {
            lines,
            release,
            worker,
        } = self;
        lines.write(&WorkerLine {
            t: unix_ms(),
            event,
            call,
            release,
            worker,
            rest,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(line: &impl Serialize) -> serde_json::Value {
        serde_json::to_value(line).unwrap()
    }

    #[test]
    fn lines_keep_the_contract_with_the_judge() {
        let ended = CallerLine::Ended {
            t: 1,
            call: "c",
            by: CallerEnd::Remote,
            code: None,
            turns: 2,
            turns_heard: 1,
            longest_gap_ms: 30,
        };
        let wanted = serde_json::json!({"t": 1, "event": "call.ended", "call": "c", "by": "remote",
            "code": null, "turns": 2, "turns_heard": 1, "longest_gap_ms": 30});
        assert_eq!(json(&ended), wanted);
        let (call, release, worker) = ("c", "v1", "w1");
        let rest = WorkerRest::Ended {
            by: WorkerEnd::Worker,
            code: Some(1_000),
        };
        let line = WorkerLine {
            t: 1,
            event: "call.ended",
            call,
            release,
            worker,
            rest,
        };
        let wanted = serde_json::json!({"t": 1, "event": "call.ended", "call": "c",
            "release": "v1", "worker": "w1", "by": "worker", "code": 1000});
        assert_eq!(json(&line), wanted);
    }
}
