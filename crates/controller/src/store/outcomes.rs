//! How calls went, as their workers saw it: what no socket says. Beside the states of calls, in the
//! same file and as durable.
//!
//! A call that came back has been on several lines, so it may have several reports. Each has an id of
//! its worker's choice: sent again, it is the same report.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use segue_core::names::{Label, WorkerId};
use segue_core::time::{Millis, Timestamp};
use serde_json::{Map, Value};

use super::StoreError;
use super::calls::CallOf;
use super::file::{self, Durable, lock};

/// How long a report is kept: a week's releases can be compared.
pub const OUTCOME_KEPT: Millis = Millis::from_secs(7 * 24 * 3_600);
/// Reports kept at once: a day of 100 000 calls, at most 1 GB of the largest ones. Beyond, the oldest
/// go.
pub const OUTCOMES_MAX: u64 = 100_000;
/// Reports of one call: it came back this often, or somebody repeats themselves.
pub const OUTCOMES_PER_CALL_MAX: usize = 16;
/// Reports removed with one write.
const SWEEP_MAX: usize = 100;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS outcomes (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        agent TEXT NOT NULL,
        call TEXT NOT NULL,
        report TEXT NOT NULL,
        release TEXT,
        worker TEXT,
        verdict TEXT NOT NULL,
        reason TEXT,
        data TEXT NOT NULL,
        at INTEGER NOT NULL,
        UNIQUE (agent, call, report)
    ) STRICT;
    CREATE INDEX IF NOT EXISTS outcomes_by_age ON outcomes (at);
";

/// One report.
#[derive(Debug, Clone, PartialEq)]
pub struct OutcomeRecord {
    /// The worker's own id of it.
    pub report: String,
    /// The release that the worker says it is of.
    pub release: Option<Label>,
    /// The worker, if it named itself.
    pub worker: Option<WorkerId>,
    /// In one word.
    pub verdict: String,
    /// Why, in a sentence.
    pub reason: Option<String>,
    /// What belongs to it.
    pub data: Map<String, Value>,
    /// When it came.
    pub at: Timestamp,
}

/// Why a report was not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutcomeError {
    /// The worker gives each report an id of its own.
    #[error("this report was made before, and said something else")]
    Another,
    /// The worker reports once for each connection.
    #[error("this call has {OUTCOMES_PER_CALL_MAX} reports, and there may be no more")]
    Full,
    /// The operator frees or mends the file.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reports in an `SQLite` file.
#[derive(Debug)]
pub struct Outcomes {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Outcomes {
    /// Opens the file at `path`, or makes one. It may hold other tables.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = file::open(path, Durable::Process, SCHEMA)?;
        let (path, connection) = (path.to_owned(), Mutex::new(connection));
        Ok(Self { path, connection })
    }

    /// Keeps a report. Answers it as it is kept, and whether it is new.
    ///
    /// A crash just before leaves nothing, just after the report; sent again, it is kept once.
    ///
    /// # Errors
    ///
    /// An [`OutcomeError`]; nothing has changed then.
    pub fn add(
        &self,
        of: &CallOf,
        new: &OutcomeRecord,
    ) -> Result<(OutcomeRecord, bool), OutcomeError> {
        let mut connection = lock(&self.connection);
        let failed = |error| OutcomeError::from(self.failed(error));
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        let known = all(&transaction, of, OUTCOMES_PER_CALL_MAX).map_err(failed)?;
        if let Some(known) = known.iter().find(|known| known.report == new.report) {
            let as_known = OutcomeRecord {
                at: known.at,
                ..new.clone()
            };
            if *known != as_known {
                return Err(OutcomeError::Another);
            }
            return Ok((known.clone(), false));
        }
        if known.len() >= OUTCOMES_PER_CALL_MAX {
            return Err(OutcomeError::Full);
        }
        make_room(&transaction, new.at).map_err(failed)?;
        let data = serde_json::to_string(&new.data).expect("JSON values always serialise");
        let insert = "INSERT INTO outcomes
                      (agent, call, report, release, worker, verdict, reason, data, at)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let values = params![
            of.0.as_str(),
            of.1.as_str(),
            new.report,
            new.release.as_ref().map(Label::as_str),
            new.worker.as_ref().map(WorkerId::as_str),
            new.verdict,
            new.reason,
            data,
            new.at.0,
        ];
        transaction.execute(insert, values).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        Ok((new.clone(), true))
    }

    /// The reports of a call, oldest first.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn of(&self, of: &CallOf) -> Result<Vec<OutcomeRecord>, StoreError> {
        let connection = lock(&self.connection);
        all(&connection, of, OUTCOMES_PER_CALL_MAX).map_err(|error| self.failed(error))
    }

    /// Removes reports whose time is over, some at once. Answers whether there may be more.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn sweep(&self, now: Timestamp) -> Result<bool, StoreError> {
        let connection = lock(&self.connection);
        let swept = sweep(&connection, now).map_err(|error| self.failed(error))?;
        Ok(swept == SWEEP_MAX)
    }

    fn failed(&self, error: rusqlite::Error) -> StoreError {
        file::unavailable(&self.path, error)
    }
}

