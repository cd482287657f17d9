//! Every decision as it is taken, as server-sent events.
//!
//! Nothing is queued for who listens: each event is read from the journal when there is room for
//! it on the line, so a slow listener costs nothing but its place, and a listener that comes back
//! goes on exactly after the last event it saw. Places are few, so whoever takes nothing for too
//! long loses theirs, and so does whoever's token is revoked or expires.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::Stream;
use futures_util::stream::unfold;
use segue_core::audit::Entry;
use segue_core::names::AgentName;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout};

use super::redact;
use crate::driver::{self, blocking};
use crate::store::{Journal, StoreError};

/// Listeners at once: dashboards, and a few tools.
pub(super) const LISTENERS_MAX: usize = 64;
/// How often a quiet line says that it stands: less than what proxies cut off.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a listener may take nothing although there is something.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Entries read at once.
const PAGE: usize = 100;
/// Name of the last event of a listener that is cut off.
const CUT_OFF: &str = "cut-off";

/// What one listener hears.
pub(super) struct Feed {
    pub(super) journal: Arc<dyn Journal>,
    /// The number of the last entry, as the driver announces it.
    pub(super) head: watch::Receiver<u64>,
    /// Only of this agent.
    pub(super) agent: Option<AgentName>,
    /// The last entry that was heard.
    pub(super) after: u64,
    /// Whether the token of who listens still opens anything.
    pub(super) good: Box<dyn Fn() -> bool + Send + Sync>,
    #[expect(
        dead_code,
        reason = "it is held, and given back when the listener goes"
    )]
    pub(super) place: OwnedSemaphorePermit,
}

struct Listening {
    feed: Feed,
    read: VecDeque<Entry>,
    /// When the last event was handed out, unless all were.
    handed: Option<Instant>,
    over: bool,
}

impl Feed {
    /// The events, without an end of their own.
    pub(super) fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        let listening = Listening {
            feed: self,
            read: VecDeque::new(),
            handed: None,
            over: false,
        };
        unfold(listening, async |mut listening| {
            let event = listening.next().await?;
            Some((Ok(event), listening))
        })
    }
}

impl Listening {
    async fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        if self.handed.is_some_and(|at| at.elapsed() > STALL_MAX) {
            return Some(self.cut_off("too-slow", "events were not taken in time"));
        }
        loop {
            if !(self.feed.good)() {
                return Some(self.cut_off("unauthorized", "the token was revoked or has expired"));
            }
            if let Some(entry) = self.read.pop_front() {
                self.feed.after = entry.seq;
                self.handed = Some(Instant::now());
                return Some(event(entry));
            }
            let head = *self.feed.head.borrow_and_update();
            match self.page().await {
                Ok(page) if page.is_empty() => {
                    // Entries of others need not be read again.
                    self.feed.after = self.feed.after.max(head);
                    self.handed = None;
                    // A quiet line is looked at, too.
                    let changed = timeout(KEEP_ALIVE, self.feed.head.changed()).await;
                    changed.unwrap_or(Ok(())).ok()?;
                }
                Ok(page) => self.read.extend(page),
                Err(error) => return Some(self.cut_off("journal", &driver::describe(&error))),
            }
        }
    }

    async fn page(&self) -> Result<Vec<Entry>, StoreError> {
        let journal = Arc::clone(&self.feed.journal);
        let (after, agent) = (self.feed.after, self.feed.agent.clone());
        blocking(move || journal.read(after, PAGE, agent.as_ref())).await
    }

    /// The last event: it has no id, so whoever comes back goes on after the one before.
    fn cut_off(&mut self, kind: &str, title: &str) -> Event {
        self.over = true;
        let hint = "come back with Last-Event-ID";
        let data = serde_json::json!({ "type": kind, "title": title, "hint": hint });
        Event::default().event(CUT_OFF).data(data.to_string())
    }
}

