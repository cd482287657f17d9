//! How a connection of a call comes to its end.

use serde::{Deserialize, Serialize};

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The side that called.
    Caller,
    /// The agent's side.
    Worker,
    /// This process: a fault of ours, never a policy.
    Gateway,
    /// This process, because it was told to.
    Policy,
}

impl By {
    /// The peer of a side; only sides have one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Caller => Self::Worker,
            Self::Worker => Self::Caller,
            Self::Gateway => Self::Gateway,
            Self::Policy => Self::Policy,
        }
    }

    /// One word for counters and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Worker => "worker",
            Self::Gateway => "gateway",
            Self::Policy => "policy",
        }
    }
}

/// The first sign that a live connection ends: a close frame, or a bare end of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Whose sign it was.
    pub by: By,
    /// Its close code; 1005 stands for a close frame without one, `None` for no close frame.
    pub code: Option<u16>,
}

impl Closed {
    /// Ended because it was to be, with the code that both sides are told.
    pub(crate) const BY_POLICY: Self = Self {
        by: By::Policy,
        code: Some(1001),
    };

    /// Whether this is a call lost by its worker: no close frame, or one that says it goes away,
    /// failed, or restarts.
    pub fn is_drop(self) -> bool {
        self.by == By::Worker && matches!(self.code, None | Some(1001 | 1006 | 1011 | 1012))
    }

    /// The key under which presence counts it, such as `worker:1000` or `caller:none`.
    pub fn key(self) -> String {
        match self.code {
            Some(code) => format!("{}:{code}", self.by.word()),
            None => format!("{}:none", self.by.word()),
        }
    }
}

/// Why a connection never got through to a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unreached {
    /// No worker could be connected.
    Dial,
    /// The worker did not answer in time or not in HTTP.
    BadAnswer,
    /// The worker refused the upgrade with this status.
    Status(u16),
    /// The caller went away first: nobody's fault.
    CallerLeft,
    /// Its call was ended by policy while it was being made.
    Retired,
}

impl Unreached {
    /// Whether its release is to blame, so that it counts as an error. What a stranger can bring
    /// about is not: by asking for what is not there or not allowed, or by hanging up. Else anyone
    /// could have a release rolled back.
    pub fn is_fault(self) -> bool {
        match self {
            Self::Dial | Self::BadAnswer => true,
            Self::Status(status) => status >= 500,
            Self::CallerLeft | Self::Retired => false,
        }
    }

    /// A phrase for logs.
    pub fn why(self) -> String {
        match self {
            Self::Dial => "no worker could be connected".to_owned(),
            Self::BadAnswer => "the worker gave no valid answer".to_owned(),
            Self::Status(status) => format!("the worker answered {status}"),
            Self::CallerLeft => "the caller left before the connection stood".to_owned(),
            Self::Retired => "ended by policy before the connection stood".to_owned(),
        }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It was live.
    Closed(Closed),
    /// It never was.
    Unreached(Unreached),
    /// A plain request got its answer.
    Answered,
    /// Its task vanished without a word.
    Abandoned,
}
