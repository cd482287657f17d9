//! What the generator has seen.

use super::call::{Call, LATE_NS};
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
        // What has not come back is at least as late as it is now: a proxy must not look better for
        // what it has yet to bring.
        let (mut latency, mut late) = (self.latency.clone(), self.late);
        for waited in calls.iter().flatten().flat_map(|call| call.waits(now)) {
            latency.record(waited);
            late += u64::from(waited > LATE_NS);
        }
        Reply {
            at_ns: now,
            open: gaps.count(),
            owed: owed.sum(),
            sent: self.sent,
            received: self.received,
            late,
            wrong: self.wrong,
            missing: self.missing,
            repeated: self.repeated,
            opened: self.opened,
            done: self.done,
            lost: self.lost,
            failed: self.failed,
            latency_p50_ns: latency.percentile(5_000),
            latency_p99_ns: latency.percentile(9_900),
            latency_p999_ns: latency.percentile(9_990),
            latency_max_ns: latency.max(),
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::drive::PERIOD_NS;

    #[test]
    fn frames_that_have_not_come_back_are_as_late_as_they_are() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let mut call = Call::dial(1, false, target, None, 0).unwrap();
        let (mut out, mut stats) = (Vec::new(), Stats::default());
        // One of before the schedule, and three of it: due at 0, 20 and 40 ms.
        call.send(&mut out, &mut stats).unwrap();
        call.begin(0, PERIOD_NS, 0);
        for _ in 0..3 {
            call.send(&mut out, &mut stats).unwrap();
        }
        let calls = [Some(call)];
        let reply = stats.reply(&calls, 70_000_000);
        assert_eq!((reply.owed, reply.late), (4, 1));
        assert_eq!(reply.latency_max_ns, 70_000_000);
        assert_eq!(stats.reply(&calls, 90_000_000).late, 2);
        assert_eq!((stats.late, stats.latency.count()), (0, 0), "only told");
    }
}
