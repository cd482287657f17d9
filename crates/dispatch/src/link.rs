//! The connection to the controller, as a gateway has it: tables come in, reports go out.
//!
//! Nothing here is on the way of a job. With the controller away, the last good tables go on.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use segue_core::dispatch::Event;
use segue_core::link::{LINK_VERSION, MESSAGE_BYTES_MAX, ToController, ToGateway};
use segue_core::presence::{PRESENCE_EVERY, Presence};
use segue_gateway::tables::TableFile;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::hub::Hub;

/// First wait before connecting again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A controller that does not read for so long is let go.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most jobs of one list: at some 400 bytes each it stays below the longest message.
const LIST_MAX: usize = 10_000;

/// Messages that wait for us: tables of as many agents.
const MESSAGES_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the controller's socket failed")]
    Io(#[from] io::Error),
    #[error("the controller speaks version {0} of the link, not {LINK_VERSION}")]
    Version(u32),
    #[error("the controller did not greet")]
    NoGreeting,
    #[error("the controller does not read")]
    Stalled,
    #[error("the tables cannot be written")]
    Unwritten(#[source] io::Error),
}

/// See the module.
pub(crate) struct Link {
    pub(crate) hub: Arc<Hub>,
    pub(crate) tables: Arc<TableFile>,
    /// This life of the dispatcher.
    pub(crate) incarnation: String,
    pub(crate) sequence: Mutex<u64>,
}

impl Link {
    /// Stays connected until `stop` turns true, then sends a last report.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut backoff = BACKOFF.0;
        while !*stop.borrow() {
            let begun = Instant::now();
            match self.connect(&mut stop).await {
                Ok(()) => return,
                Err(LinkError::Io(error)) => tracing::debug!(%error, "no controller"),
                Err(error) => tracing::warn!(%error, "the link to the controller broke"),
            }
            if begun.elapsed() >= BACKOFF.1 {
                backoff = BACKOFF.0;
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = sleep(backoff) => backoff = (backoff * 2).min(BACKOFF.1),
            }
        }
    }

    async fn connect(&self, stop: &mut watch::Receiver<bool>) -> Result<(), LinkError> {
        let stream = UnixStream::connect(&self.hub.config.control_socket).await?;
        let (reader, mut writer) = stream.into_split();
        // A task of its own, so that no line is lost when something else is ready first.
        let (lines, mut messages) = mpsc::channel(MESSAGES_MAX);
        let reading = tokio::spawn(read(BufReader::new(reader), lines));
        let talked = self.talk(&mut writer, &mut messages, stop).await;
        reading.abort();
        talked
    }

    async fn talk(
        &self,
        writer: &mut OwnedWriteHalf,
        messages: &mut mpsc::Receiver<ToGateway>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), LinkError> {
        let hello = ToController::Hello {
            version: LINK_VERSION,
            gateway: self.hub.config.gateway.clone(),
            pid: std::process::id(),
        };
        send(writer, &hello).await?;
        match timeout(WRITE_TIMEOUT, messages.recv()).await {
            Ok(Some(ToGateway::Hello {
                version: LINK_VERSION,
            })) => {}
            Ok(Some(ToGateway::Hello { version })) => return Err(LinkError::Version(version)),
            _ => return Err(LinkError::NoGreeting),
        }
        tracing::info!("linked to the controller");
        let mut tick = interval(Duration::from_millis(PRESENCE_EVERY.0));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped(stop) => {
                    self.send_report(writer).await?;
                    return self.send_ended(writer).await;
                }
                _ = tick.tick() => {
                    self.send_report(writer).await?;
                    self.send_ended(writer).await?;
                }
                message = messages.recv() => match message {
                    Some(message) => self.on_message(message, writer).await?,
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                },
            }
        }
    }

    async fn on_message(
        &self,
        message: ToGateway,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), LinkError> {
        match message {
            ToGateway::Hello { .. } => Ok(()),
            ToGateway::Table(table) => {
                // Kept before it is installed, and so before it is acknowledged.
                let tables = Arc::clone(&self.tables);
                let kept = blocking(move || tables.keep(&table).map(|()| table)).await;
                let table = kept.map_err(LinkError::Unwritten)?;
                tracing::info!(agent = %table.agent, epoch = %table.epoch, "installed a table");
                self.hub.step(Event::Table(table));
                self.send_report(writer).await
            }
            ToGateway::Agents { names } => {
                let tables = Arc::clone(&self.tables);
                self.hub.step(Event::Agents {
                    names: names.clone(),
                });
                let kept = blocking(move || tables.keep_agents(&names)).await;
                self.send_report(writer).await?;
                kept.map_err(LinkError::Unwritten)
            }
            ToGateway::EndCalls {
                agent,
                release,
                epoch,
                calls,
            } => {
                self.hub.step(Event::EndCalls {
                    agent,
                    release,
                    epoch,
                    calls,
                });
                Ok(())
            }
            ToGateway::ListCalls {
                request,
                agent,
                limit,
            } => {
                let calls = self.hub.list(agent.as_ref(), limit.min(LIST_MAX));
                send(writer, &ToController::Calls { request, calls }).await
            }
            ToGateway::ListWorkers { request, .. } | ToGateway::SteerWorker { request, .. } => {
                let workers = Vec::new();
                send(writer, &ToController::Workers { request, workers }).await
            }
        }
    }

    async fn send_report(&self, writer: &mut OwnedWriteHalf) -> Result<(), LinkError> {
        let presence = {
            // Numbered in the order of what they show.
            let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
            *sequence += 1;
            Presence {
                gateway: self.hub.config.gateway.clone(),
                incarnation: self.incarnation.clone(),
                sequence: *sequence,
                agents: self.hub.presence(),
            }
        };
        send(writer, &ToController::Presence(presence)).await
    }

    /// What may not have arrived is kept for the next link.
    async fn send_ended(&self, writer: &mut OwnedWriteHalf) -> Result<(), LinkError> {
        let (calls, left_out) = self.hub.take_ended();
        if calls.is_empty() {
            return Ok(());
        }
        let message = ToController::Ended { calls, left_out };
        let sent = send(writer, &message).await;
        if let (Err(_), ToController::Ended { calls, .. }) = (&sent, message) {
            self.hub.put_back_ended(calls);
        }
        sent
    }
}

/// Ends with the connection, at a line that is too long, or when nobody listens.
async fn read(
    mut reader: BufReader<tokio::net::unix::OwnedReadHalf>,
    lines: mpsc::Sender<ToGateway>,
) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(MESSAGE_BYTES_MAX as u64);
        match bounded.read_until(b'\n', &mut line).await {
            Ok(1..) if line.last() == Some(&b'\n') => {}
            _ => return,
        }
        match serde_json::from_slice(&line) {
            Ok(message) => {
                if lines.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!(%error, "a message is not understood"),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

async fn send(writer: &mut OwnedWriteHalf, message: &ToController) -> Result<(), LinkError> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    let written = timeout(WRITE_TIMEOUT, writer.write_all(&line)).await;
    written.map_err(|_| LinkError::Stalled)??;
    Ok(())
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A dropped sender means that the process ends.
    let _ = stop.wait_for(|stop| *stop).await;
}
