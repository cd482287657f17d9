//! Bodies: a request's is read whole before anything goes upstream, a response's streams through.
//!
//! Reading a request whole makes "refused, and nothing sent upstream" true for its body too, lets a
//! carrier's form name the call, and keeps a slow sender away from the workers.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::Answer;
use super::chunked::Decoder;
use super::head::Framing;
use super::response::BodyEnd;

/// Longest request body, in bytes: webhooks and session starts, no uploads.
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Longest form that is looked into for a call id, in bytes. Twilio's are below 4 KiB.
pub(crate) const FORM_BYTES_MAX: usize = 64 * 1024;

const COPY_BYTES: usize = 16 * 1024;

/// How long a caller may leave [`COPY_BYTES`] unread: one that reads nothing must not hold a worker
/// for ever. A worker may be silent for as long as it likes.
const STALL: Duration = Duration::from_mins(1);

/// Reads a request body; `read` is what came behind the head. An `Err` of `None`: the caller is
/// gone.
pub(crate) async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    framing: Framing,
    read: Vec<u8>,
) -> Result<Vec<u8>, Option<Answer>> {
    let too_long = || {
        let reason = format!("the body is longer than {BODY_BYTES_MAX} bytes");
        Some(Answer::new(413, reason))
    };
    match framing {
        Framing::None => Ok(Vec::new()),
        Framing::Length(length) => {
            let length = usize::try_from(length).map_err(|_| too_long())?;
            if length > BODY_BYTES_MAX {
                return Err(too_long());
            }
            let mut body = read;
            body.truncate(length);
            let have = body.len();
            body.resize(length, 0);
            let rest = stream.read_exact(&mut body[have..]).await;
            rest.map_err(|_| None)?;
            Ok(body)
        }
        Framing::Chunked => {
            let (mut decoder, mut body) = (Decoder::default(), Vec::new());
            let mut part = read;
            loop {
                let step = decoder.step(&part, |data| body.extend_from_slice(data));
                step.map_err(|malformed| Some(malformed.into()))?;
                if body.len() > BODY_BYTES_MAX {
                    return Err(too_long());
                }
                if decoder.is_done() {
                    return Ok(body);
                }
                part.clear();
                part.reserve(COPY_BYTES);
                match stream.read_buf(&mut part).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Err(None),
                }
            }
        }
    }
}

/// Streams a response body to its end; `read` is what came behind the head.
pub(crate) async fn copy_body<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    from: &mut R,
    to: &mut W,
    end: BodyEnd,
    read: Vec<u8>,
) -> io::Result<()> {
    let cut = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut decoder = Decoder::default();
    let mut left = match end {
        BodyEnd::Length(length) => length,
        BodyEnd::Chunked | BodyEnd::Close => u64::MAX,
    };
    let mut part = read;
    loop {
        let mut length = part.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if end == BodyEnd::Chunked {
            length = decoder.step(&part, |_| {}).map_err(|m| cut(m.0))?;
        }
        let write = async {
            to.write_all(&part[..length]).await?;
            to.flush().await
        };
        timeout(STALL, write).await??;
        if let BodyEnd::Length(_) = end {
            left -= length as u64;
        }
        if left == 0 || decoder.is_done() {
            return Ok(());
        }
        part.clear();
        part.reserve(COPY_BYTES);
        if from.read_buf(&mut part).await? == 0 {
            return match end {
                BodyEnd::Close => Ok(()),
                _ => Err(cut("the worker ended within its body")),
            };
        }
    }
}
