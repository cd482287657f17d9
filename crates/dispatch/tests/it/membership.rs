//! Workers that say by signature which release they are of.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use segue_core::names::{Environment, TokenId};
use segue_core::plane::{DrainedBy, PlaneEvent, Told};
use segue_core::time::Millis;
use segue_dispatch::admit::{Admit as _, Knock};
use segue_dispatch::signed::Signed;
use segue_gateway::clock;
use segue_membership::claims::Seconds;
use segue_membership::{
    Admitted, KeySet, Manifest, ReleaseState, SigningKey, WorkerClaims, sign_manifest, sign_worker,
};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::control::{AGENT, Control, Dispatcher, release};
use crate::dispatcher::{quick, ready};
use crate::sim::{Sim, connect};
use crate::upstream::{Outcome, PATIENCE, Upstream, job};
use crate::wire::{FromWorker, Register};

/// Whoever signs, and the files.
struct Signer {
    root: SigningKey,
    manifest: SigningKey,
    worker: SigningKey,
    folder: PathBuf,
    ver: u64,
    prev: Option<String>,
}

fn environment() -> Environment {
    "test".parse().unwrap()
}

fn seconds(after: u64) -> Seconds {
    (clock::now() + Millis::from_secs(after)).into()
}

impl Signer {
    fn new(folder: PathBuf) -> Self {
        let [root, manifest, worker] = [1, 2, 3].map(|seed| SigningKey::from_seed([seed; 32]));
        let signer = Self {
            root,
            manifest,
            worker,
            folder,
            ver: 0,
            prev: None,
        };
        std::fs::write(signer.folder.join("keys.jsonl"), signer.set(1) + "\n").unwrap();
        signer
    }

    /// A key set: the keys of now, all of them.
    fn set(&self, number: u64) -> String {
        let of = |key: &SigningKey| vec![key.kid()];
        let set = KeySet {
            iss: "segue".to_owned(),
            env: environment(),
            set: number,
            iat: seconds(0),
            exp: None,
            keys: [&self.root, &self.manifest, &self.worker]
                .map(SigningKey::public)
                .into(),
            root: of(&self.root),
            threshold: 1,
            manifest: of(&self.manifest),
            worker: of(&self.worker),
            floor: None,
        };
        set.sign(&[&self.root])
    }

    /// The next key set comes behind the first.
    fn rotate(&self) {
        let path = self.folder.join("keys.jsonl");
        let chain = std::fs::read_to_string(&path).unwrap() + &self.set(2) + "\n";
        std::fs::write(path, chain).unwrap();
    }

    /// The next manifest, which admits these.
    fn admit(&mut self, labels: &[&str]) {
        self.admit_from(labels, 0);
    }

    /// The same, made by a clock that is so many seconds ahead.
    fn admit_from(&mut self, labels: &[&str], ahead: u64) {
        self.ver += 1;
        let admitted = |label: &&str| Admitted {
            agent: AGENT.parse().unwrap(),
            version: label.parse().unwrap(),
            digest: release(label),
            state: ReleaseState::Active,
            weight: 0,
        };
        let manifest = Manifest {
            iss: "segue".to_owned(),
            env: environment(),
            ver: self.ver,
            prev: self.prev.clone(),
            iat: seconds(ahead),
            exp: seconds(ahead + 900),
            admit: labels.iter().map(admitted).collect(),
            revoked: Vec::new(),
        };
        let signed = sign_manifest(&manifest, &self.manifest);
        self.prev = Some(segue_membership::manifest::fingerprint(&signed));
        std::fs::write(self.folder.join("manifest.jws"), signed).unwrap();
    }

    fn token(label: &str, key: &SigningKey) -> String {
        let claims = WorkerClaims {
            iss: "segue".to_owned(),
            aud: environment(),
            sub: None,
            agent: AGENT.parse().unwrap(),
            version: label.parse().unwrap(),
            digest: release(label),
            cnf: None,
            iat: seconds(0),
            nbf: None,
            exp: seconds(3_600),
            jti: format!("token-{label}").parse::<TokenId>().unwrap(),
        };
        sign_worker(&claims, key)
    }

    fn open(&self) -> Signed {
        Signed::open(
            environment(),
            self.folder.join("keys.jsonl"),
            self.folder.join("manifest.jws"),
            &self.folder.join("membership.json"),
            clock::now(),
        )
        .unwrap()
    }
}

async fn stage() -> (Upstream, Control, Signer) {
    let (upstream, control) = (quick().await, Control::open());
    let folder = control.folder().to_owned();
    (upstream, control, Signer::new(folder))
}

