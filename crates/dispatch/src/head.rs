//! The head of a request: workers ask for a socket, their jobs for the server's API.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest head, in bytes: tokens are some hundreds.
const BYTES_MAX: usize = 16 * 1024;

/// Most headers of one head.
const HEADERS_MAX: usize = 64;

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadHead {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the connection ended within a head")]
    Ended,
    #[error("the head is longer than {BYTES_MAX} bytes")]
    TooLong,
    #[error("the head is no HTTP/1.1")]
    Malformed,
}

/// A request, as far as it is read here.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) method: String,
    /// Without its query.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// What came behind it already.
    pub(crate) rest: Vec<u8>,
}

impl Head {
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, BadHead> {
        let mut bytes = Vec::with_capacity(1024);
        loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = bytes.split_off(end + 4);
                return Self::parse(&bytes, rest);
            }
            if bytes.len() >= BYTES_MAX {
                return Err(BadHead::TooLong);
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(BadHead::Ended);
            }
        }
    }

    fn parse(bytes: &[u8], rest: Vec<u8>) -> Result<Self, BadHead> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(bytes).map_err(|_| BadHead::Malformed)?;
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Err(BadHead::Malformed);
        };
        if parsed.is_partial() || !target.starts_with('/') {
            return Err(BadHead::Malformed);
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = request.headers.iter();
        Ok(Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: headers
                .map(|header| (header.name.to_ascii_lowercase(), header.value.to_vec()))
                .collect(),
            rest,
        })
    }

    /// The only header of this name, as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let (_, value) = found.next()?;
        match found.next() {
            Some(_) => None,
            None => std::str::from_utf8(value).ok(),
        }
    }

    fn query(&self, name: &str) -> Option<&str> {
        let mut pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The LiveKit token that came along.
    pub(crate) fn api_token(&self) -> Option<&str> {
        let bearer = self.header("authorization");
        let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
        bearer.or_else(|| self.query("access_token"))
    }

    /// The membership token of its path, if it is `…/w/TOKEN/…`.
    pub(crate) fn membership(&self) -> Option<&str> {
        let mut parts = self.path.split('/');
        parts.find(|part| *part == "w")?;
        parts.next().filter(|token| !token.is_empty())
    }

    /// Whether it asks for a WebSocket, and the key to answer with.
    pub(crate) fn socket_key(&self) -> Option<&str> {
        let has = |name: &str, token: &str| {
            let value = self.header(name).unwrap_or_default();
            let mut tokens = value.split(',').map(str::trim);
            tokens.any(|t| t.eq_ignore_ascii_case(token))
        };
        let wants = self.method == "GET"
            && has("upgrade", "websocket")
            && has("connection", "upgrade")
            && self.header("sec-websocket-version") == Some("13");
        self.header("sec-websocket-key").filter(|_| wants)
    }
}

/// A head that is all there, for whoever tries readers out.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn parse(bytes: &[u8]) -> Option<Head> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, rest) = bytes.split_at(end + 4);
    Head::parse(head, rest.to_vec()).ok()
}
