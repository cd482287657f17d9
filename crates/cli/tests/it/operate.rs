//! Operators: who wins, what waits, what is refused, what is written down.

use rustix::process::{Signal, kill_process};

use crate::site::{AGENT, RAMP, SEGUE, SETTINGS, Site, reports};

const PAUSING: &str = r#"
[[agents.desk.steps]]
share = "10%"
min_duration = "1s"
pause = true

[[agents.desk.steps]]
share = "50%"
min_duration = "1s"
pause = true
"#;

fn code(site: &Site, args: &[&str]) -> (Option<i32>, String) {
    let output = site.run(args);
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_at_once_one_gets_a_conflict() {
    let site = Site::open_with(SETTINGS, PAUSING).await;
    site.deploy("v1");
    site.deploy("v2");
    let revision = site.agent().unwrap()["revision"].to_string();
    let (promote, abort) = std::thread::scope(|scope| {
        let promote = scope.spawn(|| code(&site, &["promote", "--full", "--revision", &revision]));
        let abort = scope.spawn(|| code(&site, &["abort", "--revision", &revision]));
        (promote.join().unwrap(), abort.join().unwrap())
    });
    let mut codes = [promote.0.unwrap(), abort.0.unwrap()];
    codes.sort_unstable();
    assert_eq!(codes, [0, 4], "{promote:?} {abort:?}");
    let loser = if promote.0 == Some(4) {
        promote.1
    } else {
        abort.1
    };
    assert!(
        loser.contains("moved on") && loser.contains("hint: "),
        "{loser}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_move_a_rollout_step_by_step() {
    let site = Site::open_with(SETTINGS, PAUSING).await;
    site.deploy("v1");
    let crowd = site.crowd("a", 6, 12_000);
    site.live(6).await;
    site.deploy("v2");
    let paused = |site: &Site| site.agent().is_some_and(|a| a["rollout"]["paused"] == true);
    assert!(paused(&site));
    assert_eq!(site.release("v2").unwrap()["share_bp"], 1_000);
    let (busy, said) = code(&site, &["deploy", "v3"]);
    assert_eq!(busy, Some(7), "{said}");
    assert!(said.contains("segue abort"), "{said}");
    site.ok(&["promote"]);
    site.until("the second step pauses", || paused(&site)).await;
    assert_eq!(site.release("v2").unwrap()["share_bp"], 5_000);
    let abort = site.ok(&["abort", "--reason", "second thoughts"]);
    assert!(
        abort.contains("every new call goes to v1 again; v2's calls end by themselves"),
        "{abort}"
    );
    site.phase("rolled back").await;
    assert_eq!(site.release("v1").unwrap()["share_bp"], 10_000);
    reports(crowd).await;
    site.spotless(6);
    assert_eq!(
        site.run(&["promote"]).status.code(),
        Some(7),
        "nothing is under way"
    );
    // A release that was rolled back from can be tried again, with the workers it has.
    site.ok(&["deploy", "v2"]);
    let table = site.ok(&["status"]);
    assert!(
        table.contains("canary step 1 of 2, paused") && table.contains("v2"),
        "{table}"
    );
    let view = site.promote("v1", "v2");
    assert_eq!(view["ack"]["unacked"], serde_json::json!([]), "{view}");
    reports(site.crowd("b", 3, 1_000)).await;
    site.spotless(9);
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_and_resume_hold_and_release_a_rollout() {
    let slow = "\n[[agents.desk.steps]]\nshare = \"10%\"\nmin_duration = \"2s\"\n";
    let site = Site::open_with(SETTINGS, slow).await;
    site.deploy("v1");
    site.ok(&["deploy", "v2", "--wait", "none"]);
    site.phase("canary").await;
    site.ok(&["pause", "--reason", "lunch"]);
    assert_eq!(code(&site, &["pause"]).0, Some(7));
    let holds = site.agent().unwrap()["holds"].to_string();
    assert!(holds.contains("lunch"), "{holds}");
    site.ok(&["resume"]);
    site.becomes("v2", "current").await;
    assert_eq!(code(&site, &["resume"]).0, Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_roll_back_to_is_said_and_a_skip_is_written_down() {
    let gated = "\n[agents.desk.smoke]\nscenario = \"hours\"\n";
    let site = Site::open_with(SETTINGS, gated).await;
    assert_eq!(code(&site, &["rollback"]).0, Some(7));
    site.deploy("v1");
    let (none, said) = code(&site, &["rollback"]);
    assert_eq!(none, Some(7), "{said}");
    site.ok(&["deploy", "v2", "--wait", "none"]);
    site.phase("verifying").await;
    let (unproven, said) = code(&site, &["promote", "--full"]);
    assert_eq!(unproven, Some(7), "{said}");
    assert!(said.contains("--skip-gates"), "{said}");
    site.ok(&[
        "promote",
        "--full",
        "--skip-gates",
        "--reason",
        "the old one is on fire",
    ]);
    let log = site.ok(&["audit", "--output", "json"]);
    assert!(
        log.contains("gates_skipped") && log.contains("on fire"),
        "{log}"
    );
    assert!(
        log.lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn too_little_room_holds_the_rollout_and_says_what_is_missing() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 8, 12_000);
    site.live(8).await;
    site.ok(&[
        "deploy",
        "v2",
        "--workers",
        "1",
        "--capacity",
        "5",
        "--wait",
        "none",
    ]);
    let held = || {
        let holds = site
            .agent()
            .map(|agent| agent["holds"].to_string())
            .unwrap_or_default();
        holds.contains("its workers hold 5 calls, 8 are needed")
    };
    site.until("the rollout holds for room", held).await;
    assert_eq!(site.release("v1").unwrap()["share_bp"], 10_000);
    let (full, said) = code(&site, &["promote", "--full"]);
    assert_eq!(full, Some(7), "{said}");
    reports(crowd).await;
    site.becomes("v2", "current").await;
    site.spotless(8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_release_is_retired_by_hand_and_not_before() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 2, 5_000);
    site.live(2).await;
    site.deploy("v2");
    let (early, said) = code(&site, &["retire", "v1"]);
    assert_eq!(early, Some(7), "{said}");
    assert!(said.contains("2 live"), "{said}");
    reports(crowd).await;
    site.becomes("v1", "drained").await;
    let workers = site.workers("v1");
    site.ok(&["retire", "v1"]);
    site.becomes("v1", "retired").await;
    site.until("its workers end", || {
        workers
            .iter()
            .all(|pid| rustix::process::test_kill_process(*pid).is_err())
    })
    .await;
    assert_eq!(code(&site, &["rollback"]).0, Some(7));
    site.spotless(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_agent_turns_new_calls_away_and_comes_back() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let crowd = site.crowd("a", 2, 5_000);
    site.live(2).await;
    site.ok(&["drain", "--reason", "maintenance"]);
    // It is decided and published; the next call may be faster than the table.
    site.until("the gateway acts by it", || {
        let status = site.json(&["status"]);
        status["gateways"][0]["epochs"][AGENT] == status["agents"][0]["epoch"]
    })
    .await;
    let refused = reports(site.crowd("b", 1, 1_000)).await;
    let end = format!("{:?}", refused[0].end);
    assert!(end.contains("503"), "{end}");
    site.ok(&["rollback"]);
    let taken = reports(site.crowd("c", 1, 1_000)).await;
    assert!(
        format!("{:?}", taken[0].end).contains("HungUp"),
        "{taken:?}"
    );
    let kept = reports(crowd).await;
    assert!(
        kept.iter()
            .all(|report| format!("{:?}", report.end).contains("HungUp")),
        "{kept:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_follow_a_worker_without_a_controller_in_the_way() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let log = site.ok(&["logs", "v1"]);
    assert!(log.contains("sample agent takes calls"), "{log}");
    assert!(site.ok(&["logs", "controller"]).len() > 10);
    reports(site.crowd("a", 1, 1_000)).await;
    site.until("the call is on record", || {
        site.ok(&["logs", "calls"]).contains("CAa0000")
    })
    .await;
    let (none, said) = code(&site, &["logs", "v9"]);
    assert_eq!(none, Some(2), "{said}");
    // The files stay where they are, whoever answers.
    site.ok(&["stop"]);
    assert_eq!(site.ok(&["logs", "v1"]), log);
    let (none, said) = code(&site, &["logs", "v9"]);
    assert_eq!(none, Some(3), "{said}");
}

/// The current release got bad after it was proven: the next one's smoke call fails like its own,
/// which proves nothing against the next one. Somebody has to look, and the exit code says so.
#[tokio::test(flavor = "multi_thread")]
async fn an_inconclusive_gate_waits_for_an_operator() {
    let mut site = Site::prepare(SETTINGS, RAMP);
    let file = site.dir.join("segue.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let begin = config.find("command = ").unwrap();
    let end = begin + config[begin..].find('\n').unwrap();
    let fault = site.dir.join("fault");
    let script = format!(
        "exec {SEGUE} sample-agent --port {{port}} --release {{release}} --fault $(cat {})",
        fault.display()
    );
    let command = format!("command = [\"sh\", \"-c\", \"{script}\"]");
    std::fs::write(
        &file,
        format!("{}{command}{}", &config[..begin], &config[end..]),
    )
    .unwrap();
    std::fs::write(&fault, "none").unwrap();
    site.serve().await;
    site.deploy("v1");
    std::fs::write(&fault, "wrong").unwrap();
    let before = site.workers("v1");
    for pid in &before {
        kill_process(*pid, Signal::KILL).unwrap();
    }
    site.until("its workers are back", || {
        let now = site.workers("v1");
        now.len() == 2
            && now.iter().all(|pid| !before.contains(pid))
            && site
                .release("v1")
                .is_some_and(|v1| v1["workers_ready"] == 2)
    })
    .await;
    let (waits, said) = code(&site, &["deploy", "v2"]);
    assert_eq!(waits, Some(8), "{said}");
    assert!(
        said.contains("inconclusive") && said.contains("hint: `segue resume` tries again"),
        "{said}"
    );
    let (paused, said) = code(&site, &["promote", "--full"]);
    assert_eq!(paused, Some(7), "{said}");
    site.ok(&[
        "promote",
        "--full",
        "--skip-gates",
        "--reason",
        "v1 is bad too",
    ]);
    site.becomes("v2", "current").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_shows_the_newest_entries_and_times_people_can_read() {
    let site = Site::open_with(SETTINGS, "").await;
    site.deploy("v1");
    let seqs = |args: &[&str]| -> Vec<u64> {
        let text = site.ok(&[&["audit", "--output", "json"], args].concat());
        let entries = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let mut seqs = Vec::new();
        for entry in entries {
            assert!(entry["time"].as_str().unwrap().ends_with('Z'), "{entry}");
            seqs.push(entry["data"]["seq"].as_u64().unwrap());
        }
        seqs
    };
    let all = seqs(&["--all"]);
    assert!(all.len() > 4 && all[0] == 1, "{all:?}");
    assert_eq!(seqs(&["--limit", "3"]), all[all.len() - 3..]);
    assert_eq!(
        seqs(&["--limit", "2", "--agent", AGENT]),
        all[all.len() - 2..]
    );
    assert_eq!(seqs(&["--after", "1", "--limit", "2"]), [2, 3]);
    assert_eq!(code(&site, &["audit", "--all", "--after", "1"]).0, Some(2));
}
