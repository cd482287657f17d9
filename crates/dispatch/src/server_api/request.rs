//! One request to the server's API: a message there, a message back, on a connection of its own.

use std::io;
use std::time::Duration;

use segue_gateway::clock;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::config::Config;
use crate::proto::{Malformed, Message};
use crate::{dial, token};

/// How long a request may take. The server itself gives most up after three seconds.
const TIMEOUT: Duration = Duration::from_secs(6);

/// Longest answer, in bytes: a room of a thousand participants with some tracks each fits.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Most headers of an answer.
const HEADERS_MAX: usize = 64;

/// What of a refusal is told, in bytes.
const WORDS_BYTES_MAX: usize = 200;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("the server cannot be asked: {0}")]
    Io(#[from] io::Error),
    #[error("the server's answer is not understood")]
    Answer,
    #[error("the server's answer is not understood: {0}")]
    Message(#[from] Malformed),
    /// The server's own words may say more.
    #[error("the server says {status}: {words}")]
    Status { status: u16, words: String },
    #[error("the room is not there")]
    NoRoom,
    #[error("the room's metadata is no JSON object, and is left alone")]
    NoObject,
}

impl ApiError {
    /// Whether another try may go better.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Io(_) | Self::Answer | Self::Message(_) | Self::NoRoom => true,
            Self::Status { status, .. } => {
                !(400..500).contains(status) || [404, 408, 429].contains(status)
            }
            Self::NoObject => false,
        }
    }
}

/// Calls a method: `service` without its package, and what the token is to permit.
pub(super) async fn call<A: Message>(
    config: &Config,
    service: &str,
    method: &str,
    may: &Value,
    message: &impl Message,
) -> Result<A, ApiError> {
    let token = token::sign_for(&config.key, may, clock::now());
    let body = message.encode();
    let mut request = format!(
        "POST {}/twirp/livekit.{service}/{method} HTTP/1.1\r\nHost: {}\r\n\
         Authorization: Bearer {token}\r\nContent-Type: application/protobuf\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        config.server.prefix,
        config.server.authority(),
        body.len(),
    )
    .into_bytes();
    request.extend(body);
    let exchange = async {
        let mut server = dial::connect(config).await?;
        server.write_all(&request).await?;
        let mut answer = Vec::new();
        server
            .take(ANSWER_BYTES_MAX)
            .read_to_end(&mut answer)
            .await?;
        io::Result::Ok(answer)
    };
    let answer = timeout(TIMEOUT, exchange).await;
    let answer = answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let (status, body) = parse(&answer).ok_or(ApiError::Answer)?;
    if status != 200 {
        let words = String::from_utf8_lossy(&body[..body.len().min(WORDS_BYTES_MAX)]);
        let words = words.into_owned();
        return Err(ApiError::Status { status, words });
    }
    Ok(A::decode(&body)?)
}

/// The status and the body of an answer that is all there.
fn parse(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = answer.parse(bytes).ok()? else {
        return None;
    };
    let rest = &bytes[head..];
    let header = |name: &str| {
        let mut all = answer.headers.iter();
        let found = all.find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let body = if header("transfer-encoding").is_some_and(|how| how.eq_ignore_ascii_case("chunked"))
    {
        unchunk(rest)?
    } else if let Some(length) = header("content-length") {
        rest.get(..length.trim().parse().ok()?)?.to_vec()
    } else {
        rest.to_vec()
    };
    Some((answer.code?, body))
}

/// As a proxy may pass it on.
fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let httparse::Status::Complete((head, size)) = httparse::parse_chunk_size(rest).ok()?
        else {
            return None;
        };
        if size == 0 {
            return Some(body);
        }
        let end = head.checked_add(usize::try_from(size).ok()?)?;
        body.extend_from_slice(rest.get(head..end)?);
        rest = rest.get(end..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let read = |text: &str| parse(text.as_bytes());
        let ok = Some((200, b"hello".to_vec()));
        assert_eq!(
            read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
            ok
        );
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\nhello"), ok);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(
            read(&format!("{chunked}2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")),
            ok
        );
        for cut in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
            &format!("{chunked}2\r\nhe\r\n3\r\nllo\r\n"),
            &format!("{chunked}ffffffffffffffff\r\nhe\r\n"),
        ] {
            assert_eq!(read(cut), None, "{cut:?}");
        }
    }
}
