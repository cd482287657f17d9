//! Migrations around a release: expand before its first worker, contract after the last old one.

use std::fs;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::site::{AGENT, SETTINGS, Site, reports};

/// Writes down when it runs, in which order, and which workers it sees. `EXPAND` says how it goes.
const MIGRATE: &str = r#"
echo "$1 begins $SEGUE_HOOK $SEGUE_FROM_RELEASE>$SEGUE_RELEASE" >> order.log
old=0
for process in /proc/[0-9]*; do
    words=$(tr '\0' ' ' < "$process/cmdline" 2>/dev/null) || continue
    case "$words" in
        *sample-agent*"--release $SEGUE_FROM_RELEASE "*)
            grep -qF "$PWD/logs/workers.jsonl" "$process/environ" 2>/dev/null && old=$((old + 1)) ;;
    esac
done
echo "$1 saw $old old workers" >> order.log
if [ "$1" = expand ]; then
    case "$EXPAND" in
        fail) echo "column exists already" >&2; exit 3 ;;
        slow) while ! [ -e go ]; do sleep 0.1; done ;;
    esac
fi
if [ "$1" = contract ] && [ -e stuck ]; then
    echo "the table is locked" >&2
    exit 1
fi
echo "$1 ended" >> order.log
"#;

/// Says that it starts, and is the agent then.
const RUN: &str = r#"
echo "worker $2" >> order.log
exec "$BIN" sample-agent --port "$1" --release "$2"
"#;

/// Launches the agent and waits for it.
const LAUNCH: &str = r#"
"$BIN" sample-agent --port "$1" --release "$2" &
echo "$2 $!" >> agents.log
wait
"#;

const HOOKS: &str = r#"
[agents.desk.hooks.before_deploy]
command = ["sh", "migrate.sh", "expand"]
timeout = "30s"

[agents.desk.hooks.after_retire]
command = ["sh", "migrate.sh", "contract"]
timeout = "30s"
"#;

async fn open(settings: &str) -> Site {
    let mut site = Site::prepare(settings, HOOKS);
    fs::write(site.dir.join("migrate.sh"), MIGRATE).unwrap();
    fs::write(site.dir.join("run.sh"), RUN).unwrap();
    let path = site.dir.join("segue.toml");
    let config = fs::read_to_string(&path).unwrap();
    let bin = format!("BIN = \"{}\", SAMPLE_CALL_LOG", crate::site::SEGUE);
    let config = config.replacen("SAMPLE_CALL_LOG", &bin, 1);
    let from = config.find("command = ").unwrap();
    let end = from + config[from..].find('\n').unwrap();
    let command = r#"command = ["sh", "run.sh", "{port}", "{release}"]"#;
    let config = format!("{}{command}{}", &config[..from], &config[end..]);
    fs::write(path, config).unwrap();
    site.serve().await;
    site
}

