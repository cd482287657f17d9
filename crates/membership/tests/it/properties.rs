//! What holds of every key, claim and history.

use proptest::prelude::*;
use segue_core::time::{Millis, Timestamp};
use segue_membership::manifest::fingerprint;
use segue_membership::{
    Gate, Manifest, ReleaseState, Revoked, SigningKey, sign_manifest, sign_worker,
};

use crate::world::{MANIFEST, MINUTE, NOW, World, claims, forged, key, opened, settings};

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_key_survives_pem_and_jwk(seed: [u8; 32]) {
        let key = SigningKey::from_seed(seed);
        prop_assert_eq!(SigningKey::from_pem(&key.to_pem()).unwrap().public(), key.public());
        let jwk = serde_json::to_string(&key.public()).unwrap();
        let again: segue_membership::PublicKey = serde_json::from_str(&jwk).unwrap();
        prop_assert_eq!(again, key.public());
    }

    /// One changed letter anywhere is refused: there is no other text of a good token.
    #[test]
    fn no_changed_token_is_let_in(at in 0_usize..400, letter in "[A-Za-z0-9._=-]") {
        let mut world = World::new();
        let good = crate::world::token("v1", "t", NOW);
        let at = at % good.len();
        let changed = format!("{}{letter}{}", &good[..at], &good[at + 1..]);
        let answer = world.gate.admit(&changed, NOW);
        prop_assert_eq!(answer.is_ok(), changed == good, "{}", changed);
    }

    /// Whoever does not have the key is not let in, whatever they write.
    #[test]
    fn no_stranger_is_let_in(seed in 10_u8.., header in ".{0,60}", payload in ".{0,60}", own: bool) {
        let mut world = World::new();
        let (good_header, good_payload) = opened(&crate::world::token("v1", "t", NOW));
        let (header, payload) = if own { (good_header, payload) } else { (header, good_payload) };
        prop_assert!(world.gate.admit(&forged(&header, &payload, seed), NOW).is_err());
    }

    /// Whatever order manifests come in, with crashes in between: the version never goes down, and is
    /// never ahead of what is stored.
    #[test]
    fn versions_only_grow(steps in prop::collection::vec((0_u64..12, 0_u8..3, any::<bool>()), 1..40)) {
        let mut world = World::new();
        let mut highest = 1;
        for (n, (ver, story, crash)) in steps.into_iter().enumerate() {
            let now = NOW + Millis(n as u64);
            let manifest = Manifest {
                ver,
                exp: (NOW + Millis((10 + u64::from(story)) * MINUTE.0)).into(),
                prev: world.gate.manifest().map(|held| fingerprint(&sign_manifest(held, &key(MANIFEST)))),
                ..world.next(&[("v1", ReleaseState::Active)], NOW)
            };
            let before = world.gate.manifest().cloned();
            let answer = world.gate.offer_manifest(&sign_manifest(&manifest, &key(MANIFEST)), now);
            if let Ok(accepted) = answer {
                prop_assert!(accepted.ver >= highest);
                highest = accepted.ver;
            } else {
                prop_assert_eq!(before.as_ref(), world.gate.manifest());
            }
            if crash {
                let store = Box::new(world.store.clone());
                world.gate = Gate::open(settings(), &world.chain, store, now).unwrap();
            }
            prop_assert_eq!(world.gate.manifest().unwrap().ver, highest);
        }
    }

    /// Nobody who was let in is ever refused for time, manifests, revocations or crashes. Whether it
    /// takes calls is another thing.
    #[test]
    fn who_is_in_stays_in(
        steps in prop::collection::vec((0_u8..5, 0_u64..200, any::<bool>()), 1..30),
    ) {
        let mut world = World::new();
        let mut in_claims = claims("v1", "in", NOW);
        in_claims.exp = (NOW + Millis(60 * MINUTE.0)).into();
        let token = sign_worker(&in_claims, &key(crate::world::WORKER));
        world.gate.admit(&token, NOW).unwrap();
        let known_until = in_claims.exp.at() + segue_membership::gate::KNOWN_LASTS;
        let mut now = NOW;
        for (step, minutes, crash) in steps {
            now = now + Millis(minutes * MINUTE.0);
            let releases: &[_] = match step {
                0 => &[("v1", ReleaseState::Active)],
                1 => &[("v1", ReleaseState::Draining), ("v2", ReleaseState::Active)],
                2 => &[("v2", ReleaseState::Active)],
                _ => &[],
            };
            if step < 3 {
                world.admit(releases, now).unwrap();
            }
            if step == 4 {
                let mut manifest = world.next(&[("v1", ReleaseState::Active)], now);
                manifest.revoked = vec![Revoked::Jti(in_claims.jti.clone())];
                world.offer(&manifest, now).unwrap();
            }
            if crash {
                world.gate.save(now).unwrap();
                world.killed(now);
            }
            let again = world.gate.admit(&token, now);
            if now < known_until {
                let state = again.unwrap().state;
                let ended = now >= Timestamp(in_claims.exp.at().0 + 60_000);
                prop_assert!(!(ended || matches!(step, 1 | 2 | 4)) || !state.takes_calls());
            } else {
                prop_assert!(again.is_err());
            }
        }
    }
}
