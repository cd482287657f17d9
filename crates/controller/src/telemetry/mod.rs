//! What can be seen from outside: numbers for Prometheus, and traces for `OpenTelemetry`.

mod calls;
mod fleet;
pub(crate) mod metrics;
mod otlp;
mod page;
mod rollouts;
mod span;

use std::sync::Arc;

use segue_core::spec::TelemetrySpec;
use tokio::task::JoinSet;

use crate::follow::Follower;
use crate::link::Link;
use crate::outbound::Client;
use crate::store::Cursors;

pub(crate) use self::metrics::Metrics;
use self::otlp::Exporter;
pub(crate) use self::rollouts::CURSOR;

/// Counts and traces until it is dropped. Nothing here is waited for by anybody.
pub(crate) fn start(
    spec: &TelemetrySpec,
    metrics: &Arc<Metrics>,
    client: &Client,
    cursors: &Arc<Cursors>,
    link: &Link,
    follower: impl Fn() -> Follower,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(metrics::follow(Arc::clone(metrics), follower()));
    tasks.spawn(metrics::listen(Arc::clone(metrics), link.records()));
    if let Some(base) = &spec.otlp {
        let exporter = Exporter::new(client.clone(), base, Arc::clone(metrics));
        let names = rollouts::Names::default();
        let past = rollouts::export(
            exporter.clone(),
            follower(),
            Arc::clone(cursors),
            names.clone(),
        );
        tasks.spawn(past);
        tasks.spawn(calls::export(exporter, link.records(), names));
    }
    tasks
}
