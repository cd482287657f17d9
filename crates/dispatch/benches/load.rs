//! What giving out jobs costs: how long the server waits for its answer, and what a worker costs
//! that is only held.
//!
//! ```sh
//! cargo bench -p segue-dispatch --bench load -- --workers 100 --rate 200 --seconds 30
//! cargo bench -p segue-dispatch --bench load -- --workers 10000 --rate 0
//! ```
//!
//! Server and workers are those of the tests, in this process; the dispatcher is one of its own.
//! First the workers are at the server itself: that is the yardstick, the server's and the workers'
//! own time. Then they are at the dispatcher, and what that takes longer is the dispatcher's. A worker's
//! memory is what the dispatcher's process grows by, divided by their number; what the kernel keeps
//! for sockets is not in it.

#![allow(clippy::unwrap_used, reason = "what fails here ends the measurement")]
#![allow(dead_code, reason = "the tests use the rest")]
#![allow(clippy::print_stdout, reason = "its result")]

#[path = "../tests/it/control.rs"]
mod control;
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
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use control::{AGENT, Control};
use sim::{Plan, Sim};
use upstream::{Event, Outcome, Record, Rules, Upstream, job};

/// Workers that connect at the same time: a queue of connections is not what is measured.
const CONNECTING_MAX: usize = 50;

/// How long each job runs.
const JOB_LASTS: Duration = Duration::from_millis(500);

/// From the last registration until the first job, so that all have said how they are.
const SETTLES: Duration = Duration::from_secs(3);

/// Workers at the server itself need two descriptors each in this process, which may have 20,000.
const DIRECT_MAX: usize = 5_000;

#[derive(Clone, Copy)]
struct Options {
    workers: usize,
    rate: u32,
    seconds: u32,
}

#[tokio::main]
async fn main() {
    let mut options = Options {
        workers: 100,
        rate: 200,
        seconds: 10,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} of what?"));
        match word.as_str() {
            "--workers" => options.workers = value().parse().unwrap(),
            "--rate" => options.rate = value().parse().unwrap(),
            "--seconds" => options.seconds = value().parse().unwrap(),
            "--dispatcher-for" => return serve(&value()).await,
            // Cargo's own word for it.
            "--bench" => {}
            _ => panic!("{word}: see the top of benches/load.rs"),
        }
    }
    if options.workers <= DIRECT_MAX && options.rate > 0 {
        println!("at the server itself");
        let upstream = open().await;
        measure(&upstream, &upstream.url(), options, None).await;
    }
    println!("at the dispatcher");
    let upstream = open().await;
    let (url, mut dispatcher) = dispatcher(&upstream.url());
    measure(&upstream, &url, options, Some(dispatcher.id())).await;
    dispatcher.kill().unwrap();
    dispatcher.wait().unwrap();
}

async fn open() -> Arc<Upstream> {
    let choosing = Duration::ZERO;
    let rules = Rules {
        choosing,
        ..Rules::default()
    };
    Arc::new(Upstream::open_with(rules).await)
}

/// The dispatcher's process: says where it listens, and ends with whoever started it.
async fn serve(server: &str) {
    let control = Control::open();
    let dispatcher = control.start_at(server).await;
    println!("{}", dispatcher.url);
    let ended = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(ended).await.unwrap().unwrap();
}

fn dispatcher(server: &str) -> (String, Child) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--dispatcher-for", server])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut url).unwrap();
    (url.trim().to_owned(), child)
}

async fn measure(upstream: &Arc<Upstream>, url: &str, options: Options, pid: Option<u32>) {
    let before = pid.map(memory_kb);
    let of_release = if pid.is_some() { "v1" } else { "" };
    let workers = connect(url, of_release, options.workers).await;
    tokio::time::sleep(SETTLES).await;
    println!("  workers  {}", workers.len());
    if let Some((pid, before)) = pid.zip(before) {
        let after = memory_kb(pid);
        let each = after.saturating_sub(before) * 1024 / workers.len() as u64;
        println!("  memory   {before} kB before, {after} kB after: {each} bytes for each worker");
    }
    if options.rate == 0 {
        return;
    }
    let outcomes = load(upstream, options.rate, options.seconds).await;
    let lost = outcomes
        .iter()
        .filter(|outcome| **outcome != Outcome::Assigned);
    println!("  jobs     {}, lost {}", outcomes.len(), lost.count());
    let mut waited = waits(&upstream.records().all());
    waited.sort_unstable();
    for percent in [50, 90, 99, 100] {
        let at = (waited.len() * percent / 100).min(waited.len() - 1);
        println!("  p{percent:<7} {:.3} ms", waited[at].as_secs_f64() * 1e3);
    }
}

/// Connects so many workers.
async fn connect(url: &str, of_release: &str, count: usize) -> Vec<Sim> {
    let mut plan = Plan::new(url, AGENT);
    plan.lasts = Some(JOB_LASTS);
    of_release.clone_into(&mut plan.register.deployment);
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
