//! What a worker is told.

use segue_core::names::CallId;

/// Something that a worker may want to act on. Told by the thread on which it happened, in order and
/// one at a time; a listener should be quick, and may use the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Segue sends its release no new calls any more. Nothing is refused for that: a call that comes
    /// back belongs here. It may be taken back.
    Retiring,
    /// Its release takes new calls again.
    Resumed,
    /// This worker refuses new calls, because its membership is refused. It may be taken back.
    Barred {
        /// Why, in one word.
        reason: String,
    },
    /// Its membership is no longer in the way of new calls.
    Admitted,
    /// This worker refuses new calls.
    Draining {
        /// Why, in words.
        reason: String,
    },
    /// These calls have reached the ceiling.
    Overdue {
        /// Which.
        calls: Vec<CallId>,
    },
    /// End these calls: the policy says so.
    End {
        /// Which.
        calls: Vec<CallId>,
    },
    /// Segue asks that this call be wound up.
    Announce {
        /// Which.
        call: CallId,
    },
    /// Segue asks that this call be closed with 1000, because its caller comes back elsewhere.
    HandOff {
        /// Which.
        call: CallId,
    },
    /// The last call has ended: the process may, too.
    Drained,
}

impl Event {
    /// In one word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Retiring => "retiring",
            Self::Resumed => "resumed",
            Self::Barred { .. } => "barred",
            Self::Admitted => "admitted",
            Self::Draining { .. } => "draining",
            Self::Overdue { .. } => "overdue",
            Self::End { .. } => "end",
            Self::Announce { .. } => "announce",
            Self::HandOff { .. } => "hand-off",
            Self::Drained => "drained",
        }
    }

    /// The calls that it is about; none: it is about the worker.
    pub fn calls(&self) -> &[CallId] {
        match self {
            Self::Overdue { calls } | Self::End { calls } => calls,
            Self::Announce { call } | Self::HandOff { call } => std::slice::from_ref(call),
            Self::Retiring
            | Self::Resumed
            | Self::Barred { .. }
            | Self::Admitted
            | Self::Draining { .. }
            | Self::Drained => &[],
        }
    }
}
