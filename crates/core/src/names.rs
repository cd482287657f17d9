//! Names. Each is its own type, so that a worker is never passed where a release is meant.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Longest agent, label, worker or gateway name, in bytes: it must fit a file name with a suffix.
pub const NAME_BYTES_MAX: usize = 64;

/// Longest call id, in bytes. Twilio's are 34, UUIDs 36; the rest is room for others.
pub const CALL_ID_BYTES_MAX: usize = 128;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {text:?} is not valid: use 1 to {bytes_max} of A-Z a-z 0-9 . _ -, not starting with a dot"
)]
pub struct BadName {
    /// Which kind of name was meant.
    pub what: &'static str,
    /// What was given.
    pub text: String,
    /// The longest allowed, in bytes.
    pub bytes_max: usize,
}

fn check(what: &'static str, text: &str, bytes_max: usize) -> Result<(), BadName> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    // Names become file names: a leading dot would hide the file or climb out of its folder.
    if text.is_empty() || text.starts_with('.') || text.len() > bytes_max || !text.bytes().all(good)
    {
        let text = text.chars().take(bytes_max).collect();
        return Err(BadName {
            what,
            text,
            bytes_max,
        });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        // Shared: a call's names are in many places at once, and a gateway holds many calls.
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                check($what, text, $max)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                check($what, &text, $max)?;
                Ok(Self(text.into()))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The deployable thing, for example `receptionist`.
    AgentName, "agent name", NAME_BYTES_MAX
}
name! {
    /// What people call a release, for example `v2.1.0`. Not its identity: see [`ReleaseId`].
    Label, "release label", NAME_BYTES_MAX
}
name! {
    /// One program of an agent, for example `engine`.
    ComponentName, "component name", NAME_BYTES_MAX
}
name! {
    /// One running instance of the entry component.
    WorkerId, "worker id", NAME_BYTES_MAX
}
name! {
    /// One gateway process, the same across its restarts.
    GatewayId, "gateway id", NAME_BYTES_MAX
}
name! {
    /// Where agents run, for example `production`: what is signed for one is nothing in another.
    Environment, "environment name", NAME_BYTES_MAX
}
name! {
    /// One token of a worker, the `jti` of its claims.
    TokenId, "token id", NAME_BYTES_MAX
}
name! {
    /// One conversation.
    CallId, "call id", CALL_ID_BYTES_MAX
}

/// Identity of a release: SHA-256 over everything it is made of. A re-pushed tag or a changed
/// secret is a new release, because it has another digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct ReleaseId([u8; 32]);

impl ReleaseId {
    /// Identity of the given canonical bytes.
    pub fn of(canonical: &[u8]) -> Self {
        Self(Sha256::digest(canonical).into())
    }

    /// The first 12 hexadecimal digits: enough for people and file names.
    pub fn short(&self) -> String {
        hex(&self.0[..6])
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| digits(*byte));
    digits.map(char::from).collect()
}

fn digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)])
}

impl Serialize for ReleaseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; 64];
        for (two, byte) in text.chunks_exact_mut(2).zip(self.0) {
            two.copy_from_slice(&digits(byte));
        }
        serializer.serialize_str(std::str::from_utf8(&text).expect("digits are ASCII"))
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.short())
    }
}

impl fmt::Debug for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReleaseId({})", self.short())
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> Self {
        hex(&id.0)
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        let bad = || BadName {
            what: "release digest",
            text: text.clone(),
            bytes_max: 64,
        };
        if text.len() != 64 || !text.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_where_they_enter() {
        for (text, good) in [
            ("v2.1.0", true),
            ("a", true),
            ("", false),
            ("a b", false),
            ("../x", false),
            ("..", false),
            (".hidden", false),
            ("naïve", false),
            ("line\nbreak", false),
        ] {
            assert_eq!(text.parse::<Label>().is_ok(), good, "{text:?}");
        }
        assert!("x".repeat(65).parse::<Label>().is_err());
        assert!("x".repeat(65).parse::<CallId>().is_ok());
        assert!(serde_json::from_str::<Label>("\"a/b\"").is_err());
    }

    #[test]
    fn a_release_id_survives_json() {
        let id = ReleaseId::of(b"x");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<ReleaseId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<ReleaseId>("\"zz\"").is_err());
    }
}
