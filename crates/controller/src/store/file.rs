//! What the `SQLite` files of the state directory have in common. The journal, which must notice
//! more, opens its own, and has only [`make_private`] from here.
//!
//! No file of these may be opened and closed beside the engine while a connection to it lives: the
//! kernel takes *every* lock of a process off a file when the process closes any descriptor of it
//! (POSIX locks are so). The engine would not know. The next other program that looks into the file
//! would believe that it is alone, and take the write-ahead log away under our hands.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::StoreError;

/// How long a locked file is waited for: a backup takes its locks for less.
const BUSY_WAIT: Duration = Duration::from_millis(400);

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durable {
    /// The loss of power: synced at every commit.
    Power,
    /// The end of the process, however it ends; the last moments before a loss of power may be
    /// missing, and nothing is torn.
    Process,
}

/// Makes a file that only its owner may read, unless there is one. The engine gives its other
/// files the rights of this one. One that is there is not opened, see above.
pub(super) fn make_private(path: &Path) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(StoreError::Unavailable {
            what: format!("{}: {error}", path.display()),
            source: None,
        }),
    }
}

/// A file that only its owner may read, opened or made. What is removed from it is overwritten.
pub(super) fn open(path: &Path, durable: Durable, schema: &str) -> Result<Connection, StoreError> {
    make_private(path)?;
    let open = || {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let synchronous = match durable {
            Durable::Power => "FULL",
            Durable::Process => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        connection.pragma_update(None, "secure_delete", true)?;
        connection.execute_batch(schema)?;
        Ok(connection)
    };
    open().map_err(|error| unavailable(path, error))
}

/// Moves the write-ahead log into the file and empties it, unless somebody reads.
pub(super) fn empty_log(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

/// What the engine says, in words.
pub(super) fn unavailable(path: &Path, error: rusqlite::Error) -> StoreError {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_string_lossy();
    let what = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("{name} is locked by another program")
        }
        Some(ErrorCode::DiskFull) => format!("the disk of {name} is full"),
        Some(ErrorCode::ReadOnly) => format!("{name} may not be written"),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("{name} is damaged")
        }
        _ => format!("{name} cannot be used"),
    };
    StoreError::Unavailable {
        what,
        source: Some(error),
    }
}

/// A thread that panicked while it held a connection left no transaction open: it is rolled back
/// when it is dropped without a commit.
pub(super) fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}
