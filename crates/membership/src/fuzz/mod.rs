//! Fuzz targets: one for each parser of bytes that others wrote.
//!
//! Only in tests and behind the feature `fuzz`. `make test` gives each target its corpus and a
//! bounded number of changes of it; `make fuzz` runs them under libFuzzer, which looks for new ways
//! through the code (see `crates/membership/fuzz`).
//!
//! The keys are known here, so that what is behind the signature is reached too. Each target says
//! what must hold of whatever is let in, by a reader of JSON that is not the strict one.

use std::cell::RefCell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use segue_core::names::ReleaseId;
use segue_core::time::{Millis, Timestamp};
use serde_json::Value;

use crate::keyset::KeySet;
use crate::manifest::{Admitted, Manifest, ReleaseState, sign_manifest};
use crate::store::Memory;
use crate::token::{WorkerClaims, sign_worker};
use crate::{Gate, Reject, Settings, SigningKey, jws, look};

#[cfg(test)]
mod tests;

/// A parser and its oracle: panics at an input that shows a fault.
pub type Target = fn(&[u8]);

/// All of them, by the name of their folder in `crates/membership/fuzz/corpus`.
pub const TARGETS: [(&str, Target); 5] = [
    ("token", token),
    ("header", header),
    ("claims", claims),
    ("manifest", manifest),
    ("keys", keys),
];

const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn good_set() -> KeySet {
    let [root, manifest, worker] = [1, 2, 3].map(|seed| key(seed).public());
    KeySet {
        iss: "segue".to_owned(),
        env: "production".parse().expect("it is a name"),
        set: 1,
        iat: NOW.into(),
        exp: None,
        keys: vec![root, manifest, worker],
        root: vec![root.kid()],
        threshold: 1,
        manifest: vec![manifest.kid()],
        worker: vec![worker.kid()],
        floor: None,
    }
}

fn good_chain() -> String {
    good_set().sign(&[&key(1)])
}

fn good_claims() -> WorkerClaims {
    WorkerClaims {
        iss: "segue".to_owned(),
        aud: "production".parse().expect("it is a name"),
        sub: Some("desk-1".parse().expect("it is a name")),
        agent: "desk".parse().expect("it is a name"),
        version: "v1".parse().expect("it is a name"),
        digest: ReleaseId::of(b"v1"),
        cnf: None,
        iat: NOW.into(),
        nbf: Some(NOW.into()),
        exp: (NOW + Millis::from_secs(3_600)).into(),
        jti: "t-1".parse().expect("it is a name"),
    }
}

fn good_manifest() -> Manifest {
    let claims = good_claims();
    Manifest {
        iss: "segue".to_owned(),
        env: "production".parse().expect("it is a name"),
        ver: 1,
        prev: None,
        iat: NOW.into(),
        exp: (NOW + Millis::from_secs(900)).into(),
        admit: vec![Admitted {
            agent: claims.agent,
            version: claims.version,
            digest: claims.digest,
            state: ReleaseState::Active,
            weight: 10_000,
        }],
        revoked: Vec::new(),
    }
}

fn gate() -> Gate {
    let settings = Settings::new("production".parse().expect("it is a name"), [7; 32]);
    let gate = Gate::open(settings, &good_chain(), Box::new(Memory::default()), NOW);
    let mut gate = gate.expect("the chain is good");
    let signed = sign_manifest(&good_manifest(), &key(2));
    gate.offer_manifest(&signed, NOW)
        .expect("the manifest is good");
    gate
}

thread_local! {
    /// One for many inputs: those that are refused change nothing.
    static GATE: RefCell<Option<Gate>> = const { RefCell::new(None) };
}

/// Gives something to a gate. After what it takes, the next input gets another one.
fn offered<T>(offer: impl FnOnce(&mut Gate) -> Result<T, Reject>) -> Result<T, Reject> {
    let mut gate = GATE.take().unwrap_or_else(gate);
    let answer = offer(&mut gate);
    if answer.is_err() {
        GATE.set(Some(gate));
    }
    answer
}

/// Two parts of any bytes, signed by the right key.
fn signed(header: &[u8], payload: &[u8], seed: u8) -> String {
    let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part));
    let seal = jws::signature(&header, &payload, &key(seed));
    format!("{header}.{payload}.{seal}")
}

/// The whole text of a token: no other text than the good one is let in.
fn token(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let good = sign_worker(&good_claims(), &key(3));
    let answer = offered(|gate| gate.admit(text, NOW));
    assert_eq!(answer.is_ok(), text == good);
    let _ = look::look(text);
}

/// A header: whatever it says, only ours is let in.
fn header(bytes: &[u8]) {
    let payload = serde_json::to_vec(&good_claims()).expect("claims always serialise");
    let text = signed(bytes, &payload, 3);
    if offered(|gate| gate.admit(&text, NOW)).is_ok() {
        let read: Value = serde_json::from_slice(bytes).expect("what is let in is JSON");
        assert_eq!(read["alg"], "EdDSA");
        assert_eq!(read["typ"], token_typ());
        assert_eq!(read["kid"], key(3).kid().as_str());
        assert_eq!(read.as_object().map(serde_json::Map::len), Some(3));
    }
}

fn token_typ() -> &'static str {
    crate::token::KIND.typ
}

/// Claims of a token by whoever may sign: another reader of them sees what the gate saw.
fn claims(bytes: &[u8]) {
    let header = format!(
        r#"{{"alg":"EdDSA","typ":"{}","kid":"{}"}}"#,
        token_typ(),
        key(3).kid()
    );
    let text = signed(header.as_bytes(), bytes, 3);
    if let Ok(member) = offered(|gate| gate.admit(&text, NOW)) {
        let read: Value = serde_json::from_slice(bytes).expect("what is let in is JSON");
        assert_eq!(read["aud"], "production");
        assert_eq!(read["agent"], member.agent.as_str());
        assert_eq!(read["version"], member.version.as_str());
        assert_eq!(read["jti"], member.token.as_str());
        assert!(read["iat"].as_u64() <= Some(NOW.0 / 1_000 + 60));
        assert!(read["exp"].as_u64() > Some(NOW.0 / 1_000 - 60));
        assert!(member.state.takes_calls());
    }
}

/// A manifest by whoever may sign: what is taken is newer, and follows.
fn manifest(bytes: &[u8]) {
    let header = format!(
        r#"{{"alg":"EdDSA","typ":"{}","kid":"{}"}}"#,
        crate::manifest::KIND.typ,
        key(2).kid()
    );
    let text = signed(header.as_bytes(), bytes, 2);
    let taken = offered(|gate| {
        let accepted = gate.offer_manifest(&text, NOW)?;
        let held = gate.manifest().map(|held| (held.ver, held.admit.len()));
        Ok((accepted.ver, held))
    });
    if let Ok((ver, held)) = taken {
        let read: Value = serde_json::from_slice(bytes).expect("what is taken is JSON");
        assert_eq!(read["ver"], ver);
        assert_eq!(read["env"], "production");
        let admit = read["admit"].as_array().map_or(0, Vec::len);
        assert_eq!(held, Some((ver, admit)));
    }
}

/// A chain of key sets by somebody without a root key: nothing changes.
fn keys(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let set = offered(|gate| {
        let answer = gate.offer_keys(text, NOW);
        assert!(answer.is_err() || answer == Ok(1));
        assert_eq!(gate.keys().set, 1);
        // As if it was refused: it is the same gate.
        answer.and(Err::<(), _>(Reject::NoManifest))
    });
    assert!(set.is_err());
    let _ = crate::keyset::look(text);
}
