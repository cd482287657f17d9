//! The journal of one machine: one `SQLite` file in WAL mode, synced at every commit.
//!
//! Two connections: the driver's, and one for readers of the audit log, who never make a decision
//! wait.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, TransactionBehavior, params,
};
use segue_core::audit::Entry;
use segue_core::names::AgentName;
use segue_core::rollout::FACT_VERSION;
use segue_core::time::Timestamp;
use serde_json::Value;

use super::file::make_private;
use super::{Head, Journal, StoreError};

/// How long a locked file is waited for. A backup takes its locks for less; and an operator who
/// asks for a rollback must hear within a second that it cannot be written down.
const BUSY_WAIT: Duration = Duration::from_millis(400);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS journal (
        seq INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        agent TEXT NOT NULL,
        actor TEXT NOT NULL,
        fact TEXT NOT NULL,
        inputs TEXT NOT NULL,
        prev TEXT NOT NULL,
        hash TEXT NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS journal_by_agent ON journal (agent, seq);
";

const COLUMNS: &str = "seq, at, agent, actor, fact, inputs, prev, hash";

/// A journal in an `SQLite` file.
#[derive(Debug)]
pub struct SqliteJournal {
    path: PathBuf,
    /// Device and inode: a file that was moved away still takes writes, which nobody would find.
    identity: (u64, u64),
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl SqliteJournal {
    /// Opens the journal at `path`, or makes one.
    ///
    /// A crash while it is made leaves a file that the next start completes.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or a newer version wrote it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        // It holds what workers are started with, secrets of their environment included.
        make_private(path)?;
        let writer = connect(path)?;
        writer
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(unavailable)?;
        let version = stored_version(&writer).map_err(unavailable)?;
        match version {
            Some(version) if version > FACT_VERSION => {
                return Err(StoreError::TooNew {
                    version,
                    known: FACT_VERSION,
                });
            }
            Some(version) if version < FACT_VERSION => {
                // An older Segue would not understand what is appended from now on.
                note_version(&writer).map_err(unavailable)?;
            }
            Some(_) => {}
            None => create(&writer).map_err(unavailable)?,
        }
        let reader = connect(path)?;
        reader
            .pragma_update(None, "query_only", true)
            .map_err(unavailable)?;
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
        })
    }
}

impl SqliteJournal {
    /// Opens the journal at `path` to look at it: nothing is made, and nothing can be appended. A
    /// controller may be writing it.
    ///
    /// # Errors
    ///
    /// When it is not there, cannot be read, or a newer version wrote it.
    pub fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let identity = identity(path)?;
        let look = || {
            let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            connection.busy_timeout(BUSY_WAIT)?;
            Ok(connection)
        };
        let reader = look().map_err(unavailable)?;
        match stored_version(&reader).map_err(unavailable)? {
            Some(version) if version > FACT_VERSION => {
                let known = FACT_VERSION;
                return Err(StoreError::TooNew { version, known });
            }
            Some(_) => {}
            None => return Err(blocked(format!("{} holds no journal", path.display()))),
        }
        Ok(Self {
            path: path.to_owned(),
            identity,
            writer: Mutex::new(look().map_err(unavailable)?),
            reader: Mutex::new(reader),
        })
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(connection)
    };
    open().map_err(unavailable)
}

fn stored_version(connection: &Connection) -> rusqlite::Result<Option<u32>> {
    if !connection.table_exists(None, "meta")? {
        return Ok(None);
    }
    let query = "SELECT value FROM meta WHERE key = 'fact_version'";
    connection.query_row(query, [], |row| row.get(0)).optional()
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA}"))?;
    note_version(connection)?;
    connection.execute_batch("COMMIT")
}

fn note_version(connection: &Connection) -> rusqlite::Result<()> {
    let insert = "INSERT OR REPLACE INTO meta VALUES ('fact_version', ?1)";
    connection.execute(insert, [FACT_VERSION]).map(drop)
}

