//! What became of the jobs. It reads what the server saw and what the jobs themselves wrote, and
//! asks nobody else: not the dispatcher, and not the test, which only says when a release was to
//! get no more jobs and which of them were in the hands of a worker that it killed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use prost::Message as _;
use serde_json::Value;

use crate::upstream::{Event, Loss, Record};
use crate::wire::Job;

/// How many standard deviations a share may be off: one run in 16,000 is, by chance.
const DEVIATIONS_MAX: f64 = 4.0;

/// What a test knows and nobody writes down.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// While (ms since 1970) a release gets no jobs: from when that was acknowledged until it was
    /// to get some again.
    pub(crate) draining: Vec<(String, Range<u64>)>,
    /// Jobs of workers that were killed: they may end without a word.
    pub(crate) killed: BTreeSet<String>,
    /// Where jobs must be told to connect.
    pub(crate) url: String,
}

/// What it found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Jobs that a worker was given.
    pub(crate) assigned: usize,
    /// Jobs that finished as they were meant to.
    pub(crate) finished: usize,
    /// Jobs that went with a killed worker.
    pub(crate) killed: Vec<String>,
    /// Jobs that nobody answered.
    pub(crate) lost: Vec<(String, Loss)>,
    /// How many jobs started, by release.
    pub(crate) by_release: BTreeMap<String, usize>,
    /// Where each job started.
    pub(crate) releases: BTreeMap<String, String>,
    /// Everything that must not be.
    pub(crate) problems: Vec<String>,
}

#[derive(Default)]
struct Life<'a> {
    asked_at: Option<u64>,
    offered: Vec<&'a [u8]>,
    tokens: Vec<&'a str>,
    started: Vec<&'a Value>,
    ended: Vec<&'a Value>,
}

/// Judges. `began`: when the records' clock was zero, in ms since 1970.
pub(crate) fn judge(records: &[Record], began: u64, log: &[Value], told: &Told) -> Verdict {
    let mut verdict = Verdict::default();
    let mut lives: BTreeMap<&str, Life<'_>> = BTreeMap::new();
    for record in records {
        match &record.event {
            Event::Offered { job, bytes, .. } => {
                let at = began + u64::try_from(record.at.as_millis()).expect("a short test");
                let life = lives.entry(job).or_default();
                life.asked_at = life.asked_at.max(Some(at));
                life.offered.push(bytes);
            }
            Event::Assigned { job, token, .. } => {
                lives.entry(job).or_default().tokens.push(token);
            }
            Event::Lost { job, why } => verdict.lost.push((job.clone(), *why)),
            _ => {}
        }
    }
    for line in log {
        let job = line["job"].as_str().expect("every line is of a job");
        let life = lives.entry(job).or_default();
        match line["event"].as_str() {
            Some("job.started") => life.started.push(line),
            Some("job.ended") => life.ended.push(line),
            _ => verdict.problems.push(format!("{job}: {line}")),
        }
    }
    for (job, life) in &lives {
        verdict.look(job, life, told);
    }
    verdict
}

impl Verdict {
    fn look(&mut self, job: &str, life: &Life<'_>, told: &Told) {
        let mut problem = |what: String| self.problems.push(format!("{job}: {what}"));
        let [token] = life.tokens[..] else {
            if !(life.tokens.is_empty() && life.started.is_empty()) {
                let (tokens, started) = (life.tokens.len(), life.started.len());
                problem(format!("assigned {tokens} times, started {started} times"));
            }
            return;
        };
        self.assigned += 1;
        let [started] = life.started[..] else {
            problem(format!("started {} times", life.started.len()));
            return;
        };
        let text = |name: &str| started[name].as_str().unwrap_or_default().to_owned();
        let release = text("release");
        *self.by_release.entry(release.clone()).or_default() += 1;
        self.releases.insert(job.to_owned(), release.clone());
        if text("url") != told.url {
            problem(format!("told to connect to {:?}", text("url")));
        }
        if text("token") != token {
            problem("has another token than it was given".to_owned());
        }
        // A job comes to workers of Node as an object, so they cannot say.
        if started["bytes"].is_string() && !carries_all(&text("bytes"), &life.offered) {
            problem("is not what the server sent".to_owned());
        }
        for (draining, span) in &told.draining {
            if *draining == release && life.asked_at.is_some_and(|at| span.contains(&at)) {
                problem(format!("was given to {release}, which was to get no more"));
            }
        }
        match life.ended[..] {
            [] if told.killed.contains(job) => self.killed.push(job.to_owned()),
            // The process of a job may outlive its worker for long enough to say so.
            [ended] if ended["how"] == "cut" && told.killed.contains(job) => {
                self.killed.push(job.to_owned());
            }
            [ended] if ended["worker"] != started["worker"] || ended["pid"] != started["pid"] => {
                problem("ended elsewhere than it started".to_owned());
            }
            [ended] if ended["how"] == "cut" => problem("was cut off".to_owned()),
            [_] => self.finished += 1,
            _ => problem(format!("ended {} times", life.ended.len())),
        }
    }

