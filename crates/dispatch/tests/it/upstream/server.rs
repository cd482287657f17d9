//! Connections: registered within their time, then read message by message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::wire::{
    FromServer, FromWorker, JobStatus, JobType, Ping, Pong, Register, Registered, ServerInfo,
    WorkerMessage, WorkerStatus,
};

use super::record::Event;
use super::worker::{Told, Worker, since_epoch};
use super::{Inner, http};

/// A worker that has not registered by then is cut off.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often workers are pinged.
const PING_EVERY: Duration = Duration::from_secs(10);

/// A worker's message may be so long.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// A deployment's name may be so long.
const DEPLOYMENT_BYTES_MAX: usize = 64;

static WORKERS: AtomicU64 = AtomicU64::new(0);

type Reader = SplitStream<WebSocketStream<TcpStream>>;
type Writer = SplitSink<WebSocketStream<TcpStream>, Message>;

/// Takes connections. They end with this.
pub(super) async fn accept(listener: TcpListener, inner: Arc<Inner>) {
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        open.spawn(serve(stream, Arc::clone(&inner)));
        while open.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, inner: Arc<Inner>) {
    let Some(head) = http::peek(&stream).await else {
        return;
    };
    if http::refuse(&head).is_some() {
        return http::answer(stream, head, &inner).await;
    }
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MESSAGE_BYTES_MAX);
    config.max_frame_size = Some(MESSAGE_BYTES_MAX);
    let accepted = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await;
    let Ok(socket) = accepted else {
        return;
    };
    let id = format!("AW_{:06}", WORKERS.fetch_add(1, Ordering::Relaxed));
    inner.records.add(Event::Connected {
        worker: id.clone(),
        target: http::target(&head).to_owned(),
    });
    let (writer, mut reader) = socket.split();
    let (out, queue) = mpsc::unbounded_channel();
    // Ends with the last sender: the worker's entry, and this task.
    let writing = tokio::spawn(write(writer, queue));
    let broke = |rule: String| {
        let worker = id.clone();
        inner.records.add(Event::Broke { worker, rule });
    };
    let registering = register(&mut reader, &out);
    let with = match tokio::time::timeout(REGISTER_TIMEOUT, registering).await {
        Ok(Ok(with)) => with,
        Ok(Err(rule)) => {
            broke(rule);
            return writing.abort();
        }
        Err(_) => {
            broke("it did not register in time".to_owned());
            return writing.abort();
        }
    };
    let worker = Worker::new(&id, &with, out);
    worker.send(FromServer::Register(Registered {
        worker_id: id.clone(),
        server: Some(ServerInfo {
            version: "1.13.5".to_owned(),
            protocol: 16,
            region: "test".to_owned(),
            node_id: "ND_test".to_owned(),
            agent_protocol: 1,
        }),
    }));
    inner
        .state
        .lock()
        .unwrap()
        .workers
        .push(Arc::clone(&worker));
    inner.records.add(Event::Registered {
        worker: id.clone(),
        with,
    });
    let ended = tokio::select! {
        ended = read(&mut reader, &inner, &worker) => ended,
        () = worker.cut.notified() => Ok(None),
    };
    let code = ended.unwrap_or_else(|rule| {
        broke(rule);
        None
    });
    inner.gone(&worker, code);
    writing.abort();
}

async fn write(mut writer: Writer, mut queue: mpsc::UnboundedReceiver<Message>) {
    let mut ping = tokio::time::interval(PING_EVERY);
    ping.tick().await;
    loop {
        let message = tokio::select! {
            message = queue.recv() => message,
            _ = ping.tick() => Some(Message::Ping(Vec::new().into())),
        };
        let Some(message) = message else { return };
        if writer.send(message).await.is_err() {
            return;
        }
    }
}