fn order(site: &Site) -> Vec<String> {
    let text = fs::read_to_string(site.dir.join("order.log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn contract(site: &Site, label: &str) -> Value {
    let agent = site.agent().unwrap_or_default();
    let contracts = agent["contracts"].as_array().cloned().unwrap_or_default();
    let is = |contract: &Value| contract["release"] == label;
    contracts.into_iter().find(is).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn expand_runs_before_the_first_worker_and_contract_after_the_last_old_one() {
    let site = open(&SETTINGS.replace("5m", "1s")).await;
    site.deploy("v1");
    site.until("the contract of v1 has run", || {
        contract(&site, "v1")["state"] == "done"
    })
    .await;
    assert_eq!(
        order(&site),
        [
            "expand begins before_deploy >v1",
            "expand saw 0 old workers",
            "expand ended",
            "worker v1",
            "worker v1",
            "contract begins after_retire >v1",
            "contract saw 0 old workers",
            "contract ended",
        ],
        "nothing is older than the first"
    );
    let crowd = site.crowd("a", 4, 12_000);
    site.live(4).await;
    site.deploy("v2");
    let so_far = order(&site);
    let of_v2 = &so_far[so_far
        .iter()
        .position(|line| line.ends_with("v1>v2"))
        .unwrap()..];
    assert_eq!(
        of_v2,
        [
            "expand begins before_deploy v1>v2",
            "expand saw 2 old workers",
            "expand ended",
            "worker v2",
            "worker v2",
        ]
    );
    // While callers of v1 speak, what they need is not taken away, whoever asks.
    assert_eq!(contract(&site, "v2")["state"], "waiting");
    let (status, problem) = site.post(&format!("/v1/agents/{AGENT}/contract"), &json!({}));
    assert_eq!(status, 422, "{problem}");
    assert!(
        problem["title"].as_str().unwrap().contains("v1"),
        "{problem}"
    );
    reports(crowd).await;
    site.becomes("v1", "retired").await;
    site.until("the contract has run", || {
        contract(&site, "v2")["state"] == "done"
    })
    .await;
    let after: Vec<String> = order(&site).split_off(so_far.len());
    assert_eq!(
        after,
        [
            "contract begins after_retire v1>v2",
            "contract saw 0 old workers",
            "contract ended",
        ]
    );
    let (status, problem) = site.post(&format!("/v1/agents/{AGENT}/contract"), &json!({}));
    assert_eq!(status, 422, "it has run: {problem}");
    site.spotless(4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expand_that_fails_fails_the_deploy_and_nobody_notices() {
    let site = open(SETTINGS).await;
    site.deploy("v1");
    let crowd = site.crowd("a", 3, 8_000);
    site.live(3).await;
    site.begin(&json!({ "label": "v2", "env": { "EXPAND": "fail" } }));
    site.phase("failed").await;
    let agent = site.agent().unwrap();
    let reason = agent["rollout"]["reason"].as_str().unwrap().to_owned();
    assert!(
        reason.contains("before_deploy ended with status 3: column exists already"),
        "{reason}"
    );
    let begun = order(&site);
    assert!(!begun.contains(&"worker v2".to_owned()), "{begun:?}");
    assert_eq!(site.release("v1").unwrap()["share_bp"], 10_000);
    let logs = site.home().join("log/hooks").join(AGENT);
    let said = fs::read_dir(logs).unwrap().flatten().any(|entry| {
        let text = fs::read_to_string(entry.path()).unwrap();
        text.contains("column exists already")
    });
    assert!(said, "its output is kept");
    reports(crowd).await;
    site.spotless(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_goes_on_while_the_controller_is_away_and_runs_once() {
    let mut site = open(SETTINGS).await;
    site.begin(&json!({ "label": "v1", "env": { "EXPAND": "slow" } }));
    site.until("expand runs", || order(&site).len() == 2).await;
    let shown = site.agent().unwrap()["hooks"][0].clone();
    assert_eq!(
        (&shown["state"], &shown["release"]),
        (&json!("running"), &json!("v1"))
    );
    let before = site.pid("run/controller.json").unwrap();
    kill_process(before, Signal::KILL).unwrap();
    site.until("another controller", || {
        site.pid("run/controller.json")
            .is_some_and(|pid| pid != before)
            && site.agent().is_some()
    })
    .await;
    // Everything is killed and started again, and it still runs.
    site.kill_serve();
    site.kill("run/controller.json");
    site.serve().await;
    fs::write(site.dir.join("go"), "").unwrap();
    site.becomes("v1", "current").await;
    assert_eq!(
        order(&site)[..5],
        [
            "expand begins before_deploy >v1",
            "expand saw 0 old workers",
            "expand ended",
            "worker v1",
            "worker v1",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_that_fails_waits_for_a_person_and_is_run_again() {
    let site = open(SETTINGS).await;
    fs::write(site.dir.join("stuck"), "").unwrap();
    site.deploy("v1");
    let state = |wanted: &str| contract(&site, "v1")["state"] == wanted;
    site.until("the contract has failed", || state("failed"))
        .await;
    let reason = contract(&site, "v1")["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("the table is locked"), "{reason}");
    assert_eq!(
        site.release("v1").unwrap()["share_bp"],
        10_000,
        "calls go on"
    );
    fs::remove_file(site.dir.join("stuck")).unwrap();
    let verb = format!("/v1/agents/{AGENT}/contract");
    let (status, answer) = site.post(&verb, &json!({ "release": "v1" }));
    assert_eq!(status, 200, "{answer}");
    site.until("the contract has run", || state("done")).await;
    let runs = order(&site)
        .into_iter()
        .filter(|line| line.starts_with("contract begins"));
    assert_eq!(runs.count(), 2);
}

/// Agents of a release that were launched and live.
fn agents(site: &Site, label: &str) -> Vec<i32> {
    let text = fs::read_to_string(site.dir.join("agents.log")).unwrap_or_default();
    let ours = text.lines().filter_map(|line| line.strip_prefix(label));
    let pids = ours.map(|pid| pid.trim().parse::<i32>().unwrap());
    let lives = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("sample-agent")
    };
    pids.filter(lives).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_launcher_leaves_behind_keeps_its_calls_and_holds_the_contract() {
    let site = open(&SETTINGS.replace("5m", "1s")).await;
    fs::write(site.dir.join("run.sh"), LAUNCH).unwrap();
    site.deploy("v1");
    site.until("the contract of v1 has run", || {
        contract(&site, "v1")["state"] == "done"
    })
    .await;
    let crowd = site.crowd("a", 4, 12_000);
    site.live(4).await;
    let (launchers, left) = (site.workers("v1"), agents(&site, "v1"));
    assert_eq!((launchers.len(), left.len()), (2, 2));
    for pid in &launchers {
        kill_process(*pid, Signal::KILL).unwrap();
    }
    site.until("other workers", || {
        let now = site.workers("v1");
        let others = now.iter().all(|pid| !launchers.contains(pid));
        now.len() == 2 && others && agents(&site, "v1").len() == 4
    })
    .await;
    site.deploy("v2");
    // The next controller knows of them, too.
    let controller = site.pid("run/controller.json").unwrap();
    kill_process(controller, Signal::KILL).unwrap();
    site.until("another controller", || {
        site.pid("run/controller.json")
            .is_some_and(|pid| pid != controller)
            && site.agent().is_some()
    })
    .await;
    assert_eq!(contract(&site, "v2")["state"], "waiting");
    let live = agents(&site, "v1");
    assert!(left.iter().all(|pid| live.contains(pid)), "{live:?}");
    reports(crowd).await;
    site.until("the contract has run", || {
        contract(&site, "v2")["state"] == "done"
    })
    .await;
    assert_eq!(agents(&site, "v1"), [0; 0], "they ended with their release");
    assert_eq!(agents(&site, "v2").len(), 2);
    let said = order(&site);
    let last = said
        .iter()
        .rposition(|line| line.starts_with("contract begins"));
    assert_eq!(said[last.unwrap() + 1], "contract saw 0 old workers");
    let records = fs::read_dir(site.home().join("workers").join(AGENT)).unwrap();
    let is_record = |path: &std::path::Path| path.extension().is_some_and(|end| end == "json");
    let records = records.flatten().filter(|entry| is_record(&entry.path()));
    assert_eq!(records.count(), 2, "nothing is written down of them");
    site.spotless(4);
}
