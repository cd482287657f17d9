//! The sample agent: a voice agent small enough to prove a deployment with.
//!
//! It answers four questions at real time, knows nothing else, and never hangs up first. One port
//! serves `GET /healthz`, the provider's webhook at `POST /twilio`, and the calls, as `WebSocket`s
//! on any other path. What Segue tells it (`POST /segue/events`) it logs, and a call that it is
//! to hand off it closes in order, so that the caller comes back elsewhere. Told to stop, it takes no more calls and finishes those it has, however long
//! they last: whoever deploys decides when patience is over, and not the agent.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::calllog::WorkerLog;
use crate::conversation::{self, Arrival, Voice};
use crate::fault::Fault;
use crate::http::{self, Request};
use crate::socket::{self, Socket};

/// Header by which a gateway tells the id of a call.
pub const CALL_ID_HEADER: &str = "X-Segue-Call-Id";

/// Where Segue tells the agent what happens to its calls, as `CloudEvents`.
pub const NOTIFY_PATH: &str = "/segue/events";
/// The event that asks for a call to be handed off.
const HAND_OFF: &str = "dev.segue.call.hand-off";

/// Connections at once, calls or not; more are closed unanswered. Far above what one process can
/// speak on at real time, it only bounds memory.
const CONNECTIONS_MAX: usize = 2_048;
/// Time for a client to say what it wants.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// Pause after `accept` failed: without it, running out of descriptors would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Longest id of a call taken from a client.
const CALL_ID_CHARS_MAX: usize = 128;

/// How the sample agent runs.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Release this agent belongs to, as it says in its log and at `/healthz`.
    pub release: String,
    /// Name of this worker.
    pub worker: String,
    /// File to append the call log to.
    pub log: Option<PathBuf>,
    /// How it is broken.
    pub fault: Fault,
}

impl AgentConfig {
    /// A sound agent without a log.
    pub fn new(listen: SocketAddr, release: &str, worker: &str) -> Self {
        Self {
            listen,
            release: release.to_owned(),
            worker: worker.to_owned(),
            log: None,
            fault: Fault::None,
        }
    }
}

struct Agent {
    config: AgentConfig,
    log: WorkerLog,
    voice: Voice,
    calls: AtomicUsize,
    /// Rung for a call that is to be handed off, by its id.
    leaving: Mutex<BTreeMap<String, Arc<Notify>>>,
}

/// Listens and serves until the process ends.
///
/// # Errors
///
/// When the address or the log cannot be opened, or the fault is [`Fault::Crash`].
pub async fn serve(config: AgentConfig) -> io::Result<()> {
    let listener = TcpListener::bind(config.listen).await?;
    serve_on(config, listener, std::future::pending()).await
}

/// Serves on `listener` until `shutdown`, then finishes the calls and returns.
///
/// # Errors
///
/// When the log cannot be opened, or the fault is [`Fault::Crash`].
pub async fn serve_on(
    config: AgentConfig,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    if config.fault == Fault::Crash {
        return Err(io::Error::other("crashed at start, as told"));
    }
    let log = WorkerLog::open(config.log.as_deref(), &config.release, &config.worker)?;
    let voice = Voice::new(config.fault);
    let agent = Arc::new(Agent {
        config,
        log,
        voice,
        calls: AtomicUsize::new(0),
        leaving: Mutex::default(),
    });
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    let agent = Arc::clone(&agent);
                    // A connection that fails concerns its client alone.
                    connections.spawn(async move { agent.connection(stream).await.ok() });
                }
                Ok(_) => {}
                Err(_) => sleep(ACCEPT_RETRY).await,
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

