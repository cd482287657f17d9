//! Requests: parsing one, and writing the one that goes to the worker.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::Answer;
use super::head::{Framing, HEADERS_MAX, Headers, Malformed, ReadHeadError, is_trusted};

/// How HTTP/2 begins without an upgrade (RFC 9113 §3.4). Neither it nor a WebSocket within it
/// (RFC 8441) are spoken here.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Methods that are about the connection or show what we added to the request.
const UNRELAYED: [&str; 2] = ["CONNECT", "TRACE"];

/// What `Allow` says to who uses one of them; others are relayed, too.
const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// A request that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, starting with `/`.
    pub(crate) target: String,
    /// The authority without its port, in lower case.
    pub(crate) host: String,
    pub(crate) headers: Headers,
    pub(crate) framing: Framing,
    pub(crate) wants: Wants,
}

/// What the request asks of us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wants {
    /// One answer. `Continue`: the caller waits for leave to send its body.
    Answer { waits: bool },
    /// A WebSocket, with this key.
    WebSocket { key: String },
}

impl From<Malformed> for Answer {
    fn from(malformed: Malformed) -> Self {
        Self::bad(malformed.0)
    }
}

impl Answer {
    /// The answer to a head that could not be read; `None` when nobody is there to read it.
    pub(crate) fn to_unread(error: &ReadHeadError) -> Option<Self> {
        match error {
            ReadHeadError::TooLong => Some(Self::new(431, error.to_string())),
            ReadHeadError::Malformed(malformed) => Some((*malformed).into()),
            ReadHeadError::Ended | ReadHeadError::Io(_) => None,
        }
    }
}

impl Request {
    /// Parses and checks a whole head.
    pub(crate) fn parse(head: &[u8]) -> Result<Self, Answer> {
        let mut raw = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut raw);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            Ok(_) => return Err(Answer::bad("the head is not one whole head")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Answer::new(431, format!("more than {HEADERS_MAX} headers")));
            }
            Err(_) if head.starts_with(HTTP2_PREFACE) => {
                return Err(Answer::bad("HTTP/2 is not spoken here; use HTTP/1.1"));
            }
            Err(error) => return Err(Answer::bad(format!("the head is malformed: {error}"))),
        }
        let minor = parsed.version.unwrap_or(0);
        let headers = Headers::of(parsed.headers);
        let method = parsed.method.unwrap_or_default().to_owned();
        let framing = headers.framing(minor)?;
        let (target, host) = target(parsed.path.unwrap_or_default(), &headers)?;
        if UNRELAYED.iter().any(|m| method.eq_ignore_ascii_case(m)) {
            return Err(Answer::new(405, "this method is not relayed").with("Allow", ALLOW));
        }
        for named in headers.list("connection") {
            let ours = ["host", "content-length", "transfer-encoding"];
            let dashed = named.replace('_', "-");
            if is_trusted(&named) || ours.contains(&dashed.as_str()) {
                return Err(Answer::bad(
                    "Connection names a header that is not the caller's",
                ));
            }
        }
        let wants = if headers.list("upgrade").iter().any(|t| t == "websocket") {
            upgrade(&method, minor, &headers, framing)?
        } else {
            Wants::Answer {
                waits: expectation(&headers)?,
            }
        };
        Ok(Self {
            method,
            target,
            host,
            headers,
            framing,
            wants,
        })
    }

    /// The path, without the query.
    pub(crate) fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(self.target.as_str(), |(path, _)| path)
    }

    /// The query, without the question mark.
    pub(crate) fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The head for the worker: the caller's without what is about the caller's connection and
    /// without what only we may say, and then what we say. `body`: the length of the body, if
    /// there is one.
    pub(crate) fn to_worker(&self, ours: &[(&str, &str)], body: Option<usize>) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        let named = self.headers.list("connection");
        for header in &self.headers.0 {
            let hop = header.is_hop() || named.iter().any(|name| header.is(name));
            if hop || header.is_trusted() {
                continue;
            }
            line(&mut head, &header.name, &header.value);
        }
        match self.wants {
            Wants::WebSocket { .. } => {
                line(&mut head, "Connection", b"Upgrade");
                line(&mut head, "Upgrade", b"websocket");
            }
            Wants::Answer { .. } => line(&mut head, "Connection", b"close"),
        }
        if let Some(length) = body {
            line(&mut head, "Content-Length", length.to_string().as_bytes());
        }
        for (name, value) in ours {
            line(&mut head, name, value.as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

/// Appends a header line.
pub(super) fn line(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// The target in origin form, and the host.
fn target(raw: &str, headers: &Headers) -> Result<(String, String), Answer> {
    let authority = headers
        .only("host")?
        .ok_or_else(|| Answer::bad("Host is missing"))?;
    let host = host(authority).ok_or_else(|| Answer::bad("Host is no authority"))?;
    if raw.contains('#') {
        return Err(Answer::bad("a fragment in the request target"));
    }
    let (path, _) = raw.split_once('?').unwrap_or((raw, ""));
    if !raw.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains('\\') {
        return Err(Answer::bad(
            "a byte in the request target that must be escaped",
        ));
    }
    if raw.starts_with('/') {
        return Ok((raw.to_owned(), host));
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let head = raw.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme)
            .then(|| &raw[scheme.len()..])
    });
    let rest = rest.ok_or_else(|| Answer::bad("the request target is no path"))?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (named, path) = rest.split_at(end);
    if !named.eq_ignore_ascii_case(authority) {
        return Err(Answer::bad(
            "Host and the request target name different authorities",
        ));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((format!("{slash}{path}"), host))
}

/// The host of an authority, in lower case.
fn host(authority: &str) -> Option<String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (&authority[..address.len() + 2], port)
        }
        None => match authority.split_once(':') {
            Some((host, _)) => (host, &authority[host.len()..]),
            None => (authority, ""),
        },
    };
    let port_good = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|digits| digits.parse::<u16>().is_ok() && !digits.starts_with('+'));
    let name_good = !host.is_empty()
        && (host.starts_with('[')
            || host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')));
    (port_good && name_good).then(|| host.to_ascii_lowercase())
}

fn expectation(headers: &Headers) -> Result<bool, Answer> {
    match headers.only("expect")? {
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case("100-continue") => Ok(true),
        Some(_) => Err(Answer::new(417, "this expectation cannot be met")),
    }
}

fn upgrade(method: &str, minor: u8, headers: &Headers, framing: Framing) -> Result<Wants, Answer> {
    if method != "GET" {
        return Err(Answer::bad("a WebSocket is asked for with GET"));
    }
    if minor == 0 {
        return Err(Answer::bad("a WebSocket is asked for in HTTP/1.1"));
    }
    if !matches!(framing, Framing::None | Framing::Length(0)) {
        return Err(Answer::bad("a WebSocket request has no body"));
    }
    if !headers.list("connection").iter().any(|t| t == "upgrade") {
        return Err(Answer::bad("Upgrade without Connection: Upgrade"));
    }
    if headers.only("sec-websocket-version")? != Some("13") {
        let answer = Answer::new(426, "only version 13 of WebSocket is spoken");
        return Err(answer.with("Sec-WebSocket-Version", "13"));
    }
    let key = headers
        .only("sec-websocket-key")?
        .filter(|key| BASE64_STANDARD.decode(key).is_ok_and(|k| k.len() == 16));
    match key {
        Some(key) => Ok(Wants::WebSocket {
            key: key.to_owned(),
        }),
        None => Err(Answer::bad("Sec-WebSocket-Key is no 16 bytes in base64")),
    }
}
