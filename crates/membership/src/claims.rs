//! What all claims share: when they hold, for whom, and by whom.

use segue_core::names::Environment;
use segue_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use crate::reject::{Reject, quoted};

/// How far the clocks of a signer and of a gate may be apart, either way.
pub const LEEWAY: Millis = Millis::from_secs(60);

/// Longest name of an issuer, in bytes: it may be a URL.
pub const ISSUER_BYTES_MAX: usize = 256;

/// The last second of the year 9999: what is later is no time but a mistake, or a trap for whoever
/// calculates with it.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Whole seconds since the Unix epoch, the `NumericDate` of JWT without its fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct Seconds(u64);

impl Seconds {
    /// The moment, in the unit of the rest of Segue.
    pub fn at(self) -> Timestamp {
        Timestamp(self.0 * 1_000)
    }
}

impl From<Timestamp> for Seconds {
    /// The second it lies in.
    fn from(at: Timestamp) -> Self {
        Self((at.0 / 1_000).min(SECONDS_MAX))
    }
}

impl TryFrom<u64> for Seconds {
    type Error = &'static str;

    fn try_from(seconds: u64) -> Result<Self, Self::Error> {
        if seconds > SECONDS_MAX {
            return Err("a time after the year 9999");
        }
        Ok(Self(seconds))
    }
}

/// Refuses what is not made yet, by more than clocks may differ.
pub(crate) fn made(iat: Seconds, now: Timestamp) -> Result<(), Reject> {
    let ahead = iat.at().since(now);
    if ahead > LEEWAY {
        return Err(Reject::FromFuture { ahead });
    }
    Ok(())
}

/// Refuses what has not begun.
pub(crate) fn begun(nbf: Option<Seconds>, now: Timestamp) -> Result<(), Reject> {
    let ahead = nbf.map_or(Millis(0), |nbf| nbf.at().since(now));
    if ahead > LEEWAY {
        return Err(Reject::NotYetValid { ahead });
    }
    Ok(())
}

/// Refuses what is over.
pub(crate) fn lasting(exp: Seconds, now: Timestamp) -> Result<(), Reject> {
    if now < exp.at() + LEEWAY {
        return Ok(());
    }
    let ago = now.since(exp.at());
    Err(Reject::Expired { ago })
}

/// Refuses what ends before it begins, or lasts longer than it may.
pub(crate) fn length(iat: Seconds, exp: Seconds, lasts_max: Millis) -> Result<(), Reject> {
    let lasts = exp.at().since(iat.at());
    if lasts == Millis(0) {
        return Err(Reject::malformed("it ends before it is made"));
    }
    if lasts > lasts_max {
        return Err(Reject::LastsTooLong { lasts, lasts_max });
    }
    Ok(())
}

/// Refuses what is signed for other places, or by others.
pub(crate) fn ours(
    (iss, env): (&str, &Environment),
    (our_iss, our_env): (&str, &Environment),
) -> Result<(), Reject> {
    if env != our_env {
        return Err(Reject::Environment {
            found: quoted(env.as_str()),
            expected: our_env.to_string(),
        });
    }
    if iss != our_iss {
        return Err(Reject::Issuer {
            found: quoted(iss),
            expected: our_iss.to_owned(),
        });
    }
    Ok(())
}
