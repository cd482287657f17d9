//! The callers: people who talk for a while, hang up, and call again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use segue_voice::caller::{CallPlan, call};
use segue_voice::calllog::CallLog;
use segue_voice::random::Random;
use tokio::task::JoinSet;

/// Shortest call.
const CALL_MS_MIN: u64 = 3_000;

/// Longest call, before the goodbye. Short, so that a drain fits into a demo.
pub(crate) const CALL_MS_MAX: u64 = 10_000;

/// Over how long the first calls are spread.
const ARRIVE_MS: u64 = 3_000;

/// Rest between two calls of one person, at most.
const REST_MS_MAX: u64 = 400;

/// How long the last calls may take to end: the longest, its goodbye and some patience.
const END_MAX: Duration = Duration::from_secs(30);

/// People who call.
pub(crate) struct Crowd {
    people: JoinSet<()>,
    closing: Arc<AtomicBool>,
}

impl Crowd {
    /// Lets `count` people call `url` again and again.
    pub(crate) fn gather(url: &str, logs: &Path, count: u32, seed: u64) -> std::io::Result<Self> {
        let log = Arc::new(CallLog::open(&logs.join("callers.jsonl"))?);
        let closing = Arc::new(AtomicBool::new(false));
        let mut people = JoinSet::new();
        for person in 0..count {
            let random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(person)));
            let (url, log, closing) = (url.to_owned(), Arc::clone(&log), Arc::clone(&closing));
            people.spawn(live(url, log, closing, random));
        }
        Ok(Self { people, closing })
    }

    /// Nobody calls again; waits for the last goodbye. Answers how many never came.
    pub(crate) async fn disperse(mut self) -> usize {
        self.closing.store(true, Ordering::Relaxed);
        let goodbye = async { while self.people.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(END_MAX, goodbye).await;
        self.people.len()
    }
}

async fn live(url: String, log: Arc<CallLog>, closing: Arc<AtomicBool>, mut random: Random) {
    tokio::time::sleep(Duration::from_millis(random.below(ARRIVE_MS))).await;
    while !closing.load(Ordering::Relaxed) {
        one_call(&url, Vec::new(), &log, &mut random).await;
        tokio::time::sleep(Duration::from_millis(random.below(REST_MS_MAX))).await;
    }
}

/// One call, with the id a carrier would give it.
pub(crate) async fn one_call(
    url: &str,
    headers: Vec<(String, String)>,
    log: &Arc<CallLog>,
    random: &mut Random,
) {
    let id = format!("CA{:016x}{:016x}", random.next(), random.next());
    let talk_ms = CALL_MS_MIN + random.below(CALL_MS_MAX - CALL_MS_MIN);
    let mut plan = CallPlan::new(url, &id, talk_ms);
    plan.headers = headers;
    plan.seed = random.next();
    // Whether the right words are said is what smoke calls are for; here it counts that somebody
    // keeps talking.
    plan.listen = false;
    plan.log = Arc::clone(log);
    call(&plan).await;
}
