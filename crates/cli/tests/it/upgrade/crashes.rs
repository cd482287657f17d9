//! What crashes, hangs or cannot be written while everything is replaced, and behind that.

use std::fs;

use segue_voice::caller::call;

use super::{Place, install, runs, went_well};
use crate::site::reports;
use crate::tls::plan;

/// Until it is upgraded to, the file in place is run by nobody: what crashes is started again from
/// the one that ran, although that has no name any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_crashes_after_an_install_is_started_again_as_what_it_was() {
    let place = Place::open().await;
    let site = &place.site;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 15_000);
    site.live(3).await;
    site.kept(3).await;
    // Beside, then in its place: a file that would not do.
    fs::rename(place.script("beside", "exit 1"), &place.binary).unwrap();
    for record in ["run/gateway.json", "run/controller.json"] {
        let before = site.pid(record);
        let ran = runs(before.unwrap());
        assert!(ran.ends_with("segue (deleted)"), "{ran:?}");
        assert!(site.kill(record));
        site.until("another one runs", || {
            let now = site.pid(record);
            now.is_some() && now != before
        })
        .await;
        assert_eq!(runs(site.pid(record).unwrap()), ran);
    }
    site.live(3).await;
    install(&place.binary);
    went_well(&place.upgrade());
    place.is_new();
    reports(crowd).await;
    site.spotless(3);
}

/// The supervisor cannot become the new binary, which is gone by then. A gateway that crashes later
/// is started again from what it ran, and not from what the supervisor still is.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_upgraded_alone_is_started_again_as_what_it_was() {
    let place = Place::open().await;
    let site = &place.site;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 15_000);
    site.live(3).await;
    let other = site.dir.join("other");
    install(&other);
    let goes = format!(
        "[ $1 = controller ] && rm \"$0\"; exec {} \"$@\"",
        other.display()
    );
    let goes = place.script("goes", &goes);
    let output = site.run(&["upgrade", "--binary", &goes]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot become the new binary"), "{said}");
    site.kept(3).await;
    let before = site.pid("run/gateway.json").unwrap();
    assert_eq!(runs(before), other.canonicalize().unwrap());
    assert!(site.kill("run/gateway.json"));
    site.until("another gateway runs", || {
        let now = site.pid("run/gateway.json");
        now.is_some_and(|now| now != before && runs(now) == other.canonicalize().unwrap())
    })
    .await;
    reports(crowd).await;
    site.spotless(3);
}

/// The gateway crashes while the supervisor is about to become another program, which would end its
/// keeping: it waits until the calls are in the hands of the next gateway.
#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_keeps_the_calls_of_a_gateway_that_crashes_until_they_are_taken_back() {
    let place = Place::open().await;
    let site = &place.site;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 20_000);
    site.live(3).await;
    // It crashes while the controller is started anew, and the next one is held up at its log.
    let real = place.binary.display();
    let crashes = format!(
        "[ $1 = controller ] && [ ! -e crashed ] && touch crashed && rm state/log/calls.jsonl && \
         mkfifo state/log/calls.jsonl && \
         kill -9 $(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' state/run/gateway.json)\n\
         exec {real} \"$@\""
    );
    let crashes = place.script("crashes", &crashes);
    let args = ["upgrade", "--binary", &crashes];
    let mut upgrade = site.command(&args).spawn().unwrap();
    site.until("the supervisor waits", || {
        site.said()
            .contains("waits until the gateway has its calls back")
    })
    .await;
    let log = site.home().join("log/calls.jsonl");
    std::thread::spawn(move || {
        let mut log = fs::File::open(log).unwrap();
        std::io::copy(&mut log, &mut std::io::sink())
    });
    assert!(upgrade.wait().unwrap().success(), "{}", site.said());
    site.live(3).await;
    reports(crowd).await;
    site.spotless(3);
}

/// The new gateway cannot write down that it serves. It is taken at its word, and goes on trying.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_gateway_that_cannot_say_that_it_serves_is_not_ended() {
    let place = Place::open().await;
    let site = &place.site;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 45_000);
    site.live(3).await;
    // Nothing can be put in the place of a folder.
    let up = site.home().join("run/gateway.up");
    let mutes = format!(
        "[ $1 = gateway ] && rm {up} && mkdir {up}\nexec {real} \"$@\"",
        up = up.display(),
        real = place.binary.display(),
    );
    let mutes = place.script("mutes", &mutes);
    let mut upgrade = site
        .command(&["upgrade", "--binary", &mutes])
        .spawn()
        .unwrap();
    let before = place.pids();
    site.until("it took over", || site.said().contains("took over"))
        .await;
    assert_ne!(place.pids()[0], before[0]);
    site.live(3).await;
    fs::remove_dir(&up).unwrap();
    assert!(upgrade.wait().unwrap().success(), "{}", site.said());
    reports(crowd).await;
    site.spotless(3);
}

