//! Many calls at once.

use std::time::Instant;

use segue_voice::caller::{CallEnd, CallPlan, call};
use tokio::task::JoinSet;

use crate::Running;

/// Processor time this process has used, in seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_are_all_heard() {
    let agent = Running::start("none").await;
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let (mut calls, mut gaps) = (JoinSet::new(), Vec::new());
    for seed in 0..50 {
        let mut plan = CallPlan::new(&agent.url(), &format!("CA{seed}"), 8_000);
        plan.seed = seed;
        // Late is not lost: this counts answers, on a machine that may be busy with other tests.
        plan.turns
            .iter_mut()
            .for_each(|turn| turn.within_ms = 20_000);
        calls.spawn(async move { call(&plan).await });
    }
    while let Some(report) = calls.join_next().await {
        let report = report.unwrap();
        assert_eq!(report.end, CallEnd::HungUp, "{report:?}");
        assert!(
            report.greeting.as_ref().is_some_and(|turn| turn.heard),
            "{report:?}"
        );
        assert!(!report.turns.is_empty(), "{report:?}");
        assert_eq!(report.turns_heard(), report.turns.len(), "{report:?}");
        gaps.push(report.longest_gap_ms);
    }
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let gap = gaps.iter().max();
    println!("50 calls: {cpu:.2} s of processor in {wall:.2} s, longest gap {gap:?} ms");
    agent.stop().await;
}
