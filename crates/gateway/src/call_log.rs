//! One JSON line for each ended call, for people and for whoever checks us.
//!
//! Written by one thread behind a bounded queue: a slow disk must never hold up a call, so a line
//! that finds the queue full is dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use segue_core::names::{AgentName, CallId, Label, ReleaseId, WorkerId};
use segue_core::route::Reason;
use segue_core::table::Epoch;
use segue_core::time::Timestamp;
use serde::Serialize;

use crate::ledger::{By, Closed, End, Identity};

/// Lines waiting for the disk: a burst of this many ends at once is a whole gateway's calls.
const QUEUE_LINES_MAX: usize = 16_384;

/// One ended call.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    id: CallId,
    agent: AgentName,
    release: ReleaseId,
    label: Label,
    worker: WorkerId,
    epoch: Epoch,
    reason: Reason,
    #[serde(rename = "override")]
    is_override: bool,
    resume: bool,
    started_ms: Timestamp,
    connected_ms: Option<Timestamp>,
    ended_ms: Timestamp,
    bytes_in: u64,
    bytes_out: u64,
    end: Ending,
}

#[derive(Debug, Clone, Serialize)]
struct Ending {
    by: By,
    code: Option<u16>,
    dropped: bool,
    why: String,
}

impl Line {
    /// The line of a call whose connection ended.
    pub(crate) fn new(
        identity: &Identity,
        worker: &WorkerId,
        connected: Option<Timestamp>,
        bytes: (u64, u64),
        end: End,
        now: Timestamp,
    ) -> Self {
        Self {
            id: identity.call.clone(),
            agent: identity.agent.clone(),
            release: identity.release,
            label: identity.label.clone(),
            worker: worker.clone(),
            epoch: identity.epoch,
            reason: identity.reason,
            is_override: identity.is_override,
            resume: identity.is_resume,
            started_ms: identity.since,
            connected_ms: connected,
            ended_ms: now,
            bytes_in: bytes.0,
            bytes_out: bytes.1,
            end: Ending::of(end),
        }
    }
}

impl Ending {
    fn of(end: End) -> Self {
        let of = |closed: Closed, why: String| Self {
            by: closed.by,
            code: closed.code,
            dropped: closed.is_drop(),
            why,
        };
        let by = |by: By| Closed { by, code: None };
        match end {
            End::Closed(closed) if closed.code.is_some() => of(closed, "close frame".to_owned()),
            End::Closed(closed) => of(closed, "connection ended".to_owned()),
            End::Unreached(why) => Self {
                by: match why {
                    crate::ledger::Unreached::CallerLeft => By::Caller,
                    _ => By::Worker,
                },
                code: None,
                dropped: false,
                why: why.why(),
            },
            End::Answered => of(by(By::Worker), "answered".to_owned()),
            End::Abandoned => of(by(By::Gateway), "abandoned".to_owned()),
        }
    }
}

/// The queue's entry. Lines are written until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct CallLog {
    queue: SyncSender<Line>,
    lost: Arc<AtomicU64>,
}

impl CallLog {
    /// Appends to the file at `path`, which is made with mode 0600 if it does not exist.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or the writer not started.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path)?;
        let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
        std::thread::Builder::new()
            .name("call-log".to_owned())
            .spawn(move || write_all(file, &lines))?;
        Ok(Self {
            queue,
            lost: Arc::default(),
        })
    }

    /// Queues a line; never waits.
    pub(crate) fn write(&self, line: Line) {
        if self.queue.try_send(line).is_err() {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::warn!(lost, "a line of the call log was lost");
        }
    }
}

fn write_all(file: File, lines: &Receiver<Line>) {
    let mut file = BufWriter::new(file);
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            if let Err(error) = write_line(&mut file, &line) {
                tracing::warn!(%error, "the call log cannot be written");
            }
            next = lines.try_recv().ok();
        }
        if let Err(error) = file.flush() {
            tracing::warn!(%error, "the call log cannot be written");
        }
    }
}

fn write_line(file: &mut BufWriter<File>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *file, line)?;
    file.write_all(b"\n")
}
