//! Handoffs with a keeper, in which the taker dies, the giver dies, or both do: whoever is left, or
//! comes next, has every call, and nobody else has one.

use std::time::Duration;

use segue_gateway::handoff::fail::TAKER;
use segue_gateway::keeper::{Keeper, census};
use tokio::process::Child;

use crate::keeper::{Scene, Talkers, holds, keeper, signal, socket};
use crate::support::agent::Manner;
use crate::support::gateway::{Process, child};
use crate::support::{Dir, soon, until};

const CALLS: u64 = 20;

/// Deaths of a giver, and of its taker if that dies by itself.
const BOTH: [(&str, &str); 11] = [
    ("handoff.settled", ""),
    ("handoff.sealed", ""),
    ("handoff.ahead_sent", ""),
    ("handoff.stopped", ""),
    ("handoff.sent", "handoff.adopted"),
    ("handoff.heard_ready", "handoff.ready"),
    ("handoff.said_yours", "handoff.yours"),
    ("handoff.said_yours", "handoff.owned"),
    ("handoff.heard_took", "handoff.took"),
    ("keeper.renewing", "handoff.owned"),
    ("keeper.renewed", "handoff.owned"),
];

fn crash(step: &str) -> String {
    format!("{step}=crash")
}

fn taker(dir: &Dir, fail: &str) -> Child {
    child("gateway")
        .env("SEGUE_TEST_DIR", dir.path())
        .env("SEGUE_TEST_TAKES", "yes")
        .env("SEGUE_FAIL_AT", fail)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// All calls go on, one gateway keeps them, and nothing is left of others.
async fn one_owner(scene: &mut Scene, talkers: &mut Talkers, when: &str) {
    talkers.turn_page().await;
    let what = format!("one gateway that keeps all calls, {when}");
    holds(scene.dir.path(), &what, |f| {
        (f.held, f.orphaned, f.gateways) == (CALLS, 0, 1)
    })
    .await;
    scene.counts(CALLS).await;
}

async fn start(dir: Dir, fail: &str) -> (Scene, Talkers) {
    let mut scene = Scene::start_failing(dir, Manner::Stream, fail).await;
    let calls = usize::try_from(CALLS).unwrap();
    let mut talkers = Talkers::start(scene.gateway.addr, "long", calls).await;
    one_owner(&mut scene, &mut talkers, "at first").await;
    (scene, talkers)
}

async fn end(mut scene: Scene, talkers: Talkers) {
    let heard = talkers.hang_up().await;
    scene.counts(0).await;
    scene.checked(heard);
    scene.gateway.terminate();
    assert!(scene.gateway.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taker_that_dies_at_any_step_leaves_every_call_to_one_gateway() {
    let dir = Dir::new();
    let _keeper = Keeper::start(&socket(dir.path())).unwrap();
    let (mut scene, mut talkers) = start(dir, "").await;
    for step in TAKER {
        let mut dies = taker(&scene.dir, &crash(&format!("handoff.{step}")));
        let ended = soon("its death", dies.wait()).await.unwrap();
        assert!(!ended.success(), "{step}");
        one_owner(&mut scene, &mut talkers, step).await;
    }
    // One that is stuck there is ended by the giver.
    for step in ["yours", "owned"] {
        let mut stuck = taker(&scene.dir, &format!("handoff.{step}=stall"));
        let ended = soon("its end", stuck.wait()).await.unwrap();
        assert!(!ended.success(), "{step}");
        one_owner(&mut scene, &mut talkers, step).await;
    }
    // Killed now, the giver leaves what it has said anew.
    scene.kill().await;
    one_owner(&mut scene, &mut talkers, "in the next one").await;
    // Behind that step the giver has let go, and ends.
    let mut dies = taker(&scene.dir, &crash("handoff.took"));
    assert!(!soon("its death", dies.wait()).await.unwrap().success());
    assert!(scene.gateway.ended().await.success());
    scene.gateway = Process::start(scene.dir.path(), false).await;
    one_owner(&mut scene, &mut talkers, "took").await;
    end(scene, talkers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_that_die_in_a_handoff_leave_every_call_to_the_next() {
    for (giver, step) in BOTH {
        let dir = Dir::new();
        let _keeper = Keeper::start(&socket(dir.path())).unwrap();
        let (mut scene, mut talkers) = start(dir, &crash(giver)).await;
        let fail = if step.is_empty() {
            String::new()
        } else {
            crash(step)
        };
        let mut dies = taker(&scene.dir, &fail);
        let ended = soon("the end of the taker", dies.wait()).await.unwrap();
        assert!(!ended.success(), "{giver} {step}");
        assert!(!scene.gateway.ended().await.success(), "{giver} {step}");
        scene.gateway = Process::start(scene.dir.path(), false).await;
        one_owner(&mut scene, &mut talkers, &format!("{giver} {step}")).await;
        end(scene, talkers).await;
    }
}

/// Killed at any time, by SIGKILL from outside.
#[tokio::test(flavor = "multi_thread")]
async fn a_taker_that_is_killed_at_any_time_leaves_every_call_to_one_gateway() {
    const KILLS: u64 = 16;
    let dir = Dir::new();
    let _keeper = Keeper::start(&socket(dir.path())).unwrap();
    let (mut scene, mut talkers) = start(dir, "").await;
    let mut given = 0;
    for number in 0..KILLS {
        let mut killed = taker(&scene.dir, "");
        // Spread over what a start and a handoff take here.
        let after = Duration::from_millis(2 * number);
        let _ = tokio::time::timeout(after, killed.wait()).await;
        killed.kill().await.unwrap();
        let keeper = socket(scene.dir.path());
        let serves = until("a giver that serves or has ended", || {
            if scene.gateway.child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            let figures = census(&keeper).ok()?;
            ((figures.held, figures.orphaned, figures.gateways) == (CALLS, 0, 1)).then_some(true)
        });
        if !serves.await {
            given += 1;
            scene.gateway = Process::start(scene.dir.path(), false).await;
        }
        one_owner(&mut scene, &mut talkers, "behind a kill").await;
    }
    println!("{given} of {KILLS} takers were killed behind the handoff");
    end(scene, talkers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_giver_that_dies_leaves_every_call_to_its_taker() {
    for giver in ["heard_ready", "said_yours", "heard_took"] {
        let dir = Dir::new();
        let _keeper = Keeper::start(&socket(dir.path())).unwrap();
        let (mut scene, mut talkers) = start(dir, &crash(&format!("handoff.{giver}"))).await;
        let next = Process::start(scene.dir.path(), true).await;
        let mut before = std::mem::replace(&mut scene.gateway, next);
        assert!(!before.ended().await.success(), "{giver}");
        one_owner(&mut scene, &mut talkers, giver).await;
        // What it keeps is its own, and no shadow of the other one's.
        scene.kill().await;
        one_owner(&mut scene, &mut talkers, "in the next one").await;
        end(scene, talkers).await;
    }
}

/// It keeps nobody from upgrading, and has all calls once it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_stands_still_holds_no_handoff_up() {
    let dir = Dir::new();
    let stopped = keeper(dir.path()).await;
    let (mut scene, mut talkers) = start(dir, "").await;
    signal(&stopped, rustix::process::Signal::STOP);
    let next = Process::start(scene.dir.path(), true).await;
    let mut before = std::mem::replace(&mut scene.gateway, next);
    assert!(before.ended().await.success());
    talkers.turn_page().await;
    signal(&stopped, rustix::process::Signal::CONT);
    one_owner(&mut scene, &mut talkers, "once it goes on").await;
    scene.kill().await;
    one_owner(&mut scene, &mut talkers, "in the next one").await;
    end(scene, talkers).await;
}