/// The next message. `None`: the connection is closed, with its code.
async fn next(reader: &mut Reader) -> Result<Result<FromWorker, Option<u16>>, String> {
    loop {
        let frame = match reader.next().await {
            Some(Err(tokio_tungstenite::tungstenite::Error::Capacity(error))) => {
                return Err(error.to_string());
            }
            None | Some(Err(_)) => return Ok(Err(None)),
            Some(Ok(frame)) => frame,
        };
        match frame {
            Message::Binary(bytes) => {
                let message = WorkerMessage::decode(bytes).map_err(|error| error.to_string())?;
                return Ok(Ok(message.message.ok_or("a message of no known kind")?));
            }
            Message::Close(close) => {
                return Ok(Err(close.map(|close| close.code.into())));
            }
            Message::Text(_) => return Err("a frame of text".to_owned()),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

async fn register(
    reader: &mut Reader,
    out: &mpsc::UnboundedSender<Message>,
) -> Result<Register, String> {
    loop {
        let with = match next(reader).await? {
            Ok(FromWorker::Register(with)) => with,
            Ok(FromWorker::Ping(ping)) => {
                let _ = out.send(Message::Binary(pong(&ping).frame().into()));
                continue;
            }
            Ok(_) => return Err("something else before it registered".to_owned()),
            Err(_) => return Err("closed before it registered".to_owned()),
        };
        if JobType::try_from(with.kind).is_err() {
            return Err("a type of job that does not exist".to_owned());
        }
        let bad = |letter: char| letter == '_' || letter.is_whitespace();
        if with.deployment.len() > DEPLOYMENT_BYTES_MAX || with.deployment.contains(bad) {
            return Err("a deployment's name that is not allowed".to_owned());
        }
        return Ok(with);
    }
}

/// Reads to the end; answers the code with which the worker closed, or the rule that it broke.
async fn read(
    reader: &mut Reader,
    inner: &Inner,
    worker: &Arc<Worker>,
) -> Result<Option<u16>, String> {
    let id = || worker.id.clone();
    loop {
        match next(reader).await? {
            Err(code) => return Ok(code),
            Ok(FromWorker::Register(_)) => return Err("it registered twice".to_owned()),
            Ok(FromWorker::Availability(answer)) => {
                inner.records.add(Event::Answered {
                    worker: id(),
                    answer: answer.clone(),
                    known: worker.answered(answer),
                });
            }
            Ok(FromWorker::UpdateWorker(update)) => {
                let told = update
                    .status
                    .and_then(|status| WorkerStatus::try_from(status).ok());
                {
                    let mut last = worker.told.lock().unwrap();
                    *last = Told {
                        status: told.unwrap_or(last.status),
                        load: update.load,
                    };
                }
                inner.records.add(Event::Status {
                    worker: id(),
                    status: told,
                    load: update.load,
                    jobs: update.job_count,
                });
            }
            Ok(FromWorker::UpdateJob(update)) => {
                let status = JobStatus::try_from(update.status).unwrap_or(JobStatus::Pending);
                let known = worker.updated(&update.job_id, status);
                if matches!(status, JobStatus::Success | JobStatus::Failed) && known {
                    inner.state.lock().unwrap().jobs.remove(&update.job_id);
                    inner.rooms.ended(&update.job_id);
                }
                inner.records.add(Event::Updated {
                    job: update.job_id,
                    worker: id(),
                    status,
                    known,
                });
            }
            Ok(FromWorker::Ping(ping)) => worker.send(pong(&ping)),
            // A job of the worker's own making, for trying it out: no test makes any.
            Ok(FromWorker::SimulateJob(_)) => return Err("a simulated job".to_owned()),
            Ok(FromWorker::MigrateJob(migrate)) => inner.records.add(Event::Migrated {
                worker: id(),
                jobs: migrate.job_ids,
            }),
        }
    }
}

fn pong(ping: &Ping) -> FromServer {
    FromServer::Pong(Pong {
        last_timestamp: ping.timestamp,
        timestamp: i64::try_from(since_epoch().as_millis()).expect("before the year 292278994"),
    })
}
