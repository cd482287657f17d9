//! Just enough WebSocket for both ends of a test.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::soon;

/// Key and answer of RFC 6455 §1.3.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;

/// One end of a WebSocket.
pub(crate) struct Ws<S> {
    pub(crate) stream: S,
    read: Vec<u8>,
    masks: bool,
    /// Whether the frame that [`Ws::next`] gave last was masked.
    pub(crate) was_masked: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Ws<S> {
    pub(crate) fn new(stream: S, read: Vec<u8>, masks: bool) -> Self {
        Self {
            stream,
            read,
            masks,
            was_masked: false,
        }
    }

    pub(crate) async fn send(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        self.stream
            .write_all(&frame(opcode, payload, self.masks))
            .await?;
        self.stream.flush().await
    }

    pub(crate) async fn close(&mut self, code: u16) -> io::Result<()> {
        self.send(CLOSE, &code.to_be_bytes()).await
    }

    /// The next frame; `None` at a clean end of the stream. May be dropped at any wait.
    pub(crate) async fn next(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        loop {
            if let Some((frame, length)) = parse(&self.read) {
                self.was_masked = self.read[1] & 0x80 != 0;
                self.read.drain(..length);
                return Ok(Some(frame));
            }
            self.read.reserve(4_096);
            if self.stream.read_buf(&mut self.read).await? == 0 {
                assert!(self.read.is_empty(), "a frame was cut");
                return Ok(None);
            }
        }
    }
}

pub(crate) fn frame(opcode: u8, payload: &[u8], masks: bool) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    let bit = if masks { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..126 => bytes.push(bit | u8::try_from(length).unwrap()),
        length => {
            bytes.push(bit | 0x7e);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    let mask = if masks { [1, 2, 3, 4] } else { [0; 4] };
    if masks {
        bytes.extend(mask);
    }
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(p, m)| p ^ m));
    bytes
}

fn parse(bytes: &[u8]) -> Option<((u8, Vec<u8>), usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let masked = second & 0x80 != 0;
    let (length, mut at) = match second & 0x7f {
        0x7e => {
            let wide = [*bytes.get(2)?, *bytes.get(3)?];
            (usize::from(u16::from_be_bytes(wide)), 4)
        }
        0x7f => panic!("longer than any test frame"),
        short => (usize::from(short), 2),
    };
    let mut mask = [0; 4];
    if masked {
        mask.copy_from_slice(bytes.get(at..at + 4)?);
        at += 4;
    }
    let payload = bytes.get(at..at + length)?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(p, m)| p ^ m);
    Some(((first & 0x0f, payload.collect()), at + length))
}

/// The head of an upgrade request.
pub(crate) fn upgrade(target: &str, headers: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: desk.example\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\
         {headers}\r\n"
    )
}

/// Reads a head; answers it and what came behind it.
pub(crate) async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> io::Result<(String, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            let behind = read.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&read).into_owned(), behind));
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Opens a call; fails the test unless it is accepted.
pub(crate) async fn call(addr: SocketAddr, target: &str, headers: &str) -> Ws<TcpStream> {
    call_head(addr, target, headers).await.1
}

/// Opens a call; answers the head of the 101 too.
pub(crate) async fn call_head(
    addr: SocketAddr,
    target: &str,
    headers: &str,
) -> (String, Ws<TcpStream>) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = upgrade(target, headers);
    stream.write_all(request.as_bytes()).await.unwrap();
    let (head, behind) = soon("a 101", read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (head, Ws::new(stream, behind, true))
}

/// Sends raw bytes and answers everything that comes back until the end.
pub(crate) async fn exchange(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer ends it too.
    let _ = soon("the end of the answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}
