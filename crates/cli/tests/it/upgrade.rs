//! A new binary in the place of the one that runs.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::site::{SEGUE, SETTINGS, Site, reports};

/// Ended with the test, however it ends.
struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As an upgrade does it: beside, then in its place.
fn install(binary: &Path) {
    let beside = binary.with_extension("new");
    fs::copy(SEGUE, &beside).unwrap();
    fs::rename(&beside, binary).unwrap();
}

/// The supervisor still runs the old file, which has no name any more. What it starts again is the
/// file in its place, and no call notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_ends_after_an_upgrade_is_started_from_the_new_file() {
    let site = Site::prepare(SETTINGS, "");
    let binary = site.dir.join("segue");
    install(&binary);
    let mut command = Command::new(&binary);
    command
        .arg("serve")
        .current_dir(&site.dir)
        .env("SEGUE_HOME", site.home())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _serve = Serve(command.spawn().unwrap());
    let answers = || site.agent().is_some() && site.state("run/gateway.addr").is_some();
    site.until("it answers", answers).await;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 6_000);
    site.live(3).await;
    install(&binary);
    let before = site.pid("run/controller.json");
    assert!(site.kill("run/controller.json"));
    site.until("another controller runs", || {
        site.pid("run/controller.json") != before && site.agent().is_some()
    })
    .await;
    let pid = site.pid("run/controller.json").unwrap();
    let runs = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).unwrap();
    assert_eq!(runs, binary.canonicalize().unwrap());
    reports(crowd).await;
    site.spotless(3);
}
