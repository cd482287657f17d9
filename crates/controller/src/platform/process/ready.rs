//! Whether a worker is ready: it answers its health check with 200, or, without one, it listens.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How often it is asked.
const POLL: Duration = Duration::from_millis(100);

/// Time to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// As much of an answer as its status needs.
const STATUS_BYTES_MAX: usize = 256;

/// Waits until it is.
pub(super) async fn ready(addr: SocketAddr, health_path: Option<&str>) {
    loop {
        let asked = timeout(ANSWER_MAX, ask(addr, health_path)).await;
        if matches!(asked, Ok(Ok(true))) {
            return;
        }
        sleep(POLL).await;
    }
}

async fn ask(addr: SocketAddr, health_path: Option<&str>) -> io::Result<bool> {
    let mut stream = TcpStream::connect(addr).await?;
    // With nobody listening a port may be connected to itself, if the kernel happens to choose it
    // for our end.
    if stream.local_addr()? == stream.peer_addr()? {
        return Ok(false);
    }
    let Some(path) = health_path else {
        return Ok(true);
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while answer.len() < STATUS_BYTES_MAX && !answer.contains(&b'\n') {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    Ok(is_200(&answer))
}

fn is_200(answer: &[u8]) -> bool {
    let mut words = answer.split(u8::is_ascii_whitespace);
    words
        .next()
        .is_some_and(|version| version.starts_with(b"HTTP/1."))
        && words.next() == Some(b"200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_ready() {
        for (answer, good) in [
            ("HTTP/1.1 200 OK\r\n", true),
            ("HTTP/1.0 200\r\n", true),
            ("HTTP/1.1 2000 OK\r\n", false),
            ("HTTP/1.1 503 Service Unavailable\r\n", false),
            ("SSH-2.0 200\r\n", false),
            ("", false),
        ] {
            assert_eq!(is_200(answer.as_bytes()), good, "{answer:?}");
        }
    }
}
