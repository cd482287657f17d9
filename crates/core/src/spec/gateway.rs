//! Where calls come in, and how much of what is no call is put up with.

use std::net::SocketAddr;

use super::TlsSpec;
use super::bounds::{self, Bound};
use super::reader::Section;
use super::values::{duration, whole};
use crate::time::Millis;

/// Settings of the gateway process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySpec {
    /// Where calls come in.
    pub listen: SocketAddr,
    /// Certificate chain and key (PEM files); `None`: plain.
    pub tls: Option<TlsSpec>,
    /// Bounds on connections that are no calls yet.
    pub limits: GatewayLimits,
}

/// Bounds on connections of the gateway that are no calls yet, or never will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayLimits {
    /// At once, from everywhere.
    pub max_connections: u32,
    /// At once, from one address.
    pub max_connections_per_address: u32,
    /// From the connection to the end of its head, TLS included.
    pub head_timeout: Millis,
    /// From the head to the end of a body, and longer only as far as it comes fast enough.
    pub body_timeout: Millis,
    /// How long a caller may leave a part of an answer unread.
    pub stall_timeout: Millis,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            max_connections: 4_096,
            max_connections_per_address: 1_024,
            head_timeout: Millis::from_secs(10),
            body_timeout: Millis::from_secs(10),
            stall_timeout: Millis::from_secs(30),
        }
    }
}

pub(super) fn read_limits(gateway: &Section<'_>) -> GatewayLimits {
    let default = GatewayLimits::default();
    let count = |key, default| gateway.read(key, default, |item| whole(item, &bounds::CONNECTIONS));
    let length = |key, default, bound: &'static Bound<Millis>| {
        gateway.read(key, default, |item| duration(item, bound))
    };
    GatewayLimits {
        max_connections: count("max_connections", default.max_connections),
        max_connections_per_address: count(
            "max_connections_per_address",
            default.max_connections_per_address,
        ),
        head_timeout: length("head_timeout", default.head_timeout, &bounds::HEAD_TIMEOUT),
        body_timeout: length("body_timeout", default.body_timeout, &bounds::BODY_TIMEOUT),
        stall_timeout: length(
            "stall_timeout",
            default.stall_timeout,
            &bounds::STALL_TIMEOUT,
        ),
    }
}
