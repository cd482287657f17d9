//! A server with TLS whose certificate no public authority has signed.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use segue_dispatch::trust::Trust;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::control::{AGENT, Control};
use crate::dispatcher::{quick, ready};
use crate::sim::Sim;
use crate::upstream::{Outcome, PATIENCE, job};

/// TLS in front of a server.
struct Front {
    url: String,
    /// Its certificate, as PEM.
    pem: String,
    /// Why handshakes failed.
    failed: mpsc::UnboundedReceiver<String>,
}

async fn front(server: SocketAddr) -> Front {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("wss://localhost:{}", listener.local_addr().unwrap().port());
    let (tell, failed) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, tell) = (acceptor.clone(), tell.clone());
            tokio::spawn(async move {
                match acceptor.accept(stream).await {
                    Ok(mut inside) => {
                        let mut outside = TcpStream::connect(server).await.unwrap();
                        // It ends as either side ends it.
                        let _ = copy_bidirectional(&mut inside, &mut outside).await;
                    }
                    Err(error) => {
                        // Nobody may be listening.
                        let _ = tell.send(error.to_string());
                    }
                }
            });
        }
    });
    let pem = made.cert.pem();
    Front { url, pem, failed }
}

#[tokio::test]
async fn a_server_is_known_by_the_certificate_in_ca_file_and_by_no_other() {
    let (upstream, mut control) = (quick().await, Control::open());
    let mut front = front(upstream.addr).await;

    // Public authorities have not signed it.
    let dispatcher = control.start_at(&front.url).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    let failed = timeout(PATIENCE, front.failed.recv()).await.unwrap();
    let why = failed.unwrap();
    assert!(why.contains("UnknownCA"), "{why}");
    drop(worker);
    dispatcher.kill();
    assert_eq!(upstream.records().all().len(), 0, "nothing was said to it");

    control.trust = Trust::only(front.pem.as_bytes()).unwrap();
    let dispatcher = control.start_at(&front.url).await;
    let worker = Sim::start(&dispatcher.plan("v1")).await;
    ready(&upstream).await;
    let wanted = job(AGENT, "");
    assert_eq!(upstream.launch(&wanted).await, Outcome::Assigned);
    let assignment = worker.assigned(&wanted.id).await;
    assert_eq!(assignment.url.as_deref(), Some(&*front.url));
}
