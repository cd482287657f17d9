//! The membership of OpenRTC 0.20, for workers that have it: HMAC-SHA256 over version, worker and
//! time, byte for byte.
//!
//! **Weaker than worker tokens.** Everybody who can sign for one version can sign for any: the secret
//! is shared. It is good for five minutes and for whoever copies it; it names no environment, no
//! agent and no release but by its label. Take it on the way to worker tokens, not instead of them.
//!
//! It differs from OpenRTC in what is refused: a time that is no number (which passes OpenRTC's test
//! of freshness, for ever), an empty secret, and a token that is not hexadecimal.

use std::fmt::Write as _;

use ring::hmac;
use segue_core::names::hex;

/// How old a signature may be, in seconds, and how far ahead, as in OpenRTC.
pub const MAX_AGE_SECONDS: f64 = 300.0;

/// Why a membership is not believed, in OpenRTC's order.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// There is nothing to verify with.
    #[error("MembershipVerifier requires at least one secret, and none that is empty")]
    NoSecret,
    /// Another version than the one that is deployed.
    #[error("version {found:?} does not match the active deployment {expected:?}")]
    Version {
        /// The one that was named.
        found: String,
        /// The one that is deployed.
        expected: String,
    },
    /// Too old.
    #[error("membership timestamp is stale (expired)")]
    Stale,
    /// Too new, or no time.
    #[error("membership timestamp is in the future")]
    Future,
    /// Signed with none of the secrets.
    #[error("invalid membership signature")]
    Signature,
}

/// Signs a worker's version, as OpenRTC does. `timestamp` is in seconds since the Unix epoch.
pub fn sign_membership(version: &str, worker_id: &str, timestamp: f64, secret: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, message(version, worker_id, timestamp).as_bytes());
    hex(signature.as_ref())
}

/// Verifies what [`sign_membership`] signs.
#[derive(Clone)]
pub struct MembershipVerifier {
    keys: Vec<hmac::Key>,
    /// The version that is deployed; any, if there is none.
    pub expected_version: Option<String>,
    /// How old a signature may be, in seconds.
    pub max_age_seconds: f64,
}

impl MembershipVerifier {
    /// With any of these secrets: two of them while one is replaced.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Result<Self, MembershipError> {
        let mut keys = Vec::new();
        for secret in secrets {
            if secret.is_empty() {
                return Err(MembershipError::NoSecret);
            }
            keys.push(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
        }
        if keys.is_empty() {
            return Err(MembershipError::NoSecret);
        }
        Ok(Self {
            keys,
            expected_version: None,
            max_age_seconds: MAX_AGE_SECONDS,
        })
    }

    /// Whether that worker of that version signed at that time; `now` is in seconds, too.
    ///
    /// # Errors
    ///
    /// When not, and why.
    pub fn verify(
        &self,
        token: &str,
        (version, worker_id, timestamp): (&str, &str, f64),
        now: f64,
    ) -> Result<(), MembershipError> {
        if let Some(expected) = &self.expected_version
            && expected != version
        {
            return Err(MembershipError::Version {
                found: version.to_owned(),
                expected: expected.clone(),
            });
        }
        let age = now - timestamp;
        if age > self.max_age_seconds {
            return Err(MembershipError::Stale);
        }
        // Also what compares with nothing.
        let is_near = age >= -self.max_age_seconds;
        if !is_near {
            return Err(MembershipError::Future);
        }
        let signature = unhex(token).ok_or(MembershipError::Signature)?;
        let message = message(version, worker_id, timestamp);
        let by = |key: &hmac::Key| hmac::verify(key, message.as_bytes(), &signature).is_ok();
        // Every secret is tried: which of them it is shows in no time.
        if self.keys.iter().filter(|key| by(key)).count() == 0 {
            return Err(MembershipError::Signature);
        }
        Ok(())
    }
}

impl std::fmt::Debug for MembershipVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MembershipVerifier")
            .field("secrets", &self.keys.len())
            .field("expected_version", &self.expected_version)
            .field("max_age_seconds", &self.max_age_seconds)
            .finish()
    }
}

/// What is signed: `json.dumps([version, worker_id, repr(float(timestamp))], separators=(",", ":"))`.
fn message(version: &str, worker_id: &str, timestamp: f64) -> String {
    let (version, worker_id) = (quoted(version), quoted(worker_id));
    format!("[{version},{worker_id},{}]", quoted(&repr(timestamp)))
}

/// A string as Python's `json` writes it: everything but printable ASCII is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("a string takes everything");
                }
            }
        }
    }
    out.push('"');
    out
}

/// A number as Python's `repr` writes it: the fewest digits that read back as the same number, with
/// an exponent from 16 digits before the point, or four zeros after it.
fn repr(number: f64) -> String {
    if !number.is_finite() {
        return match number {
            _ if number.is_nan() => "nan",
            _ if number > 0.0 => "inf",
            _ => "-inf",
        }
        .to_owned();
    }
    let short = format!("{number:e}");
    let (digits, exponent) = short.split_once('e').expect("it is written with one");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    match exponent {
        -4..16 if number.fract() == 0.0 => format!("{number:.1}"),
        -4..16 => format!("{number}"),
        _ => format!(
            "{digits}e{}{:02}",
            if exponent < 0 { '-' } else { '+' },
            exponent.abs()
        ),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut pairs = text.as_bytes().chunks_exact(2);
    let bytes = (&mut pairs).map(|two| Some(digit(two[0])? << 4 | digit(two[1])?));
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes.filter(|_| pairs.remainder().is_empty())
}
