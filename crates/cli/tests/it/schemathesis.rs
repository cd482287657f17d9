//! The admin API does what it says of itself: schemathesis asks it everything its description
//! permits, and much that it does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::python::python;
use crate::site::Site;

/// Requests of each endpoint that are made up, beside those that are derived from its bounds.
const EXAMPLES: &str = "30";
/// The same requests each time.
const SEED: &str = "20261121";

/// Requests per second of one token: what it takes to be done in a minute or two.
const CONFIG: &str = r#"[gateway]
listen = "127.0.0.1:0"

[api]
listen = "127.0.0.1:0"
rate_limit = 1000

[agents.desk]
command = ["segue", "sample-agent", "--port", "{port}", "--release", "{release}"]
workers = 1
capacity = 50
health = "/healthz"
stickiness = "1s"
straggler_buffer = "1s"
"#;

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis")
}

/// The numbers at the beginning of what follows `words`.
fn numbers(told: &str, words: &str) -> Vec<usize> {
    let after = told.split(words).nth(1).unwrap_or_default();
    let first = after.split([' ', '\n']).next().unwrap_or_default();
    first
        .split('/')
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// Everything but the stream of events, which has no end that a fuzzer could wait for.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_answers_only_what_it_describes() {
    let mut site = Site::prepare("", "");
    fs::write(site.dir.join("segue.toml"), CONFIG).unwrap();
    site.serve().await;
    site.deploy("v1");
    let made = site.json(&["token", "create", "fuzzer", "--role", "admin"]);
    let token = made["token"].as_str().unwrap();
    let api = site.state("run/api.addr").unwrap();

    let files = files();
    let mut command = Command::new(python());
    command
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(files.join("schemathesis.toml"))
        .arg("run")
        .arg(format!("http://{api}/v1/openapi.json"))
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--exclude-path", "/v1/events"])
        .args(["--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", EXAMPLES, "--seed", SEED])
        .args(["--continue-on-failure", "--request-timeout", "30"])
        .env("PYTHONPATH", &files)
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(&site.dir)
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await;
    let output = output.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");

    // It did ask, and every endpoint but the stream.
    let asked = numbers(&told, "Selected: ");
    let [selected, total] = asked.as_slice() else {
        panic!("{told}");
    };
    assert!(*total > 30 && selected + 1 == *total, "{told}");
    assert_eq!(numbers(&told, "Tested: "), [*selected], "{told}");
    let made = numbers(&told, "Test cases:\n  ");
    assert!(made[0] > 1_000, "{told}");

    // And it still stands: the journal holds, and whatever was done is written down.
    let verified = site.json(&["audit", "verify"]);
    assert_eq!(verified["ok"], true, "{verified}");
    let said = site.said();
    assert!(!said.contains("panicked"), "{said}");
}
