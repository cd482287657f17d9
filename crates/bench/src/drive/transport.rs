//! The way to the proxy: plain, or TLS 1.3 with one cipher, so that all peers do the same work.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::poller::{connect, is_passing};

/// What the certificate is made out to.
pub(crate) const NAME: &str = "bench.test";

/// Whom the generator trusts, and how it speaks to it.
pub(super) struct Identity(Arc<ClientConfig>);

impl Identity {
    pub(super) fn load(certificate: &Path) -> io::Result<Self> {
        let mut provider = ring::default_provider();
        provider.cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let certificate = CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(io::Error::other)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Each call is somebody else's.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// One connection, and what could not be written to it yet.
pub(super) struct Transport {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    /// Of a plain one; TLS keeps its own.
    unwritten: Vec<u8>,
}

impl Transport {
    pub(super) fn dial(target: SocketAddr, identity: Option<&Identity>) -> io::Result<Self> {
        let tls = identity.map(|identity| {
            let name = ServerName::try_from(NAME).expect("a name");
            let mut tls =
                ClientConnection::new(Arc::clone(&identity.0), name).map_err(io::Error::other)?;
            tls.set_buffer_limit(None);
            Ok::<_, io::Error>(Box::new(tls))
        });
        Ok(Self {
            socket: connect(target)?,
            tls: tls.transpose()?,
            unwritten: Vec::new(),
        })
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) fn wants_write(&self) -> bool {
        !self.unwritten.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Reads what there is; `WouldBlock` when there is nothing more.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.read(buffer);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The peers do not all say goodbye in TLS; the WebSocket does.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            tls.read_tls(&mut self.socket)?;
            tls.process_new_packets().map_err(io::Error::other)?;
            if tls.wants_write() {
                write_tls(tls, &mut self.socket)?;
            }
        }
    }

    /// Takes all of it, and writes what can be written now.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.writer().write_all(bytes)?;
            return write_tls(tls, &mut self.socket);
        }
        if !self.unwritten.is_empty() {
            self.unwritten.extend_from_slice(bytes);
            return Ok(());
        }
        let rest = write_some(&mut self.socket, bytes)?;
        self.unwritten.extend_from_slice(&bytes[rest..]);
        Ok(())
    }

    /// Writes what waited.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            return write_tls(tls, &mut self.socket);
        }
        let written = write_some(&mut self.socket, &self.unwritten)?;
        self.unwritten.drain(..written);
        Ok(())
    }
}

fn write_some(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match socket.write(&bytes[written..]) {
            Ok(length) => written += length,
            Err(error) if is_passing(&error) || error.kind() == io::ErrorKind::NotConnected => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

fn write_tls(tls: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if is_passing(&error) || error.kind() == io::ErrorKind::NotConnected => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
