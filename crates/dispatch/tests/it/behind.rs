//! Real workers behind the dispatcher, through everything that happens to a fleet: a deployment, a
//! canary, the cutover, a rollback, workers that are told to end or killed, and a dispatcher and a
//! server that crash. `make livekit` does it with more jobs.

use std::ops::Range;
use std::time::Duration;

use rustix::process::Signal;
use segue_core::link::CallOutcome;
use segue_core::split::{Share, Split};
use serde_json::Value;
use tokio::time::sleep;

use crate::control::{AGENT, Control, Dispatcher, live, release};
use crate::direct::lasting;
use crate::fleet::{Fleet, Program, Real};
use crate::judge::{Told, Verdict, judge};
use crate::upstream::{Event, Outcome, Record, Upstream, job, now_ms};
use crate::wire::WorkerStatus;

/// From one call to the next: each takes a process, of which two cores do not start many.
const BETWEEN_CALLS: Duration = Duration::from_millis(400);

/// What a canary gets in these tests, of ten thousand.
const CANARY: Share = Share(1_000);

/// Server, dispatcher, controller and workers, and what the judge is to be told.
struct Place {
    upstream: Upstream,
    control: Control,
    dispatcher: Option<Dispatcher>,
    fleet: Fleet,
    /// Since when a release gets no jobs, as long as it gets none.
    drains: Option<(String, u64)>,
    told: Told,
    /// Every call that came in.
    calls: Vec<String>,
}

impl Place {
    async fn open() -> Self {
        let (upstream, control) = (Upstream::open().await, Control::open());
        let dispatcher = control.start(&upstream).await;
        let told = Told {
            url: upstream.url(),
            ..Told::default()
        };
        Self {
            upstream,
            control,
            dispatcher: Some(dispatcher),
            fleet: Fleet::new(),
            drains: None,
            told,
            calls: Vec::new(),
        }
    }

    fn dispatcher(&self) -> &Dispatcher {
        self.dispatcher.as_ref().expect("it runs")
    }

    /// Starts a worker that says itself which release it is of.
    fn start(&self, program: Program, name: &str, release: &str) -> Real {
        let url = format!("{}/", self.dispatcher().url);
        let env = [("AGENT_NAME", AGENT), ("LIVEKIT_AGENT_DEPLOYMENT", release)];
        self.fleet.start(program, name, release, &url, &env)
    }

    /// Starts one that knows nothing of releases: its address says it.
    fn start_by_address(&self, name: &str, release: &str) -> Real {
        let url = format!("{}/w/{release}", self.dispatcher().url);
        let env = [("AGENT_NAME", AGENT)];
        self.fleet.start(Program::Python, name, release, &url, &env)
    }

    /// Waits until so many workers are there and the server knows that jobs are taken.
    async fn until_workers(&self, count: usize) {
        let workers = || {
            let running = self.dispatcher().running.as_ref();
            running.map_or(0, |running| running.workers().len())
        };
        let what = format!("{count} workers");
        self.fleet.until(&what, |_| workers() == count).await;
        self.until_taken().await;
    }