fn identity(path: &Path) -> Result<(u64, u64), StoreError> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() => Ok((file.dev(), file.ino())),
        Ok(_) => Err(blocked(format!("{} is not a file", path.display()))),
        Err(error) => Err(blocked(format!("{}: {error}", path.display()))),
    }
}

fn blocked(what: String) -> StoreError {
    StoreError::Unavailable { what, source: None }
}

fn unavailable(error: rusqlite::Error) -> StoreError {
    let what = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "the journal is locked by another program"
        }
        Some(ErrorCode::DiskFull) => "the disk of the journal is full",
        Some(ErrorCode::ReadOnly) => "the journal may not be written",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "the journal is damaged",
        Some(ErrorCode::CannotOpen) => "the journal cannot be opened",
        _ => "the journal cannot be used",
    };
    let what = what.to_owned();
    StoreError::Unavailable {
        what,
        source: Some(error),
    }
}

/// A thread that panicked while it held a connection left no transaction open: it is rolled back
/// when it is dropped without a commit.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn last(connection: &Connection) -> rusqlite::Result<Head> {
    let query = "SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1";
    let head = |row: &Row<'_>| {
        let (seq, hash) = (row.get(0)?, row.get(1)?);
        Ok(Head { seq, hash })
    };
    Ok(connection
        .query_row(query, [], head)
        .optional()?
        .unwrap_or_default())
}

impl Journal for SqliteJournal {
    fn append(&self, expected_head: u64, entries: &[Entry]) -> Result<(), StoreError> {
        if identity(&self.path)? != self.identity {
            let path = self.path.display();
            return Err(blocked(format!(
                "{path} is another file than the one that was opened"
            )));
        }
        let mut writer = lock(&self.writer);
        let transaction = writer
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(unavailable)?;
        let is = last(&transaction).map_err(unavailable)?.seq;
        if is != expected_head {
            let expected = expected_head;
            return Err(StoreError::Conflict { expected, is });
        }
        for entry in entries {
            insert(&transaction, entry).map_err(unavailable)?;
        }
        transaction.commit().map_err(unavailable)
    }

    fn read(
        &self,
        after: u64,
        limit: usize,
        agent: Option<&AgentName>,
    ) -> Result<Vec<Entry>, StoreError> {
        let reader = lock(&self.reader);
        let read = || -> rusqlite::Result<Vec<Entry>> {
            let only = if agent.is_some() {
                "AND agent = ?3"
            } else {
                "AND ?3 IS NULL"
            };
            let mut statement = reader.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM journal WHERE seq > ?1 {only} ORDER BY seq LIMIT ?2"
            ))?;
            let parameters = params![after, limit, agent.map(AgentName::as_str)];
            statement.query_map(parameters, entry)?.collect()
        };
        read().map_err(unavailable)
    }

    fn head(&self) -> Result<Head, StoreError> {
        last(&lock(&self.reader)).map_err(unavailable)
    }
}

fn insert(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(&format!(
        "INSERT INTO journal ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
    ))?;
    statement.execute(params![
        entry.seq,
        entry.at.0,
        entry.agent.as_str(),
        entry.actor,
        entry.fact.to_string(),
        entry.inputs.to_string(),
        entry.prev,
        entry.hash,
    ])?;
    Ok(())
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let bad = |column: usize, error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error)
    };
    let json = |column: usize| -> rusqlite::Result<Value> {
        let text: String = row.get(column)?;
        serde_json::from_str(&text).map_err(|error| bad(column, error.into()))
    };
    let agent: String = row.get(2)?;
    Ok(Entry {
        seq: row.get(0)?,
        at: Timestamp(row.get(1)?),
        agent: agent.parse().map_err(|error| bad(2, Box::new(error)))?,
        actor: row.get(3)?,
        fact: json(4)?,
        inputs: json(5)?,
        prev: row.get(6)?,
        hash: row.get(7)?,
    })
}