fn event(entry: Entry) -> Event {
    let entry = redact::entry(entry);
    let name = entry.fact["fact"].as_str().unwrap_or("unknown").to_owned();
    let data = serde_json::to_string(&entry).expect("entries always serialise");
    Event::default()
        .id(entry.seq.to_string())
        .event(name)
        .data(data)
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use segue_core::time::Timestamp;
    use tokio::sync::Semaphore;
    use tokio::time::advance;

    use super::*;
    use crate::store::Head;

    struct Fixed(Vec<Entry>);

    impl Journal for Fixed {
        fn append(&self, _: u64, _: &[Entry]) -> Result<(), StoreError> {
            unreachable!("listeners write nothing")
        }

        fn read(
            &self,
            after: u64,
            limit: usize,
            agent: Option<&AgentName>,
        ) -> Result<Vec<Entry>, StoreError> {
            let wanted = |entry: &&Entry| {
                entry.seq > after && agent.is_none_or(|agent| entry.agent == *agent)
            };
            Ok(self.0.iter().filter(wanted).take(limit).cloned().collect())
        }

        fn head(&self) -> Result<Head, StoreError> {
            Ok(self.0.last().map(Head::of).unwrap_or_default())
        }
    }

    fn entry(seq: u64, agent: &str) -> Entry {
        Entry::after(
            (seq - 1, "-"),
            Timestamp(seq),
            agent.parse().unwrap(),
            "segue".to_owned(),
            serde_json::json!({ "fact": "paused" }),
            serde_json::Value::Null,
        )
    }

    fn feed(journal: Fixed, after: u64, agent: Option<&str>) -> (Feed, Arc<Semaphore>) {
        let places = Arc::new(Semaphore::new(1));
        let head = journal.0.len() as u64;
        let feed = Feed {
            journal: Arc::new(journal),
            head: watch::channel(head).1,
            agent: agent.map(|agent| agent.parse().unwrap()),
            after,
            good: Box::new(|| true),
            place: Arc::clone(&places).try_acquire_owned().unwrap(),
        };
        (feed, places)
    }

    fn text(event: Option<Result<Event, Infallible>>) -> String {
        format!("{:?}", event.unwrap().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_cut_off_and_loses_the_place() {
        let entries = (1..=300).map(|seq| entry(seq, "desk")).collect();
        let (feed, places) = feed(Fixed(entries), 0, None);
        {
            let mut events = Box::pin(feed.events());
            assert!(text(events.next().await).contains("id: 1\\n"));
            advance(STALL_MAX).await;
            assert!(text(events.next().await).contains("id: 2\\n"));
            advance(STALL_MAX + Duration::from_millis(1)).await;
            let last = text(events.next().await);
            assert!(
                last.contains("cut-off") && last.contains("too-slow"),
                "{last}"
            );
            assert!(!last.contains("id:"), "{last}");
            assert_eq!(places.available_permits(), 0);
            assert!(events.next().await.is_none());
        }
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_listen_any_more_is_cut_off_also_on_a_quiet_line() {
        let (mut feed, places) = feed(Fixed(vec![entry(1, "desk")]), 0, None);
        let (announce, head) = watch::channel(1);
        let (revoke, revoked) = watch::channel(false);
        feed.head = head;
        feed.good = Box::new(move || !*revoked.borrow());
        let mut events = Box::pin(feed.events());
        assert!(text(events.next().await).contains("id: 1\\n"));
        let quiet = futures_util::FutureExt::now_or_never(events.next());
        assert!(quiet.is_none());
        revoke.send_replace(true);
        let last = text(events.next().await);
        assert!(
            last.contains("cut-off") && last.contains("revoked"),
            "{last}"
        );
        assert!(events.next().await.is_none());
        drop((events, announce));
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test]
    async fn one_agent_is_heard_without_the_others() {
        let mut entries: Vec<Entry> = (1..=250).map(|seq| entry(seq, "other")).collect();
        entries.push(entry(251, "desk"));
        let (feed, _places) = feed(Fixed(entries), 0, Some("desk"));
        let mut events = Box::pin(feed.events());
        assert!(text(events.next().await).contains("id: 251\\n"));
        // Nobody announces more: the stream ends with the driver.
        assert!(events.next().await.is_none());
    }
}
