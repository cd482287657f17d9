//! The connection to the controller: tables come in, reports go out.
//!
//! Nothing here is on the way of a call. With the controller away, the last good tables go on.
//! Gateways and dispatchers have it in common; what they are asked and told is [`Linked`].

mod unread;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use segue_core::link::{
    CallInfo, CallRecord, LINK_VERSION, MESSAGE_BYTES_MAX, ToController, ToGateway,
};
use segue_core::names::{AgentName, CallId, GatewayId, ReleaseId, WorkerId};
use segue_core::plane::{ConnectedWorker, PlaneEvent, Steer};
use segue_core::presence::{PRESENCE_EVERY, Presence};
use segue_core::table::{Epoch, RoutingTable};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use self::unread::Unread;
use crate::stop::stopped;
use crate::tables::TableFile;

/// First wait before connecting again; it doubles up to [`BACKOFF_MAX`], and starts anew only once
/// a link held for that long: one that breaks on its first table must not be made anew at once.
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Longest wait: a controller that is back is found within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A controller that does not read for so long is let go.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most calls or workers of one list: at some 400 bytes each it stays below the longest message.
const LIST_MAX: usize = 10_000;

/// What is linked: a gateway or a dispatcher. Nothing here may wait long.
pub trait Linked: Send + Sync {
    /// Who.
    fn gateway(&self) -> GatewayId;

    /// The next report. Reports are numbered in the order of what they show.
    fn report(&self) -> Presence;

    /// Acts by a table from now on, if it is newer than the one before. It is on disk already.
    fn install(&self, table: Box<RoutingTable>);

    /// Forgets every agent that is not named, once it holds no call.
    fn keep_agents(&self, names: &[AgentName]);

    /// Ends calls of a release that winds down, by the table of this epoch.
    fn end_calls(&self, agent: AgentName, of: (ReleaseId, Epoch), calls: Vec<CallId>);

    /// Live calls, oldest first.
    fn list_calls(&self, agent: Option<&AgentName>, limit: usize) -> Vec<CallInfo>;

    /// Whether a call depends on it.
    fn holds_calls(&self) -> bool;

    /// What became of calls since it was asked last, and how much was left out ever.
    fn take_ended(&self) -> (Vec<CallRecord>, u64);

    /// Takes back what may not have arrived.
    fn put_back_ended(&self, records: Vec<CallRecord>);

    /// Workers that are connected. There are none where workers are dialled.
    fn list_workers(&self, _agent: Option<&AgentName>, _limit: usize) -> Vec<ConnectedWorker> {
        Vec::new()
    }

    /// Does what an operator wants done with a worker. `None`: it is not known.
    fn steer(&self, _agent: &AgentName, _worker: &WorkerId, _: Steer) -> Option<ConnectedWorker> {
        None
    }

    /// What is ready for the audit log, and how much was left out ever; `all`: also what is still
    /// being gathered.
    fn take_events(&self, _all: bool) -> (Vec<PlaneEvent>, u64) {
        (Vec::new(), 0)
    }

    /// Takes back what may not have arrived.
    fn put_back_events(&self, _events: Vec<PlaneEvent>) {}
}

