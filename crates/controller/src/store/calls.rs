//! The state of calls: what an agent process wants to find again when its caller comes back.
//!
//! It is kept for half an hour after the last write, in a file of its own, so that a busy agent
//! never makes a decision wait. It survives the end of the controller, however it ends; a loss of
//! power may take the last moments with it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use segue_core::names::{AgentName, CallId};
use segue_core::time::{Millis, Timestamp};
use serde_json::{Map, Value};

use super::StoreError;
use super::file::{self, Durable, lock};

/// How long a state is kept after it was last written.
pub const CALL_STATE_KEPT: Millis = Millis::from_secs(1_800);
/// Largest state, in bytes of JSON.
pub const CALL_STATE_BYTES_MAX: usize = 64 * 1024;
/// States kept at once: twice the calls of a large machine. Of the largest ones they are 1.3 GB.
pub const CALL_STATES_MAX: u64 = 20_000;
/// Expired states removed with one write: it must not take long.
const SWEEP_MAX: usize = 100;

/// The first table is from before states belonged to agents: whose its states are nobody knows, and
/// they would be forgotten in half an hour.
const SCHEMA: &str = "
    DROP TABLE IF EXISTS states;
    CREATE TABLE IF NOT EXISTS agent_states (
        agent TEXT NOT NULL,
        call TEXT NOT NULL,
        version INTEGER NOT NULL,
        state TEXT NOT NULL,
        expires_at INTEGER NOT NULL,
        PRIMARY KEY (agent, call)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS agent_states_by_expiry ON agent_states (expires_at);
    CREATE TABLE IF NOT EXISTS counter (one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL) STRICT;
    INSERT OR IGNORE INTO counter VALUES (1, 0);
";

/// A call of an agent. Ids of calls may come from callers, so another agent may have the same.
pub type CallOf = (AgentName, CallId);

/// The state of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct CallState {
    /// Grows with every write, and is never used again, also not after the state was removed.
    pub version: u64,
    /// What the agent wrote.
    pub state: Map<String, Value>,
    /// When it is forgotten unless it is written again.
    pub expires_at: Timestamp,
}

/// What must hold of the state that is there for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Condition {
    /// It is one of these.
    pub only: Option<Versions>,
    /// It is none of these.
    pub not: Option<Versions>,
}

/// Versions of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Versions {
    /// Whichever.
    Any,
    /// These.
    These(Vec<u64>),
}

impl Versions {
    fn have(&self, version: Option<u64>) -> bool {
        match self {
            Self::Any => version.is_some(),
            Self::These(versions) => version.is_some_and(|is| versions.contains(&is)),
        }
    }
}

impl Condition {
    /// Whether it holds.
    pub fn holds(&self, version: Option<u64>) -> bool {
        self.only.as_ref().is_none_or(|only| only.have(version))
            && self.not.as_ref().is_none_or(|not| !not.have(version))
    }
}

/// What is done with a state.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It becomes this one.
    Put(Map<String, Value>),
    /// This is merged into it (RFC 7396); into an empty one if there is none.
    Merge(Map<String, Value>),
}

/// Why a state was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallStateError {
    /// Who writes looks at what is there, and writes again.
    #[error("the state is not the one that was expected")]
    Precondition,
    /// The agent keeps less.
    #[error("the state is larger than {CALL_STATE_BYTES_MAX} bytes")]
    TooLarge,
    /// States that nobody writes any more go within half an hour.
    #[error("{CALL_STATES_MAX} calls have a state, and there is room for no more")]
    Full,
    /// The operator frees or mends the file.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// States of calls in an `SQLite` file.
#[derive(Debug)]
pub struct CallStates {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl CallStates {
    /// Opens the file at `path`, or makes one.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = file::open(path, Durable::Process, SCHEMA)?;
        let (path, connection) = (path.to_owned(), Mutex::new(connection));
        Ok(Self { path, connection })
    }

