//! Copies of the files that releases are made of.
//!
//! A release is frozen when it is deployed, but its program lies where it is built, and the next
//! build puts other bytes there. A worker of the older release that is started again, in a
//! rollback for example, must not run those. So the bytes are kept here, named by their digest.
//!
//! A copy is used only once the original is not any more what was deployed: a script that looks
//! for what lies beside it, or a program for its libraries, finds them beside the original only.
//! It is a copy and never a hard link, which would change with the original.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segue_core::release::Content;

use crate::digest::{Digests, digest, is_of_bytes};
use crate::state::StateDir;

/// Largest file that is copied, in bytes. Beyond are models and images, which nobody rebuilds in
/// place every hour.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// Bytes of all copies: some 40 debug builds of 100 MB. A release that is retired makes room.
pub const ALL_BYTES_MAX: u64 = 4 << 30;

/// Who may write a copy: nobody. Its name says what is in it.
const WRITE_BITS: u32 = 0o222;

/// End of the name of a copy that is not whole yet.
const UNFINISHED: &str = "tmp";

/// The copies of one state directory.
#[derive(Debug, Clone)]
pub struct Copies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    bytes_max: u64,
    digests: Digests,
    /// Digests that somebody is about to name, and how many of them.
    held: Mutex<BTreeMap<String, usize>>,
    /// One copies at a time, so that the bound is one.
    copying: Mutex<()>,
}

/// Keeps copies from being removed before the release that names them is decided.
#[derive(Debug)]
pub struct Kept {
    copies: Copies,
    digests: Vec<String>,
}

/// Why a file could not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// The operator retires what is not needed any more.
    #[error("the files of the releases that are not retired take more than {} MiB", max >> 20)]
    TooMuch {
        /// The bound, in bytes.
        max: u64,
    },
    /// The operator waits until it is written, and deploys again.
    #[error("it changed while it was read")]
    Changing,
    /// The operator mends the state directory, or makes room on its disk.
    #[error("no copy of it could be written")]
    Io(#[from] io::Error),
}

/// A file of a release is not there any more, neither in its place nor as a copy.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} is not any more what was deployed, and no copy of it was kept{}; put it back, or \
     deploy it as a new release", if *.is_large { " because of its size" } else { "" }
)]
pub struct Gone {
    path: String,
    is_large: bool,
}

impl Copies {
    /// The copies in a state directory; nothing is read or made.
    pub fn new(state: &StateDir) -> Self {
        Self::bounded(state, ALL_BYTES_MAX)
    }

    fn bounded(state: &StateDir, bytes_max: u64) -> Self {
        Self(Arc::new(Inner {
            directory: state.releases(),
            bytes_max,
            digests: Digests::default(),
            held: Mutex::default(),
            copying: Mutex::default(),
        }))
    }

