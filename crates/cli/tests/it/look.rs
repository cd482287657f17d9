//! The verbs that look: what they say of a running Segue, and of one that does not run.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::site::{AGENT, RAMP, SETTINGS, Site, reports};

fn code(site: &Site, args: &[&str]) -> (Option<i32>, String) {
    let output = site.run(args);
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_explained_from_the_log_and_listed_in_the_history() {
    let quick = "\n[[agents.desk.steps]]\nshare = \"50%\"\nmin_calls = 2\nmin_duration = \"1s\"\n";
    let site = Site::open_with(SETTINGS, quick).await;
    assert_eq!(code(&site, &["explain"]).0, Some(2), "nothing to explain");
    assert_eq!(site.json(&["history"])["rollouts"], serde_json::json!([]));
    site.deploy("v1");
    site.ok(&["deploy", "v2", "--wait", "none"]);
    site.phase("canary").await;
    reports(site.crowd("a", 12, 1_000)).await;
    site.becomes("v2", "current").await;
    site.until("it has landed", || {
        site.json(&["history"])["rollouts"][1]["outcome"] == "landed"
    })
    .await;

    let told = site.json(&["explain"]);
    assert_eq!(told["rollout"], 2);
    assert_eq!(told["release"], "v2");
    assert_eq!(told["from"], "v1");
    assert_eq!(told["by"], "operator:tester");
    let decisions = told["decisions"].as_array().unwrap();
    let said = |fact: &str| -> &Value {
        let found = decisions.iter().find(|decision| decision["fact"] == fact);
        found.unwrap_or_else(|| panic!("no {fact} in {told}"))
    };
    assert!(
        said("deployed")["what"]
            .to_string()
            .contains("v2 is brought in beside v1")
    );
    assert!(
        said("step_started")["what"]
            .to_string()
            .contains("v2 takes 50 % of new calls")
    );
    let cut = said("cut_over")["because"].to_string();
    for input in [
        "calls ended, 2 asked for",
        "v1 current: 50 % of new calls",
        "room: its workers hold 100 calls",
        "limits: 2 % dropped",
    ] {
        assert!(cut.contains(input), "{input:?} is not in {cut}");
    }
    let landed = said("landed")["because"].to_string();
    assert!(landed.contains("gw-1 acts by epoch"), "{landed}");
    let times = decisions
        .iter()
        .map(|decision| decision["seq"].as_u64().unwrap());
    assert!(times.collect::<Vec<_>>().is_sorted(), "{told}");
    assert!(
        decisions
            .iter()
            .all(|decision| decision["inputs"]["epoch"].is_u64())
    );

    site.ok(&["rollback", "--reason", "callers complain"]);
    let text = site.ok(&["explain"]);
    assert!(text.contains("callers complain"), "{text}");
    let first = site.ok(&["explain", "1"]);
    assert!(
        first.contains("desk, rollout 1: v1") && first.contains("nothing serves yet"),
        "{first}"
    );
    let (none, said) = code(&site, &["explain", "77"]);
    assert_eq!(none, Some(2), "{said}");
    assert!(said.contains("hint: `segue history`"), "{said}");

    let history = site.json(&["history"]);
    let rollouts = history["rollouts"].as_array().unwrap();
    assert_eq!(rollouts[0]["release"], "v1");
    let last = rollouts.last().unwrap();
    assert_eq!(last["outcome"], "rolled-back", "{history}");
    assert!(
        last["reason"].to_string().contains("callers complain"),
        "{last}"
    );
    assert!(
        rollouts[1]["took_ms"].as_u64().unwrap() >= 1_000,
        "the step lasts a second"
    );
    let table = site.ok(&["history", "--limit", "1"]);
    assert_eq!(table.trim_end().lines().count(), 2, "{table}");
}

/// Every verb that answers with data answers machines too.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_has_a_form_for_machines() {
    let site = Site::open_with(SETTINGS, RAMP).await;
    site.deploy("v1");
    for (args, key) in [
        (&["status"][..], "agents"),
        (&["calls"], "calls"),
        (&["history"], "rollouts"),
        (&["explain"], "decisions"),
        (&["audit", "verify"], "head"),
        (&["audit", "--verify"], "head"),
        (&["plan", "v2"], "steps"),
        (&["doctor"], "findings"),
        (&["config", "check"], "faults"),
    ] {
        let view = site.json(args);
        assert!(!view[key].is_null(), "{args:?}: {view}");
        let yaml = site.ok(&[args, &["--output", "yaml"]].concat());
        assert!(yaml.contains(&format!("{key}:")), "{args:?}: {yaml}");
        assert!(!site.ok(args).trim().is_empty(), "{args:?}");
    }
    assert_eq!(site.json(&["audit", "verify"])["ok"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_a_deploy_would_do_and_what_is_missing() {
    let mut site = Site::prepare(SETTINGS, RAMP);
    let alone = site.ok(&["plan"]);
    assert!(alone.contains("BLOCKED: no Segue runs"), "{alone}");
    site.serve().await;
    let first = site.ok(&["plan", "v1"]);
    assert!(
        first.contains("nothing takes calls") && !first.contains("canary"),
        "{first}"
    );
    site.deploy("v1");
    let crowd = site.crowd("a", 4, 8_000);
    site.live(4).await;
    let plan = site.json(&["plan", "v2"]);
    let phases: Vec<&str> = plan["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["phase"].as_str().unwrap())
        .collect();
    assert_eq!(
        phases,
        [
            "made",
            "slot",
            "provisioning",
            "verifying",
            "canary",
            "promoting",
            "draining",
            "settling",
            "standby",
            "retired"
        ]
    );
    assert_eq!(plan["current"], "v1");
    assert_eq!(plan["live"], 4);
    assert_eq!(plan["missing"], serde_json::json!([]), "{plan}");
    let small = site.json(&["plan", "v2", "--workers", "1", "--capacity", "3"]);
    assert_eq!(small["missing"][0]["blocks"], true, "{small}");
    assert!(
        small["missing"][0]["what"].to_string().contains("no room"),
        "{small}"
    );
    // It is a plan: nothing was decided.
    assert_eq!(
        site.json(&["history"])["rollouts"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let (unknown, said) = code(&site, &["plan", "--agent", "nobody"]);
    assert_eq!(unknown, Some(2), "{said}");
    assert!(
        said.contains(&format!("hint: name one with --agent: {AGENT}")),
        "{said}"
    );
    reports(crowd).await;
}

fn findings<'a>(view: &'a Value, level: &str) -> Vec<&'a Value> {
    let all = view["findings"].as_array().unwrap().iter();
    all.filter(|finding| finding["level"] == level).collect()
}

fn doctor(site: &Site) -> (Option<i32>, Value) {
    let output = site.run(&["doctor", "--output", "json"]);
    let view = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), view)
}

/// Something of this level that mentions this, with a way to mend it.
fn finds(site: &Site, level: &str, expected: &str) {
    let (_, view) = doctor(site);
    let found = findings(&view, level)
        .into_iter()
        .find(|finding| finding["what"].as_str().unwrap().contains(expected));
    let found = found.unwrap_or_else(|| panic!("no {level} {expected:?} in {view:#}"));
    assert!(level == "ok" || found["fix"].is_string(), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_finds_nothing_wrong_where_nothing_is() {
    let mut site = Site::prepare(SETTINGS, RAMP);
    let (well, view) = doctor(&site);
    assert_eq!(well, Some(0), "{view:#}");
    site.serve().await;
    site.deploy("v1");
    let (well, view) = doctor(&site);
    assert_eq!(
        (well, findings(&view, "fail")),
        (Some(0), vec![]),
        "{view:#}"
    );
    finds(&site, "ok", "this Segue listens on 127.0.0.1");
    finds(&site, "ok", "entries verify");
    finds(&site, "ok", "the gateway runs as process");
    let table = site.ok(&["doctor", "--all"]);
    assert!(table.contains("0 failed"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_finds_what_is_wrong() {
    let mut site = Site::prepare(SETTINGS, RAMP);
    let file = site.dir.join("segue.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{good}");
        std::fs::write(&file, good.replace(from, to)).unwrap();
    };
    // A port that somebody else has.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    with(
        "[gateway]\nlisten = \"127.0.0.1:0\"",
        &format!("[gateway]\nlisten = \"{taken}\""),
    );
    assert_eq!(doctor(&site).0, Some(1));
    finds(
        &site,
        "fail",
        &format!("another program listens on {taken}"),
    );
    // A program that is not there, more calls than descriptors, a fault.
    with("\"segue\", \"sample-agent\"", "\"no-such-agent\", \"x\"");
    finds(&site, "fail", "the program \"no-such-agent\" was not found");
    with("capacity = 50", "capacity = 100000");
    finds(&site, "fail", "the last ones would be refused");
    with("stickiness", "stickyness");
    finds(&site, "fail", "unknown key \"stickyness\"");
    with("[agents.desk.smoke]\nscenario = \"hours\"", "");
    finds(&site, "warn", "no smoke gate");
    // A certificate that has expired, with another's key.
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let (key, another) = (
        rcgen::KeyPair::generate().unwrap(),
        rcgen::KeyPair::generate().unwrap(),
    );
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(site.dir.join("c.pem"), certificate.pem()).unwrap();
    std::fs::write(site.dir.join("k.pem"), another.serialize_pem()).unwrap();
    with(
        "[gateway]\n",
        "[gateway]\ntls = { cert = \"c.pem\", key = \"k.pem\" }\n",
    );
    finds(&site, "fail", "has expired: 2021-01-01");
    finds(&site, "fail", "certificate and key do not go together");

    std::fs::write(&file, &good).unwrap();
    site.serve().await;
    site.deploy("v1");
    let home = site.home();
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o755)).unwrap();
    finds(&site, "fail", "others may look into");
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o700)).unwrap();
    // Somebody edits the log, and leaves the controller without its supervisor.
    site.kill_serve();
    finds(
        &site,
        "warn",
        "`segue serve` does not run, but what it started does",
    );
    assert!(site.kill("run/controller.json"));
    let journal = rusqlite::Connection::open(home.join("journal.db")).unwrap();
    journal
        .execute("UPDATE journal SET actor = 'nobody' WHERE seq = 2", [])
        .unwrap();
    drop(journal);
    finds(&site, "fail", "entry 2 was edited");
}

#[test]
fn a_manual_page_is_made_for_every_verb() {
    let site = Site::prepare("", "");
    let page = site.ok(&["man"]);
    assert!(
        page.contains(".TH segue 1") && page.contains("rollback"),
        "{page}"
    );
    site.ok(&["man", "--dir", "man1"]);
    for verb in ["segue", "segue-deploy", "segue-explain", "segue-top"] {
        let page =
            std::fs::read_to_string(site.dir.join("man1").join(format!("{verb}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{verb}");
        assert!(verb == "segue" || page.contains("Examples"), "{verb}");
    }
}

#[test]
fn a_configuration_is_checked_and_every_fault_is_said() {
    let site = Site::prepare(SETTINGS, RAMP);
    let good = site.json(&["config", "check"]);
    assert_eq!(
        (&good["ok"], &good["agents"][0]),
        (&Value::Bool(true), &Value::from(AGENT))
    );
    std::fs::write(
        site.dir.join("bad.toml"),
        "[gatway]\n[agents.desk]\nworkers = 0\n",
    )
    .unwrap();
    let output = site.run(&["config", "check", "bad.toml", "--output", "json"]);
    assert_eq!(output.status.code(), Some(2));
    let bad: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(bad["faults"].as_array().unwrap().len() >= 2, "{bad}");
    assert!(
        bad["faults"][0].as_str().unwrap().contains("bad.toml:1:2"),
        "{bad}"
    );
}