impl Agent {
    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut request = timeout(REQUEST_MAX, Request::read(&mut stream)).await??;
        if let Some(key) = request.websocket_key() {
            let accept = derive_accept_key(key.as_bytes());
            return self.call(stream, request, &accept).await;
        }
        let plain = "text/plain";
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/healthz") => self.health(&mut stream).await,
            ("POST", "/twilio") => {
                let body = timeout(REQUEST_MAX, request.body(&mut stream)).await??;
                let Some(xml) = twiml(request.header("host"), &body) else {
                    let why = "Host or CallSid is missing or malformed\n";
                    return http::respond(&mut stream, "400 Bad Request", plain, why).await;
                };
                http::respond(&mut stream, "200 OK", "text/xml", &xml).await
            }
            ("POST", NOTIFY_PATH) => {
                let body = timeout(REQUEST_MAX, request.body(&mut stream)).await??;
                let heard = self.hear(&body);
                let status = if heard.is_some() {
                    "204 No Content"
                } else {
                    "400 Bad Request"
                };
                http::respond(&mut stream, status, plain, "").await
            }
            _ => http::respond(&mut stream, "404 Not Found", plain, "not found\n").await,
        }
    }

    async fn health(&self, stream: &mut TcpStream) -> io::Result<()> {
        let ready = self.config.fault != Fault::NeverReady;
        let status = if ready {
            "200 OK"
        } else {
            "503 Service Unavailable"
        };
        let body = serde_json::json!({
            "ready": ready,
            "release": self.config.release,
            "worker": self.config.worker,
            "calls": self.calls.load(Ordering::Relaxed),
        });
        http::respond(stream, status, "application/json", &body.to_string()).await
    }

    /// Takes in what Segue tells. `None`: it is no `CloudEvent`.
    fn hear(&self, body: &[u8]) -> Option<()> {
        let event: serde_json::Value = serde_json::from_slice(body).ok()?;
        let kind = event["type"].as_str()?;
        let call = event["data"]["call"].as_str().unwrap_or_default();
        self.log.told(kind, call);
        let leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leave) = leaving.get(call).filter(|_| kind == HAND_OFF) {
            leave.notify_one();
        }
        Some(())
    }

    async fn call(&self, mut stream: TcpStream, request: Request, accept: &str) -> io::Result<()> {
        if self.config.fault == Fault::Refuse {
            let status = "503 Service Unavailable";
            return http::respond(&mut stream, status, "text/plain", "refused, as told\n").await;
        }
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await?;
        let header_id = request.header(&CALL_ID_HEADER.to_ascii_lowercase());
        let arrival = Arrival {
            header_id: header_id.filter(|id| is_call_id(id)).map(str::to_owned),
            path_id: request
                .path
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned(),
        };
        let config = Some(socket::config());
        let stream = Box::new(stream);
        let socket = Socket::from_partially_read(stream, request.rest, Role::Server, config).await;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let id = arrival
            .header_id
            .as_ref()
            .unwrap_or(&arrival.path_id)
            .clone();
        let leave = Arc::new(Notify::new());
        let leaving = || self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving().insert(id.clone(), Arc::clone(&leave));
        conversation::converse(socket, arrival, &self.voice, &self.log, &leave).await;
        // Its caller may be back already.
        let mut leaving = leaving();
        if leaving.get(&id).is_some_and(|of| Arc::ptr_eq(of, &leave)) {
            leaving.remove(&id);
        }
        drop(leaving);
        self.calls.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

fn is_call_id(id: &str) -> bool {
    (1..=CALL_ID_CHARS_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// The webhook's answer: where the provider is to send the audio of this call.
fn twiml(host: Option<&str>, body: &[u8]) -> Option<String> {
    let host = host.filter(|host| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b);
        !host.is_empty() && host.bytes().all(plain)
    })?;
    let call = http::form_value(body, "CallSid").filter(|call| is_call_id(call))?;
    Some(format!(
        r#"<?xml version="1.0" encoding="UTF-8"?><Response><Connect><Stream url="wss://{host}/ws/{call}"/></Connect></Response>"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_webhook_pins_the_call_in_the_path() {
        let xml = twiml(Some("voice.example:8443"), b"From=%2B1&CallSid=CA1").unwrap();
        assert!(xml.contains(r#"<Stream url="wss://voice.example:8443/ws/CA1"/>"#));
        assert_eq!(twiml(Some("a\"b"), b"CallSid=CA1"), None);
        assert_eq!(twiml(Some("a"), b"CallSid=%22%3E"), None);
        assert_eq!(twiml(None, b"CallSid=CA1"), None);
    }
}
