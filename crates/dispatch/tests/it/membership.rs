//! Workers that say by signature which release they are of.

use std::path::PathBuf;
use std::sync::Arc;

use segue_core::names::{Environment, TokenId};
use segue_core::time::Millis;
use segue_dispatch::admit::Signed;
use segue_gateway::clock;
use segue_membership::claims::Seconds;
use segue_membership::{
    Admitted, KeySet, Manifest, ReleaseState, SigningKey, WorkerClaims, sign_manifest, sign_worker,
};
use tokio_tungstenite::tungstenite::Message;

use crate::control::{AGENT, Control, release};
use crate::dispatcher::{quick, ready};
use crate::sim::{Sim, connect};
use crate::upstream::{Outcome, Upstream, job};
use crate::wire::FromWorker;

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
        let of = |key: &SigningKey| vec![key.kid()];
        let set = KeySet {
            iss: "segue".to_owned(),
            env: environment(),
            set: 1,
            iat: seconds(0),
            exp: None,
            keys: [&signer.root, &signer.manifest, &signer.worker]
                .map(SigningKey::public)
                .into(),
            root: of(&signer.root),
            threshold: 1,
            manifest: of(&signer.manifest),
            worker: of(&signer.worker),
            floor: None,
        };
        let line = set.sign(&[&signer.root]);
        std::fs::write(signer.folder.join("keys.jsonl"), line + "\n").unwrap();
        signer
    }

    /// The next manifest, which admits these.
    fn admit(&mut self, labels: &[&str]) {
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
            iat: seconds(0),
            exp: seconds(900),
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
    let drained = tokio::time::timeout(crate::upstream::PATIENCE, until).await;
    assert!(drained.is_ok(), "it still takes jobs");
    control.live("v1", 1).await;
    assert!(matches!(
        upstream.launch(&job(AGENT, "")).await,
        Outcome::Lost(_)
    ));
    old.end(&first.id, crate::wire::JobStatus::Success);
    control.live("v1", 0).await;
}
