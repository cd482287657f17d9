//! Processes of their own for tests that need to end or kill one: this binary starts itself with
//! one of these as its only test.

use std::path::PathBuf;

use rustix::process::{Resource, getrlimit, setrlimit};
use segue_gateway::TlsFiles;
use segue_gateway::keeper::{Keeper, census};
use tokio::signal::unix::{SignalKind, signal};

use crate::support::controller::Controller;
use crate::support::gateway::config;

fn dir() -> Option<PathBuf> {
    std::env::var_os("SEGUE_TEST_DIR").map(PathBuf::from)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of other tests"]
async fn gateway() {
    let Some(dir) = dir() else { return };
    let mut config = config(&dir);
    if dir.join("cert.pem").exists() {
        config.tls = Some(TlsFiles {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
        });
    }
    if std::env::var("SEGUE_TEST_TAKES").is_ok_and(|takes| takes == "yes") {
        config.takeover = Some(config.handoff_socket());
    }
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let shutdown = async {
        terminate.recv().await;
    };
    segue_gateway::run(config, shutdown).await.unwrap();
}

#[test]
#[ignore = "a child process of other tests"]
fn keeper() {
    let Some(dir) = dir() else { return };
    if let Ok(files) = std::env::var("SEGUE_TEST_FILES") {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(files.parse().unwrap());
        setrlimit(Resource::Nofile, limit).unwrap();
    }
    let _keeper = Keeper::start(&crate::keeper::socket(&dir)).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
#[ignore = "a child process of other tests"]
fn asker() {
    let Some(dir) = dir() else { return };
    census(&dir.join("run").join("keeper.sock")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of other tests"]
async fn controller() {
    let Some(dir) = dir() else { return };
    let table = std::fs::read(dir.join("table.json")).unwrap();
    let _controller = Controller::start(&dir, serde_json::from_slice(&table).unwrap());
    std::future::pending::<()>().await;
}
