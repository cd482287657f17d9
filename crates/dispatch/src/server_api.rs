//! What is asked of the server's own API, where it is configured: who is in a room, another agent for
//! one whose agent died, and the release in a room's metadata.
//!
//! Never on the way of a job: each request runs beside it, few at a time, and one that fails is told and
//! forgotten, or asked again later by whoever decides.

mod metadata;
mod request;
mod rooms;

use std::sync::Arc;
use std::time::Duration;

use segue_core::dispatch::{Event, RoomAsk};
use segue_core::names::Label;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::hub::Hub;

/// Rooms that are looked at at once. When many workers die the server is not to die of the questions.
const ROOMS_AT_ONCE: usize = 16;

/// Rooms that are dispatched again at once: a caller waits, so not behind all those looks.
const DISPATCHES_AT_ONCE: usize = 8;

/// Rooms whose metadata is written at once.
const LABELS_AT_ONCE: usize = 8;

/// Rooms whose metadata waits to be written. Beyond, it is left out.
const LABELS_WAITING_MAX: usize = 1_000;

/// How often a room's metadata is tried.
const LABEL_TRIES: u32 = 3;

/// Between two of these tries. A room whose first participant is the agent may not be there yet.
const LABEL_AGAIN: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct ServerApi {
    rooms: Arc<Semaphore>,
    dispatches: Arc<Semaphore>,
    labels: Arc<Semaphore>,
    labels_waiting: Arc<Semaphore>,
}

impl Default for ServerApi {
    fn default() -> Self {
        Self {
            rooms: Arc::new(Semaphore::new(ROOMS_AT_ONCE)),
            dispatches: Arc::new(Semaphore::new(DISPATCHES_AT_ONCE)),
            labels: Arc::new(Semaphore::new(LABELS_AT_ONCE)),
            labels_waiting: Arc::new(Semaphore::new(LABELS_WAITING_MAX)),
        }
    }
}

impl ServerApi {
    /// Looks who is in a room, and says it.
    pub(crate) fn look(&self, hub: &Arc<Hub>, ask: RoomAsk) {
        let (hub, room) = (Arc::clone(hub), Arc::clone(&self.rooms));
        tokio::spawn(async move {
            let _one = room.acquire_owned().await;
            // Its worker may be back since.
            if !hub.awaits_look(&ask.job) {
                return;
            }
            let seen = rooms::look(&hub.config, &ask).await;
            let job = ask.job;
            hub.step(Event::RoomSeen { job, seen });
        });
    }

    /// Asks for another agent, and says what became of it.
    pub(crate) fn redispatch(&self, hub: &Arc<Hub>, ask: RoomAsk) {
        let (hub, room) = (Arc::clone(hub), Arc::clone(&self.dispatches));
        tokio::spawn(async move {
            let _one = room.acquire_owned().await;
            let answer = rooms::dispatch(&hub.config, &ask).await;
            let job = ask.job;
            hub.step(Event::Redispatched { job, answer });
        });
    }

    /// Writes the release into a room's metadata.
    pub(crate) fn label(&self, hub: &Arc<Hub>, room: String, label: Label) {
        let Ok(place) = Arc::clone(&self.labels_waiting).try_acquire_owned() else {
            tracing::warn!(
                room,
                "too many rooms wait for their metadata; this one's is left out"
            );
            return;
        };
        let (hub, labels) = (Arc::clone(hub), Arc::clone(&self.labels));
        tokio::spawn(async move {
            let _place = place;
            for tries in 1..=LABEL_TRIES {
                let one = Arc::clone(&labels).acquire_owned().await;
                let labelled = rooms::label(&hub.config, &room, &label).await;
                drop(one);
                match labelled {
                    Ok(()) => return,
                    Err(error) if tries < LABEL_TRIES && error.is_passing() => {
                        tracing::debug!(room, %error, "a room's metadata is tried again");
                        sleep(LABEL_AGAIN).await;
                    }
                    Err(error) => {
                        tracing::warn!(room, %label, %error, "agent_version is not in the room's metadata");
                        return;
                    }
                }
            }
        });
    }
}
