//! The last good tables on disk, so that a gateway without a controller routes at once.
//!
//! A table is written before it is acknowledged: a gateway that crashed after acknowledging must
//! not come back with an earlier one and start calls on a release it promised to leave alone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use segue_core::table::RoutingTable;
use serde::{Deserialize, Serialize};

use crate::files;

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    format: u32,
    tables: Vec<RoutingTable>,
}

/// Why the tables on disk are not used. The gateway then waits for its controller.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("the tables cannot be read")]
    Io(#[source] io::Error),
    /// The file is not what we wrote.
    #[error("the tables are not understood")]
    Json(#[source] serde_json::Error),
    /// A later version wrote it.
    #[error("the tables are of format {0}, not {FORMAT}")]
    Format(u32),
}

/// The file.
#[derive(Debug)]
pub struct TableFile {
    path: PathBuf,
    /// What is in it.
    tables: Mutex<Vec<RoutingTable>>,
}

impl TableFile {
    /// Reads the file; none there is no error.
    ///
    /// # Errors
    ///
    /// A [`LoadError`]; the file is then left as it is until the first table is kept.
    pub fn load(path: &Path) -> (Self, Result<Vec<RoutingTable>, LoadError>) {
        let loaded = read(path);
        let tables = loaded.as_ref().map_or_else(|_| Vec::new(), Clone::clone);
        let file = Self {
            path: path.to_owned(),
            tables: Mutex::new(tables),
        };
        (file, loaded)
    }

    /// Keeps a table in the place of its agent's earlier one; an epoch that is not above that one
    /// changes nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be written. The table must then not be acknowledged.
    pub fn keep(&self, table: &RoutingTable) -> io::Result<()> {
        self.change(|tables| {
            let kept = tables.iter().find(|t| t.agent == table.agent);
            if kept.is_some_and(|kept| kept.epoch >= table.epoch) {
                return;
            }
            tables.retain(|t| t.agent != table.agent);
            tables.push(table.clone());
        })
    }

    /// Forgets the tables of agents that are not named.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn keep_agents(&self, names: &[segue_core::names::AgentName]) -> io::Result<()> {
        self.change(|tables| tables.retain(|table| names.contains(&table.agent)))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<RoutingTable>)) -> io::Result<()> {
        let mut kept = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tables = kept.clone();
        change(&mut tables);
        if tables == *kept {
            return Ok(());
        }
        let document = Document {
            format: FORMAT,
            tables,
        };
        let bytes = serde_json::to_vec(&document).map_err(io::Error::other)?;
        files::replace(&self.path, &bytes)?;
        *kept = document.tables;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<RoutingTable>, LoadError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LoadError::Io(error)),
    };
    let document: Document = serde_json::from_slice(&bytes).map_err(LoadError::Json)?;
    if document.format != FORMAT {
        return Err(LoadError::Format(document.format));
    }
    Ok(document.tables)
}
