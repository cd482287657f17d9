//! The manifest: which releases an environment admits.
//!
//! Each one has the number after the one before and names it by its digest. It ends soon, so that
//! nobody can hold a new one back for long without being noticed; whoever signs makes the same again
//! with a new number. Going back to an older release is a new manifest, never an old one.

use std::collections::BTreeSet;

use ring::digest::{SHA256, digest};
use segue_core::names::{AgentName, Environment, Label, ReleaseId, TokenId, WorkerId, hex};
use segue_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use crate::claims::{self, Seconds};
use crate::jws::{self, Kind};
use crate::key::{KeyId, SigningKey};
use crate::keyset::{KeySet, Role};
use crate::reject::Reject;

/// How a manifest is signed. A thousand releases take 200 KiB.
pub(crate) const KIND: Kind = Kind {
    typ: "membership-manifest+jwt",
    bytes_max: 512 * 1_024,
};

/// The longest that one lasts: without a new one in that time, somebody holds it back.
pub const LASTS_MAX: Millis = Millis::from_secs(7 * 86_400);

/// Releases in one manifest: some agents, with a few releases each.
pub const ADMITTED_MAX: usize = 1_024;

/// Revocations in one manifest. They can go when what they name has ended.
pub const REVOKED_MAX: usize = 4_096;

/// The highest version: larger numbers are not the same to every reader of JSON (RFC 8259, section 6).
/// One a second reaches it in 285 million years.
pub const VERSION_MAX: u64 = (1 << 53) - 1;

/// The whole weight, in basis points.
const WEIGHT_MAX: u16 = 10_000;

/// Which releases are admitted where, from when to when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Who says so.
    pub iss: String,
    /// Where it holds.
    pub env: Environment,
    /// Its number, one more than that of the one before.
    pub ver: u64,
    /// The [`fingerprint`] of the one before; the first one has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev: Option<String>,
    /// When it was made.
    pub iat: Seconds,
    /// When it ends.
    pub exp: Seconds,
    /// The releases.
    pub admit: Vec<Admitted>,
    /// What is taken back before it ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Revoked>,
}

/// A release that is admitted. Several of an agent are while one is brought in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// Whose.
    pub agent: AgentName,
    /// Its label.
    pub version: Label,
    /// Its identity.
    pub digest: ReleaseId,
    /// What it may do.
    pub state: ReleaseState,
    /// Its share of new calls in basis points, for whoever reads the manifest: calls are split by
    /// routing tables.
    #[serde(default)]
    pub weight: u16,
}

/// What a release may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseState {
    /// Take new calls.
    Active,
    /// Take a share of them, for now.
    Canary,
    /// End those that it has.
    Draining,
}

/// What is taken back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Revoked {
    /// A token, by its id.
    Jti(TokenId),
    /// A worker, by its name: every token of it.
    Worker(WorkerId),
}

impl Manifest {
    /// Refuses what no signer may say.
    pub(crate) fn check(&self) -> Result<(), Reject> {
        if self.admit.len() > ADMITTED_MAX || self.revoked.len() > REVOKED_MAX {
            return Err(Reject::malformed("it names too many"));
        }
        if !(1..=VERSION_MAX).contains(&self.ver) {
            return Err(Reject::malformed("versions are from 1 to 2^53 - 1"));
        }
        let mut seen = BTreeSet::new();
        for release in &self.admit {
            if release.weight > WEIGHT_MAX {
                return Err(Reject::malformed("a weight is above 10000"));
            }
            if !seen.insert((&release.agent, &release.version, release.digest)) {
                return Err(Reject::malformed("it admits a release twice"));
            }
        }
        Ok(())
    }

    /// What it says of a release.
    pub fn admits(
        &self,
        agent: &AgentName,
        version: &Label,
        digest: ReleaseId,
    ) -> Option<&Admitted> {
        let is =
            |of: &&Admitted| of.digest == digest && of.agent == *agent && of.version == *version;
        self.admit.iter().find(is)
    }

    /// Whether it takes that worker back, by its name.
    pub(crate) fn revokes_worker(&self, worker: &WorkerId) -> bool {
        let is = |of: &Revoked| matches!(of, Revoked::Worker(id) if id == worker);
        self.revoked.iter().any(is)
    }

    /// Whether it takes that token back.
    pub(crate) fn revokes(&self, token: &TokenId, worker: Option<&WorkerId>) -> Option<&Revoked> {
        let is = |of: &&Revoked| match of {
            Revoked::Jti(id) => id == token,
            Revoked::Worker(id) => Some(id) == worker,
        };
        self.revoked.iter().find(is)
    }
}

/// A manifest that is signed by whoever may, for here and for now; and the key that signed it. Whether
/// it is newer than others a gate knows.
///
/// # Errors
///
/// When it is not.
pub fn believed(set: &KeySet, signed: &str, now: Timestamp) -> Result<(Manifest, KeyId), Reject> {
    let read = jws::read(KIND, signed)?;
    let manifest: Manifest = read.claims(set.key(Role::Manifest, &read.kid)?)?;
    claims::ours((&manifest.iss, &manifest.env), (&set.iss, &set.env))?;
    claims::length(manifest.iat, manifest.exp, LASTS_MAX)?;
    claims::made(manifest.iat, now)?;
    claims::lasting(manifest.exp, now)?;
    manifest.check()?;
    Ok((manifest, read.kid))
}

/// A signed manifest, with one line and no end of line.
pub fn sign_manifest(manifest: &Manifest, key: &SigningKey) -> String {
    jws::sign(KIND, manifest, key)
}

/// What the next manifest calls a signed one: SHA-256 of it, in hexadecimal.
pub fn fingerprint(signed: &str) -> String {
    hex(digest(&SHA256, signed.as_bytes()).as_ref())
}
