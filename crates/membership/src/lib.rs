//! Who may take calls, by signature.
//!
//! A *manifest* says which releases an environment admits; a *worker token* says which release a
//! worker is of. Both are JWS in compact form with `EdDSA`, which any JWT library reads and writes.
//! A *key set* says who may sign them, and is replaced only by one that its own signers agree to.
//! The [`Gate`] holds the three together by the rules of TUF: what is older is refused, what it has
//! seen is on disk before it acts on it, and what it cannot freshly know leaves everybody who is in
//! where they are and lets nobody new in.
//!
//! A release that falls out takes no new call and keeps those that it has: nothing here ends a call.
//!
//! No clock, no randomness, no sockets: seeds, nonces and time are arguments. Files are in
//! [`mod@file`] alone. Time is measured in whole seconds where it is signed, as JWT has it.

pub mod key;
pub mod reject;

mod json;
mod jws;

pub mod claims;
pub mod keyset;
pub mod manifest;
pub mod proof;
pub mod token;

pub mod look;

pub mod store;

pub mod file;

pub mod member;

pub mod gate;

pub mod hmac;

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;

pub use self::gate::{Gate, Settings};
pub use self::hmac::{MembershipError, MembershipVerifier, sign_membership};
pub use self::key::{KeyId, PublicKey, SigningKey};
pub use self::keyset::{KeySet, Role};
pub use self::manifest::{Admitted, Manifest, ReleaseState, Revoked, sign_manifest};
pub use self::member::{Accepted, Change, Freshness, Member, Standing, Why};
pub use self::proof::sign_proof;
pub use self::reject::Reject;
pub use self::token::{WorkerClaims, sign_worker};
