//! Which workers may be dialled.
//!
//! Two signals: a health check every two seconds, and how workers answer, which is noticed sooner:
//! a failed dial, silence, nonsense or a 5xx on an upgrade. Without the latter a worker that fails
//! fast would hold the fewest calls and so be given every one.
//!
//! What is known is known of a worker at an address: one that was started again elsewhere owes
//! nothing to the one before.
//!
//! Both only guide the choice of a worker for a new connection. A live call is never touched by
//! them, and a release whose workers all look down is tried anyway (see
//! [`Ledger::begin`](crate::ledger::Ledger::begin)).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use segue_core::names::WorkerId;
use segue_core::table::WorkerRoute;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::ledger::Ledger;

/// How often each worker is checked.
const HEALTH_EVERY: Duration = Duration::from_secs(2);

/// How long a check may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks at once.
const CHECKS_MAX: usize = 32;

/// So many failures in a row, of either kind, take a worker out.
const FAILURES_MAX: u32 = 2;

/// How long failed answers keep a worker out. A failed check keeps it out until one succeeds.
const EJECTION: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct State {
    answer_failures: u32,
    ejected_until: Option<Instant>,
    check_failures: u32,
}

/// What is known of the workers; one that is not known is up.
#[derive(Debug, Default)]
pub struct Health {
    workers: RwLock<HashMap<(WorkerId, SocketAddr), State>>,
}

impl Health {
    /// Whether a worker may be dialled.
    pub fn up(&self, worker: &WorkerId, addr: SocketAddr) -> bool {
        let workers = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        workers.get(&(worker.clone(), addr)).is_none_or(|state| {
            let ejected = state.ejected_until.is_some_and(|t| t > Instant::now());
            !ejected && state.check_failures < FAILURES_MAX
        })
    }

    /// A worker answered as it should, or it did not.
    pub fn answered(&self, worker: &WorkerId, addr: SocketAddr, good: bool) {
        self.change(worker, addr, |state| {
            if good {
                state.answer_failures = 0;
                state.ejected_until = None;
            } else {
                state.answer_failures = state.answer_failures.saturating_add(1);
                if state.answer_failures >= FAILURES_MAX {
                    state.ejected_until = Some(Instant::now() + EJECTION);
                }
            }
        });
    }

    fn checked(&self, worker: &WorkerId, addr: SocketAddr, good: bool) {
        self.change(worker, addr, |state| {
            if good {
                state.check_failures = 0;
            } else {
                state.check_failures = state.check_failures.saturating_add(1);
            }
        });
    }

    fn change(&self, worker: &WorkerId, addr: SocketAddr, change: impl FnOnce(&mut State)) {
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        change(workers.entry((worker.clone(), addr)).or_default());
    }

    /// Checks every worker of every table, for ever.
    pub(crate) async fn watch(self: Arc<Self>, ledger: Arc<Ledger>) {
        let mut tick = tokio::time::interval(HEALTH_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let tables = ledger.tables();
            let mut workers: HashMap<&WorkerId, &WorkerRoute> = HashMap::new();
            workers.extend(tables.iter().flat_map(|table| &table.workers));
            self.forget_all_but(|worker, addr| {
                workers.get(worker).is_some_and(|route| route.addr == addr)
            });
            let mut checks = JoinSet::new();
            for (worker, route) in workers {
                if checks.len() >= CHECKS_MAX {
                    checks.join_next().await;
                }
                let (health, worker) = (Arc::clone(&self), worker.clone());
                let (addr, path) = (route.addr, route.health_path.clone());
                checks.spawn(async move {
                    let check = check(addr, path.as_deref());
                    let good = tokio::time::timeout(HEALTH_TIMEOUT, check).await;
                    health.checked(&worker, addr, matches!(good, Ok(Ok(true))));
                });
            }
            checks.join_all().await;
        }
    }

    fn forget_all_but(&self, known: impl Fn(&WorkerId, SocketAddr) -> bool) {
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|(worker, addr), _| known(worker, *addr));
    }
}

async fn check(addr: SocketAddr, path: Option<&str>) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(addr).await?;
    let Some(path) = path else {
        return Ok(true);
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    Ok(start.starts_with(b"HTTP/1.1 2") || start.starts_with(b"HTTP/1.0 2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_take_a_worker_out_and_one_success_brings_it_back() {
        let health = Health::default();
        let worker: WorkerId = "w".parse().unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let up = || health.up(&worker, addr);
        assert!(up(), "nothing is known against it");
        for tell in [Health::answered, Health::checked] {
            tell(&health, &worker, addr, false);
            assert!(up(), "one failure is none");
            tell(&health, &worker, addr, true);
            tell(&health, &worker, addr, false);
            assert!(up(), "not in a row");
            tell(&health, &worker, addr, false);
            assert!(!up());
            let elsewhere = SocketAddr::from(([127, 0, 0, 1], 2));
            assert!(health.up(&worker, elsewhere), "started again elsewhere");
            tell(&health, &worker, addr, true);
            assert!(up());
        }
        health.checked(&worker, addr, false);
        health.checked(&worker, addr, false);
        health.answered(&worker, addr, true);
        assert!(!up(), "an answer alone proves no health");
        health.forget_all_but(|_, _| false);
        assert!(up());
    }
}
