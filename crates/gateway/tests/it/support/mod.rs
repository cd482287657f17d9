//! What the tests are made of.

pub(crate) mod access;
pub(crate) mod agent;
pub(crate) mod controller;
pub(crate) mod fleet;
pub(crate) mod gateway;
pub(crate) mod rig;
#[allow(
    unreachable_pub,
    dead_code,
    reason = "a part of the crate itself, read here a second time"
)]
#[path = "../../../src/fuzz/strict.rs"]
pub(crate) mod strict;
pub(crate) mod strict_worker;
pub(crate) mod table;
pub(crate) mod ws;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long anything may take before a test fails. Never part of what is asserted.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that should happen soon.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("in vain: {what}"))
}

/// Looks again and again until there is something to see.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            if let Some(seen) = look() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// A directory of its own for each test; short, because Unix sockets live in it.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("segue-gw-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether the kernel sends keepalives on each connection of this process to `remote`: the only
/// trace they leave is a running timer. There must be one.
pub(crate) fn keeps_alive(remote: SocketAddr) -> bool {
    const ESTABLISHED: &str = "01";
    const KEEPALIVE_TIMER: &str = "02:";
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{:04X}", remote.port());
    let mut timers = sockets.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[2].ends_with(&remote) && fields[3] == ESTABLISHED)
            .then(|| fields[5].starts_with(KEEPALIVE_TIMER))
    });
    timers.next() == Some(true) && timers.all(|runs| runs)
}
