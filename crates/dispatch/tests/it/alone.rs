//! The same fleets without Segue: what `docs/livekit.md` says of them is seen here, at the same
//! server and by the same judge.

use rustix::process::Signal;

use crate::fleet::{Fleet, Program};
use crate::judge::{Told, judge};
use crate::sim::{Plan, Seen, Sim};
use crate::traffic::lasting;
use crate::upstream::{Event, Outcome, Record, Rules, Upstream, job};
use crate::wire::WorkerStatus;

#[tokio::test]
async fn the_server_splits_by_load_and_knows_no_releases() {
    const JOBS: u32 = 200;
    let upstream = Upstream::open_with(Rules {
        choosing: std::time::Duration::ZERO,
        ..Rules::default()
    })
    .await;
    // Nine workers' worth of traffic was meant for the first; the second was meant to be tried out.
    let plan = Plan::new(&upstream.url(), "desk");
    let (stable, canary) = (Sim::start(&plan).await, Sim::start(&plan).await);
    for _ in 0..JOBS {
        assert_eq!(upstream.launch(&job("desk", "")).await, Outcome::Assigned);
    }
    let took = |sim: &Sim| {
        let offered = |seen: &Seen| u32::from(matches!(seen, Seen::Offered(_)));
        sim.seen().iter().map(offered).sum::<u32>()
    };
    let share = took(&canary);
    assert_eq!(took(&stable) + share, JOBS);
    assert!((80..=120).contains(&share), "{share} of {JOBS}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openrtc_that_begins_to_drain_throws_accepted_calls_away() {
    const CALLS: usize = 3;
    let upstream = Upstream::open().await;
    let fleet = Fleet::new();
    let env = [("AGENT_NAME", "desk")];
    let worker = fleet.start(Program::OpenRtc, "a", "v1", &upstream.url(), &env);
    upstream.until_registered("desk", 1).await;
    let before = job("desk", &lasting(4.0));
    assert_eq!(upstream.launch(&before).await, Outcome::Assigned);
    fleet
        .until("the call has begun", |lines| lines.len() == 1)
        .await;
    worker.signal(Signal::USR1);
    worker.until_says("Pool draining", 1).await;

    // It still says that it is available,
    let told = upstream.records().all().len();
    let available = |record: &Record| {
        let status = Some(WorkerStatus::Available);
        matches!(record.event, Event::Status { status: is, .. } if is == status).then_some(())
    };
    let records = upstream.records();
    let what = "it says that it is available";
    records
        .until(what, |all| all[told..].iter().find_map(available))
        .await;
    // says yes to every call, and answers none.
    for _ in 0..CALLS {
        let call = job("desk", &lasting(1.0));
        assert_eq!(upstream.launch(&call).await, Outcome::Assigned);
    }
    worker.until_says("job_request_fnc failed", CALLS).await;
    fleet
        .until("the first call has ended", |lines| lines.len() == 2)
        .await;
    let told = Told {
        url: upstream.url(),
        ..Told::default()
    };
    let verdict = judge(&records.all(), upstream.began_ms(), &fleet.jobs(), &told);
    assert_eq!((verdict.assigned, verdict.finished), (CALLS + 1, 1));
    let silent = |problem: &&String| problem.ends_with("started 0 times");
    assert_eq!(
        verdict.problems.iter().filter(silent).count(),
        CALLS,
        "{verdict:#?}"
    );
}
