//! JSON lines, each bounded.

use std::io;

use segue_core::link::MESSAGE_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What one line is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<T> {
    Message(T),
    /// It is not understood: its type is one that we do not know yet, or something in it is.
    Unknown(Unknown),
}

/// All that is known of a message that is not understood.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Unknown {
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// Reads one message; `None` at the end. One that is not understood is no error: whoever speaks may
/// be of a later version. May not be dropped while it reads.
pub(super) async fn read<T: DeserializeOwned>(
    reader: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<Line<T>>> {
    let Some(line) = read_line(reader).await? else {
        return Ok(None);
    };
    let error = match serde_json::from_slice(&line) {
        Ok(message) => return Ok(Some(Line::Message(message))),
        Err(error) => error,
    };
    let Ok(unknown) = serde_json::from_slice::<Unknown>(&line) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    };
    tracing::warn!(kind = unknown.kind, %error, "a message is not understood, and is left out");
    Ok(Some(Line::Unknown(unknown)))
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        let bytes = reader.fill_buf().await?;
        if bytes.is_empty() {
            return match line.len() {
                0 => Ok(None),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        if line.len() + taken > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message is too long",
            ));
        }
        line.extend_from_slice(&bytes[..taken]);
        reader.consume(taken);
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

/// Writes one message.
pub(super) async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use segue_core::link::ToController;

    use super::*;

    #[tokio::test]
    async fn a_message_of_a_later_version_is_no_error() {
        let mut lines: &[u8] =
            b"{\"type\":\"forecast\",\"of\":1}\n{\"type\":\"goodbye\"}\n\"words\"\n";
        let kind = "forecast".to_owned();
        for expected in [
            Line::Unknown(Unknown { kind }),
            Line::Message(ToController::Goodbye),
        ] {
            let line = read::<ToController>(&mut lines).await.unwrap();
            assert_eq!(line, Some(expected));
        }
        assert!(
            read::<ToController>(&mut lines).await.is_err(),
            "no message"
        );
    }
}
