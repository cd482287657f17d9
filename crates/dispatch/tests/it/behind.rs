//! Real workers behind the dispatcher, through everything that happens to a fleet: a deployment, a
//! canary, the cutover, a rollback, workers that are told to end or killed, and a dispatcher and a
//! server that crash. `make livekit` does it with more jobs.

use rustix::process::Signal;
use segue_core::link::CallOutcome;
use segue_core::split::{Share, Split};

use crate::control::{AGENT, Control, Dispatcher, live, release};
use crate::fleet::{Fleet, Program, Real};
use crate::traffic::Traffic;

/// What a canary gets in these tests, of ten thousand.
const CANARY: Share = Share(1_000);

/// Server and calls, dispatcher, controller and workers.
struct Place {
    traffic: Traffic,
    control: Control,
    dispatcher: Option<Dispatcher>,
    fleet: Fleet,
}

impl Place {
    async fn open() -> Self {
        let fleet = Fleet::new();
        let traffic = Traffic::open(AGENT, fleet.log()).await;
        let control = Control::open();
        let dispatcher = control.start(&traffic.upstream).await;
        Self {
            traffic,
            control,
            dispatcher: Some(dispatcher),
            fleet,
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
        self.traffic.until_taken().await;
    }

    /// All calls go to one release; none to the other, from when that is acknowledged.
    async fn all_to(&mut self, to: &str, other: &str) {
        self.traffic.ends_draining();
        self.control.split(Split::all(release(to))).await;
        self.traffic.drains(other);
    }

    async fn crash_dispatcher(&mut self) {
        self.dispatcher.take().expect("it runs").kill();
        self.dispatcher = Some(self.control.start(&self.traffic.upstream).await);
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
    place.traffic.drains("v2");
    place.traffic.calls(calls, 4.0).await;
    place.traffic.ends_draining();

    // A canary.
    let ramp = Split::ramp(release("v2"), CANARY, release("v1"));
    place.control.split(ramp).await;
    let canary = place.traffic.calls(tried, 2.0).await;

    // The cutover, with calls in the air; a worker of the old release is told to end.
    place.traffic.calls(calls, 6.0).await;
    place.all_to("v2", "v1").await;
    a.signal(Signal::TERM);
    place.traffic.calls(calls, 6.0).await;
    assert_eq!(a.ended().await, Some(0), "{}", a.said());

    // The dispatcher crashes; its workers come back with their calls.
    place.traffic.begun().await;
    place.crash_dispatcher().await;
    place.until_workers(3).await;
    place.traffic.calls(calls, 6.0).await;

    // Back to the release before, of which one worker is left.
    place.all_to("v1", "v2").await;
    place.traffic.calls(calls, 4.0).await;
    place.all_to("v2", "v1").await;

    // The server crashes, and its memory with it. Calls are not its memory.
    place.traffic.begun().await;
    place.traffic.upstream.restart().await;
    place.traffic.until_taken().await;
    place.traffic.calls(calls, 6.0).await;

    // A worker is killed. What it had is gone with it; nothing else is.
    place.traffic.begun().await;
    place.traffic.kills("c");
    c.signal(Signal::KILL);
    place.until_workers(2).await;
    place.traffic.calls(calls, 1.0).await;
    place.traffic.silence().await;

    let mut verdict = place.traffic.judge();
    let log = place.fleet.jobs();
    let share = f64::from(CANARY.0) / 10_000.0;
    verdict.check_share("v2", &place.traffic.calls[canary], share);
    let finished = place.traffic.calls.len() - verdict.killed.len();
    verdict.spotless(finished);

    // What was told of the calls is what was seen of them.
    let ended = |told: &crate::control::Told| told.ended.len() >= place.traffic.survivors();
    let told = place.control.until("their ends are told", ended).await;
    for record in &told.ended {
        let of = log.iter().find(|line| line["job"] == record.call.as_str());
        let label = of.expect("a call that began")["release"].as_str();
        assert_eq!(label.map(release), Some(record.release), "{record:?}");
        let lost = place.traffic.is_lost(record.call.as_str());
        let completed = record.outcome == CallOutcome::Completed;
        assert_eq!(completed, !lost, "{record:?}");
    }
    eprintln!("nobody took calls for {:?}", place.traffic.gaps());
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
    place.traffic.calls(CALLS, 6.0).await;
    place.traffic.begun().await;
    place.all_to("v2", "v1").await;
    if let Program::OpenRtc = program {
        // As its own deployments do. It would take every call now, and answer none.
        old.signal(Signal::USR1);
        old.until_says("Pool draining", 1).await;
    }
    place.traffic.calls(CALLS, 1.0).await;
    old.signal(Signal::TERM);
    place.traffic.silence().await;
    let code = if let Program::Node = program {
        // It says nothing of its calls; that its agents have left their rooms the server knows.
        for call in &place.traffic.calls {
            assert!(place.traffic.upstream.terminate(call));
        }
        143
    } else {
        0
    };
    place.silence().await;
    assert_eq!(old.ended().await, Some(code), "{}", old.said());
    let verdict = place.traffic.judge();
    verdict.spotless(2 * CALLS);
    assert_eq!(verdict.by_release["v1"], CALLS);
}
