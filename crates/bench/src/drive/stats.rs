//! What the generator has seen.

use super::call::Call;
use super::orders::Reply;
use crate::histogram::Histogram;

/// How a call of the generator ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As it should: a brief one.
    Done,
    /// It was open, and somebody else ended it.
    Lost,
    /// It never came to be.
    Failed,
}

/// Numbers only grow; times are those since the last mark.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Between two frames of a call.
    pub(super) period: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) late: u64,
    pub(super) wrong: u64,
    pub(super) missing: u64,
    pub(super) repeated: u64,
    pub(super) opened: u64,
    pub(super) done: u64,
    pub(super) lost: u64,
    pub(super) failed: u64,
    pub(super) latency: Histogram,
    pub(super) setup: Histogram,
}

impl Stats {
    pub(super) fn mark(&mut self) {
        self.latency.clear();
        self.setup.clear();
    }

    pub(super) fn ended(&mut self, end: End) {
        match end {
            End::Done => self.done += 1,
            End::Lost => self.lost += 1,
            End::Failed => self.failed += 1,
        }
    }

    pub(super) fn reply(&self, calls: &[Option<Call>], now: u64) -> Reply {
        let mut gaps = Histogram::default();
        for call in calls.iter().flatten().filter(|call| call.is_open()) {
            gaps.record(call.gap(now).saturating_sub(self.period));
        }
        let owed = calls.iter().flatten().map(|call| u64::from(call.owed()));
        Reply {
            at_ns: now,
            open: gaps.count(),
            owed: owed.sum(),
            sent: self.sent,
            received: self.received,
            late: self.late,
            wrong: self.wrong,
            missing: self.missing,
            repeated: self.repeated,
            opened: self.opened,
            done: self.done,
            lost: self.lost,
            failed: self.failed,
            latency_p50_ns: self.latency.percentile(5_000),
            latency_p99_ns: self.latency.percentile(9_900),
            latency_p999_ns: self.latency.percentile(9_990),
            latency_max_ns: self.latency.max(),
            setup_p50_ns: self.setup.percentile(5_000),
            setup_p99_ns: self.setup.percentile(9_900),
            gap_p50_ns: gaps.percentile(5_000),
            gap_p99_ns: gaps.percentile(9_900),
            gap_max_ns: gaps.max(),
            cut: 0,
            answered_after_ns: None,
        }
    }
}
