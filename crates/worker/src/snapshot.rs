//! A worker at one moment.

use serde::Serialize;

use crate::queue::Waiting;

/// A worker at one moment. The names are those of OpenRTC where it has them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// When, in seconds since 1970.
    pub timestamp: f64,
    /// Since the pool was made.
    pub uptime_seconds: f64,
    /// The label of its release.
    pub deployment_version: Option<String>,
    /// The agent, if it is known.
    pub agent: Option<String>,
    /// The worker's name, if it is known.
    pub worker: Option<String>,
    /// It takes no new calls.
    pub draining: bool,
    /// Since when, in seconds since 1970.
    pub draining_since: Option<f64>,
    /// Its last call has ended: the process may.
    pub drained: bool,
    /// Segue sends its release no new calls.
    pub retiring: bool,
    /// Calls that are here.
    pub active_sessions: usize,
    /// Calls that are here past the ceiling.
    pub overdue_sessions: usize,
    /// Calls that ever were.
    pub total_sessions_started: u64,
    /// Calls that were not let in.
    pub total_sessions_refused: u64,
    /// Calls whose outcome was a failure.
    pub total_session_failures: u64,
    /// The reason of the last of those.
    pub last_error: Option<String>,
    /// The ceiling, if there is one.
    pub drain_timeout_seconds: Option<f64>,
    /// What becomes of calls at the ceiling: `wait` or `end`.
    pub on_straggler: &'static str,
    /// Audit events on their way to the sink.
    pub audit: Waiting,
    /// Outcomes on their way to Segue.
    pub reports: Waiting,
    /// Whether Segue lets it take new calls.
    pub membership: Membership,
    /// How Segue is reached.
    pub segue: Contact,
}

/// Whether Segue lets a worker take new calls.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Membership {
    /// Whether it has one to show.
    pub configured: bool,
    /// Why it takes no new calls, in one word; none: it may.
    pub barred: Option<String>,
    /// Why the last one that it showed was not taken; none: it was.
    pub last_error: Option<String>,
}

/// How Segue is reached.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Contact {
    /// Whether anything is configured that could be reached.
    pub configured: bool,
    /// When it last answered, in seconds since 1970.
    pub last_contact: Option<f64>,
    /// Why the last heartbeat failed; none: it did not.
    pub last_error: Option<String>,
    /// What it said of the release: `current`, `draining` and so on.
    pub release_state: Option<String>,
}
