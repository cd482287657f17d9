//! What the test server saw, in order. The judge reads this and the workers' own logs, and nothing
//! that the dispatcher says of itself.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::wire::{Answer, JobStatus, Register, WorkerStatus};

/// How long anything may take that is waited for. Real workers start side by side on a busy
/// machine, ten seconds of work each.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// One thing that happened.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Since the server was made.
    pub(crate) at: Duration,
    pub(crate) event: Event,
}

/// Why nobody answers in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nobody is registered for its key.
    NobodyRegistered,
    /// Somebody is, but the load that they report leaves the node no affinity.
    NoAffinity,
    /// All that are available were asked and refused, or went.
    NobodyAvailable,
    /// The request's time was up; it is not retried.
    TimedOut,
    /// The same job is on offer to that worker already.
    Duplicate,
}

/// What happened. Workers are known by the server's ids for them, new at each connection.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "what no test reads is printed when one fails")]
pub(crate) enum Event {
    /// An HTTP request that is not a worker's connection, or that is refused.
    Http {
        head: String,
        body: Vec<u8>,
        status: u16,
    },
    Connected {
        worker: String,
        target: String,
    },
    Registered {
        worker: String,
        with: Register,
    },
    /// It broke a rule and was cut off.
    Broke {
        worker: String,
        rule: String,
    },
    Status {
        worker: String,
        status: Option<WorkerStatus>,
        load: f32,
        jobs: u32,
    },
    Offered {
        job: String,
        worker: String,
        bytes: Vec<u8>,
    },
    /// `known`: somebody still waited for it.
    Answered {
        worker: String,
        answer: Answer,
        known: bool,
    },
    Assigned {
        job: String,
        worker: String,
        identity: String,
        token: String,
    },
    /// A worker refused and wants nobody else to be asked.
    Satisfied {
        job: String,
        worker: String,
    },
    Lost {
        job: String,
        why: Loss,
    },
    /// `known`: this server remembers that the job is this worker's.
    Updated {
        job: String,
        worker: String,
        status: JobStatus,
        known: bool,
    },
    Terminated {
        job: String,
        worker: String,
    },
    Migrated {
        worker: String,
        jobs: Vec<String>,
    },
    /// The connection is over; its jobs are forgotten.
    Closed {
        worker: String,
        code: Option<u16>,
        forgot: Vec<String>,
    },
}

/// All of it.
pub(crate) struct Records {
    began: Instant,
    list: Mutex<Vec<Record>>,
    grown: watch::Sender<()>,
}

impl Records {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            list: Mutex::default(),
            grown: watch::Sender::new(()),
        }
    }

    pub(crate) fn add(&self, event: Event) {
        let at = self.began.elapsed();
        self.list.lock().unwrap().push(Record { at, event });
        self.grown.send_replace(());
    }

    /// Everything so far.
    pub(crate) fn all(&self) -> Vec<Record> {
        self.list.lock().unwrap().clone()
    }

    /// Waits until something is to be found in what happened.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut find: impl FnMut(&[Record]) -> Option<T>,
    ) -> T {
        let mut grown = self.grown.subscribe();
        let search = async {
            loop {
                if let Some(found) = find(&self.list.lock().unwrap()) {
                    return found;
                }
                grown.changed().await.expect("its sender is ours");
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        found.unwrap_or_else(|_| {
            panic!(
                "{what} did not come true; the server saw {:#?}",
                self.last()
            )
        })
    }

    fn last(&self) -> Vec<Record> {
        let list = self.list.lock().unwrap();
        list[list.len().saturating_sub(40)..].to_vec()
    }
}
