//! The gateway dies under live calls.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;

use segue_core::link::{CallOutcome, CallRecord};
use segue_core::presence::AgentPresence;

use crate::support::agent::{Agent, Manner};
use crate::support::controller::{Controller, Ended};
use crate::support::gateway::{Process, config};
use crate::support::table::{TOKEN, release, table};
use crate::support::{Dir, soon, until, ws};

#[tokio::test(flavor = "multi_thread")]
async fn lost_calls_are_named_and_counted_and_every_call_keeps_its_release() {
    let dir = Dir::new();
    let (v1, v2) = (
        Agent::start(Manner::Echo).await,
        Agent::start(Manner::Echo).await,
    );
    let workers = [("w1", "v1", v1.addr), ("w2", "v2", v2.addr)];
    let mut controller = Controller::start(dir.path(), table(1, "v1", &workers));
    let mut first = Process::start(dir.path(), false).await;
    controller
        .report("the first table", |report| report.epoch.0 == 1)
        .await;

    let mut pinned = ws::call(first.addr, "/ws/pinned", "").await;
    pinned.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end", pinned.next()).await {}
    drop(pinned);
    let mut calls = Vec::new();
    for number in 0..5 {
        calls.push(ws::call(first.addr, &format!("/ws/live-{number}"), "").await);
    }
    let smoke = format!("X-Segue-Override: v1\r\nX-Segue-Override-Token: {TOKEN}\r\n");
    calls.push(ws::call(first.addr, "/ws/smoke", &smoke).await);
    controller
        .report("five live calls and a pin", |report| {
            let counts = report.releases.get(&release("v1"));
            counts.is_some_and(|counts| (counts.live, counts.pinned) == (6, 1))
        })
        .await;
    controller.install(table(2, "v2", &workers)).await;
    let journal = config(dir.path()).journal_file();
    until("the journal of all of them", || {
        let text = std::fs::read_to_string(&journal).ok()?;
        (text.matches(r#""is":"connected""#).count() == 7).then_some(())
    })
    .await;

    // SIGKILL, within a line.
    first.child.kill().await.unwrap();
    let mut torn = std::fs::OpenOptions::new()
        .append(true)
        .open(&journal)
        .unwrap();
    torn.write_all(br#"{"is":"clo"#).unwrap();
    let mut second = Process::start(dir.path(), false).await;
    let report = controller
        .report("the lost calls", |report| {
            let counts = report.releases.get(&release("v1"));
            counts.is_some_and(|counts| counts.totals.lost > 0)
        })
        .await;
    assert_eq!(report.epoch.0, 2);
    let counts = &report.releases[&release("v1")];
    assert_eq!((counts.live, counts.pinned), (0, 7));
    let totals = &counts.totals;
    assert_eq!(totals.lost, 5, "an override call is outside of the totals");
    assert_eq!((totals.ended, totals.dropped, totals.errors), (0, 0, 0));

    let log = std::fs::read_to_string(config(dir.path()).call_log_file()).unwrap();
    let records = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let lost: BTreeSet<String> = records
        .filter(|record| record["end"]["why"] == "gateway died")
        .map(|record| {
            assert_eq!(record["end"]["by"], "gateway");
            assert_eq!(record["end"]["dropped"], false);
            assert_eq!(record["label"], "v1");
            record["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let expected = ["live-0", "live-1", "live-2", "live-3", "live-4", "smoke"];
    assert_eq!(lost, expected.map(str::to_owned).into());

    // New calls go to v2 by now; these reach the release they had.
    let before = v1.heads().len();
    let mut again = vec![ws::call(second.addr, "/ws/pinned", "").await];
    for number in 0..5 {
        again.push(ws::call(second.addr, &format!("/ws/live-{number}"), "").await);
    }
    let heads = v1.heads().split_off(before);
    assert_eq!(heads.len(), 6);
    assert!(
        heads
            .iter()
            .all(|head| head.contains("X-Segue-Resume: true\r\n"))
    );
    assert_eq!(v2.heads().len(), 0);
    let _new = ws::call(second.addr, "/ws/new", "").await;
    assert_eq!(v2.heads().len(), 1);

    // What is told within a few milliseconds of a kill may go with it, where there is no keeper.
    until("the journal of the second process", || {
        let text = std::fs::read_to_string(&journal).ok()?;
        (text.matches(r#""is":"connected""#).count() == 7).then_some(())
    })
    .await;
    // What was lost once is not lost again.
    second.child.kill().await.unwrap();
    let _third = Process::start(dir.path(), false).await;
    let report = controller
        .report("what the second process lost", |report| {
            let counts = report.releases.get(&release("v2"));
            counts.is_some_and(|counts| counts.totals.lost == 1)
        })
        .await;
    assert_eq!(report.releases[&release("v1")].totals.lost, 6);
}

/// Two live calls and one that ends, on a process that then takes no new calls and is killed.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_with_a_draining_gateway_is_counted_by_the_one_beside_it() {
    let dir = Dir::new();
    let v1 = Agent::start(Manner::Echo).await;
    let mut controller = Controller::start(dir.path(), table(1, "v1", &[("w1", "v1", v1.addr)]));
    let mut first = Process::start(dir.path(), false).await;
    controller.report("the table", |r| r.epoch.0 == 1).await;
    let _live = (
        ws::call(first.addr, "/ws/live-1", "").await,
        ws::call(first.addr, "/ws/live-2", "").await,
    );
    let mut ends = ws::call(first.addr, "/ws/ends", "").await;
    first.terminate();
    let addr = first.addr;
    until("a closed port", || std::net::TcpStream::connect(addr).err()).await;

    let second = Process::start(dir.path(), false).await;
    ends.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end", ends.next()).await {}
    drop(ends);
    let told = |count| move |ended: &Ended| ended.records.len() == count;
    controller.ended("the end of one", told(1)).await;
    // Its calls live, so the one beside it has looked and counted nothing.
    let lost = |records: &[CallRecord]| {
        let lost = records.iter().filter(|r| r.outcome == CallOutcome::Lost);
        lost.map(|r| r.call.to_string()).collect::<BTreeSet<_>>()
    };
    first.child.kill().await.unwrap();
    let records = controller.ended("the lost calls", told(3)).await;
    assert_eq!(
        lost(&records),
        ["live-1", "live-2"].map(str::to_owned).into()
    );
    let counted = |report: &AgentPresence| {
        let counts = report.releases.get(&release("v1"));
        counts.is_some_and(|counts| counts.totals.lost == 2 && counts.live == 0)
    };
    controller.report("them counted", counted).await;
    until("nothing left aside", || {
        aside(&dir).is_empty().then_some(())
    })
    .await;
    drop(second);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_handed_over_and_is_lost_is_counted_too() {
    let dir = Dir::new();
    let (_, trusted) = crate::tls::identity(dir.path());
    let v1 = Agent::start(Manner::Echo).await;
    let mut controller = Controller::start(dir.path(), table(1, "v1", &[("w1", "v1", v1.addr)]));
    let mut first = Process::start(dir.path(), false).await;
    controller.report("the table", |r| r.epoch.0 == 1).await;
    let (_, _stays) = crate::tls::call(first.addr, &trusted, "/ws/stays").await;
    let _second = Process::start(dir.path(), true).await;
    until("its own journal", || {
        let text = std::fs::read_to_string(aside(&dir).first()?).ok()?;
        text.contains(r#""is":"connected""#).then_some(())
    })
    .await;
    first.child.kill().await.unwrap();
    let told = |ended: &Ended| ended.records.len() == 1;
    let record = controller.ended("the lost call", told).await.remove(0);
    assert_eq!(
        (record.call.as_str(), record.outcome),
        ("stays", CallOutcome::Lost)
    );
    until("nothing left aside", || {
        aside(&dir).is_empty().then_some(())
    })
    .await;
}

/// Journals of processes that drain.
fn aside(dir: &Dir) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir.path().join("gateway")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    files
        .filter(|path| path.to_string_lossy().contains("/draining-"))
        .filter(|path| path.extension().is_some_and(|end| end == "journal"))
        .collect()
}
