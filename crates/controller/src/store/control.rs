//! Who may ask, and what was answered: tokens, what became of them, and idempotency keys.
//!
//! The journal takes decisions about agents and nothing else, so the making and revoking of tokens
//! is written down here, in the same transaction as the change itself.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, TransactionBehavior, params};
use segue_core::names::AgentName;
use segue_core::time::{Millis, Timestamp};

use super::StoreError;
use super::file::{self, Durable, lock};
use crate::api::wire::{Role, TokenEvent};

/// Tokens that may be good at once. Every one is kept in memory.
pub const TOKENS_MAX: usize = 1_000;
/// How long a token that is no good any more is still listed.
const DEAD_TOKEN_KEPT: Millis = Millis::from_secs(90 * 24 * 3_600);
/// How long an answer is kept for its key.
pub const KEY_KEPT: Millis = Millis::from_secs(24 * 3_600);
/// Keys kept of one token; the oldest goes first. A worker cannot push out those of operators.
pub const KEYS_PER_TOKEN_MAX: usize = 1_000;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS tokens (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        role TEXT NOT NULL,
        digest TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        created_by TEXT NOT NULL,
        expires_at INTEGER NOT NULL,
        revoked_at INTEGER,
        used_at INTEGER,
        agent TEXT
    ) STRICT;
    CREATE TABLE IF NOT EXISTS token_events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        event TEXT NOT NULL,
        token TEXT NOT NULL,
        name TEXT NOT NULL,
        role TEXT NOT NULL,
        actor TEXT NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS keys (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        token TEXT NOT NULL,
        key TEXT NOT NULL,
        request TEXT NOT NULL,
        at INTEGER NOT NULL,
        state TEXT NOT NULL,
        status INTEGER,
        headers TEXT,
        body BLOB,
        UNIQUE (token, key)
    ) STRICT;
    CREATE INDEX IF NOT EXISTS keys_by_age ON keys (at);
";

/// A token, as it is kept: of its secret only the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its public part.
    pub id: String,
    /// Who uses it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Of which agent a worker is.
    pub agent: Option<AgentName>,
    /// SHA-256 of its secret, in hexadecimal.
    pub digest: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, give or take a minute.
    pub used_at: Option<Timestamp>,
}

impl TokenRecord {
    /// Whether it opens anything.
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && now < self.expires_at
    }
}

/// What was answered to a request with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The status.
    pub status: u16,
    /// The headers that are part of the answer, by name.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What is known of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Nothing: it is this request's from now on.
    New,
    /// It was answered.
    Answered(KeptAnswer),
    /// It belongs to another request.
    Mismatch,
    /// The same request is being carried out.
    InProgress,
    /// The same request was carried out, and nobody knows how it ended.
    Unknown,
}

/// Tokens and idempotency keys, durable before anybody acts on them.
///
/// Calls block: make them where that is allowed.
pub trait ControlStore: Send + Sync {
    /// Every token that is good or still listed, oldest first.
    fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError>;

    /// Adds a token and the event of its making. A crash just before leaves neither, just after
    /// leaves a token whose secret nobody was told.
    fn add_token(&self, token: &TokenRecord, now: Timestamp) -> Result<(), StoreError>;

    /// Revokes a token and adds the event of it. Answers whether there was a good one.
    fn revoke_token(&self, id: &str, actor: &str, now: Timestamp) -> Result<bool, StoreError>;

    /// Writes down that a token was used.
    fn touch_token(&self, id: &str, now: Timestamp) -> Result<(), StoreError>;

    /// At most `limit` events after the one numbered `after`, oldest first.
    fn token_events(&self, after: u64, limit: usize) -> Result<Vec<TokenEvent>, StoreError>;

    /// Takes a key for a request, or says what is known of it. A crash just after leaves it taken,
    /// and its outcome unknown.
    fn begin(
        &self,
        token: &str,
        key: &str,
        request: &str,
        now: Timestamp,
    ) -> Result<Begun, StoreError>;

    /// Takes a key whose outcome is unknown once more, for a request that may be repeated.
    fn begin_again(&self, token: &str, key: &str) -> Result<(), StoreError>;

    /// Keeps the answer for a key; without one, its outcome is unknown from now on.
    fn finish(&self, token: &str, key: &str, answer: Option<&KeptAnswer>)
    -> Result<(), StoreError>;

