//! What handles of a pool, its calls and its threads share. One lock for what is decided, and none
//! while a listener runs.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use segue_core::names::CallId;
use serde_json::{Map, Value};

use crate::audit::{AuditLog, Said, seconds};
use crate::drain::{Drain, Effect, Input, Refused, Standing};
use crate::event::Event;
use crate::membership::{Shown, Stands};
use crate::outcome::{Outcome, Verdict};
use crate::queue::Queue;
use crate::segue::{Segue, Told};
use crate::snapshot::{Contact, Membership, Snapshot};
use crate::thread::{Clock, lock};

/// Outcomes that wait for Segue: an hour of a busy worker whose Segue is away.
const OUTCOMES_MAX: usize = 10_000;

/// Why a worker is barred that shows a token which has ended.
const EXPIRED: &str = "expired";

pub(crate) type Listener = Box<dyn Fn(&Event) + Send + Sync>;

/// An outcome on its way.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) call: CallId,
    /// The same in each try, so that it is written down once.
    pub(crate) id: String,
    pub(crate) outcome: Outcome,
}

/// What is looked at and changed together.
#[derive(Debug)]
pub(crate) struct Now {
    pub(crate) drain: Drain,
    pub(crate) retiring: bool,
    pub(crate) release_state: Option<String>,
    rolled_back: bool,
    started: u64,
    refused: u64,
    failures: u64,
    last_error: Option<String>,
    last_contact: Option<f64>,
    contact_error: Option<String>,
    membership: Shown,
    events: VecDeque<Event>,
    pub(crate) closed: bool,
    /// Grows with what the next heartbeat should say at once.
    pub(crate) news: u64,
}

