//! Traces: what a collector is sent of rollouts and calls.

use std::collections::{BTreeMap, BTreeSet};

use segue_controller::ControllerConfig;
use segue_core::link::{CallOutcome, CallRecord, Rescued};
use segue_core::names::ReleaseId;
use segue_core::spec::TelemetrySpec;
use segue_core::time::{Millis, Timestamp};
use serde_json::{Value, json};

use crate::gateway::{Gateway, now};
use crate::receiver::Receiver;
use crate::{Directory, Running, desk, eventually, release, spec};

#[derive(Debug, Clone)]
struct Span(Value);

impl Span {
    fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    fn nanos(&self, field: &str) -> u128 {
        self.text(field).parse().unwrap()
    }

    fn attribute(&self, key: &str) -> Value {
        let all = self.0["attributes"].as_array().unwrap();
        let found = all.iter().find(|is| is["key"] == key);
        let value = found.map(|is| is["value"].as_object().unwrap().values().next().unwrap());
        value.cloned().unwrap_or_default()
    }
}

/// Every span that was taken, once.
fn spans(receiver: &Receiver) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut ids = BTreeSet::new();
    for heard in receiver.heard() {
        assert_eq!(heard.path, "/v1/traces");
        assert_eq!(heard.headers["content-type"], "application/json");
        let body = heard.json();
        let resource = &body["resourceSpans"][0];
        let service = &resource["resource"]["attributes"][0];
        assert_eq!(
            service,
            &json!({ "key": "service.name", "value": { "stringValue": "segue" } })
        );
        for span in resource["scopeSpans"][0]["spans"].as_array().unwrap() {
            if ids.insert((span["traceId"].to_string(), span["spanId"].to_string())) {
                spans.push(Span(span.clone()));
            }
        }
    }
    spans
}

fn config(directory: &Directory, receiver: &Receiver) -> ControllerConfig {
    let mut spec = spec();
    spec.plan.bake = Millis(300);
    let mut config = directory.config(spec);
    config.telemetry = TelemetrySpec {
        otlp: Some(format!("http://{}/", receiver.addr)),
    };
    config
}

