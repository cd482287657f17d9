//! `segue.toml` is read again while calls go on.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use crate::site::{SETTINGS, Site, reports};

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_is_read_again_under_calls_and_never_in_part() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 10_000);
    site.live(3).await;
    let path = site.dir.join("segue.toml");
    let config = fs::read_to_string(&path).unwrap();
    let (gateway, controller) = (
        site.pid("run/gateway.json"),
        site.pid("run/controller.json"),
    );
    // A file with faults changes nothing, and says all of them.
    let bad = config.replace("workers = 2", "workers = 0");
    fs::write(&path, bad.replace("capacity = 50", "capacity = \"many\"")).unwrap();
    let (status, problem) = site.post("/v1/reload", &json!({}));
    assert_eq!(
        (status, &problem["type"]),
        (422, &json!("bad-config")),
        "{problem}"
    );
    let title = problem["title"].as_str().unwrap();
    assert!(
        title.contains("workers") && title.contains("capacity"),
        "{title}"
    );
    site.deploy("v2");
    assert_eq!(site.release("v2").unwrap()["workers_want"], 2);
    // A good one is what the next deploy follows.
    let good = config.replace("workers = 2", "workers = 3");
    let listener = good.replacen("127.0.0.1:0", "127.0.0.1:1", 1);
    fs::write(&path, listener).unwrap();
    let (status, told) = site.post("/v1/reload", &json!({}));
    assert_eq!(status, 200, "{told}");
    let wanted = json!({ "changed": ["desk"], "removed": [], "restart": ["[gateway]"] });
    assert_eq!(told, wanted);
    site.deploy("v3");
    assert_eq!(site.release("v3").unwrap()["workers_want"], 3);
    assert_eq!(
        site.release("v2").unwrap()["workers_want"],
        2,
        "it is what it was"
    );
    // And so on a signal, also to a second agent.
    let second = "\n[agents.other]\ncommand = [\"segue\", \"{port}\"]\npath = \"/other\"\n";
    fs::write(&path, good + second).unwrap();
    site.signal_serve(Signal::HUP);
    site.until("the other agent is there", || {
        let agents = site.json(&["status"])["agents"].as_array().cloned();
        agents
            .unwrap_or_default()
            .iter()
            .any(|agent| agent["name"] == "other")
    })
    .await;
    let now = (
        site.pid("run/gateway.json"),
        site.pid("run/controller.json"),
    );
    assert_eq!(now, (gateway, controller), "nothing was restarted");
    reports(crowd).await;
    site.spotless(3);
}
