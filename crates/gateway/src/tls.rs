//! TLS identities, and the sockets of callers with or without TLS.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsFiles;

/// Why an identity cannot be used. A reload that fails leaves the one before in use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there or holds no PEM of the right kind.
    #[error("{path} cannot be read as PEM")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// The certificate and the key do not go together, or are of a kind that is not supported.
    #[error("the certificate and its key are not usable")]
    Identity(#[source] rustls::Error),
}

/// The identity in use.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// A [`TlsError`].
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let config = ArcSwap::from_pointee(read(&files)?);
        Ok(Self { files, config })
    }

    /// Reads the files again, for new connections; those that stand are not touched.
    ///
    /// # Errors
    ///
    /// A [`TlsError`]; the identity before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.config.store(Arc::new(read(&self.files)?));
        Ok(())
    }

    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Caller> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let stream = acceptor.accept(stream).await?;
        Ok(Caller::Tls(Box::new(stream)))
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let bad = |path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::File { path, source }
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_file_iter(&files.cert)
        .map_err(bad(&files.cert))?
        .collect();
    let chain = chain.map_err(bad(&files.cert))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(bad(&files.key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Identity)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(TlsError::Identity)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A caller's connection.
#[derive(Debug)]
pub(crate) enum Caller {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Caller {
    /// What it has not read is thrown away when it is closed: the kernel must not hold megabytes
    /// for who does not read them.
    pub(crate) fn forget(&self) {
        // At worst the kernel gives up by itself, later.
        let _ = rustix::net::sockopt::set_socket_linger(self.socket(), Some(Duration::ZERO));
    }

    /// The kernel holds no more than this of what it has not read, in bytes. For answers: many that
    /// nobody reads would take the memory that calls need.
    pub(crate) fn bound(&self, bytes: usize) {
        // At worst the kernel's own bounds hold.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(self.socket(), bytes);
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Self::Plain(_) => "http",
            Self::Tls(_) => "https",
        }
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $do:expr) => {
        match $self.get_mut() {
            Self::Plain($stream) => {
                let $stream = Pin::new($stream);
                $do
            }
            Self::Tls($stream) => {
                let $stream = Pin::new(&mut **$stream);
                $do
            }
        }
    };
}

impl AsyncRead for Caller {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Caller {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(cx))
    }
}