async fn rollouts(receiver: &Receiver, count: usize) -> Vec<Span> {
    eventually("the rollouts are traced", async || {
        let spans = spans(receiver);
        let roots = spans.iter().filter(|span| span.text("name") == "rollout");
        (roots.count() >= count).then_some(spans)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_is_one_trace_also_over_two_controllers() {
    let directory = Directory::new();
    let receiver =
        Receiver::start(|number, _| Some((if number == 0 { 503 } else { 200 }, String::new())))
            .await;
    let running = Running::start_with(&directory, config(&directory, &receiver)).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    running.client.bring_in("v1").await;
    rollouts(&receiver, 1).await;
    running.client.bring_in("v2").await;
    // It bakes still, perhaps; another controller goes on.
    running.stop().await;
    drop(gateway);
    let running = Running::start_with(&directory, config(&directory, &receiver)).await;
    let _gateway = Gateway::start(&directory.state(), "gw-1");
    running
        .client
        .until("it takes orders", |view| !view.releases.is_empty())
        .await;
    rollouts(&receiver, 2).await;
    running
        .client
        .act("rollback", json!({ "reason": "worse" }))
        .await;
    let spans = rollouts(&receiver, 3).await;

    let mut traces: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in &spans {
        traces.entry(span.text("traceId")).or_default().push(span);
    }
    assert_eq!(traces.len(), 3, "{spans:#?}");
    let trace = |label: &str, failed: bool| {
        let of = |spans: &&Vec<&Span>| {
            spans.iter().any(|span| {
                let is_root = span.text("name") == "rollout";
                let status = span.0["status"]["code"] == 2;
                is_root && span.attribute("segue.release") == label && status == failed
            })
        };
        traces.values().find(of).cloned().unwrap()
    };
    let second = trace("v2", false);
    let names: BTreeSet<&str> = second.iter().map(|span| span.text("name")).collect();
    let expected = [
        "rollout",
        "provisioning",
        "verifying",
        "gate readiness",
        "promoting",
        "bake",
    ];
    for name in expected {
        assert!(names.contains(name), "{name}: {names:?}");
    }
    let root = second
        .iter()
        .find(|span| span.text("name") == "rollout")
        .unwrap();
    assert_eq!(root.attribute("segue.rollout"), "2");
    let by_id: BTreeMap<&str, &&Span> = second
        .iter()
        .map(|span| (span.text("spanId"), span))
        .collect();
    for span in &second {
        assert!(span.nanos("startTimeUnixNano") <= span.nanos("endTimeUnixNano"));
        if span.text("name") == "rollout" {
            assert!(span.0.get("parentSpanId").is_none());
            continue;
        }
        // Every other is within the one above it.
        let parent = by_id[span.text("parentSpanId")];
        assert!(
            span.nanos("startTimeUnixNano") >= parent.nanos("startTimeUnixNano"),
            "{span:?}"
        );
        assert!(
            span.nanos("endTimeUnixNano") <= parent.nanos("endTimeUnixNano"),
            "{span:?} {parent:?}"
        );
        let is_gate = span.text("name").starts_with("gate ");
        assert_eq!(is_gate, parent.text("name") != "rollout", "{span:?}");
    }
    let baked = second
        .iter()
        .find(|span| span.text("name") == "bake")
        .unwrap();
    let lasted = baked.nanos("endTimeUnixNano") - baked.nanos("startTimeUnixNano");
    assert!(lasted >= 300_000_000, "{lasted}");
    let back = trace("v2", true);
    let rolling = back
        .iter()
        .find(|span| span.text("name") == "rolling back")
        .unwrap();
    assert_eq!(rolling.attribute("segue.to"), "v1");
    assert!(
        rolling
            .attribute("segue.actor")
            .as_str()
            .unwrap()
            .starts_with("operator:")
    );
    running.stop().await;
}

fn record(call: &str, release: ReleaseId, traceparent: Option<&str>) -> CallRecord {
    CallRecord {
        call: call.parse().unwrap(),
        agent: desk(),
        release,
        worker: Some("w1".parse().unwrap()),
        started: Timestamp(now().0 - 5_000),
        ended: now(),
        setup_ms: Some(12),
        outcome: CallOutcome::Completed,
        cause: "caller:1000".to_owned(),
        reason: "split".to_owned(),
        bytes_in: 1_000,
        bytes_out: 2_000,
        traceparent: traceparent.map(str::to_owned),
        rescued: Some(Rescued {
            times: 1,
            gap_ms: 34,
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_a_span_below_its_callers() {
    let directory = Directory::new();
    let receiver = Receiver::saying("{}").await;
    let running = Running::start_with(&directory, config(&directory, &receiver)).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    let view = running.client.bring_in("v1").await;
    let id = release(&view, "v1").unwrap().id;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let quiet = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let mut dropped = record("CA-dropped", id, Some("not a trace"));
    dropped.outcome = CallOutcome::Dropped;
    dropped.cause = "worker:1011".to_owned();
    let records = vec![
        record("CA-quiet", id, Some(quiet)),
        record("CA-traced", id, Some(parent)),
        dropped,
    ];
    gateway.mind.lock().unwrap().records = records.clone();
    let calls = eventually("two spans", async || {
        let spans = spans(&receiver);
        let calls: Vec<Span> = spans
            .into_iter()
            .filter(|is| is.text("name") == "call")
            .collect();
        (calls.len() >= 2).then_some(calls)
    })
    .await;
    let of = |call: &str| {
        let found = calls
            .iter()
            .find(|span| span.attribute("segue.call") == call);
        found.cloned()
    };
    assert!(
        of("CA-quiet").is_none(),
        "its caller's trace is not recorded"
    );
    let traced = of("CA-traced").unwrap();
    assert_eq!(traced.text("traceId"), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(traced.text("parentSpanId"), "b7ad6b7169203331");
    assert_eq!(traced.attribute("segue.release"), "v1");
    assert_eq!(traced.attribute("segue.setup_ms"), "12");
    assert_eq!(traced.attribute("segue.rescue_gap_ms"), "34");
    let started = u128::from(records[1].started.0) * 1_000_000;
    assert_eq!(traced.nanos("startTimeUnixNano"), started);
    assert_eq!(traced.0["status"], json!({}));
    let dropped = of("CA-dropped").unwrap();
    assert!(dropped.0.get("parentSpanId").is_none());
    assert_eq!(dropped.0["status"]["message"], "worker:1011");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_is_in_nobodys_way() {
    let directory = Directory::new();
    let receiver = Receiver::start(|_, _| None).await;
    let running = Running::start_with(&directory, config(&directory, &receiver)).await;
    let gateway = Gateway::start(&directory.state(), "gw-1");
    let view = running.client.bring_in("v1").await;
    let id = release(&view, "v1").unwrap().id;
    gateway.mind.lock().unwrap().records = vec![record("CA1", id, None)];
    eventually("it is called", async || {
        (!receiver.heard().is_empty()).then_some(())
    })
    .await;
    for label in ["v2", "v3"] {
        running.client.bring_in(label).await;
    }
    running.stop().await;
}
