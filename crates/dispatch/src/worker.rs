//! One worker's connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use segue_core::dispatch::{Answer, Event, Hello, LineId, WorkerKey, WorkerStatus};
use segue_core::names::{AgentName, CallId, Label, WorkerId};
use segue_core::plane::Told;
use segue_gateway::clock;
use segue_membership::Reject;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::admit::{Admitted, Knock, PERMISSIONS_BYTES_MAX, Refused, Registered, brief};
use crate::hub::{Hub, NoRelease};
use crate::proto::{
    JobStatus, Malformed, RegisterWorkerRequest, RegisterWorkerResponse, ServerMessage,
    WorkerMessage, WorkerPong, WorkerStatus as Word,
};

/// From the connection to the registration, as the server has it.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a worker is pinged.
const PING_EVERY: Duration = Duration::from_secs(5);

/// A worker that says nothing for so long, not even to pings, is gone: workers write every 2.5 s. One
/// that was only slow comes back. The server gives up the agents of a machine that is lost after some
/// 15 s, and their jobs are taken for ended 25 s behind that.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// A worker that does not read a frame for so long is let go.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a worker that an operator disconnects may take to say the rest: it is on its way.
const HEARD_OUT: Duration = Duration::from_secs(5);

/// Longest reason of a close frame, in bytes.
const REASON_BYTES_MAX: usize = 120;

type Socket = WebSocketStream<TcpStream>;

/// Why we end a worker's connection.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the worker closed it")]
    Closed(Option<u16>),
    #[error("the connection failed")]
    Failed,
    #[error("the worker says nothing")]
    Silent,
    #[error("the worker does not read")]
    Stalled,
    #[error("the dispatcher closed it")]
    LetGo,
    #[error("the worker did not register in time")]
    Late,
    #[error("the worker's message is malformed: {0}")]
    Malformed(#[from] Malformed),
    #[error("the worker's first message is {0:?} and not its registration")]
    NotRegistered(&'static str),
    #[error("the worker registers twice")]
    RegisteredTwice,
    #[error("the worker writes text, and only binary messages are read")]
    Text,
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("the routing table of agent {0} is not here yet")]
    NoTable(AgentName),
    #[error("agent {0} has no release {1}")]
    UnknownRelease(AgentName, Label),
}

impl End {
    fn code(&self) -> CloseCode {
        match self {
            Self::Text => CloseCode::Unsupported,
            Self::Malformed(_) | Self::NotRegistered(_) | Self::RegisteredTwice | Self::Late => {
                CloseCode::Protocol
            }
            // Workers try again, and the table may have come.
            Self::NoTable(_) | Self::UnknownRelease(..) => CloseCode::Again,
            Self::Refused(_) => CloseCode::Policy,
            _ => CloseCode::Away,
        }
    }

    fn frame(&self) -> CloseFrame {
        let mut reason = self.to_string();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        CloseFrame {
            code: self.code(),
            reason: reason.into(),
        }
    }

    /// One word for the audit log, if it belongs there: what else breaks is no worker's fault, or
    /// nobody says whose.
    fn word(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refused) => Some(refused.word()),
            Self::UnknownRelease(..) => Some("unknown-release"),
            _ => None,
        }
    }
}

/// What a worker says before it is believed, for whoever reads why it was turned away.
#[derive(Debug, Default)]
struct Says {
    agent: Option<AgentName>,
    release: Option<Label>,
    from: Option<IpAddr>,
}

pub(crate) async fn serve(hub: &Arc<Hub>, mut socket: Socket, membership: Option<String>) {
    let mut says = Says::default();
    let registered = register(hub, &mut socket, membership, &mut says);
    let registered = timeout(REGISTER_TIMEOUT, registered).await;
    let entered = registered.unwrap_or(Err(End::Late));
    let end = match entered {
        Ok((worker, frames)) => {
            let end = talk(hub, &mut socket, worker, frames).await;
            if matches!(end, End::LetGo) && hub.is_kicked(worker) {
                // In time or not, it goes.
                let _ = timeout(HEARD_OUT, hear_out(hub, &mut socket, worker)).await;
            }
            let code = match end {
                End::Closed(code) => code,
                _ => None,
            };
            hub.leave(worker, code);
            tracing::info!(connection = worker.0, %end, "a worker's connection ended");
            end
        }
        Err(end) => {
            reject(hub, &end, says);
            end
        }
    };
    // It may be gone; then nobody needs to hear it.
    let _ = timeout(WRITE_TIMEOUT, socket.close(Some(end.frame()))).await;
}

