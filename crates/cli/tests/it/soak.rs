//! The long haul: people keep calling while one release after the other is brought in, in every
//! way there is. The judge reads only what callers and workers logged.
//!
//! `make soak` makes it long: 200 people at once. In the suite it is the same story with fewer.

use std::env;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use segue_voice::caller::call;
use segue_voice::calllog::Switch;
use tokio::task::JoinSet;

use crate::site::{AGENT, RAMP, SEGUE, Site};

/// How many people call at once in the suite.
const PEOPLE: u32 = 40;

/// Variable with the number of people of a longer run.
const PEOPLE_VARIABLE: &str = "SEGUE_SOAK_CALLS";

/// Calls last from 4 to 14 seconds, so that several releases always hold some.
const TALK_MS: (u64, u64) = (4_000, 10_000);

const SETTINGS: &str = r#"
workers = 2
capacity = 400
health = "/healthz"
stickiness = "1s"
straggler_buffer = "1s"
standby = "5m"
ready_timeout = "60s"
prompt = "prompt.toml"
depends_on = ["engine"]
"#;

const ENGINE: &str = r#"
[agents.desk.components.engine]
command = ["segue", "sample-agent", "--port", "{port}", "--release", "{release}"]
health = "/healthz"
"#;

/// People who call again as soon as they have hung up.
struct People {
    callers: JoinSet<u64>,
    closing: Arc<AtomicBool>,
}

impl People {
    fn gather(site: &Site, count: u32) -> Self {
        let closing = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for person in 0..count {
            let (template, closing) = (site.plan("CA", 0), Arc::clone(&closing));
            callers.spawn(async move {
                let mut calls = 0;
                while !closing.load(Ordering::Relaxed) {
                    let mut plan = template.clone();
                    plan.call_id = format!("CAsoak{person:04}n{calls:04}");
                    plan.seed = u64::from(person) * 1_000 + calls;
                    plan.talk_ms = TALK_MS.0 + plan.seed.wrapping_mul(7_919) % TALK_MS.1;
                    call(&plan).await;
                    calls += 1;
                }
                calls
            });
        }
        Self { callers, closing }
    }

    /// Nobody calls again; answers how many calls there were.
    async fn disperse(mut self) -> u64 {
        self.closing.store(true, Ordering::Relaxed);
        let mut calls = 0;
        while let Some(made) = self.callers.join_next().await {
            calls += made.unwrap();
        }
        calls
    }
}

/// The same program in other bytes: what follows the end of an ELF file is never looked at.
fn another_binary(site: &Site) -> PathBuf {
    let path = site.dir.join("agent-3");
    fs::copy(SEGUE, &path).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"the third build").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn five_deploys_under_calls_and_none_is_dropped() {
    let people = env::var(PEOPLE_VARIABLE).map_or(PEOPLE, |count| count.parse().unwrap());
    let mut site = Site::prepare(SETTINGS, &format!("{ENGINE}\n{RAMP}"));
    fs::write(site.dir.join("prompt.toml"), "greeting = \"hello\"\n").unwrap();
    fs::write(site.dir.join("warmer.toml"), "greeting = \"welcome\"\n").unwrap();
    site.serve().await;
    site.deploy("v1");
    let crowd = People::gather(&site, people);
    site.until("everybody talks", || {
        site.agent()
            .is_some_and(|agent| agent["live"].as_u64() >= Some(u64::from(people) * 8 / 10))
    })
    .await;

    site.ok(&["deploy", "v2", "--prompt", "warmer.toml"]);
    site.operator.acked(Switch::Cutover, AGENT, "v1", "v2");

    let binary = another_binary(&site);
    let binary = binary.to_str().unwrap();
    let command = ["--port", "{port}", "--release", "{release}"];
    let deploy = ["deploy", "v3", "--", binary, "sample-agent"];
    site.ok(&[&deploy[..], &command].concat());
    site.operator.acked(Switch::Cutover, AGENT, "v2", "v3");

    site.ok(&["deploy", "v4", "--env", "engine:ENGINE_MODEL=large"]);
    site.operator.acked(Switch::Cutover, AGENT, "v3", "v4");

    let failed = site.run(&["deploy", "v5", "--env", "SAMPLE_FAULT=garbled"]);
    assert_eq!(failed.status.code(), Some(6), "{failed:?}");
    assert_eq!(site.release("v4").unwrap()["share_bp"], 10_000);

    // Its cutover is not held against v4: calls go there again from the moment the rollback is
    // published, a little before the operator hears that it is acknowledged.
    site.ok(&["deploy", "v6"]);
    site.rollback("v6", "v4").await;

    let calls = crowd.disperse().await;
    let verdict = site.judge();
    assert!(calls >= u64::from(people) * 2, "{calls}");
    assert_eq!(verdict.started, calls, "{verdict:?}");
    site.spotless(calls);
}
