//! As much HTTP/1.1 as the sample agent needs: one request, one answer, or an upgrade.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest head or body read; a webhook of the provider has about 1 KiB.
const BYTES_MAX: usize = 16 * 1024;

/// A request without its body.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// The path without its query.
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    /// Bytes that came after the head.
    pub(crate) rest: Vec<u8>,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Request {
    /// Reads a request up to the end of its head.
    pub(crate) async fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(1_024);
        loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = bytes.split_off(end + 4);
                return Self::parse(&bytes, rest).ok_or_else(|| invalid("not an HTTP request"));
            }
            if bytes.len() > BYTES_MAX {
                return Err(invalid("the head of the request is too long"));
            }
        }
    }

    fn parse(head: &[u8], rest: Vec<u8>) -> Option<Self> {
        let mut lines = std::str::from_utf8(head).ok()?.trim_end().split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?);
        first.next()?.strip_prefix("HTTP/1.")?;
        let path = target.split('?').next()?.to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers = lines.map(header).collect::<Option<_>>()?;
        Some(Self {
            method,
            path,
            headers,
            rest,
        })
    }

    /// The value of the header with this lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The client's key, if it wants to speak WebSocket.
    pub(crate) fn websocket_key(&self) -> Option<&str> {
        self.header("upgrade")
            .filter(|protocol| protocol.eq_ignore_ascii_case("websocket"))?;
        self.header("sec-websocket-key")
    }

    /// Reads the body, whose length must be told.
    pub(crate) async fn body(&mut self, stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        let length = self.header("content-length").unwrap_or("0");
        let length: usize = length.parse().map_err(|_| invalid("bad content-length"))?;
        if length > BYTES_MAX {
            return Err(invalid("the body of the request is too long"));
        }
        let mut body = std::mem::take(&mut self.rest);
        while body.len() < length {
            if stream.read_buf(&mut body).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        body.truncate(length);
        Ok(body)
    }
}

/// Answers with `status`, such as `200 OK`, and closes.
pub(crate) async fn respond(
    stream: &mut TcpStream,
    status: &str,
    content_type: &str,
    body: &str,
) -> io::Result<()> {
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// The value of `name` in a form body.
pub(crate) fn form_value(body: &[u8], name: &str) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    let mut pairs = body.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(other, _)| *other == name)?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let value = digit(rest.next())? * 16 + digit(rest.next())?;
                u8::try_from(value).ok()?
            }
            _ => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_taken_apart() {
        let head = b"GET /ws/CA1?x=1 HTTP/1.1\r\nHost: a:1\r\nUpgrade: WebSocket\r\n\
            Sec-WebSocket-Key: k\r\n\r\n";
        let request = Request::parse(head, Vec::new()).unwrap();
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("GET", "/ws/CA1")
        );
        assert_eq!(request.header("host"), Some("a:1"));
        assert_eq!(request.websocket_key(), Some("k"));
        assert!(Request::parse(b"hello\r\n\r\n", Vec::new()).is_none());
    }

    #[test]
    fn form_values_are_decoded() {
        let body = b"From=%2B1+555&CallSid=CA%31&Bad=%zz";
        assert_eq!(form_value(body, "From").as_deref(), Some("+1 555"));
        assert_eq!(form_value(body, "CallSid").as_deref(), Some("CA1"));
        assert_eq!(form_value(body, "Bad"), None);
        assert_eq!(form_value(body, "To"), None);
    }
}