fn all(connection: &Connection, of: &CallOf, max: usize) -> rusqlite::Result<Vec<OutcomeRecord>> {
    let query = "SELECT report, release, worker, verdict, reason, data, at FROM outcomes
                 WHERE agent = ?1 AND call = ?2 ORDER BY number LIMIT ?3";
    let mut statement = connection.prepare_cached(query)?;
    let rows = statement.query_map(params![of.0.as_str(), of.1.as_str(), max], |row| {
        let (release, worker): (Option<String>, Option<String>) = (row.get(1)?, row.get(2)?);
        let data: String = row.get(5)?;
        Ok(OutcomeRecord {
            report: row.get(0)?,
            // They were names when they were written.
            release: release.and_then(|name| name.parse().ok()),
            worker: worker.and_then(|name| name.parse().ok()),
            verdict: row.get(3)?,
            reason: row.get(4)?,
            data: serde_json::from_str(&data).unwrap_or_default(),
            at: Timestamp(row.get(6)?),
        })
    })?;
    rows.collect()
}

/// Removes what is too old, and the oldest when there are too many.
fn make_room(connection: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    sweep(connection, now)?;
    // Numbers are never used again, so this is at least how many there are.
    let query = "SELECT max(number) - min(number) + 1 FROM outcomes";
    let mut statement = connection.prepare_cached(query)?;
    let count: Option<u64> = statement
        .query_row([], |row| row.get(0))
        .optional()?
        .flatten();
    if count.unwrap_or(0) >= OUTCOMES_MAX {
        let delete = "DELETE FROM outcomes WHERE number IN
                      (SELECT number FROM outcomes ORDER BY number LIMIT ?1)";
        connection.prepare_cached(delete)?.execute([SWEEP_MAX])?;
    }
    Ok(())
}

fn sweep(connection: &Connection, now: Timestamp) -> rusqlite::Result<usize> {
    let delete = "DELETE FROM outcomes WHERE number IN
                  (SELECT number FROM outcomes WHERE at <= ?1 ORDER BY at LIMIT ?2)";
    let mut statement = connection.prepare_cached(delete)?;
    let oldest = now - OUTCOME_KEPT;
    // The first week of the clock holds none.
    if oldest.0 == 0 {
        return Ok(0);
    }
    statement.execute(params![oldest.0, SWEEP_MAX])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str) -> (Outcomes, PathBuf) {
        let path = format!("segue-outcomes-{name}-{}.db", std::process::id());
        let path = std::env::temp_dir().join(path);
        let _ = std::fs::remove_file(&path);
        (Outcomes::open(&path).unwrap(), path)
    }

    fn record(report: &str, at: u64) -> OutcomeRecord {
        OutcomeRecord {
            report: report.to_owned(),
            release: Some("v2".parse().unwrap()),
            worker: None,
            verdict: "success".to_owned(),
            reason: Some("booked".to_owned()),
            data: Map::new(),
            at: Timestamp(at),
        }
    }

    fn of(call: &str) -> CallOf {
        ("desk".parse().unwrap(), call.parse().unwrap())
    }

    #[test]
    fn a_report_is_kept_once_and_says_what_it_said() {
        let (outcomes, path) = open("once");
        let first = record("r1", 1_000);
        assert_eq!(
            outcomes.add(&of("CA1"), &first).unwrap(),
            (first.clone(), true)
        );
        let again = record("r1", 2_000);
        assert_eq!(
            outcomes.add(&of("CA1"), &again).unwrap(),
            (first.clone(), false)
        );
        let other = OutcomeRecord {
            verdict: "failure".to_owned(),
            ..again
        };
        assert!(matches!(
            outcomes.add(&of("CA1"), &other),
            Err(OutcomeError::Another)
        ));
        outcomes.add(&of("CA2"), &other).unwrap();
        for number in 2..=OUTCOMES_PER_CALL_MAX {
            outcomes
                .add(&of("CA1"), &record(&format!("r{number}"), 3_000))
                .unwrap();
        }
        let more = outcomes.add(&of("CA1"), &record("more", 3_000));
        assert!(matches!(more, Err(OutcomeError::Full)));
        outcomes
            .add(&of("CA1"), &record("r1", 4_000))
            .expect("it is there already");
        drop(outcomes);
        let outcomes = Outcomes::open(&path).unwrap();
        let kept = outcomes.of(&of("CA1")).unwrap();
        assert_eq!((kept.len(), &kept[0]), (OUTCOMES_PER_CALL_MAX, &first));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn reports_go_with_time() {
        let (outcomes, path) = open("time");
        let begin = OUTCOME_KEPT.0;
        outcomes.add(&of("CA1"), &record("r1", begin)).unwrap();
        assert!(
            !outcomes
                .sweep(Timestamp(begin + OUTCOME_KEPT.0 - 1))
                .unwrap()
        );
        assert_eq!(outcomes.of(&of("CA1")).unwrap().len(), 1);
        assert!(!outcomes.sweep(Timestamp(begin + OUTCOME_KEPT.0)).unwrap());
        assert_eq!(outcomes.of(&of("CA1")).unwrap(), []);
        std::fs::remove_file(path).unwrap();
    }
}
