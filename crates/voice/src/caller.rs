//! The synthetic caller: places a call as the provider would, talks, and reports what became of it.
//!
//! It sends audio at real time for as long as the call lasts, and believes only what it hears.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::http::header::{HOST, HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::http::uri::Authority;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message as Frame};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use crate::audio::{FRAME_SAMPLES, SILENCE};
use crate::calllog::{CallLog, CallerEnd, Tally, unix_ms};
use crate::clips::{Audio, Clip};
use crate::script::{Act, Script};
use crate::socket::{self, Carrier, Socket};
use crate::twilio::{self, Incoming, Mark, MediaWriter, Message, Start};

/// In [`CallPlan::url`], stands for the id of the call.
pub const CALL_PLACEHOLDER: &str = "{call}";

/// Marks kept until they are played; an agent that sets more gets the earlier ones at once.
const MARKS_MAX: usize = 256;

/// A voice that is to be heard in time, and perhaps which.
#[derive(Debug, Clone, Serialize)]
pub struct Expectation {
    /// What is to be said; any voice will do if `None`.
    pub audio: Option<Audio>,
    /// Time until the first voice.
    pub within_ms: u64,
}

/// One question and what is to be heard for it.
#[derive(Debug, Clone, Serialize)]
pub struct Turn {
    /// What the caller says.
    pub say: Audio,
    /// The answer; any voice will do if `None`.
    pub expect: Option<Audio>,
    /// Time from the caller's last voice to the agent's first.
    pub within_ms: u64,
}

/// A call to be made.
#[derive(Debug, Clone)]
pub struct CallPlan {
    /// Where, as `ws://host:port/path` or `wss://…`; [`CALL_PLACEHOLDER`] in it becomes the call's
    /// id.
    pub url: String,
    /// Headers sent besides those of the handshake. A `Host` replaces that of the URL, and is the
    /// name asked for in TLS; the call still goes to the address in the URL.
    pub headers: Vec<(String, String)>,
    /// Whom to trust; needed for `wss://`, unused for `ws://`.
    pub tls: Option<Arc<ClientConfig>>,
    /// Id of the call, sent as `callSid`.
    pub call_id: String,
    /// The agent's first sentence; if `None`, the caller speaks first.
    pub greeting: Option<Expectation>,
    /// What is said, in rounds.
    pub turns: Vec<Turn>,
    /// Length of the call: the caller hangs up at the first pause after it. Zero: after one round.
    pub talk_ms: u64,
    /// Time to connect.
    pub connect_timeout_ms: u64,
    /// Time listened without any voice, added up over turns, after which the caller gives up.
    pub patience_ms: u64,
    /// Whether to compare what is heard with what is expected, or to mind only that it is voice.
    pub listen: bool,
    /// Whether to say goodbye before hanging up.
    pub say_bye: bool,
    /// Seed of the pauses between turns.
    pub seed: u64,
    /// Where to log.
    pub log: Arc<CallLog>,
}

