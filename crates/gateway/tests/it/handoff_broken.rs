//! Handoffs that break, at every step of either side, under talking calls.

use segue_gateway::handoff::fail::{GIVEN, GIVER, TAKER};
use tokio::process::Child;

use crate::handoff::Callers;
use crate::support::agent::{Agent, Manner};
use crate::support::controller::Controller;
use crate::support::gateway::{Process, child};
use crate::support::rig::Rig;
use crate::support::table::table;
use crate::support::{Dir, soon, until};

const CALLS: usize = 10;

/// A gateway that takes over, and breaks on the way.
fn taker(dir: &Dir, fail: &str) -> Child {
    child("gateway")
        .env("SEGUE_TEST_DIR", dir.path())
        .env("SEGUE_TEST_TAKES", "yes")
        .env("SEGUE_FAIL_AT", fail)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// No frame was lost, doubled or changed on the way, in either direction.
async fn whole(parts: impl IntoIterator<Item = Callers>, agent: &Agent) {
    let (mut calls, mut sent, mut received) = (0, 0, 0);
    for callers in parts {
        calls += callers.calls;
        let (s, r) = callers.hang_up().await;
        (sent, received) = (sent + s, received + r);
    }
    until("the ends at the workers", || {
        (agent.seen.lock().unwrap().streams.len() == calls).then_some(())
    })
    .await;
    let seen = agent.seen.lock().unwrap();
    assert_eq!(seen.faults, Vec::<String>::new());
    let total = |of: fn(&(u64, u64)) -> u64| seen.streams.iter().map(of).sum::<u64>();
    assert_eq!(total(|(_, to)| *to), sent);
    assert_eq!(total(|(by, _)| *by), received);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taker_that_crashes_or_fails_at_any_step_changes_nothing() {
    let rig = Rig::start(Manner::Stream, Manner::Echo).await;
    let mut callers = Callers::start(rig.gateway.addr, CALLS).await;
    callers.turn_page().await;
    for step in TAKER {
        for action in ["crash", "error"] {
            let mut taker = taker(&rig.dir, &format!("handoff.{step}={action}"));
            let ended = soon("the end of the taker", taker.wait()).await.unwrap();
            assert!(!ended.success(), "{step} {action}: it took over");
            callers.turn_page().await;
        }
    }
    // New calls come in as ever.
    let mut late = Callers::start(rig.gateway.addr, 1).await;
    late.turn_page().await;
    whole([callers, late], &rig.v1).await;
}

/// One that is stuck keeps calls waiting only for a moment, and never gets them.
#[tokio::test(flavor = "multi_thread")]
async fn a_taker_that_is_stuck_at_any_step_is_given_up() {
    let rig = Rig::start(Manner::Stream, Manner::Echo).await;
    let mut callers = Callers::start(rig.gateway.addr, CALLS).await;
    for step in TAKER {
        let mut stuck = taker(&rig.dir, &format!("handoff.{step}=stall"));
        callers.turn_page().await;
        // The next one is heard once the stuck one is given up.
        let mut breaks = taker(&rig.dir, "handoff.welcomed=error");
        let ended = soon("the end of the next", breaks.wait()).await.unwrap();
        assert!(!ended.success(), "{step}");
        callers.turn_page().await;
        stuck.kill().await.unwrap();
        callers.turn_page().await;
    }
    whole([callers], &rig.v1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_giver_that_fails_at_any_step_serves_on() {
    for step in GIVER {
        let dir = Dir::new();
        let agent = Agent::start(Manner::Stream).await;
        let workers = [("w1", "v1", agent.addr)];
        let mut controller = Controller::start(dir.path(), table(1, "v1", &workers));
        let fail = format!("handoff.{step}=error");
        let mut giver = Process::start_failing(dir.path(), false, &fail).await;
        controller
            .report("the first table", |report| report.epoch.0 == 1)
            .await;
        let mut callers = Callers::start(giver.addr, CALLS).await;
        callers.turn_page().await;
        // Else it may have said that it took, which no failure of the giver takes back.
        let slow = if step == "said_yours" {
            "handoff.yours=stall"
        } else {
            ""
        };
        let mut refused = taker(&dir, slow);
        let ended = soon("the end of the taker", refused.wait()).await.unwrap();
        assert!(!ended.success(), "{step}: it took over");
        callers.turn_page().await;
        let mut late = Callers::start(giver.addr, 1).await;
        late.turn_page().await;
        whole([callers, late], &agent).await;
        giver.terminate();
        assert!(giver.ended().await.success());
    }
}

/// At the very moment of the change: whoever of the two goes on has every call, and the other one
/// ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_giver_that_gives_up_as_the_taker_takes_leaves_one_of_them() {
    const TRIES: usize = 6;
    let mut taken = 0;
    for _ in 0..TRIES {
        let dir = Dir::new();
        let agent = Agent::start(Manner::Stream).await;
        let workers = [("w1", "v1", agent.addr)];
        let mut controller = Controller::start(dir.path(), table(1, "v1", &workers));
        let fail = "handoff.said_yours=error";
        let mut giver = Process::start_failing(dir.path(), false, fail).await;
        controller
            .report("the first table", |report| report.epoch.0 == 1)
            .await;
        let mut callers = Callers::start(giver.addr, CALLS).await;
        callers.turn_page().await;
        let mut taker = taker(&dir, "");
        let (by_taker, ended) = soon("the end of one of them", async {
            tokio::select! {
                ended = giver.child.wait() => (true, ended.unwrap()),
                ended = taker.wait() => (false, ended.unwrap()),
            }
        })
        .await;
        assert_eq!(ended.success(), by_taker, "only a giver ends in order");
        taken += usize::from(by_taker);
        callers.turn_page().await;
        let mut late = Callers::start(giver.addr, 1).await;
        late.turn_page().await;
        whole([callers, late], &agent).await;
    }
    println!("{taken} of {TRIES} takers were in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_giver_that_crashes_once_the_taker_is_ready_loses_nothing() {
    for step in GIVEN {
        let dir = Dir::new();
        let agent = Agent::start(Manner::Stream).await;
        let workers = [("w1", "v1", agent.addr)];
        let mut controller = Controller::start(dir.path(), table(1, "v1", &workers));
        let fail = format!("handoff.{step}=crash");
        let mut giver = Process::start_failing(dir.path(), false, &fail).await;
        controller
            .report("the first table", |report| report.epoch.0 == 1)
            .await;
        let mut callers = Callers::start(giver.addr, CALLS).await;
        callers.turn_page().await;
        let mut next = Process::start(dir.path(), true).await;
        assert_eq!(next.addr, giver.addr);
        assert!(!giver.ended().await.success(), "{step}: it crashed");
        callers.turn_page().await;
        whole([callers], &agent).await;
        next.terminate();
        assert!(next.ended().await.success());
    }
}
