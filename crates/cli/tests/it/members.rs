//! `[membership]` with every process: a release that falls out of the manifest gets no new call and
//! keeps its own, and comes back without anything being started again.

use segue_voice::caller::{CallEnd, CallReport};
use serde_json::Value;

use crate::permits::ask;
use crate::site::{SETTINGS, Site, reports};

const MEMBERSHIP: &str = r#"
[membership]
environment = "production"
keys = "keys.jsonl"
manifest = "manifest.jws"
"#;

fn signer(site: &Site, args: &[&str]) {
    site.ok(&[&["membership"], args].concat());
}

/// The next manifest admits this and nothing else.
fn admit(site: &Site, label: &str, digest: &str) {
    let admit = format!("desk:{label}:{digest}:active");
    signer(site, &["sign", "--key", "m.pem", "--admit", &admit]);
}

fn entries(site: &Site, fact: &str) -> Vec<Value> {
    let (_, audit) = ask(site, "GET", "/v1/audit?limit=1000", None);
    let audit: Value = serde_json::from_str(&audit).unwrap_or_default();
    let entries = audit["entries"].as_array().cloned().unwrap_or_default();
    let of = entries
        .into_iter()
        .filter(|entry| entry["fact"]["fact"] == fact);
    of.collect()
}

async fn one(site: &Site, name: &str) -> CallReport {
    reports(site.crowd(name, 1, 300)).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_falls_out_of_the_manifest_and_comes_back() {
    let mut site = Site::prepare(SETTINGS, MEMBERSHIP);
    for key in ["root.pem", "m.pem", "w.pem"] {
        signer(&site, &["keygen", key]);
    }
    let rotate = "rotate --env production --root root.jwk --manifest m.jwk --worker w.jwk --sign \
                  root.pem";
    signer(&site, &rotate.split_whitespace().collect::<Vec<_>>());
    site.serve().await;

    // Nothing is signed: it starts, and waits for a signature.
    site.ok(&["deploy", "v1", "--wait", "none"]);
    site.until("it waits for a signature", || {
        let agent = site.agent().unwrap_or_default();
        let holds = agent["holds"].to_string();
        agent["phase"] == "provisioning"
            && holds.contains("bars 2 of its workers")
            && holds.contains("segue membership sign")
    })
    .await;
    signer(&site, &["sign", "--key", "m.pem"]);
    site.becomes("v1", "current").await;
    let digest = site.release("v1").unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();

    let talking = site.crowd("live", 4, 12_000);
    site.live(4).await;
    let workers = site.workers("v1");
    admit(&site, "other", &"0".repeat(64));
    site.until("both workers are barred", || {
        entries(&site, "worker_barred").len() == 2
    })
    .await;
    site.until("a new call is refused", || {
        let agent = site.agent().unwrap_or_default();
        agent["releases"][0]["workers_ready"] == 0
    })
    .await;
    let refused = one(&site, "refused").await;
    assert!(
        matches!(refused.end, CallEnd::Refused { status: 503 }),
        "{refused:?}"
    );
    // The controller dies, and the next one says the same.
    assert!(site.kill("run/controller.json"));
    site.until("the next controller", || site.agent().is_some())
        .await;

    admit(&site, "v1", &digest);
    site.until("they are back", || {
        let release = site.release("v1").unwrap_or_default();
        release["workers_ready"] == 2
    })
    .await;
    assert_eq!(site.workers("v1"), workers, "nothing was started again");
    for report in reports(talking).await {
        assert!(matches!(report.end, CallEnd::HungUp), "{report:?}");
    }
    let back = one(&site, "back").await;
    assert!(matches!(back.end, CallEnd::HungUp), "{back:?}");
    assert_eq!(entries(&site, "worker_barred").len(), 2);
}