    /// Gives a key back: nothing was done.
    fn release(&self, token: &str, key: &str) -> Result<(), StoreError>;

    /// Forgets keys that were kept long enough, with their answers.
    fn sweep_keys(&self, now: Timestamp) -> Result<(), StoreError>;
}

/// A [`ControlStore`] in an `SQLite` file.
#[derive(Debug)]
pub struct SqliteControl {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl SqliteControl {
    /// Opens the file at `path`, or makes one. Requests that were being carried out when the
    /// process before ended have an unknown outcome from now on.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = file::open(path, Durable::Power, SCHEMA)?;
        add_agent(&connection).map_err(|error| file::unavailable(path, error))?;
        let abandon = "UPDATE keys SET state = 'unknown' WHERE state = 'begun'";
        connection
            .execute(abandon, [])
            .map_err(|error| file::unavailable(path, error))?;
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

impl ControlStore for SqliteControl {
    fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, name, role, digest, created_at, created_by, expires_at, revoked_at,
                 used_at, agent FROM tokens ORDER BY created_at, id",
            )?;
            statement.query_map([], token)?.collect()
        })
    }

    fn add_token(&self, token: &TokenRecord, now: Timestamp) -> Result<(), StoreError> {
        self.with(|connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let dead = now - DEAD_TOKEN_KEPT;
            transaction.execute(
                "DELETE FROM tokens WHERE expires_at < ?1 OR revoked_at < ?1",
                [dead.0],
            )?;
            transaction.execute(
                "INSERT INTO tokens (id, name, role, digest, created_at, created_by, expires_at,
                 agent) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    token.id,
                    token.name,
                    token.role.word(),
                    token.digest,
                    token.created_at.0,
                    token.created_by,
                    token.expires_at.0,
                    token.agent.as_ref().map(AgentName::as_str)
                ],
            )?;
            note(&transaction, "created", token, &token.created_by, now)?;
            transaction.commit()
        })
    }

    fn revoke_token(&self, id: &str, actor: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.with(|connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let query = "SELECT id, name, role, digest, created_at, created_by, expires_at,
                         revoked_at, used_at, agent FROM tokens WHERE id = ?1 AND revoked_at IS NULL";
            let Some(record) = transaction.query_row(query, [id], token).optional()? else {
                return Ok(false);
            };
            transaction.execute(
                "UPDATE tokens SET revoked_at = ?2 WHERE id = ?1",
                params![id, now.0],
            )?;
            note(&transaction, "revoked", &record, actor, now)?;
            transaction.commit()?;
            Ok(true)
        })
    }

    fn touch_token(&self, id: &str, now: Timestamp) -> Result<(), StoreError> {
        self.with(|connection| {
            let update = "UPDATE tokens SET used_at = ?2 WHERE id = ?1";
            connection.execute(update, params![id, now.0]).map(drop)
        })
    }

    fn token_events(&self, after: u64, limit: usize) -> Result<Vec<TokenEvent>, StoreError> {
        self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT seq, at, event, token, name, role, actor FROM token_events
                 WHERE seq > ?1 ORDER BY seq LIMIT ?2",
            )?;
            let event = |row: &Row<'_>| {
                Ok(TokenEvent {
                    seq: row.get(0)?,
                    at: Timestamp(row.get(1)?),
                    event: row.get(2)?,
                    token: row.get(3)?,
                    name: row.get(4)?,
                    role: role(row, 5)?,
                    actor: row.get(6)?,
                })
            };
            statement.query_map(params![after, limit], event)?.collect()
        })
    }

    fn begin(
        &self,
        token: &str,
        key: &str,
        request: &str,
        now: Timestamp,
    ) -> Result<Begun, StoreError> {
        self.with(|connection| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            sweep(&transaction, now)?;
            let query = "SELECT request, state, status, headers, body FROM keys
                         WHERE token = ?1 AND key = ?2";
            let known = transaction
                .query_row(query, [token, key], |row| begun(row, request))
                .optional()?;
            if let Some(known) = known {
                transaction.commit()?;
                return Ok(known);
            }
            transaction.execute(
                "DELETE FROM keys WHERE state <> 'begun' AND number IN (SELECT number FROM keys
                 WHERE token = ?1 ORDER BY number DESC LIMIT -1 OFFSET ?2)",
                params![token, KEYS_PER_TOKEN_MAX - 1],
            )?;
            transaction.execute(
                "INSERT INTO keys (token, key, request, at, state) VALUES (?1, ?2, ?3, ?4, 'begun')",
                params![token, key, request, now.0],
            )?;
            transaction.commit()?;
            Ok(Begun::New)
        })
    }

    fn begin_again(&self, token: &str, key: &str) -> Result<(), StoreError> {
        self.with(|connection| {
            let update = "UPDATE keys SET state = 'begun' WHERE token = ?1 AND key = ?2";
            connection.execute(update, [token, key]).map(drop)
        })
    }

    fn finish(
        &self,
        token: &str,
        key: &str,
        answer: Option<&KeptAnswer>,
    ) -> Result<(), StoreError> {
        self.with(|connection| {
            let update = "UPDATE keys SET state = ?3, status = ?4, headers = ?5, body = ?6
                          WHERE token = ?1 AND key = ?2";
            let state = if answer.is_some() { "done" } else { "unknown" };
            let status = answer.map(|answer| answer.status);
            let headers = answer.map(|answer| {
                serde_json::to_string(&answer.headers).expect("pairs of texts always serialise")
            });
            let body = answer.map(|answer| &answer.body);
            connection
                .execute(update, params![token, key, state, status, headers, body])
                .map(drop)
        })
    }

    fn release(&self, token: &str, key: &str) -> Result<(), StoreError> {
        self.with(|connection| {
            let delete = "DELETE FROM keys WHERE token = ?1 AND key = ?2";
            connection.execute(delete, [token, key]).map(drop)
        })
    }

    fn sweep_keys(&self, now: Timestamp) -> Result<(), StoreError> {
        self.with(|connection| {
            if sweep(connection, now)? > 0 {
                file::empty_log(connection)?;
            }
            Ok(())
        })
    }
}

