//! The gateway's access log, as this process hears it.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Worker and call of each request that was sent.
static SENT: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

struct Listener;

#[derive(Default)]
struct Line {
    worker: String,
    call: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "worker" => self.worker = format!("{value:?}"),
            "call" => self.call = format!("{value:?}"),
            _ => {}
        }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "segue_gateway::access"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let mut sent = SENT.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push((line.worker, line.call));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Hears all gateways of this process from now on.
pub(crate) fn listen() {
    // Another test of this process may have said so first.
    let _ = tracing::subscriber::set_global_default(Listener);
}

/// The calls of the requests that this worker was sent.
pub(crate) fn sent_to(worker: SocketAddr) -> Vec<String> {
    let sent = SENT.lock().unwrap_or_else(PoisonError::into_inner);
    let of_worker = sent.iter().filter(|(to, _)| *to == worker.to_string());
    of_worker.map(|(_, call)| call.clone()).collect()
}