pub(crate) struct Inner {
    pub(crate) clock: Clock,
    pub(crate) version: Option<String>,
    pub(crate) instance: String,
    pub(crate) segue: Option<Segue>,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) outcomes: Queue<Report>,
    /// How many of the threads run, or need not.
    pub(crate) begun: Mutex<usize>,
    pub(crate) now: Mutex<Now>,
    pub(crate) changed: Condvar,
    listeners: Mutex<Vec<Arc<Listener>>>,
    /// Whether Segue has admitted this very process.
    was_admitted: AtomicBool,
    /// Held while events are told.
    telling: Mutex<()>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn new(
        drain: Drain,
        version: Option<String>,
        segue: Option<Segue>,
        audit: AuditLog,
    ) -> Self {
        Self {
            clock: Clock::start(),
            version,
            instance: uuid::Uuid::new_v4().simple().to_string(),
            segue,
            audit: Arc::new(audit),
            outcomes: Queue::new(OUTCOMES_MAX),
            begun: Mutex::default(),
            now: Mutex::new(Now {
                drain,
                retiring: false,
                release_state: None,
                rolled_back: false,
                started: 0,
                refused: 0,
                failures: 0,
                last_error: None,
                last_contact: None,
                contact_error: None,
                membership: Shown::No,
                events: VecDeque::new(),
                closed: false,
                news: 0,
            }),
            changed: Condvar::new(),
            listeners: Mutex::default(),
            was_admitted: AtomicBool::new(false),
            telling: Mutex::default(),
        }
    }

    pub(crate) fn listen(&self, listener: Listener) {
        lock(&self.listeners).push(Arc::new(listener));
    }

    pub(crate) fn enter(&self, call: &CallId, assigned: bool) -> Result<(), Refused> {
        let input = Input::Enter {
            call: call.clone(),
            assigned,
        };
        let mut now = lock(&self.now);
        let before = now.drain.active();
        match now.drain.step(self.clock.now(), input) {
            Ok(_) => now.started += u64::from(now.drain.active() > before),
            Err(error) => {
                now.refused += 1;
                return Err(error);
            }
        }
        drop(now);
        self.changed.notify_all();
        Ok(())
    }

    pub(crate) fn exit(&self, call: &CallId) -> Result<(), Refused> {
        self.step(Input::Exit { call: call.clone() }, "")
    }

    pub(crate) fn begin_drain(&self, reason: &str) {
        // It is refused in no state.
        let _ = self.step(Input::BeginDrain, reason);
    }

    pub(crate) fn tick(&self) {
        let _ = self.step(Input::Tick, "");
    }

    fn step(&self, input: Input, reason: &str) -> Result<(), Refused> {
        let mut now = lock(&self.now);
        let effects = now.drain.step(self.clock.now(), input)?;
        now.news += u64::from(!effects.is_empty());
        for effect in effects {
            let event = match effect {
                Effect::Draining => Event::Draining {
                    reason: reason.to_owned(),
                },
                Effect::Barred { why } => Event::Barred { reason: why },
                Effect::Admitted => Event::Admitted,
                Effect::Overdue(calls) => Event::Overdue { calls },
                Effect::End(calls) => Event::End { calls },
                Effect::Drained => Event::Drained,
            };
            self.write_down(&event);
            now.events.push_back(event);
        }
        drop(now);
        self.changed.notify_all();
        self.tell();
        Ok(())
    }

    /// What is decided here is audited here, in the order in which it was decided.
    fn write_down(&self, event: &Event) {
        let mut fields = Map::new();
        let name = match event {
            Event::Draining { reason } => {
                fields.insert("reason".to_owned(), Value::from(reason.clone()));
                "deployment.drain_started"
            }
            Event::Barred { reason } => return self.rejected(reason),
            Event::Admitted => "worker.admitted",
            Event::Overdue { .. } => "drain.ceiling_reached",
            Event::End { .. } => "drain.calls_ended",
            Event::Drained => "drain.completed",
            _ => return,
        };
        if !event.calls().is_empty() {
            let calls = event.calls().iter().map(ToString::to_string);
            fields.insert("calls".to_owned(), calls.collect());
        }
        self.emit(name, fields);
    }

    /// Takes in how a membership was shown, if it was, and what Segue said of it before. A refusal
    /// takes away nothing that an earlier one gave.
    pub(crate) fn stand(&self, before: Option<&Stands>, shown: Option<Shown>) {
        let standing = match (before, &shown) {
            (_, Some(Shown::Taken(stands))) | (Some(stands), _) => stands.standing(),
            (None, Some(Shown::Refused { why })) => Some(Standing::Barred { why: why.clone() }),
            (None, _) => None,
        };
        let standing = self.unless_it_only_ended(standing);
        if let Some(shown) = shown {
            let mut now = lock(&self.now);
            let is_new = now.membership != shown;
            now.membership = shown.clone();
            drop(now);
            match (shown, &standing) {
                // Barring says it itself.
                (Shown::Refused { why }, Some(Standing::Admitted)) if is_new => self.rejected(&why),
                _ => {}
            }
        }
        if let Some(standing) = standing {
            // It is refused in no state.
            let _ = self.step(Input::Stand(standing), "");
        }
    }

    /// Nobody who is in is sent away because a token has ended, not by a Segue either that has
    /// forgotten who is in.
    fn unless_it_only_ended(&self, standing: Option<Standing>) -> Option<Standing> {
        if standing == Some(Standing::Admitted) {
            self.was_admitted.store(true, Ordering::Relaxed);
        }
        let was_admitted = self.was_admitted.load(Ordering::Relaxed);
        standing
            .filter(|is| !matches!(is, Standing::Barred { why } if was_admitted && why == EXPIRED))
    }

    fn rejected(&self, why: &str) {
        let fields = [("reason".to_owned(), Value::from(why))];
        self.emit_as("worker.rejected", "refused", fields.into_iter().collect());
    }

    pub(crate) fn emit(&self, name: &str, fields: Map<String, Value>) {
        self.emit_as(name, "ok", fields);
    }

    fn emit_as(&self, name: &str, result: &str, fields: Map<String, Value>) {
        let worker = self.segue.as_ref().and_then(Segue::worker);
        let said = Said {
            event: name.to_owned(),
            actor: "system".to_owned(),
            target: worker.map_or_else(|| self.instance.clone(), ToString::to_string),
            result: result.to_owned(),
            version: self.version.clone(),
            fields,
        };
        self.audit.emit(said, self.clock.now());
    }

    pub(crate) fn push(&self, event: Event) {
        lock(&self.now).events.push_back(event);
        self.tell();
    }

    /// Tells what has happened. Whoever comes while somebody tells, a listener above all, leaves it
    /// to them.
    fn tell(&self) {
        while !lock(&self.now).events.is_empty() {
            let Ok(_telling) = self.telling.try_lock() else {
                return;
            };
            loop {
                let Some(event) = lock(&self.now).events.pop_front() else {
                    break;
                };
                let listeners = lock(&self.listeners).clone();
                for listener in listeners {
                    listener(&event);
                }
            }
        }
    }

    /// Segue says that the release retires, or no longer does.
    pub(crate) fn set_retiring(&self, retiring: bool) {
        let mut now = lock(&self.now);
        if now.retiring == retiring {
            return;
        }
        now.retiring = retiring;
        now.events.push_back(if retiring {
            Event::Retiring
        } else {
            Event::Resumed
        });
        drop(now);
        self.tell();
    }

    /// Takes in the answer to a heartbeat.
    pub(crate) fn heard(&self, told: &Told) {
        let mut now = lock(&self.now);
        now.last_contact = Some(seconds(self.clock.now().0));
        now.contact_error = None;
        // A worker that is started late was not there when it happened.
        let knew = now.release_state.as_deref();
        let landed =
            told.state.as_deref() == Some("current") && knew.is_some_and(|is| is != "current");
        let back = told.rolled_back && !now.rolled_back && knew.is_some();
        now.rolled_back = told.rolled_back;
        now.release_state.clone_from(&told.state);
        drop(now);
        if landed {
            self.emit("deployment.completed", Map::new());
        }
        if back {
            self.emit("deployment.rolled_back", Map::new());
        }
        // An answer that knows no such release says nothing about it.
        if told.state.is_some() {
            self.set_retiring(told.retiring);
        }
    }

    pub(crate) fn heard_nothing(&self, error: &str) {
        lock(&self.now).contact_error = Some(error.to_owned());
    }

    pub(crate) fn report(&self, call: &CallId, outcome: Outcome) {
        let mut now = lock(&self.now);
        if outcome.verdict() == Verdict::Failure {
            now.failures += 1;
            now.last_error = outcome.reason().map(ToOwned::to_owned);
        }
        drop(now);
        if self.segue.is_some() {
            self.outcomes.put(Report {
                call: call.clone(),
                id: uuid::Uuid::new_v4().simple().to_string(),
                outcome,
            });
        }
    }

    /// Waits until the last call has ended in a drain; `false`: it took longer.
    pub(crate) fn wait_drained(&self, within: Option<Duration>) -> bool {
        let now = lock(&self.now);
        let drains = |now: &mut Now| !now.drain.is_drained();
        match within {
            None => {
                let waited = self.changed.wait_while(now, drains);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
                true
            }
            Some(within) => {
                let waited = self.changed.wait_timeout_while(now, within, drains);
                let (now, _) = waited.unwrap_or_else(PoisonError::into_inner);
                now.drain.is_drained()
            }
        }
    }

    /// Waits until what is to be told is told; `false`: it took longer, or nobody tells it.
    pub(crate) fn flush(&self, within: Duration) -> bool {
        let has_begun = *lock(&self.begun) > 0;
        let within = if has_begun { within } else { Duration::ZERO };
        let reported = self.outcomes.flush(within);
        self.audit.flush(within) && reported
    }

    pub(crate) fn close(&self, within: Duration) -> bool {
        lock(&self.now).closed = true;
        self.changed.notify_all();
        let has_begun = *lock(&self.begun) > 0;
        let within = if has_begun { within } else { Duration::ZERO };
        let reported = self.outcomes.close(within);
        self.audit.close(within) && reported
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let now = lock(&self.now);
        let policy = now.drain.policy();
        let since = now.drain.draining_since();
        Snapshot {
            timestamp: seconds(self.clock.now().0),
            uptime_seconds: seconds(self.clock.uptime().0),
            deployment_version: self.version.clone(),
            agent: self.segue.as_ref().map(|segue| segue.agent().to_string()),
            worker: self
                .segue
                .as_ref()
                .and_then(|segue| segue.worker().map(ToString::to_string)),
            draining: since.is_some(),
            draining_since: since.map(|since| seconds(since.0)),
            drained: now.drain.is_drained(),
            retiring: now.retiring,
            active_sessions: now.drain.active(),
            overdue_sessions: now.drain.overdue(),
            total_sessions_started: now.started,
            total_sessions_refused: now.refused,
            total_session_failures: now.failures,
            last_error: now.last_error.clone(),
            drain_timeout_seconds: policy.drain_timeout.map(|timeout| seconds(timeout.0)),
            on_straggler: policy.on_straggler.word(),
            audit: self.audit.waiting(),
            reports: self.outcomes.waiting(),
            membership: Membership {
                configured: self.segue.as_ref().is_some_and(|is| is.papers.is_some()),
                barred: match now.drain.standing() {
                    Standing::Admitted => None,
                    Standing::Barred { why } => Some(why.clone()),
                },
                last_error: match &now.membership {
                    Shown::No | Shown::Taken(_) => None,
                    Shown::Refused { why } => Some(format!("refused: {why}")),
                    Shown::Failed { error } => Some(error.clone()),
                },
            },
            segue: Contact {
                configured: self.segue.is_some(),
                last_contact: now.last_contact,
                last_error: now.contact_error.clone(),
                release_state: now.release_state.clone(),
            },
        }
    }
}
