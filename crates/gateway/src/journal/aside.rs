//! Journals of processes that take no new calls but still hold some, beside one that does.
//!
//! A gateway that drains keeps its journal locked until its last call has ended. The next gateway
//! of the state directory puts that file aside under a name of its own. So does a process that has
//! handed over and stays for what it could not give, with a new file. Whoever takes new calls looks
//! at these files: one that is locked no more was left by a process that ended. If it was killed,
//! the file names the connections that were lost; if it ended in order, none.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::replay::{Lost, replay};

const PREFIX: &str = "draining-";
const SUFFIX: &str = ".journal";

/// A new name beside the journal at `path`.
pub(crate) fn name(path: &Path) -> PathBuf {
    let id = uuid::Uuid::now_v7().simple();
    path.with_file_name(format!("{PREFIX}{id}{SUFFIX}"))
}

/// Moves the journal of a process that still writes it out of the way of ours.
pub(crate) fn put(path: &Path) -> io::Result<()> {
    fs::rename(path, name(path))
}

/// What was lost with processes that ended, by the journals that lie beside `path`. `count` is told
/// of each journal's losses before it is removed: rather twice than never. Blocks.
pub(crate) fn ended(path: &Path, mut count: impl FnMut(Vec<Lost>)) -> io::Result<()> {
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Not a draft, which has more behind that.
        if !(name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            continue;
        }
        match look(&path) {
            Ok(Some(lost)) => {
                count(lost);
                fs::remove_file(&path)?;
            }
            Ok(None) => {}
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `None`: its process is alive.
fn look(path: &Path) -> io::Result<Option<Vec<Lost>>> {
    let file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(None),
        Err(fs::TryLockError::Error(error)) => return Err(error),
    }
    // Removed under the lock by whoever had it before us.
    if fs::metadata(path)?.ino() != file.metadata()?.ino() {
        return Ok(None);
    }
    Ok(Some(replay(&file)?.finish().lost))
}
