//! Calls over TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use segue_gateway::TlsFiles;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::agent::Manner;
use crate::support::rig::Rig;
use crate::support::table::release;
use crate::support::ws::{BINARY, Ws, read_head, upgrade};
use crate::support::{Dir, keeps_alive, soon, until};

/// Writes an identity; answers its certificate.
pub(crate) fn identity(dir: &Path) -> (TlsFiles, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["desk.example".to_owned()]).unwrap();
    let files = TlsFiles {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
    };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, made.cert.der().clone())
}

async fn connect(
    addr: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("desk.example").unwrap();
    connector
        .connect(name, TcpStream::connect(addr).await?)
        .await
}

pub(crate) async fn call(
    addr: SocketAddr,
    trusted: &CertificateDer<'static>,
    target: &str,
) -> (String, Ws<TlsStream<TcpStream>>) {
    let mut stream = connect(addr, trusted).await.unwrap();
    stream
        .write_all(upgrade(target, "").as_bytes())
        .await
        .unwrap();
    let (head, behind) = soon("a 101", read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (head, Ws::new(stream, behind, true))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_call_is_relayed_and_counted_like_any_other() {
    let certs = Dir::new();
    let (files, trusted) = identity(certs.path());
    let mut rig = Rig::start_with(Manner::Echo, Manner::Echo, |config| {
        config.tls = Some(files);
    })
    .await;
    let (head, mut ws) = call(rig.gateway.addr, &trusted, "/talk").await;
    let caller = ws.stream.get_ref().0.local_addr().unwrap();
    until("keepalives both ways", || {
        (keeps_alive(caller) && keeps_alive(rig.v1.addr)).then_some(())
    })
    .await;
    assert!(head.contains("; Secure\r\n"), "{head}");
    assert!(rig.v1.heads()[0].contains("X-Forwarded-Proto: https\r\n"));
    rig.counts(release("v1"), |counts| counts.live == 1).await;
    for number in 0..100u32 {
        let payload = number.to_be_bytes().repeat(1_000);
        ws.send(BINARY, &payload).await.unwrap();
        let back = soon("an echo", ws.next()).await.unwrap();
        assert_eq!(back, Some((BINARY, payload)));
    }

    // A new identity for new calls; this one talks on.
    let (_, renewed) = identity(certs.path());
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
    soon("the new identity", async {
        while connect(rig.gateway.addr, &renewed).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    ws.close(1000).await.unwrap();
    while let Ok(Some(_)) = soon("the end", ws.next()).await {}
    drop(ws);
    let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
    assert_eq!(counts.totals.closes.get("caller:1000"), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_under_a_tls_call_is_a_drop() {
    let certs = Dir::new();
    let (files, trusted) = identity(certs.path());
    let mut rig = Rig::start_with(Manner::Close(Vec::new()), Manner::Echo, |config| {
        config.tls = Some(files);
    })
    .await;
    let (_, mut ws) = call(rig.gateway.addr, &trusted, "/ws/a").await;
    let hello = soon("early bytes of a worker", ws.next()).await.unwrap();
    assert_eq!(hello, Some((BINARY, b"hello".to_vec())));
    while let Ok(Some(_)) = soon("the end", ws.next()).await {}
    drop(ws);
    let counts = rig.counts(release("v1"), |counts| counts.live == 0).await;
    assert_eq!(counts.totals.dropped, 1);
}
