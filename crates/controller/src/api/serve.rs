//! Connections to the admin API: at most so many, each with little time for its head, with TLS or
//! without. The controller is a process of its own, so that none of this can make a call wait.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_service::Service as _;

use super::guard::Ends;
use super::identity::Identity;
use super::places::{Place, Places};

/// Connections of one listener at once. Streams of events and what workers ask for are fewer than
/// these, so some can always be closed for who comes.
const CONNECTIONS_MAX: usize = 256;
/// How long the head of a request may take to come, and a connection may be idle.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// Largest head, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 100;
/// How long a TLS handshake may take.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// How long sent bytes may stay without a sign from the other side.
const UNACKED_MS_MAX: u32 = 30_000;
/// How long to wait before the next accept when there are no file descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Type of an answer without an end.
const STREAM: &str = "text/event-stream";

/// Serves until it is dropped, and its connections with it.
pub(crate) async fn serve(listener: TcpListener, identity: Option<Arc<Identity>>, router: Router) {
    let places = Places::new(CONNECTIONS_MAX);
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection to the API could not be taken");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(ours) = stream.local_addr() else {
            continue;
        };
        let place = Arc::new(places.take().await);
        let (identity, router) = (identity.clone(), router.clone());
        connections.spawn(async move {
            let kept = Arc::clone(&place);
            let ended = tokio::select! {
                ended = connection(stream, identity, router, (Ends { peer, ours }, place)) => ended,
                () = kept.over() => Err("its place was needed".to_owned()),
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, error, "a connection to the API ended early");
            }
        });
    }
}

async fn connection(
    stream: TcpStream,
    identity: Option<Arc<Identity>>,
    router: Router,
    of: (Ends, Arc<Place>),
) -> Result<(), String> {
    let _ = stream.set_nodelay(true);
    rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKED_MS_MAX)
        .map_err(|error| error.to_string())?;
    let Some(identity) = identity else {
        return speak(stream, router, of).await;
    };
    match timeout(HANDSHAKE_WAIT, identity.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => speak(stream, router, of).await,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the TLS handshake took too long".to_owned()),
    }
}

async fn speak<S>(
    stream: S,
    router: Router,
    (ends, place): (Ends, Arc<Place>),
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ends);
        place.busy();
        let (answer, place) = (router.clone().call(request), Arc::clone(&place));
        async move {
            let answer = answer.await?;
            // A stream goes on; there are few places for those, and they end with their line.
            let kind = answer.headers().get(header::CONTENT_TYPE);
            if kind.is_none_or(|kind| kind != STREAM) {
                place.idle();
            }
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let spoken = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    spoken.map_err(|error| error.to_string())
}