impl CallPlan {
    /// A call of `talk_ms` to the sample agent, which asks for the hours and the address.
    pub fn new(url: &str, call_id: &str, talk_ms: u64) -> Self {
        let within_ms = 3_000;
        let turn = |(say, answer): (Clip, Clip)| Turn {
            say: say.audio(),
            expect: Some(answer.audio()),
            within_ms,
        };
        let questions = [
            (Clip::AskHours, Clip::Hours),
            (Clip::AskAddress, Clip::Address),
        ];
        Self {
            url: url.to_owned(),
            headers: Vec::new(),
            tls: None,
            call_id: call_id.to_owned(),
            greeting: Some(Expectation {
                audio: Some(Clip::Greeting.audio()),
                within_ms,
            }),
            turns: questions.map(turn).into(),
            talk_ms,
            connect_timeout_ms: 5_000,
            patience_ms: 10_000,
            listen: true,
            say_bye: true,
            seed: 0,
            log: Arc::new(CallLog::none()),
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CallEnd {
    /// We did, as planned.
    HungUp,
    /// We did, because nobody spoke.
    Silent,
    /// The far end did, with the code of its close, if it sent one.
    Remote {
        /// Code of the close.
        code: Option<u16>,
    },
    /// It was never answered.
    Refused {
        /// Status of the answer to the handshake.
        status: u16,
    },
    /// It could not be made, or we could not go on.
    Failed {
        /// Why.
        error: String,
        /// Whether the call had been connected.
        connected: bool,
    },
}

/// What was heard in one turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnReport {
    /// What the caller had said; `None` for the greeting.
    pub said: Option<String>,
    /// From the caller's last voiced frame (or from the connection, for the greeting) to the
    /// agent's first voiced one; `None` if there was none in time.
    pub voice_ms: Option<u64>,
    /// Likeness to the expected answer, if there was one to compare with.
    pub similarity: Option<f64>,
    /// Whether a voice was heard in time and, if compared, said what was expected.
    pub heard: bool,
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallReport {
    /// Id of the call.
    pub call_id: String,
    /// When it was dialled, in milliseconds since the epoch.
    pub started_unix_ms: u64,
    /// When it was over.
    pub ended_unix_ms: u64,
    /// From dialling to the upgraded connection.
    pub connect_ms: Option<u64>,
    /// The greeting; its `voice_ms` is the time to first audio.
    pub greeting: Option<TurnReport>,
    /// The turns that were brought to an end.
    pub turns: Vec<TurnReport>,
    /// Longest time the agent's side was dead after its first sound, beyond what it had sent ahead.
    /// Agents that send nothing while they listen have long gaps by design.
    pub longest_gap_ms: u64,
    /// How it ended.
    pub end: CallEnd,
}

impl CallReport {
    /// Turns in which the agent was heard saying what it should.
    pub fn turns_heard(&self) -> usize {
        self.turns.iter().filter(|turn| turn.heard).count()
    }
}

/// Makes one call and stays with it to its end.
pub async fn call(plan: &CallPlan) -> CallReport {
    let mut report = CallReport {
        call_id: plan.call_id.clone(),
        started_unix_ms: unix_ms(),
        ended_unix_ms: 0,
        connect_ms: None,
        greeting: None,
        turns: Vec::new(),
        longest_gap_ms: 0,
        end: CallEnd::HungUp,
    };
    plan.log.dialled(&plan.call_id);
    let dialled = Instant::now();
    report.end = match connect(plan).await {
        Err(end) => {
            let status = if let CallEnd::Refused { status } = end {
                status
            } else {
                0
            };
            plan.log.refused(&plan.call_id, status);
            end
        }
        Ok(socket) => {
            plan.log.connected(&plan.call_id);
            let connect_ms = dialled.elapsed().as_millis();
            report.connect_ms = Some(u64::try_from(connect_ms).unwrap_or(u64::MAX));
            let mut script = Script::new(plan, Instant::now());
            let end = Box::pin(talk(socket, plan, &mut script)).await;
            report.longest_gap_ms = script.longest_gap_ms();
            (report.greeting, report.turns) = (script.greeting, script.turns);
            log_end(plan, &report, &end);
            end
        }
    };
    report.ended_unix_ms = unix_ms();
    report
}

fn log_end(plan: &CallPlan, report: &CallReport, end: &CallEnd) {
    let (by, code) = match end {
        CallEnd::HungUp => (CallerEnd::Caller, Some(CloseCode::Normal.into())),
        CallEnd::Remote { code } => (CallerEnd::Remote, *code),
        CallEnd::Silent | CallEnd::Refused { .. } | CallEnd::Failed { .. } => {
            (CallerEnd::Error, None)
        }
    };
    let heard = Tally {
        turns: report.turns.len(),
        turns_heard: report.turns_heard(),
        longest_gap_ms: report.longest_gap_ms,
    };
    plan.log.ended(&plan.call_id, by, code, heard);
}

fn failed(error: &dyn std::fmt::Display, connected: bool) -> CallEnd {
    CallEnd::Failed {
        error: error.to_string(),
        connected,
    }
}

async fn connect(plan: &CallPlan) -> Result<Socket, CallEnd> {
    let limit = Duration::from_millis(plan.connect_timeout_ms);
    let request = request(plan).map_err(|error| failed(&error, false))?;
    let secured = secured(plan, &request).map_err(|why| failed(&why, false))?;
    let uri = request.uri();
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let port = uri
        .port_u16()
        .unwrap_or(if secured.is_some() { 443 } else { 80 });
    let connecting = async {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let carrier: Box<dyn Carrier> = match secured {
            Some((config, name)) => {
                let connector = TlsConnector::from(config);
                Box::new(connector.connect(name, stream).await?)
            }
            None => Box::new(stream),
        };
        client_async_with_config(request, carrier, Some(socket::config())).await
    };
    match timeout(limit, Box::pin(connecting)).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(response))) => Err(CallEnd::Refused {
            status: response.status().as_u16(),
        }),
        Ok(Err(Error::Io(error))) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(failed(&"connection refused", false))
        }
        Ok(Err(error)) => Err(failed(&error, false)),
        Err(_) => Err(failed(
            &format!("not connected within {} ms", limit.as_millis()),
            false,
        )),
    }
}

