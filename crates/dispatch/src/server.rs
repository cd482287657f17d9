//! Where workers come in: their sockets, and the requests of their jobs to the server's API.

use std::sync::Arc;
use std::time::Duration;

use segue_gateway::clock;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::dial;
use crate::head::Head;
use crate::hub::Hub;
use crate::proto::MESSAGE_BYTES_MAX;
use crate::{token, worker};

/// Connections at once: ten thousand workers and what their jobs ask for.
const CONNECTIONS_MAX: usize = 20_000;

/// From the connection to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request to the server's API may be without a byte either way; its own limits are
/// shorter.
const PROXY_TIMEOUT: Duration = Duration::from_mins(5);

/// Longest wait when no connection can be taken, as when there are no descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// What of a message is read at once. Usual ones have some hundred bytes, and there may be ten
/// thousand connections.
const READ_BYTES: usize = 4 * 1024;

/// The services of the server that jobs may use here.
const API: &str = "/twirp/";

/// What is asked of the server's API, `/twirp/SERVICE/METHOD` and nothing else: a path that walks
/// elsewhere is not passed on to a server that may stand behind a proxy.
fn api_method(path: &str) -> Option<&str> {
    let method = &path[path.find(API)?..];
    let (service, name) = method[API.len()..].split_once('/')?;
    let is_name = |text: &str, more: &[u8]| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(is_plain)
    };
    (is_name(service, b"._") && is_name(name, b"_")).then_some(method)
}

pub(crate) fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

/// Takes connections; never ends.
pub(crate) async fn accept(hub: Arc<Hub>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let hub = Arc::clone(&hub);
                tokio::spawn(async move {
                    serve(&hub, stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a worker's connection cannot be taken");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn serve(hub: &Arc<Hub>, mut stream: TcpStream) {
    // Small messages are not to wait for each other.
    let _ = stream.set_nodelay(true);
    let head = match timeout(HEAD_TIMEOUT, Head::read(&mut stream)).await {
        Ok(Ok(head)) => head,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a request is not understood");
            answer(
                &mut stream,
                "400 Bad Request",
                "this is no request of a worker",
            )
            .await;
            return;
        }
        Err(_) => return,
    };
    if let Some(method) = api_method(&head.path) {
        proxy(hub, stream, &head, method).await;
    } else if head.path == "/" {
        answer(&mut stream, "200 OK", "OK").await;
    } else if let (true, Some(key)) = (head.path.ends_with("/agent"), head.socket_key()) {
        if let Err(error) = token::check(&hub.config.key, head.api_token(), clock::now()) {
            tracing::warn!(%error, "a worker is rejected");
            let hint = "hint: workers use the API key and secret of [livekit]";
            answer(&mut stream, "401 Unauthorized", &format!("{error}\n{hint}")).await;
            return;
        }
        let accept = derive_accept_key(key.as_bytes());
        let upgrade = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        if stream.write_all(upgrade.as_bytes()).await.is_err() {
            return;
        }
        let membership = head.membership().map(str::to_owned);
        let config = Some(socket_config());
        let socket =
            WebSocketStream::from_partially_read(stream, head.rest, Role::Server, config).await;
        worker::serve(hub, socket, membership).await;
    } else {
        let hint = "hint: LIVEKIT_URL of a worker is ws://HOST:PORT/w/TOKEN";
        let text = format!("workers connect to /agent\n{hint}");
        answer(&mut stream, "404 Not Found", &text).await;
    }
}

async fn answer(stream: &mut TcpStream, status: &str, text: &str) {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{text}\n",
        text.len() + 1
    );
    // Whoever asked may have gone.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Passes a request on to the server's API, which looks at its token itself. One request for each
/// connection, so that none is passed on whose path was not looked at.
async fn proxy(hub: &Arc<Hub>, mut stream: TcpStream, head: &Head, method: &str) {
    if token::verify(&hub.config.key, head.api_token(), clock::now()).is_err() {
        let text = "the server's API is passed on for tokens of our API key only";
        answer(&mut stream, "401 Unauthorized", text).await;
        return;
    }
    let server = match dial::connect(&hub.config).await {
        Ok(server) => server,
        Err(error) => {
            tracing::warn!(%error, "the server's API cannot be reached");
            let text = format!("the LiveKit server cannot be reached: {error}");
            answer(&mut stream, "502 Bad Gateway", &text).await;
            return;
        }
    };
    if let Err(error) = pass_on(hub, &mut stream, server, head, method).await {
        tracing::debug!(%error, "a request to the server's API ended early");
    }
}

async fn pass_on(
    hub: &Arc<Hub>,
    stream: &mut TcpStream,
    mut server: impl AsyncRead + AsyncWrite + Unpin,
    head: &Head,
    method: &str,
) -> std::io::Result<()> {
    let of = &hub.config.server;
    let query = if head.query.is_empty() {
        String::new()
    } else {
        format!("?{}", head.query)
    };
    let target = format!("{}{method}{query}", of.prefix);
    let mut bytes = format!(
        "{} {target} HTTP/1.1\r\nHost: {}\r\n",
        head.method,
        of.authority()
    );
    bytes.push_str("Connection: close\r\n");
    let mut bytes = bytes.into_bytes();
    let ours = [
        "host",
        "connection",
        "keep-alive",
        "upgrade",
        "te",
        "proxy-connection",
    ];
    let passed = head.headers.iter();
    for (name, value) in passed.filter(|(name, _)| !ours.contains(&name.as_str())) {
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&head.rest);
    server.write_all(&bytes).await?;
    // A silent peer must not hold a place for ever.
    match timeout(PROXY_TIMEOUT, copy_bidirectional(stream, &mut server)).await {
        Ok(copied) => copied.map(|_| ()),
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_of_services_are_passed_on() {
        for path in [
            "/twirp/livekit.RoomService/ListRooms",
            "/w/a.token/twirp/livekit.RoomService/ListRooms",
        ] {
            let method = "/twirp/livekit.RoomService/ListRooms";
            assert_eq!(api_method(path), Some(method), "{path}");
        }
        for path in [
            "/twirp/",
            "/twirp/livekit.RoomService",
            "/twirp/livekit.RoomService/",
            "/twirp/../admin",
            "/twirp/livekit/..",
            "/twirp/livekit.RoomService/../../admin",
            "/twirp/%2e%2e/admin",
            "/twirp/livekit.RoomService/List%52ooms",
            "/twirp/livekit.RoomService/ListRooms/more",
            "/twirp/livekit.RoomService/ListRooms#",
            "/agent",
        ] {
            assert_eq!(api_method(path), None, "{path}");
        }
    }
}
