//! What both ends of a call do with their WebSocket.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message as Frame, Utf8Bytes};

use crate::audio::FRAME_MS;

/// What carries the bytes of a call: a TCP connection, or TLS in one.
pub(crate) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

pub(crate) type Socket = WebSocketStream<Box<dyn Carrier>>;

/// A far end that reads nothing for so long is gone.
const SEND_MAX: Duration = Duration::from_secs(5);
/// Time for a closing handshake.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Longest message taken: a minute of audio in one piece, in base64, with room to spare.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Buffers: a frame of audio is 300 bytes, and the defaults of 128 KiB are for other uses.
const BUFFER_BYTES: usize = 4 * 1024;

pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

/// Ticks at the pace of audio; late ticks are made up for, or the sound would fall behind.
pub(crate) fn ticks() -> Interval {
    let mut ticks = interval(Duration::from_millis(FRAME_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

/// Sends one text message.
pub(crate) async fn send(socket: &mut Socket, text: Utf8Bytes) -> io::Result<()> {
    match timeout(SEND_MAX, socket.send(Frame::Text(text))).await {
        Ok(sent) => sent.map_err(io::Error::other),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Reads on until the far end's close, which may have crossed a message of ours that failed.
///
/// `None` when it broke off without one; otherwise the code of the close, if it had one.
pub(crate) async fn last_words(socket: &mut Socket) -> Option<Option<u16>> {
    let read = async {
        while let Some(Ok(frame)) = socket.next().await {
            if let Frame::Close(close) = frame {
                return Some(close.map(|close| close.code.into()));
            }
        }
        None
    };
    timeout(CLOSE_MAX, read).await.ok().flatten()
}

/// Finishes the closing handshake, so that the far end is not reset while it reads our close.
pub(crate) async fn finish(mut socket: Socket) {
    let read = async { while let Some(Ok(_)) = socket.next().await {} };
    // Whether it worked changes nothing: the call is over either way.
    let _ = timeout(CLOSE_MAX, read).await;
}
