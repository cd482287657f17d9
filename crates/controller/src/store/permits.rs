//! Permits of outbound calls: each counts as a call of its release, so none may be forgotten.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::types::Type;
use rusqlite::{Connection, Row, TransactionBehavior, params};
use segue_core::names::{AgentName, ReleaseId, WorkerId};
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
        worker TEXT,
        pid INTEGER,
        granted_at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// The process that dials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialler {
    /// Which worker.
    pub worker: WorkerId,
    /// Its process: one that was started again has another, and none of the calls.
    pub pid: u32,
}

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
    /// Who dials, if it was said. Then the permit lasts until that process is gone, whatever the
    /// time: who forgets to renew may still talk.
    pub dialler: Option<Dialler>,
    /// When it was given.
    pub granted_at: Timestamp,
    /// When it ends by itself; with a dialler, when it is overdue.
    pub expires_at: Timestamp,
}

impl Permit {
    /// Whether its time is over.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }
}

/// What changes of a permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PermitChange {
    /// It is new, or ends at another time.
    Put(Permit),
    /// It is over.
    Remove(String),
}

/// Where permits are kept. Calls block: make them where that is allowed.
pub trait PermitStore: Send + Sync + std::fmt::Debug {
    /// Every permit but those that time has ended; they are removed.
    fn load(&self, now: Timestamp) -> Result<Vec<Permit>, StoreError>;

    /// Writes changes down, in order: all of them or none. A crash just before leaves what was; a
    /// crash just after leaves permits that nobody was told of, and they end like others.
    fn write(&self, changes: &[PermitChange]) -> Result<(), StoreError>;
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
            let delete = "DELETE FROM permits WHERE worker IS NULL AND expires_at <= ?1";
            connection.execute(delete, [now.0])?;
            let mut statement = connection.prepare_cached(
                "SELECT id, agent, release, call, holder, worker, pid, granted_at, expires_at
                 FROM permits",
            )?;
            statement.query_map([], permit)?.collect()
        })
    }

    fn write(&self, changes: &[PermitChange]) -> Result<(), StoreError> {
        self.with(|connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for change in changes {
                match change {
                    PermitChange::Put(permit) => put(&transaction, permit)?,
                    PermitChange::Remove(id) => {
                        transaction.execute("DELETE FROM permits WHERE id = ?1", [id])?;
                    }
                }
            }
            transaction.commit()
        })
    }
}

fn put(connection: &Connection, permit: &Permit) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO permits
         (id, agent, release, call, holder, worker, pid, granted_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at",
    )?;
    let dialler = permit.dialler.as_ref();
    let values = params![
        permit.id,
        permit.agent.as_str(),
        String::from(permit.release),
        permit.call,
        permit.holder,
        dialler.map(|dialler| dialler.worker.as_str()),
        dialler.map(|dialler| dialler.pid),
        permit.granted_at.0,
        permit.expires_at.0
    ];
    insert.execute(values).map(drop)
}

fn permit(row: &Row<'_>) -> rusqlite::Result<Permit> {
    let name = |column| row.get::<_, String>(column);
    let bad = |column, error: segue_core::names::BadName| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    };
    let worker: Option<String> = row.get(5)?;
    let worker = worker.map(|worker| worker.parse::<WorkerId>());
    let worker = worker.transpose().map_err(|error| bad(5, error))?;
    let pid: Option<u32> = row.get(6)?;
    Ok(Permit {
        id: name(0)?,
        agent: name(1)?.parse().map_err(|error| bad(1, error))?,
        release: name(2)?.try_into().map_err(|error| bad(2, error))?,
        call: name(3)?,
        holder: name(4)?,
        dialler: worker.zip(pid).map(|(worker, pid)| Dialler { worker, pid }),
        granted_at: Timestamp(row.get(7)?),
        expires_at: Timestamp(row.get(8)?),
    })
}
