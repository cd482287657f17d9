//! The pool's own threads: heartbeats, outcomes, and the ceiling of a drain.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Map;

use crate::inner::{Inner, Report};
use crate::membership::Showing;
use crate::queue::Failed;
use crate::segue::Beat;
use crate::thread::{lock, spawn};

/// Time between heartbeats, until Segue says another.
const EVERY: Duration = Duration::from_secs(5);
/// The shortest and the longest that Segue may say.
const EVERY_RANGE_S: (u64, u64) = (1, 300);

/// What runs beside the calls.
#[derive(Debug, Clone, Copy)]
enum Part {
    Audit,
    Ceiling,
    Reports,
    Heartbeat,
}

/// In the order in which they are started.
const PARTS: [Part; 4] = [Part::Audit, Part::Ceiling, Part::Reports, Part::Heartbeat];

impl Inner {
    /// Starts the threads, each once. What could not be started is tried again the next time.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<()> {
        let mut begun = lock(&self.begun);
        while let Some(part) = PARTS.get(*begun) {
            self.begin(*part)?;
            *begun += 1;
        }
        Ok(())
    }

    fn begin(self: &Arc<Self>, part: Part) -> io::Result<()> {
        let inner = Arc::clone(self);
        let has_ceiling = || lock(&self.now).drain.policy().drain_timeout.is_some();
        match part {
            Part::Audit => {
                self.audit.start()?;
                self.emit("deployment.started", Map::new());
                Ok(())
            }
            Part::Ceiling if has_ceiling() => {
                spawn("segue-ceiling", move || inner.watch_the_ceiling())
            }
            Part::Reports if self.segue.is_some() => {
                spawn("segue-reports", move || inner.send_outcomes())
            }
            Part::Heartbeat if self.segue.is_some() => {
                spawn("segue-heartbeat", move || inner.keep_in_touch())
            }
            Part::Ceiling | Part::Reports | Part::Heartbeat => Ok(()),
        }
    }

    fn send_outcomes(&self) {
        let Some(segue) = &self.segue else { return };
        let version = self.version.as_deref();
        self.outcomes.deliver(|Report { call, id, outcome }| {
            let sent = segue.report(call, id, version, outcome);
            sent.map_err(|error| {
                let why = error.to_string();
                if error.is_retryable() {
                    Failed::Again(why)
                } else {
                    Failed::Never(why)
                }
            })
        });
    }

    fn keep_in_touch(&self) {
        let Some(segue) = &self.segue else { return };
        let (mut every, mut showing) = (EVERY, Showing::default());
        loop {
            let now = lock(&self.now);
            let (news, closed) = (now.news, now.closed);
            let beat = Beat {
                instance: self.instance.clone(),
                release: self.version.clone(),
                active: now.drain.active(),
                overdue: now.drain.overdue(),
                draining: now.drain.draining_since().is_some(),
            };
            drop(now);
            if closed {
                return;
            }
            match segue.beat(&beat) {
                Ok(told) => {
                    let (least, most) = EVERY_RANGE_S;
                    if told.every > 0 {
                        every = Duration::from_secs(told.every.clamp(least, most));
                    }
                    self.heard(&told);
                    let before = told.membership.as_ref();
                    self.stand(before, showing.look(segue, before.is_some()));
                }
                Err(error) => self.heard_nothing(&error.to_string()),
            }
            let now = lock(&self.now);
            let waits = |now: &mut crate::inner::Now| !now.closed && now.news == news;
            let waited = self.changed.wait_timeout_while(now, every, waits);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn watch_the_ceiling(&self) {
        let mut now = lock(&self.now);
        while !now.closed {
            let Some(deadline) = now.drain.next_deadline() else {
                now = self
                    .changed
                    .wait(now)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.since(self.clock.now());
            if left.0 > 0 {
                let end = Instant::now() + Duration::from_millis(left.0);
                let left = end.saturating_duration_since(Instant::now());
                let waited = self.changed.wait_timeout(now, left);
                (now, _) = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(now);
            self.tick();
            now = lock(&self.now);
        }
    }
}
