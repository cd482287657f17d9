//! Connections to the server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::Config;

/// How long a connection to the server may take to stand, TLS included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A byte stream, with TLS or without.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(crate) async fn connect(config: &Config) -> io::Result<Box<dyn Stream>> {
    let connected = timeout(TIMEOUT, connect_in_time(config)).await;
    connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn connect_in_time(config: &Config) -> io::Result<Box<dyn Stream>> {
    let server = &config.server;
    let host = server.host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, server.port)).await?;
    stream.set_nodelay(true)?;
    if !server.is_secure {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::clone(&config.trust.0));
    Ok(Box::new(connector.connect(name, stream).await?))
}