/// Whom to trust, and the name to ask for; `None` for a plain call.
fn secured(
    plan: &CallPlan,
    request: &Request<()>,
) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>, &'static str> {
    match request.uri().scheme_str() {
        Some("ws") => Ok(None),
        Some("wss") => {
            let config = plan.tls.clone().ok_or("nobody is trusted for wss://")?;
            let name = server_name(request).ok_or("Host is no name to ask for in TLS")?;
            Ok(Some((config, name)))
        }
        _ => Err("only ws:// and wss:// can be called"),
    }
}

fn server_name(request: &Request<()>) -> Option<ServerName<'static>> {
    let host = request.headers().get(HOST)?.to_str().ok()?;
    let authority: Authority = host.parse().ok()?;
    let name = authority.host().trim_matches(['[', ']']);
    ServerName::try_from(name.to_owned()).ok()
}

fn request(plan: &CallPlan) -> Result<Request<()>, Error> {
    let url = plan.url.replace(CALL_PLACEHOLDER, &plan.call_id);
    let mut request = url.into_client_request()?;
    for (name, value) in &plan.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|error| Error::HttpFormat(error.into()))?;
        let value = HeaderValue::from_str(value)?;
        if name == HOST {
            // The handshake has one already, and two are refused.
            request.headers_mut().insert(name, value);
        } else {
            request.headers_mut().append(name, value);
        }
    }
    Ok(request)
}

/// The connection of one call.
struct Line {
    socket: Socket,
    stream_sid: String,
    writer: MediaWriter,
    silence: String,
    /// Marks of the agent, each with the time at which it will have been played.
    marks: VecDeque<(Instant, Mark)>,
}

