//! Heads: reading their bytes, and the rules that requests and responses share.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest head, in bytes. Carriers stay below 4 KiB; browsers with many cookies below 16.
pub(crate) const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Most headers of one head.
pub(crate) const HEADERS_MAX: usize = 100;

/// One header line. Names keep their case; values may hold bytes that are no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) value: Vec<u8>,
}

impl Header {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.value).ok()
    }

    fn starts_with(&self, prefix: &str) -> bool {
        has_prefix(&self.name, prefix)
    }

    /// Headers that only we may set.
    pub(crate) fn is_trusted(&self) -> bool {
        is_trusted(&self.name)
    }

    /// Headers about this connection and not about the message, and `Proxy`, which CGI programs
    /// read as `HTTP_PROXY`. Also with underscores, as in [`is_trusted`]: a worker's gateway
    /// interface may read `Content_Length` as the length.
    pub(crate) fn is_hop(&self) -> bool {
        const HOP: [&str; 10] = [
            "connection",
            "keep-alive",
            "proxy",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "expect",
            "content-length",
        ];
        HOP.iter().any(|name| same_name(&self.name, name)) || self.starts_with("http2-")
    }
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|head| head.eq_ignore_ascii_case(prefix))
}

/// Whether the two are one header to a reader that takes underscores for dashes.
fn same_name(name: &str, known: &str) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    name.len() == known.len()
        && name
            .bytes()
            .zip(known.bytes())
            .all(|(a, b)| dashed(a).eq_ignore_ascii_case(&b))
}

/// Also with underscores: CGI and WSGI read `X_Segue_Call_Id` and `X-Segue-Call-Id` as one header,
/// and a caller who spells it so must not get a word in.
pub(crate) fn is_trusted(name: &str) -> bool {
    let name = name.replace('_', "-");
    has_prefix(&name, "x-segue-")
        || has_prefix(&name, "x-forwarded-")
        || name.eq_ignore_ascii_case("forwarded")
}

/// The headers of one head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<Header>);

impl Headers {
    pub(crate) fn of(raw: &[httparse::Header<'_>]) -> Self {
        let header = |header: &httparse::Header<'_>| Header {
            name: header.name.to_owned(),
            value: header.value.to_vec(),
        };
        Self(raw.iter().map(header).collect())
    }

    pub(crate) fn all<'a, 'n>(
        &'a self,
        name: &'n str,
    ) -> impl Iterator<Item = &'a Header> + use<'a, 'n> {
        self.0.iter().filter(move |header| header.is(name))
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.all(name).next().and_then(Header::text)
    }

    /// The value of a header that must not be there twice.
    pub(crate) fn only(&self, name: &str) -> Result<Option<&str>, Malformed> {
        let mut all = self.all(name);
        let Some(first) = all.next() else {
            return Ok(None);
        };
        if all.next().is_some() {
            return Err(Malformed("a header that may be there once is there twice"));
        }
        let text = first.text().ok_or(Malformed("a header is no text"))?;
        Ok(Some(text))
    }

    /// Items of comma-separated lists, over all lines of that name, in lower case.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.all(name)
            .filter_map(Header::text)
            .flat_map(|value| value.split(','))
            .map(|item| item.trim().to_ascii_lowercase())
            .filter(|item| !item.is_empty())
            .collect()
    }

    /// How long the body is. `minor` is the HTTP/1 minor version.
    pub(crate) fn framing(&self, minor: u8) -> Result<Framing, Malformed> {
        let length = self.only("content-length")?;
        let coding = self.only("transfer-encoding")?;
        match (length, coding) {
            (Some(_), Some(_)) => Err(Malformed(
                "Content-Length and Transfer-Encoding are both there",
            )),
            (None, Some(_)) if minor == 0 => Err(Malformed("Transfer-Encoding in HTTP/1.0")),
            (None, Some(coding)) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            (None, Some(_)) => Err(Malformed("Transfer-Encoding is not exactly chunked")),
            (Some(length), None) => {
                if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(Malformed("Content-Length is no plain number"));
                }
                let length = length.parse();
                let length = length.map_err(|_| Malformed("Content-Length is too large"))?;
                Ok(Framing::Length(length))
            }
            (None, None) => Ok(Framing::None),
        }
    }
}

