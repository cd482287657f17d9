//! One environment: its keys, its gate, and whatever anybody may sign.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::Ed25519KeyPair;
use segue_core::names::ReleaseId;
use segue_core::time::{Millis, Timestamp};
use segue_membership::keyset::KeySet;
use segue_membership::manifest::fingerprint;
use segue_membership::store::{Memory, Store};
use segue_membership::token::Confirmation;
use segue_membership::{
    Admitted, Gate, Manifest, PublicKey, Reject, ReleaseState, Settings, SigningKey, WorkerClaims,
    sign_manifest, sign_worker,
};
use serde_json::Value;

/// When all of this happens, unless a test says otherwise.
pub(crate) const NOW: Timestamp = Timestamp(1_790_000_000_000);

pub(crate) const SECOND: Millis = Millis::from_secs(1);
pub(crate) const MINUTE: Millis = Millis::from_secs(60);
pub(crate) const DAY: Millis = Millis::from_secs(86_400);

/// Seeds of keys.
pub(crate) const ROOT: u8 = 1;
pub(crate) const MANIFEST: u8 = 2;
pub(crate) const WORKER: u8 = 3;
pub(crate) const STRANGER: u8 = 9;

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

/// `header.payload.signature` of any two texts, by any key.
pub(crate) fn forged(header: &str, payload: &str, seed: u8) -> String {
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// The header and the claims of a token, as text.
pub(crate) fn opened(token: &str) -> (String, String) {
    let part = |n: usize| {
        let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(n).unwrap());
        String::from_utf8(bytes.unwrap()).unwrap()
    };
    (part(0), part(1))
}

/// A token with a claim changed, signed anew by the right key.
pub(crate) fn with(token: &str, name: &str, value: impl Into<Value>, seed: u8) -> String {
    let (header, payload) = opened(token);
    let mut claims: Value = serde_json::from_str(&payload).unwrap();
    claims[name] = value.into();
    forged(&header, &claims.to_string(), seed)
}

pub(crate) fn release(label: &str, state: ReleaseState) -> Admitted {
    Admitted {
        agent: "desk".parse().unwrap(),
        version: label.parse().unwrap(),
        digest: ReleaseId::of(label.as_bytes()),
        state,
        weight: 0,
    }
}

pub(crate) struct World {
    pub(crate) gate: Gate,
    pub(crate) store: Memory,
    pub(crate) chain: String,
    /// The manifest that was signed last.
    pub(crate) last: Option<String>,
    pub(crate) ver: u64,
}

pub(crate) fn first_set() -> KeySet {
    let [root, manifest, worker] = [ROOT, MANIFEST, WORKER].map(|seed| key(seed).public());
    KeySet {
        iss: "segue".to_owned(),
        env: "production".parse().unwrap(),
        set: 1,
        iat: (NOW - DAY).into(),
        exp: None,
        keys: vec![root, manifest, worker],
        root: vec![root.kid()],
        threshold: 1,
        manifest: vec![manifest.kid()],
        worker: vec![worker.kid()],
        floor: None,
    }
}

pub(crate) fn settings() -> Settings {
    Settings::new("production".parse().unwrap(), [42; 32])
}

impl World {
    /// With a gate that admits `v1`.
    pub(crate) fn new() -> Self {
        let mut world = Self::without_manifest(settings());
        world.admit(&[("v1", ReleaseState::Active)], NOW).unwrap();
        world
    }

    pub(crate) fn without_manifest(settings: Settings) -> Self {
        let chain = first_set().sign(&[&key(ROOT)]);
        let store = Memory::default();
        let gate = Gate::open(settings, &chain, Box::new(store.clone()), NOW).unwrap();
        Self {
            gate,
            store,
            chain,
            last: None,
            ver: 0,
        }
    }

    /// The gate after it was killed.
    pub(crate) fn killed(&mut self, now: Timestamp) {
        let store: Box<dyn Store> = Box::new(self.store.clone());
        self.gate = Gate::open(settings(), &self.chain, store, now).unwrap();
    }

    /// The manifest that comes next.
    pub(crate) fn next(&self, releases: &[(&str, ReleaseState)], now: Timestamp) -> Manifest {
        Manifest {
            iss: "segue".to_owned(),
            env: "production".parse().unwrap(),
            ver: self.ver + 1,
            prev: self.last.as_deref().map(fingerprint),
            iat: now.into(),
            exp: (now + Millis(15 * MINUTE.0)).into(),
            admit: releases
                .iter()
                .map(|(label, state)| release(label, *state))
                .collect(),
            revoked: Vec::new(),
        }
    }

    /// Signs it and offers it.
    pub(crate) fn offer(
        &mut self,
        manifest: &Manifest,
        now: Timestamp,
    ) -> Result<segue_membership::Accepted, Reject> {
        let signed = sign_manifest(manifest, &key(MANIFEST));
        let accepted = self.gate.offer_manifest(&signed, now)?;
        self.ver = manifest.ver;
        self.last = Some(signed);
        Ok(accepted)
    }

    pub(crate) fn admit(
        &mut self,
        releases: &[(&str, ReleaseState)],
        now: Timestamp,
    ) -> Result<segue_membership::Accepted, Reject> {
        let manifest = self.next(releases, now);
        self.offer(&manifest, now)
    }
}

pub(crate) fn claims(label: &str, id: &str, now: Timestamp) -> WorkerClaims {
    WorkerClaims {
        iss: "segue".to_owned(),
        aud: "production".parse().unwrap(),
        sub: None,
        agent: "desk".parse().unwrap(),
        version: label.parse().unwrap(),
        digest: ReleaseId::of(label.as_bytes()),
        cnf: None,
        iat: now.into(),
        nbf: None,
        exp: (now + Millis(30 * DAY.0)).into(),
        jti: id.parse().unwrap(),
    }
}

/// A bearer of that release.
pub(crate) fn token(label: &str, id: &str, now: Timestamp) -> String {
    sign_worker(&claims(label, id, now), &key(WORKER))
}

/// One that is bound to a key.
pub(crate) fn bound(label: &str, id: &str, now: Timestamp, to: PublicKey) -> String {
    let mut claims = claims(label, id, now);
    claims.cnf = Some(Confirmation { jwk: to });
    claims.exp = (now + Millis(5 * MINUTE.0)).into();
    sign_worker(&claims, &key(WORKER))
}