    /// The state of a call, if it has one.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read(&self, of: &CallOf, now: Timestamp) -> Result<Option<CallState>, StoreError> {
        let connection = lock(&self.connection);
        read(&connection, of, now).map_err(|error| self.failed(error))
    }

    /// Writes the state of a call, if the condition holds. Nobody writes in between. Answers the
    /// state, and whether there was none before.
    ///
    /// A crash just before leaves the old state, just after the new one.
    ///
    /// # Errors
    ///
    /// A [`CallStateError`]; nothing has changed then.
    pub fn write(
        &self,
        of: &CallOf,
        change: Change,
        condition: &Condition,
        now: Timestamp,
    ) -> Result<(CallState, bool), CallStateError> {
        let mut connection = lock(&self.connection);
        let failed = |error| CallStateError::from(self.failed(error));
        let transaction = begin(&mut connection).map_err(failed)?;
        let before = read(&transaction, of, now).map_err(failed)?;
        let new = before.is_none();
        if !condition.holds(before.as_ref().map(|state| state.version)) {
            return Err(CallStateError::Precondition);
        }
        let state = match change {
            Change::Put(state) => state,
            Change::Merge(patch) => {
                let mut state = before.map(|state| state.state).unwrap_or_default();
                merge(&mut state, patch);
                state
            }
        };
        let text = serde_json::to_string(&state).expect("JSON values always serialise");
        if text.len() > CALL_STATE_BYTES_MAX {
            return Err(CallStateError::TooLarge);
        }
        sweep(&transaction, now).map_err(failed)?;
        if new && count(&transaction).map_err(failed)? >= CALL_STATES_MAX {
            return Err(CallStateError::Full);
        }
        let version = next_version(&transaction).map_err(failed)?;
        let expires_at = now + CALL_STATE_KEPT;
        let insert = "INSERT OR REPLACE INTO agent_states
                      (agent, call, version, state, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)";
        let values = params![of.0.as_str(), of.1.as_str(), version, text, expires_at.0];
        transaction.execute(insert, values).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        let state = CallState {
            version,
            state,
            expires_at,
        };
        Ok((state, new))
    }

    /// Removes the state of a call, if the condition holds. Answers whether there was one.
    ///
    /// # Errors
    ///
    /// A [`CallStateError`]; nothing has changed then.
    pub fn remove(
        &self,
        of: &CallOf,
        condition: &Condition,
        now: Timestamp,
    ) -> Result<bool, CallStateError> {
        let mut connection = lock(&self.connection);
        let failed = |error| CallStateError::from(self.failed(error));
        let transaction = begin(&mut connection).map_err(failed)?;
        let before = read(&transaction, of, now).map_err(failed)?;
        if !condition.holds(before.as_ref().map(|state| state.version)) {
            return Err(CallStateError::Precondition);
        }
        let delete = "DELETE FROM agent_states WHERE agent = ?1 AND call = ?2";
        transaction
            .execute(delete, [of.0.as_str(), of.1.as_str()])
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok(before.is_some())
    }

    /// Removes states whose time is over, some at once. Answers whether there may be more.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn sweep(&self, now: Timestamp) -> Result<bool, StoreError> {
        let connection = lock(&self.connection);
        let swept = sweep(&connection, now).map_err(|error| self.failed(error))?;
        if swept > 0 && swept < SWEEP_MAX {
            // What was removed is still in the write-ahead log.
            file::empty_log(&connection).map_err(|error| self.failed(error))?;
        }
        Ok(swept == SWEEP_MAX)
    }

    fn failed(&self, error: rusqlite::Error) -> StoreError {
        file::unavailable(&self.path, error)
    }
}

fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

fn read(
    connection: &Connection,
    of: &CallOf,
    now: Timestamp,
) -> rusqlite::Result<Option<CallState>> {
    let query = "SELECT version, state, expires_at FROM agent_states
                 WHERE agent = ?1 AND call = ?2 AND expires_at > ?3";
    let mut statement = connection.prepare_cached(query)?;
    let state = statement.query_row(params![of.0.as_str(), of.1.as_str(), now.0], |row| {
        let text: String = row.get(1)?;
        let state = serde_json::from_str(&text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, error.into())
        })?;
        Ok(CallState {
            version: row.get(0)?,
            state,
            expires_at: Timestamp(row.get(2)?),
        })
    });
    state.optional()
}

fn sweep(connection: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    let delete = "DELETE FROM agent_states WHERE (agent, call) IN
                  (SELECT agent, call FROM agent_states WHERE expires_at <= ?1 LIMIT ?2)";
    let mut statement = connection.prepare_cached(delete)?;
    statement.execute(params![now.0, SWEEP_MAX])
}

fn count(connection: &Connection) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached("SELECT count(*) FROM agent_states")?;
    statement.query_row([], |row| row.get(0))
}

fn next_version(connection: &Connection) -> rusqlite::Result<u64> {
    let update = "UPDATE counter SET last = last + 1 RETURNING last";
    let mut statement = connection.prepare_cached(update)?;
    statement.query_row([], |row| row.get(0))
}

