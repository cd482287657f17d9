//! Reads where calls come in, where Segue is operated, and where traces go.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::bounds;
use super::gateway::read_limits;
use super::keys::{API, API_TLS, GATEWAY, Keys, TELEMETRY, TLS};
use super::reader::{Item, Section};
use super::values::{each, host, listen, url, whole};
use super::{ApiSpec, GatewaySpec, TelemetrySpec, TlsSpec};

/// Where calls come in, if the file does not say.
pub const GATEWAY_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Where the admin API listens, if the file does not say.
pub const API_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

/// Requests per second that one token may make of the admin API, if the file does not say: `segue
/// top` and a few scripts need ten.
pub const API_RATE_LIMIT: u32 = 50;

/// The gateway and the API, and that they do not collide.
pub(super) fn read_listeners(top: &Section<'_>) -> (GatewaySpec, ApiSpec) {
    let gateway = top.item("gateway").and_then(|item| item.section(&GATEWAY));
    let api = top.item("api").and_then(|item| item.section(&API));
    let gateway_listen = read_listen(gateway, GATEWAY_LISTEN, |_, address| Some(address));
    // A bad identity is reported by itself.
    let secured = api.is_some_and(|api| api.item("tls").is_some());
    let api_listen = read_listen(api, API_LISTEN, |item, address| {
        loopback(item, address, secured)
    });
    if let (Some(gateway_listen), Some(api_listen)) = (gateway_listen, api_listen) {
        check_ports(gateway, gateway_listen, api, api_listen);
    }
    let tls = |section: Option<Section<'_>>, keys: &Keys| {
        section.and_then(|section| section.read_option("tls", |item| read_tls(item, keys)))
    };
    let default = ApiSpec::default();
    let names = api.map(|api| {
        api.read("names", Vec::new(), |item| {
            each(item, bounds::ITEMS_MAX, host)
        })
    });
    let rate_limit = api.map(|api| {
        api.read("rate_limit", default.rate_limit, |item| {
            whole(item, &bounds::RATE_LIMIT)
        })
    });
    let limits = gateway.map(|gateway| read_limits(&gateway));
    let gateway = GatewaySpec {
        listen: gateway_listen.unwrap_or(GATEWAY_LISTEN),
        tls: tls(gateway, &TLS),
        limits: limits.unwrap_or_default(),
    };
    let api = ApiSpec {
        listen: api_listen.unwrap_or(API_LISTEN),
        tls: tls(api, &API_TLS),
        names: names.unwrap_or_default(),
        rate_limit: rate_limit.unwrap_or(default.rate_limit),
    };
    (gateway, api)
}

pub(super) fn read_telemetry(top: &Section<'_>) -> TelemetrySpec {
    let section = top
        .item("telemetry")
        .and_then(|item| item.section(&TELEMETRY));
    TelemetrySpec {
        otlp: section.and_then(|section| section.read_option("otlp", url)),
    }
}

/// The `listen` of a table, which may be missing; `None` if it is bad.
fn read_listen<'a>(
    section: Option<Section<'a>>,
    default: SocketAddr,
    check: impl FnOnce(Item<'a>, SocketAddr) -> Option<SocketAddr>,
) -> Option<SocketAddr> {
    let Some(section) = section else {
        return Some(default);
    };
    section.read_sound("listen", default, |item| {
        check(item, listen(item, default)?)
    })
}

/// The admin API can end every call, and who asks sends a token: neither goes over a network
/// unencrypted.
fn loopback(item: Item<'_>, address: SocketAddr, secured: bool) -> Option<SocketAddr> {
    if !address.ip().is_loopback() && !secured {
        return item.fault(
            format!("refused: {address} is not a loopback address, and the API has no `tls`"),
            "give it an identity: tls = { cert = \"api.pem\", key = \"api.key\" }; or listen on \
             127.0.0.1 and reach it through SSH",
        );
    }
    Some(address)
}

/// One port for both is one mistake in the making, even on different addresses. Port 0 is chosen
/// by the system and never collides.
fn check_ports(
    gateway: Option<Section<'_>>,
    gateway_listen: SocketAddr,
    api: Option<Section<'_>>,
    api_listen: SocketAddr,
) {
    let port = api_listen.port();
    if port == 0 || port != gateway_listen.port() {
        return;
    }
    let listen = |section: Option<Section<'_>>| section.is_some_and(|s| s.item("listen").is_some());
    let section = if listen(api) { api } else { gateway };
    let place = section
        .and_then(|section| section.item("listen"))
        .expect("the defaults differ, so one of them is given");
    place.fault::<()>(
        format!("the gateway and the admin API both listen on port {port}"),
        "give one of them another port",
    );
}

fn read_tls(item: Item<'_>, keys: &Keys) -> Option<TlsSpec> {
    const HINT: &str = "TLS needs both: tls = { cert = \"cert.pem\", key = \"key.pem\" }";
    let tls = item.section(keys)?;
    let file = |key| tls.need(key, HINT).and_then(|item| item.filled());
    let (cert, key) = (file("cert"), file("key"));
    Some(TlsSpec {
        cert: cert?.to_owned(),
        key: key?.to_owned(),
    })
}
