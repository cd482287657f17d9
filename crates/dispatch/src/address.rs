//! Where the server is.

use std::fmt;

/// Why a text is no address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address of a LiveKit server\nhint: write it as wss://HOST or ws://HOST:PORT")]
pub struct BadUrl(String);

/// A server, as workers and rooms are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// Whether it speaks TLS.
    pub is_secure: bool,
    /// Its host, for names and certificates.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// A path prefix without a slash at its end; usually empty.
    pub prefix: String,
}

impl ServerUrl {
    /// Reads `wss://`, `ws://`, `https://` or `http://`, a host, perhaps a port and a path.
    ///
    /// # Errors
    ///
    /// [`BadUrl`].
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        let bad = || BadUrl(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let is_secure = match scheme {
            "wss" | "https" => true,
            "ws" | "http" => false,
            _ => return Err(bad()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        // An IPv6 address is in brackets, so that its colons are not a port's.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let default = if is_secure { 443 } else { 80 };
        let port = port.map_or(Ok(default), |port| port.parse().map_err(|_| bad()))?;
        let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'@');
        if host.is_empty() || !is_plain(host) || !is_plain(path) || path.contains(['?', '#']) {
            return Err(bad());
        }
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("/{path}")
        };
        Ok(Self {
            is_secure,
            host: host.to_owned(),
            port,
            prefix,
        })
    }

    /// Host and port, as a `Host` header has them.
    pub fn authority(&self) -> String {
        let default = if self.is_secure { 443 } else { 80 };
        if self.port == default {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("wss://x.livekit.cloud", "wss://x.livekit.cloud"),
            ("https://x.livekit.cloud/", "wss://x.livekit.cloud"),
            ("ws://127.0.0.1:7880", "ws://127.0.0.1:7880"),
            ("http://[::1]:7880/lk/", "ws://[::1]:7880/lk"),
            ("ws://[::1]", "ws://[::1]"),
        ] {
            assert_eq!(ServerUrl::parse(text).unwrap().to_string(), written);
        }
        for text in [
            "x",
            "ftp://x",
            "ws://",
            "ws://a b",
            "ws://u@h",
            "ws://h:99999",
            "ws://h/?a",
        ] {
            assert!(ServerUrl::parse(text).is_err(), "{text}");
        }
    }
}
