//! Proof of a key: a worker signs what a gate just asked, together with the token that it shows.
//!
//! A copy of the token alone opens nothing, and a copy of both opens nothing twice. What a gate asks
//! (its nonce) carries its own time and seal, so that strangers who only ask cost it no memory; what
//! it must remember are the nonces of good proofs, each for a minute.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::hmac;
use segue_core::names::Environment;
use segue_core::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use crate::claims::{self, Seconds};
use crate::jws::{self, Kind};
use crate::key::{PublicKey, SigningKey};
use crate::reject::Reject;

pub(crate) const KIND: Kind = Kind {
    typ: "membership-proof+jwt",
    bytes_max: 2_048,
};

/// How long a nonce is good: a worker answers it in its next breath.
pub const NONCE_LASTS: Millis = Millis::from_secs(60);

/// Nonces that are remembered at once: a thousand workers a second, for as long as one is good.
const USED_MAX: usize = 60_000;

/// Bytes of a nonce: when it was made, chance, and the seal over both.
const TIME_BYTES: usize = 8;
const CHANCE_BYTES: usize = 16;
const SEAL_BYTES: usize = 16;

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: Environment,
    nonce: String,
    /// Of the token that it goes with, as in RFC 9449.
    ath: String,
    iat: Seconds,
}

/// What a worker answers to a nonce.
pub fn sign_proof(
    env: &Environment,
    token: &str,
    nonce: &str,
    now: Timestamp,
    key: &SigningKey,
) -> String {
    let claims = Claims {
        aud: env.clone(),
        nonce: nonce.to_owned(),
        ath: ath(token),
        iat: now.into(),
    };
    jws::sign(KIND, &claims, key)
}

fn ath(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes()))
}

/// Asks, and knows what it has been answered.
pub(crate) struct Nonces {
    seal: hmac::Key,
    /// Those that have been answered, until they end.
    used: BTreeSet<(Timestamp, String)>,
}

impl Nonces {
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        Self {
            seal: hmac::Key::new(hmac::HMAC_SHA256, secret),
            used: BTreeSet::new(),
        }
    }

    pub(crate) fn ask(&self, chance: [u8; CHANCE_BYTES], now: Timestamp) -> String {
        let open = [&now.0.to_be_bytes()[..], &chance].concat();
        let seal = hmac::sign(&self.seal, &open);
        URL_SAFE_NO_PAD.encode([&open[..], &seal.as_ref()[..SEAL_BYTES]].concat())
    }

    /// Takes a proof once. It is of `token` and by `key`, in answer to one of our nonces.
    pub(crate) fn take(
        &mut self,
        env: &Environment,
        token: &str,
        proof: &str,
        key: &PublicKey,
        now: Timestamp,
    ) -> Result<(), Reject> {
        let read = jws::read(KIND, proof)?;
        if read.kid != key.kid() {
            return Err(Reject::Proof("it is by another key than the token's"));
        }
        let claims: Claims = read.claims(key)?;
        if claims.aud != *env {
            return Err(Reject::Environment {
                found: claims.aud.to_string(),
                expected: env.to_string(),
            });
        }
        if claims.ath != ath(token) {
            return Err(Reject::Proof("it goes with another token"));
        }
        claims::made(claims.iat, now)?;
        let ends = self.made(&claims.nonce)? + NONCE_LASTS;
        if now >= ends {
            let ago = now.since(ends);
            return Err(Reject::Expired { ago });
        }
        while self.used.first().is_some_and(|(ends, _)| *ends <= now) {
            self.used.pop_first();
        }
        // A nonce says itself when it ends, so it is found again under the same time.
        let used = (ends, claims.nonce);
        if self.used.contains(&used) {
            return Err(Reject::Replayed);
        }
        if let Some((first, _)) = self.used.first().filter(|_| self.used.len() >= USED_MAX) {
            let wait = first.since(now);
            return Err(Reject::Crowded { wait });
        }
        self.used.insert(used);
        Ok(())
    }

    /// When we made that nonce.
    fn made(&self, nonce: &str) -> Result<Timestamp, Reject> {
        const NOT_OURS: Reject = Reject::Proof("its nonce is not one of this gate");
        let bytes = URL_SAFE_NO_PAD.decode(nonce).map_err(|_| NOT_OURS)?;
        if bytes.len() != TIME_BYTES + CHANCE_BYTES + SEAL_BYTES {
            return Err(NOT_OURS);
        }
        let (open, seal) = bytes.split_at(TIME_BYTES + CHANCE_BYTES);
        let expected = hmac::sign(&self.seal, open);
        // In a time that does not tell where they differ.
        let differs = (expected.as_ref().iter().zip(seal)).fold(0, |bits, (a, b)| bits | (a ^ b));
        if differs != 0 {
            return Err(NOT_OURS);
        }
        let time = open[..TIME_BYTES]
            .try_into()
            .expect("eight bytes were taken");
        Ok(Timestamp(u64::from_be_bytes(time)))
    }
}
