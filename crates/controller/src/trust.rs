//! Whom smoke calls trust: our own gateway, by its very certificate.
//!
//! We call an address of this machine, and the file says who the gateway is. So the names, dates and
//! issuers in the certificate are for callers to judge; what counts here is that it is this one, and
//! that who shows it has its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme};

/// Why the gateway's certificate is not known.
#[derive(Debug, thiserror::Error)]
#[error("the gateway's certificate {} cannot be read: {source}", path.display())]
pub(crate) struct TrustError {
    path: PathBuf,
    source: pem::Error,
}

/// What the operator sees if the file was replaced and the gateway was not told.
#[derive(Debug, thiserror::Error)]
#[error("the gateway shows another certificate than its file holds; it reads the file on SIGHUP")]
struct Another;

/// Trusts the first certificate in a PEM file, and nothing else.
pub(crate) fn only(path: &Path) -> Result<Arc<ClientConfig>, TrustError> {
    let certificate = CertificateDer::from_pem_file(path).map_err(|source| TrustError {
        path: path.to_owned(),
        source,
    })?;
    let provider = ring::default_provider();
    let verifier = Only {
        certificate,
        algorithms: provider.signature_verification_algorithms,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Only {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Only {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::Other(OtherError(Arc::new(Another))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::version::{TLS12, TLS13};
    use rustls::{
        CertificateError, ClientConnection, ServerConfig, ServerConnection,
        SupportedProtocolVersion, sign,
    };

    /// Shows a certificate and signs with a key, whether they go together or not.
    #[derive(Debug)]
    struct Shows(Arc<sign::CertifiedKey>);

    impl ResolvesServerCert for Shows {
        fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }

    fn identity() -> CertifiedKey<KeyPair> {
        generate_simple_self_signed(["calls.example.com".to_owned()]).unwrap()
    }

    fn handshake(
        client: &Arc<ClientConfig>,
        shown: &CertifiedKey<KeyPair>,
        key: &KeyPair,
        version: &'static SupportedProtocolVersion,
    ) -> Result<(), Error> {
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = ring::sign::any_supported_type(&key)?;
        let shown = sign::CertifiedKey::new(vec![shown.cert.der().clone()], key);
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shows(Arc::new(shown))));
        let mut server = ServerConnection::new(Arc::new(server))?;
        let name = ServerName::try_from("any.name.at.all").unwrap();
        let mut client = ClientConnection::new(Arc::clone(client), name)?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut sent = Vec::new();
            client.write_tls(&mut sent).unwrap();
            let mut sent = sent.as_slice();
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
            }
            server.process_new_packets()?;
            let mut sent = Vec::new();
            server.write_tls(&mut sent).unwrap();
            let mut sent = sent.as_slice();
            while !sent.is_empty() {
                client.read_tls(&mut sent).unwrap();
            }
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn only_this_certificate_and_only_with_its_key() {
        let path = std::env::temp_dir().join(format!("segue-trust-{}.pem", std::process::id()));
        let (ours, other) = (identity(), identity());
        // A chain: only its first certificate is the gateway's.
        fs::write(&path, ours.cert.pem() + &other.cert.pem()).unwrap();
        let client = only(&path).unwrap();
        fs::remove_file(&path).unwrap();
        for version in [&TLS12, &TLS13] {
            handshake(&client, &ours, &ours.signing_key, version).unwrap();
            let another = handshake(&client, &other, &other.signing_key, version).unwrap_err();
            let said = another.to_string();
            assert!(said.contains("another certificate"), "{said}");
            let stolen = handshake(&client, &ours, &other.signing_key, version).unwrap_err();
            let bad = Error::InvalidCertificate(CertificateError::BadSignature);
            assert_eq!(stolen, bad, "{version:?}");
        }
        let missing = only(&path).unwrap_err().to_string();
        assert!(missing.contains("segue-trust-"), "{missing}");
    }
}
