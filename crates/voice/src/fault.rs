//! Ways in which the sample agent can be broken, for trying what catches them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::random::Random;

/// Exit code of a process whose agent was told to crash at start.
pub const CRASH_EXIT_CODE: i32 = 3;

/// How the sample agent is broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    #[default]
    None,
    /// Accepts calls and never speaks.
    Silent,
    /// Speaks shuffled noise.
    Garbled,
    /// Answers every question with a sentence from elsewhere.
    Wrong,
    /// Breaks the connection of some calls, without a goodbye.
    Drop {
        /// Time from the start of the call.
        after: Duration,
        /// Share of the calls, chosen by their id.
        percent: u8,
    },
    /// Turns calls away with status 503.
    Refuse,
    /// Never says that it is ready.
    NeverReady,
    /// Fails at start.
    Crash,
}

/// The text names no fault.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such fault: {0:?} (none, silent, garbled, wrong, drop:MS, drop:MS@PERCENT, refuse, \
     never-ready, crash)"
)]
pub struct UnknownFault(String);

impl Fault {
    /// When to drop the call with this id.
    pub(crate) fn drop_after(self, call: &str) -> Option<Duration> {
        match self {
            Self::Drop { after, percent } => {
                (Random::of(call).below(100) < u64::from(percent)).then_some(after)
            }
            _ => None,
        }
    }
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let unknown = || UnknownFault(text.to_owned());
        match text {
            "none" => Ok(Self::None),
            "silent" => Ok(Self::Silent),
            "garbled" => Ok(Self::Garbled),
            "wrong" => Ok(Self::Wrong),
            "refuse" => Ok(Self::Refuse),
            "never-ready" => Ok(Self::NeverReady),
            "crash" => Ok(Self::Crash),
            _ => {
                let when = text.strip_prefix("drop:").ok_or_else(unknown)?;
                let (ms, percent) = when.split_once('@').unwrap_or((when, "100"));
                let after = Duration::from_millis(ms.parse().map_err(|_| unknown())?);
                let percent = percent.parse().ok().filter(|percent| *percent <= 100);
                Ok(Self::Drop {
                    after,
                    percent: percent.ok_or_else(unknown)?,
                })
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Silent => "silent",
            Self::Garbled => "garbled",
            Self::Wrong => "wrong",
            Self::Refuse => "refuse",
            Self::NeverReady => "never-ready",
            Self::Crash => "crash",
            Self::Drop { after, percent } => {
                return write!(f, "drop:{}@{percent}", after.as_millis());
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let all = "none silent garbled wrong refuse never-ready crash drop:500@30 drop:0@100";
        for name in all.split(' ') {
            assert_eq!(name.parse::<Fault>().unwrap().to_string(), name);
        }
        for name in ["", "drop", "drop:x", "drop:5@101", "Silent"] {
            assert!(name.parse::<Fault>().is_err(), "{name}");
        }
    }

    #[test]
    fn a_share_of_calls_is_dropped_and_always_the_same_ones() {
        let fault: Fault = "drop:500@30".parse().unwrap();
        let dropped = |n: u32| fault.drop_after(&format!("CA{n}")).is_some();
        let count = (0..1_000).filter(|&n| dropped(n)).count();
        assert!((250..350).contains(&count), "{count}");
        assert_eq!(dropped(7), dropped(7));
        let all: Fault = "drop:500".parse().unwrap();
        assert_eq!(all.drop_after("x"), Some(Duration::from_millis(500)));
    }
}
