//! Releases come in, drain and fall out, and nobody who is in is sent away.

use segue_core::time::Millis;
use segue_membership::{
    Change, Freshness, ReleaseState, Revoked, Standing, Why, sign_manifest, sign_worker,
};

use crate::world::{
    DAY, MANIFEST, MINUTE, NOW, SECOND, WORKER, World, claims, key, release, settings, token,
};

#[test]
fn several_releases_are_admitted_at_once_and_one_that_falls_out_drains() {
    let mut world = World::new();
    let one = world.gate.admit(&token("v1", "one", NOW), NOW).unwrap();
    assert_eq!(one.state, Standing::Serving(ReleaseState::Active));
    let canary = [("v1", ReleaseState::Active), ("v2", ReleaseState::Canary)];
    let accepted = world.admit(&canary, NOW).unwrap();
    assert_eq!(
        accepted.changes,
        [Change::Is(release("v2", ReleaseState::Canary))]
    );
    let two = world.gate.admit(&token("v2", "two", NOW), NOW).unwrap();
    assert_eq!(two.state, Standing::Serving(ReleaseState::Canary));

    let cutover = [("v1", ReleaseState::Draining), ("v2", ReleaseState::Active)];
    world.admit(&cutover, NOW).unwrap();
    assert_eq!(
        world.gate.standing(&one, NOW),
        Standing::Draining(Why::Told)
    );

    let accepted = world.admit(&[("v2", ReleaseState::Active)], NOW).unwrap();
    let gone = release("v1", ReleaseState::Active);
    let gone = Change::FellOut {
        agent: gone.agent,
        version: gone.version,
        digest: gone.digest,
    };
    assert_eq!(accepted.changes, [gone]);
    assert_eq!(
        world.gate.standing(&one, NOW),
        Standing::Draining(Why::FellOut)
    );
    assert!(world.gate.standing(&two, NOW).takes_calls());
    // It comes again to end its calls; one that was never in does not come in at all.
    let again = world.gate.admit(&token("v1", "one", NOW), NOW).unwrap();
    assert_eq!(again.state, Standing::Draining(Why::FellOut));
    let late = world
        .gate
        .admit(&token("v1", "late", NOW), NOW)
        .unwrap_err();
    assert_eq!(late.word(), "not-admitted");

    // Going back is a new manifest.
    world
        .admit(
            &[("v1", ReleaseState::Active), ("v2", ReleaseState::Draining)],
            NOW,
        )
        .unwrap();
    assert!(world.gate.standing(&one, NOW).takes_calls());
}

#[test]
fn a_gate_that_was_killed_knows_who_is_in_and_what_is_old() {
    let mut world = World::new();
    let first = world.last.clone().unwrap();
    world.admit(&[("v2", ReleaseState::Active)], NOW).unwrap();
    world.gate.admit(&token("v2", "in", NOW), NOW).unwrap();
    world.gate.save(NOW).unwrap();
    world.killed(NOW + SECOND);
    assert_eq!(world.gate.manifest().unwrap().ver, 2);
    assert_eq!(
        world.gate.offer_manifest(&first, NOW).unwrap_err().word(),
        "rollback"
    );
    // While nobody signs, whoever was in before the crash is in after it.
    let ended = NOW + Millis(20 * MINUTE.0);
    world.killed(ended);
    assert!(
        world
            .gate
            .admit(&token("v2", "in", NOW), ended)
            .unwrap()
            .state
            .takes_calls()
    );
    let new = world
        .gate
        .admit(&token("v2", "new", NOW), ended)
        .unwrap_err();
    assert_eq!(new.word(), "frozen");
}

#[test]
fn a_token_that_ended_lets_its_worker_come_again_to_end_its_calls() {
    let mut world = World::new();
    let short = {
        let mut claims = claims("v1", "short", NOW);
        claims.exp = (NOW + MINUTE).into();
        sign_worker(&claims, &key(WORKER))
    };
    let member = world.gate.admit(&short, NOW).unwrap();
    let later = NOW + Millis(3 * MINUTE.0);
    // It stayed connected: nothing changes.
    assert!(world.gate.standing(&member, later).takes_calls());
    let again = world.gate.admit(&short, later).unwrap();
    assert_eq!(again.state, Standing::Draining(Why::Expired));
    assert_eq!(world.gate.standing(&again, later), again.state);
    let forgotten = later + Millis(4 * DAY.0);
    assert_eq!(
        world.gate.admit(&short, forgotten).unwrap_err().word(),
        "expired"
    );
}

