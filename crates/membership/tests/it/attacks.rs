//! Every way to be let in that is none: each is refused, and with its own reason.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use ring::hmac;
use segue_core::time::Millis;
use segue_membership::{ReleaseState, sign_manifest, sign_worker};
use serde_json::{Value, json};

use crate::world::{
    DAY, MANIFEST, MINUTE, NOW, ROOT, SECOND, STRANGER, WORKER, World, claims, forged, key, opened,
    token, with,
};

/// Every forged token, and the word that it is refused with.
#[expect(clippy::too_many_lines, reason = "a table")]
fn forgeries() -> Vec<(&'static str, String, &'static str)> {
    let good = token("v1", "t", NOW);
    let (header, payload) = opened(&good);
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, seal) = (parts[0], parts[1], parts[2]);
    let named = |name: &str, value: Value| {
        let mut header: Value = serde_json::from_str(&header).unwrap();
        header[name] = value;
        forged(&header.to_string(), &payload, WORKER)
    };
    let headed = |text: &str| forged(text, &payload, WORKER);
    let kid = key(WORKER).kid();
    let public = serde_json::to_value(key(WORKER).public()).unwrap();
    let mac = {
        // The public key is no secret: a MAC with it is what anybody can make.
        let header = header.replace("EdDSA", "HS256");
        let signed = format!("{}.{body}", URL_SAFE_NO_PAD.encode(header));
        let public = URL_SAFE_NO_PAD
            .decode(public["x"].as_str().unwrap())
            .unwrap();
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &public);
        let tag = hmac::sign(&secret, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    let none = format!("{}.{body}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
    let seconds = |at: segue_core::time::Timestamp| at.0 / 1_000;
    let now = seconds(NOW);
    let changed = |name: &str, value: Value| with(&good, name, value, WORKER);
    let mut other_seal = URL_SAFE_NO_PAD.decode(seal).unwrap();
    other_seal[5] ^= 1;
    let twice = |text: &str| {
        let payload = payload.replacen('{', &format!("{{{text},"), 1);
        forged(&header, &payload, WORKER)
    };
    // The group order, added to S, makes another signature of the same message that lax verifiers
    // take: one token would have two texts.
    let malleable = {
        let mut bytes = URL_SAFE_NO_PAD.decode(seal).unwrap();
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9,
            0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut carry = 0;
        for (byte, add) in bytes[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            [*byte, _] = sum.to_le_bytes();
            carry = sum >> 8;
        }
        format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(bytes))
    };
    vec![
        ("no algorithm", none, "algorithm"),
        (
            "no algorithm, a seal",
            headed(r#"{"alg":"none","typ":"membership+jwt"}"#),
            "algorithm",
        ),
        ("a MAC with the public key", mac, "algorithm"),
        ("lower case", named("alg", "eddsa".into()), "algorithm"),
        ("upper case", named("alg", "EDDSA".into()), "algorithm"),
        ("mixed case none", named("alg", "nOnE".into()), "algorithm"),
        (
            "its newer name",
            named("alg", "Ed25519".into()),
            "algorithm",
        ),
        (
            "a space behind it",
            named("alg", "EdDSA ".into()),
            "algorithm",
        ),
        ("RSA", named("alg", "RS256".into()), "algorithm"),
        (
            "an algorithm that is a list",
            named("alg", json!(["EdDSA"])),
            "malformed",
        ),
        (
            "two algorithms",
            headed(&header.replacen('{', r#"{"alg":"none","#, 1)),
            "duplicate",
        ),
        (
            "typ of a manifest",
            named("typ", "membership-manifest+jwt".into()),
            "type",
        ),
        ("typ JWT", named("typ", "JWT".into()), "type"),
        (
            "typ in capitals",
            named("typ", "MEMBERSHIP+JWT".into()),
            "type",
        ),
        (
            "no typ",
            headed(&format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#)),
            "type",
        ),
        (
            "no key",
            headed(r#"{"alg":"EdDSA","typ":"membership+jwt"}"#),
            "malformed",
        ),
        ("a key of its own", named("jwk", public), "malformed"),
        (
            "a link to a key",
            named("jku", "https://evil.example/keys".into()),
            "malformed",
        ),
        ("a certificate", named("x5c", json!(["MIIB"])), "malformed"),
        (
            "something critical",
            named("crit", json!(["b64"])),
            "malformed",
        ),
        (
            "an unencoded payload",
            named("b64", false.into()),
            "malformed",
        ),
        (
            "a stranger's key",
            sign_worker(&claims("v1", "t", NOW), &key(STRANGER)),
            "unknown-key",
        ),
        (
            "a stranger under our name",
            forged(&header, &payload, STRANGER),
            "signature",
        ),
        (
            "the key of manifests",
            sign_worker(&claims("v1", "t", NOW), &key(MANIFEST)),
            "unknown-key",
        ),
        (
            "the key of key sets",
            sign_worker(&claims("v1", "t", NOW), &key(ROOT)),
            "unknown-key",
        ),
        (
            "a path as a key",
            named("kid", "../../etc/passwd".into()),
            "unknown-key",
        ),
        (
            "a changed seal",
            format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(other_seal)),
            "signature",
        ),
        ("another signature of the same", malleable, "signature"),
        ("no seal", format!("{head}.{body}."), "signature"),
        (
            "half a seal",
            format!("{head}.{body}.{}", &seal[..43]),
            "malformed",
        ),
        ("two parts", format!("{head}.{body}"), "malformed"),
        ("four parts", format!("{good}.x"), "malformed"),
        (
            "five parts, encrypted",
            format!("{head}.{body}.{seal}.x.x"),
            "malformed",
        ),
        ("nothing", String::new(), "malformed"),
        (
            "padding",
            format!(
                "{head}.{body}.{}",
                URL_SAFE.encode(URL_SAFE_NO_PAD.decode(seal).unwrap())
            ),
            "malformed",
        ),
        (
            "the other alphabet",
            format!("{head}.{body}.{}", STANDARD.encode([0xff; 64])),
            "malformed",
        ),
        (
            "bits that mean nothing",
            format!("{head}.{body}.{}", meaningless(seal)),
            "malformed",
        ),
        ("a line end", format!("{good}\n"), "malformed"),
        (
            "changed claims",
            format!(
                "{head}.{}.{seal}",
                URL_SAFE_NO_PAD.encode(payload.replace("v1", "v2"))
            ),
            "signature",
        ),
        (
            "a list of claims",
            forged(&header, "[1]", WORKER),
            "malformed",
        ),
        ("no JSON", forged(&header, "{", WORKER), "malformed"),
        (
            "something behind the claims",
            forged(&header, &format!("{payload} {{}}"), WORKER),
            "malformed",
        ),
        ("an end twice", twice(r#""exp":99999999999"#), "duplicate"),
        (
            "a name twice, spelled apart",
            twice(r#""\u0061ud":"production""#),
            "duplicate",
        ),
        (
            "another name twice",
            twice(r#""x":{"y":1,"y":2}"#),
            "duplicate",
        ),
        (
            "another environment",
            changed("aud", "staging".into()),
            "environment",
        ),
        (
            "both environments",
            changed("aud", json!(["production", "staging"])),
            "malformed",
        ),
        ("no environment", changed("aud", Value::Null), "malformed"),
        (
            "the environment in capitals",
            changed("aud", "Production".into()),
            "environment",
        ),
        (
            "another issuer",
            changed("iss", "somebody".into()),
            "issuer",
        ),
        (
            "over before it was made",
            changed("exp", (now - 60).into()),
            "malformed",
        ),
        (
            "over",
            sign_worker(&claims("v1", "t", NOW - Millis(40 * DAY.0)), &key(WORKER)),
            "expired",
        ),
        (
            "from tomorrow",
            changed("iat", (now + 86_400).into()),
            "from-future",
        ),
        (
            "a clock that is 61 s ahead",
            changed("iat", (now + 61).into()),
            "from-future",
        ),
        (
            "not begun",
            changed("nbf", (now + 61).into()),
            "not-yet-valid",
        ),
        (
            "for two years",
            changed("exp", (now + 2 * 31_622_400).into()),
            "lasts-too-long",
        ),
        ("for ever", changed("exp", u64::MAX.into()), "malformed"),
        (
            "before time began",
            changed("iat", (-1).into()),
            "malformed",
        ),
        (
            "half a second",
            changed("exp", (1.5e9 + 0.5).into()),
            "malformed",
        ),
        (
            "a time in words",
            changed("exp", "tomorrow".into()),
            "malformed",
        ),
        ("no end", changed("exp", Value::Null), "malformed"),
        (
            "a release nobody admits",
            token("v0", "t", NOW),
            "not-admitted",
        ),
        (
            "the label of one, the digest of another",
            changed("digest", "0".repeat(64).into()),
            "not-admitted",
        ),
        (
            "an admitted digest by another name",
            changed("version", "v2".into()),
            "not-admitted",
        ),
        (
            "another agent",
            changed("agent", "kitchen".into()),
            "not-admitted",
        ),
        (
            "a name that is a path",
            changed("agent", "../desk".into()),
            "malformed",
        ),
        (
            "a name that is very long",
            changed("jti", "x".repeat(65).into()),
            "malformed",
        ),
        (
            "very long",
            with(&good, "x", "x".repeat(5_000), WORKER),
            "oversized",
        ),
        (
            "a very long header",
            named("kid", "x".repeat(600).into()),
            "malformed",
        ),
    ]
}

/// The same bytes by another text: the last letter has bits that are not used.
fn meaningless(seal: &str) -> String {
    let last = seal.chars().last().unwrap();
    // A signature ends with two letters for one byte: four of twelve bits are zero.
    let next = char::from(u8::try_from(u32::from(last)).unwrap() + 1);
    format!("{}{next}", &seal[..seal.len() - 1])
}

#[test]
fn each_forged_token_is_refused_with_its_reason() {
    let mut world = World::new();
    for (name, token, expected) in forgeries() {
        let refused = world.gate.admit(&token, NOW);
        let refused = refused.map_or_else(|reject| reject.word(), |_| "let in");
        assert_eq!(refused, expected, "{name}");
    }
    assert!(world.gate.admit(&token("v1", "t", NOW), NOW).is_ok());
}

#[test]
fn a_refusal_never_repeats_more_of_a_stranger_than_fits_a_line() {
    let mut world = World::new();
    for (name, token, _) in forgeries() {
        if let Err(reject) = world.gate.admit(&token, NOW) {
            let said = reject.to_string();
            assert!(said.len() < 300 && !said.contains('\n'), "{name}: {said}");
        }
    }
}

#[test]
fn clocks_may_differ_by_a_minute_and_no_more() {
    let mut world = World::new();
    let ends = |seconds: u64| {
        let mut claims = claims("v1", &format!("ends-{seconds}"), NOW - DAY);
        claims.exp = (NOW - Millis(seconds * 1_000)).into();
        sign_worker(&claims, &key(WORKER))
    };
    assert!(world.gate.admit(&ends(59), NOW).is_ok());
    assert_eq!(
        world.gate.admit(&ends(60), NOW).unwrap_err().word(),
        "expired"
    );
    let made = |seconds: u64| {
        token(
            "v1",
            &format!("made-{seconds}"),
            NOW + Millis(seconds * 1_000),
        )
    };
    assert!(world.gate.admit(&made(60), NOW).is_ok());
    assert_eq!(
        world.gate.admit(&made(61), NOW).unwrap_err().word(),
        "from-future"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_bad_manifest_is_refused_and_the_one_in_force_stays() {
    let mut world = World::new();
    let releases = [("v1", ReleaseState::Active), ("v2", ReleaseState::Canary)];
    world.admit(&releases, NOW).unwrap();
    let held = world.gate.manifest().unwrap().clone();
    let next = world.next(&releases, NOW);
    let now = NOW.0 / 1_000;
    let signed = |change: &dyn Fn(&mut segue_membership::Manifest)| {
        let mut manifest = next.clone();
        change(&mut manifest);
        sign_manifest(&manifest, &key(MANIFEST))
    };
    let good = signed(&|_| {});
    let changed = |name: &str, value: Value| with(&good, name, value, MANIFEST);
    let (header, payload) = opened(&good);
    let late = |seconds: u64| (NOW - Millis(seconds * 1_000)).into();
    for (name, manifest, expected) in [
        ("the one before", signed(&|is| is.ver = 1), "rollback"),
        (
            "one of the same number",
            signed(&|is| is.ver = 2),
            "equivocation",
        ),
        (
            "one of another history",
            signed(&|is| is.prev = Some("0".repeat(64))),
            "fork",
        ),
        (
            "one without a history",
            signed(&|is| is.prev = None),
            "fork",
        ),
        ("number zero", signed(&|is| is.ver = 0), "malformed"),
        ("no number", changed("ver", Value::Null), "malformed"),
        (
            "a number below zero",
            changed("ver", (-3).into()),
            "malformed",
        ),
        (
            "another environment",
            changed("env", "staging".into()),
            "environment",
        ),
        (
            "another issuer",
            changed("iss", "somebody".into()),
            "issuer",
        ),
        (
            "over",
            signed(&|is| (is.iat, is.exp) = (late(1_000), late(60))),
            "expired",
        ),
        (
            "from tomorrow",
            changed("iat", (now + 61).into()),
            "from-future",
        ),
        (
            "for a month",
            changed("exp", (now + 30 * 86_400).into()),
            "lasts-too-long",
        ),
        (
            "ended before it began",
            changed("exp", (now - 1).into()),
            "malformed",
        ),
        (
            "a release twice",
            signed(&|is| is.admit.push(is.admit[0].clone())),
            "malformed",
        ),
        (
            "more than all calls",
            signed(&|is| is.admit[0].weight = 10_001),
            "malformed",
        ),
        (
            "an unknown state",
            with(
                &good,
                "admit",
                json!([{ "agent": "desk", "version": "v1", "digest": "0".repeat(64), "state": "paused" }]),
                MANIFEST,
            ),
            "malformed",
        ),
        (
            "by the key of workers",
            sign_manifest(&next, &key(WORKER)),
            "unknown-key",
        ),
        (
            "by the root",
            sign_manifest(&next, &key(ROOT)),
            "unknown-key",
        ),
        (
            "by a stranger",
            forged(&header, &payload, STRANGER),
            "signature",
        ),
        ("a worker token", token("v1", "t", NOW), "type"),
        (
            "numbers twice",
            forged(&header, &payload.replacen('{', r#"{"ver":9,"#, 1), MANIFEST),
            "duplicate",
        ),
        (
            "too long",
            with(&good, "x", "x".repeat(600_000), MANIFEST),
            "oversized",
        ),
    ] {
        let refused = world.gate.offer_manifest(&manifest, NOW);
        let refused = refused.map_or_else(|reject| reject.word(), |_| "taken");
        assert_eq!(refused, expected, "{name}");
        assert_eq!(world.gate.manifest(), Some(&held), "{name}");
    }
    assert_eq!(world.gate.offer_manifest(&good, NOW).unwrap().ver, 3);
}

#[test]
fn a_manifest_that_is_held_back_lets_nobody_new_in() {
    let mut world = World::new();
    let (old, new) = (token("v1", "old", NOW), token("v1", "new", NOW));
    let member = world.gate.admit(&old, NOW).unwrap();
    let ended = NOW + Millis(16 * MINUTE.0);
    assert_eq!(world.gate.admit(&new, ended).unwrap_err().word(), "frozen");
    // Who is in goes on taking calls, also when it comes again.
    assert!(world.gate.standing(&member, ended).takes_calls());
    assert!(world.gate.admit(&old, ended).unwrap().state.takes_calls());
    // Nobody waits for ever; calls go on even then.
    let over = ended + DAY;
    assert!(!world.gate.standing(&member, over).takes_calls());
    assert!(world.gate.admit(&old, over).is_ok());
    assert_eq!(world.gate.admit(&new, over).unwrap_err().word(), "frozen");
    // The same manifest again does not make it fresh.
    let same = world.last.clone().unwrap();
    assert_eq!(
        world.gate.offer_manifest(&same, over).unwrap_err().word(),
        "expired"
    );
    world.admit(&[("v1", ReleaseState::Active)], over).unwrap();
    assert!(world.gate.admit(&new, over + SECOND).is_ok());
}
