//! What can be seen from outside: numbers, traces, notifications.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::permits::ask;
use crate::receiver::Receiver;
use crate::site::{RAMP, SETTINGS, Site, reports};

/// A place whose configuration begins with these tables.
async fn open(tables: &str, rest: &str) -> Site {
    let mut site = Site::prepare(SETTINGS, rest);
    let path = site.dir.join("segue.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{config}\n{tables}")).unwrap();
    site.serve().await;
    site
}

/// The sum of all samples of a metric whose labels contain these.
fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    page.lines()
        .filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with(['{', ' ']) && labels.iter().all(|label| line.contains(label))
        })
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_the_judge_counts() {
    let site = open("", RAMP).await;
    site.deploy("v1");
    reports(site.crowd("a", 4, 1_500)).await;
    let crowd = site.crowd("b", 3, 30_000);
    site.live(3).await;
    site.deploy("v2");
    let (_, during) = ask(&site, "GET", "/metrics", None);
    let draining = ["version=\"v1\"", "track=\"draining\""];
    assert!(
        (sum(&during, "segue_calls_active", &draining) - 3.0).abs() < 0.1,
        "{during}"
    );
    assert!(
        sum(
            &during,
            "segue_drain_oldest_call_seconds",
            &["version=\"v1\""]
        ) > 0.0
    );
    let weight = sum(&during, "segue_canary_weight_ratio", &["version=\"v2\""]);
    assert!((weight - 1.0).abs() < 1e-9, "{during}");
    reports(site.crowd("c", 2, 1_500)).await;
    reports(crowd).await;
    site.rollback("v2", "v1").await;
    let verdict = site.judge();
    assert_eq!((verdict.started, verdict.completed), (9, 9), "{verdict:?}");
    let mut page = String::new();
    site.until("all ends are counted", || {
        page = ask(&site, "GET", "/metrics", None).1;
        sum(&page, "segue_call_setup_seconds_count", &[]) >= 9.0
            && sum(&page, "segue_calls_ended_total", &["outcome=\"completed\""]) >= 9.0
    })
    .await;
    let is = |name: &str, labels: &[&str], count: u64| {
        let counted = sum(&page, name, labels);
        let count = f64::from(u32::try_from(count).unwrap());
        assert!(
            (counted - count).abs() < 0.1,
            "{name} {labels:?}: {counted}, not {count}\n{page}"
        );
    };
    is("segue_calls_started_total", &[], verdict.started);
    is(
        "segue_calls_ended_total",
        &["outcome=\"completed\""],
        verdict.completed,
    );
    is(
        "segue_calls_ended_total",
        &["outcome=\"dropped\""],
        verdict.dropped,
    );
    is("segue_calls_dropped_total", &[], verdict.dropped);
    is("segue_call_setup_seconds_count", &[], verdict.started);
    for (release, count) in &verdict.by_release {
        // The judge has smoke calls apart; so do the counts.
        let label = format!("version=\"{release}\"");
        is("segue_calls_started_total", &[&label], *count);
    }
    is("segue_rollbacks_total", &["trigger=\"operator\""], 1);
    is("segue_rollback_duration_seconds_count", &[], 1);
    is("segue_gateways", &["leased=\"true\""], 1);
    for id in ["CAa0000", "CAb0000", "smoke-"] {
        assert!(!page.contains(id), "{id} in\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_a_trace_of_the_rollout_and_a_span_of_each_call() {
    let collector = Receiver::start(|_| (200, "{}".to_owned()));
    let tables = format!("[telemetry]\notlp = \"http://{}\"\n", collector.addr);
    let site = open(&tables, RAMP).await;
    site.deploy("v1");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut plan = site.plan("CAtraced", 1_000);
    plan.headers
        .push(("traceparent".to_owned(), parent.to_owned()));
    segue_voice::caller::call(&plan).await;
    site.deploy("v2");
    let spans = || -> Vec<Value> {
        let heard = collector.heard();
        assert!(heard.iter().all(|heard| heard.path == "/v1/traces"));
        let of = |body: &Value| {
            let spans = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
            spans.as_array().cloned().unwrap_or_default()
        };
        heard.iter().flat_map(|heard| of(&heard.body)).collect()
    };
    let named = |spans: &[Value], name: &str| -> Vec<Value> {
        spans
            .iter()
            .filter(|span| span["name"] == name)
            .cloned()
            .collect()
    };
    site.until("both rollouts and the call are traced", || {
        let spans = spans();
        let traced = spans
            .iter()
            .any(|span| span["parentSpanId"] == "b7ad6b7169203331");
        named(&spans, "rollout").len() >= 2 && traced
    })
    .await;
    let spans = spans();
    let call = spans
        .iter()
        .find(|span| span["parentSpanId"] == "b7ad6b7169203331")
        .unwrap();
    assert_eq!(call["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(call["name"], "call");
    let of_v2 = spans.iter().find(|span| {
        span["name"] == "rollout" && span["attributes"].to_string().contains("\"v2\"")
    });
    let root = of_v2.unwrap();
    let trace: Vec<&Value> = spans
        .iter()
        .filter(|is| is["traceId"] == root["traceId"])
        .collect();
    let names: BTreeSet<&str> = trace
        .iter()
        .map(|is| is["name"].as_str().unwrap())
        .collect();
    for name in [
        "provisioning",
        "verifying",
        "gate smoke",
        "step 1",
        "promoting",
    ] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
    let parents: BTreeSet<&str> = trace
        .iter()
        .map(|is| is["spanId"].as_str().unwrap())
        .collect();
    let whole = trace.iter().all(|span| {
        span["parentSpanId"]
            .as_str()
            .is_none_or(|parent| parents.contains(parent))
    });
    assert!(whole, "{trace:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_survive_their_receiver_and_the_controller() {
    let up = Arc::new(AtomicBool::new(false));
    let is_up = Arc::clone(&up);
    let ops = Receiver::start(move |_| {
        let status = if is_up.load(Ordering::Relaxed) {
            200
        } else {
            500
        };
        (status, String::new())
    });
    let tables = format!(
        r#"
[[notify]]
name = "ops"
url = "http://{}/services/t-hush"
events = ["deployed", "landed", "rolled_back"]
template = "{{agent}} {{event}} {{release}}"
secret_file = "ops.secret"
allow = ["127.0.0.1"]
"#,
        ops.addr
    );
    let mut site = Site::prepare(SETTINGS, &tables);
    std::fs::write(site.dir.join("ops.secret"), "s-hush").unwrap();
    site.serve().await;
    site.deploy("v1");
    site.until("it is tried", || ops.heard().len() >= 2).await;
    assert!(site.kill("run/controller.json"));
    site.until("the controller is back", || site.agent().is_some())
        .await;
    site.deploy("v2");
    site.rollback("v2", "v1").await;
    assert!(site.kill("run/controller.json"));
    let before = ops.heard().len();
    up.store(true, Ordering::Relaxed);
    let texts = || -> Vec<String> {
        let heard = ops.heard();
        let said = heard.iter().skip(before.saturating_sub(1));
        let mut texts: Vec<String> = said
            .map(|is| is.body["text"].as_str().unwrap().to_owned())
            .collect();
        texts.dedup();
        texts
    };
    let all = [
        "desk deployed v1",
        "desk landed v1",
        "desk deployed v2",
        "desk landed v2",
        "desk rolled_back v2",
    ];
    site.until("nothing is missing", || {
        texts().last().is_some_and(|last| last == all[4])
    })
    .await;
    assert_eq!(texts(), all, "in order");
    assert!(
        ops.heard()
            .iter()
            .all(|is| is.header("x-segue-signature").is_some())
    );
    let said = site.said();
    assert!(!said.contains("hush"), "{said}");
}
