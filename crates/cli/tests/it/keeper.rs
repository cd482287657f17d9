//! The gateway is killed under `segue serve`: the supervisor keeps its calls for the next one.

use std::process::Command;

use rustix::process::Signal;

use crate::site::{SETTINGS, Site, reports};

/// How long people talk for each kill, which takes a second or two.
const KILL_MS: u64 = 5_000;

/// kill -9 of the gateway, and another one takes calls.
async fn kill_gateway(site: &Site) {
    let before = site.pid("run/gateway.json");
    assert!(site.kill("run/gateway.json"));
    site.until("another gateway", || {
        let now = site.pid("run/gateway.json");
        now.is_some() && now != before
    })
    .await;
}

/// A number from the environment, for a longer run than the suite's.
fn asked(name: &str, usual: u32) -> u32 {
    let asked = std::env::var(name).ok();
    asked.map_or(usual, |number| number.parse().expect("a number"))
}

/// `SEGUE_TEST_CALLS=90 SEGUE_TEST_KILLS=20` is more of the same, best with `--release`.
#[tokio::test(flavor = "multi_thread")]
async fn calls_outlive_their_gateway() {
    let (calls, kills) = (asked("SEGUE_TEST_CALLS", 8), asked("SEGUE_TEST_KILLS", 3));
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", calls, u64::from(kills) * KILL_MS);
    let all = u64::from(calls);
    site.live(all).await;
    for _ in 0..kills {
        site.kept(all).await;
        kill_gateway(&site).await;
    }
    site.live(all).await;
    let new = reports(site.crowd("b", 2, 1_500)).await;
    assert!(new.iter().all(|report| report.turns_heard() > 0), "{new:?}");
    reports(crowd).await;
    site.until("the calls have ended", || {
        site.release("v1").is_some_and(|v1| v1["live"] == 0)
    })
    .await;
    let v1 = site.release("v1").unwrap();
    assert_eq!(
        (&v1["lost"], &v1["dropped"]),
        (&0.into(), &0.into()),
        "{v1}"
    );
    assert!(
        site.said().contains("it was ended by signal 9"),
        "{}",
        site.said()
    );
    site.spotless(all + 2);
}

/// A new supervisor is given the calls by the gateway that lives.
#[tokio::test(flavor = "multi_thread")]
async fn calls_are_kept_again_by_the_next_supervisor() {
    let mut site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 4, 12_000);
    site.live(4).await;
    site.kept(4).await;
    site.kill_serve();
    let said = String::from_utf8_lossy(&site.run(&["doctor"]).stdout).into_owned();
    assert!(said.contains("calls kept: none"), "{said}");
    site.serve().await;
    site.kept(4).await;
    kill_gateway(&site).await;
    reports(crowd).await;
    site.until("none was lost", || {
        site.release("v1")
            .is_some_and(|v1| v1["live"] == 0 && v1["lost"] == 0)
    })
    .await;
    site.spotless(4);
}

/// A supervisor that is asked to leave when the gateway has just crashed still has its calls, which
/// nobody else has: it goes once the next gateway has them.
#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_leaves_no_calls_behind_that_only_it_has() {
    let mut site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 15_000);
    site.live(3).await;
    site.kept(3).await;
    // The next gateway is held up at its log.
    let log = site.home().join("log/calls.jsonl");
    std::fs::remove_file(&log).unwrap();
    let made = Command::new("mkfifo").arg(&log).status().unwrap();
    assert!(made.success());
    kill_gateway(&site).await;
    site.signal_serve(Signal::TERM);
    site.until("it waits", || {
        site.said().contains("first its calls are taken back")
    })
    .await;
    std::thread::spawn(move || {
        let mut log = std::fs::File::open(log).unwrap();
        std::io::copy(&mut log, &mut std::io::sink())
    });
    assert_eq!(site.serve_ends().await, Some(0));
    assert!(
        !site.said().contains("were not taken back"),
        "{}",
        site.said()
    );
    site.serve().await;
    site.live(3).await;
    reports(crowd).await;
    site.spotless(3);
}
