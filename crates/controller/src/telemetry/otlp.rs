//! Sending spans to a collector by OTLP/HTTP in JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::metrics::Metrics;
use super::span::{Span, request};
use crate::backoff::Backoff;
use crate::outbound::{Client, Message, delivery_id};

/// Tries of one batch: a collector that restarts is back by then. Spans are worth less than the
/// memory they would pile up in.
const TRIES_MAX: u32 = 5;
/// Pause before the second try.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// Sends spans.
#[derive(Debug, Clone)]
pub(super) struct Exporter {
    client: Client,
    url: String,
    metrics: Arc<Metrics>,
    failing: Arc<AtomicBool>,
}

impl Exporter {
    pub(super) fn new(client: Client, base: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            url: format!("{}/v1/traces", base.trim_end_matches('/')),
            metrics,
            failing: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Sends them, a bounded number of times. Lost ones are counted; the first time is logged, and
    /// the end of it.
    pub(super) async fn send(&self, spans: &[Span]) {
        let count = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let id = delivery_id(&["otlp", &format!("{:?}", spans.first().map(|span| span.id))]);
        let message = Message::json(id, &request(spans));
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let mut why = String::new();
        for number in 1..=TRIES_MAX {
            let again = match self.client.export(&self.url, message.clone()).await {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    self.metrics.spans_sent(count);
                    if self.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!("spans are taken again");
                    }
                    return;
                }
                Ok(answer) => {
                    why = format!("the collector answered {}", answer.status);
                    // What the protocol says may be sent again.
                    matches!(answer.status, 429 | 502 | 503 | 504)
                }
                Err(failure) => {
                    why = failure.to_string();
                    failure.is_retryable()
                }
            };
            if !again || number == TRIES_MAX {
                break;
            }
            sleep(backoff.pause()).await;
        }
        self.lost(count, &why);
    }

    /// Counts spans that nobody will see.
    pub(super) fn lost(&self, count: u64, why: &str) {
        self.metrics.spans_lost(count);
        if !self.failing.swap(true, Ordering::Relaxed) {
            tracing::warn!(why, "spans are lost; `segue_spans_lost_total` counts them");
        }
    }
}
