//! Whose certificates a server may have.

use std::fmt;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Why a file of certificates is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadTrust {
    /// It is no PEM.
    #[error("it is no PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// One of them cannot sign others.
    #[error("one of its certificates is not understood")]
    Certificate(#[source] rustls::Error),
    /// There is nothing to trust.
    #[error("there is no certificate in it")]
    Empty,
}

/// Certificates that a server's own must be signed by.
#[derive(Clone)]
pub struct Trust(pub(crate) Arc<ClientConfig>);

impl fmt::Debug for Trust {
    /// Without hundreds of certificates.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

impl Default for Trust {
    /// The authorities that browsers know.
    fn default() -> Self {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        Self::of(roots)
    }
}

impl Trust {
    /// These, in PEM, and no others.
    ///
    /// # Errors
    ///
    /// [`BadTrust`].
    pub fn only(pem: &[u8]) -> Result<Self, BadTrust> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(BadTrust::Pem)?;
            roots.add(certificate).map_err(BadTrust::Certificate)?;
        }
        if roots.is_empty() {
            return Err(BadTrust::Empty);
        }
        Ok(Self::of(roots))
    }

    fn of(roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(Arc::new(config))
    }
}
