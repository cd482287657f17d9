//! Telling people and programs what was decided: at least once, in order, and never in the way.
//!
//! Each receiver follows the journal on its own, from a place that is written down after each
//! delivery. So one that is down misses nothing and delays nobody, and a controller that dies
//! between a delivery and its note delivers once more, with the same delivery id. A receiver that
//! takes nothing for too long loses what is too old, and that is counted.

mod render;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use segue_core::audit::Entry;
use segue_core::spec::NotifySpec;
use segue_core::time::Millis;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::clock;
use crate::driver::{blocking, describe};
use crate::follow::{Follower, Past};
use crate::outbound::{Client, Line, Message, TOTAL_MAX};
use crate::store::Cursors;

use self::render::render;

/// What a person wants to know of, unless the receiver says otherwise.
const EVENTS: [&str; 11] = [
    "deployed",
    "gates_skipped",
    "paused",
    "landed",
    "rollback_started",
    "rolled_back",
    "failed",
    "drain_started",
    "ceiling_reached",
    "contract_finished",
    "gateway_forgotten",
];

/// Pause before the second try.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Longest pause: how late a receiver that is back hears of it at most.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How old news may get while nobody takes them. After that they are history, which is in the
/// journal, and what comes after them is more urgent.
const AGE_MAX: Millis = Millis::from_secs(3_600);
/// Tries before anything is given up, however old: it may be that we were away.
const TRIES_MIN: u32 = 3;

/// What became of a receiver's deliveries since this controller began.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) delivered: AtomicU64,
    pub(crate) failed_tries: AtomicU64,
    pub(crate) skipped: AtomicU64,
}

/// By the name of the receiver.
pub(crate) type Tallies = Arc<BTreeMap<String, Tally>>;

/// Counts for each receiver.
pub(crate) fn tallies(specs: &[NotifySpec]) -> Tallies {
    let tally = |spec: &NotifySpec| (spec.name.clone(), Tally::default());
    Arc::new(specs.iter().map(tally).collect())
}

/// One receiver's name in the file of cursors.
fn cursor(spec: &NotifySpec) -> String {
    format!("notify:{}", spec.name)
}

/// Names of cursors that are used.
pub(crate) fn cursors(specs: &[NotifySpec]) -> Vec<String> {
    specs.iter().map(cursor).collect()
}

/// Tells all receivers, until it is dropped.
pub(crate) fn start(
    specs: Vec<NotifySpec>,
    client: &Client,
    cursors: &Arc<Cursors>,
    tallies: &Tallies,
    follower: impl Fn() -> Follower,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for spec in specs {
        let receiver = Receiver {
            spec,
            client: client.clone(),
            cursors: Arc::clone(cursors),
            tallies: Arc::clone(tallies),
            past: Past::default(),
        };
        tasks.spawn(receiver.run(follower()));
    }
    tasks
}

struct Receiver {
    spec: NotifySpec,
    client: Client,
    cursors: Arc<Cursors>,
    tallies: Tallies,
    past: Past,
}

impl Receiver {
    async fn run(mut self, mut follower: Follower) {
        let mut at = self.begin(follower.head()).await;
        while let Some(entries) = follower.next().await {
            let mut last = at;
            for entry in entries {
                // What was told before is read again for its names only.
                let message = self.message(&entry).filter(|_| entry.seq > at);
                if let Some(message) = message {
                    self.deliver(&entry, message).await;
                    self.advance(entry.seq).await;
                }
                last = entry.seq;
            }
            if last > at {
                self.advance(last).await;
                at = last;
            }
        }
    }

    async fn begin(&self, head: u64) -> u64 {
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        loop {
            let (cursors, name) = (Arc::clone(&self.cursors), cursor(&self.spec));
            match blocking(move || cursors.begin(&name, head)).await {
                Ok(seq) => return seq,
                Err(error) => {
                    let (name, why) = (&self.spec.name, describe(&error));
                    tracing::warn!(name, why, "notifications wait");
                }
            }
            sleep(backoff.pause()).await;
        }
    }

    /// Writes down how far it is; when that fails, something is told twice one day.
    async fn advance(&self, seq: u64) {
        let (cursors, name) = (Arc::clone(&self.cursors), cursor(&self.spec));
        if let Err(error) = blocking(move || cursors.advance(&name, seq)).await {
            let (name, why) = (&self.spec.name, describe(&error));
            tracing::warn!(name, why, "what was notified could not be written down");
        }
    }

    fn message(&mut self, entry: &Entry) -> Option<Message> {
        let (fact, about) = self.past.take(entry)?;
        let events = &self.spec.events;
        let wanted = if events.is_empty() {
            EVENTS.contains(&about.event.as_str())
        } else {
            events.contains(&about.event)
        };
        wanted.then(|| render(&self.spec, entry, &fact, &about))
    }

    /// Tries until it is taken, or too old.
    async fn deliver(&self, entry: &Entry, message: Message) {
        let name = &self.spec.name;
        let tally = &self.tallies[name];
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let mut tries = 0;
        loop {
            tries += 1;
            let line = Line::Notification(name);
            let made = self
                .client
                .post(line, &self.spec.to, message.clone(), TOTAL_MAX);
            let why = match made.await {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    tally.delivered.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(answer) => format!("it answered {}", answer.status),
                Err(failure) => failure.to_string(),
            };
            tally.failed_tries.fetch_add(1, Ordering::Relaxed);
            if tries == 1 {
                tracing::warn!(name, seq = entry.seq, why, "a notification was not taken");
            }
            if tries >= TRIES_MIN && clock::now().since(entry.at) >= AGE_MAX {
                tracing::warn!(name, seq = entry.seq, why, "a notification was given up");
                tally.skipped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            sleep(backoff.pause()).await;
        }
    }
}
