//! The agents in Python, and a caller who listens.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::site::Site;

/// The root of the repository.
fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

/// The Python that has what the examples need.
pub(crate) fn python() -> PathBuf {
    interpreter("SEGUE_TEST_PYTHON", "venv")
}

/// The one that has LiveKit's package.
pub(crate) fn livekit() -> PathBuf {
    interpreter("SEGUE_TEST_LIVEKIT_PYTHON", "venv-livekit")
}

/// Without it the tests fail, and say what to do.
fn interpreter(variable: &str, venv: &str) -> PathBuf {
    let made = || root().join("target").join(venv).join("bin/python");
    let python = std::env::var_os(variable).map_or_else(made, PathBuf::from);
    assert!(
        python.exists(),
        "{} is missing\nhint: `make python` makes it; or set {variable}",
        python.display()
    );
    python
}

/// A file of the examples.
pub(crate) fn example(name: &str) -> PathBuf {
    let path = root().join("examples").join(name);
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// A place whose agents are `program`, once for each of `agents`: its name, and what else is set.
pub(crate) fn prepare(program: &str, agents: &[(&str, &str)]) -> Site {
    let site = Site::prepare("", "");
    let (python, program) = (python(), example(program));
    let (python, program) = (python.display(), program.display());
    let log = site.dir.join("logs/workers.jsonl");
    let mut config = r#"
[gateway]
listen = "127.0.0.1:0"

[api]
listen = "127.0.0.1:0"
"#
    .to_owned();
    for (agent, settings) in agents {
        write!(
            config,
            r#"
[agents.{agent}]
command = [
    "{python}", "{program}",
    "--port", "{{port}}", "--release", "{{release}}", "--worker", "{{worker}}",
]
env = {{ AGENT_CALL_LOG = "{}" }}
health = "/healthz"
{settings}
"#,
            log.display()
        )
        .unwrap();
    }
    fs::write(site.dir.join("segue.toml"), config).unwrap();
    site
}

/// How many calls a test makes, and for how many seconds each: few and short, unless `make talk`
/// says otherwise.
pub(crate) fn size(calls: u32, seconds: u32) -> (u32, u32) {
    let told = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    (
        told("SEGUE_TEST_CALLS", calls),
        told("SEGUE_TEST_SECONDS", seconds),
    )
}

/// One call, or several, by `caller.py`. Dropping it ends it.
pub(crate) struct Caller(Option<Child>);

/// What `caller.py` reported.
#[derive(Debug)]
pub(crate) struct Heard {
    /// Whether everything was understood and nothing was dropped, by its exit code.
    pub(crate) well: bool,
    /// Each call.
    pub(crate) calls: Vec<Value>,
    /// All calls in a few numbers.
    pub(crate) summary: Value,
}

impl Caller {
    /// Starts calling. Its log is read by the judge.
    pub(crate) fn start(site: &Site, scenario: &str, args: &[&str]) -> Self {
        let scenario = format!("receptionist/scenarios/{scenario}.toml");
        let child = Command::new(python())
            .arg(example("receptionist/caller.py"))
            .arg("--scenario")
            .arg(example(&scenario))
            .arg("--call-log")
            .arg(site.dir.join("logs/callers.jsonl"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(Some(child))
    }

    /// Waits for the end of all calls.
    pub(crate) async fn end(mut self) -> Heard {
        let child = self.0.take().unwrap();
        let output = tokio::task::spawn_blocking(|| child.wait_with_output());
        let output = output.await.unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut calls: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let summary = calls.pop().expect("the caller reports")["summary"].take();
        Heard {
            well: output.status.success(),
            calls,
            summary,
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
