//! What a gate keeps in a file.

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use segue_membership::file::{FileStore, Sight, create};
use segue_membership::gate::KNOWN_OF_ONE_MAX;
use segue_membership::store::Store as _;
use segue_membership::{Gate, ReleaseState, Standing, Why, sign_worker};
use serde_json::json;

use crate::world::{DAY, NOW, STRANGER, WORKER, World, claims, key, settings, token};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir =
            std::env::temp_dir().join(format!("segue-membership-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_gate_goes_on_from_its_file_and_not_from_a_damaged_one() {
    let folder = Folder::new("store");
    let path = folder.0.join("gate.json");
    let store = || Box::new(FileStore::new(&path));
    let mut world = World::new();
    world.gate = Gate::open(settings(), &world.chain, store(), NOW).unwrap();
    (world.ver, world.last) = (0, None);
    for _ in 0..3 {
        world.admit(&[("v1", ReleaseState::Active)], NOW).unwrap();
    }
    world.gate.admit(&token("v1", "in", NOW), NOW).unwrap();
    world.gate.save(NOW).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let kept = store().load().unwrap().unwrap();
    assert_eq!((kept.ver, kept.known.len()), (3, 1));
    let gate = Gate::open(settings(), &world.chain, store(), NOW).unwrap();
    assert_eq!(gate.manifest(), world.gate.manifest());

    // A file that was cut short is not taken for a first start: that would let old manifests in.
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let refused = Gate::open(settings(), &world.chain, store(), NOW)
        .err()
        .unwrap();
    assert_eq!(refused.word(), "store");
    let later = String::from_utf8(whole)
        .unwrap()
        .replacen("\"format\":2", "\"format\":3", 1);
    fs::write(&path, later).unwrap();
    let refused = Gate::open(settings(), &world.chain, store(), NOW)
        .err()
        .unwrap();
    assert_eq!(refused.word(), "store");
    let why = refused.source().unwrap().to_string();
    assert!(why.contains("format 3 is not known here"), "{why}");
}

#[test]
fn what_is_stored_late_replaces_nothing_newer_and_one_worker_fills_nothing() {
    let folder = Folder::new("late");
    let path = folder.0.join("gate.json");
    let store = || Box::new(FileStore::new(&path));
    let mut world = World::new();
    world.gate = Gate::open(settings(), &world.chain, store(), NOW).unwrap();
    world.admit(&[("v1", ReleaseState::Active)], NOW).unwrap();
    for number in 0..KNOWN_OF_ONE_MAX + 5 {
        let mut of_w1 = claims("v1", &format!("t{number}"), NOW);
        of_w1.sub = Some("w1".parse().unwrap());
        world
            .gate
            .admit(&sign_worker(&of_w1, &key(WORKER)), NOW)
            .unwrap();
    }
    let late = world.gate.saving(NOW).unwrap();
    assert!(world.gate.saving(NOW).is_none(), "it is under way");
    world.admit(&[("v2", ReleaseState::Active)], NOW).unwrap();
    late.write().unwrap();
    let kept = store().load().unwrap().unwrap();
    assert_eq!(kept.ver, world.gate.manifest().unwrap().ver);
    assert_eq!(kept.known.len(), KNOWN_OF_ONE_MAX);
}

#[test]
fn a_file_of_the_first_form_is_read_and_written_anew() {
    let folder = Folder::new("first");
    let path = folder.0.join("gate.json");
    let store = || Box::new(FileStore::new(&path));
    let mut world = World::new();
    let kept = world.store.load().unwrap().unwrap();
    let ends = (NOW + DAY).0;
    let first = json!({
        "format": 1, "env": "production", "keys": kept.keys, "ver": kept.ver,
        "manifest": kept.manifest, "fresh_until": kept.fresh_until,
        "known": [["in", ends], ["of-another-key", ends]],
    });
    fs::write(&path, first.to_string()).unwrap();
    world.gate = Gate::open(settings(), &world.chain, store(), NOW).unwrap();
    // Nothing older is taken, and who was in comes back to end its calls.
    assert_eq!(world.gate.manifest().unwrap().ver, kept.ver);
    world.admit(&[("v2", ReleaseState::Active)], NOW).unwrap();
    let member = world.gate.admit(&token("v1", "in", NOW), NOW).unwrap();
    assert_eq!(member.state, Standing::Draining(Why::FellOut));
    // By its id alone nobody is whose token is no good.
    let forged = sign_worker(&claims("v1", "of-another-key", NOW), &key(STRANGER));
    let refused = world.gate.admit(&forged, NOW).unwrap_err();
    assert_eq!(refused.word(), "unknown-key");

    world.gate.save(NOW).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\"format\":2"), "{text}");
    let again = store().load().unwrap().unwrap();
    let mut digests: Vec<bool> = (again.known.iter()).map(|is| is.digest.is_some()).collect();
    digests.sort_unstable();
    assert_eq!(
        digests,
        [false, true],
        "it is known by more than its id now"
    );
}

#[test]
fn what_a_crash_left_beside_it_is_no_trap() {
    let folder = Folder::new("left");
    let path = folder.0.join("gate.json");
    let victim = folder.0.join("victim");
    fs::write(&victim, "whole").unwrap();
    std::os::unix::fs::symlink(&victim, folder.0.join("gate.json.tmp")).unwrap();
    let mut world = World::new();
    let store = Box::new(FileStore::new(&path));
    world.gate = Gate::open(settings(), &world.chain, store, NOW).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "whole");
    assert!(!path.is_symlink());
    let again = create(&path, b"", Sight::Private).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
}
