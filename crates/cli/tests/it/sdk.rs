//! An agent with the SDK behind Segue: what it says reaches Segue, and what it knows outlives it.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::permits::ask;
use crate::python::{example, python};
use crate::site::Site;

/// What the admin API shows; nothing as long as it does not.
fn get(site: &Site, path: &str) -> Value {
    let (_, text) = ask(site, "GET", path, None);
    serde_json::from_str(&text).unwrap_or_default()
}

/// What a call is answered that says these words.
fn say(site: &Site, call: &str, words: &[&str]) -> Vec<String> {
    let gateway = site.state("run/gateway.addr").unwrap();
    let output = Command::new(python())
        .arg(example("fastapi-agent/say.py"))
        .arg(format!("ws://{gateway}/ws/{call}"))
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(ToOwned::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_python_goes_on_where_another_release_left_off() {
    let mut site = Site::prepare("", "");
    let config = format!(
        r#"
[gateway]
listen = "127.0.0.1:0"

[api]
listen = "127.0.0.1:0"

[agents.desk]
command = ["{}", "{}", "{{port}}"]
env = {{ AGENT_LABEL = "{{release}}" }}
health = "/healthz"
notify = "/segue"
stickiness = "1s"
straggler_buffer = "1s"
standby = "1s"
"#,
        python().display(),
        example("fastapi-agent/agent.py").display()
    );
    fs::write(site.dir.join("segue.toml"), config).unwrap();
    site.serve().await;
    site.deploy("v1");
    assert_eq!(say(&site, "CA1", &["hello"]), ["1: you said hello"]);
    let heard = |release: &str| {
        let workers = get(&site, "/v1/agents/desk/workers");
        let workers = workers["workers"].as_array().cloned().unwrap_or_default();
        workers
            .iter()
            .any(|is| is["heard"][0]["release"] == release)
    };
    site.until("a heartbeat", || heard("v1")).await;
    site.deploy("v2");
    site.becomes("v1", "retired").await;
    let gone_on = ["2: you said where", "3: you said was I"];
    assert_eq!(say(&site, "CA1", &["where", "was I"]), gone_on);
    let outcomes = || {
        let kept = get(&site, "/v1/agents/desk/calls/CA1/outcome");
        kept["outcomes"].as_array().cloned().unwrap_or_default()
    };
    site.until("both reports", || outcomes().len() == 2).await;
    let told: Vec<(Value, Value)> = outcomes()
        .into_iter()
        .map(|is| (is["release"].clone(), is["data"]["turns"].clone()))
        .collect();
    assert_eq!(told, [("v1".into(), 1.into()), ("v2".into(), 3.into())]);
    let counted = "segue_call_outcomes_total{agent=\"desk\",version=\"v2\",verdict=\"success\"} 1";
    let (_, page) = ask(&site, "GET", "/metrics", None);
    assert!(page.lines().any(|line| line == counted), "{page}");
}