/// Nothing but the log has one of whom nobody knows to which agent it belongs.
fn reject(hub: &Arc<Hub>, end: &End, says: Says) {
    let agent = says.agent.as_ref().map(AgentName::as_str);
    let from = says.from.map(tracing::field::display);
    tracing::warn!(error = %end, reason = end.word(), agent, from, "a worker is rejected");
    if let (Some(reason), Some(agent)) = (end.word(), says.agent) {
        let told = Told::WorkerRejected {
            reason: reason.to_owned(),
            message: end.to_string(),
            release: says.release,
            from: says.from,
        };
        hub.events.tell(clock::now(), &agent, told);
    }
}

async fn register(
    hub: &Arc<Hub>,
    socket: &mut Socket,
    membership: Option<String>,
    says: &mut Says,
) -> Result<(WorkerKey, mpsc::Receiver<Vec<u8>>), End> {
    let from = socket.get_ref().peer_addr().ok();
    says.from = from.map(|from| from.ip().to_canonical());
    let register = first(socket).await?;
    let namespace = register.namespace.as_deref().unwrap_or_default();
    let registered = Registered::new(&register.agent_name, namespace);
    let mut agents = hub.config.agents.iter();
    let known = agents.find(|(_, of)| of.registered() == registered);
    says.agent = known.map(|(agent, _)| agent.clone());
    says.release = register.deployment.parse().ok();
    // Signatures take a while, and whoever looks for a new manifest may hold the gate meanwhile.
    let admit = Arc::clone(&hub.admit);
    let asked = tokio::task::spawn_blocking(move || {
        let knock = Knock {
            token: membership.as_deref(),
            deployment: &register.deployment,
            agent_name: &register.agent_name,
            namespace: register.namespace.as_deref().unwrap_or_default(),
        };
        (admit.admit(knock, clock::now()), register)
    });
    let (admitted, register) = asked.await.map_err(|_| End::Failed)?;
    if let Err(Refused::Token(Reject::NotAdmitted { agent, version, .. })) = &admitted {
        // Signed, so it is what it says, but for being admitted.
        (says.agent, says.release) = (Some(agent.clone()), Some(version.clone()));
    }
    let admitted = admitted?;
    says.agent = Some(admitted.agent.clone());
    says.release = Some(admitted.label.clone());
    let Some(of) = hub.config.agents.get(&admitted.agent) else {
        return Err(Refused::NoAgent(registered).into());
    };
    if of.registered() != registered {
        let refused = Refused::OtherAgent {
            agent: admitted.agent,
            said: registered,
            expected: of.registered(),
        };
        return Err(refused.into());
    }
    enter(hub, register, admitted, says.from)
}

async fn first(socket: &mut Socket) -> Result<RegisterWorkerRequest, End> {
    let first = loop {
        match socket.next().await {
            Some(Ok(Message::Binary(frame))) => break WorkerMessage::decode(&frame)?,
            Some(Ok(Message::Text(_))) => return Err(End::Text),
            Some(Ok(Message::Close(frame))) => {
                return Err(End::Closed(frame.map(|f| f.code.into())));
            }
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Err(End::Failed),
        }
    };
    match first {
        WorkerMessage::Register(register) => Ok(register),
        other => Err(End::NotRegistered(other.word())),
    }
}

fn enter(
    hub: &Arc<Hub>,
    register: RegisterWorkerRequest,
    admitted: Admitted,
    from: Option<IpAddr>,
) -> Result<(WorkerKey, mpsc::Receiver<Vec<u8>>), End> {
    let Admitted {
        agent,
        label,
        release,
        draining,
        pass,
    } = admitted;
    let release = match release {
        Some(release) => release,
        None => hub
            .find_release(&agent, &label)
            .map_err(|none| match none {
                NoRelease::NoTable => End::NoTable(agent.clone()),
                NoRelease::NotInTable => End::UnknownRelease(agent.clone(), label.clone()),
            })?,
    };
    let permissions = register.allowed_permissions;
    let length = permissions.as_ref().map_or(0, Vec::len);
    if length > PERMISSIONS_BYTES_MAX {
        return Err(Refused::Permissions(length).into());
    }
    let line = LineId {
        agent: agent.clone(),
        agent_name: register.agent_name,
        kind: register.kind.into(),
        namespace: register.namespace.unwrap_or_default(),
        permissions,
    };
    let library = brief(&register.version).to_owned();
    let worker = hub.key();
    let random = uuid::Uuid::now_v7().simple().to_string();
    let id: WorkerId = format!("AW_{random}").parse().expect("letters and digits");
    let hello = Hello {
        worker,
        id: id.clone(),
        release,
        line,
        draining,
        library: library.clone(),
        from,
    };
    let frames = hub.enter(hello, pass, |server_info| {
        let response = RegisterWorkerResponse {
            worker_id: id.to_string(),
            server_info,
            ..Default::default()
        };
        response.into()
    });
    let frames = frames.ok_or_else(|| Refused::Lines(agent.clone()))?;
    tracing::info!(
        connection = worker.0, worker = %id, %agent, %label, %release,
        library, "a worker is in"
    );
    Ok((worker, frames))
}

