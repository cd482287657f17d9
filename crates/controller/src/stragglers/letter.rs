//! What workers are told, as `CloudEvents` in structured mode.

use std::net::SocketAddr;
use std::time::Duration;

use segue_core::time::Timestamp;
use serde_json::{Value, json};

use crate::backoff::Backoff;
use crate::clock;
use crate::outbound::{Client, Message, delivery_id};

/// Pause before the second try.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Longest pause: a worker that is back should hear of it soon.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The release of this worker takes no more new calls.
pub(super) const RETIRING: &str = "dev.segue.worker.retiring";
/// It takes new calls again.
pub(super) const RESUMED: &str = "dev.segue.worker.resumed";
/// This call is to be wound up.
pub(super) const ANNOUNCE: &str = "dev.segue.call.announce";
/// This call is to be handed off: closed in order, so that its caller comes back elsewhere.
pub(super) const HAND_OFF: &str = "dev.segue.call.hand-off";

/// Something a worker is told.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) kind: &'static str,
    pub(super) agent: String,
    /// Of what it is told, and since when that holds: the same make the same id.
    pub(super) about: String,
    pub(super) since: Timestamp,
    pub(super) data: Value,
}

impl Letter {
    fn message(&self) -> Message {
        let since = self.since.0.to_string();
        let id = delivery_id(&[self.kind, &self.agent, &self.about, &since]);
        let event = json!({
            "specversion": "1.0",
            "id": id,
            "source": format!("/segue/agents/{}", self.agent),
            "type": self.kind,
            "time": clock::rfc3339(clock::now()),
            "datacontenttype": "application/json",
            "data": self.data,
        });
        Message::cloud_event(id, &event)
    }

    /// Tells it once. Any answer of 200 to 299 says that it was heard.
    pub(super) async fn deliver(
        &self,
        client: &Client,
        worker: SocketAddr,
        path: &str,
    ) -> Result<(), String> {
        match client.tell(worker, path, self.message()).await {
            Ok(answer) if (200..300).contains(&answer.status) => Ok(()),
            Ok(answer) => Err(format!("it answered {}", answer.status)),
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// Says that it was not heard, and goes on being tried.
    pub(super) fn warn(&self, worker: SocketAddr, why: &str) {
        let (agent, event) = (&self.agent, self.kind);
        tracing::warn!(agent, %worker, event, why, "a worker was not told; it is tried again");
    }
}

/// Pauses between tries. There is no last one: what is said holds until it is heard or untrue.
pub(super) fn backoff() -> Backoff {
    Backoff::new(PAUSE_FIRST, PAUSE_MAX)
}