/// How a message says where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// It does not.
    None,
    Length(u64),
    Chunked,
}

/// A head that breaks the rules, with what it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Why no head was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadHeadError {
    #[error("the head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the connection ended within the head")]
    Ended,
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

/// Reads until the empty line. Answers the head and what was read behind it.
pub(crate) async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut read: Vec<u8>,
) -> Result<(Vec<u8>, Vec<u8>), ReadHeadError> {
    read_head_on(stream, &mut read).await
}

/// As [`read_head`]. May be dropped at any wait: what was read by then is in `read`.
pub(crate) async fn read_head_on<S: AsyncRead + Unpin>(
    stream: &mut S,
    read: &mut Vec<u8>,
) -> Result<(Vec<u8>, Vec<u8>), ReadHeadError> {
    let mut seen = 0;
    loop {
        if let Some(end) = end_of_head(read, seen)? {
            let behind = read.split_off(end);
            return Ok((std::mem::take(read), behind));
        }
        // The last three bytes may begin the empty line.
        seen = read.len().saturating_sub(3);
        if read.len() >= HEAD_BYTES_MAX {
            return Err(ReadHeadError::TooLong);
        }
        read.reserve(4 * 1024);
        match stream.read_buf(read).await {
            Ok(0) => return Err(ReadHeadError::Ended),
            Ok(_) => {}
            Err(error) => return Err(ReadHeadError::Io(error)),
        }
    }
}

/// Where the head in `bytes` ends, if that is there; the empty line is not before byte `from`.
pub(crate) fn end_of_head(bytes: &[u8], from: usize) -> Result<Option<usize>, ReadHeadError> {
    match scan(bytes, from)? {
        Some(end) if end > HEAD_BYTES_MAX => Err(ReadHeadError::TooLong),
        end => Ok(end),
    }
}

/// Looks for the end of the head, from byte `from` on, and for bytes that lenient parsers read
/// differently: a bare CR or LF, NUL, and continued lines.
fn scan(bytes: &[u8], from: usize) -> Result<Option<usize>, Malformed> {
    for index in from..bytes.len() {
        let before = index.checked_sub(1).map(|at| bytes[at]);
        let next = bytes.get(index + 1);
        match bytes[index] {
            0 => return Err(Malformed("a NUL byte in the head")),
            b'\n' if before != Some(b'\r') => return Err(Malformed("a bare LF in the head")),
            b'\r' if next.is_some_and(|next| *next != b'\n') => {
                return Err(Malformed("a bare CR in the head"));
            }
            b'\n' if next.is_some_and(|next| matches!(next, b' ' | b'\t')) => {
                return Err(Malformed("a continued header line"));
            }
            b'\n' if bytes[..=index].ends_with(b"\r\n\r\n") => return Ok(Some(index + 1)),
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_a_head_reads_alike() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest\n\0";
        for cut in 0..head.len() {
            let first = scan(&head[..cut], 0).unwrap();
            let from = cut.saturating_sub(3);
            let end = first.or_else(|| scan(head, from).unwrap());
            assert_eq!(end, Some(27), "cut at {cut}");
        }
        for (bad, why) in [
            (&b"GET / HTTP/1.1\n"[..], "a bare LF in the head"),
            (b"GET / HTTP/1.1\r\rx", "a bare CR in the head"),
            (b"A: b\r\n c", "a continued header line"),
            (b"A: \0", "a NUL byte in the head"),
        ] {
            for cut in 0..bad.len() {
                let seen = scan(&bad[..cut], 0);
                let full = seen.and_then(|_| scan(bad, cut.saturating_sub(3)));
                assert_eq!(full, Err(Malformed(why)));
            }
        }
    }
}
