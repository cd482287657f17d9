//! `/metrics`, from a gateway whose counts are known.

use segue_core::link::{CallInfo, CallOutcome, CallRecord};
use segue_core::presence::Totals;
use segue_core::table::Epoch;
use segue_core::time::Timestamp;
use serde_json::json;

use crate::gateway::{Gateway, now};
use crate::{Client, Directory, Running, desk, eventually, release, spec};

async fn scrape(client: &Client) -> String {
    let answer = client.ask("GET", "/metrics", None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(
        answer
            .head
            .contains("content-type: application/openmetrics-text; version=1.0.0")
    );
    assert!(answer.body.ends_with("# EOF\n"));
    answer.body
}

#[track_caller]
fn has(page: &str, line: &str) {
    assert!(page.lines().any(|is| is == line), "no {line} in\n{page}");
}

#[expect(clippy::too_many_lines, reason = "one life of a release, line by line")]
#[tokio::test(flavor = "multi_thread")]
async fn counts_are_the_gateways_and_no_call_is_named() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    let client = &running.client;
    let view = client.bring_in("v1").await;
    let v1 = release(&view, "v1").unwrap();
    let (id, worker) = (v1.id, v1.workers[0].id.clone());
    let since = Timestamp(now().0 - 60_000);
    {
        let mut mind = gateway.mind.lock().unwrap();
        let counts = mind.counts.entry(id).or_default();
        counts.live = 2;
        counts.totals = Totals {
            started: 10,
            ended: 6,
            dropped: 2,
            errors: 1,
            lost: 1,
            policy: 3,
            rescued: 2,
            closes: [("worker:1011", 1), ("worker:none", 1), ("caller:1000", 4)]
                .map(|(key, count)| (key.to_owned(), count))
                .into(),
        };
        mind.calls = vec![CallInfo {
            call: "CA-secret".parse().unwrap(),
            agent: desk(),
            release: id,
            worker: worker.clone(),
            epoch: Epoch(1),
            since,
            state: "live".to_owned(),
            reason: "split".to_owned(),
            bytes_in: 0,
            bytes_out: 0,
        }];
        let record = |setup_ms: Option<u64>, outcome, cause: &str, reason: &str| CallRecord {
            call: "CA-secret".parse().unwrap(),
            agent: desk(),
            release: id,
            worker: setup_ms.map(|_| worker.clone()),
            started: since,
            ended: now(),
            setup_ms,
            outcome,
            cause: cause.to_owned(),
            reason: reason.to_owned(),
            bytes_in: 0,
            bytes_out: 0,
            traceparent: None,
            rescued: None,
        };
        mind.records = vec![
            record(Some(7), CallOutcome::Completed, "caller:1000", "split"),
            record(Some(700), CallOutcome::Dropped, "worker:1011", "pin"),
            record(Some(1), CallOutcome::Completed, "caller:1000", "override"),
            record(
                None,
                CallOutcome::Failed,
                "every worker of the release is full",
                "split",
            ),
        ];
    }
    eventually("the report is in", async || {
        let view = client.agent().await;
        release(&view, "v1").filter(|is| is.started == 10).map(drop)
    })
    .await;
    client.bring_in("v2").await;
    let of = "agent=\"desk\",version=\"v1\"";
    let page = eventually("the records are in", async || {
        let page = scrape(client).await;
        page.contains("call_setup_seconds_count").then_some(page)
    })
    .await;
    for line in [
        format!("segue_calls_started_total{{{of}}} 10"),
        format!("segue_calls_ended_total{{{of},outcome=\"completed\"}} 4"),
        format!("segue_calls_ended_total{{{of},outcome=\"dropped\"}} 2"),
        format!("segue_calls_ended_total{{{of},outcome=\"failed\"}} 1"),
        format!("segue_calls_ended_total{{{of},outcome=\"policy\"}} 3"),
        format!("segue_calls_ended_total{{{of},outcome=\"lost\"}} 1"),
        format!("segue_calls_dropped_total{{{of},cause=\"worker:1011\"}} 1"),
        format!("segue_calls_dropped_total{{{of},cause=\"worker:none\"}} 1"),
        format!("segue_calls_dropped_total{{{of},cause=\"gateway\"}} 1"),
        format!("segue_calls_rescued_total{{{of}}} 2"),
        format!("segue_calls_active{{{of},track=\"draining\"}} 2.0"),
        format!("segue_call_setup_seconds_count{{{of}}} 2"),
        format!("segue_call_setup_seconds_bucket{{le=\"0.01\",{of}}} 1"),
        format!("segue_call_setup_seconds_bucket{{le=\"1.0\",{of}}} 2"),
        format!("segue_admission_rejected_total{{{of},reason=\"full\"}} 1"),
        format!("segue_worker_state{{{of},track=\"draining\",state=\"ready\"}} 1.0"),
        "segue_canary_weight_ratio{agent=\"desk\",version=\"v2\",track=\"current\"} 1.0".to_owned(),
        format!("segue_canary_weight_ratio{{{of},track=\"draining\"}} 0.0"),
        "segue_gateways{leased=\"true\"} 1.0".to_owned(),
        "segue_journal_writable 1.0".to_owned(),
    ] {
        has(&page, &line);
    }
    let oldest = page
        .lines()
        .find_map(|line| line.strip_prefix(&format!("segue_drain_oldest_call_seconds{{{of}}} ")));
    let oldest: f64 = oldest.unwrap().parse().unwrap();
    assert!(oldest >= 60.0, "{oldest}");
    let entries = client.status().await.journal.entries;
    let size = page
        .lines()
        .find_map(|line| line.strip_prefix("segue_audit_tree_size "));
    let size: f64 = size.unwrap().parse().unwrap();
    assert!(size > 0.0 && size <= f64::from(u32::try_from(entries).unwrap()));
    for never in ["CA-secret", worker.as_str(), "gw-1", "127.0.0.1"] {
        assert!(!page.contains(never), "{never} in\n{page}");
    }

    // A rollback counts by who asked, also for the next controller.
    client.act("rollback", json!({})).await;
    let _ = client
        .ask("GET", "/v1/agents/x-y-z/permits?limit=9", None)
        .await;
    let _ = client.ask("GET", "/nowhere/CA-secret", None).await;
    let rollback = "segue_rollbacks_total{agent=\"desk\",trigger=\"operator\"} 1";
    let page = eventually("the rollback counts", async || {
        let page = scrape(client).await;
        let done = page.contains("rollback_duration_seconds_count{agent=\"desk\"} 1");
        done.then_some(page)
    })
    .await;
    has(&page, rollback);
    has(
        &page,
        "segue_http_requests_total{method=\"GET\",path=\"/v1/agents/{agent}/permits\",status=\"404\"} 1",
    );
    assert!(
        page.contains("path=\"unknown\"") && !page.contains("nowhere"),
        "{page}"
    );
    // A release that is retired has no numbers any more.
    gateway.mind.lock().unwrap().counts.clear();
    client
        .until("v2 is gone", |view| {
            release(view, "v2").is_some_and(|is| is.state == "retired")
        })
        .await;
    let page = scrape(client).await;
    assert!(!page.contains("version=\"v2\""), "{page}");
    running.stop().await;
    let running = Running::start(&directory, spec()).await;
    eventually("the next one counts it too", async || {
        let page = scrape(&running.client).await;
        page.contains(rollback).then_some(())
    })
    .await;
    running.stop().await;
}
