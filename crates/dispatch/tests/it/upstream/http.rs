//! Which requests are workers' connections, and what the others are told.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::key;

use super::Inner;
use super::record::Event;

/// No request of the tests has a longer head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How often the beginning of a head that is still coming is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The head of a request, unread: whoever serves the request reads it once more.
pub(super) async fn peek(stream: &TcpStream) -> Option<String> {
    let mut seen = vec![0; HEAD_BYTES_MAX];
    loop {
        let count = stream.peek(&mut seen).await.ok()?;
        let text = String::from_utf8_lossy(&seen[..count]);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            return Some(head.to_owned());
        }
        if count == 0 || count == HEAD_BYTES_MAX {
            return None;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A header's value.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim())
}

/// The path and query.
pub(super) fn target(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

/// The status with which it is refused, unless it is the connection of a worker.
pub(super) fn refuse(head: &str) -> Option<u16> {
    let path = target(head).split('?').next().unwrap_or_default();
    let upgrade = header(head, "upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
    if path != "/agent" || !upgrade {
        return Some(404);
    }
    let may = claims(head).is_some_and(|claims| claims["video"]["agent"] == true);
    (!may).then_some(401)
}

/// What its token says, if it is one of our key.
fn claims(head: &str) -> Option<Value> {
    let bearer = header(head, "authorization").and_then(|value| value.strip_prefix("Bearer "));
    let in_query = target(head)
        .split(['?', '&'])
        .find_map(|part| part.strip_prefix("access_token="));
    bearer.or(in_query).and_then(key::verify)
}

/// Answers a request that is no worker's connection.
pub(super) async fn answer(mut stream: TcpStream, head: String, inner: &Arc<Inner>) {
    let length = header(&head, "content-length").and_then(|length| length.parse().ok());
    let mut request = vec![0; head.len() + 4 + length.unwrap_or(0)];
    if stream.read_exact(&mut request).await.is_err() {
        return;
    }
    let body = request.split_off(head.len() + 4);
    let method = target(&head).strip_prefix("/twirp/livekit.");
    let (status, reply) = match (method, refuse(&head)) {
        (Some(method), _) => match claims(&head) {
            Some(claims) => inner.rooms.answer(inner, method, &claims, &body),
            None => (401, Vec::new()),
        },
        (None, Some(status)) => (status, Vec::new()),
        (None, None) => (500, Vec::new()),
    };
    inner.records.add(Event::Http { head, body, status });
    let head = format!(
        "HTTP/1.1 {status} -\r\nContent-Type: application/protobuf\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        reply.len()
    );
    let _ = stream.write_all(&[head.as_bytes(), &reply].concat()).await;
    let _ = stream.shutdown().await;
}
