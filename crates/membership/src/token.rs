//! The worker token: which release a worker is of.
//!
//! One without a key is a bearer: whoever has it is the worker. It goes into an address that a worker
//! keeps for as long as it runs, so it may last long; it ends with its release. One with a key
//! (`cnf`, RFC 7800) is nothing without a proof of that key, and lasts minutes.

use segue_core::names::{AgentName, Environment, Label, ReleaseId, TokenId, WorkerId};
use segue_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use crate::claims::{self, Seconds};
use crate::jws::{self, Kind};
use crate::key::{KeyId, PublicKey, SigningKey};
use crate::keyset::{KeySet, Role};
use crate::reject::Reject;

/// How a token is signed. It is part of an address, and addresses of 4 KiB pass every proxy.
pub(crate) const KIND: Kind = Kind {
    typ: "membership+jwt",
    bytes_max: 4_096,
};

/// The longest that a bearer lasts.
pub const BEARER_LASTS_MAX: Millis = Millis::from_secs(366 * 86_400);

/// The longest that a token with a key lasts: it is made anew as easily as it is shown.
pub const BOUND_LASTS_MAX: Millis = Millis::from_secs(600);

/// What a worker token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerClaims {
    /// Who says so.
    pub iss: String,
    /// Where it holds.
    pub aud: Environment,
    /// Which worker; none for any of its release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<WorkerId>,
    /// Whose.
    pub agent: AgentName,
    /// Label of its release.
    pub version: Label,
    /// Identity of its release.
    pub digest: ReleaseId,
    /// The key of which a proof must come along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cnf: Option<Confirmation>,
    /// When it was made.
    pub iat: Seconds,
    /// When it begins, if that is later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<Seconds>,
    /// When it ends.
    pub exp: Seconds,
    /// Its own name: it is revoked and remembered by it.
    pub jti: TokenId,
}

/// How a bearer proves that the token is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// By this key.
    pub jwk: PublicKey,
}

impl WorkerClaims {
    /// The longest that it may last.
    pub(crate) fn lasts_max(&self) -> Millis {
        match self.cnf {
            None => BEARER_LASTS_MAX,
            Some(_) => BOUND_LASTS_MAX,
        }
    }
}

/// A signed worker token.
pub fn sign_worker(claims: &WorkerClaims, key: &SigningKey) -> String {
    jws::sign(KIND, claims, key)
}

/// A token that is signed by whoever may, for here, and has begun; and the key that signed it. Whether
/// it has ended is for a gate to judge: it lets in whom it knows.
///
/// # Errors
///
/// When it is not.
pub fn believed(
    set: &KeySet,
    token: &str,
    now: Timestamp,
) -> Result<(WorkerClaims, KeyId), Reject> {
    let read = jws::read(KIND, token)?;
    let claims: WorkerClaims = read.claims(set.key(Role::Worker, &read.kid)?)?;
    claims::ours((&claims.iss, &claims.aud), (&set.iss, &set.env))?;
    claims::length(claims.iat, claims.exp, claims.lasts_max())?;
    claims::made(claims.iat, now)?;
    claims::begun(claims.nbf, now)?;
    Ok((claims, read.kid))
}

/// What a token says that was believed once, when this very text was shown; and the key that signed it.
///
/// # Errors
///
/// When it is no token.
pub(crate) fn believed_before(token: &str) -> Result<(WorkerClaims, KeyId), Reject> {
    let read = jws::read(KIND, token)?;
    Ok((read.unverified()?, read.kid))
}

/// Whether it has not ended.
///
/// # Errors
///
/// When it has.
pub fn lasting(claims: &WorkerClaims, now: Timestamp) -> Result<(), Reject> {
    claims::lasting(claims.exp, now)
}
