//! Who did what to this worker, for a sink of the agent's own. The names of events are those of
//! OpenRTC, so that what listens for them goes on to work.
//!
//! A sink that fails is tried again until it takes the event, in order; how many wait and why is in
//! the snapshot.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use segue_core::time::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::queue::{Failed, Queue, Waiting};
use crate::thread::{lock, spawn};

/// Events that wait for a sink: a day of one that is down, at one every ten seconds.
const EVENTS_MAX: usize = 10_000;

/// Fields of an event that are always there.
const FIXED: [&str; 7] = [
    "seq",
    "timestamp",
    "event",
    "actor",
    "target",
    "result",
    "version",
];

/// What a sink that took nothing says.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) type Sink = Box<dyn Fn(&AuditEvent) -> Result<(), SinkError> + Send + Sync>;

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditEvent {
    /// Counts up from 1 in each process.
    pub seq: u64,
    /// When, in seconds since 1970.
    pub timestamp: f64,
    /// `deployment.drain_started` and so on.
    pub event: String,
    /// Who did it.
    pub actor: String,
    /// To what: a worker, a call.
    pub target: String,
    /// `ok`, or how it failed.
    pub result: String,
    /// Of the deployment.
    pub version: Option<String>,
    /// What else there is to say.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// What an event is about, before it has a number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said {
    pub(crate) event: String,
    pub(crate) actor: String,
    pub(crate) target: String,
    pub(crate) result: String,
    pub(crate) version: Option<String>,
    pub(crate) fields: Map<String, Value>,
}

pub(crate) struct AuditLog {
    queue: Queue<AuditEvent>,
    last: Mutex<u64>,
    sink: Mutex<Option<Sink>>,
    has_sink: bool,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AuditLog")
            .field(&self.queue.waiting())
            .finish()
    }
}

impl AuditLog {
    pub(crate) fn new(sink: Option<Sink>) -> Self {
        Self {
            queue: Queue::new(EVENTS_MAX),
            last: Mutex::new(0),
            has_sink: sink.is_some(),
            sink: Mutex::new(sink),
        }
    }

    /// Begins to deliver.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        if !self.has_sink {
            return Ok(());
        }
        let log = Arc::clone(self);
        spawn("segue-audit", move || {
            let Some(sink) = lock(&log.sink).take() else {
                return;
            };
            let deliver =
                |event: &AuditEvent| sink(event).map_err(|error| Failed::Again(error.to_string()));
            log.queue.deliver(deliver);
        })
    }

    /// Writes one down. Without a sink it is only answered.
    pub(crate) fn emit(&self, said: Said, now: Timestamp) -> AuditEvent {
        // Held until it is in the queue, so that numbers come in order.
        let mut last = lock(&self.last);
        *last += 1;
        let mut fields = said.fields;
        fields.retain(|name, _| !FIXED.contains(&name.as_str()));
        let event = AuditEvent {
            seq: *last,
            timestamp: seconds(now.0),
            event: said.event,
            actor: said.actor,
            target: said.target,
            result: said.result,
            version: said.version,
            fields,
        };
        if self.has_sink {
            self.queue.put(event.clone());
        }
        event
    }

    pub(crate) fn waiting(&self) -> Waiting {
        self.queue.waiting()
    }

    pub(crate) fn flush(&self, within: std::time::Duration) -> bool {
        self.queue.flush(within)
    }

    pub(crate) fn close(&self, within: std::time::Duration) -> bool {
        self.queue.close(within)
    }
}

/// Milliseconds as the seconds that Python counts in.
#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of any date are exact"
)]
pub(crate) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
