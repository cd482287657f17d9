//! A new binary in the place of the one that runs.

mod crashes;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustls::ClientConfig;
use segue_voice::caller::{CallReport, call};
use tokio::task::{JoinHandle, JoinSet};

use crate::site::{RAMP, SEGUE, SETTINGS, Site, reports};
use crate::tls::{HOST, identity, plan};

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

/// How many people talk while everything is replaced. `SEGUE_TEST_CALLS=1000` for the full count.
fn people() -> u32 {
    let asked = std::env::var("SEGUE_TEST_CALLS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(30)
}

/// A place where the binary that runs is a copy, which may be replaced.
struct Place {
    site: Site,
    binary: PathBuf,
    serve: Serve,
}

impl Place {
    async fn open() -> Self {
        Self::open_with(SETTINGS, "").await
    }

    async fn open_with(settings: &str, rest: &str) -> Self {
        Self::start(Site::prepare(settings, rest)).await
    }

    async fn start(site: Site) -> Self {
        let binary = site.dir.join("segue");
        install(&binary);
        let log = fs::File::create(site.dir.join("serve.log")).unwrap();
        let mut command = Command::new(&binary);
        command
            .arg("serve")
            .current_dir(&site.dir)
            .env("SEGUE_HOME", site.home())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let serve = Serve(command.spawn().unwrap());
        let answers = || site.agent().is_some() && site.state("run/gateway.addr").is_some();
        site.until("it answers", answers).await;
        Self {
            site,
            binary,
            serve,
        }
    }

    /// One with a call over TLS, whose gateway it cannot leave; and what makes another one.
    async fn with_tls_call() -> (Self, Arc<ClientConfig>, JoinHandle<CallReport>) {
        let settings = format!("{SETTINGS}hosts = [\"{HOST}\"]\npath = \"/desk\"\n");
        let rest = "\n[gateway.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n";
        let site = Site::prepare(&settings, rest);
        let tls = identity(&site.dir);
        let place = Self::start(site).await;
        place.site.deploy("v1");
        let stays = plan(&place.site, "CAstays", 20_000, &tls);
        let stays = tokio::spawn(async move { call(&stays).await });
        place.site.live(1).await;
        (place, tls, stays)
    }

    fn pids(&self) -> [Option<Pid>; 2] {
        ["run/gateway.json", "run/controller.json"].map(|record| self.site.pid(record))
    }

    /// Everything runs the file in place.
    fn is_new(&self) {
        let binary = self.binary.canonicalize().unwrap();
        let mut pids = self.pids().map(Option::unwrap).to_vec();
        pids.push(Pid::from_child(&self.serve.0));
        for pid in pids {
            assert_eq!(runs(pid), binary, "{}", self.site.said());
        }
    }

    fn upgrade(&self) -> Output {
        let binary = self.binary.display().to_string();
        self.site.run(&["upgrade", "--binary", &binary])
    }

    /// A file that is run instead of a new binary.
    fn script(&self, name: &str, text: &str) -> String {
        let path = self.site.dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    /// A new binary whose first gateway crashes at a step.
    fn crashes_once(&self, step: &str) -> String {
        let text = format!(
            "[ $1 = gateway ] && [ ! -e crashed ] && touch crashed && export SEGUE_FAIL_AT={step}=crash\n\
             exec {} \"$@\"",
            self.binary.display()
        );
        self.script("crashes", &text)
    }

    /// What `segue upgrade` says of a binary that must be refused, and what keeps running.
    fn refused(&self, binary: &str, code: i32, words: &str) {
        let before = self.pids();
        let output = self.site.run(&["upgrade", "--binary", binary]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
        assert!(said.contains("hint: "), "{said}");
        assert_eq!(self.pids(), before, "{said}");
    }
}

/// The file that a process runs.
fn runs(pid: Pid) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).unwrap()
}

fn went_well(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for words in ["took over with", "controller: pid", "supervisor: runs"] {
        assert!(said.contains(words), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_replaced_twice_under_live_calls_and_nobody_notices() {
    let place = Place::open().await;
    let people = people();
    place.site.deploy("v1");
    let crowd = place.site.crowd("a", people, 25_000);
    place.site.live(u64::from(people)).await;
    for _ in 0..2 {
        let before = place.pids();
        install(&place.binary);
        went_well(&place.upgrade());
        let after = place.pids();
        assert!(before[0] != after[0] && before[1] != after[1], "{after:?}");
        place.is_new();
        place.site.live(u64::from(people)).await;
    }
    let late = place.site.crowd("b", 2, 1_000);
    reports(late).await;
    place.site.deploy("v2");
    reports(crowd).await;
    place.site.spotless(u64::from(people) + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_changes_nothing() {
    let place = Place::open().await;
    place.site.deploy("v1");
    let crowd = place.site.crowd("a", 3, 8_000);
    place.site.live(3).await;
    place.refused("/nonexistent/segue", 2, "there is no file");
    let no_segue = place.script("no-segue", "echo hello");
    place.refused(&no_segue, 2, "is no segue");
    let ends = place.script("ends", "echo 'what a pity' >&2; exit 3");
    place.refused(&ends, 2, "what a pity");
    let text = place.site.dir.join("segue.toml").display().to_string();
    place.refused(&text, 2, "cannot be run");
    let ours = String::from_utf8(place.site.run(&["versions"]).stdout).unwrap();
    let ours = ours.trim();
    let version = &serde_json::from_str::<serde_json::Value>(ours).unwrap()["version"];
    let later = r#"{"version":9,"oldest":8,"link":1,"binary":"9.0.0"}"#;
    let later = place.script("later", &format!("echo '{later}'"));
    let words = format!("handoff version {version}, and the new one, 9.0.0, speaks 8 to 9");
    place.refused(&later, 7, &words);
    let link = ours.replace(r#""link":1"#, r#""link":99"#);
    let link = place.script("link", &format!("echo '{link}'"));
    place.refused(&link, 7, "controller link version 1");
    // It answers well, and its gateway ends at once.
    let breaks = format!("if [ $1 = versions ]; then echo '{ours}'; exit; fi; [ $1 = config ]");
    let breaks = place.script("breaks", &breaks);
    place.refused(&breaks, 1, "the new gateway did not take over");
    // An upgrade that is well is not hindered by any of those.
    went_well(&place.upgrade());
    reports(crowd).await;
    place.site.spotless(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_upgrades_to_the_file_in_place_with_the_controller_dead() {
    let place = Place::open().await;
    place.site.deploy("v1");
    let crowd = place.site.crowd("a", 3, 9_000);
    place.site.live(3).await;
    install(&place.binary);
    let before = place.pids();
    assert!(place.site.kill("run/controller.json"));
    kill_process(Pid::from_child(&place.serve.0), Signal::USR2).unwrap();
    place
        .site
        .until("it is done", || {
            place.site.said().contains("the upgrade is done")
        })
        .await;
    let after = place.pids();
    assert!(before[0] != after[0] && before[1] != after[1], "{after:?}");
    place.is_new();
    reports(crowd).await;
    place.site.spotless(3);
}

/// A rollout is at half of the new calls, and people call all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_and_a_storm_of_new_calls_go_on() {
    let ramp = RAMP.replace("min_duration = \"1s\"", "min_duration = \"6s\"");
    let place = Place::open_with(SETTINGS, &ramp).await;
    let site = &place.site;
    site.deploy("v1");
    site.ok(&["deploy", "v2", "--wait", "none"]);
    site.phase("canary").await;
    let mut storm = JoinSet::new();
    for person in 0..60u64 {
        let mut plan = site.plan(&format!("CAnew{person:04}"), 500);
        plan.seed = person;
        storm.spawn(async move {
            // One every tenth of a second, before, while and after everything is replaced.
            tokio::time::sleep(std::time::Duration::from_millis(100 * person)).await;
            call(&plan).await
        });
    }
    site.until("people call", || {
        site.agent().is_some_and(|agent| agent["live"] != 0)
    })
    .await;
    install(&place.binary);
    went_well(&place.upgrade());
    place.is_new();
    reports(storm).await;
    site.until("v2 lands", || {
        site.release("v2")
            .is_some_and(|is| is["state"] == "current")
    })
    .await;
    site.spotless(60);
}

/// The controller of the new binary ends at once: the one before runs again, and it is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_does_not_come_up_is_replaced_by_the_one_before() {
    let place = Place::open().await;
    let site = &place.site;
    site.deploy("v1");
    let crowd = site.crowd("a", 2, 9_000);
    site.live(2).await;
    let before = place.pids();
    let real = place.binary.display();
    let breaks = format!(
        "[ $1 = controller ] && {{ echo 'error: no disk' >&2; exit 1; }}; exec {real} \"$@\""
    );
    let breaks = place.script("breaks", &breaks);
    let output = site.run(&["upgrade", "--binary", &breaks, "--output", "json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("no disk") && said.contains("the controller before runs again"),
        "{said}"
    );
    let view: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(view["outcome"], "failed", "{view}");
    assert_ne!(place.pids()[0], before[0], "the gateway was handed over");
    site.live(2).await;
    // And again, well.
    went_well(&place.upgrade());
    reports(crowd).await;
    site.spotless(2);
}

/// Its keys are in the memory of the old gateway, which stays for it alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_tls_call_stays_with_the_old_gateway_until_it_ends() {
    let (place, tls, stays) = Place::with_tls_call().await;
    let site = &place.site;
    let old = place.pids()[0].unwrap();
    install(&place.binary);
    let output = place.upgrade();
    went_well(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let number = old.as_raw_nonzero();
    assert!(
        said.contains(&format!("pid {number} keeps the calls")),
        "{said}"
    );
    site.live(1).await;
    let status = site.ok(&["status"]);
    assert!(status.contains(&format!("gw-1.{number}")), "{status}");
    // While it stays, everything is replaced once more: it drains, and is left alone.
    install(&place.binary);
    went_well(&place.upgrade());
    assert!(test_kill_process(old).is_ok());
    let new = plan(site, "CAnew", 1_000, &tls);
    assert!(call(&new).await.turns_heard() > 0);
    assert!(stays.await.unwrap().turns_heard() > 0);
    site.until("the old gateway is gone", || {
        test_kill_process(old).is_err()
    })
    .await;
    site.until("and forgotten", || {
        !site
            .ok(&["status", "--output", "json"])
            .contains(&format!("gw-1.{number}"))
    })
    .await;
    site.spotless(2);
}

/// The second is refused, and the first goes on without anybody who watches it.
#[tokio::test(flavor = "multi_thread")]
async fn one_upgrade_at_a_time_and_a_ctrl_c_only_stops_watching() {
    let place = Place::open().await;
    let site = &place.site;
    let real = place.binary.display();
    // It is a while until the gateway of this one is there.
    let waits =
        format!("[ $1 = gateway ] && while [ ! -e go ]; do sleep 0.05; done; exec {real} \"$@\"");
    let waits = place.script("waits", &waits);
    let mut first = site
        .command(&["upgrade", "--binary", &waits])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    site.until("it is under way", || {
        site.pid("run/gateway-next.json").is_some()
    })
    .await;
    place.refused(&place.binary.display().to_string(), 7, "under way already");
    kill_process(Pid::from_child(&first), Signal::INT).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(130));
    let said = std::io::read_to_string(first.stderr.take().unwrap()).unwrap();
    assert!(said.contains("the upgrade goes on"), "{said}");
    fs::write(site.dir.join("go"), "").unwrap();
    site.until("it is done", || site.said().contains("the upgrade is done"))
        .await;
}

#[test]
fn without_a_supervisor_it_says_so() {
    let site = Site::prepare("", "");
    fs::create_dir_all(site.home().join("run")).unwrap();
    let output = site.run(&["upgrade"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("no `segue serve` runs") && said.contains("hint: "),
        "{said}"
    );
}
