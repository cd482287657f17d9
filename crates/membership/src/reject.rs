//! Why something is not believed. Each reason has a word, for audit entries and metrics, and a
//! sentence, for people.

use segue_core::names::{AgentName, Label, ReleaseId};
use segue_core::time::Millis;

use crate::key::KeyId;
use crate::store::StoreError;

/// Longest piece of a stranger's text that is repeated, in characters: enough to recognise it.
const QUOTED_CHARS_MAX: usize = 64;

/// Why a manifest, a token, a proof or a key set was refused. What was held before still holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reject {
    /// Longer than anything that is signed here.
    #[error("it is {bytes} bytes long, at most {bytes_max} are read")]
    Oversized {
        /// Its length.
        bytes: usize,
        /// The longest that is read.
        bytes_max: usize,
    },
    /// Not what the format says.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// A name that is there twice can be read in two ways.
    #[error("the name {0:?} is in it twice")]
    Duplicate(String),
    /// Signed with anything but `EdDSA`: `none`, a MAC, another spelling.
    #[error("the algorithm is {0:?}, only \"EdDSA\" is taken")]
    Algorithm(String),
    /// Made for something else.
    #[error("it is a {found:?}, expected {expected:?}")]
    Type {
        /// Its `typ`.
        found: String,
        /// The one that belongs here.
        expected: &'static str,
    },
    /// Nobody who may sign this has that key.
    #[error("the key {0:?} may not sign this")]
    UnknownKey(String),
    /// Changed on the way, or signed by another key.
    #[error("the signature is not that of its key")]
    Signature,
    /// Over.
    #[error("it ended {ago} ago")]
    Expired {
        /// How long ago.
        ago: Millis,
    },
    /// Not begun.
    #[error("it begins in {ahead}")]
    NotYetValid {
        /// In how long.
        ahead: Millis,
    },
    /// Made later than now: one of the clocks is wrong.
    #[error("it was made {ahead} from now: one of the clocks is wrong")]
    FromFuture {
        /// How far ahead.
        ahead: Millis,
    },
    /// Longer than such a thing may live.
    #[error("it lasts for {lasts}, at most {lasts_max} is taken")]
    LastsTooLong {
        /// How long it says.
        lasts: Millis,
        /// How long it may.
        lasts_max: Millis,
    },
    /// For another environment.
    #[error("it is for {found:?}, this is {expected:?}")]
    Environment {
        /// The one it names.
        found: String,
        /// Ours.
        expected: String,
    },
    /// By another issuer.
    #[error("it is issued by {found:?}, expected {expected:?}")]
    Issuer {
        /// The one it names.
        found: String,
        /// Ours.
        expected: String,
    },
    /// Older than what was seen before.
    #[error("it is version {offered}, and version {held} was seen before")]
    Rollback {
        /// Its version.
        offered: u64,
        /// The highest one seen.
        held: u64,
    },
    /// Two that call themselves by the same number: somebody tells different people different things.
    #[error(
        "there are two different ones of version {0}: its signer, or its key, tells two stories"
    )]
    Equivocation(u64),
    /// Does not follow the one that it should follow.
    #[error("version {0} does not name the one before it: it follows another history")]
    Fork(u64),
    /// A key set that leaves out others in between.
    #[error("key set {offered} does not follow key set {held}; the ones in between are needed")]
    KeySetGap {
        /// Its number.
        offered: u64,
        /// The number of the one in force.
        held: u64,
    },
    /// The key set itself has ended: nobody new is admitted until there is another one.
    #[error("the key set ended {ago} ago: nobody new is admitted until there is another one")]
    KeysEnded {
        /// How long ago.
        ago: Millis,
    },
    /// Too few of those who must agree have signed a key set.
    #[error("{have} of the {whose} root keys have signed the key set, {need} must")]
    Threshold {
        /// `old` or `new`.
        whose: &'static str,
        /// How many have.
        have: usize,
        /// How many must.
        need: usize,
    },
    /// Taken back by name.
    #[error("{0} was revoked")]
    Revoked(String),
    /// A release that the manifest does not admit.
    #[error("release {version} ({digest}) of {agent} is not in the manifest")]
    NotAdmitted {
        /// Its agent.
        agent: AgentName,
        /// Its label.
        version: Label,
        /// Its identity.
        digest: ReleaseId,
    },
    /// Nobody new is admitted by a manifest that has ended.
    #[error("the manifest ended {ago} ago: who is in stays, nobody new is admitted")]
    Frozen {
        /// How long ago.
        ago: Millis,
    },
    /// There is no manifest yet.
    #[error("there is no manifest that says who is admitted")]
    NoManifest,
    /// A token that is bound to a key, shown without a proof that its bearer has that key.
    #[error("the token is bound to a key, and no proof of it came along")]
    ProofMissing,
    /// A token that anybody could show, where a proof is asked for.
    #[error("the token is bound to no key, and a proof is asked for here")]
    Unbound,
    /// A proof of something else.
    #[error("the proof does not hold: {0}")]
    Proof(&'static str),
    /// Shown before.
    #[error("it was shown before: a copy")]
    Replayed,
    /// Too many at once to remember, so none can be told from a copy.
    #[error("too many proofs at once: try again in {wait}")]
    Crowded {
        /// When there is room again.
        wait: Millis,
    },
    /// What is kept could not be read, or it could not be written down: so it was not acted on.
    #[error("what the gate keeps cannot be read or written, so nothing was done")]
    Store(#[source] StoreError),
}

impl Reject {
    /// One word for machines; they do not change.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Oversized { .. } => "oversized",
            Self::Malformed(_) => "malformed",
            Self::Duplicate(_) => "duplicate",
            Self::Algorithm(_) => "algorithm",
            Self::Type { .. } => "type",
            Self::UnknownKey(_) => "unknown-key",
            Self::Signature => "signature",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::FromFuture { .. } => "from-future",
            Self::LastsTooLong { .. } => "lasts-too-long",
            Self::Environment { .. } => "environment",
            Self::Issuer { .. } => "issuer",
            Self::Rollback { .. } => "rollback",
            Self::Equivocation(_) => "equivocation",
            Self::Fork(_) => "fork",
            Self::KeySetGap { .. } => "key-set-gap",
            Self::KeysEnded { .. } => "keys-ended",
            Self::Threshold { .. } => "threshold",
            Self::Revoked(_) => "revoked",
            Self::NotAdmitted { .. } => "not-admitted",
            Self::Frozen { .. } => "frozen",
            Self::NoManifest => "no-manifest",
            Self::ProofMissing => "proof-missing",
            Self::Unbound => "unbound",
            Self::Proof(_) => "proof",
            Self::Replayed => "replayed",
            Self::Crowded { .. } => "crowded",
            Self::Store(_) => "store",
        }
    }

    /// Whether the same thing, shown again later, may be taken.
    pub fn is_retryable(&self) -> bool {
        match self {
            // Clocks move, manifests come, disks get room.
            Self::NotYetValid { .. }
            | Self::FromFuture { .. }
            | Self::KeySetGap { .. }
            | Self::KeysEnded { .. }
            | Self::NotAdmitted { .. }
            | Self::Frozen { .. }
            | Self::NoManifest
            | Self::Crowded { .. }
            | Self::Store(_)
            | Self::UnknownKey(_)
            | Self::Threshold { .. } => true,
            Self::Oversized { .. }
            | Self::Malformed(_)
            | Self::Duplicate(_)
            | Self::Algorithm(_)
            | Self::Type { .. }
            | Self::Signature
            | Self::Expired { .. }
            | Self::LastsTooLong { .. }
            | Self::Environment { .. }
            | Self::Issuer { .. }
            | Self::Rollback { .. }
            | Self::Equivocation(_)
            | Self::Fork(_)
            | Self::Revoked(_)
            | Self::ProofMissing
            | Self::Unbound
            | Self::Proof(_)
            | Self::Replayed => false,
        }
    }

    /// Whether somebody may be lying, and a person should look: the rest is mostly mishap.
    pub fn is_alarm(&self) -> bool {
        matches!(
            self,
            Self::Equivocation(_) | Self::Fork(_) | Self::Rollback { .. } | Self::Replayed
        )
    }

    #[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
    pub(crate) fn malformed(why: impl ToString) -> Self {
        Self::Malformed(quoted(&why.to_string()))
    }

    pub(crate) fn unknown_key(kid: &KeyId) -> Self {
        Self::UnknownKey(quoted(kid.as_str()))
    }
}

/// A stranger's text, cut to what fits a line, and without what would end it.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut quoted: String = text.chars().take(QUOTED_CHARS_MAX).map(plain).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        quoted.push('…');
    }
    quoted
}
