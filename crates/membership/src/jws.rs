//! JWS in compact form (RFC 7515), in the one shape that is taken here: `EdDSA`, a `typ`, a `kid`,
//! and nothing else in the header.
//!
//! The algorithm is ours and never the token's (RFC 8725): there is no code for another one. A header
//! that brings a key, a link to one, or anything that must be understood, is refused unread.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json;
use crate::key::{KeyId, PublicKey, SIGNATURE_BYTES, SigningKey};
use crate::reject::{Reject, quoted};

/// The only algorithm.
const ALG: &str = "EdDSA";

/// Longest header in bytes, encoded: ours take 120.
const HEADER_BYTES_MAX: usize = 512;

/// What is signed, by kind: a token is never taken for a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Its `typ`.
    pub(crate) typ: &'static str,
    /// The longest that is read, in bytes.
    pub(crate) bytes_max: usize,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: KeyId,
}

/// A header of somebody else's. The algorithm is looked at before anything else.
#[derive(Deserialize)]
struct Found {
    alg: String,
    typ: Option<String>,
    kid: Option<KeyId>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// One that was read and is not believed yet.
pub(crate) struct Unverified {
    /// Whose signature it says to be.
    pub(crate) kid: KeyId,
    signed: String,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Signs. The header is ours, the claims are in the order of their fields.
pub(crate) fn sign(kind: Kind, claims: &impl Serialize, key: &SigningKey) -> String {
    let (header, payload) = (header(kind, key), encoded(claims));
    let signature = signature(&header, &payload, key);
    format!("{header}.{payload}.{signature}")
}

/// The third part, of the other two.
pub(crate) fn signature(header: &str, payload: &str, key: &SigningKey) -> String {
    URL_SAFE_NO_PAD.encode(key.sign(format!("{header}.{payload}").as_bytes()))
}

pub(crate) fn header(kind: Kind, key: &SigningKey) -> String {
    encoded(&Header {
        alg: ALG,
        typ: kind.typ,
        kid: key.kid(),
    })
}

pub(crate) fn encoded(value: &impl Serialize) -> String {
    let json = serde_json::to_vec(value).expect("claims always serialise");
    URL_SAFE_NO_PAD.encode(json)
}

/// Takes one apart.
pub(crate) fn read(kind: Kind, text: &str) -> Result<Unverified, Reject> {
    let (bytes, bytes_max) = (text.len(), kind.bytes_max);
    if bytes > bytes_max {
        return Err(Reject::Oversized { bytes, bytes_max });
    }
    let mut parts = text.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Reject::malformed("it is not three parts between dots"));
    };
    Unverified::new(kind, header, payload, signature)
}

impl Unverified {
    /// Of its three parts, each encoded.
    pub(crate) fn new(
        kind: Kind,
        header: &str,
        payload: &str,
        signature: &str,
    ) -> Result<Self, Reject> {
        if header.len() > HEADER_BYTES_MAX {
            return Err(Reject::malformed("its header is too long"));
        }
        let found: Found = json::read(&decoded(header)?)?;
        if found.alg != ALG {
            return Err(Reject::Algorithm(quoted(&found.alg)));
        }
        if found.typ.as_deref() != Some(kind.typ) {
            return Err(Reject::Type {
                found: quoted(found.typ.as_deref().unwrap_or("thing without a typ")),
                expected: kind.typ,
            });
        }
        if let Some(name) = found.rest.keys().next() {
            let why = format!("its header has {:?}, which is not taken", quoted(name));
            return Err(Reject::malformed(why));
        }
        let kid = found
            .kid
            .ok_or_else(|| Reject::malformed("its header names no key (kid)"))?;
        let signature = decoded(signature)?;
        if signature.len() != SIGNATURE_BYTES {
            return Err(Reject::Signature);
        }
        Ok(Self {
            kid,
            signed: format!("{header}.{payload}"),
            payload: decoded(payload)?,
            signature,
        })
    }

    /// Its claims, if that key signed it.
    pub(crate) fn claims<T: DeserializeOwned>(&self, key: &PublicKey) -> Result<T, Reject> {
        self.verify(key)?;
        json::read(&self.payload)
    }

    pub(crate) fn verify(&self, key: &PublicKey) -> Result<(), Reject> {
        if key.verifies(self.signed.as_bytes(), &self.signature) {
            return Ok(());
        }
        Err(Reject::Signature)
    }

    /// What it says, for looking at it; nothing may act on it.
    pub(crate) fn unverified<T: DeserializeOwned>(&self) -> Result<T, Reject> {
        json::read(&self.payload)
    }
}

/// What a second part says.
pub(crate) fn payload<T: DeserializeOwned>(part: &str) -> Result<T, Reject> {
    json::read(&decoded(part)?)
}

/// Strict: no padding, no line breaks, and no bits that mean nothing, so that one thing has one text.
fn decoded(part: &str) -> Result<Vec<u8>, Reject> {
    URL_SAFE_NO_PAD.decode(part).map_err(Reject::malformed)
}
