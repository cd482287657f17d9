//! JSON lines, each bounded.

use std::io;

use segue_core::link::MESSAGE_BYTES_MAX;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A message of a type that we do not know yet.
#[derive(Debug, Deserialize)]
struct Unknown {
    #[serde(rename = "type")]
    kind: String,
}

/// Reads one message; `None` at the end. One that is not understood is left out: whoever speaks may
/// be of a later version. May not be dropped while it reads.
pub(super) async fn read<T: DeserializeOwned>(
    reader: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<T>> {
    while let Some(line) = read_line(reader).await? {
        let error = match serde_json::from_slice(&line) {
            Ok(message) => return Ok(Some(message)),
            Err(error) => error,
        };
        let Ok(Unknown { kind }) = serde_json::from_slice(&line) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        };
        tracing::warn!(kind, %error, "a message is not understood");
    }
    Ok(None)
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
    async fn a_message_of_a_later_version_is_left_out() {
        let mut lines: &[u8] =
            b"{\"type\":\"forecast\",\"of\":1}\n{\"type\":\"goodbye\"}\n\"words\"\n";
        let message = read::<ToController>(&mut lines).await.unwrap();
        assert_eq!(message, Some(ToController::Goodbye));
        assert!(
            read::<ToController>(&mut lines).await.is_err(),
            "no message"
        );
    }
}
