//! OpenRTC's membership, byte for byte: `openrtc_vectors.json` was made by `sign_membership` of the
//! wheel openrtc 0.20.1 (version, worker, the bits of the time, secret, signature).

use segue_membership::{MembershipError, MembershipVerifier, sign_membership};

const NOW: f64 = 1_790_000_000.25;

#[test]
fn signatures_are_those_of_openrtc() {
    let vectors = include_str!("../openrtc_vectors.json");
    let vectors: Vec<[String; 5]> = serde_json::from_str(vectors).unwrap();
    assert!(vectors.len() > 200);
    for [version, worker, bits, secret, expected] in vectors {
        let time = f64::from_bits(u64::from_str_radix(&bits, 16).unwrap());
        let signature = sign_membership(&version, &worker, time, &secret);
        assert_eq!(signature, expected, "{version:?} {worker:?} {time:?}");
    }
}

fn check(expected: Result<(), &str>, with: &MembershipVerifier, token: &str, time: f64) {
    let answer = with.verify(token, ("v2", "w-1", time), NOW);
    let answer = answer.map_err(|error| error.to_string());
    assert_eq!(answer.is_ok(), expected.is_ok(), "{answer:?}");
    if let (Err(said), Err(expected)) = (answer, expected) {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn memberships_are_believed_for_five_minutes_and_by_any_secret() {
    let mut with = MembershipVerifier::new(["old", "new"]).unwrap();
    let sign = |time: f64, secret: &str| sign_membership("v2", "w-1", time, secret);
    for time in [NOW, NOW - 300.0, NOW + 300.0] {
        check(Ok(()), &with, &sign(time, "new"), time);
        check(Ok(()), &with, &sign(time, "old"), time);
        check(Err("signature"), &with, &sign(time, "other"), time);
        check(Err("signature"), &with, &sign(time + 1.0, "new"), time);
    }
    for time in [NOW - 300.1, f64::NEG_INFINITY, -1e300] {
        check(Err("stale"), &with, &sign(time, "new"), time);
    }
    // OpenRTC takes a time that is no number for a fresh one, for ever.
    for time in [NOW + 300.1, f64::INFINITY, f64::NAN] {
        check(Err("future"), &with, &sign(time, "new"), time);
    }
    let good = sign(NOW, "new");
    for token in [
        "",
        "zz",
        "é",
        &good[1..],
        &good.to_uppercase(),
        &format!("{good}00"),
    ] {
        check(Err("signature"), &with, token, NOW);
    }
    with.expected_version = Some("v1".to_owned());
    check(
        Err("does not match the active deployment"),
        &with,
        &good,
        NOW,
    );
    with.expected_version = Some("v2".to_owned());
    check(Ok(()), &with, &good, NOW);
    assert!(!format!("{with:?}").contains("new"));
}

#[test]
fn there_is_no_verifier_without_a_secret() {
    for secrets in [&[][..], &[""], &["good", ""]] {
        let refused = MembershipVerifier::new(secrets.iter().copied()).unwrap_err();
        assert_eq!(refused, MembershipError::NoSecret);
    }
}