    /// Of these jobs a release got its share, as far as chance allows.
    pub(crate) fn check_share(&mut self, release: &str, jobs: &[String], share: f64) {
        let of = |job: &&String| self.releases.get(*job).is_some_and(|of| of == release);
        let got = jobs.iter().filter(of).count();
        #[allow(clippy::cast_precision_loss, reason = "hundreds of jobs")]
        let (got, jobs) = (got as f64, jobs.len() as f64);
        let may = DEVIATIONS_MAX * (jobs * share * (1.0 - share)).sqrt() + 1.0;
        if (got - jobs * share).abs() > may {
            let what = format!("{release} got {got} of {jobs} jobs, not {share} ± {may}");
            self.problems.push(what);
        }
    }

    /// Nothing is wrong, nobody was lost, and so many jobs finished.
    #[track_caller]
    pub(crate) fn spotless(&self, finished: usize) {
        assert!(self.problems.is_empty(), "{self:#?}");
        assert!(self.lost.is_empty(), "{self:#?}");
        assert_eq!(self.finished, finished, "{self:#?}");
    }
}

/// Whether a job is what was sent, with what nobody knows yet. A worker in Python writes it anew,
/// so it is compared field by field and not byte by byte (simulated workers do that).
fn carries_all(hex: &str, offered: &[&[u8]]) -> bool {
    let bytes: Option<Vec<u8>> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
        .collect();
    let Some(Ok(got)) = bytes.map(|bytes| Job::decode(&*bytes)) else {
        return false;
    };
    let is = |sent: &&[u8]| Job::decode(*sent).is_ok_and(|sent| sent == got);
    offered.iter().any(is)
}

#[test]
fn the_judge_sees_what_is_wrong() {
    use serde_json::json;
    use std::time::Duration;

    use crate::upstream::job;

    let sent = job("desk", "");
    let bytes = sent.encode_to_vec();
    let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
    let hex: String = hex.collect();
    let (id, worker) = (sent.id.clone(), "AW".to_owned());
    let record = |at, event| Record {
        at: Duration::from_millis(at),
        event,
    };
    let records = [
        record(
            10,
            Event::Offered {
                job: id.clone(),
                worker: worker.clone(),
                bytes,
            },
        ),
        record(
            20,
            Event::Assigned {
                job: id.clone(),
                worker,
                identity: "agent".to_owned(),
                token: "t".to_owned(),
            },
        ),
    ];
    let line = |event: &str, fields: Value| {
        let mut line = json!({
            "event": event, "job": id, "release": "v1", "worker": "a", "pid": 7, "how": "finish",
            "url": "ws://x", "token": "t", "bytes": hex,
        });
        for (name, value) in fields.as_object().unwrap() {
            line[name] = value.clone();
        }
        line
    };
    let none = || json!({});
    let (started, ended) = ("job.started", "job.ended");
    let told = |draining: &[(&str, Range<u64>)], killed: &[&str]| Told {
        draining: draining
            .iter()
            .map(|(r, at)| ((*r).to_owned(), at.clone()))
            .collect(),
        killed: killed.iter().map(|name| (*name).to_owned()).collect(),
        url: "ws://x".to_owned(),
    };
    let fine = [line(started, none()), line(ended, none())];
    let problems = |log: &[Value], told: &Told| judge(&records, 1_000, log, told).problems.len();
    judge(
        &records,
        1_000,
        &fine,
        &told(
            &[("v1", 1_011..2_000), ("v1", 0..1_010), ("v2", 0..2_000)],
            &[],
        ),
    )
    .spotless(1);
    assert_eq!(problems(&fine, &told(&[("v1", 1_010..1_011)], &[])), 1);
    assert_eq!(problems(&fine[..1], &told(&[], &[])), 1);
    assert_eq!(problems(&fine[..1], &told(&[], &[&id])), 0);
    assert_eq!(problems(&fine[..1], &told(&[], &["AJ_other"])), 1);
    assert_eq!(problems(&[], &told(&[], &[])), 1);
    for (changed, of) in [
        (json!({ "token": "u" }), started),
        (json!({ "url": "ws://segue" }), started),
        (json!({ "bytes": "" }), started),
        (json!({ "pid": 8 }), ended),
        (json!({ "worker": "b" }), ended),
        (json!({ "how": "cut" }), ended),
    ] {
        let mut log = fine.clone();
        log[usize::from(of == ended)] = line(of, changed.clone());
        assert_eq!(problems(&log, &told(&[], &[])), 1, "{changed}");
    }
    let mut twice = fine.to_vec();
    twice.push(line(started, none()));
    assert_eq!(problems(&twice, &told(&[], &[])), 1);
    let mut verdict = Verdict::default();
    let jobs: Vec<String> = (0..200).map(|number| format!("AJ_{number}")).collect();
    for (number, job) in jobs.iter().enumerate() {
        let release = if number < 20 { "v2" } else { "v1" };
        verdict.releases.insert(job.clone(), release.to_owned());
    }
    verdict.check_share("v2", &jobs, 0.1);
    assert!(verdict.problems.is_empty(), "{verdict:?}");
    verdict.check_share("v2", &jobs, 0.3);
    assert_eq!(verdict.problems.len(), 1);
}
