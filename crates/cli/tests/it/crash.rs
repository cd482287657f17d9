//! Crashes: of the controller at any instant, of everything at once, of the journal.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::site::{SETTINGS, Site, reports};

/// Instants at which the controller is killed.
const KILLS: u64 = 25;

/// Kills in one rollout.
const KILLS_PER_ROLLOUT: usize = 5;

/// Spreads the kills over the rollouts; printed when the test fails.
const SEED: u64 = 0x5E60E;

fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// kill -9 of the controller at 25 random instants of rollouts under calls: each rollout goes on
/// where the journal says, and no call notices.
#[tokio::test(flavor = "multi_thread")]
async fn the_controller_is_killed_at_any_instant() {
    let fast = "\n[[agents.desk.steps]]\nshare = \"30%\"\nmin_duration = \"500ms\"\n";
    let site = Site::open_with(SETTINGS, fast).await;
    site.deploy("v1");
    let mut state = SEED;
    let mut kills = 0;
    let mut release = 1;
    let crowd = site.crowd("long", 8, 45_000);
    site.live(8).await;
    while kills < KILLS {
        release += 1;
        let label = format!("v{release}");
        site.until("a controller takes the deploy", || {
            site.run(&["deploy", &label, "--wait", "none"])
                .status
                .success()
                || site.release(&label).is_some()
        })
        .await;
        for _ in 0..KILLS_PER_ROLLOUT {
            // At any instant, that of its own recovery included.
            tokio::time::sleep(Duration::from_millis(next(&mut state) % 700)).await;
            let pid = site.pid("run/controller.json");
            if site.kill("run/controller.json") {
                kills += 1;
            }
            site.until("the controller is started again", || {
                site.pid("run/controller.json")
                    .is_some_and(|now| Some(now) != pid)
            })
            .await;
        }
        site.becomes(&label, "current").await;
        assert_eq!(
            site.json(&["audit", "--verify"])["ok"],
            true,
            "seed {SEED:#x}"
        );
    }
    reports(crowd).await;
    let verdict = site.judge();
    assert_eq!(
        (verdict.started, verdict.dropped),
        (8, 0),
        "seed {SEED:#x}: {verdict:?}"
    );
}

/// The death of the gateway and of the supervisor that keeps its calls, at once, loses them: that
/// is counted, and new ones route again; workers and the rollout survive everything else.
#[tokio::test(flavor = "multi_thread")]
async fn everything_is_killed_and_started_again() {
    let mut site = Site::open().await;
    site.deploy("v1");
    let crowd = site.crowd("a", 5, 20_000);
    site.live(5).await;
    let workers = site.workers("v1");
    site.kill_serve();
    site.kill("run/controller.json");
    site.kill("run/gateway.json");
    let cut = reports(crowd).await;
    assert_eq!(cut.len(), 5);
    assert_eq!(site.judge().dropped, 5);
    site.serve().await;
    site.until("v1 takes calls again", || {
        site.release("v1")
            .is_some_and(|release| release["workers_ready"] == 2)
    })
    .await;
    assert_eq!(
        site.workers("v1"),
        workers,
        "workers outlive everything and are found again"
    );
    site.until("Segue counts the lost calls, too", || {
        site.release("v1").is_some_and(|v1| v1["lost"] == 5)
    })
    .await;
    let again = reports(site.crowd("b", 5, 2_000)).await;
    assert!(
        again.iter().all(|report| report.turns_heard() > 0),
        "{again:?}"
    );
    assert_eq!(site.judge().dropped, 5);
    site.deploy("v2");
}

/// The supervisor alone can go and come back: it finds both processes, and no call notices.
#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_is_replaced_under_calls() {
    let mut site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 4, 8_000);
    site.live(4).await;
    let before = (
        site.pid("run/gateway.json"),
        site.pid("run/controller.json"),
    );
    site.kill_serve();
    site.serve().await;
    assert_eq!(
        (
            site.pid("run/gateway.json"),
            site.pid("run/controller.json")
        ),
        before
    );
    site.end_serve(Signal::TERM).await;
    site.serve().await;
    assert_eq!(
        (
            site.pid("run/gateway.json"),
            site.pid("run/controller.json")
        ),
        before
    );
    reports(crowd).await;
    site.spotless(4);
}

/// Ctrl-C waits for live calls, and then leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_waits_for_the_last_call() {
    let mut site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let workers = site.workers("v1");
    let crowd = site.crowd("a", 3, 5_000);
    site.live(3).await;
    site.end_serve(Signal::INT).await;
    reports(crowd).await;
    site.spotless(3);
    for pid in workers {
        assert!(
            rustix::process::test_kill_process(pid).is_err(),
            "a worker was left behind"
        );
    }
    assert!(site.pid("run/gateway.json").is_none());
}

fn journal(site: &Site) -> PathBuf {
    let is_database = |path: &PathBuf| path.extension().is_some_and(|e| e == "sqlite" || e == "db");
    let mut files = std::fs::read_dir(site.home())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .find(is_database)
        .expect("the journal is in the state folder")
}

/// A journal that cannot be written: the old release serves on, the operator is told, and once it
/// can be written again the rollout goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_journal_stops_decisions_and_no_call() {
    let slow = "\n[[agents.desk.steps]]\nshare = \"20%\"\nmin_duration = \"60s\"\n";
    let site = Site::open_with(SETTINGS, slow).await;
    site.deploy("v1");
    site.ok(&["deploy", "v2", "--wait", "none"]);
    site.phase("canary").await;
    let crowd = site.crowd("a", 6, 10_000);
    site.live(6).await;
    // Another process's lock, as far as the controller can tell.
    let locker = rusqlite::Connection::open(journal(&site)).unwrap();
    locker.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let output = site.run(&["promote", "--full"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("journal"), "{said}");
    assert_eq!(
        site.release("v1").unwrap()["share_bp"],
        8_000,
        "nothing was decided"
    );
    let during = reports(site.crowd("b", 4, 1_500)).await;
    assert!(
        during.iter().all(|report| report.turns_heard() > 0),
        "{during:?}"
    );
    locker.execute_batch("ROLLBACK").unwrap();
    site.until("the promotion goes through", || {
        site.run(&["promote", "--full"]).status.success()
    })
    .await;
    reports(crowd).await;
    site.spotless(10);
}
