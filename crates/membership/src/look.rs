//! What is signed, for people who look at it. Nothing may act on what is read here.

use serde_json::Value;

use crate::jws;
use crate::key::KeyId;
use crate::reject::Reject;
use crate::{manifest, proof, token};

/// Something signed, that nobody has verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Looked {
    /// Its `typ`.
    pub typ: &'static str,
    /// Whose signature it says to be.
    pub kid: KeyId,
    /// What it says.
    pub claims: Value,
}

/// Opens a manifest, a worker token or a proof.
///
/// # Errors
///
/// When it is none of them.
pub fn look(text: &str) -> Result<Looked, Reject> {
    let mut answer = Err(Reject::malformed("it is nothing that is signed here"));
    for kind in [manifest::KIND, token::KIND, proof::KIND] {
        answer = jws::read(kind, text).and_then(|read| {
            Ok(Looked {
                typ: kind.typ,
                claims: read.unverified()?,
                kid: read.kid,
            })
        });
        if !matches!(answer, Err(Reject::Type { .. } | Reject::Oversized { .. })) {
            break;
        }
    }
    answer
}
