//! The identity of the API: its certificate and key, read again whenever somebody renews them.

use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::config::ApiTls;

/// What clients are shown.
pub(crate) struct Identity {
    files: ApiTls,
    acceptor: RwLock<TlsAcceptor>,
}

impl Identity {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When a file is missing, or the two do not belong together.
    pub(crate) fn open(files: &ApiTls) -> io::Result<Self> {
        let acceptor = RwLock::new(read(files)?);
        let files = files.clone();
        Ok(Self { files, acceptor })
    }

    /// Reads it again: whoever connects from now on is shown the new one. Reads files.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open). The one before stays in use.
    pub(crate) fn reload(&self) -> io::Result<()> {
        let new = read(&self.files)?;
        *self
            .acceptor
            .write()
            .unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Speaks with who connects now.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let acceptor = self.acceptor.read();
        acceptor.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(files: &ApiTls) -> io::Result<TlsAcceptor> {
    let bad = |path: &Path| {
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
