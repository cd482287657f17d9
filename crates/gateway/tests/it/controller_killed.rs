//! The controller dies under live calls.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::agent::{Agent, FRAME_EVERY, Manner, Stream};
use crate::support::gateway::{Process, child};
use crate::support::table::table;
use crate::support::{Dir, soon, ws};

const CALLS: usize = 50;
const FRAMES: u64 = 25;

/// A gap after the kill may be this many times the one before it: what the machine's other work
/// does to a run is far below, and a gateway that waits for its controller far above.
const GAP_FACTOR: u32 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_controller_adds_no_gap() {
    let dir = Dir::new();
    let agent = Agent::start(Manner::Stream).await;
    let table = table(1, "v1", &[("w1", "v1", agent.addr)]);
    let json = serde_json::to_vec(&table).unwrap();
    std::fs::write(dir.path().join("table.json"), json).unwrap();
    let mut controller = child("controller");
    let mut controller = controller
        .env("SEGUE_TEST_DIR", dir.path())
        .spawn()
        .unwrap();
    let gateway = Process::start(dir.path(), false).await;
    let question = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    soon("the first table", async {
        while !ws::exchange(gateway.addr, question)
            .await
            .starts_with("HTTP/1.1 200 ")
        {}
    })
    .await;

    // Each call hears FRAMES frames before the kill and as many after it, and tells its longest
    // gap in each part.
    let killed = watch::Sender::new(false);
    let mut calls = JoinSet::new();
    let (heard, mut hears) = tokio::sync::mpsc::channel(CALLS);
    for number in 0..CALLS {
        let ws = ws::call(gateway.addr, &format!("/ws/call-{number}"), "").await;
        let (killed, heard) = (killed.subscribe(), heard.clone());
        calls.spawn(async move {
            let mut stream = Stream::new(ws);
            let (mut before, mut goal) = (None, None);
            let hang_up = |stream: &mut Stream<_>| {
                if stream.received == 1 {
                    stream.gap = Duration::ZERO;
                }
                if stream.received == FRAMES {
                    heard.try_send(()).unwrap();
                }
                if goal.is_none() && *killed.borrow() {
                    before = Some(std::mem::take(&mut stream.gap));
                    goal = Some(stream.received + FRAMES);
                }
                goal.is_some_and(|goal| stream.received >= goal)
            };
            stream.run(hang_up).await?;
            Ok::<_, String>((before.unwrap(), stream.gap))
        });
    }
    for _ in 0..CALLS {
        soon("frames in every call", hears.recv()).await;
    }
    // SIGKILL.
    controller.kill().await.unwrap();
    killed.send_replace(true);
    let ends = soon("the end of every call", calls.join_all()).await;
    let gaps: Result<Vec<(Duration, Duration)>, String> = ends.into_iter().collect();
    let gaps = gaps.unwrap();
    let median = |mut gaps: Vec<Duration>| {
        gaps.sort();
        gaps[CALLS / 2]
    };
    let before = median(gaps.iter().map(|(before, _)| *before).collect());
    let after = median(gaps.iter().map(|(_, after)| *after).collect());
    let bound = GAP_FACTOR * before.max(FRAME_EVERY);
    assert!(
        after <= bound,
        "{after:?} after the kill, {before:?} before it"
    );
    assert_eq!(agent.seen.lock().unwrap().faults, Vec::<String>::new());

    // And new calls go on by the last good table.
    let mut call = ws::call(gateway.addr, "/ws/after", "").await;
    call.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end of the call", call.next()).await {}
    drop(call);
    gateway.terminate();
    let mut gateway = gateway;
    assert!(gateway.ended().await.success());
}
