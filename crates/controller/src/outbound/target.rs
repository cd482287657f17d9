//! The parts of an address that decide where it leads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::http::Uri;

/// Longest address, in bytes.
const URL_BYTES_MAX: usize = 2_048;

/// Where an address leads, before any name is resolved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    host: String,
    literal: Option<IpAddr>,
    port: u16,
}

impl Target {
    /// Reads an address. What browsers, resolvers and libraries read in different ways is refused:
    /// numbers that stand for an address (`2130706433`, `0x7f.1`, `0177.0.0.1`), users before the
    /// host, and anything else that is no plain name.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("the address is not usable: {why}"));
        if url.len() > URL_BYTES_MAX {
            return bad("it is too long");
        }
        let Ok(uri) = url.parse::<Uri>() else {
            return bad("it is no http or https URL");
        };
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return bad("it is no http or https URL"),
        };
        let Some(authority) = uri.authority() else {
            return bad("it has no host");
        };
        if authority.as_str().contains('@') {
            return bad("it names a user; put secrets into `secret_file`");
        }
        let port = match authority.port() {
            None => default_port,
            Some(port) => match port.as_str().parse() {
                Ok(0) | Err(_) => return bad("its port is no port"),
                Ok(port) => port,
            },
        };
        let host = authority.host();
        let inner = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(inner) = inner {
            let Ok(ip) = inner.parse::<Ipv6Addr>() else {
                return bad("its host is no IPv6 address");
            };
            return Ok(Self {
                host: host.to_owned(),
                literal: Some(ip.into()),
                port,
            });
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if name.is_empty() || name.split('.').any(str::is_empty) || !name.bytes().all(plain) {
            return bad("its host is no name");
        }
        let literal = if ends_in_number(name) {
            let Ok(ip) = name.parse::<Ipv4Addr>() else {
                return bad("its host is a number that some take for an address");
            };
            Some(ip.into())
        } else {
            None
        };
        Ok(Self {
            host: host.to_owned(),
            literal,
            port,
        })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The address, if the host is one.
    pub(super) fn literal(&self) -> Option<IpAddr> {
        self.literal
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

/// Whether the last part is a number, also a hexadecimal one: no such name exists, and `inet_aton`
/// takes it for an address (the URL standard's rule).
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// As much of an address as may be written down: without a user, a query and what follows it.
pub(crate) fn shown(url: &str) -> String {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = bare.split_once("://") else {
        return bare.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_queries_are_not_written_down() {
        for (url, text) in [
            ("https://a.example/b?c=d#e", "https://a.example/b"),
            (
                "https://u:p@a.example:8443/b@c",
                "https://a.example:8443/b@c",
            ),
            ("http://u:p@a.example?x=y", "http://a.example"),
            ("http://u@v@a.example", "http://a.example"),
            ("mailto:x?y", "mailto:x"),
            ("", ""),
        ] {
            assert_eq!(shown(url), text, "{url}");
        }
    }
}
