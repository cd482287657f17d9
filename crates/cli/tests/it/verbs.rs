//! The verbs of prompts, approvals, migrations, components and outbound calls, as people type them.

use std::fs;

use serde_json::{Value, json};

use crate::site::{AGENT, SETTINGS, Site, reports};

fn code(site: &Site, args: &[&str]) -> (Option<i32>, String) {
    let output = site.run(args);
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn fields(view: &Value) -> Vec<&str> {
    let changes = view["changes"].as_array().unwrap().iter();
    changes
        .map(|change| change["field"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_is_deployed_compared_and_taken_back_alone() {
    let settings = format!("{SETTINGS}prompt = \"prompt.toml\"\n");
    let mut site = Site::prepare(&settings, "");
    fs::write(site.dir.join("prompt.toml"), "be kind\n").unwrap();
    fs::write(site.dir.join("shorter.toml"), "be short\n").unwrap();
    site.serve().await;
    site.deploy("v1");
    let plan = site.ok(&["plan", "v2", "--prompt", "shorter.toml"]);
    assert!(
        plan.contains("from v1 (the current release), with prompt shorter.toml"),
        "{plan}"
    );
    let crowd = site.crowd("a", 3, 12_000);
    site.live(3).await;
    let (ok, said) = code(
        &site,
        &[
            "deploy",
            "v2",
            "--prompt",
            "shorter.toml",
            "--env",
            "TONE=dry",
        ],
    );
    assert_eq!(ok, Some(0), "{said}");
    assert!(said.contains("made from v1"), "{said}");
    let diff = site.json(&["diff", "v1", "v2"]);
    let differ = fields(&diff);
    assert!(differ.contains(&"env.TONE"), "{diff}");
    assert!(
        differ
            .iter()
            .all(|field| field.starts_with("prompt") || *field == "env.TONE"),
        "{diff}"
    );
    let text = site.ok(&["diff"]);
    assert!(
        text.starts_with("v1 → v2\n") && text.contains("+ dry"),
        "{text}"
    );

    // The prompt alone goes back; the variable stays.
    let (ok, said) = code(
        &site,
        &["rollback", "--only", "prompt", "--reason", "too short"],
    );
    assert_eq!(ok, Some(0), "{said}");
    site.becomes("v2-prompt-of-v1", "current").await;
    assert_eq!(
        fields(&site.json(&["diff", "v1", "v2-prompt-of-v1"])),
        ["env.TONE"]
    );
    let (same, said) = code(&site, &["rollback", "--only", "model"]);
    assert_eq!(same, Some(7), "{said}");
    assert!(said.contains("hint: "), "{said}");

    let (none, said) = code(&site, &["diff", "v1", "v9"]);
    assert_eq!(none, Some(2), "{said}");
    for bad in [
        &["deploy", "v5", "--prompt", "nowhere.toml"][..],
        &["deploy", "v5", "--env", "TONE"],
        &["deploy", "v5", "--from", "v9"],
    ] {
        let (wrong, said) = code(&site, bad);
        assert_eq!(wrong, Some(2), "{bad:?}: {said}");
        assert!(said.contains("hint: "), "{bad:?}: {said}");
    }
    reports(crowd).await;
    site.spotless(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_approves_before_all_new_calls() {
    let site = Site::open_with(SETTINGS, "\n[agents.desk.approval]\nbefore = \"cutover\"\n").await;
    let (waits, said) = code(&site, &["deploy", "v1"]);
    assert_eq!(waits, Some(0), "a planned stop: {said}");
    assert!(said.contains("hint: `segue approve`"), "{said}");
    assert!(
        site.ok(&["status"])
            .contains("waits: it waits for an approval")
    );
    let (refused, said) = code(&site, &["promote", "--full"]);
    assert_eq!(refused, Some(7), "{said}");
    assert!(said.contains("segue approve"), "{said}");
    let (other, said) = code(&site, &["approve", "v9"]);
    assert_eq!(other, Some(2), "{said}");
    let said = site.ok(&["approve", "v1", "--reason", "heard three calls"]);
    assert!(said.contains("approve: v1 is approved"), "{said}");
    site.becomes("v1", "current").await;
    let told = site.ok(&["explain"]);
    assert!(told.contains("v1 is approved by a person"), "{told}");
    assert!(told.contains("gates: passed"), "{told}");
    let (late, said) = code(&site, &["approve"]);
    assert_eq!(late, Some(7), "{said}");
    let plan = site.ok(&["plan", "v2"]);
    assert!(
        plan.contains("a person approves, before all new calls"),
        "{plan}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_runs_once_no_older_release_lives() {
    let hooks = r#"
[agents.desk.hooks.before_deploy]
command = ["sh", "-c", "echo expanded for {release}"]
[agents.desk.hooks.after_retire]
command = ["sh", "-c", "echo contracted for {release}"]
"#;
    let site = Site::open_with(SETTINGS, hooks).await;
    assert_eq!(code(&site, &["logs", "hooks"]).0, Some(2));
    site.deploy("v1");
    assert!(site.ok(&["logs", "hooks"]).contains("expanded for v1"));
    let crowd = site.crowd("a", 2, 4_000);
    site.live(2).await;
    site.deploy("v2");
    let (refused, said) = code(&site, &["contract"]);
    assert_eq!(refused, Some(7), "{said}");
    assert!(said.contains("v1") && said.contains("hint: "), "{said}");
    assert!(site.ok(&["status"]).contains("contract of v2: waiting"));
    reports(crowd).await;
    site.becomes("v1", "drained").await;
    site.ok(&["retire", "v1"]);
    site.until("the contract hook has run", || {
        site.ok(&["logs", "hooks"]).contains("contracted for v2")
    })
    .await;
    site.until("it is in the log", || {
        site.ok(&["explain"])
            .contains("the contract hook of v2 has run")
    })
    .await;
    assert_eq!(code(&site, &["contract", "v9"]).0, Some(2));
    site.spotless(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn components_are_shown_and_their_logs_read() {
    let engine = r#"
[agents.desk.components.engine]
command = ["segue", "sample-agent", "--port", "{port}", "--release", "engine-of-{release}"]
health = "/healthz"
"#;
    let settings = format!("{SETTINGS}depends_on = [\"engine\"]\n");
    let site = Site::open_with(&settings, engine).await;
    site.deploy("v1");
    let status = site.ok(&["status"]);
    assert!(status.contains("v1 runs engine ready"), "{status}");
    let log = site.ok(&["logs", "v1", "--component", "engine"]);
    assert!(log.contains("engine-of-v1"), "{log}");
    let all = site.ok(&["logs"]);
    assert!(
        all.lines().any(|line| line.starts_with("engine  ")),
        "{all}"
    );
    assert!(all.lines().any(|line| line.starts_with("v1-")), "{all}");
    let (none, said) = code(&site, &["logs", "v1", "--component", "proxy"]);
    assert_eq!(none, Some(2), "{said}");
    let plan = site.ok(&["plan", "v2"]);
    assert!(
        plan.contains("its own engine starts: segue sample-agent"),
        "{plan}"
    );
    // A variable of the component alone makes another release.
    site.ok(&["deploy", "v2", "--env", "engine:THREADS=4"]);
    let diff = site.json(&["diff", "v1", "v2"]);
    assert_eq!(fields(&diff), ["components.engine.env.THREADS"], "{diff}");
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_are_listed_with_who_holds_them() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    assert_eq!(site.json(&["permits"])["permits"], json!([]));
    let (addr, token) = (site.state("run/api.addr"), site.state("api.token"));
    let url = format!("http://{}/v1/agents/{AGENT}/permits", addr.unwrap());
    let granted = ureq::post(&url)
        .header("Authorization", format!("Bearer {}", token.unwrap()))
        .send_json(json!({ "release": "v1", "call": "out-1", "ttl": 600 }));
    assert!(granted.unwrap().status().is_success());
    let view = site.json(&["permits"]);
    assert_eq!(view["permits"][0]["call"], "out-1", "{view}");
    let status = site.ok(&["status"]);
    assert!(
        status.contains("desk: 1 outbound calls permitted"),
        "{status}"
    );
    let table = site.ok(&["permits"]);
    assert!(table.contains("out-1") && table.contains("v1"), "{table}");
    assert_eq!(code(&site, &["permits", "--agent", "nobody"]).0, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_all_of_a_file_or_nothing() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let file = site.dir.join("segue.toml");
    let good = fs::read_to_string(&file).unwrap();
    assert_eq!(site.json(&["reload"])["changed"], json!([]));
    fs::write(&file, good.replace("capacity = 50", "capacity = 60")).unwrap();
    assert_eq!(site.json(&["reload"])["changed"], json!([AGENT]));
    site.deploy("v2");
    assert_eq!(
        site.release("v2").unwrap()["capacity"],
        120,
        "two workers of 60"
    );
    fs::write(&file, good.replace("capacity", "capacty")).unwrap();
    let (refused, said) = code(&site, &["reload"]);
    assert_ne!(refused, Some(0), "{said}");
    assert!(
        said.contains("capacty") && said.contains("hint: "),
        "{said}"
    );
    let away = site
        .command(&["reload", "--home", "elsewhere"])
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(3));
}

#[test]
fn the_schema_and_the_reference_are_printed() {
    let site = Site::prepare("", "");
    let schema: Value = serde_json::from_str(&site.ok(&["config", "schema"])).unwrap();
    assert!(schema["$schema"].is_string() && schema["properties"]["agents"].is_object());
    let reference = site.ok(&["config", "reference"]);
    assert!(reference.starts_with("# `segue.toml`"), "{reference}");
}
