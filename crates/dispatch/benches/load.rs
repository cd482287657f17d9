//! What giving out jobs costs: how long the server waits for its answer, and what a worker costs
//! that is only held.
//!
//! ```sh
//! cargo bench -p segue-dispatch --bench load -- --workers 100 --rate 200 --seconds 30
//! ```
//!
//! Without `--through` the workers register at the server themselves: that is the yardstick, the
//! server's and the workers' own time. With it, start the dispatcher first, with the address that
//! this prints as its server (`--listen 127.0.0.1:7999` to know it before), and say where the
//! workers are to connect: `--through ws://127.0.0.1:7080/w/TOKEN --pid PID`. What the second run has
//! more than the first is the dispatcher's. `--pid` reads its memory before the workers come and
//! after, so `--workers 10000 --rate 0` says what one costs.

#![allow(clippy::unwrap_used, reason = "what fails here ends the measurement")]
#![allow(dead_code, reason = "the tests use the rest")]
#![allow(clippy::print_stdout, reason = "its result")]

#[path = "../tests/it/key.rs"]
mod key;
#[path = "../tests/it/sim.rs"]
mod sim;
#[path = "../tests/it/upstream/mod.rs"]
mod upstream;
#[path = "../tests/it/wire.rs"]
mod wire;

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use sim::{Plan, Sim};
use upstream::{Event, Outcome, Record, Rules, Upstream, job};

/// The agent that everybody serves.
const AGENT: &str = "desk";

/// Workers that connect at the same time: a server's queue of connections is not what is measured.
const CONNECTING_MAX: usize = 50;

/// How long each job runs.
const JOB_LASTS: Duration = Duration::from_millis(500);

/// From the last registration until the first job, so that all have said how they are.
const SETTLES: Duration = Duration::from_secs(3);

struct Options {
    workers: usize,
    rate: u32,
    seconds: u32,
    listen: Option<SocketAddr>,
    through: Option<String>,
    pid: Option<u32>,
}

fn options() -> Options {
    let mut options = Options {
        workers: 100,
        rate: 200,
        seconds: 10,
        listen: None,
        through: None,
        pid: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} of what?"));
        match word.as_str() {
            "--workers" => options.workers = value().parse().unwrap(),
            "--rate" => options.rate = value().parse().unwrap(),
            "--seconds" => options.seconds = value().parse().unwrap(),
            "--listen" => options.listen = Some(value().parse().unwrap()),
            "--through" => options.through = Some(value()),
            "--pid" => options.pid = Some(value().parse().unwrap()),
            // Cargo's own word for it.
            "--bench" => {}
            _ => panic!("{word}: see the top of benches/load.rs"),
        }
    }
    options
}

#[tokio::main]
async fn main() {
    let options = options();
    let rules = Rules {
        choosing: Duration::ZERO,
        ..Rules::default()
    };
    let upstream = Arc::new(match options.listen {
        Some(addr) => Upstream::open_at(addr, rules).await,
        None => Upstream::open_with(rules).await,
    });
    println!("server     {}", upstream.url());
    let url = options.through.clone().unwrap_or_else(|| upstream.url());
    let before = options.pid.map(memory_kb);
    let workers = connect(&url, options.workers).await;
    tokio::time::sleep(SETTLES).await;
    println!("workers    {}", workers.len());
    if let Some((pid, before)) = options.pid.zip(before) {
        let after = memory_kb(pid);
        let each = after.saturating_sub(before) * 1024 / workers.len() as u64;
        println!("memory     {before} kB before, {after} kB after, {each} bytes for each worker");
    }
    if options.rate > 0 {
        let outcomes = load(&upstream, options.rate, options.seconds).await;
        let lost = outcomes
            .iter()
            .filter(|outcome| **outcome != Outcome::Assigned);
        println!("jobs       {}, lost {}", outcomes.len(), lost.count());
        let mut waited = waits(&upstream.records().all());
        waited.sort_unstable();
        for percent in [50, 90, 99, 100] {
            let at = (waited.len() * percent / 100).min(waited.len() - 1);
            println!("p{percent:<9} {:.3} ms", waited[at].as_secs_f64() * 1e3);
        }
    }
}

/// Connects so many workers.
async fn connect(url: &str, count: usize) -> Vec<Sim> {
    let mut plan = Plan::new(url, AGENT);
    plan.lasts = Some(JOB_LASTS);
    let mut connecting = JoinSet::new();
    let mut workers = Vec::new();
    for _ in 0..count {
        if connecting.len() == CONNECTING_MAX {
            workers.push(connecting.join_next().await.unwrap().unwrap());
        }
        let plan = plan.clone();
        connecting.spawn(async move { Sim::start(&plan).await });
    }
    workers.extend(connecting.join_all().await);
    workers
}

/// Launches jobs at their times, however long the ones before take.
async fn load(upstream: &Arc<Upstream>, rate: u32, seconds: u32) -> Vec<Outcome> {
    let mut times = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut launching = JoinSet::new();
    for _ in 0..rate * seconds {
        times.tick().await;
        let upstream = Arc::clone(upstream);
        launching.spawn(async move { upstream.launch(&job(AGENT, "")).await });
    }
    launching.join_all().await
}

/// From each offer to its answer, as the server sees it.
fn waits(records: &[Record]) -> Vec<Duration> {
    let mut offered = HashMap::new();
    let mut waits = Vec::new();
    for record in records {
        match &record.event {
            Event::Offered { job, .. } => {
                offered.insert(job.as_str(), record.at);
            }
            Event::Answered { answer, .. } => {
                let since = offered.remove(answer.job_id.as_str());
                waits.extend(since.map(|since| record.at.saturating_sub(since)));
            }
            _ => {}
        }
    }
    waits
}

/// A process's own memory, resident.
fn memory_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}
