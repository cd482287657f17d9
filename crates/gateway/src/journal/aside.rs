//! Journals of processes that take no new calls but still hold some, beside one that does.
//!
//! A gateway that drains keeps its journal locked until its last call has ended. The next gateway
//! of the state directory puts that file aside under a name of its own. So does a process that has
//! handed over and stays for what it could not give, with a new file. Whoever takes new calls looks
//! at these files: one that is locked no more was left by a process that ended. If it was killed,
//! the file names the connections that were lost; if it ended in order, none.

use std::collections::BTreeSet;
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
/// of each journal's losses before it is removed: rather twice than never. One that cannot be
/// removed is kept in `counted`, so that it counts once in each life of the gateway. Blocks.
pub(crate) fn ended(
    path: &Path,
    counted: &mut BTreeSet<PathBuf>,
    mut count: impl FnMut(Vec<Lost>),
) -> io::Result<()> {
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    let mut stays = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Not a draft, which has more behind that.
        if !(name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            continue;
        }
        if counted.contains(&path) {
            stays = remove(&path, counted).err().or(stays);
            continue;
        }
        match look(&path) {
            Ok(Some(lost)) => {
                count(lost);
                counted.insert(path.clone());
                stays = remove(&path, counted).err().or(stays);
            }
            Ok(None) => {}
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    stays.map_or(Ok(()), Err)
}

/// Removes a journal that was counted. No other will have its name.
fn remove(path: &Path, counted: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => {
            counted.remove(path);
            Ok(())
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of that name stands for a file that cannot be removed, once it was looked at.
    #[test]
    fn one_that_cannot_be_removed_is_counted_once() {
        let dir = std::env::temp_dir().join(uuid::Uuid::now_v7().to_string());
        fs::create_dir(&dir).unwrap();
        let path = dir.join("calls.journal");
        let left = name(&path);
        File::create(&left).unwrap();
        let mut counted = BTreeSet::new();
        let mut times = 0;
        let look = |counted: &mut BTreeSet<PathBuf>, times: &mut u32| {
            ended(&path, counted, |_| {
                *times += 1;
                if left.is_file() {
                    fs::remove_file(&left).unwrap();
                    fs::create_dir(&left).unwrap();
                }
            })
        };
        for _ in 0..3 {
            assert!(look(&mut counted, &mut times).is_err(), "it is still there");
            assert_eq!(times, 1);
        }
        fs::remove_dir(&left).unwrap();
        File::create(&left).unwrap();
        look(&mut counted, &mut times).unwrap();
        assert_eq!((times, left.exists(), counted.len()), (1, false, 0));
        fs::remove_dir(&dir).unwrap();
    }
}