    /// Begins to keep files of a release.
    pub fn hold(&self) -> Kept {
        Kept {
            copies: self.clone(),
            digests: Vec::new(),
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.0.directory.join(digest)
    }

    /// What stands in for files of a release that are not any more what was deployed, by the word
    /// of the command that names them. Empty: they all are. Reads files, so it may take a while.
    ///
    /// # Errors
    ///
    /// When there is nothing to stand in. A worker that would run something else is not started.
    pub fn stand_ins(&self, content: &Content) -> Result<BTreeMap<String, PathBuf>, Gone> {
        let mut found = BTreeMap::new();
        for (text, digest) in &content.files {
            let is = |path: &Path| self.0.digests.is(path, digest).unwrap_or(false);
            if is(&Path::new(&content.directory).join(text)) {
                continue;
            }
            let copy = self.path(digest);
            if !is_of_bytes(digest) || !is(&copy) {
                let original = Path::new(&content.directory).join(text).metadata();
                let is_large = original.is_ok_and(|file| file.len() > FILE_BYTES_MAX);
                return Err(Gone {
                    path: text.clone(),
                    is_large: is_large || !is_of_bytes(digest),
                });
            }
            found.insert(text.clone(), copy);
        }
        Ok(found)
    }

    /// Removes the copies that no release names and nobody holds.
    ///
    /// A crash leaves some of them; the next call removes the rest.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read or written.
    pub fn collect(&self, named: &BTreeSet<&str>) -> io::Result<()> {
        // Whoever begins to hold one from here on copies it anew.
        let held = self.held();
        for entry in fs::read_dir(&self.0.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let digest = name.split('.').next().unwrap_or_default();
            let whole = digest == name;
            if held.contains_key(digest) || whole && named.contains(digest) {
                continue;
            }
            fs::remove_file(entry.path())?;
        }
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        let mut all = 0;
        for entry in fs::read_dir(&self.0.directory)? {
            all += entry?.metadata()?.len();
        }
        Ok(all)
    }
}

impl Kept {
    /// Keeps a copy of a file, whose digest was taken just before. One that is too large to be
    /// copied is left out.
    ///
    /// A crash before the rename leaves an unfinished copy, which is collected; after it, a whole
    /// one.
    ///
    /// # Errors
    ///
    /// When it cannot be kept: no release should be made of it then.
    pub fn keep(&mut self, path: &Path, digest_of: &str) -> Result<(), KeepError> {
        let size = path.metadata()?.len();
        if size > FILE_BYTES_MAX || !is_of_bytes(digest_of) {
            tracing::warn!(path = %path.display(), size, "too large to be copied: its workers start only as long as it stays as it is");
            return Ok(());
        }
        *self.copies.held().entry(digest_of.to_owned()).or_default() += 1;
        self.digests.push(digest_of.to_owned());
        let inner = Arc::clone(&self.copies.0);
        let _one = inner.copying.lock().unwrap_or_else(PoisonError::into_inner);
        let mode = path.metadata()?.permissions().mode() & 0o777 & !WRITE_BITS | 0o400;
        let copy = self.copies.path(digest_of);
        if inner.digests.is(&copy, digest_of).unwrap_or(false) {
            // The same bytes may be a program in one place and text in another.
            let both = copy.metadata()?.permissions().mode() | mode;
            fs::set_permissions(&copy, Permissions::from_mode(both & 0o777))?;
            return Ok(());
        }
        if self.copies.bytes()?.saturating_add(size) > inner.bytes_max {
            let max = inner.bytes_max;
            return Err(KeepError::TooMuch { max });
        }
        let unfinished = copy.with_extension(UNFINISHED);
        let written = write(path, &unfinished, mode, digest_of);
        if written.is_err() {
            // It is collected later if this fails too.
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        fs::rename(&unfinished, &copy)?;
        File::open(&inner.directory)?.sync_all()?;
        Ok(())
    }
}

fn write(from: &Path, to: &Path, mode: u32, digest_of: &str) -> Result<(), KeepError> {
    fs::copy(from, to)?;
    fs::set_permissions(to, Permissions::from_mode(mode))?;
    File::open(to)?.sync_all()?;
    if digest(to, &mut u64::MAX.clone())? != digest_of {
        return Err(KeepError::Changing);
    }
    Ok(())
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut held = self.copies.held();
        for digest in &self.digests {
            if let Some(count) = held.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    held.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let name = format!("segue-copies-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            StateDir::new(&path).create().unwrap();
            Self(path)
        }

        fn state(&self) -> StateDir {
            StateDir::new(&self.0)
        }

        /// Writes a file and answers its digest.
        fn write(&self, name: &str, text: &str, mode: u32) -> (PathBuf, String) {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let digest = digest(&path, &mut u64::MAX.clone()).unwrap();
            (path, digest)
        }

        fn content(&self, files: &[(&str, &str)]) -> Content {
            let text = |text: &&str| (*text).to_owned();
            Content {
                command: files.iter().map(|(name, _)| text(name)).collect(),
                env: BTreeMap::new(),
                directory: self.0.to_string_lossy().into_owned(),
                files: files
                    .iter()
                    .map(|(name, digest)| (text(name), text(digest)))
                    .collect(),
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_copy_stands_in_for_what_has_changed() {
        let place = Place::new("stand-in");
        let copies = Copies::new(&place.state());
        let (bot, first) = place.write("bot", "one", 0o755);
        let (prompt, text) = place.write("prompt", "kind", 0o644);
        let mut kept = copies.hold();
        kept.keep(&bot, &first).unwrap();
        kept.keep(&prompt, &text).unwrap();
        let content = place.content(&[("bot", &first), ("prompt", &text)]);
        assert!(copies.stand_ins(&content).unwrap().is_empty());
        place.write("bot", "two", 0o755);
        let found = copies.stand_ins(&content).unwrap();
        let copy = &found["bot"];
        assert_eq!((found.len(), fs::read(copy).unwrap()), (1, b"one".to_vec()));
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o555);
        fs::remove_file(&prompt).unwrap();
        assert_eq!(copies.stand_ins(&content).unwrap().len(), 2, "it is gone");
        // A copy that is not what its name says is none.
        fs::set_permissions(copy, Permissions::from_mode(0o755)).unwrap();
        fs::write(copy, "bad").unwrap();
        let error = copies.stand_ins(&content).unwrap_err().to_string();
        assert!(error.starts_with("bot is not any more"), "{error}");
        // Put back, it is the original again.
        place.write("bot", "one", 0o755);
        assert_eq!(copies.stand_ins(&content).unwrap().len(), 1);
    }

    #[test]
    fn what_is_too_large_is_not_copied_and_not_replaced() {
        let place = Place::new("large");
        let copies = Copies::new(&place.state());
        let path = place.0.join("model");
        File::create(&path)
            .unwrap()
            .set_len(FILE_BYTES_MAX + 1)
            .unwrap();
        let by_size = digest(&path, &mut 0).unwrap();
        let mut kept = copies.hold();
        kept.keep(&path, &by_size).unwrap();
        assert_eq!(copies.bytes().unwrap(), 0);
        let content = place.content(&[("model", &by_size)]);
        assert!(copies.stand_ins(&content).unwrap().is_empty());
        File::create(&path)
            .unwrap()
            .set_len(FILE_BYTES_MAX + 2)
            .unwrap();
        let error = copies.stand_ins(&content).unwrap_err().to_string();
        assert!(error.contains("because of its size"), "{error}");
    }

    #[test]
    fn copies_are_bounded_and_collected() {
        let place = Place::new("bound");
        let copies = Copies::bounded(&place.state(), 5);
        let (one, first) = place.write("one", "one", 0o644);
        let (two, second) = place.write("two", "two", 0o644);
        let mut kept = copies.hold();
        kept.keep(&one, &first).unwrap();
        let refused = copies.hold().keep(&two, &second).unwrap_err();
        assert!(
            matches!(refused, KeepError::TooMuch { max: 5 }),
            "{refused}"
        );
        assert!(matches!(
            copies
                .hold()
                .keep(&two, &first.replace(char::is_numeric, "f")),
            Err(KeepError::TooMuch { .. })
        ));
        fs::write(copies.path("left").with_extension(UNFINISHED), "x").unwrap();
        copies.collect(&BTreeSet::new()).unwrap();
        assert_eq!(copies.bytes().unwrap(), 3, "it is held");
        drop(kept);
        copies.collect(&BTreeSet::from([first.as_str()])).unwrap();
        assert_eq!(copies.bytes().unwrap(), 3, "it is named");
        copies.collect(&BTreeSet::new()).unwrap();
        assert_eq!(copies.bytes().unwrap(), 0);
        let mut kept = copies.hold();
        let changing = kept.keep(&two, &first).unwrap_err();
        assert!(matches!(changing, KeepError::Changing), "{changing}");
        assert_eq!(copies.bytes().unwrap(), 0, "nothing unfinished is left");
        kept.keep(&two, &second).unwrap();
    }
}
