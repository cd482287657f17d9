//! Calls whose workers die: callers who leave meanwhile, and callers who are far behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use segue_core::link::CallOutcome;
use tokio::io::AsyncWriteExt as _;

use crate::rescue::{Rig, hang_up};
use crate::support::soon;
use crate::support::table::release;
use crate::support::ws::{BINARY, CLOSE, frame};

const TEXT: u8 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_while_a_worker_is_looked_for_has_ended_the_call() {
    let mut rig = Rig::start(1).await;
    let (mut says_so, first) = rig.talk("a").await;
    let (mut is_gone, second) = rig.talk("b").await;
    rig.fleet.stop(0).await;
    drop((first, second));
    while rig.states().await != ["rescuing", "rescuing"] {
        tokio::task::yield_now().await;
    }
    for caller in [&mut says_so, &mut is_gone] {
        caller.send(BINARY, b"still here").await.unwrap();
    }
    says_so.send(CLOSE, b"\x03\xe8").await.unwrap();
    drop(is_gone);
    let answer = soon("an answer", says_so.next()).await.unwrap();
    assert_eq!(answer, Some((CLOSE, b"\x03\xe8".to_vec())));
    let ended = rig
        .controller
        .ended("their records", |ended| ended.records.len() == 2)
        .await;
    let mut causes: Vec<&str> = ended.iter().map(|record| &record.cause[..]).collect();
    causes.sort_unstable();
    assert_eq!(causes, ["caller:1000", "caller:none"]);
    assert!(ended.iter().all(|is| is.outcome != CallOutcome::Dropped));
    let report = rig
        .controller
        .report("both ends", |report| {
            let counts = report.releases.get(&release("v1"));
            counts.is_some_and(|counts| counts.totals.ended == 2)
        })
        .await;
    assert_eq!(report.releases[&release("v1")].totals.dropped, 0);
}

/// More than the buffers between a worker and its caller hold.
const MESSAGES: u32 = 600;

fn message(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(5_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_is_far_behind_hears_all_of_the_dead_worker_and_then_the_next_one() {
    for says_goodbye in [true, false] {
        let mut rig = Rig::start(2).await;
        let (mut caller, mut first) = rig.talk("a").await;
        let worker = tokio::spawn(async move {
            for number in 0..MESSAGES {
                first.ws.send(BINARY, &message(number)).await.unwrap();
            }
            if says_goodbye {
                first.ws.send(CLOSE, b"\x03\xe9").await.unwrap();
            } else {
                let half = frame(BINARY, &message(MESSAGES), false);
                first.ws.stream.write_all(&half[..10_000]).await.unwrap();
            }
        });
        let heard = Arc::new(AtomicU32::new(0));
        let hears = Arc::clone(&heard);
        let listening = tokio::spawn(async move {
            for number in 0..MESSAGES {
                // Slower than the worker.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let next = soon("a message", caller.next()).await.unwrap();
                assert!(next == Some((BINARY, message(number))), "{number}");
                hears.store(number + 1, Ordering::Relaxed);
            }
            let next = soon("a message", caller.next()).await.unwrap();
            assert_eq!(next, Some((TEXT, b"here".to_vec())));
            caller
        });
        let mut next = rig.rescued().await;
        assert!(heard.load(Ordering::Relaxed) < MESSAGES, "it is behind");
        next.ws.send(TEXT, b"here").await.unwrap();
        worker.await.unwrap();
        hang_up(listening.await.unwrap(), next).await;
    }
}
