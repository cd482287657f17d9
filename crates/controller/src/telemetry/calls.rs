//! One span per call, made when it has ended.

use std::time::Duration;

use segue_core::link::{CallOutcome, CallRecord};
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::otlp::Exporter;
use super::rollouts::Names;
use super::span::{Kind, Span, span_id, trace_id, traceparent};
use crate::link::Records;

/// Spans sent at once.
const BATCH_MAX: usize = 512;
/// How long a span waits for others.
const BATCH_WAIT: Duration = Duration::from_secs(2);

/// Sends a span for every call that ends. While it sends, records wait in the channel; what finds
/// it full is lost and counted.
pub(super) async fn export(
    exporter: Exporter,
    mut records: broadcast::Receiver<Records>,
    names: Names,
) {
    loop {
        let mut batch = Vec::new();
        let mut deadline = None;
        let open = loop {
            let until = deadline.unwrap_or_else(|| Instant::now() + BATCH_WAIT);
            match timeout_at(until, records.recv()).await {
                Ok(Ok(more)) => {
                    batch.extend(more.calls.iter().filter_map(|call| span(call, &names)));
                    deadline.get_or_insert(Instant::now() + BATCH_WAIT);
                }
                Ok(Err(RecvError::Lagged(missed))) => {
                    exporter.lost(missed, "calls end faster than their spans are taken");
                }
                Ok(Err(RecvError::Closed)) => break false,
                Err(_) => break true,
            }
            if batch.len() >= BATCH_MAX {
                break true;
            }
        };
        for spans in batch.chunks(BATCH_MAX) {
            exporter.send(spans).await;
        }
        if !open {
            return;
        }
    }
}

/// The span of a call. `None`: its caller's trace is not recorded.
fn span(call: &CallRecord, names: &Names) -> Option<Span> {
    let started = call.started.0.to_string();
    let parts = ["call", call.agent.as_str(), call.call.as_str(), &started];
    let given = call.traceparent.as_deref().and_then(traceparent);
    let (trace, parent) = match given {
        Some((_, _, false)) => return None,
        Some((trace, parent, true)) => (trace, Some(parent)),
        None => (trace_id(&parts), None),
    };
    let failed = matches!(
        call.outcome,
        CallOutcome::Dropped | CallOutcome::Failed | CallOutcome::Lost
    );
    let ended = call.ended.0.to_string();
    let mut attributes = vec![
        ("segue.agent", json!(call.agent)),
        ("segue.release", json!(names.label(call.release))),
        ("segue.call", json!(call.call)),
        ("segue.outcome", json!(call.outcome)),
        ("segue.cause", json!(call.cause)),
        ("segue.route.reason", json!(call.reason)),
        ("segue.bytes.in", json!(call.bytes_in)),
        ("segue.bytes.out", json!(call.bytes_out)),
    ];
    attributes.extend(call.worker.iter().map(|is| ("segue.worker", json!(is))));
    attributes.extend(call.setup_ms.map(|is| ("segue.setup_ms", json!(is))));
    if let Some(is) = call.rescued {
        attributes.push(("segue.rescues", json!(is.times)));
        attributes.push(("segue.rescue_gap_ms", json!(is.gap_ms)));
    }
    Some(Span {
        trace,
        id: span_id(&[&parts[..], &[&ended, &call.cause]].concat()),
        parent,
        name: "call".to_owned(),
        kind: Kind::Server,
        start: call.started,
        end: call.ended,
        attributes,
        failed: failed.then(|| call.cause.clone()),
    })
}
