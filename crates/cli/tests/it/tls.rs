//! A gateway that speaks TLS, for an agent that minds its host and path.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rustix::process::{Signal, kill_process};
use rustls::{ClientConfig, RootCertStore};
use segue_voice::caller::{CallPlan, call};

use crate::site::{RAMP, SETTINGS, Site};

pub(crate) const HOST: &str = "calls.example.com";

/// Writes a new identity, and answers what a caller who trusts it, and minds names, works with.
pub(crate) fn identity(dir: &Path) -> Arc<ClientConfig> {
    let made = generate_simple_self_signed([HOST.to_owned()]).unwrap();
    fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

pub(crate) fn plan(site: &Site, id: &str, talk_ms: u64, tls: &Arc<ClientConfig>) -> CallPlan {
    let mut plan = site.plan(id, talk_ms);
    plan.url = plan
        .url
        .replace("ws://", "wss://")
        .replace("/ws/", "/desk/ws/");
    plan.headers.push(("Host".to_owned(), HOST.to_owned()));
    plan.tls = Some(Arc::clone(tls));
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn smoke_calls_come_in_as_callers_do_over_tls_and_by_host() {
    let settings = format!("{SETTINGS}hosts = [\"{HOST}\", \"other.example\"]\npath = \"/desk\"\n");
    let rest = format!("{RAMP}\n[gateway.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n");
    let mut site = Site::prepare(&settings, &rest);
    let first = identity(&site.dir);
    site.serve().await;
    site.deploy("v1");
    let plan_a = plan(&site, "CAa", 8_000, &first);
    let call_a = tokio::spawn(async move { call(&plan_a).await });
    site.live(1).await;

    // A certificate is replaced without a restart; the call that stands does not notice.
    let renewed = identity(&site.dir);
    let gateway = site.pid("run/gateway.json").unwrap();
    kill_process(gateway, Signal::HUP).unwrap();
    site.until("the new identity is in use", || {
        site.state("log/gateway.log")
            .is_some_and(|log| log.contains("the TLS identity was read again"))
    })
    .await;
    site.deploy("v2");
    let report = call(&plan(&site, "CAb", 1_500, &renewed)).await;
    assert!(report.turns_heard() > 0, "{report:?}");
    let report = call_a.await.unwrap();
    assert!(report.turns_heard() > 0, "{report:?}");
    site.spotless(2);
    let verdict = site.judge();
    assert_eq!(verdict.by_release["v1"], 1, "{verdict:?}");
    assert_eq!(verdict.by_release["v2"], 1, "{verdict:?}");
}