async fn talk(socket: Socket, plan: &CallPlan, script: &mut Script<'_>) -> CallEnd {
    let stream_sid = format!("MZ{}", plan.call_id);
    let mut line = Line {
        socket,
        writer: MediaWriter::new(&stream_sid),
        silence: Audio::from_ulaw("", "", &[SILENCE; FRAME_SAMPLES])
            .frames()
            .concat(),
        stream_sid,
        marks: VecDeque::new(),
    };
    if let Err(end) = line.open(plan).await {
        return end;
    }
    let mut ticks = socket::ticks();
    let mut audio = Vec::with_capacity(FRAME_SAMPLES);
    loop {
        tokio::select! {
            biased;
            frame = line.socket.next() => match frame {
                Some(Ok(Frame::Text(text))) => line.read(&text, &mut audio, script),
                Some(Ok(Frame::Close(close))) => {
                    let code = close.map(|close| close.code.into());
                    script.end(Instant::now());
                    socket::finish(line.socket).await;
                    return CallEnd::Remote { code };
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    script.end(Instant::now());
                    return CallEnd::Remote { code: None };
                }
            },
            _ = ticks.tick() => {
                let now = Instant::now();
                let act = script.tick(now);
                let sent = match &act {
                    Act::Say(audio, frame) => line.say(audio.frames().get(*frame)).await,
                    Act::Listen => line.say(None).await,
                    Act::HangUp | Act::GiveUp => {
                        script.end(now);
                        line.hang_up().await;
                        let silent = matches!(act, Act::GiveUp);
                        return if silent { CallEnd::Silent } else { CallEnd::HungUp };
                    }
                };
                let sent = match sent {
                    Ok(()) => line.return_marks(now).await,
                    Err(end) => Err(end),
                };
                if let Err(end) = sent {
                    script.end(now);
                    return end;
                }
            }
        }
    }
}

impl Line {
    async fn send(&mut self, text: Utf8Bytes) -> Result<(), CallEnd> {
        let Err(error) = socket::send(&mut self.socket, text).await else {
            return Ok(());
        };
        if error.kind() == std::io::ErrorKind::TimedOut {
            return Err(failed(&"the agent stopped reading", true));
        }
        let code = socket::last_words(&mut self.socket).await.flatten();
        Err(CallEnd::Remote { code })
    }

    async fn open(&mut self, plan: &CallPlan) -> Result<(), CallEnd> {
        let connected = Message::Connected {
            protocol: "Call".to_owned(),
            version: "1.0.0".to_owned(),
        };
        self.send(connected.to_json().into()).await?;
        let start = Start {
            stream_sid: self.stream_sid.clone(),
            call_sid: plan.call_id.clone(),
            ..Start::default()
        };
        let start = Message::Start {
            stream_sid: self.stream_sid.clone(),
            start,
        };
        self.send(start.to_json().into()).await
    }

    fn read(&mut self, text: &str, audio: &mut Vec<u8>, script: &mut Script<'_>) {
        let now = Instant::now();
        match twilio::read(text, audio) {
            Some(Incoming::Audio) => script.hear(now, audio),
            Some(Incoming::Message(Message::Mark { mark, .. })) => {
                let due = script.played_until(now);
                self.marks.push_back((due, mark));
            }
            Some(Incoming::Message(Message::Clear { .. })) => {
                script.clear(now);
                self.marks.iter_mut().for_each(|(due, _)| *due = now);
            }
            Some(Incoming::Message(_)) | None => {}
        }
    }

    async fn say(&mut self, payload: Option<&String>) -> Result<(), CallEnd> {
        let text = self.writer.inbound(payload.unwrap_or(&self.silence));
        self.send(text.into()).await
    }

    async fn return_marks(&mut self, now: Instant) -> Result<(), CallEnd> {
        while let Some((due, _)) = self.marks.front()
            && (*due <= now || self.marks.len() > MARKS_MAX)
            && let Some((_, mark)) = self.marks.pop_front()
        {
            let mark = Message::Mark {
                stream_sid: self.stream_sid.clone(),
                mark,
            };
            self.send(mark.to_json().into()).await?;
        }
        Ok(())
    }

    /// Says stop and closes. What goes wrong now changes nothing: we had hung up.
    async fn hang_up(mut self) {
        let stop = Message::Stop {
            stream_sid: self.stream_sid.clone(),
        };
        if self.send(stop.to_json().into()).await.is_err() {
            return;
        }
        let close = CloseFrame {
            code: CloseCode::Normal,
            reason: Utf8Bytes::default(),
        };
        if self.socket.close(Some(close)).await.is_ok() {
            socket::finish(self.socket).await;
        }
    }
}