#[test]
fn what_is_revoked_takes_no_call_and_comes_again_only_to_end_its_calls() {
    let mut world = World::new();
    let mut named = claims("v1", "of-a-worker", NOW);
    named.sub = Some("desk-7".parse().unwrap());
    let named = sign_worker(&named, &key(WORKER));
    let members = [
        token("v1", "stolen", NOW),
        named.clone(),
        token("v1", "good", NOW),
    ]
    .map(|token| world.gate.admit(&token, NOW).unwrap());
    let mut manifest = world.next(&[("v1", ReleaseState::Active)], NOW);
    manifest.revoked = vec![
        Revoked::Jti("stolen".parse().unwrap()),
        Revoked::Worker("desk-7".parse().unwrap()),
    ];
    world.offer(&manifest, NOW).unwrap();
    let states = members
        .each_ref()
        .map(|member| world.gate.standing(member, NOW));
    let revoked = Standing::Draining(Why::Revoked);
    assert_eq!(
        states,
        [revoked, revoked, Standing::Serving(ReleaseState::Active)]
    );
    // Their connections break, and the gate dies: they have calls, so they are let in as they were.
    world.gate.save(NOW).unwrap();
    world.killed(NOW);
    for token in [token("v1", "stolen", NOW), named] {
        assert_eq!(world.gate.admit(&token, NOW).unwrap().state, revoked);
    }
    // Who was not in is not, also by another token of the same name.
    let mut new = claims("v1", "of-nobody", NOW);
    new.sub = Some("desk-7".parse().unwrap());
    let new = sign_worker(&new, &key(WORKER));
    for token in [new, token("v1", "stolen", NOW + MINUTE)] {
        assert_eq!(world.gate.admit(&token, NOW).unwrap_err().word(), "revoked");
    }
}

#[test]
fn a_gate_that_missed_manifests_takes_the_newest_and_says_so() {
    let mut world = World::new();
    let mut manifest = world.next(&[("v2", ReleaseState::Active)], NOW);
    (manifest.ver, manifest.prev) = (7, Some("0".repeat(64)));
    let accepted = world.offer(&manifest, NOW).unwrap();
    assert!(accepted.gap && accepted.ver == 7);
    let same = world.last.clone().unwrap();
    let again = world
        .gate
        .offer_manifest(&format!("{same}\n"), NOW)
        .unwrap();
    assert!(again.changes.is_empty() && !again.gap);
}

#[test]
fn without_a_manifest_nobody_is_let_in() {
    let mut world = World::without_manifest(settings());
    let refused = world.gate.admit(&token("v1", "t", NOW), NOW).unwrap_err();
    assert_eq!(refused.word(), "no-manifest");
    assert_eq!(world.gate.freshness(NOW), Freshness::Over);
    assert_eq!(world.gate.next_deadline(NOW), None);
}

#[test]
fn what_cannot_be_written_down_is_not_acted_on() {
    use segue_membership::store::{Kept, Store, StoreError};
    struct Full;
    impl Store for Full {
        fn load(&self) -> Result<Option<Kept>, StoreError> {
            Ok(None)
        }
        fn save(&self, kept: &Kept) -> Result<(), StoreError> {
            // There was room for the keys.
            kept.manifest
                .as_ref()
                .map_or(Ok(()), |_| Err(StoreError("no space".to_owned())))
        }
    }
    let mut world = World::new();
    let open = segue_membership::Gate::open;
    world.gate = open(settings(), &world.chain, Box::new(Full), NOW).unwrap();
    let manifest = sign_manifest(
        &world.next(&[("v1", ReleaseState::Active)], NOW),
        &key(MANIFEST),
    );
    let refused = world.gate.offer_manifest(&manifest, NOW).unwrap_err();
    assert!(
        refused.word() == "store" && refused.is_retryable(),
        "{refused}"
    );
    assert_eq!(world.gate.manifest(), None);
    assert_eq!(
        world
            .gate
            .admit(&token("v1", "t", NOW), NOW)
            .unwrap_err()
            .word(),
        "no-manifest"
    );
}

#[test]
fn a_gate_says_when_time_alone_changes_something() {
    let world = World::new();
    let fresh = world.gate.next_deadline(NOW).unwrap();
    assert_eq!(fresh, NOW + Millis(16 * MINUTE.0));
    assert_eq!(
        world.gate.freshness(fresh - Millis(1)),
        Freshness::Fresh { until: fresh }
    );
    let last = world.gate.next_deadline(fresh).unwrap();
    assert_eq!(last, fresh + DAY);
    assert_eq!(world.gate.freshness(last), Freshness::Over);
}
