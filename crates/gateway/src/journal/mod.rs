//! The call journal: what a gateway that is killed leaves behind, so that the next one keeps its
//! pins and names the calls that were lost.
//!
//! One small line for each change of a call, written under no more than the kernel's promise: it
//! keeps what a killed process wrote, and a machine that loses power has no calls left to count.
//! Lines are queued under the ledger's lock, so they are in the order of what they tell, and
//! written by a thread, so that no call waits for the disk, and a few milliseconds of them at once
//! (see `batches.rs`): so much of what is told a kill may take along.
//!
//! When the file has grown too long, a write failed, or the disk was too slow for what was told, the
//! ledger says everything again and the file is replaced. So a full disk costs what is told while it
//! is full, and nothing after it; and a slow one never holds up whoever has something to tell, which
//! may be a thread that relays calls.
//!
//! Runs of pins need no line: each line of a pin says when it runs out.

pub(crate) mod aside;
mod replay;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use segue_core::names::{AgentName, CallId, WorkerId};
use segue_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::batches::{self, Receiver, Sender};
use crate::ledger::{Identity, Record};

pub use self::replay::{Left, Lost, read};

/// Lines waiting for the disk. What is told beyond this is dropped, and everything said again once
/// the disk is back.
const QUEUE_LINES_MAX: usize = 16_384;

/// Written at once when lines come faster than the disk takes them, and kept for the next ones.
const BATCH_BYTES: usize = 64 * 1024;

/// Lines that usually come in one batch.
const BATCH_LINES: usize = 64;

/// A usual line.
const LINE_BYTES: usize = 256;

/// The file is replaced beyond this: some 100,000 calls. If what is still true takes more than
/// half of it, beyond twice that.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How long the disk is left alone after a write failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// One change. Connections are numbered by the ledger that wrote the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Line {
    /// A connection is counted and being dialled; its call is pinned there.
    Begun {
        /// Its number.
        connection: u64,
        /// What it is.
        identity: Box<Identity>,
        /// Its worker.
        worker: WorkerId,
    },
    /// It is dialled at another worker of its release.
    Retried {
        /// Its number.
        connection: u64,
        /// Its worker now.
        worker: WorkerId,
    },
    /// It stands.
    Connected {
        /// Its number.
        connection: u64,
        /// Since when.
        at: Timestamp,
    },
    /// It ended.
    Closed {
        /// Its number.
        connection: u64,
        /// When the pin of its call runs out, if it was the last one and left a pin.
        expires: Option<Timestamp>,
    },
    /// All that is known of a call but its connections.
    Call {
        /// Its agent.
        agent: AgentName,
        /// Its id.
        call: CallId,
        /// What is known.
        record: Box<Record>,
    },
}

#[derive(Debug)]
enum Item {
    Line(Line),
    /// The file is to hold these and no others.
    Replace(Vec<Line>),
    Flush(mpsc::Sender<()>),
}

/// The queue's entry. Lines are written until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Journal {
    queue: Sender<Item>,
    told: Arc<Told>,
}

/// How what the file says may differ from what was told.
#[derive(Debug, Default)]
struct Told {
    /// Something was dropped: the writer asks for everything once there is room.
    dropped: AtomicBool,
    /// The writer asks to be told everything again.
    wanted: AtomicBool,
}

impl Journal {
    /// Starts a file at `path` that will hold `lines` first, in place of the one that is there.
    ///
    /// # Errors
    ///
    /// When the writer cannot be started. What happens to the file is logged and no error.
    pub fn start(path: &Path, lines: Vec<Line>) -> io::Result<Self> {
        Self::bounded(path, lines, FILE_BYTES_MAX)
    }

    pub(crate) fn bounded(path: &Path, lines: Vec<Line>, bytes_max: u64) -> io::Result<Self> {
        let (journal, mut writer, items) = Self::make(path, bytes_max, QUEUE_LINES_MAX);
        std::thread::Builder::new()
            .name("call-journal".to_owned())
            .spawn(move || {
                batches::stand_back();
                writer.replace(&lines);
                drop(lines);
                writer.write_all(items);
            })?;
        Ok(journal)
    }

    fn make(path: &Path, bytes_max: u64, lines_max: usize) -> (Self, Writer, Receiver<Item>) {
        let (queue, items) = batches::queue(lines_max);
        let told = Arc::new(Told::default());
        let writer = Writer {
            path: path.to_owned(),
            file: None,
            owned: None,
            bytes_max,
            limit: bytes_max,
            failed: None,
            told: Arc::clone(&told),
        };
        (Self { queue, told }, writer, items)
    }

    /// Queues a line; never waits.
    pub(crate) fn write(&self, line: Line) {
        self.send(Item::Line(line));
    }

    /// Whether the writer asks for [`Journal::replace`]. Says so once.
    pub(crate) fn wants_all(&self) -> bool {
        let wanted = &self.told.wanted;
        wanted.load(Ordering::Relaxed) && wanted.swap(false, Ordering::Relaxed)
    }

