//! Files: what a gate keeps, key sets, keys. The only module here that touches any.

#![allow(
    clippy::disallowed_types,
    reason = "the one place of files; everything else takes text"
)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::store::{FORMAT, Kept, Store, StoreError};

/// Whether others may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Its owner only: keys, and tokens.
    Private,
    /// Anybody.
    Public,
}

/// Replaces a file in one step, and returns once it would survive a loss of power.
///
/// A crash leaves the old one or the new one, whole.
///
/// # Errors
///
/// When the folder cannot be written.
pub fn replace(path: &Path, bytes: &[u8], sight: Sight) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    // One that was left behind may be anybody's: it is made anew, never followed or reused.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    create(Path::new(&temporary), bytes, sight)?;
    fs::rename(&temporary, path)?;
    sync_folder(path)
}

/// Makes a file that must not be there yet, and returns once it would survive a loss of power.
///
/// # Errors
///
/// `AlreadyExists` when there is one; otherwise when it cannot be written.
pub fn create(path: &Path, bytes: &[u8], sight: Sight) -> io::Result<()> {
    let mode = match sight {
        Sight::Private => 0o600,
        Sight::Public => 0o644,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_folder(path)
}

/// A renamed file is where it is only once its folder says so.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// A store in one file.
#[derive(Debug, Clone)]
pub struct FileStore(PathBuf);

impl FileStore {
    /// In that file, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn error(&self, error: impl std::fmt::Display) -> StoreError {
        StoreError(format!("{}: {error}", self.0.display()))
    }
}

impl Store for FileStore {
    fn load(&self) -> Result<Option<Kept>, StoreError> {
        let file = match File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.error(error)),
        };
        let read = serde_json::from_reader(io::BufReader::new(file));
        let read: Value = read.map_err(|error| self.error(error))?;
        // First of all: in another form whatever else it says may be anything.
        let Some(1..=FORMAT) = read["format"]
            .as_u64()
            .and_then(|is| u32::try_from(is).ok())
        else {
            let format = &read["format"];
            return Err(self.error(format!(
                "format {format} is not known here, only 1 to {FORMAT}"
            )));
        };
        let kept: Kept = serde_json::from_value(read).map_err(|error| self.error(error))?;
        Ok(Some(kept))
    }

    fn save(&self, kept: &Kept) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(kept).expect("what is kept always serialises");
        replace(&self.0, &bytes, Sight::Private).map_err(|error| self.error(error))
    }
}
