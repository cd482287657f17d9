//! Keys are replaced under old and new, one set after the other.

use segue_core::time::Millis;
use segue_membership::keyset::{KeySet, cosign, look, newest};
use segue_membership::manifest::VERSION_MAX;
use segue_membership::{Gate, ReleaseState, SigningKey, Standing, Why, sign_manifest, sign_worker};

use crate::world::{
    DAY, MANIFEST, MINUTE, NOW, ROOT, STRANGER, WORKER, World, claims, first_set, key, settings,
    token,
};

const NEW_ROOT: u8 = 11;
const OTHER_ROOT: u8 = 12;
const NEW_MANIFEST: u8 = 13;

fn after(set: &KeySet) -> KeySet {
    KeySet {
        set: set.set + 1,
        iat: NOW.into(),
        ..set.clone()
    }
}

/// With another root key instead.
fn rooted(set: &KeySet, seeds: &[u8], threshold: usize) -> KeySet {
    let mut next = after(set);
    let new: Vec<_> = seeds.iter().map(|seed| key(*seed).public()).collect();
    next.keys.retain(|key| !set.root.contains(&key.kid()));
    next.keys.extend(&new);
    next.root = new.iter().map(segue_membership::PublicKey::kid).collect();
    next.threshold = threshold;
    next
}

fn keys(seeds: &[u8]) -> Vec<SigningKey> {
    seeds.iter().map(|seed| key(*seed)).collect()
}

fn signed(set: &KeySet, seeds: &[u8]) -> String {
    let keys = keys(seeds);
    set.sign(&keys.iter().collect::<Vec<_>>())
}

#[test]
fn a_set_follows_only_if_old_and_new_agree() {
    let first = first_set();
    let chain = signed(&first, &[ROOT]);
    let second = rooted(&first, &[NEW_ROOT, OTHER_ROOT, STRANGER], 2);
    for (signers, expected) in [
        (&[ROOT, NEW_ROOT, OTHER_ROOT][..], "taken"),
        (&[ROOT, NEW_ROOT], "threshold"),
        (&[NEW_ROOT, OTHER_ROOT, STRANGER], "threshold"),
        (&[ROOT], "threshold"),
        (&[MANIFEST, WORKER], "threshold"),
        (&[], "threshold"),
        // One key that signs twice is one.
        (&[ROOT, NEW_ROOT, NEW_ROOT], "threshold"),
    ] {
        let mut world = World::new();
        let offered = format!("{chain}\n{}\n", signed(&second, signers));
        let answer = world.gate.offer_keys(&offered, NOW);
        let answer = answer.map_or_else(|reject| reject.word(), |_| "taken");
        assert_eq!(answer, expected, "{signers:?}");
        let expected = if expected == "taken" { 2 } else { 1 };
        assert_eq!(world.gate.keys().set, expected);
    }
}

#[test]
fn a_signature_twice_counts_once() {
    let first = first_set();
    let second = rooted(&first, &[NEW_ROOT, OTHER_ROOT], 2);
    let line = signed(&second, &[ROOT, NEW_ROOT]);
    let mut twice: serde_json::Value = serde_json::from_str(&line).unwrap();
    let copy = twice["signatures"][1].clone();
    twice["signatures"].as_array_mut().unwrap().push(copy);
    let chain = format!("{}\n{twice}", signed(&first, &[ROOT]));
    assert_eq!(newest(&chain, NOW).unwrap_err().word(), "threshold");
    let whole = cosign(&line, &[&key(OTHER_ROOT)]).unwrap();
    let chain = format!("{}\n{whole}", signed(&first, &[ROOT]));
    assert_eq!(newest(&chain, NOW).unwrap(), second);
    assert_eq!(look(&whole).unwrap().1.len(), 3);
}

#[test]
fn a_gate_follows_a_chain_without_gaps_and_never_back() {
    let first = first_set();
    let second = rooted(&first, &[NEW_ROOT], 1);
    let third = rooted(&second, &[OTHER_ROOT], 1);
    let [one, two, three] = [
        signed(&first, &[ROOT]),
        signed(&second, &[ROOT, NEW_ROOT]),
        signed(&third, &[NEW_ROOT, OTHER_ROOT]),
    ];
    let mut world = World::new();
    let gap = world
        .gate
        .offer_keys(&format!("{one}\n{three}"), NOW)
        .unwrap_err();
    assert_eq!(gap.word(), "key-set-gap");
    // One that slept through a set.
    let all = format!("{one}\n{two}\n{three}");
    assert_eq!(world.gate.offer_keys(&all, NOW).unwrap(), 3);
    let back = world
        .gate
        .offer_keys(&format!("{one}\n{two}"), NOW)
        .unwrap_err();
    assert_eq!(back.word(), "rollback");
    let mut other = third.clone();
    other.threshold = 1;
    other.floor = Some(9);
    let other = signed(&other, &[NEW_ROOT, OTHER_ROOT]);
    let two_stories = world.gate.offer_keys(&other, NOW).unwrap_err();
    assert_eq!(two_stories.word(), "equivocation");
    // It remembers, and does not start with the first set again.
    world.chain = all;
    world.killed(NOW);
    assert_eq!(world.gate.keys().set, 3);
    for (chain, expected) in [(one.as_str(), "rollback"), ("damaged", "malformed")] {
        let store = Box::new(world.store.clone());
        let gate = Gate::open(settings(), chain, store, NOW).unwrap();
        assert_eq!(
            (gate.keys().set, gate.complaint().unwrap().word()),
            (3, expected)
        );
    }
}

