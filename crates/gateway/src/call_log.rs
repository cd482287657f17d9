//! One JSON line for each ended call, for people and for whoever checks us.
//!
//! Written by one thread behind a bounded queue: a slow disk must never hold up a call, so a line
//! that finds the queue full is dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use segue_core::link::Rescued;
use segue_core::names::{AgentName, CallId, Label, ReleaseId, WorkerId};
use segue_core::route::Reason;
use segue_core::table::Epoch;
use segue_core::time::Timestamp;
use serde::Serialize;

use crate::batches::{self, Receiver, Sender};
use crate::journal::Lost;
use crate::ledger::{By, Closed, End, Identity};

/// Lines waiting for the disk: a burst of this many ends at once is a whole gateway's calls.
const QUEUE_LINES_MAX: usize = 16_384;

/// Written at once when lines come faster than the disk takes them, and kept for the next ones.
const BATCH_BYTES: usize = 64 * 1024;

/// Lines that usually come in one batch.
const BATCH_LINES: usize = 64;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    rescued: Option<Rescued>,
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
            rescued: None,
            end: Ending::of(end),
        }
    }

    /// The same, of a call that perhaps outlived a worker.
    pub(crate) fn with_rescued(self, rescued: Option<Rescued>) -> Self {
        Self { rescued, ..self }
    }
}

impl Line {
    /// The line of a call whose gateway died. What it carried nobody knows any more.
    pub(crate) fn lost(lost: &Lost, now: Timestamp) -> Self {
        let bytes = (0, 0);
        let mut line = Self::new(
            &lost.identity,
            &lost.worker,
            lost.connected,
            bytes,
            End::Abandoned,
            now,
        );
        "gateway died".clone_into(&mut line.end.why);
        line
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
            End::Closed(closed) if closed.by == By::Policy => {
                of(closed, "ended by policy".to_owned())
            }
            End::Closed(closed) if closed.code.is_some() => of(closed, "close frame".to_owned()),
            End::Closed(closed) => of(closed, "connection ended".to_owned()),
            End::Unreached(why) => Self {
                by: match why {
                    crate::ledger::Unreached::CallerLeft => By::Caller,
                    crate::ledger::Unreached::Retired => By::Policy,
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

/// The file is put aside as `calls.jsonl.1` beyond this, in place of the one before: some 500,000
/// calls in each.
const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The queue's entry. Lines are written until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct CallLog {
    queue: Sender<Item>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Item {
    Line(Box<Line>),
    Flush(mpsc::Sender<()>),
}

impl CallLog {
    /// Appends to the file at `path`, which is made with mode 0600 if it does not exist.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or the writer not started.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = LogFile::open(path, FILE_BYTES_MAX)?;
        let (queue, items) = batches::queue(QUEUE_LINES_MAX);
        std::thread::Builder::new()
            .name("call-log".to_owned())
            .spawn(move || {
                batches::stand_back();
                write_all(file, items);
            })?;
        Ok(Self {
            queue,
            lost: Arc::default(),
        })
    }

    /// Queues a line; never waits.
    pub(crate) fn write(&self, line: Line) {
        if self.queue.try_send(Item::Line(Box::new(line))).is_err() {
            let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::warn!(lost, "a line of the call log was lost");
        }
    }

    /// Waits until every line queued before is written.
    pub fn flush(&self) {
        let (done, written) = mpsc::channel();
        if self.queue.send(Item::Flush(done)).is_ok() {
            // An error means that the writer is gone, and then nothing is left to wait for.
            let _ = written.recv();
        }
    }
}

/// Writes whole lines with one call each batch: during a handoff two processes append to the file.
fn write_all(mut file: LogFile, mut items: Receiver<Item>) {
    let (mut batch, mut bytes) = (Vec::new(), Vec::new());
    while items.take(&mut batch) {
        for item in batch.drain(..) {
            match item {
                Item::Line(line) => {
                    serde_json::to_writer(&mut bytes, &line).expect("a line is plain data");
                    bytes.push(b'\n');
                }
                Item::Flush(done) => {
                    file.write(&mut bytes);
                    // Whoever asked may have given up.
                    let _ = done.send(());
                }
            }
            if bytes.len() >= BATCH_BYTES {
                file.write(&mut bytes);
            }
        }
        file.write(&mut bytes);
        // What a burst took is given back.
        batch.shrink_to(BATCH_LINES);
    }
}

/// A file that is put aside once it is longer than `bytes_max`.
struct LogFile {
    path: PathBuf,
    file: File,
    bytes_max: u64,
}

impl LogFile {
    fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path)?;
        let path = path.to_owned();
        Ok(Self {
            path,
            file,
            bytes_max,
        })
    }

    fn write(&mut self, lines: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        if let Err(error) = self.append(lines) {
            tracing::warn!(%error, "the call log cannot be written");
        }
        lines.clear();
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let ours = self.file.metadata()?;
        if ours.len() > self.bytes_max {
            // During a handoff another process may have put it aside already.
            if std::fs::metadata(&self.path).is_ok_and(|there| there.ino() == ours.ino()) {
                std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
            }
            *self = Self::open(&self.path, self.bytes_max)?;
        }
        self.file.write_all(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_file_is_put_aside_once_by_whoever_comes_first() {
        const LINE: &[u8] = b"0123456789\n";
        let name = format!("segue-call-log-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("calls.jsonl");
        let aside = dir.join("calls.jsonl.1");
        let lines = |path: &Path| std::fs::read(path).unwrap().len() / LINE.len();
        // As two gateways have it during a handoff: each notices by itself that it was put aside.
        let open = || LogFile::open(&path, 3 * LINE.len() as u64).unwrap();
        let (mut giver, mut taker) = (open(), open());
        let write = |file: &mut LogFile| file.write(&mut LINE.to_vec());
        for _ in 0..2 {
            write(&mut giver);
            write(&mut taker);
        }
        assert!(!aside.exists());
        write(&mut giver);
        assert_eq!((lines(&aside), lines(&path)), (4, 1));
        write(&mut taker);
        assert_eq!((lines(&aside), lines(&path)), (4, 2));
        // One is kept.
        for _ in 0..3 {
            write(&mut taker);
        }
        assert_eq!((lines(&aside), lines(&path)), (4, 1));
        write(&mut giver);
        assert_eq!((lines(&aside), lines(&path)), (4, 2));
        std::fs::remove_dir_all(dir).unwrap();
    }
}