/// Why a connection to the controller ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the controller's socket failed")]
    Io(#[from] io::Error),
    #[error("the controller speaks version {0} of the link, not {LINK_VERSION}")]
    Version(u32),
    #[error("the controller did not greet")]
    NoGreeting,
    #[error("a message is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the controller does not read")]
    Stalled,
    #[error("the tables cannot be written")]
    Unwritten(#[source] io::Error),
}

/// See the module.
pub struct Link {
    /// Where the controller listens.
    pub socket: PathBuf,
    /// Whose link it is.
    pub linked: Arc<dyn Linked>,
    /// Where tables are kept. `None`: another process keeps them, and takes the calls.
    pub tables: Option<Arc<TableFile>>,
}

impl Link {
    /// Stays connected until `stop` turns true, then sends a last report.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut backoff = BACKOFF_MIN;
        while !*stop.borrow() {
            let begun = Instant::now();
            match self.connect(&mut stop).await {
                Ok(()) => return,
                Err(LinkError::Io(error)) => tracing::debug!(%error, "no controller"),
                Err(LinkError::Unwritten(error)) => {
                    tracing::error!(%error, "the tables cannot be written; asking for them again");
                }
                Err(error) => tracing::warn!(%error, "the link to the controller broke"),
            }
            if begun.elapsed() >= BACKOFF_MAX {
                backoff = BACKOFF_MIN;
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
            }
        }
    }

    async fn connect(&self, stop: &mut watch::Receiver<bool>) -> Result<(), LinkError> {
        let (reader, mut writer) = UnixStream::connect(&self.socket).await?.into_split();
        let mut lines = Lines {
            reader: BufReader::new(reader),
            line: Vec::new(),
        };
        let hello = ToController::Hello {
            version: LINK_VERSION,
            gateway: self.linked.gateway(),
            pid: std::process::id(),
            acknowledges: true,
        };
        send(&mut writer, &hello).await?;
        let acknowledges = match timeout(WRITE_TIMEOUT, lines.next()).await {
            Ok(line) => match line?.map(|line| serde_json::from_slice(&line)) {
                Some(Ok(ToGateway::Hello {
                    version: LINK_VERSION,
                    acknowledges,
                })) => acknowledges,
                Some(Ok(ToGateway::Hello { version, .. })) => {
                    return Err(LinkError::Version(version));
                }
                _ => return Err(LinkError::NoGreeting),
            },
            Err(_) => return Err(LinkError::NoGreeting),
        };
        tracing::info!("linked to the controller");
        let mut unread = Unread::new(acknowledges);
        let ended = self.talk(&mut unread, (lines, writer), stop).await;
        unread.put_back(&*self.linked);
        ended
    }

    async fn talk(
        &self,
        unread: &mut Unread,
        (mut lines, mut writer): (Lines, OwnedWriteHalf),
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), LinkError> {
        let mut tick = interval(Duration::from_millis(PRESENCE_EVERY.0));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopped(stop) => {
                    self.send_report(&mut writer).await?;
                    self.send_ended(unread, &mut writer).await?;
                    self.send_events(unread, &mut writer, true).await?;
                    return self.send_goodbye(&mut writer).await;
                }
                _ = tick.tick() => {
                    self.send_report(&mut writer).await?;
                    if !unread.has_calls() {
                        self.send_ended(unread, &mut writer).await?;
                    }
                    if !unread.has_events() {
                        self.send_events(unread, &mut writer, false).await?;
                    }
                }
                line = lines.next() => match line? {
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    Some(line) => match serde_json::from_slice(&line) {
                        Ok(ToGateway::Read { batches }) => unread.is_read(batches),
                        Ok(message) => self.on_message(message, &mut writer).await?,
                        Err(error) => tracing::warn!(%error, "a message is not understood"),
                    },
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
            ToGateway::Hello { .. } | ToGateway::Read { .. } => Ok(()),
            ToGateway::Table(table) => {
                let installed = self.install(table).await;
                self.send_report(writer).await?;
                installed
            }
            ToGateway::Agents { names } => {
                self.linked.keep_agents(&names);
                let kept = match self.tables.clone() {
                    Some(tables) => blocking(move || tables.keep_agents(&names)).await,
                    None => Ok(()),
                };
                self.send_report(writer).await?;
                kept.map_err(LinkError::Unwritten)
            }
            ToGateway::EndCalls {
                agent,
                release,
                epoch,
                calls,
            } => {
                self.linked.end_calls(agent, (release, epoch), calls);
                Ok(())
            }
            ToGateway::ListCalls {
                request,
                agent,
                limit,
            } => {
                let limit = limit.min(LIST_MAX);
                let calls = self.linked.list_calls(agent.as_ref(), limit);
                send(writer, &ToController::Calls { request, calls }).await
            }
            ToGateway::ListWorkers {
                request,
                agent,
                limit,
                brief,
            } => {
                let limit = limit.min(LIST_MAX);
                let mut workers = self.linked.list_workers(agent.as_ref(), limit);
                if brief {
                    for worker in &mut workers {
                        worker.jobs.truncate(1);
                    }
                }
                send(writer, &ToController::Workers { request, workers }).await
            }
            ToGateway::SteerWorker {
                request,
                agent,
                worker,
                what,
            } => {
                let worker = self.linked.steer(&agent, &worker, what);
                let workers = worker.into_iter().collect();
                send(writer, &ToController::Workers { request, workers }).await
            }
        }
    }

    /// Keeps a table on disk and then installs it; one that cannot be kept is not installed, so
    /// that it is not acknowledged. The controller says each table once for each link, so the link
    /// is given up then: the next one brings them all again.
    async fn install(&self, table: Box<RoutingTable>) -> Result<(), LinkError> {
        let table = match self.tables.clone() {
            Some(tables) => {
                let kept = blocking(move || tables.keep(&table).map(|()| table)).await;
                kept.map_err(LinkError::Unwritten)?
            }
            None => table,
        };
        self.linked.install(table);
        Ok(())
    }

    async fn send_report(&self, writer: &mut OwnedWriteHalf) -> Result<(), LinkError> {
        send(writer, &ToController::Presence(self.linked.report())).await
    }

    /// Tells what became of the calls that ended since.
    async fn send_ended(
        &self,
        unread: &mut Unread,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), LinkError> {
        let (calls, left_out) = self.linked.take_ended();
        if calls.is_empty() {
            return Ok(());
        }
        let message = ToController::Ended { calls, left_out };
        let sent = send(writer, &message).await;
        unread.sent(message, sent.is_ok());
        sent
    }

    async fn send_events(
        &self,
        unread: &mut Unread,
        writer: &mut OwnedWriteHalf,
        all: bool,
    ) -> Result<(), LinkError> {
        let (events, left_out) = self.linked.take_events(all);
        if events.is_empty() {
            return Ok(());
        }
        let message = ToController::Events { events, left_out };
        let sent = send(writer, &message).await;
        unread.sent(message, sent.is_ok());
        sent
    }

    /// The last word of a process that gave everything away and has ended what it could not give:
    /// it holds no call and takes none, so nobody needs to wait for it.
    async fn send_goodbye(&self, writer: &mut OwnedWriteHalf) -> Result<(), LinkError> {
        if self.tables.is_some() || self.linked.holds_calls() {
            return Ok(());
        }
        send(writer, &ToController::Goodbye).await
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

/// Lines of bounded length. [`Lines::next`] may be dropped at any wait without losing bytes.
struct Lines {
    reader: BufReader<OwnedReadHalf>,
    line: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        loop {
            let bytes = self.reader.fill_buf().await?;
            if bytes.is_empty() {
                return Ok(None);
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(bytes.len());
            self.line.extend_from_slice(&bytes[..taken]);
            self.reader.consume(taken + usize::from(end.is_some()));
            if self.line.len() > MESSAGE_BYTES_MAX {
                return Err(LinkError::TooLong);
            }
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
    }
}