#[test]
fn bad_sets_are_refused() {
    let first = first_set();
    let chain = signed(&first, &[ROOT]);
    let next = after(&first);
    let check = |set: &KeySet, expected: &str| {
        let mut world = World::new();
        let offered = format!("{chain}\n{}", signed(set, &[ROOT]));
        let answer = world.gate.offer_keys(&offered, NOW);
        let answer = answer.map_or_else(|reject| reject.word(), |_| "taken");
        assert_eq!(answer, expected, "{set:?}");
    };
    check(&next, "taken");
    let with = |change: &dyn Fn(&mut KeySet)| {
        let mut set = next.clone();
        change(&mut set);
        set
    };
    check(&with(&|set| set.threshold = 0), "malformed");
    check(&with(&|set| set.threshold = 2), "malformed");
    check(&with(&|set| set.root.clear()), "malformed");
    check(
        &with(&|set| set.manifest = vec![key(STRANGER).kid()]),
        "malformed",
    );
    check(&with(&|set| set.keys.push(set.keys[0])), "malformed");
    check(
        &with(&|set| set.worker.push(set.worker[0].clone())),
        "malformed",
    );
    check(&with(&|set| set.set = u64::MAX), "malformed");
    check(&with(&|set| set.floor = Some(0)), "malformed");
    check(&with(&|set| set.iss = String::new()), "malformed");
    check(&with(&|set| set.iss = "somebody".to_owned()), "issuer");
    check(
        &with(&|set| set.env = "staging".parse().unwrap()),
        "environment",
    );
    check(&with(&|set| set.iat = (NOW + DAY).into()), "from-future");
    for text in [
        "",
        "\n\n",
        "{}",
        "[]",
        "no JSON",
        r#"{"payload":"e30","signatures":[]}"#,
    ] {
        assert_eq!(newest(text, NOW).unwrap_err().word(), "malformed", "{text}");
    }
    let long = format!(r#"{{"payload":"{}","signatures":[]}}"#, "e".repeat(70_000));
    assert_eq!(newest(&long, NOW).unwrap_err().word(), "oversized");
    let wrong = chain.replace("signature\":\"", "signature\":\"AAAA");
    assert_eq!(newest(&wrong, NOW).unwrap_err().word(), "signature");
    let staging = KeySet {
        env: "staging".parse().unwrap(),
        ..first
    };
    let staging = signed(&staging, &[ROOT]);
    let store = Box::new(segue_membership::store::Memory::default());
    let foreign = Gate::open(settings(), &staging, store, NOW).err().unwrap();
    assert_eq!(foreign.word(), "environment");
}

#[test]
fn a_stolen_key_of_manifests_is_taken_out_and_the_numbers_go_on() {
    let mut world = World::new();
    let member = world.gate.admit(&token("v1", "in", NOW), NOW).unwrap();
    // The thief uses up the numbers, and admits what is bad.
    let mut bad = world.next(
        &[("v1", ReleaseState::Active), ("bad", ReleaseState::Active)],
        NOW,
    );
    bad.ver = VERSION_MAX;
    world.offer(&bad, NOW).unwrap();
    assert!(world.gate.admit(&token("bad", "thief", NOW), NOW).is_ok());

    let first = first_set();
    let mut second = after(&first);
    let new = key(NEW_MANIFEST).public();
    second.keys.retain(|is| *is != key(MANIFEST).public());
    second.keys.push(new);
    second.manifest = vec![new.kid()];
    second.floor = Some(2);
    world.chain = format!("{}\n{}", signed(&first, &[ROOT]), signed(&second, &[ROOT]));
    let (chain, later) = (world.chain.clone(), NOW + MINUTE);
    assert_eq!(world.gate.offer_keys(&chain, later).unwrap(), 2);
    // Nobody new by the thief's manifest; who is in goes on.
    let late = world
        .gate
        .admit(&token("bad", "late", later), later)
        .unwrap_err();
    assert_eq!(late.word(), "frozen");
    assert!(world.gate.standing(&member, later).takes_calls());
    // Also after a crash.
    world.killed(later);
    let late = world
        .gate
        .admit(&token("bad", "late", later), later)
        .unwrap_err();
    assert_eq!(late.word(), "frozen");
    let old = sign_manifest(&bad, &key(MANIFEST));
    assert_eq!(
        world.gate.offer_manifest(&old, later).unwrap_err().word(),
        "unknown-key"
    );

    let mut good = world.next(&[("v1", ReleaseState::Active)], later);
    (good.ver, good.prev) = (1, None);
    let low = world
        .gate
        .offer_manifest(&sign_manifest(&good, &key(NEW_MANIFEST)), later);
    assert_eq!(low.unwrap_err().word(), "rollback");
    good.ver = 2;
    let good = sign_manifest(&good, &key(NEW_MANIFEST));
    assert_eq!(world.gate.offer_manifest(&good, later).unwrap().ver, 2);
    assert!(world.gate.standing(&member, later).takes_calls());
    let thief = world.gate.admit(&token("bad", "thief", NOW), later);
    assert!(thief.is_err() || thief.unwrap().state == Standing::Draining(Why::FellOut));
}

#[test]
fn a_key_of_workers_that_is_out_lets_nobody_new_in() {
    let mut world = World::new();
    let first = first_set();
    let mut second = after(&first);
    let new = key(NEW_MANIFEST).public();
    second.keys.push(new);
    second.worker.push(new.kid());
    let mut third = after(&second);
    third.worker = vec![new.kid()];
    let chain = [
        signed(&first, &[ROOT]),
        signed(&second, &[ROOT]),
        signed(&third, &[ROOT]),
    ];
    // Both, while workers change over.
    world.gate.offer_keys(&chain[..2].join("\n"), NOW).unwrap();
    let by_new = |id: &str| sign_worker(&claims("v1", id, NOW), &key(NEW_MANIFEST));
    let old = world.gate.admit(&token("v1", "a", NOW), NOW).unwrap();
    let new = world.gate.admit(&by_new("b"), NOW).unwrap();
    world.gate.offer_keys(&chain.join("\n"), NOW).unwrap();
    for id in ["c", "b"] {
        let out = world.gate.admit(&token("v1", id, NOW), NOW).unwrap_err();
        assert_eq!(out.word(), "unknown-key", "{id}");
    }
    assert!(world.gate.admit(&by_new("c"), NOW).is_ok());
    // Who is in with it ends its calls, also by another connection and after a crash.
    let drains = Standing::Draining(Why::KeyOut);
    assert_eq!(world.gate.standing(&old, NOW), drains);
    assert!(world.gate.standing(&new, NOW).takes_calls());
    assert_eq!(
        world.gate.admit(&token("v1", "a", NOW), NOW).unwrap().state,
        drains
    );
    world.gate.save(NOW).unwrap();
    world.killed(NOW);
    let again = world.gate.admit(&token("v1", "a", NOW), NOW).unwrap();
    assert_eq!(again.state, drains);
    assert_eq!(world.gate.standing(&again, NOW), drains);
    let forgotten = again.expires + segue_membership::gate::KNOWN_LASTS;
    assert!(world.gate.admit(&token("v1", "a", NOW), forgotten).is_err());
}

#[test]
fn a_key_set_that_ended_lets_nobody_new_in_until_there_is_another() {
    let mut first = first_set();
    first.exp = Some((NOW + DAY).into());
    let chain = signed(&first, &[ROOT]);
    let mut world = World::new();
    let store = segue_membership::store::Memory::default();
    world.gate = Gate::open(settings(), &chain, Box::new(store), NOW).unwrap();
    (world.ver, world.last) = (0, None);
    world.admit(&[("v1", ReleaseState::Active)], NOW).unwrap();
    let member = world.gate.admit(&token("v1", "in", NOW), NOW).unwrap();
    let ended = NOW + DAY + Millis(2 * MINUTE.0);
    let next = world
        .admit(&[("v1", ReleaseState::Active)], ended)
        .unwrap_err();
    assert_eq!(next.word(), "keys-ended");
    let new = world
        .gate
        .admit(&token("v1", "new", NOW), ended)
        .unwrap_err();
    assert_eq!(new.word(), "keys-ended");
    assert!(world.gate.standing(&member, ended).takes_calls());
    let second = KeySet {
        exp: None,
        ..after(&first)
    };
    let chain = format!("{chain}\n{}", signed(&second, &[ROOT]));
    world.gate.offer_keys(&chain, ended).unwrap();
    world.admit(&[("v1", ReleaseState::Active)], ended).unwrap();
    assert!(world.gate.admit(&token("v1", "new", NOW), ended).is_ok());
}
