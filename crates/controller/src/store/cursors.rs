//! How far who is told of decisions has been told.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::StoreError;
use super::file::{self, Durable, lock};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS cursors (
        name TEXT PRIMARY KEY,
        seq INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// The number of the last entry that each receiver has, in an `SQLite` file. A loss of power may
/// take the last moments with it: then something is told twice.
#[derive(Debug)]
pub struct Cursors {
    path: PathBuf,
    connection: Mutex<Connection>,
}

impl Cursors {
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

    /// Where a receiver is. One that is new begins at `head`, and that is written down.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or written.
    pub fn begin(&self, name: &str, head: u64) -> Result<u64, StoreError> {
        self.with(|connection| {
            let query = "SELECT seq FROM cursors WHERE name = ?1";
            let known = connection.query_row(query, [name], |row| row.get(0));
            if let Some(seq) = known.optional()? {
                return Ok(seq);
            }
            let insert = "INSERT INTO cursors (name, seq) VALUES (?1, ?2)";
            connection.execute(insert, params![name, head])?;
            Ok(head)
        })
    }

    /// Moves a receiver on. A crash just before has it told once more.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn advance(&self, name: &str, seq: u64) -> Result<(), StoreError> {
        self.with(|connection| {
            let update = "UPDATE cursors SET seq = ?2 WHERE name = ?1 AND seq < ?2";
            connection.execute(update, params![name, seq]).map(drop)
        })
    }

    /// Forgets receivers that are not among these: one that comes back is told of what happens
    /// from then on.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn keep(&self, names: &[String]) -> Result<(), StoreError> {
        let names = serde_json::to_string(names).expect("texts always serialise");
        self.with(|connection| {
            let delete = "DELETE FROM cursors WHERE name NOT IN (SELECT value FROM json_each(?1))";
            connection.execute(delete, [names]).map(drop)
        })
    }

    fn with<T>(
        &self,
        run: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        run(&lock(&self.connection)).map_err(|error| file::unavailable(&self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_goes_on_where_it_was() {
        let path = std::env::temp_dir().join(format!("segue-cursors-{}.db", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let cursors = Cursors::open(&path).unwrap();
        assert_eq!(cursors.begin("ops", 7).unwrap(), 7);
        cursors.advance("ops", 9).unwrap();
        cursors.advance("ops", 8).unwrap();
        cursors.begin("gone", 1).unwrap();
        drop(cursors);
        let cursors = Cursors::open(&path).unwrap();
        assert_eq!(cursors.begin("ops", 100).unwrap(), 9, "it never goes back");
        cursors.keep(&["ops".to_owned()]).unwrap();
        assert_eq!(cursors.begin("ops", 100).unwrap(), 9);
        assert_eq!(cursors.begin("gone", 100).unwrap(), 100);
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    }
}
