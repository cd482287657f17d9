//! How the admin API is reached.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Requests per second of one token, unless configured otherwise: a person, a dashboard and a few
/// scripts together stay far below. The workers of an agent have ten times as many.
pub const RATE_PER_SECOND: u32 = 50;
/// How many seconds' worth of requests may come at once.
const BURST_SECONDS: u32 = 2;

/// How the admin API is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// Where it listens: on loopback, or anywhere with [`tls`](Self::tls). Port 0: any; see
    /// `run/api.addr`.
    pub listen: SocketAddr,
    /// Its identity. With one it listens on a port of loopback, too, without TLS, for `segue` on
    /// this machine.
    pub tls: Option<ApiTls>,
    /// Names by which it may be asked, beside its addresses and those of loopback.
    pub names: Vec<String>,
    /// How often it may be asked.
    pub rate: Rate,
}

impl ApiConfig {
    /// It listens here, without TLS.
    pub fn on(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            names: Vec::new(),
            rate: Rate::per_second(RATE_PER_SECOND),
        }
    }
}

/// Files of the API's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiTls {
    /// PEM file with the certificate chain, leaf first.
    pub cert: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// How often one token, or one address without a token, may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second, for long.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

impl Rate {
    /// So many per second, and twice as many at once.
    pub const fn per_second(per_second: u32) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second };
        Self {
            per_second,
            burst: per_second.saturating_mul(BURST_SECONDS),
        }
    }

    /// So many times as often.
    pub(super) fn times(self, fold: u32) -> Self {
        Self {
            per_second: self.per_second.saturating_mul(fold),
            burst: self.burst.saturating_mul(fold),
        }
    }
}
