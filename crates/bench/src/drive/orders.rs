//! What the director says to a generator and what that answers: one line of JSON each.

use std::io::{self, Write as _};

use serde::{Deserialize, Serialize};

/// What a generator is told to do. Each is answered once it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Have so many calls open.
    Open { calls: usize },
    /// Let every open call send a frame in each period, from now on.
    Flow { period_ns: u64 },
    /// Forget the times so far.
    Mark,
    /// Say how it goes.
    Take,
    /// Stop sending and making calls, and wait for what is under way.
    Quiet,
    /// Make calls of one frame, so many at once, one after the other.
    Rate { concurrency: usize },
    /// Open so many connections that never come to the end of their request.
    Slow { connections: usize },
    /// Say how long it takes until a new call is through.
    Probe { seconds_max: u64 },
}

/// How it goes. Counts are from the start of the generator on, times from the last mark on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) at_ns: u64,
    /// Calls that are open.
    pub(crate) open: u64,
    /// Frames that are under way.
    pub(crate) owed: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// More than 60 ms after they should have been sent, those that are under way included.
    pub(crate) late: u64,
    /// Damaged, or of no call.
    pub(crate) wrong: u64,
    /// Skipped, in calls that went on.
    pub(crate) missing: u64,
    /// Twice, or behind a later one.
    pub(crate) repeated: u64,
    pub(crate) opened: u64,
    /// Brief calls that went as they should.
    pub(crate) done: u64,
    /// Open calls that somebody else ended.
    pub(crate) lost: u64,
    /// Calls that never came to be.
    pub(crate) failed: u64,
    pub(crate) latency_p50_ns: u64,
    pub(crate) latency_p99_ns: u64,
    pub(crate) latency_p999_ns: u64,
    pub(crate) latency_max_ns: u64,
    pub(crate) setup_p50_ns: u64,
    pub(crate) setup_p99_ns: u64,
    /// Of each call the longest time without a frame, less the period that is usual.
    pub(crate) gap_p50_ns: u64,
    pub(crate) gap_p99_ns: u64,
    pub(crate) gap_max_ns: u64,
    /// Slow connections that the proxy cut.
    pub(crate) cut: u64,
    pub(crate) answered_after_ns: Option<u64>,
}

pub(super) fn answer(reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
