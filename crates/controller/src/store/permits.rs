//! Permits of outbound calls: each counts as a call of its release, so none may be forgotten.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};
use segue_core::names::{AgentName, ReleaseId};
use segue_core::time::Timestamp;

use super::StoreError;
use super::file::{self, Durable, lock};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS permits (
        id TEXT PRIMARY KEY,
        agent TEXT NOT NULL,
        release TEXT NOT NULL,
        call TEXT NOT NULL,
        holder TEXT NOT NULL,
        granted_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// Leave to make one outbound call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// Random: whoever knows it holds it.
    pub id: String,
    /// Whose call.
    pub agent: AgentName,
    /// Of which release.
    pub release: ReleaseId,
    /// The call's id, as its worker names it.
    pub call: String,
    /// Who asked for it.
    pub holder: String,
    /// When it was given.
    pub granted_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// Where permits are kept. Calls block: make them where that is allowed.
pub trait PermitStore: Send + Sync + std::fmt::Debug {
    /// Every permit that has not expired; the others are removed.
    fn load(&self, now: Timestamp) -> Result<Vec<Permit>, StoreError>;

    /// Writes a permit down, or when it ends now. A crash just before leaves what was; a crash
    /// just after leaves a permit that nobody was told of, and it expires.
    fn put(&self, permit: &Permit) -> Result<(), StoreError>;

    /// Removes permits. A crash just before leaves them until they expire.
    fn remove(&self, ids: &[String]) -> Result<(), StoreError>;
}

/// Permits in an `SQLite` file, synced with each change.
#[derive(Debug)]
pub struct SqlitePermits {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl SqlitePermits {
    /// Opens the file at `path`, or makes one. It may hold other tables.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = file::open(path, Durable::Power, SCHEMA)?;
        let (path, connection) = (path.to_owned(), Mutex::new(connection));
        Ok(Self { path, connection })
    }

    fn with<T>(
        &self,
        run: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        run(&mut lock(&self.connection)).map_err(|error| file::unavailable(&self.path, error))
    }
}

impl PermitStore for SqlitePermits {
    fn load(&self, now: Timestamp) -> Result<Vec<Permit>, StoreError> {
        self.with(|connection| {
            connection.execute("DELETE FROM permits WHERE expires_at <= ?1", [now.0])?;
            let mut statement = connection.prepare_cached(
                "SELECT id, agent, release, call, holder, granted_at, expires_at FROM permits",
            )?;
            statement.query_map([], permit)?.collect()
        })
    }

    fn put(&self, permit: &Permit) -> Result<(), StoreError> {
        self.with(|connection| {
            let insert = "INSERT INTO permits
                (id, agent, release, call, holder, granted_at, expires_at)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at";
            let values = params![
                permit.id,
                permit.agent.as_str(),
                String::from(permit.release),
                permit.call,
                permit.holder,
                permit.granted_at.0,
                permit.expires_at.0
            ];
            connection.execute(insert, values).map(drop)
        })
    }

    fn remove(&self, ids: &[String]) -> Result<(), StoreError> {
        self.with(|connection| {
            let transaction = connection.transaction()?;
            for id in ids {
                transaction.execute("DELETE FROM permits WHERE id = ?1", [id])?;
            }
            transaction.commit()
        })
    }
}

fn permit(row: &Row<'_>) -> rusqlite::Result<Permit> {
    let name = |column| row.get::<_, String>(column);
    let bad = |column, error: segue_core::names::BadName| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    };
    Ok(Permit {
        id: name(0)?,
        agent: name(1)?.parse().map_err(|error| bad(1, error))?,
        release: name(2)?.try_into().map_err(|error| bad(2, error))?,
        call: name(3)?,
        holder: name(4)?,
        granted_at: Timestamp(row.get(5)?),
        expires_at: Timestamp(row.get(6)?),
    })
}