    /// Queues all that is true now, in place of every line before; never waits.
    pub(crate) fn replace(&self, lines: Vec<Line>) {
        self.send(Item::Replace(lines));
    }

    fn send(&self, item: Item) {
        // Full; or the writer is gone, and has said why.
        if self.queue.try_send(item).is_err() {
            self.told.dropped.store(true, Ordering::Release);
        }
    }

    /// As [`Journal::replace`], and waits until it is written.
    pub(crate) fn close(self, lines: Vec<Line>) {
        if self.queue.send(Item::Replace(lines)).is_ok() {
            self.flush();
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

struct Writer {
    path: PathBuf,
    /// `None`: a write failed, and lines are thrown away until everything is said again.
    file: Option<(File, u64)>,
    /// The inode of our file, once there is one.
    owned: Option<u64>,
    bytes_max: u64,
    limit: u64,
    failed: Option<Instant>,
    told: Arc<Told>,
}

impl Writer {
    fn write_all(&mut self, mut items: Receiver<Item>) {
        let (mut batch, mut bytes) = (Vec::new(), Vec::new());
        while items.take(&mut batch) {
            for item in batch.drain(..) {
                match item {
                    Item::Line(line) => append(&mut bytes, &line),
                    Item::Replace(lines) => {
                        // What came before is said again.
                        bytes.clear();
                        self.replace(&lines);
                    }
                    Item::Flush(done) => {
                        self.write(&mut bytes);
                        // Whoever asked may have given up.
                        let _ = done.send(());
                    }
                }
                if bytes.len() >= BATCH_BYTES {
                    self.write(&mut bytes);
                }
            }
            self.write(&mut bytes);
            if self.told.dropped.swap(false, Ordering::Acquire) {
                tracing::warn!("the disk is too slow for the call journal; it is written anew");
                self.told.wanted.store(true, Ordering::Relaxed);
            }
            // What a burst took is given back.
            batch.shrink_to(BATCH_LINES);
            bytes.shrink_to(BATCH_LINES * LINE_BYTES);
        }
    }

    /// Also of nothing: so a write that failed is seen to.
    fn write(&mut self, batch: &mut Vec<u8>) {
        if let Some((file, bytes)) = &mut self.file {
            match file.write_all(batch) {
                Ok(()) => {
                    *bytes += batch.len() as u64;
                    if *bytes > self.limit {
                        // Once: until it is replaced the file just grows.
                        self.limit = u64::MAX;
                        self.told.wanted.store(true, Ordering::Relaxed);
                    }
                }
                Err(error) => self.fail(&error),
            }
        } else if self.failed.is_some_and(|at| at.elapsed() >= RETRY_AFTER) {
            self.failed = None;
            self.told.wanted.store(true, Ordering::Relaxed);
        }
        batch.clear();
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "the call journal cannot be written; calls go on without it");
        self.file = None;
        self.failed = Some(Instant::now());
    }

    fn replace(&mut self, lines: &[Line]) {
        match self.try_replace(lines) {
            Ok(Some((file, bytes))) => {
                self.limit = self.bytes_max.max(2 * bytes);
                self.file = Some((file, bytes));
                self.failed = None;
            }
            Ok(None) => {
                tracing::info!("the call journal is another process's now");
                self.file = None;
                self.failed = None;
            }
            Err(error) => self.fail(&error),
        }
    }

    /// `None`: another process replaced our file by its own.
    fn try_replace(&mut self, lines: &[Line]) -> io::Result<Option<(File, u64)>> {
        let there = std::fs::metadata(&self.path).map(|data| data.ino()).ok();
        if self.owned.is_some() && there.is_some() && there != self.owned {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        for line in lines {
            append(&mut bytes, line);
        }
        let name = format!("journal.{}.tmp", uuid::Uuid::now_v7().simple());
        let draft = self.path.with_extension(name);
        let mut options = OpenOptions::new();
        let opened = options.append(true).create_new(true).mode(0o600);
        let mut file = opened.open(&draft)?;
        let placed = (|| {
            // Says to the next process that this one lives.
            file.try_lock().map_err(io::Error::from)?;
            file.write_all(&bytes)?;
            std::fs::rename(&draft, &self.path)?;
            file.metadata().map(|data| data.ino())
        })();
        match placed {
            Ok(inode) => {
                self.owned = Some(inode);
                Ok(Some((file, bytes.len() as u64)))
            }
            Err(error) => {
                // It is in the way of nothing but a full disk.
                let _ = std::fs::remove_file(&draft);
                Err(error)
            }
        }
    }
}

fn append(batch: &mut Vec<u8>, line: &Line) {
    serde_json::to_writer(&mut *batch, line).expect("a line is plain data");
    batch.push(b'\n');
}

#[cfg(test)]
mod tests;
