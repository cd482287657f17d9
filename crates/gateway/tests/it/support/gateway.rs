//! Gateways under test, in this process or in one of their own.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use segue_gateway::{Config, Limits, RunError};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{soon, until};

pub(crate) fn config(dir: &Path) -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        gateway: "gw-1".parse().unwrap(),
        state_dir: dir.to_owned(),
        control_socket: dir.join("control.sock"),
        takeover: None,
        shards: 2,
        limits: Limits::default(),
    }
}

/// A gateway in this process.
pub(crate) struct Gateway {
    pub(crate) addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RunError>>,
}

impl Gateway {
    pub(crate) async fn start(config: Config) -> Self {
        let file = config.addr_file();
        let _ = std::fs::remove_file(&file);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            segue_gateway::run(config, shutdown).await
        });
        let addr = until("the gateway's address", || address(&file)).await;
        Self { addr, stop, task }
    }

    /// Nobody asks it to end.
    pub(crate) fn ended(self) -> JoinHandle<Result<(), RunError>> {
        // Its other end would read a dropped sender as a wish.
        std::mem::forget(self.stop);
        self.task
    }

    /// Asks it to end; it does when its last call has.
    pub(crate) fn stop(self) -> JoinHandle<Result<(), RunError>> {
        self.stop.send(()).unwrap();
        self.task
    }
}

fn address(file: &Path) -> Option<SocketAddr> {
    std::fs::read_to_string(file).ok()?.parse().ok()
}

/// A gateway in a process of its own.
pub(crate) struct Process {
    pub(crate) addr: SocketAddr,
    pub(crate) child: Child,
}

impl Process {
    /// Starts one; `takes` makes it take over from the one that runs in the same directory.
    pub(crate) async fn start(dir: &Path, takes: bool) -> Self {
        Self::start_failing(dir, takes, "").await
    }

    /// One that breaks where `fail` says: see [`segue_gateway::handoff::fail`].
    pub(crate) async fn start_failing(dir: &Path, takes: bool, fail: &str) -> Self {
        let config = config(dir);
        let file = config.addr_file();
        let before = std::fs::metadata(&file).ok().map(|data| data.ino());
        let child = child("gateway")
            .env("SEGUE_TEST_DIR", dir)
            .env("SEGUE_TEST_TAKES", if takes { "yes" } else { "no" })
            .env("SEGUE_FAIL_AT", fail)
            .spawn()
            .unwrap();
        // The file is replaced, never written to, once the process takes calls.
        let addr = until("the gateway's address", || {
            let now = std::fs::metadata(&file).ok().map(|data| data.ino());
            (now != before).then(|| address(&file)).flatten()
        })
        .await;
        Self { addr, child }
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        soon("the end of a process", self.child.wait())
            .await
            .unwrap()
    }

    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

/// This binary again, as one of the processes in `child.rs`.
pub(crate) fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(format!("child::{name}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}
