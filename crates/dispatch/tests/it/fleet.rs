//! Workers with LiveKit's own package, each a process of its own.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::key;
use crate::traffic;
use crate::upstream::PATIENCE;

static DIRS: AtomicU32 = AtomicU32::new(0);

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

/// Whose package a worker is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program {
    /// livekit-agents of Python: `examples/livekit-worker`.
    Python,
    /// The same with the SDK: `examples/livekit-agent`, in rooms that are only played.
    Sdk,
    /// The same under OpenRTC's pool.
    OpenRtc,
    /// `@livekit/agents` of Node.
    Node,
}

impl Program {
    /// What runs it, and its file. Without its packages the tests fail, and say what to do.
    fn place(self) -> (PathBuf, PathBuf) {
        let python = || {
            let python = std::env::var_os("SEGUE_TEST_LIVEKIT_PYTHON").map_or_else(
                || root().join("target/venv-livekit/bin/python"),
                PathBuf::from,
            );
            let hint = "`make python` makes it; or set SEGUE_TEST_LIVEKIT_PYTHON";
            must_be(&python, hint);
            python
        };
        let tests = root().join("crates/dispatch/tests");
        match self {
            Self::Python => (python(), root().join("examples/livekit-worker/worker.py")),
            Self::Sdk => (python(), root().join("examples/livekit-agent/agent.py")),
            Self::OpenRtc => (python(), tests.join("openrtc_worker.py")),
            Self::Node => {
                let worker = root().join("target/node-livekit/worker.mjs");
                must_be(&worker, "`make livekit` puts it there");
                ("node".into(), worker)
            }
        }
    }
}

/// For the health of workers of Node, which do not look for a free port themselves.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn must_be(path: &Path, hint: &str) {
    assert!(path.exists(), "{} is missing\nhint: {hint}", path.display());
}

/// A folder with a log that its workers write. Dropping it removes it, unless the test failed.
pub(crate) struct Fleet {
    pub(crate) dir: PathBuf,
}

/// One worker and the processes of its jobs. Dropping it ends them by force.
pub(crate) struct Real {
    pub(crate) name: String,
    child: Child,
    said: PathBuf,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let number = DIRS.fetch_add(1, Ordering::Relaxed);
        let name = format!("segue-livekit-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    /// Where jobs are logged.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("workers.jsonl")
    }

    /// What the workers' jobs have logged so far.
    pub(crate) fn jobs(&self) -> Vec<Value> {
        traffic::jobs(&self.log())
    }

    /// Starts a worker. It takes seconds until it is registered: start all, then wait.
    pub(crate) fn start(
        &self,
        program: Program,
        name: &str,
        release: &str,
        url: &str,
        env: &[(&str, &str)],
    ) -> Real {
        let said = self.dir.join(format!("{name}.log"));
        let output = fs::File::create(&said).unwrap();
        let (interpreter, file) = program.place();
        let child = Command::new(interpreter)
            .arg(file)
            .arg("start")
            .env("LIVEKIT_URL", url)
            .env("LIVEKIT_API_KEY", key::KEY)
            .env("LIVEKIT_API_SECRET", key::SECRET)
            .env("AGENT_CALL_LOG", self.log())
            .env("AGENT_RELEASE", release)
            .env("AGENT_WORKER", name)
            .env("AGENT_PORT", free_port().to_string())
            .env_remove("LIVEKIT_WORKER_TOKEN")
            .env_remove("LIVEKIT_AGENT_DEPLOYMENT")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap();
        Real {
            name: name.to_owned(),
            child,
            said,
        }
    }

    /// Waits for something in the log of the jobs.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&[Value]) -> bool) {
        traffic::until(&self.log(), what, is).await;
    }
}

/// How often a file or a process is looked at.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(20);

impl Real {
    /// Signals the worker itself, not its jobs.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it has said.
    pub(crate) fn said(&self) -> String {
        let mut text = String::new();
        let file = fs::File::open(&self.said);
        let _ = file.and_then(|mut file| file.read_to_string(&mut text));
        text
    }

    /// Waits until it has said something so many times.
    pub(crate) async fn until_says(&self, what: &str, times: usize) {
        let began = Instant::now();
        while self.said().matches(what).count() < times {
            let late = began.elapsed() > PATIENCE;
            assert!(!late, "{} never said {what:?}: {}", self.name, self.said());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for its end; answers its exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            let late = began.elapsed() > PATIENCE;
            assert!(!late, "{} did not end: {}", self.name, self.said());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // Its group: the jobs too, which outlive a worker that is killed alone.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