/// RFC 7396: a `null` removes, an object is merged, anything else replaces.
fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                target.remove(&name);
            }
            Value::Object(patch) => {
                let inner = target.entry(name).or_insert(Value::Null);
                if !inner.is_object() {
                    *inner = Value::Object(Map::new());
                }
                if let Value::Object(inner) = inner {
                    merge(inner, patch);
                }
            }
            value => {
                target.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn patches_merge_as_the_rfc_says() {
        // The examples of RFC 7396, appendix A, whose results are objects.
        for (before, patch, after) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (
                json!({"a":"b","b":"c"}),
                json!({"a":null}),
                json!({"b":"c"}),
            ),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (
                json!({"a":"foo"}),
                json!({"b":{"c":{"d":null}}}),
                json!({"a":"foo","b":{"c":{}}}),
            ),
            (
                json!({}),
                json!({"a":{"bb":{"ccc":null}}}),
                json!({"a":{"bb":{}}}),
            ),
        ] {
            let mut target = object(before.clone());
            merge(&mut target, object(patch.clone()));
            assert_eq!(target, object(after), "{before} + {patch}");
        }
    }

    fn states() -> (CallStates, PathBuf) {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = format!("segue-calls-{}-{number}.db", std::process::id());
        let path = std::env::temp_dir().join(path);
        (CallStates::open(&path).unwrap(), path)
    }

    #[test]
    fn a_state_is_forgotten_after_its_time_and_no_version_comes_back() {
        let (states, path) = states();
        let call: CallOf = ("desk".parse().unwrap(), "CA1".parse().unwrap());
        let put = |now, condition: &Condition| {
            let change = Change::Put(object(json!({"n": now})));
            states.write(&call, change, condition, Timestamp(now))
        };
        let missing = Condition {
            not: Some(Versions::Any),
            ..Condition::default()
        };
        let (first, new) = put(1_000, &missing).unwrap();
        assert!(new);
        assert_eq!(first.expires_at, Timestamp(1_000) + CALL_STATE_KEPT);
        assert!(matches!(
            put(1_001, &missing),
            Err(CallStateError::Precondition)
        ));
        let only_first = Condition {
            only: Some(Versions::These(vec![first.version])),
            ..Condition::default()
        };
        let (second, new) = put(2_000, &only_first).unwrap();
        assert!(!new && second.version > first.version);
        let last = Timestamp(second.expires_at.0 - 1);
        assert_eq!(states.read(&call, last).unwrap(), Some(second.clone()));
        assert_eq!(states.read(&call, second.expires_at).unwrap(), None);
        let (third, new) = put(second.expires_at.0, &missing).unwrap();
        assert!(new && third.version > second.version);
        let gone = states.remove(
            &call,
            &Condition::default(),
            Timestamp(third.expires_at.0 - 1),
        );
        assert!(gone.unwrap());
        let (fourth, _) = put(third.expires_at.0, &Condition::default()).unwrap();
        assert!(
            fourth.version > third.version,
            "a version is never used again"
        );
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_swept_is_not_in_the_file_any_more() {
        const CANARY: &str = "canary-of-a-caller";
        let (states, path) = states();
        let count = SWEEP_MAX + 50;
        for number in 0..count {
            let of = (
                "desk".parse().unwrap(),
                format!("CA{number}").parse().unwrap(),
            );
            let change = Change::Put(object(json!({ "said": CANARY })));
            let any = Condition::default();
            states.write(&of, change, &any, Timestamp(1)).unwrap();
        }
        let found = || {
            let files = ["", "-wal"].map(|end| format!("{}{end}", path.display()));
            let files = files.iter().filter_map(|file| std::fs::read(file).ok());
            let mut bytes = files.flatten().collect::<Vec<u8>>();
            bytes.extend_from_slice(b"end");
            let canary = CANARY.as_bytes();
            bytes.windows(canary.len()).any(|part| part == canary)
        };
        let end = Timestamp(1) + CALL_STATE_KEPT;
        assert!(!states.sweep(Timestamp(end.0 - 1)).unwrap());
        assert!(found(), "they are kept as long as they should");
        assert!(states.sweep(end).unwrap(), "there are more");
        assert!(!states.sweep(end).unwrap());
        assert!(!found());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn the_same_id_of_another_agent_is_another_call() {
        let (states, path) = states();
        let of = |agent: &str| (agent.parse().unwrap(), "CA1".parse().unwrap());
        let (any, now) = (Condition::default(), Timestamp(1));
        let put = |agent: &str, value: Value| {
            let change = Change::Put(object(value));
            states.write(&of(agent), change, &any, now).unwrap().1
        };
        let read = |agent: &str| states.read(&of(agent), now).unwrap();
        assert!(put("desk", json!({ "n": 1 })) && put("other", json!({ "n": 2 })));
        assert_eq!(read("desk").unwrap().state, object(json!({ "n": 1 })));
        assert!(states.remove(&of("other"), &any, now).unwrap());
        assert_eq!(read("other"), None);
        assert!(read("desk").is_some());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_too_large_changes_nothing() {
        let (states, path) = states();
        let call = ("desk".parse().unwrap(), "CA1".parse().unwrap());
        let now = Timestamp(1);
        let write = |value: Value| {
            states.write(
                &call,
                Change::Merge(object(value)),
                &Condition::default(),
                now,
            )
        };
        let large = "x".repeat(CALL_STATE_BYTES_MAX - 100);
        let (kept, _) = write(json!({ "large": large })).unwrap();
        let more = write(json!({ "more": "x".repeat(100) }));
        assert!(matches!(more, Err(CallStateError::TooLarge)));
        assert_eq!(states.read(&call, now).unwrap(), Some(kept));
        std::fs::remove_file(path).unwrap();
    }
}
