//! Responses of workers: parsing one, and writing the one that goes to the caller.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest as _, Sha1};

use super::head::{Framing, HEADERS_MAX, Headers, Malformed};
use super::request::line;

/// RFC 6455 §1.3.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A response that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    reason: String,
    pub(crate) headers: Headers,
    framing: Framing,
}

/// Where the body of a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyEnd {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

impl Response {
    /// Parses and checks a whole head.
    pub(crate) fn parse(head: &[u8]) -> Result<Self, Malformed> {
        let mut raw = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut raw);
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(length)) if length == head.len() => {}
            _ => return Err(Malformed("the worker's head is malformed")),
        }
        let headers = Headers::of(parsed.headers);
        let status = parsed.code.unwrap_or(0);
        let framing = headers.framing(parsed.version.unwrap_or(0))?;
        match (status, framing) {
            (100..=199 | 204, Framing::None | Framing::Length(0)) => {}
            (100..=199 | 204, _) => return Err(Malformed("a status without a body has one")),
            (200..=599, _) => {}
            _ => return Err(Malformed("a status that does not exist")),
        }
        Ok(Self {
            status,
            reason: parsed.reason.unwrap_or_default().to_owned(),
            framing,
            headers,
        })
    }

    /// Whether this accepts the WebSocket that was asked for with `key`.
    pub(crate) fn accepts(&self, key: &str) -> bool {
        let digest = Sha1::digest(format!("{key}{WEBSOCKET_GUID}"));
        let accept = BASE64_STANDARD.encode(digest);
        let has = |name: &str, token: &str| self.headers.list(name).iter().any(|t| t == token);
        self.status == 101
            && has("upgrade", "websocket")
            && has("connection", "upgrade")
            && self.headers.only("sec-websocket-accept") == Ok(Some(&accept))
            && matches!(self.framing, Framing::None | Framing::Length(0))
    }

    /// Whether it takes an extension of the protocol into use.
    pub(crate) fn extends(&self) -> bool {
        self.headers
            .all("sec-websocket-extensions")
            .next()
            .is_some()
    }

    /// Where its body ends. `to_head`: it answers a `HEAD` request.
    pub(crate) fn body_end(&self, to_head: bool) -> BodyEnd {
        if to_head || matches!(self.status, 100..=199 | 204 | 304) {
            return BodyEnd::Length(0);
        }
        match self.framing {
            Framing::Length(length) => BodyEnd::Length(length),
            Framing::Chunked => BodyEnd::Chunked,
            Framing::None => BodyEnd::Close,
        }
    }

    /// The head for the caller: the worker's, without what is about the worker's connection.
    pub(crate) fn to_caller(&self, ours: &[(&str, &str)]) -> Vec<u8> {
        let reason: String = self.reason.chars().filter(|c| !c.is_control()).collect();
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", self.status).into_bytes();
        let named = self.headers.list("connection");
        for header in &self.headers.0 {
            let hop = header.is_hop() || named.iter().any(|name| header.is(name));
            if hop || header.is_trusted() {
                continue;
            }
            line(&mut head, &header.name, &header.value);
        }
        if self.status == 101 {
            line(&mut head, "Connection", b"Upgrade");
            line(&mut head, "Upgrade", b"websocket");
        } else {
            line(&mut head, "Connection", b"close");
            match self.framing {
                Framing::Length(_) if self.status == 204 => {}
                Framing::Length(length) => {
                    line(&mut head, "Content-Length", length.to_string().as_bytes());
                }
                Framing::Chunked => line(&mut head, "Transfer-Encoding", b"chunked"),
                Framing::None => {}
            }
        }
        for (name, value) in ours {
            line(&mut head, name, value.as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(head: &str) -> Response {
        Response::parse(head.as_bytes()).unwrap()
    }

    #[test]
    fn only_the_right_101_is_accepted() {
        // Key and answer of RFC 6455 §1.3.
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good = "HTTP/1.1 101 x\r\nUpgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert!(response(good).accepts(key));
        for (from, to) in [
            ("101", "200"),
            ("WebSocket", "h2c"),
            ("upgrade\r", "close\r"),
            ("s3pP", "S3pP"),
            ("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\n"),
            ("\r\n\r\n", "\r\nSec-WebSocket-Accept: a\r\n\r\n"),
        ] {
            let bad = Response::parse(good.replace(from, to).as_bytes());
            assert!(!bad.is_ok_and(|bad| bad.accepts(key)), "{to}");
        }
    }

    #[test]
    fn two_readings_of_an_answer_are_none() {
        for bad in [
            "HTTP/1.1 200 x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 x\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 x\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 x\r\nContent-Length : 5\r\n\r\n",
            "HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 101 x\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 103 x\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 099 x\r\n\r\n",
            "HTTP/1.1 600 x\r\n\r\n",
            "HTTP/1.1 20 x\r\n\r\n",
            "HTTP/2.0 200 x\r\n\r\n",
        ] {
            assert!(Response::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let empty = response("HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n");
        let head = String::from_utf8(empty.to_caller(&[])).unwrap();
        assert_eq!(head, "HTTP/1.1 204 x\r\nConnection: close\r\n\r\n");
    }
}