/// The old gateway crashes while the new one has not even asked: its calls do not wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_crashes_before_it_is_asked_is_started_again() {
    let place = Place::open().await;
    let site = &place.site;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 20_000);
    site.live(3).await;
    site.kept(3).await;
    let hangs = "[ $1 = gateway ] && exec sleep 600";
    let hangs = format!("{hangs}; exec {} \"$@\"", place.binary.display());
    let hangs = place.script("hangs", &hangs);
    let mut upgrade = site
        .command(&["upgrade", "--binary", &hangs])
        .spawn()
        .unwrap();
    site.until("the new one hangs", || {
        site.pid("run/gateway-next.json").is_some()
    })
    .await;
    let before = place.pids()[0];
    assert!(site.kill("run/gateway.json"));
    assert_eq!(upgrade.wait().unwrap().code(), Some(1), "{}", site.said());
    site.until("the old one is started again", || {
        let now = place.pids()[0];
        now.is_some() && now != before
    })
    .await;
    site.live(3).await;
    went_well(&place.upgrade());
    reports(crowd).await;
    site.spotless(3);
}

/// The new gateway dies as soon as it has everything. The old one has nothing left by then.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_gateway_that_crashes_with_the_calls_in_its_hands_is_followed_by_another() {
    let place = Place::open().await;
    let site = &place.site;
    site.deploy("v1");
    let crowd = site.crowd("a", 5, 20_000);
    site.live(5).await;
    site.kept(5).await;
    let crashes = place.crashes_once("handoff.took");
    let output = site.run(&["upgrade", "--binary", &crashes]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    site.live(5).await;
    reports(site.crowd("b", 2, 1_000)).await;
    went_well(&place.upgrade());
    reports(crowd).await;
    site.spotless(7);
}

/// A gateway that breaks wherever it may: the one before serves on.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_gateway_that_crashes_at_any_step_leaves_the_old_one_serving() {
    let place = Place::open().await;
    place.site.deploy("v1");
    let crowd = place.site.crowd("a", 5, 20_000);
    place.site.live(5).await;
    for step in ["connected", "restored", "calls", "ready", "yours", "owned"] {
        let real = place.binary.display();
        let breaks = format!("export SEGUE_FAIL_AT=handoff.{step}=crash; exec {real} \"$@\"");
        let breaks = place.script(step, &breaks);
        place.refused(&breaks, 1, "the new gateway did not take over");
        place.site.live(5).await;
    }
    went_well(&place.upgrade());
    reports(crowd).await;
    place.site.spotless(5);
}

/// The supervisor is killed on the way, and the next one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_killed_on_the_way_is_continued_by_the_next() {
    let mut place = Place::open().await;
    place.site.deploy("v1");
    let crowd = place.site.crowd("a", 3, 25_000);
    place.site.live(3).await;
    let before = place.pids();
    // The taker is stuck just before everything is its own, and then nobody looks.
    let real = place.binary.display();
    let stalls = format!(
        "[ $1 = gateway ] && [ ! -e stalled ] && touch stalled && export SEGUE_FAIL_AT=handoff.restored=stall; exec {real} \"$@\""
    );
    let stalls = place.script("stalls", &stalls);
    let binary = ["upgrade", "--binary", &stalls];
    let mut upgrade = place.site.command(&binary).spawn().unwrap();
    place
        .site
        .until("the taker is there", || {
            place.site.pid("run/gateway-next.json").is_some()
        })
        .await;
    place.serve.0.kill().unwrap();
    place.serve.0.wait().unwrap();
    upgrade.kill().unwrap();
    upgrade.wait().unwrap();
    place.site.serve().await;
    place
        .site
        .until("it is done", || {
            place.site.said().contains("the upgrade is done")
        })
        .await;
    let after = place.pids();
    assert!(before[0] != after[0] && before[1] != after[1], "{after:?}");
    reports(crowd).await;
    place.site.spotless(3);
}

/// The old gateway stays for a call, and the new one dies as soon as it has the rest: neither takes
/// new calls then, and another one does.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_gateway_that_crashes_beside_one_that_stays_is_followed_by_another() {
    let (place, tls, stays) = Place::with_tls_call().await;
    let site = &place.site;
    let old = place.pids()[0].unwrap();
    let crashes = place.crashes_once("handoff.took");
    let output = site.run(&["upgrade", "--binary", &crashes]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let number = old.as_raw_nonzero();
    site.until("another gateway serves", || {
        let up = site.state("run/gateway.up").unwrap_or_default();
        let now = place.pids()[0];
        now.is_some_and(|now| now != old && up.contains(&now.as_raw_nonzero().to_string()))
    })
    .await;
    assert!(
        site.pid(&format!("run/gateway-draining-{number}.json"))
            .is_some()
    );
    let new = plan(site, "CAnew", 1_000, &tls);
    assert!(call(&new).await.turns_heard() > 0);
    assert!(stays.await.unwrap().turns_heard() > 0);
    site.spotless(2);
}