fn sweep(connection: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    let delete = "DELETE FROM keys WHERE at < ?1 AND state <> 'begun'";
    connection.execute(delete, [(now - KEY_KEPT).0])
}

fn note(
    connection: &Connection,
    event: &str,
    token: &TokenRecord,
    actor: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let insert = "INSERT INTO token_events (at, event, token, name, role, actor)
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let values = params![now.0, event, token.id, token.name, token.role.word(), actor];
    connection.execute(insert, values).map(drop)
}

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRecord> {
    let time = |column: usize| -> rusqlite::Result<Option<Timestamp>> {
        Ok(row.get::<_, Option<u64>>(column)?.map(Timestamp))
    };
    Ok(TokenRecord {
        id: row.get(0)?,
        name: row.get(1)?,
        role: role(row, 2)?,
        digest: row.get(3)?,
        created_at: Timestamp(row.get(4)?),
        created_by: row.get(5)?,
        expires_at: Timestamp(row.get(6)?),
        revoked_at: time(7)?,
        used_at: time(8)?,
        agent: agent(row, 9)?,
    })
}

fn role(row: &Row<'_>, column: usize) -> rusqlite::Result<Role> {
    let word: String = row.get(column)?;
    word.parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error))
}

fn agent(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<AgentName>> {
    let name: Option<String> = row.get(column)?;
    name.map(|name| name.parse().map_err(|error| unreadable(column, error)))
        .transpose()
}

fn unreadable(
    column: usize,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// Files of before workers belonged to agents get the column. A worker's token of that time is of
/// no agent, and opens nothing.
fn add_agent(connection: &Connection) -> rusqlite::Result<()> {
    let query = "SELECT 1 FROM pragma_table_info('tokens') WHERE name = 'agent'";
    if connection
        .query_row(query, [], |_| Ok(()))
        .optional()?
        .is_none()
    {
        connection.execute("ALTER TABLE tokens ADD COLUMN agent TEXT", [])?;
    }
    Ok(())
}

fn begun(row: &Row<'_>, request: &str) -> rusqlite::Result<Begun> {
    let (of, state): (String, String) = (row.get(0)?, row.get(1)?);
    Ok(match state.as_str() {
        _ if of != request => Begun::Mismatch,
        "begun" => Begun::InProgress,
        "done" => {
            let headers: String = row.get(3)?;
            let headers = serde_json::from_str(&headers).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(3, Type::Text, error.into())
            })?;
            Begun::Answered(KeptAnswer {
                status: row.get(2)?,
                headers,
                body: row.get(4)?,
            })
        }
        _ => Begun::Unknown,
    })
}
