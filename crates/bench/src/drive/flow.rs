//! The open loop: when which call sends.

use super::Drive;
use crate::wire::random;

/// Fifty frames a second, as voice has it.
pub(crate) const PERIOD_NS: u64 = 20_000_000;

/// From the order to the first frame.
const HEAD_START_NS: u64 = 5_000_000;

/// Frames sent in a row before what came back is looked at.
const SENDS_MAX: usize = 32;

/// Every call once in each period, at its own phase: a ring that is walked.
pub(super) struct Flow {
    period: u64,
    start: u64,
    /// Phase and place of each call, by phase.
    order: Vec<(u64, usize)>,
    cursor: usize,
    round: u64,
}

impl Flow {
    fn due(&self) -> Option<u64> {
        let (phase, _) = self.order.get(self.cursor)?;
        Some(self.start + self.round * self.period + phase)
    }

    fn advance(&mut self) {
        self.cursor += 1;
        if self.cursor == self.order.len() {
            self.cursor = 0;
            self.round += 1;
        }
    }
}

impl Drive {
    pub(super) fn start_flow(&mut self, period: u64) {
        self.stats.period = period;
        let now = self.clock.now();
        let start = now + HEAD_START_NS;
        let mut order = Vec::new();
        for (index, call) in self.calls.iter_mut().enumerate() {
            if let Some(call) = call.as_mut().filter(|call| call.is_open()) {
                let phase = random(call.number(), 0) % period;
                call.begin(start + phase, period, start + phase);
                order.push((phase, index));
            }
        }
        order.sort_unstable();
        self.flow = Some(Flow {
            period,
            start,
            order,
            cursor: 0,
            round: 0,
        });
    }

    /// Sends what is due, and says when the next one is.
    pub(super) fn send_due(&mut self) -> Option<u64> {
        let mut flow = self.flow.take()?;
        let mut out = std::mem::take(&mut self.out);
        let mut now = self.clock.now();
        for _ in 0..SENDS_MAX {
            let Some(due) = flow.due() else { break };
            if due > now {
                now = self.clock.now();
                if due > now {
                    break;
                }
            }
            let (_, index) = flow.order[flow.cursor];
            flow.advance();
            if let Some(call) = self.calls[index].as_mut().filter(|call| call.flows()) {
                let before = call.interest();
                // A socket that cannot be written to is gone, which reading it will show.
                let _ = call.send(&mut out, &mut self.stats);
                self.settle(index, before);
            }
        }
        let next = flow.due();
        self.out = out;
        self.flow = Some(flow);
        next
    }
}
