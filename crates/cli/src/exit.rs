//! Exit codes, by name. `segue --help` lists them; scripts may rely on them.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what was asked.
    Ok,
    /// It failed.
    Failed,
    /// The command line or the configuration is wrong. (`clap` uses 2 as well.)
    Usage,
    /// No controller answers.
    Unreachable,
    /// Somebody else decided in between.
    Conflict,
    /// Durable and published, but some gateway has not acknowledged.
    Unacked,
    /// The rollout failed or was rolled back; the release before serves.
    RolledBack,
    /// It does not fit the state the rollout is in.
    Refused,
    /// It waits for an operator, and nobody planned that it should.
    Waiting,
    /// Stopped watching; what was asked goes on.
    Interrupted,
}

/// For `segue --help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or configuration
  3  no controller answers
  4  conflict: somebody else decided in between
  5  published, but a gateway has not acknowledged (UNACKED)
  6  the rollout failed or was rolled back; the release before serves
  7  refused: it does not fit the state of the rollout
  8  the rollout waits for an operator (inconclusive gates, or paused by somebody)
  130  stopped watching; what was asked goes on

Environment:
  SEGUE_HOME  where Segue keeps its state (default: ./.segue)
  NO_COLOR    plain output";

impl Exit {
    const ALL: [Self; 10] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::Conflict,
        Self::Unacked,
        Self::RolledBack,
        Self::Refused,
        Self::Waiting,
        Self::Interrupted,
    ];

    /// Its number.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Conflict => 4,
            Self::Unacked => 5,
            Self::RolledBack => 6,
            Self::Refused => 7,
            Self::Waiting => 8,
            Self::Interrupted => 130,
        }
    }

    /// The one of a number; of one that is none, that something failed.
    pub(crate) fn of(code: u8) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|exit| exit.code() == code).unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error that ends a command, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Trouble {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Trouble {
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: &str) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: Some(hint.to_owned()),
        }
    }
}
