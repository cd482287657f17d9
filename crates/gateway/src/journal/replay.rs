//! What a journal says that was true when its last line was written.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use segue_core::names::{AgentName, CallId, WorkerId};
use segue_core::route::Pin;
use segue_core::time::Timestamp;

use crate::ledger::{Identity, Purpose, Record};

use super::Line;

/// What a gateway left behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Its calls. Those whose pin has no end yet had connections.
    pub calls: Vec<(AgentName, CallId, Record)>,
    /// Connections of calls that nobody relays any more.
    pub lost: Vec<Lost>,
    /// Whether the process that wrote it is alive: then its calls are, too, and none is lost.
    pub alive: bool,
}

/// A connection that was lost with its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// What it was.
    pub identity: Identity,
    /// Its worker.
    pub worker: WorkerId,
    /// When it stood; `None`: it was being dialled.
    pub connected: Option<Timestamp>,
}

/// Reads the journal at `path`; none there is an empty one. If the process that writes it is
/// alive, nothing is lost: its calls end there.
///
/// # Errors
///
/// When the file is there and cannot be read.
pub fn read(path: &Path) -> io::Result<Left> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Left::default()),
        Err(error) => return Err(error),
    };
    let alive = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
    let mut left = replay(&file)?.finish();
    if alive {
        tracing::warn!("another gateway still holds calls in this state directory");
        left.alive = true;
        left.lost.clear();
    }
    Ok(left)
}

/// All that a file says.
pub(super) fn replay(file: &File) -> io::Result<Replay> {
    let (mut replay, mut reader) = (Replay::default(), BufReader::new(file));
    let (mut line, mut unread) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut line)? > 0 {
        match serde_json::from_slice(&line) {
            Ok(line) => replay.apply(line),
            // The last line of a killed process may be torn.
            Err(_) => unread += 1,
        }
        line.clear();
    }
    if unread > 0 {
        tracing::warn!(unread, "lines of the call journal are not understood");
    }
    Ok(replay)
}

#[derive(Debug, Default)]
pub(super) struct Replay {
    connections: BTreeMap<u64, Lost>,
    /// With the number of their connections.
    calls: HashMap<(AgentName, CallId), (Record, u32)>,
}

impl Replay {
    pub(super) fn apply(&mut self, line: Line) {
        match line {
            Line::Begun {
                connection,
                identity,
                worker,
            } => self.begin(connection, *identity, worker),
            Line::Retried { connection, worker } => {
                if let Some(lost) = self.connections.get_mut(&connection) {
                    lost.worker = worker.clone();
                    if let Some((record, _)) = self.calls.get_mut(&key(&lost.identity)) {
                        record.pin.worker = worker;
                    }
                }
            }
            Line::Connected { connection, at } => {
                if let Some(lost) = self.connections.get_mut(&connection) {
                    lost.connected = Some(at);
                    if let Some((record, _)) = self.calls.get_mut(&key(&lost.identity)) {
                        record.connected = true;
                        record.keeps_pin = true;
                    }
                }
            }
            Line::Closed {
                connection,
                expires,
            } => self.close(connection, expires),
            Line::Call {
                agent,
                call,
                record,
            } => {
                let known = self.calls.remove(&(agent.clone(), call.clone()));
                let connections = known.map_or(0, |(_, connections)| connections);
                self.calls.insert((agent, call), (*record, connections));
            }
        }
    }

    fn begin(&mut self, connection: u64, identity: Identity, worker: WorkerId) {
        let pin = Pin {
            release: identity.release,
            worker: worker.clone(),
        };
        let call = self.calls.entry(key(&identity)).or_insert_with(|| {
            let Identity { epoch, reason, .. } = identity;
            let fresh = Record::new(
                pin.clone(),
                epoch,
                reason,
                identity.is_override,
                identity.since,
            );
            (fresh, 0)
        });
        call.0.pin = pin;
        call.0.expires = None;
        call.0.started |= identity.purpose == Purpose::Call && !identity.is_override;
        call.1 += 1;
        let lost = Lost {
            identity,
            worker,
            connected: None,
        };
        self.connections.insert(connection, lost);
    }

    fn close(&mut self, connection: u64, expires: Option<Timestamp>) {
        let Some(closed) = self.connections.remove(&connection) else {
            return;
        };
        let key = key(&closed.identity);
        let Some((record, connections)) = self.calls.get_mut(&key) else {
            return;
        };
        *connections = connections.saturating_sub(1);
        if expires.is_some() {
            record.keeps_pin = true;
            record.expires = expires;
        } else if *connections == 0 {
            self.calls.remove(&key);
        }
    }

    /// A call that was being dialled leaves a pin too: its caller may have had the 101 already.
    pub(super) fn finish(mut self) -> Left {
        let is_call = |lost: &Lost| lost.identity.purpose == Purpose::Call;
        let lost: Vec<Lost> = self.connections.into_values().filter(is_call).collect();
        for lost in &lost {
            if let Some((record, _)) = self.calls.get_mut(&key(&lost.identity)) {
                record.keeps_pin = true;
            }
        }
        let kept = self.calls.into_iter().filter(|(_, (r, _))| r.keeps_pin);
        let calls = kept.map(|((agent, call), (record, _))| (agent, call, record));
        Left {
            calls: calls.collect(),
            lost,
            alive: false,
        }
    }
}

fn key(identity: &Identity) -> (AgentName, CallId) {
    (identity.agent.clone(), identity.call.clone())
}