    /// Waits until the connection that the server knows takes jobs.
    async fn until_taken(&self) {
        self.upstream.until_registered(AGENT, 1).await;
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
    async fn calls(&mut self, count: usize, seconds: f64) {
        for _ in 0..count {
            let call = job(AGENT, &lasting(seconds));
            let outcome = self.upstream.launch(&call).await;
            assert_eq!(outcome, Outcome::Assigned, "call {}", self.calls.len());
            self.calls.push(call.id);
            sleep(BETWEEN_CALLS).await;
        }
    }

    /// All calls go to one release; none to the other, from when that is acknowledged.
    async fn all_to(&mut self, to: &str, other: &str) {
        self.ends_draining();
        self.control.split(Split::all(release(to))).await;
        self.drains = Some((other.to_owned(), now_ms()));
    }

    /// Whoever drained until now may get calls again.
    fn ends_draining(&mut self) {
        if let Some((release, since)) = self.drains.take() {
            let span: Range<u64> = since..now_ms();
            self.told.draining.push((release, span));
        }
    }

    async fn crash_dispatcher(&mut self) {
        self.dispatcher.take().expect("it runs").kill();
        self.dispatcher = Some(self.control.start(&self.upstream).await);
    }

    /// Waits until every call has begun, so that a worker that is killed has a known number.
    async fn begun(&self) {
        let what = format!("{} calls have begun", self.calls.len());
        let started = |lines: &[Value]| {
            let started = lines.iter().filter(|line| line["event"] == "job.started");
            started.count() == self.calls.len()
        };
        self.fleet.until(&what, started).await;
    }

    /// How many calls of a worker have begun and not ended.
    fn calls_of(&self, worker: &str) -> usize {
        let lines = self.fleet.jobs();
        let of = |event: &str| {
            let of = lines
                .iter()
                .filter(|line| line["event"] == event && line["worker"] == worker);
            of.count()
        };
        of("job.started") - of("job.ended")
    }

    /// Judges everything so far. Who drains now drains for good.
    fn judge(&mut self) -> Verdict {
        if let Some((release, since)) = self.drains.take() {
            self.told.draining.push((release, since..u64::MAX));
        }
        let (records, log) = (self.upstream.records().all(), self.fleet.jobs());
        judge(&records, self.upstream.began_ms(), &log, &self.told)
    }

    /// Waits until nobody calls any more, by the dispatcher's account.
    async fn silence(&self) {
        let none = |told: &crate::control::Told| live(told, "v1") + live(told, "v2") == 0;
        self.control.until("all calls have ended", none).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_replaced_without_a_lost_call() {
    fleet_is_replaced(2, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: make livekit"]
async fn a_fleet_is_replaced_without_a_lost_call_of_two_hundred() {
    fleet_is_replaced(15, 100).await;
}

/// `calls`: how many come in each of seven parts; `tried`: while there is a canary.
async fn fleet_is_replaced(calls: usize, tried: usize) {
    let mut place = Place::open().await;
    let mut a = place.start(Program::Python, "a", "v1");
    let b = place.start_by_address("b", "v1");
    let c = place.start(Program::Python, "c", "v2");
    let d = place.start(Program::Python, "d", "v2");
    place.until_workers(4).await;

    // Nothing but the release that is current gets calls, though the other one is there.
    place.drains = Some(("v2".to_owned(), now_ms()));
    place.calls(calls, 4.0).await;
    place.ends_draining();

    // A canary.
    let before = place.calls.len();
    let ramp = Split::ramp(release("v2"), CANARY, release("v1"));
    place.control.split(ramp).await;
    place.calls(tried, 2.0).await;
    let canary = before..place.calls.len();

    // The cutover, with calls in the air; a worker of the old release is told to end.
    place.calls(calls, 6.0).await;
    place.all_to("v2", "v1").await;
    a.signal(Signal::TERM);
    place.calls(calls, 6.0).await;
    assert_eq!(a.ended().await, Some(0), "{}", a.said());

    // The dispatcher crashes; its workers come back with their calls.
    place.begun().await;
    place.crash_dispatcher().await;
    place.until_workers(3).await;
    place.calls(calls, 6.0).await;

    // Back to the release before, of which one worker is left.
    place.all_to("v1", "v2").await;
    place.calls(calls, 4.0).await;
    place.all_to("v2", "v1").await;

    // The server crashes, and its memory with it. Calls are not its memory.
    place.begun().await;
    place.upstream.restart().await;
    place.until_taken().await;
    place.calls(calls, 6.0).await;

    // A worker is killed. What it had is gone with it; nothing else is.
    place.begun().await;
    c.signal(Signal::KILL);
    place.told.killed.push("c".to_owned());
    place.until_workers(2).await;
    place.calls(calls, 1.0).await;
    place.begun().await;

    let quiet = |_: &[Value]| ["a", "b", "d"].iter().all(|name| place.calls_of(name) == 0);
    place.fleet.until("all calls have ended", quiet).await;
    let mut verdict = place.judge();
    let log = place.fleet.jobs();
    let share = f64::from(CANARY.0) / 10_000.0;
    verdict.check_share("v2", &place.calls[canary], share);
    let finished = place.calls.len() - verdict.killed.len();
    verdict.spotless(finished);

    // What was told of the calls is what was seen of them.
    let ended = |told: &crate::control::Told| told.ended.len() >= finished;
    let told = place.control.until("their ends are told", ended).await;
    for record in &told.ended {
        let of = log.iter().find(|line| line["job"] == record.call.as_str());
        let label = of.expect("a call that began")["release"].as_str();
        assert_eq!(label.map(release), Some(record.release), "{record:?}");
        let lost = verdict.killed.iter().any(|id| id == record.call.as_str());
        let completed = record.outcome == CallOutcome::Completed;
        assert_eq!(completed, !lost, "{record:?}");
    }
    drop((b, d));
}

#[tokio::test(flavor = "multi_thread")]
async fn openrtc_is_drained_without_a_lost_call() {
    drained(Program::OpenRtc).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node and its packages: make livekit"]
async fn node_is_drained_without_a_lost_call() {
    drained(Program::Node).await;
}

/// One worker for each release; the first is drained by the table and then told to end.
async fn drained(program: Program) {
    const CALLS: usize = 3;
    let mut place = Place::open().await;
    let mut old = place.start(program, "old", "v1");
    let _new = place.start(program, "new", "v2");
    place.until_workers(2).await;
    place.calls(CALLS, 6.0).await;
    place.begun().await;
    place.all_to("v2", "v1").await;
    if let Program::OpenRtc = program {
        // As its own deployments do. It would take every call now, and answer none.
        old.signal(Signal::USR1);
        old.until_says("Pool draining", 1).await;
    }
    place.calls(CALLS, 1.0).await;
    old.signal(Signal::TERM);
    let over = |_: &[Value]| place.calls_of("old") + place.calls_of("new") == 0;
    place.begun().await;
    place.fleet.until("all calls have ended", over).await;
    let code = if let Program::Node = program {
        // It says nothing of its calls; that its agents have left their rooms the server knows.
        for call in &place.calls {
            assert!(place.upstream.terminate(call));
        }
        143
    } else {
        0
    };
    place.silence().await;
    assert_eq!(old.ended().await, Some(code), "{}", old.said());
    let verdict = place.judge();
    verdict.spotless(2 * CALLS);
    assert_eq!(verdict.by_release["v1"], CALLS);
}
