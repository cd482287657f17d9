//! The admin API beyond loopback, with TLS; and connections that are slow on purpose.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use segue_controller::api::ApiTls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::{Directory, PATIENCE, Running, spec};

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_it_speaks_tls_and_answers_to_its_names() {
    let directory = Directory::new();
    let made = generate_simple_self_signed(["segue.example".to_owned()]).unwrap();
    let (cert, key) = (directory.0.join("cert.pem"), directory.0.join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut config = directory.config(spec());
    config.api.listen = "0.0.0.0:0".parse().unwrap();
    config.api.tls = Some(ApiTls { cert, key });
    config.api.names = vec!["segue.example".to_owned()];
    let running = Running::start_with(&directory, config).await;
    // The local way stays, on loopback and without TLS.
    let client = &running.client;
    assert!(client.addr.ip().is_loopback());
    assert_eq!(client.ask("GET", "/v1/status", None).await.status, 200);

    let addr: SocketAddr = fs::read_to_string(directory.state().api_tls_addr())
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(addr.ip().is_unspecified());
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = TlsConnector::from(Arc::new(tls));
    for (host, token, status) in [
        ("segue.example", client.token.as_str(), "200"),
        ("segue.example:8443", client.token.as_str(), "200"),
        ("127.0.0.1", client.token.as_str(), "200"),
        ("other.example", client.token.as_str(), "403"),
        ("segue.example", "x", "401"),
    ] {
        let stream = TcpStream::connect(("127.0.0.1", addr.port()))
            .await
            .unwrap();
        let name = ServerName::try_from("segue.example").unwrap();
        let mut stream = tls.connect(name, stream).await.unwrap();
        let request = format!(
            "GET /v1/status HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{host}: {answer}"
        );
    }
    // Without TLS nothing is said there.
    let mut plain = TcpStream::connect(("127.0.0.1", addr.port()))
        .await
        .unwrap();
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(
        !String::from_utf8_lossy(&answer).contains("HTTP"),
        "{answer:?}"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_cannot_be_used_is_told_before_anything_starts() {
    let directory = Directory::new();
    let mut config = directory.config(spec());
    let missing = directory.0.join("missing.pem");
    config.api.tls = Some(ApiTls {
        cert: missing.clone(),
        key: missing,
    });
    let error = segue_controller::run(config, std::future::pending()).await;
    let error = error.unwrap_err();
    assert!(error.to_string().contains("identity of the API"), "{error}");
    assert!(!error.hint().is_empty());
    assert!(!directory.state().api_addr().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_come_to_the_point_is_hung_up_on() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let addr = running.client.addr;
    // No head at all, half a head, and a head without the body it promises.
    let body = format!(
        "POST /v1/agents/desk/pause HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 10\r\n\r\n{{",
        running.client.token
    );
    let mut slow = JoinSet::new();
    for begun in ["", "GET /v1/status HTTP/1.1\r\nHost:", body.as_str()] {
        let (begun, has_head) = (begun.to_owned(), begun == body);
        slow.spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(begun.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let ended = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
            ended.expect("the connection to be ended").unwrap();
            let told = answer.contains(" 408 ") && answer.contains("too-slow");
            assert_eq!(told, has_head, "{answer}");
        });
    }
    slow.join_all().await;
    // A head that is too large is refused while it comes.
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let large = format!(
        "GET / HTTP/1.1\r\nHost: {addr}\r\nX: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    let _ = stream.write_all(large.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
    running.stop().await;
}
