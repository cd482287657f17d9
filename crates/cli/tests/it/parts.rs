//! Releases that differ in their prompt, model or configuration only.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::site::{AGENT, SETTINGS, Site, reports};

/// A ramp on which an operator has to help.
const PAUSING: &str = r#"
[[agents.desk.steps]]
share = "10%"
pause = true

[agents.desk.approval]
before = "cutover"
"#;

/// An agent with a prompt and a model.
async fn open(rest: &str) -> Site {
    let settings = format!("{SETTINGS}prompt = \"prompt.toml\"\nmodel = \"gpt-x\"\n");
    let mut site = Site::prepare(&settings, rest);
    fs::write(site.dir.join("prompt.toml"), "be kind").unwrap();
    site.serve().await;
    site
}

fn environ(pid: Pid, name: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let mut entries = text.split('\0').filter_map(|entry| entry.split_once('='));
    entries
        .find(|(is, _)| *is == name)
        .map(|(_, value)| value.to_owned())
}

/// The prompt that each worker of a release was given: its path and what is there.
fn prompts(site: &Site, label: &str) -> Vec<(PathBuf, String)> {
    let workers = site.workers(label).into_iter();
    workers
        .map(|pid| {
            let path = PathBuf::from(environ(pid, "SEGUE_PROMPT").unwrap());
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

fn diff(site: &Site, from: &str, to: &str) -> Vec<String> {
    let view = site.get(&format!("/v1/agents/{AGENT}/diff?from={from}&to={to}"));
    let changes = view["changes"].as_array().unwrap().iter();
    changes
        .map(|change| change["field"].as_str().unwrap().to_owned())
        .collect()
}

impl Site {
    fn get(&self, path: &str) -> Value {
        let (addr, token) = (self.state("run/api.addr"), self.state("api.token"));
        let url = format!("http://{}{path}", addr.unwrap());
        let authorization = format!("Bearer {}", token.unwrap());
        let request = ureq::get(&url).header("Authorization", &authorization);
        request.call().unwrap().body_mut().read_json().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_frozen_with_its_release() {
    let site = open("").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 15_000);
    site.live(3).await;
    fs::write(site.dir.join("prompt.toml"), "be short").unwrap();
    let before = prompts(&site, "v1");
    for (path, text) in &before {
        assert_eq!(text, "be kind");
        assert!(path.ends_with("prompt.toml"), "{path:?}");
        assert!(path.starts_with(site.home()), "{path:?}");
        assert!(path.metadata().unwrap().permissions().readonly());
    }
    let worker = site.workers("v1")[0];
    assert_eq!(environ(worker, "SEGUE_MODEL").as_deref(), Some("gpt-x"));
    // Another prompt, and nothing else.
    let prompt = json!({ "name": "night.toml", "content": "be quiet" });
    let begun = site.begin(&json!({ "label": "v2", "prompt": prompt }));
    assert_eq!(begun["made_from"], "v1");
    site.becomes("v2", "current").await;
    assert_eq!(diff(&site, "v1", "v2"), ["prompt"]);
    let programs = |label: &str| {
        let workers = site.workers(label).into_iter();
        let program = |pid: Pid| fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero()));
        workers.map(|pid| program(pid).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(programs("v1"), programs("v2"), "the same binary");
    let after = prompts(&site, "v2");
    assert!(
        after
            .iter()
            .all(|(path, text)| { text == "be quiet" && path.ends_with("night.toml") })
    );
    reports(crowd).await;
    site.spotless(3);
    // A worker that is started again gets what its release was made of.
    for (label, wanted) in [("v1", &before), ("v2", &after)] {
        let old = site.workers(label);
        kill_process(old[0], Signal::KILL).unwrap();
        site.until("its successor", || {
            let now = site.workers(label);
            now.len() == 2 && !now.contains(&old[0])
        })
        .await;
        assert_eq!(&prompts(&site, label), wanted, "{label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_alone_is_taken_back() {
    let site = open(PAUSING).await;
    let bring_in = async |label: &str| {
        site.phase("canary").await;
        site.ok(&["approve"]);
        site.ok(&["promote", "--full"]);
        site.becomes(label, "current").await;
    };
    site.ok(&["deploy", "v1", "--wait", "none"]);
    if site.release("v1").is_none_or(|is| is["state"] != "current") {
        site.until("v1 is approved", || site.run(&["approve"]).status.success())
            .await;
    }
    site.becomes("v1", "current").await;
    let verb = format!("/v1/agents/{AGENT}/rollback");
    let only = |part: &str| site.post(&verb, &json!({ "only": part }));
    let (status, problem) = only("prompt");
    assert_eq!(status, 422, "{problem}");
    let crowd = site.crowd("a", 3, 15_000);
    site.live(3).await;
    site.begin(&json!({
        "label": "v2",
        "prompt": { "name": "prompt.toml", "content": "be rude" },
        "env": { "GREETING": "hello" },
    }));
    bring_in("v2").await;
    let (status, problem) = only("model");
    assert_eq!(status, 422, "{problem}");
    assert!(
        problem["title"]
            .as_str()
            .unwrap()
            .contains("the same model"),
        "{problem}"
    );
    let (status, answer) = only("prompt");
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["made_from"], "v2");
    // It was tried before: neither a ramp nor a person is waited for.
    let label = "v2-prompt-of-v1";
    site.becomes(label, "current").await;
    assert_eq!(diff(&site, "v2", label), ["prompt"]);
    assert_eq!(diff(&site, "v1", label), ["env.GREETING"]);
    assert!(
        prompts(&site, label)
            .iter()
            .all(|(_, text)| text == "be kind")
    );
    // Where nothing else differs, it is the release before, which still stands by.
    site.begin(&json!({ "label": "v4", "model": "gpt-y" }));
    bring_in("v4").await;
    let workers = site.workers(label);
    let (status, answer) = only("model");
    assert_eq!(status, 200, "{answer}");
    assert!(
        answer["facts"].to_string().contains("rollback_started"),
        "{answer}"
    );
    site.becomes(label, "current").await;
    assert_eq!(site.workers(label), workers);
    reports(crowd).await;
    site.spotless(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_made_from_whichever_is_named() {
    let site = open("").await;
    site.ok(&["deploy", "v1", "--env", "A=1"]);
    site.ok(&["deploy", "v2", "--env", "B=2"]);
    assert_eq!(diff(&site, "v1", "v2"), ["env.B"]);
    let begun = site.begin(&json!({ "label": "v3", "from": "v1", "env": { "C": "3" } }));
    assert_eq!(begun["made_from"], "v1");
    site.becomes("v3", "current").await;
    assert_eq!(diff(&site, "v1", "v3"), ["env.C"]);
    // Asked for nothing in particular, it is what the configuration says now.
    fs::write(site.dir.join("prompt.toml"), "be short").unwrap();
    assert_eq!(
        site.begin(&json!({ "label": "v4" }))["made_from"],
        Value::Null
    );
    site.becomes("v4", "current").await;
    assert_eq!(diff(&site, "v3", "v4"), ["env.A", "env.C", "prompt"]);
    let verb = format!("/v1/agents/{AGENT}/deploy");
    for (body, wanted) in [
        (json!({ "label": "v5", "from": "v0" }), 404),
        (
            json!({ "label": "v5", "prompt": { "name": "../x", "content": "" } }),
            422,
        ),
        (json!({ "label": "v5", "env": { "engine:X": "1" } }), 422),
        (
            json!({ "label": "v5", "config": { "name": "c", "content": "x".repeat(300_000) } }),
            422,
        ),
    ] {
        let (status, problem) = site.post(&verb, &body);
        assert_eq!(status, wanted, "{problem}");
        assert!(
            problem["hint"]
                .as_str()
                .is_some_and(|hint| !hint.is_empty())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_told_where_they_keep_the_state_of_calls() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let worker = site.workers("v1")[0];
    let url = environ(worker, "SEGUE_API_URL").unwrap();
    assert_eq!(
        url,
        format!("http://{}", site.state("run/api.addr").unwrap())
    );
    let file = environ(worker, "SEGUE_TOKEN_FILE").unwrap();
    let token = fs::read_to_string(file).unwrap();
    let authorization = format!("Bearer {}", token.trim());
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let ask = |path: &str| {
        let request = agent.get(format!("{url}{path}"));
        let request = request.header("Authorization", &authorization);
        request.call().unwrap().status().as_u16()
    };
    assert_eq!(
        ask("/v1/calls/CA1/state"),
        404,
        "it may ask, and there is none"
    );
    assert_eq!(ask("/v1/status"), 403, "the rest is not its business");
}
