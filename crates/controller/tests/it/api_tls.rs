//! The admin API beyond loopback, with TLS; and connections that are slow on purpose.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use segue_controller::api::ApiTls;
use segue_controller::{ControllerConfig, Source, run};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::api::is_problem;
use crate::{Client, Directory, PATIENCE, Running, eventually, spec};

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

/// Writes an identity for `segue.example` and answers its certificate.
fn renew(files: &ApiTls) -> CertificateDer<'static> {
    let made = generate_simple_self_signed(["segue.example".to_owned()]).unwrap();
    fs::write(&files.cert, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

/// Whether who trusts this certificate alone can connect.
async fn is_shown(certificate: &CertificateDer<'static>, port: u16) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("segue.example").unwrap();
    let connector = TlsConnector::from(Arc::new(tls));
    connector.connect(name, stream).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_after_a_reload_and_a_bad_one_never() {
    let directory = Directory::new();
    let file = directory.0.join("segue.toml");
    let text = "[agents.desk]\ncommand = [\"bot\", \"{port}\"]\n";
    fs::write(&file, text).unwrap();
    let (cert, key) = (directory.0.join("cert.pem"), directory.0.join("key.pem"));
    let files = ApiTls { cert, key };
    let first = renew(&files);
    let mut config = directory.config(spec());
    config.api.tls = Some(files.clone());
    config.source = Some(Source {
        file,
        spec: segue_core::spec::parse("segue.toml", text).unwrap(),
    });
    let running = Running::start_with(&directory, config).await;
    let addr = fs::read_to_string(directory.state().api_tls_addr()).unwrap();
    let port = addr.trim().parse::<SocketAddr>().unwrap().port();
    assert!(is_shown(&first, port).await);

    let second = renew(&files);
    assert!(!is_shown(&second, port).await, "nobody said so yet");
    let reload = running.client.ask("POST", "/v1/reload", None).await;
    assert_eq!(reload.status, 200, "{reload:?}");
    assert!(is_shown(&second, port).await && !is_shown(&first, port).await);

    fs::write(&files.key, "no key").unwrap();
    let reload = running.client.ask("POST", "/v1/reload", None).await;
    is_problem(&reload, 422, "bad-config");
    assert!(is_shown(&second, port).await);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_on_loopback_stays_the_same_unless_somebody_took_it() {
    let directory = Directory::new();
    let (cert, key) = (directory.0.join("cert.pem"), directory.0.join("key.pem"));
    let files = ApiTls { cert, key };
    renew(&files);
    let mut config = directory.config(spec());
    config.api.tls = Some(files);
    let running = Running::start_with(&directory, config.clone()).await;
    let client = running.client.clone();
    running.stop().await;

    // A controller that is killed leaves the file; `Running` would remove it first.
    let start = |config: ControllerConfig| {
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(run(config, async { stopped.await.unwrap_or_default() }));
        (stop, ended)
    };
    let (stop, ended) = start(config.clone());
    eventually("the API at the address of before", async || {
        let stream = TcpStream::connect(client.addr).await.ok()?;
        drop(stream);
        (client.ask("GET", "/v1/status", None).await.status == 200).then_some(())
    })
    .await;
    let now = Client::connect(&directory.state()).await;
    assert_eq!(now.addr, client.addr);
    stop.send(()).unwrap();
    ended.await.unwrap().unwrap();

    let taken = TcpListener::bind(client.addr).await.unwrap();
    let (stop, ended) = start(config);
    let moved = eventually("the API at another address", async || {
        let now = Client::connect(&directory.state()).await;
        (now.addr != client.addr).then_some(now)
    })
    .await;
    assert_eq!(moved.ask("GET", "/v1/status", None).await.status, 200);
    stop.send(()).unwrap();
    ended.await.unwrap().unwrap();
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_ask_for_nothing_keep_nobody_out() {
    let directory = Directory::new();
    let running = Running::start(&directory, spec()).await;
    let addr = running.client.addr;
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(addr).await.unwrap());
    }
    let rollback = running.client.post("rollback", json!({})).await;
    assert_eq!(rollback.status, 422, "there is nothing to go back to");
    // It did not wait until they were hung up on for their silence.
    let mut byte = [0];
    let kept = idle[200].try_read(&mut byte).unwrap_err();
    assert_eq!(kept.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(idle[0].read(&mut byte).await.unwrap_or(0), 0);
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
    let error = run(config, std::future::pending()).await;
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
