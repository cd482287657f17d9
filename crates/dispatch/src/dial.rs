//! Connections to the server.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::address::ServerUrl;

/// How long a connection to the server may take to stand, TLS included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A byte stream, with TLS or without.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(crate) async fn connect(server: &ServerUrl) -> io::Result<Box<dyn Stream>> {
    let connected = timeout(TIMEOUT, connect_in_time(server)).await;
    connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn connect_in_time(server: &ServerUrl) -> io::Result<Box<dyn Stream>> {
    let host = server.host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, server.port)).await?;
    stream.set_nodelay(true)?;
    if !server.is_secure {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(tls());
    Ok(Box::new(connector.connect(name, stream).await?))
}

fn tls() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let make = || {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    };
    Arc::clone(CONFIG.get_or_init(make))
}
