//! `segue audit`: followed as it is written, exported for others, under OpenRTC's names too.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::site::{SETTINGS, Site};

/// How long a line may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A log that is followed. Dropping it ends it.
struct Tail {
    child: Child,
    lines: Receiver<String>,
}

impl Tail {
    fn new(site: &Site, args: &[&str]) -> Self {
        let args = [&["audit", "tail", "--output", "json"], args].concat();
        let mut child = site.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (heard, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the process, or with the test.
            for line in out.lines().map_while(Result::ok) {
                if heard.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn next(&self) -> Value {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .expect("a line is written");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn events(site: &Site, args: &[&str]) -> Vec<Value> {
    let text = site.ok(&[&["audit", "export"], args].concat());
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_log_says_each_decision_once_also_across_a_restart() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let tail = Tail::new(&site, &["--event", "deployment.started", "--lines", "5"]);
    let first = tail.next();
    assert_eq!(first["openrtc"], "deployment.started");
    assert_eq!(first["type"], "dev.segue.deployed.v1");
    assert_eq!(first["data"]["fact"]["release"]["label"], "v1");
    assert!(site.kill("run/controller.json"), "the controller runs");
    site.until("the controller is back", || site.agent().is_some())
        .await;
    site.deploy("v2");
    assert_eq!(tail.next()["data"]["fact"]["release"]["label"], "v2");
    assert!(tail.lines.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_every_entry_and_the_names_that_openrtc_knows() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    site.deploy("v2");
    site.ok(&["rollback", "--reason", "a try"]);
    site.becomes("v1", "current").await;
    site.until("it is rolled back", || {
        !events(&site, &["--event", "deployment.rolled_back"]).is_empty()
    })
    .await;
    let all = events(&site, &[]);
    let seqs: Vec<u64> = all
        .iter()
        .map(|event| event["data"]["seq"].as_u64().unwrap())
        .collect();
    assert!(
        seqs.len() > 8 && seqs.iter().copied().eq(1..=seqs.len() as u64),
        "{seqs:?}"
    );
    for event in &all {
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["id"], event["data"]["seq"].to_string());
    }
    let named = |name: &str| -> Vec<String> {
        let events = events(&site, &["--event", name]);
        assert!(
            events.iter().all(|event| event["openrtc"] == name),
            "{events:?}"
        );
        let facts = events
            .iter()
            .map(|event| event["data"]["fact"]["fact"].as_str().unwrap());
        facts.map(str::to_owned).collect()
    };
    assert_eq!(named("deployment.started"), ["deployed", "deployed"]);
    assert_eq!(named("deployment.completed"), ["landed", "landed"]);
    assert_eq!(named("deployment.rolled_back"), ["rolled_back"]);
    // The first release displaced none.
    assert_eq!(
        named("deployment.drain_started"),
        ["cut_over", "rollback_started"]
    );
    assert_eq!(named("worker.rejected"), [""; 0]);
    let last = seqs[seqs.len() - 1];
    // Only what was written meanwhile.
    let later = events(&site, &["--after", &last.to_string()]);
    let is_later = |event: &Value| event["data"]["seq"].as_u64() > Some(last);
    assert!(later.iter().all(is_later), "{later:?}");
    // The same names where the log is only looked at.
    let shown = site.ok(&["audit", "--event", "deployment.started"]);
    assert_eq!(shown.lines().count(), 3, "{shown}");
}
