//! The supervisor: how it ends, what it leaves behind, and what it says of its children.

use std::net::TcpListener;

use rustix::process::{Pid, Signal, test_kill_process};
use segue_voice::caller::CallEnd;

use crate::site::{AGENT, SETTINGS, Site, reports};

/// The processes of every record in the state folder.
fn processes(site: &Site) -> Vec<Pid> {
    let files = std::fs::read_dir(site.home().join("run")).into_iter();
    let names = files.flatten().flatten().map(|file| file.file_name());
    names
        .filter_map(|name| site.pid(&format!("run/{}", name.to_str()?)))
        .collect()
}

fn all_ended(site: &Site) -> bool {
    processes(site)
        .into_iter()
        .all(|pid| test_kill_process(pid).is_err())
}

/// A Ctrl-C before anything listens ends what was started, and nothing is left behind.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_ctrl_c_leaves_nothing_behind() {
    let mut site = Site::prepare(SETTINGS, "");
    site.spawn_serve();
    site.until("a child was started", || {
        site.pid("run/controller.json").is_some()
    })
    .await;
    let controller = site.pid("run/controller.json").unwrap();
    site.signal_serve(Signal::INT);
    assert_eq!(site.serve_ends().await, Some(0), "{}", site.said());
    assert!(test_kill_process(controller).is_err());
    assert!(all_ended(&site), "{}", site.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_waits_for_the_last_call_however_often_it_is_asked() {
    let mut site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 6_000);
    site.live(3).await;
    let mut first = site.command(&["stop"]).spawn().unwrap();
    let second = site.command(&["stop"]).output().unwrap();
    assert!(second.status.success(), "{second:?}");
    assert!(first.wait().unwrap().success());
    assert_eq!(site.serve_ends().await, Some(0));
    assert!(all_ended(&site));
    reports(crowd).await;
    site.spotless(3);
    // A wish that was heard is not heard again.
    site.serve().await;
    site.ok(&["status"]);
    site.ok(&["stop"]);
    assert!(all_ended(&site));
}

/// A `segue serve` that is left by a second Ctrl-C while `segue stop` waits for it: the latter
/// ends what is left.
#[tokio::test(flavor = "multi_thread")]
async fn stop_ends_what_its_supervisor_left() {
    let mut site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 2, 8_000);
    site.live(2).await;
    site.signal_serve(Signal::INT);
    site.until("it waits for calls", || {
        site.said().contains("takes no new calls")
    })
    .await;
    let mut stop = site.command(&["stop"]).spawn().unwrap();
    site.signal_serve(Signal::INT);
    assert_eq!(site.serve_ends().await, Some(130));
    assert!(stop.wait().unwrap().success());
    assert!(all_ended(&site));
    reports(crowd).await;
    site.spotless(2);
}

#[test]
fn stop_without_a_state_folder_says_so() {
    let site = Site::prepare("", "");
    let output = site.run(&["stop"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("hint: start one with `segue serve`"),
        "{said}"
    );
}

/// Two Ctrl-C leave a gateway behind that takes no new calls. The next `segue serve` takes new
/// ones at once, on the same port; the old calls go on; and no release waits for it once it ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_drains_is_left_alone_and_another_takes_new_calls() {
    let mut site = Site::prepare(SETTINGS, "");
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = std::fs::read_to_string(site.dir.join("segue.toml")).unwrap();
    let config = config.replacen("127.0.0.1:0", &free.to_string(), 1);
    std::fs::write(site.dir.join("segue.toml"), config).unwrap();
    site.serve().await;
    site.deploy("v1");
    let old = site.crowd("old", 3, 25_000);
    site.live(3).await;
    site.signal_serve(Signal::INT);
    site.until("it waits for calls", || {
        site.said().contains("takes no new calls")
    })
    .await;
    site.signal_serve(Signal::INT);
    assert_eq!(site.serve_ends().await, Some(130));

    site.serve().await;
    assert_eq!(site.state("run/gateway.addr"), Some(free.to_string()));
    // Beside the old ones: those live on behind this.
    for report in reports(site.crowd("new", 3, 1_500)).await {
        assert_eq!(report.end, CallEnd::HungUp, "{report:?}");
    }
    site.live(3).await;
    let status = site.json(&["status"]);
    let gateways: Vec<&str> = status["gateways"]
        .as_array()
        .unwrap()
        .iter()
        .map(|gateway| gateway["gateway"].as_str().unwrap())
        .collect();
    assert_eq!(gateways, ["gw-1", "gw-2"], "{status}");
    site.deploy("v2");
    let v1 = site.release("v1").unwrap();
    assert_eq!((&v1["live"], &v1["lost"]), (&3.into(), &0.into()), "{v1}");
    for report in reports(old).await {
        assert_eq!(report.end, CallEnd::HungUp, "{report:?}");
    }
    site.becomes("v1", "drained").await;
    let log = site.ok(&["audit", "--agent", AGENT, "--output", "json"]);
    assert!(
        log.contains("it ended after its last call") || log.contains("and it ended"),
        "{log}"
    );
    site.spotless(6);
    // The one that is left stays itself.
    site.ok(&["stop"]);
    site.serve().await;
    let gateways = site.json(&["status"])["gateways"].to_string();
    assert!(
        gateways.contains("gw-2") && !gateways.contains("gw-1"),
        "{gateways}"
    );
}

/// A port that somebody else has: said at once and once, with the reason, and mended by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_ends_says_why_and_does_not_repeat_it() {
    let mut site = Site::prepare(SETTINGS, "");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let file = site.dir.join("segue.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replacen("127.0.0.1:0", &addr.to_string(), 1)).unwrap();
    site.spawn_serve();
    let words = format!("cannot listen on {addr}");
    site.until("it says why", || site.said().contains(&words))
        .await;
    site.until("it has tried again", || {
        let log = site.state("log/gateway.log").unwrap_or_default();
        log.matches(&words).count() >= 3
    })
    .await;
    assert_eq!(site.said().matches(&words).count(), 1, "{}", site.said());
    site.until("the controller answers", || site.agent().is_some())
        .await;
    let status = site.ok(&["status"]);
    assert!(status.contains("no gateway reports"), "{status}");
    drop(taken);
    site.until("calls are taken", || {
        site.state("run/gateway.addr") == Some(addr.to_string())
    })
    .await;
    site.until("the gateway reports", || {
        !site.ok(&["status"]).contains("no gateway reports")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_configuration_is_not_in_use_until_everything_was_stopped() {
    let mut site = Site::open_with(SETTINGS, "").await;
    site.end_serve(Signal::TERM).await;
    let file = site.dir.join("segue.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    site.serve().await;
    site.end_serve(Signal::TERM).await;
    let words = "the running controller was started with an older segue.toml";
    assert!(!site.said().contains(words), "{}", site.said());
    std::fs::write(&file, config.replace("workers = 2", "workers = 1")).unwrap();
    site.serve().await;
    site.until("it says so", || site.said().contains(words))
        .await;
    site.ok(&["stop"]);
    site.serve().await;
    assert_eq!(site.said().matches(words).count(), 1, "{}", site.said());
}
