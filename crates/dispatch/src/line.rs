//! One registration at the server, for as long as it is wanted.
//!
//! The server may go and come back: then the line is registered again, and says what it has. What
//! was meant for the server before is left out, for it has forgotten what it was about.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use segue_core::dispatch::{Again, Ask, Event, LineId, LineKey};
use segue_gateway::clock;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::dial::{self, Stream};
use crate::hub::Hub;
use crate::proto::{
    JobType, JobView, Malformed, RegisterWorkerRequest, ServerMessage, WorkerMessage,
};
use crate::server::socket_config;
use crate::token;

/// First wait before connecting again, and the longest: workers wait up to ten seconds, and jobs
/// that come meanwhile are nobody's.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A registration that held for so long was well, and is made again at once.
const WELL_AFTER: Duration = Duration::from_secs(5);

/// How long handshake and registration may take, each.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often we ask whether the server is there. It does so every ten seconds itself.
const PING_EVERY: Duration = Duration::from_secs(10);

/// A server that says nothing for so long is away.
const SILENCE_MAX: Duration = Duration::from_secs(25);

/// A server that does not read for so long is away.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest metadata that is looked into: longer ones are passed on unread.
const METADATA_BYTES_MAX: usize = 64 * 1024;

/// Longest metadata of a job that can be dispatched again, in bytes: it is kept while the job runs.
const METADATA_KEPT_MAX: usize = 8 * 1024;

/// What we call ourselves to the server.
const VERSION: &str = concat!("segue ", env!("CARGO_PKG_VERSION"));

type Socket = WebSocketStream<Box<dyn Stream>>;

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the server cannot be reached")]
    Unreached(#[source] std::io::Error),
    #[error("the server refuses the connection")]
    Refused(#[source] Box<SocketError>),
    #[error("the server did not answer in time")]
    Late,
    #[error("the server does not register us, but says {0:?}")]
    Unregistered(&'static str),
    #[error("the server's message is malformed")]
    Malformed(#[from] Malformed),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server says nothing, or does not read")]
    Silent,
}

/// Ends when the line is no longer wanted.
pub(crate) async fn run(
    hub: Arc<Hub>,
    key: LineKey,
    id: LineId,
    mut frames: mpsc::Receiver<Vec<u8>>,
) {
    let mut backoff = BACKOFF.0;
    let mut is_told = false;
    loop {
        let begun = Instant::now();
        match register(&hub, &id).await {
            Ok(mut socket) => {
                while frames.try_recv().is_ok() {}
                is_told = false;
                tracing::info!(line = key.0, agent = %id.agent, name = id.agent_name, "registered");
                hub.step(Event::LineUp { line: key });
                let talked = talk(&hub, key, &mut socket, &mut frames).await;
                hub.step(Event::LineDown { line: key });
                // It may be gone; then nobody needs to hear it.
                let _ = timeout(WRITE_TIMEOUT, socket.close(None)).await;
                match talked {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(%error, line = key.0, "the server is away"),
                }
            }
            Err(error) if is_told => tracing::debug!(%error, line = key.0, "still away"),
            Err(error) => {
                is_told = true;
                let why = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, why, line = key.0, "the server is away");
            }
        }
        if begun.elapsed() >= WELL_AFTER {
            backoff = BACKOFF.0;
        }
        tokio::select! {
            () = sleep(backoff) => backoff = (backoff * 2).min(BACKOFF.1),
            () = gone(&mut frames) => return,
        }
    }
}

/// Waits until the line is no longer wanted.
async fn gone(frames: &mut mpsc::Receiver<Vec<u8>>) {
    while frames.recv().await.is_some() {}
}

async fn register(hub: &Arc<Hub>, id: &LineId) -> Result<Socket, Broken> {
    let server = &hub.config.server;
    let stream = dial::connect(&hub.config)
        .await
        .map_err(Broken::Unreached)?;
    let refused = |error| Broken::Refused(Box::new(error));
    let mut request = format!("{server}/agent?protocol=1")
        .into_client_request()
        .map_err(refused)?;
    let bearer = format!("Bearer {}", token::sign(&hub.config.key, clock::now()));
    let bearer = HeaderValue::from_str(&bearer).expect("a token is ASCII");
    request.headers_mut().insert("authorization", bearer);
    let handshake = client_async_with_config(request, stream, Some(socket_config()));
    let (mut socket, _) = timeout(ANSWER_TIMEOUT, handshake)
        .await
        .map_err(|_| Broken::Late)?
        .map_err(refused)?;
    let register = RegisterWorkerRequest {
        kind: id.kind.into(),
        version: VERSION.to_owned(),
        namespace: (!id.namespace.is_empty()).then(|| id.namespace.clone()),
        allowed_permissions: id.permissions.clone(),
        agent_name: id.agent_name.clone(),
        // Callers dispatch as before; which release it is, is decided here.
        ..Default::default()
    };
    let register = WorkerMessage::from(register).encode();
    let answered = async {
        socket
            .send(Message::binary(register))
            .await
            .map_err(refused)?;
        loop {
            match socket.next().await {
                Some(Ok(Message::Binary(frame))) => return Ok(ServerMessage::decode(&frame)?),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Err(error)) => return Err(refused(error)),
                _ => return Err(Broken::Closed),
            }
        }
    };
    match timeout(ANSWER_TIMEOUT, answered).await {
        Ok(Ok(ServerMessage::Register(response))) => {
            hub.set_server_info(response.server_info);
            Ok(socket)
        }
        Ok(Ok(other)) => Err(Broken::Unregistered(other.word())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Broken::Late),
    }
}

/// `Ok`: the line is no longer wanted.
async fn talk(
    hub: &Arc<Hub>,
    key: LineKey,
    socket: &mut Socket,
    frames: &mut mpsc::Receiver<Vec<u8>>,
) -> Result<(), Broken> {
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) => Some(Message::binary(frame)),
                None => return Ok(()),
            },
            frame = socket.next() => {
                heard = Instant::now();
                match frame {
                    Some(Ok(Message::Binary(frame))) => {
                        receive(hub, key, &frame);
                        continue;
                    }
                    Some(Ok(Message::Text(_))) => {
                        tracing::warn!("the server writes text, which is left out");
                        continue;
                    }
                    // A ping is answered with what is flushed.
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => None,
                    _ => return Err(Broken::Closed),
                }
            }
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE_MAX {
                    return Err(Broken::Silent);
                }
                Some(Message::Ping(Vec::new().into()))
            }
        };
        let sent = async {
            match message {
                Some(message) => socket.send(message).await,
                None => socket.flush().await,
            }
        };
        match timeout(WRITE_TIMEOUT, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Broken::Closed),
            Err(_) => return Err(Broken::Silent),
        }
    }
}

