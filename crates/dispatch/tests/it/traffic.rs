//! Calls that come in at a server, one after the other, and what the judge is to be told of them.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::judge::{Told, Verdict, judge};
use crate::upstream::{Event, Outcome, PATIENCE, Record, Upstream, job, now_ms};
use crate::wire::{JobStatus, WorkerStatus};

/// From one call to the next: each takes a process, of which two cores do not start many.
const BETWEEN_CALLS: Duration = Duration::from_millis(400);

/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a job's metadata asks for.
pub(crate) fn lasting(seconds: f64) -> String {
    json!({ "seconds": seconds }).to_string()
}

/// What jobs have written into a log so far. A line that is still being written is none yet.
pub(crate) fn jobs(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Waits for something in a log.
pub(crate) async fn until(log: &Path, what: &str, is: impl Fn(&[Value]) -> bool) {
    let began = Instant::now();
    while !is(&jobs(log)) {
        let late = began.elapsed() > PATIENCE;
        assert!(!late, "{what} did not come true: {:#?}", jobs(log));
        sleep(LOOK_EVERY).await;
    }
}

/// The server, and the calls of one agent.
pub(crate) struct Traffic {
    pub(crate) upstream: Upstream,
    agent_name: &'static str,
    /// Where its jobs are logged.
    log: PathBuf,
    /// Since when a release gets no jobs, as long as it gets none.
    drains: Option<(String, u64)>,
    told: Told,
    /// Every call that came in.
    pub(crate) calls: Vec<String>,
}

impl Traffic {
    pub(crate) async fn open(agent_name: &'static str, log: PathBuf) -> Self {
        let upstream = Upstream::open().await;
        let told = Told {
            url: upstream.url(),
            ..Told::default()
        };
        Self {
            upstream,
            agent_name,
            log,
            drains: None,
            told,
            calls: Vec::new(),
        }
    }

    /// Waits until the connection that the server knows takes jobs.
    pub(crate) async fn until_taken(&self) {
        self.upstream.until_registered(self.agent_name, 1).await;
        let taken = |all: &[Record]| {
            let last = all.iter().rev().find_map(|record| match &record.event {
                Event::Registered { worker, .. } => Some(worker),
                _ => None,
            })?;
            let available = Some(WorkerStatus::Available);
            let says = |record: &Record| {
                matches!(&record.event, Event::Status { worker, status, .. }
                    if worker == last && *status == available)
            };
            all.iter().any(says).then_some(())
        };
        let records = self.upstream.records();
        records.until("jobs are taken", taken).await;
    }

    /// So many calls come in, one after the other, each of some seconds. None may be lost.
    pub(crate) async fn calls(&mut self, count: usize, seconds: f64) -> Range<usize> {
        let before = self.calls.len();
        for _ in 0..count {
            let call = job(self.agent_name, &lasting(seconds));
            let outcome = self.upstream.launch(&call).await;
            assert_eq!(outcome, Outcome::Assigned, "call {}", self.calls.len());
            self.calls.push(call.id);
            sleep(BETWEEN_CALLS).await;
        }
        before..self.calls.len()
    }

    /// From now on a release gets no calls, and whoever got none until now may.
    pub(crate) fn drains(&mut self, release: &str) {
        self.drains = Some((release.to_owned(), now_ms()));
    }

    /// Whoever gets none until now may get calls again. To be said before that is asked for.
    pub(crate) fn ends_draining(&mut self) {
        if let Some((release, since)) = self.drains.take() {
            let span: Range<u64> = since..now_ms();
            self.told.draining.push((release, span));
        }
    }

    /// A worker is about to be killed, with the calls that it has. All calls must have begun.
    pub(crate) fn kills(&mut self, worker: &str) {
        let calls = self.calls_of(worker);
        self.told.killed.extend(calls);
    }

    /// What its jobs have logged so far.
    pub(crate) fn jobs(&self) -> Vec<Value> {
        jobs(&self.log)
    }

    /// Waits until every call has begun, so that it is known which ones a worker has.
    pub(crate) async fn begun(&self) {
        let what = format!("{} calls have begun", self.calls.len());
        let started = |lines: &[Value]| {
            let started = lines.iter().filter(|line| line["event"] == "job.started");
            started.count() == self.calls.len()
        };
        until(&self.log, &what, started).await;
    }

    /// The calls of a worker that have begun and not ended.
    pub(crate) fn calls_of(&self, worker: &str) -> BTreeSet<String> {
        let lines = self.jobs();
        let of = |event: &str| -> BTreeSet<String> {
            let of = |line: &&Value| line["event"] == event && line["worker"] == worker;
            let ids = lines.iter().filter(of).map(|line| line["job"].as_str());
            ids.map(|id| id.unwrap().to_owned()).collect()
        };
        &of("job.started") - &of("job.ended")
    }

    /// Waits until every call has begun, and ended unless it was killed.
    pub(crate) async fn silence(&self) {
        self.begun().await;
        let ended = |lines: &[Value]| {
            let ended = lines.iter().filter(|line| line["event"] == "job.ended");
            let ended: BTreeSet<&str> = ended.filter_map(|line| line["job"].as_str()).collect();
            let is = |id: &String| ended.contains(id.as_str()) || self.told.killed.contains(id);
            self.calls.iter().all(is)
        };
        until(&self.log, "all calls have ended", ended).await;
    }

    /// Calls that no killed worker had: their ends are told. A killed one's may have ended well, and
    /// nobody said so.
    pub(crate) fn survivors(&self) -> usize {
        self.calls.len() - self.told.killed.len()
    }

    /// Whether a call may be told to be dropped: its worker was killed, or said that its job failed,
    /// as LiveKit does when the job's process fails after the call is over.
    pub(crate) fn is_lost(&self, call: &str) -> bool {
        let says = |record: &Record| {
            matches!(&record.event, Event::Updated { job, status: JobStatus::Failed, .. }
                if job == call)
        };
        self.told.killed.contains(call) || self.upstream.records().all().iter().any(says)
    }

    /// How long nobody took calls, each time that the server lost its last connection.
    pub(crate) fn gaps(&self) -> Vec<Duration> {
        let (mut gaps, mut since) = (Vec::new(), None);
        for record in self.upstream.records().all() {
            match record.event {
                Event::Closed { .. } => since = since.or(Some(record.at)),
                Event::Status {
                    status: Some(WorkerStatus::Available),
                    ..
                } => gaps.extend(since.take().map(|since| record.at.saturating_sub(since))),
                _ => {}
            }
        }
        gaps
    }

    /// Judges everything so far. Who drains now drains for good.
    pub(crate) fn judge(&mut self) -> Verdict {
        if let Some((release, since)) = self.drains.take() {
            self.told.draining.push((release, since..u64::MAX));
        }
        let (records, log) = (self.upstream.records().all(), self.jobs());
        judge(&records, self.upstream.began_ms(), &log, &self.told)
    }
}
