//! What is in a file, as a release names it.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use segue_core::names::hex;
use sha2::{Digest as _, Sha256};

/// Files whose digest is remembered. A release names few, and few releases run.
const REMEMBERED_MAX: usize = 1_024;

/// A file that changed this recently may change again without its times showing it: they are as
/// fine as the ticks of the kernel, or on some file systems as a second or two.
const SETTLED: Duration = Duration::from_secs(3);

/// Begins what stands for the bytes of a file that is too large to be read.
const BY_SIZE: &str = "size:";

/// SHA-256 of a file in hexadecimal. Of one with more than `left` bytes, size and time of change
/// stand for its bytes.
pub(crate) fn digest(path: &Path, left: &mut u64) -> io::Result<String> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() > *left {
        return Ok(by_size(&metadata));
    }
    let (digest, read) = hash(file)?;
    *left = left.saturating_sub(read);
    Ok(digest)
}

/// Whether a digest is of bytes, and not of a size and a time.
pub(crate) fn is_of_bytes(digest: &str) -> bool {
    !digest.starts_with(BY_SIZE)
}

fn by_size(metadata: &Metadata) -> String {
    let (size, seconds, nanos) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    format!("{BY_SIZE}{size},changed:{seconds}.{nanos:09}")
}

fn hash(mut file: File) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut all = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((hex(&hash.finalize()), all));
        }
        hash.update(&buffer[..read]);
        all += read as u64;
    }
}

/// Digests of files that have not changed since they were read. A worker that ends over and over
/// is looked at each time, and its program may be large.
#[derive(Debug, Default)]
pub(crate) struct Digests(Mutex<BTreeMap<PathBuf, (Print, String)>>);

/// Which file it was, and when it last changed. Nobody can set the second time, so writing a file
/// and putting its first time back is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    file: (u64, u64),
    size: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

impl Print {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_settled(&self) -> bool {
        let latest = self.written.0.max(self.changed.0);
        let latest = UNIX_EPOCH + Duration::from_secs(u64::try_from(latest).unwrap_or(0));
        let age = SystemTime::now().duration_since(latest);
        age.is_ok_and(|age| age >= SETTLED)
    }
}

impl Digests {
    /// Whether a file still is what it was when `digest` was taken of it.
    pub(crate) fn is(&self, path: &Path, digest: &str) -> io::Result<bool> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !is_of_bytes(digest) {
            return Ok(by_size(&metadata) == digest);
        }
        let print = Print::of(&metadata);
        let remembered = self.lock().get(path).cloned();
        if let Some((_, known)) = remembered.filter(|(of, _)| *of == print) {
            return Ok(known == digest);
        }
        let (found, _) = hash(file)?;
        // One that was written while it was read, or just before, is read again the next time.
        if print.is_settled() && Print::of(&path.metadata()?) == print {
            let mut all = self.lock();
            if all.len() >= REMEMBERED_MAX {
                all.clear();
            }
            all.insert(path.to_owned(), (print, found.clone()));
        }
        Ok(found == digest)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, (Print, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::fs::FileTimes;

    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_may_have_changed() {
        let path = std::env::temp_dir().join(format!("segue-digest-{}", std::process::id()));
        let digests = Digests::default();
        fs::write(&path, "one").unwrap();
        let of = |path: &Path| digest(path, &mut u64::MAX.clone()).unwrap();
        let (first, times) = (of(&path), path.metadata().unwrap().modified().unwrap());
        assert!(digests.is(&path, &first).unwrap());
        assert!(digests.lock().is_empty(), "it has just been written");
        // As long, and seemingly as old.
        fs::write(&path, "two").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_modified(times))
            .unwrap();
        assert!(!digests.is(&path, &first).unwrap());
        assert!(digests.is(&path, &of(&path)).unwrap());
        let large = digest(&path, &mut 2).unwrap();
        assert!(!is_of_bytes(&large) && digests.is(&path, &large).unwrap());
        fs::write(&path, "three").unwrap();
        assert!(!digests.is(&path, &large).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(digests.is(&path, &first).is_err());
        // One that has not been touched for long is remembered, and not read again.
        let old = Path::new("/proc/self/exe");
        let print = Print::of(&old.metadata().unwrap());
        let known = (print, "known".to_owned());
        digests.lock().insert(old.to_owned(), known);
        assert!(digests.is(old, "known").unwrap());
    }
}