/// What the server says. What is not understood is left out: the line carries other jobs too.
fn receive(hub: &Arc<Hub>, line: LineKey, frame: &[u8]) {
    let event = match ServerMessage::decode(frame) {
        Ok(ServerMessage::Availability(request)) => match ask(&request.job, frame) {
            Ok(ask) => Event::Offered { line, ask },
            Err(error) => {
                tracing::warn!(%error, "an offer is not understood");
                return;
            }
        },
        Ok(ServerMessage::Assignment(mut assignment)) => {
            let job = JobView::of(&assignment.job).map(|view| view.id.parse());
            let Ok(Ok(job)) = job else {
                tracing::warn!("an assignment is not understood");
                return;
            };
            // So that media goes there, and not here.
            if assignment.url.is_none() {
                assignment.url = Some(hub.config.server.to_string());
            }
            let body = ServerMessage::from(assignment).encode().into();
            Event::Assigned { job, body }
        }
        Ok(ServerMessage::Termination(termination)) => {
            let Ok(job) = termination.job_id.parse() else {
                return;
            };
            let body = frame.into();
            Event::Terminated { job, body }
        }
        Ok(other) => {
            tracing::debug!(
                message = other.word(),
                "a message of the server is left out"
            );
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "a message of the server is malformed");
            return;
        }
    };
    hub.step(event);
}

#[derive(Debug, thiserror::Error)]
enum BadOffer {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Id(#[from] segue_core::names::BadName),
}

fn ask(job: &[u8], frame: &[u8]) -> Result<Ask, BadOffer> {
    let view = JobView::of(job)?;
    Ok(Ask {
        job: view.id.parse()?,
        fields: fields(&view.metadata),
        again: again(&view),
        room: view.room,
        body: frame.into(),
    })
}

/// What is needed to dispatch a job again. A dispatch is for a room; what it makes of participants
/// there are jobs for each of them, which would be too many.
fn again(view: &JobView) -> Option<Box<Again>> {
    let can = view.kind == JobType::Room
        && !view.room_sid.is_empty()
        && !view.dispatch_id.is_empty()
        && view.metadata.len() <= METADATA_KEPT_MAX;
    can.then(|| {
        Box::new(Again {
            sid: view.room_sid.clone(),
            dispatch: view.dispatch_id.clone(),
            metadata: view.metadata.clone(),
            identity: String::new(),
        })
    })
}

/// What metadata says by name, if it is an object: as requests say it in headers, so that the same
/// rules of the table read it.
fn fields(metadata: &str) -> BTreeMap<String, String> {
    if metadata.len() > METADATA_BYTES_MAX {
        return BTreeMap::new();
    }
    let read: Result<serde_json::Map<String, serde_json::Value>, _> =
        serde_json::from_str(metadata);
    let mut fields = BTreeMap::new();
    for (name, value) in read.unwrap_or_default() {
        let value = match value {
            serde_json::Value::String(text) => text,
            serde_json::Value::Number(number) => number.to_string(),
            serde_json::Value::Bool(is) => is.to_string(),
            _ => continue,
        };
        // Headers are known by their lower-case names, parameters as they are written.
        fields.insert(name.to_ascii_lowercase(), value.clone());
        fields.insert(name, value);
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_reads_like_headers() {
        let read = fields(r#"{"X-Tenant":"acme","n":7,"deep":{"a":1},"on":true}"#);
        let of = |name: &str| read.get(name).map(String::as_str);
        assert_eq!(
            (of("x-tenant"), of("X-Tenant")),
            (Some("acme"), Some("acme"))
        );
        assert_eq!(
            (of("n"), of("on"), of("deep")),
            (Some("7"), Some("true"), None)
        );
        for other in ["", "hello", "[1]", "\"x\"", "{"] {
            assert_eq!(fields(other), BTreeMap::new(), "{other}");
        }
    }
}
