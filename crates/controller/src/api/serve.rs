//! Connections to the admin API: at most so many, each with little time for its head, with TLS or
//! without. The controller is a process of its own, so that none of this can make a call wait.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::config::ApiTls;
use super::guard::Ends;

/// Connections of one listener at once; more wait. Listeners of events are the most of them.
const CONNECTIONS_MAX: usize = 256;
/// How long the head of a request may take to come, and a connection may be idle.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// Largest head, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 100;
/// How long a TLS handshake may take.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// How long sent bytes may stay without a sign from the other side.
const UNACKED_MS_MAX: u32 = 30_000;
/// How long to wait before the next accept when there are no file descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until it is dropped, and its connections with it.
pub(crate) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to the API could not be taken");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(ours) = stream.local_addr() else {
            continue;
        };
        let (ends, tls, router) = (Ends { peer, ours }, tls.clone(), router.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, tls, router, ends).await {
                tracing::debug!(%peer, error, "a connection to the API ended early");
            }
            drop(place);
        });
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    ends: Ends,
) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKED_MS_MAX)
        .map_err(|error| error.to_string())?;
    let Some(tls) = tls else {
        return speak(stream, router, ends).await;
    };
    match timeout(HANDSHAKE_WAIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => speak(stream, router, ends).await,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the TLS handshake took too long".to_owned()),
    }
}

async fn speak<S>(stream: S, router: Router, ends: Ends) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ends);
        router.clone().call(request)
    });
    let spoken = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    spoken.map_err(|error| error.to_string())
}

/// Reads the identity.
///
/// # Errors
///
/// When a file is missing, or the two do not belong together.
pub(crate) fn acceptor(files: &ApiTls) -> io::Result<TlsAcceptor> {
    let bad = |path: &std::path::Path| {
        let path = path.display().to_string();
        move |error| io::Error::other(format!("{path}: {error}"))
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_file_iter(&files.cert)
        .map_err(bad(&files.cert))?
        .collect();
    let chain = chain.map_err(bad(&files.cert))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(bad(&files.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