async fn talk(
    hub: &Arc<Hub>,
    socket: &mut Socket,
    worker: WorkerKey,
    mut frames: mpsc::Receiver<Vec<u8>>,
) -> End {
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        let message = tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) => Some(Message::binary(frame)),
                None => return End::LetGo,
            },
            frame = socket.next() => {
                heard = Instant::now();
                match frame {
                    Some(Ok(Message::Binary(frame))) => match receive(hub, worker, &frame) {
                        Ok(None) => continue,
                        Ok(Some(answer)) => Some(Message::binary(answer.encode())),
                        Err(end) => return end,
                    },
                    Some(Ok(Message::Text(_))) => return End::Text,
                    Some(Ok(Message::Close(frame))) => {
                        return End::Closed(frame.map(|frame| frame.code.into()));
                    }
                    // A ping is answered with what is flushed.
                    Some(Ok(_)) => None,
                    Some(Err(_)) | None => return End::Failed,
                }
            }
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE_MAX {
                    return End::Silent;
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
            Ok(Err(_)) => return End::Failed,
            Err(_) => return End::Stalled,
        }
    }
}

/// Closes a connection and reads what the worker had said before it heard of that: that a job is over
/// it says only once.
async fn hear_out(hub: &Arc<Hub>, socket: &mut Socket, worker: WorkerKey) {
    if socket.close(Some(End::LetGo.frame())).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(frame) = message
            && receive(hub, worker, &frame).is_err()
        {
            return;
        }
    }
}

/// What a worker says. Says what is answered at once.
fn receive(hub: &Arc<Hub>, worker: WorkerKey, frame: &[u8]) -> Result<Option<ServerMessage>, End> {
    let event = match WorkerMessage::decode(frame)? {
        WorkerMessage::Register(_) => return Err(End::RegisteredTwice),
        WorkerMessage::Ping(ping) => {
            let pong = WorkerPong {
                last_timestamp: ping.timestamp,
                timestamp: i64::try_from(clock::now().0).unwrap_or(i64::MAX),
                ..Default::default()
            };
            return Ok(Some(pong.into()));
        }
        WorkerMessage::UpdateWorker(update) => {
            let available = update.status.map(|status| status == Word::Available);
            let status = WorkerStatus {
                available,
                load: update.load,
                draining: update.draining,
            };
            Event::Status { worker, status }
        }
        WorkerMessage::Availability(answer) => {
            let Ok(job) = answer.job_id.parse() else {
                return Ok(None);
            };
            let answer = Answer {
                job,
                available: answer.available,
                terminate: answer.terminate,
                identity: answer.participant_identity,
                body: frame.into(),
            };
            Event::Answered { worker, answer }
        }
        WorkerMessage::UpdateJob(update) => {
            let Ok(job) = update.job_id.parse() else {
                return Ok(None);
            };
            let ended_well = match update.status {
                JobStatus::Success => Some(true),
                JobStatus::Failed => Some(false),
                _ => None,
            };
            Event::JobUpdate {
                worker,
                job,
                ended_well,
                body: frame.into(),
            }
        }
        WorkerMessage::MigrateJob(has) => {
            let jobs = has.job_ids.iter();
            let jobs: Vec<CallId> = jobs.filter_map(|job| job.parse().ok()).collect();
            Event::Claimed { worker, jobs }
        }
        WorkerMessage::SimulateJob(_) => Event::Simulated {
            worker,
            body: frame.into(),
        },
        WorkerMessage::Foreign(_) => return Ok(None),
    };
    hub.step(event);
    Ok(None)
}
