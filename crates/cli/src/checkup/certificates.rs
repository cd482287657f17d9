//! Whether the TLS identities are good, and for how long.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::ring::default_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use segue_core::spec::TlsSpec;
use segue_core::time::Timestamp;

use super::certificate::validity;
use super::{Findings, Patient};
use crate::output;

/// A certificate that ends sooner is worth a word: renewals happen a month ahead.
const SOON_DAYS: u64 = 14;

const DAY_MS: u64 = 86_400_000;

pub(super) fn check(patient: &Patient) -> Findings {
    let mut found = Findings::of("certificates");
    let Some(spec) = &patient.spec else {
        return found;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = Timestamp(now.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }));
    let identities = [("gateway", &spec.gateway.tls), ("api", &spec.api.tls)];
    for (whose, tls) in identities {
        if let Some(tls) = tls {
            identity(whose, tls, &patient.folder, now, &mut found);
        }
    }
    found
}

fn identity(whose: &str, tls: &TlsSpec, folder: &Path, now: Timestamp, found: &mut Findings) {
    let (cert, key) = (folder.join(&tls.cert), folder.join(&tls.key));
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(&cert).and_then(Iterator::collect);
    let chain = match chain {
        Ok(chain) if !chain.is_empty() => chain,
        Ok(_) => {
            let what = format!("[{whose}] {} holds no certificate", cert.display());
            return found.fail(what, "write the chain there as PEM, leaf first");
        }
        Err(error) => {
            let what = format!("[{whose}] {} cannot be read: {error}", cert.display());
            return found.fail(what, "write the chain there as PEM, leaf first");
        }
    };
    let private = match PrivateKeyDer::from_pem_file(&key) {
        Ok(private) => private,
        Err(error) => {
            let what = format!("[{whose}] {} cannot be read: {error}", key.display());
            return found.fail(
                what,
                "write the private key there as PEM, for this user to read",
            );
        }
    };
    match lasts(&chain[0], now) {
        Ok(text) => found.ok(format!("[{whose}] {} {text}", cert.display())),
        Err((true, text)) => found.fail(
            format!("[{whose}] {} {text}", cert.display()),
            "renew it; the running processes read it again on SIGHUP",
        ),
        Err((false, text)) => found.warn(
            format!("[{whose}] {} {text}", cert.display()),
            "renew it; the running processes read it again on SIGHUP",
        ),
    }
    if let Err(error) = CertifiedKey::from_der(chain, private, &default_provider()) {
        found.fail(
            format!("[{whose}] certificate and key do not go together: {error}"),
            "write the key that the certificate was made for",
        );
    }
    let mode = std::fs::metadata(&key).map_or(0, |is| is.permissions().mode());
    if mode & 0o007 != 0 {
        found.fail(
            format!("[{whose}] anybody may read {}", key.display()),
            format!("chmod o-rwx {}", key.display()),
        );
    }
}

/// How long a certificate is still good; as an error, whether it is bad already.
fn lasts(leaf: &CertificateDer<'_>, now: Timestamp) -> Result<String, (bool, String)> {
    let Some(validity) = validity(leaf) else {
        return Err((true, "is no certificate".to_owned()));
    };
    if now < validity.from {
        let text = format!("is not valid before {}", output::utc(validity.from));
        return Err((true, text));
    }
    let days = validity.until.since(now).0 / DAY_MS;
    if now >= validity.until {
        return Err((
            true,
            format!("has expired: {}", output::utc(validity.until)),
        ));
    }
    let text = format!("ends {}, in {days} days", output::utc(validity.until));
    if days < SOON_DAYS {
        return Err((false, text));
    }
    Ok(text)
}
