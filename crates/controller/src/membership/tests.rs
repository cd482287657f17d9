//! Files, registrations and restarts, without a network.

use segue_core::release::Content;
use segue_core::rollout::Notice;
use segue_core::time::Millis;
use segue_membership::manifest::{Revoked, fingerprint};
use segue_membership::token::Confirmation;
use segue_membership::{
    Admitted, KeySet, Manifest, ReleaseState, SigningKey, WorkerClaims, sign_manifest, sign_proof,
    sign_worker,
};

use super::*;

const DAY: Millis = Millis::from_secs(86_400);

struct World {
    folder: PathBuf,
    membership: Membership,
    need: WorkersNeed,
    /// The last manifest.
    last: Option<(u64, String)>,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

fn release(label: &str) -> Release {
    let content = Content {
        command: vec![label.to_owned()],
        ..Content::default()
    };
    Release::new(&desk(), label.parse().unwrap(), content, 1, 10)
}

fn desk() -> AgentName {
    "desk".parse().unwrap()
}

fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

impl World {
    fn new(name: &str, need: WorkersNeed) -> Self {
        let name = format!("segue-members-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let [root, manifest, worker] = [1, 2, 3].map(|seed| key(seed).public());
        let set = KeySet {
            iss: "segue".to_owned(),
            env: "production".parse().unwrap(),
            set: 1,
            iat: clock::now().into(),
            exp: None,
            keys: vec![root, manifest, worker],
            root: vec![root.kid()],
            threshold: 1,
            manifest: vec![manifest.kid()],
            worker: vec![worker.kid()],
            floor: None,
        };
        fs::write(folder.join("keys.jsonl"), set.sign(&[&key(1)])).unwrap();
        let mut world = Self {
            membership: Membership::default(),
            folder,
            need,
            last: None,
        };
        world.restart();
        // Nobody has signed yet.
        world.membership.told();
        world
    }

    fn restart(&mut self) {
        let spec = MembershipSpec {
            environment: "production".parse().unwrap(),
            keys: "keys.jsonl".to_owned(),
            manifest: "manifest.jws".to_owned(),
            workers: self.need,
        };
        let elsewhere = BTreeSet::from(["jobs".parse().unwrap()]);
        let config = MembershipConfig { spec, elsewhere };
        let state = StateDir::new(&self.folder);
        let bell = Arc::new(Notify::new());
        self.membership = Membership::open(Some(config), &self.folder, &state, bell).unwrap();
    }

    /// A manifest with these releases lies there, and is looked at.
    fn sign(&mut self, labels: &[&str], revoked: &[&str]) {
        let revoked = revoked.iter().map(|id| Revoked::Jti(id.parse().unwrap()));
        self.revoke(labels, revoked.collect());
    }

    fn revoke(&mut self, labels: &[&str], revoked: Vec<Revoked>) {
        let now = clock::now();
        let (ver, prev) = match &self.last {
            Some((ver, text)) => (ver + 1, Some(fingerprint(text))),
            None => (1, None),
        };
        let admit = labels.iter().map(|label| Admitted {
            agent: desk(),
            version: label.parse().unwrap(),
            digest: release(label).id,
            state: ReleaseState::Active,
            weight: 0,
        });
        let manifest = Manifest {
            iss: "segue".to_owned(),
            env: "production".parse().unwrap(),
            ver,
            prev,
            iat: now.into(),
            exp: (now + Millis::from_secs(900)).into(),
            admit: admit.collect(),
            revoked,
        };
        let text = sign_manifest(&manifest, &key(2));
        fs::write(self.folder.join("manifest.jws"), &text).unwrap();
        self.last = Some((ver, text));
        self.membership.look(now);
    }

    fn barred(&self, name: &str, label: &str, badge: Option<&Badge>) -> Option<String> {
        let release = release(label);
        let of = (&release, badge);
        let now = clock::now();
        self.membership.standing(&desk(), &worker(name), of, now).1
    }

    /// Registers as a worker does, with the key of that seed; answers the word.
    fn register(&self, name: &str, token: &str, seed: u8) -> String {
        let now = clock::now();
        let proof = match self.show(name, token, None) {
            Err(NotRegistered::Prove(nonce)) => {
                let env = "production".parse().unwrap();
                sign_proof(&env, token, &nonce, now, &key(seed))
            }
            answer => return word(answer),
        };
        word(self.show(name, token, Some(&proof)))
    }

    fn show(
        &self,
        name: &str,
        token: &str,
        proof: Option<&str>,
    ) -> Result<Option<&'static str>, NotRegistered> {
        let is = release("v1");
        let runs = (Some((&is.label, is.id)), false);
        let of = (&desk(), &worker(name));
        self.membership
            .register(of, runs, (token, proof), clock::now())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn word(answer: Result<Option<&'static str>, NotRegistered>) -> String {
    match answer {
        Ok(barred) => barred.unwrap_or("serving").to_owned(),
        Err(NotRegistered::Refused { reason, .. }) => reason.to_owned(),
        Err(other) => format!("{other:?}"),
    }
}

/// A token of v1, bound to the key of that seed unless it is 0.
fn token(id: &str, seed: u8, change: impl FnOnce(&mut WorkerClaims)) -> String {
    let now = clock::now();
    let mut claims = WorkerClaims {
        iss: "segue".to_owned(),
        aud: "production".parse().unwrap(),
        sub: None,
        agent: desk(),
        version: "v1".parse().unwrap(),
        digest: release("v1").id,
        cnf: (seed > 0).then(|| Confirmation {
            jwk: key(seed).public(),
        }),
        iat: now.into(),
        nbf: None,
        exp: (now + Millis::from_secs(300)).into(),
        jti: id.parse().unwrap(),
    };
    change(&mut claims);
    sign_worker(&claims, &key(3))
}

#[test]
fn who_is_attested_stands_by_the_manifest_alone() {
    let mut world = World::new("attested", WorkersNeed::Attested);
    assert_eq!(world.barred("w1", "v1", None).unwrap(), "stale", "none yet");
    world.sign(&["v1"], &[]);
    assert_eq!(world.barred("w1", "v1", None), None);
    assert_eq!(world.barred("w2", "v2", None).unwrap(), "fell-out");
    world.sign(&["v2"], &[]);
    assert_eq!(world.barred("w1", "v1", None).unwrap(), "fell-out");
    world.restart();
    assert_eq!(world.barred("w1", "v1", None).unwrap(), "fell-out");
    world.sign(&["v1", "v2"], &[]);
    assert_eq!(world.barred("w1", "v1", None), None);
    // Its grace is over.
    let release = release("v1");
    let late = clock::now() + DAY + DAY;
    let (name, of) = (worker("w1"), (&release, None));
    let stands = world.membership.standing(&desk(), &name, of, late);
    assert_eq!(stands.1.unwrap(), "stale");
    // Nobody asks for any.
    let none = Membership::default();
    assert_eq!(none.standing(&desk(), &name, of, late), (None, None));
}

#[test]
fn who_must_register_shows_a_token_of_its_own() {
    let mut world = World::new("registered", WorkersNeed::Registered);
    world.sign(&["v1"], &[]);
    let check = |name: &str, token: &str, seed: u8, expected: &str| {
        assert_eq!(world.register(name, token, seed), expected);
    };
    assert_eq!(world.barred("w1", "v1", None).unwrap(), "unregistered");
    let good = token("t1", 7, |_| ());
    check("w1", &good, 9, "proof");
    check("w1", &token("t2", 0, |_| ()), 7, "unbound");
    check("w1", "x", 7, "malformed");
    let of_other = token("t3", 7, |claims| claims.agent = "other".parse().unwrap());
    check("w1", &of_other, 7, "not-admitted");
    let of_digest = token("t4", 7, |claims| claims.digest = release("v2").id);
    check("w1", &of_digest, 7, "not-admitted");
    let of_worker = token("t5", 7, |claims| claims.sub = Some(worker("w9")));
    check("w1", &of_worker, 7, "contradiction");
    assert_eq!(world.barred("w1", "v1", None).unwrap(), "unregistered");
    assert_eq!(world.membership.told().notices.len(), 5, "each reason once");
    check("w1", &good, 7, "serving");
    assert_eq!(world.barred("w1", "v1", None), None);
    assert_eq!(world.barred("w2", "v1", None).unwrap(), "unregistered");
    // The next process shows its own.
    world.membership.forget(&desk(), &worker("w1"));
    assert_eq!(world.barred("w1", "v1", None).unwrap(), "unregistered");
}

#[test]
fn a_proof_is_good_once() {
    let mut world = World::new("replay", WorkersNeed::Registered);
    world.sign(&["v1"], &[]);
    let token = token("t1", 7, |_| ());
    let Err(NotRegistered::Prove(nonce)) = world.show("w1", &token, None) else {
        panic!("it is asked for a proof");
    };
    let env = "production".parse().unwrap();
    let proof = sign_proof(&env, &token, &nonce, clock::now(), &key(7));
    assert_eq!(word(world.show("w1", &token, Some(&proof))), "serving");
    assert_eq!(word(world.show("w2", &token, Some(&proof))), "replayed");
    assert_eq!(world.barred("w2", "v1", None).unwrap(), "unregistered");
}

#[test]
fn a_registration_outlives_the_controller_and_ends_with_its_token() {
    let mut world = World::new("outlives", WorkersNeed::Registered);
    world.sign(&["v1"], &[]);
    assert_eq!(world.register("w1", &token("t1", 7, |_| ()), 7), "serving");
    let (release, name) = (release("v1"), worker("w1"));
    let now = clock::now();
    let of = (&release, None);
    let (badge, barred) = world.membership.standing(&desk(), &name, of, now);
    assert_eq!(barred, None);
    world.restart();
    assert_eq!(world.barred("w1", "v1", badge.as_ref()), None);
    world.sign(&["v2"], &[]);
    let barred = world.barred("w1", "v1", badge.as_ref());
    assert_eq!(barred.unwrap(), "fell-out");
    world.sign(&["v1"], &["t1"]);
    let barred = world.barred("w1", "v1", badge.as_ref());
    assert_eq!(barred.unwrap(), "revoked");
}

#[test]
fn who_is_revoked_is_barred_also_where_nobody_registers() {
    let mut world = World::new("revoked", WorkersNeed::Attested);
    world.sign(&["v1"], &[]);
    // A bearer shows its token, though nobody asks; of two others one is revoked by its name.
    assert_eq!(world.register("w1", &token("t1", 0, |_| ()), 0), "serving");
    let (release, name) = (release("v1"), worker("w1"));
    let of = (&release, None);
    let (badge, _) = world.membership.standing(&desk(), &name, of, clock::now());
    world.revoke(
        &["v1"],
        vec![
            Revoked::Jti("t1".parse().unwrap()),
            Revoked::Worker(worker("w2")),
        ],
    );
    let revoked = Some("revoked".to_owned());
    for restarted in [false, true] {
        if restarted {
            world.restart();
        }
        assert_eq!(world.barred("w1", "v1", badge.as_ref()), revoked);
        assert_eq!(world.barred("w2", "v1", None), revoked);
        assert_eq!(world.barred("w3", "v1", None), None);
    }
    world.sign(&["v1"], &[]);
    assert_eq!(world.barred("w1", "v1", badge.as_ref()), None);
    assert_eq!(world.barred("w2", "v1", None), None);
}

#[test]
fn a_worker_is_revoked_by_its_name_whatever_its_token_says() {
    let mut world = World::new("by-name", WorkersNeed::Registered);
    world.sign(&["v1"], &[]);
    let nameless = token("t1", 7, |_| ());
    assert_eq!(world.register("w1", &nameless, 7), "serving");
    world.revoke(&["v1"], vec![Revoked::Worker(worker("w1"))]);
    assert_eq!(world.barred("w1", "v1", None).unwrap(), "revoked");
    let name = worker("w1");
    let says = world
        .membership
        .registered(&desk(), &name, None, clock::now())
        .unwrap();
    assert_eq!(says.barred, Some("revoked"));
    assert_eq!(world.register("w1", &nameless, 7), "revoked");
}

#[test]
fn who_is_in_stays_in_whatever_else_is_shown_in_its_name() {
    let mut world = World::new("stays", WorkersNeed::Registered);
    world.sign(&["v1"], &[]);
    let (first, other) = (token("t1", 7, |_| ()), token("t2", 8, |_| ()));
    assert_eq!(world.register("w1", &first, 7), "serving");
    assert_eq!(world.register("w9", &other, 8), "serving");
    // Both have ended. A second process of w1 shows the first again; w9 shows its own as w1's.
    let late = clock::now() + Millis::from_secs(3_600);
    let show = |world: &World, (token, seed): (&str, u8), is_in: bool| {
        let (is, of) = (release("v1"), (&desk(), &worker("w1")));
        let runs = (Some((&is.label, is.id)), is_in);
        let env = "production".parse().unwrap();
        let show = |proof| world.membership.register(of, runs, (token, proof), late);
        let Err(NotRegistered::Prove(nonce)) = show(None) else {
            panic!("it is asked for a proof");
        };
        let proof = sign_proof(&env, token, &nonce, late, &key(seed));
        word(show(Some(&proof)))
    };
    let (release, name) = (release("v1"), worker("w1"));
    let stands = |world: &World, badge: Option<&Badge>| {
        (world.membership).standing(&desk(), &name, (&release, badge), late)
    };
    for shown in [(&*first, 7), (&*other, 8)] {
        assert_eq!(show(&world, shown, false), "serving");
        assert_eq!(stands(&world, None).1, None);
    }
    let badge = stands(&world, None).0;
    assert_eq!(badge.as_ref().unwrap().token.as_str(), "t1");
    // The controller is another one, which knows by the log that it is in.
    world.membership.look(clock::now());
    world.restart();
    assert_eq!(show(&world, (&first, 7), true), "serving");
    assert_eq!(stands(&world, badge.as_ref()).1, None);
    // Nobody knows it: it comes again to end its calls.
    assert_eq!(show(&world, (&first, 7), false), "expired");
    assert_eq!(stands(&world, None).1.unwrap(), "expired");
}

#[test]
fn what_workers_are_told_is_what_the_table_says() {
    let mut world = World::new("told", WorkersNeed::Attested);
    world.sign(&["v1"], &[]);
    let (is, name) = (release("v1"), worker("w1"));
    let runs = (&is.label, is.id);
    let attested = |world: &World| (world.membership).attested(&desk(), &name, runs, clock::now());
    let told = |barred| Some(Judged { barred });
    assert_eq!(attested(&world), told(None));
    assert_eq!(world.register("w1", &token("t1", 7, |_| ()), 7), "serving");
    // It has ended, which is nothing to a worker that needs none.
    let late = clock::now() + Millis::from_secs(3_600);
    let says = |world: &World| (world.membership).registered(&desk(), &name, Some(runs), late);
    assert_eq!(says(&world), told(None));
    world.sign(&["v2"], &[]);
    assert_eq!(attested(&world), told(Some("fell-out")));
    assert_eq!(says(&world), told(Some("fell-out")));
    let registered = World::new("told-2", WorkersNeed::Registered);
    assert_eq!(attested(&registered), None, "it is to show a token");
}

#[test]
fn a_file_that_cannot_be_read_is_told_once() {
    let mut world = World::new("unread", WorkersNeed::Attested);
    world.restart();
    let unread = |world: &World| -> Vec<String> {
        for _ in 0..3 {
            world.membership.look(clock::now());
        }
        let told = world.membership.told().notices.into_iter();
        let told = told.map(|(_, notice)| match notice {
            Notice::MembershipRefused {
                document, reason, ..
            } => format!("{document} {reason}"),
            other => format!("{other:?}"),
        });
        told.collect()
    };
    assert_eq!(unread(&world), ["manifest unread"], "there is none yet");
    world.sign(&["v1"], &[]);
    assert!(unread(&world).is_empty());
    for file in ["manifest.jws", "keys.jsonl"] {
        fs::remove_file(world.folder.join(file)).unwrap();
    }
    assert_eq!(unread(&world), ["keys unread", "manifest unread"]);
    assert_eq!(world.barred("w1", "v1", None), None, "it stays as it was");
    // Back, and away again: that is told again.
    world.sign(&["v1"], &[]);
    assert!(unread(&world).is_empty());
    fs::remove_file(world.folder.join("manifest.jws")).unwrap();
    assert_eq!(unread(&world), ["manifest unread"]);
}

#[test]
fn what_is_refused_is_told_once_and_offered_again() {
    let mut world = World::new("again", WorkersNeed::Attested);
    world.sign(&["v1"], &[]);
    let good = world.last.clone().unwrap().1;
    let file = world.folder.join("manifest.jws");
    fs::write(&file, "nonsense").unwrap();
    for _ in 0..3 {
        world.membership.look(clock::now());
    }
    let told = world.membership.told().notices;
    assert!(
        matches!(&told[..], [(None, Notice::MembershipRefused { document, .. })] if document == "manifest"),
        "{told:?}"
    );
    assert_eq!(world.barred("w1", "v1", None), None, "it stays as it was");
    fs::write(&file, good).unwrap();
    world.membership.look(clock::now());
    assert!(world.membership.told().notices.is_empty());
}