#[tokio::test]
async fn a_token_in_the_path_says_whose_a_worker_is() {
    let (upstream, control, mut signer) = stage().await;
    signer.admit(&["v1"]);
    let dispatcher = control
        .start_with(&upstream.url(), Arc::new(signer.open()))
        .await;
    let mut plan = dispatcher.plan("");
    plan.url = format!(
        "{}/w/{}",
        dispatcher.url,
        Signer::token("v1", &signer.worker)
    );
    let worker = Sim::start(&plan).await;
    ready(&upstream).await;
    let wanted = job(AGENT, "");
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    worker.assigned(&wanted.id).await;
    control.live("v1", 1).await;

    // Of a release that is not admitted; of another signer; of nobody; saying another release.
    let foreign = SigningKey::from_seed([9; 32]);
    for (path, deployment) in [
        (format!("/w/{}", Signer::token("v2", &signer.worker)), ""),
        (format!("/w/{}", Signer::token("v1", &foreign)), ""),
        (String::new(), "v1"),
        (format!("/w/{}", Signer::token("v1", &signer.worker)), "v2"),
    ] {
        let mut register = dispatcher.plan(deployment).register;
        deployment.clone_into(&mut register.deployment);
        let mut socket = connect(&format!("{}{path}", dispatcher.url)).await.unwrap();
        let frame = Message::binary(FromWorker::Register(register).frame());
        let answer = crate::dispatcher::exchange(&mut socket, frame).await;
        let is_refused = matches!(&answer, Some(Ok(Message::Close(Some(close)))) if u16::from(close.code) == 1008);
        assert!(is_refused, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn who_falls_out_of_the_manifest_drains_and_keeps_its_jobs() {
    let (upstream, control, mut signer) = stage().await;
    signer.admit(&["v1", "v2"]);
    let dispatcher = control
        .start_with(&upstream.url(), Arc::new(signer.open()))
        .await;
    let mut plan = dispatcher.plan("");
    plan.url = format!(
        "{}/w/{}",
        dispatcher.url,
        Signer::token("v1", &signer.worker)
    );
    let old = Sim::start(&plan).await;
    ready(&upstream).await;
    let first = job(AGENT, "");
    assert_eq!(upstream.launch(&first).await, Outcome::Assigned);
    old.assigned(&first.id).await;

    signer.admit(&["v2"]);
    let drains = || {
        let workers = dispatcher.running.as_ref().unwrap().workers();
        workers.iter().all(|worker| !worker.available)
    };
    let until = async {
        while !drains() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let drained = timeout(PATIENCE, until).await;
    assert!(drained.is_ok(), "it still takes jobs");
    control.live("v1", 1).await;
    assert!(matches!(
        upstream.launch(&job(AGENT, "")).await,
        Outcome::Lost(_)
    ));
    old.end(&first.id, crate::wire::JobStatus::Success);
    control.live("v1", 0).await;
}

/// What the audit log is told, as soon as it has this.
async fn audited(control: &Control, what: &str, is: impl Fn(&Told) -> bool) -> PlaneEvent {
    let found = |told: &crate::control::Told| told.events.iter().any(|event| is(&event.what));
    let told = control.until(what, found).await;
    let event = told.events.iter().find(|event| is(&event.what));
    event.expect("it was seen").clone()
}

fn is_rejected(what: &Told, word: &str) -> bool {
    matches!(what, Told::WorkerRejected { reason, .. } if reason == word)
}

async fn register(dispatcher: &Dispatcher, path: &str, of: Register) -> Option<u16> {
    let mut socket = connect(&format!("{}{path}", dispatcher.url)).await.unwrap();
    let frame = Message::binary(FromWorker::Register(of).frame());
    match crate::dispatcher::exchange(&mut socket, frame).await {
        Some(Ok(Message::Close(close))) => close.map(|close| close.code.into()),
        other => panic!("expected a refusal: {other:?}"),
    }
}

#[tokio::test]
async fn whoever_is_turned_away_is_in_the_audit_log() {
    let (upstream, control, mut signer) = stage().await;
    signer.admit(&["v1"]);
    let dispatcher = control
        .start_with(&upstream.url(), Arc::new(signer.open()))
        .await;
    let forged = Signer::token("v1", &SigningKey::from_seed([9; 32]));
    let plain = dispatcher.plan("").register;
    let path = format!("/w/{forged}");
    assert_eq!(
        register(&dispatcher, &path, plain.clone()).await,
        Some(1008)
    );
    let event = audited(&control, "the forged token", |what| {
        is_rejected(what, "unknown-key")
    })
    .await;
    assert_eq!((event.agent.as_str(), event.times), (AGENT, 1));
    let Told::WorkerRejected { from, .. } = event.what else {
        panic!("{event:?}");
    };
    assert_eq!(from, Some(Ipv4Addr::LOCALHOST.into()));

    // A token of one agent does not get the jobs of another one, nor those of every room.
    let path = format!("/w/{}", Signer::token("v1", &signer.worker));
    for (name, namespace) in [("other", None), ("", None), (AGENT, Some("elsewhere"))] {
        let of = Register {
            agent_name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            ..plain.clone()
        };
        assert_eq!(register(&dispatcher, &path, of).await, Some(1008), "{name}");
    }
    let event = audited(&control, "the other agent's name", |what| {
        is_rejected(what, "other-agent")
    })
    .await;
    assert_eq!(event.agent.as_str(), AGENT);
    // Of whom nobody knows whose it is, only the log speaks.
    let of = Register {
        agent_name: "nobody".to_owned(),
        ..plain
    };
    assert_eq!(register(&dispatcher, "", of).await, Some(1008));
    assert_eq!(upstream.records().all().len(), 0, "nobody was registered");
}

#[tokio::test]
async fn a_manifest_that_came_before_its_key_set_is_taken_once_that_is_there() {
    let (upstream, control, mut signer) = stage().await;
    signer.admit(&["v2"]);
    let dispatcher = control
        .start_with(&upstream.url(), Arc::new(signer.open()))
        .await;
    // Another key signs from now on; its manifest is copied first.
    let second = SigningKey::from_seed([4; 32]);
    signer.manifest = second;
    signer.admit(&["v1", "v2"]);
    let event = audited(&control, "the manifest is refused", |what| {
        matches!(what, Told::MembershipRefused { document, reason, .. }
            if document == "manifest" && reason == "unknown-key")
    })
    .await;
    assert_eq!(event.agent.as_str(), AGENT);
    signer.rotate();
    // It tries again until it is let in, as workers do.
    let url = format!(
        "{}/w/{}",
        dispatcher.url,
        Signer::token("v1", &signer.worker)
    );
    let let_in = async {
        loop {
            let mut socket = connect(&url).await.unwrap();
            let register = FromWorker::Register(dispatcher.plan("").register);
            let frame = Message::binary(register.frame());
            match crate::dispatcher::exchange(&mut socket, frame).await {
                Some(Ok(Message::Binary(_))) => return,
                _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    };
    timeout(PATIENCE, let_in).await.expect("it is let in");
}

#[tokio::test]
async fn who_is_admitted_again_takes_jobs_again() {
    let (upstream, control, mut signer) = stage().await;
    signer.admit(&["v1", "v2"]);
    let dispatcher = control
        .start_with(&upstream.url(), Arc::new(signer.open()))
        .await;
    let mut plan = dispatcher.plan("");
    let token = Signer::token("v1", &signer.worker);
    plan.url = format!("{}/w/{token}", dispatcher.url);
    let worker = Sim::start(&plan).await;
    ready(&upstream).await;
    let drained_by = |by: Option<DrainedBy>| {
        let dispatcher = &dispatcher;
        async move {
            let is = || {
                let workers = dispatcher.running.as_ref().unwrap().workers();
                workers.iter().all(|worker| worker.drain == by)
            };
            let until = async {
                while !is() {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            let came = timeout(PATIENCE, until).await;
            assert!(came.is_ok(), "it is not drained by {by:?}");
        }
    };
    signer.admit(&["v2"]);
    drained_by(Some(DrainedBy::Membership)).await;
    // As after a rollback: nobody starts the worker anew.
    signer.admit(&["v1"]);
    drained_by(None).await;
    crate::operators::available(&upstream).await;
    let wanted = job(AGENT, "");
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    worker.assigned(&wanted.id).await;
}

/// Whether a worker of a release is let in.
fn admits(signed: &Signed, signer: &Signer, label: &str) -> bool {
    let token = Signer::token(label, &signer.worker);
    let knock = Knock {
        token: Some(&token),
        deployment: "",
        agent_name: AGENT,
        namespace: "",
    };
    signed.admit(knock, clock::now()).is_ok()
}

/// What is refused for the first time, in one word each.
fn refused(signed: &Signed, after: u64) -> Vec<&'static str> {
    let refused = signed.refresh(clock::now() + Millis::from_secs(after));
    refused.iter().map(|refused| refused.reason).collect()
}

#[tokio::test]
async fn a_manifest_that_a_full_disk_refused_is_taken_once_there_is_room() {
    let (_upstream, control, mut signer) = stage().await;
    signer.admit(&["v1"]);
    let signed = signer.open();
    // Where the next state is drafted is a folder, so that no file can be there.
    let draft = control.folder().join("membership.json.tmp");
    std::fs::create_dir(&draft).unwrap();
    signer.admit(&["v1", "v2"]);
    assert_eq!(refused(&signed, 0), ["store"]);
    assert_eq!(refused(&signed, 0), [""; 0], "it is told once");
    assert!(admits(&signed, &signer, "v1"), "what was believed stays");
    assert!(!admits(&signed, &signer, "v2"));
    std::fs::remove_dir(&draft).unwrap();
    assert_eq!(refused(&signed, 0), [""; 0]);
    assert!(admits(&signed, &signer, "v2"));
}

#[tokio::test]
async fn a_manifest_of_a_clock_that_is_ahead_is_taken_when_its_time_has_come() {
    const AHEAD: u64 = 600;
    let (_upstream, _control, mut signer) = stage().await;
    signer.admit(&["v1"]);
    let signed = signer.open();
    signer.admit_from(&["v1", "v2"], AHEAD);
    assert_eq!(refused(&signed, 0), ["from-future"]);
    assert!(!admits(&signed, &signer, "v2"));
    assert_eq!(refused(&signed, AHEAD), [""; 0]);
    assert!(admits(&signed, &signer, "v2"));
}
