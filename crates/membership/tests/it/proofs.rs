//! A token with a key opens with a proof of that key, once.

use segue_core::time::{Millis, Timestamp};
use segue_membership::{Reject, Settings, sign_proof};

use crate::world::{MINUTE, NOW, SECOND, World, bound, key, settings, token};

const OWN: u8 = 21;
const THIEF: u8 = 22;

fn proof(token: &str, nonce: &str, now: Timestamp, seed: u8) -> String {
    sign_proof(
        &"production".parse().unwrap(),
        token,
        nonce,
        now,
        &key(seed),
    )
}

fn check(expected: &str, answer: Result<segue_membership::Member, Reject>) {
    let word = answer.map_or_else(|reject| reject.word(), |_| "let in");
    assert_eq!(word, expected);
}

#[test]
fn a_copy_of_a_bound_token_opens_nothing_and_one_of_both_opens_nothing_twice() {
    let mut world = World::new();
    let mine = bound("v1", "mine", NOW, key(OWN).public());
    let other = bound("v1", "other", NOW, key(OWN).public());
    let gate = &mut world.gate;
    check("proof-missing", gate.admit(&mine, NOW));
    let nonce = gate.ask([1; 16], NOW);
    check(
        "proof",
        gate.admit_proven(&mine, &proof(&mine, &nonce, NOW, THIEF), NOW),
    );
    let good = proof(&mine, &nonce, NOW, OWN);
    // It goes with that token, and with no other one of the same worker.
    check("proof", gate.admit_proven(&other, &good, NOW));
    check("let in", gate.admit_proven(&mine, &good, NOW));
    check("replayed", gate.admit_proven(&mine, &good, NOW + SECOND));
    // A new signature over an old question is a copy, too.
    let again = proof(&mine, &nonce, NOW + SECOND, OWN);
    check("replayed", gate.admit_proven(&mine, &again, NOW + SECOND));
    let late = NOW + MINUTE;
    check(
        "expired",
        gate.admit_proven(&mine, &proof(&mine, &nonce, late, OWN), late),
    );
}

#[test]
fn only_what_this_gate_asked_is_an_answer() {
    let mut world = World::new();
    let mine = bound("v1", "mine", NOW, key(OWN).public());
    let other = Settings {
        secret: [43; 32],
        ..settings()
    };
    let foreign = World::without_manifest(other).gate.ask([1; 16], NOW);
    let nonce = world.gate.ask([1; 16], NOW);
    let changed = format!("B{}", &nonce[1..]);
    for nonce in [&foreign, &changed, &nonce[1..], "", "!"] {
        check(
            "proof",
            world
                .gate
                .admit_proven(&mine, &proof(&mine, nonce, NOW, OWN), NOW),
        );
    }
    let elsewhere = sign_proof(&"staging".parse().unwrap(), &mine, &nonce, NOW, &key(OWN));
    check(
        "environment",
        world.gate.admit_proven(&mine, &elsewhere, NOW),
    );
    // A token is no proof.
    check("type", world.gate.admit_proven(&mine, &mine, NOW));
    check(
        "let in",
        world
            .gate
            .admit_proven(&mine, &proof(&mine, &nonce, NOW, OWN), NOW),
    );
}

#[test]
fn where_a_proof_is_asked_for_a_bearer_is_not_enough() {
    let strict = Settings {
        bearers: false,
        ..settings()
    };
    let mut world = World::without_manifest(strict);
    world
        .admit(&[("v1", segue_membership::ReleaseState::Active)], NOW)
        .unwrap();
    let bearer = token("v1", "t", NOW);
    check("unbound", world.gate.admit(&bearer, NOW));
    let nonce = world.gate.ask([1; 16], NOW);
    check(
        "unbound",
        world
            .gate
            .admit_proven(&bearer, &proof(&bearer, &nonce, NOW, OWN), NOW),
    );
}

#[test]
fn a_bound_token_lasts_minutes() {
    let mut world = World::new();
    let mut claims = crate::world::claims("v1", "long", NOW);
    claims.cnf = Some(segue_membership::token::Confirmation {
        jwk: key(OWN).public(),
    });
    claims.exp = (NOW + Millis(11 * MINUTE.0)).into();
    let long = segue_membership::sign_worker(&claims, &key(crate::world::WORKER));
    let nonce = world.gate.ask([1; 16], NOW);
    check(
        "lasts-too-long",
        world
            .gate
            .admit_proven(&long, &proof(&long, &nonce, NOW, OWN), NOW),
    );
}
