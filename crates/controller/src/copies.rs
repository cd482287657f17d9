//! Copies of the files that releases are made of.
//!
//! A release is frozen when it is deployed, but its program lies where it is built, and the next
//! build puts other bytes there. A worker of the older release that is started again, in a
//! rollback for example, must not run those. So the bytes are kept here, named by their digest.
//!
//! A copy is used only once the original is not any more what was deployed: a script that looks
//! for what lies beside it, or a program for its libraries, finds them beside the original only.
//! It is a copy and never a hard link, which would change with the original.
//!
//! Prompts and configurations are parts of a release: of them the copy alone is ever used, in a
//! directory named by its digest and under its own name, whose ending tells what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use segue_core::names::hex;
use segue_core::release::{Content, PartFile};
use sha2::{Digest as _, Sha256};

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

/// End of the name of the directory that a part is in.
const PART: &str = "part";

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

/// Digests of everything that a release is made of.
pub fn digests(content: &Content) -> impl Iterator<Item = &str> {
    let components = content.components.values();
    let files = components.flat_map(|component| component.files.values());
    let files = content
        .files
        .values()
        .chain(content.hooks.values())
        .chain(files);
    let parts = [&content.parts.prompt, &content.parts.config].into_iter();
    let parts = parts.flatten().map(|file| &file.digest);
    files.chain(parts).map(String::as_str)
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

    /// What stands in for files that are not any more what was deployed, by the word of the
    /// command that names them. Empty: they all are. Reads files, so it may take a while.
    ///
    /// # Errors
    ///
    /// When there is nothing to stand in. A process that would run something else is not started.
    pub fn stand_ins(
        &self,
        directory: &str,
        files: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, PathBuf>, Gone> {
        let mut found = BTreeMap::new();
        for (text, digest) in files {
            let is = |path: &Path| self.0.digests.is(path, digest).unwrap_or(false);
            if is(&Path::new(directory).join(text)) {
                continue;
            }
            let copy = self.path(digest);
            if !is_of_bytes(digest) || !is(&copy) {
                let original = Path::new(directory).join(text).metadata();
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

    /// What a worker is given as `prompt`, `model` and `config`: paths of copies, or the name of
    /// the model. Reads files.
    ///
    /// # Errors
    ///
    /// When a copy is not there any more, or is not what its name says.
    pub fn parts(&self, content: &Content) -> Result<BTreeMap<&'static str, String>, Gone> {
        let mut found = BTreeMap::new();
        let parts = &content.parts;
        for (part, file) in [("prompt", &parts.prompt), ("config", &parts.config)] {
            if let Some(file) = file {
                let path = self.part(file)?;
                found.insert(part, path.to_string_lossy().into_owned());
            }
        }
        if let Some(model) = &parts.model {
            let file = content.files.get_key_value(model);
            let one = file.map(|(text, digest)| BTreeMap::from([(text.clone(), digest.clone())]));
            let moved = self.stand_ins(&content.directory, &one.clone().unwrap_or_default())?;
            let path = match (one, moved.get(model)) {
                (Some(_), Some(copy)) => copy.clone(),
                (Some(_), None) => Path::new(&content.directory).join(model),
                (None, _) => PathBuf::from(model),
            };
            found.insert("model", path.to_string_lossy().into_owned());
        }
        Ok(found)
    }

    /// Where the copy of a part is.
    ///
    /// # Errors
    ///
    /// When it is not there any more, or is not what its name says.
    pub fn part(&self, file: &PartFile) -> Result<PathBuf, Gone> {
        let path = self.part_path(file);
        if self.0.digests.is(&path, &file.digest).unwrap_or(false) {
            return Ok(path);
        }
        Err(Gone {
            path: file.name.clone(),
            is_large: false,
        })
    }

    fn part_path(&self, file: &PartFile) -> PathBuf {
        self.path(&file.digest)
            .with_extension(PART)
            .join(&file.name)
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
            let part = entry.file_type()?.is_dir();
            let whole = digest == name || part;
            if held.contains_key(digest) || whole && named.contains(digest) {
                continue;
            }
            if part {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        let mut all = 0;
        for entry in fs::read_dir(&self.0.directory)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                all += entry.metadata()?.len();
                continue;
            }
            for part in fs::read_dir(entry.path())? {
                all += part?.metadata()?.len();
            }
        }
        Ok(all)
    }
}

impl Kept {
    /// Keeps what is there already of these bytes.
    pub fn keep_known(&mut self, digest_of: &str) {
        *self.copies.held().entry(digest_of.to_owned()).or_default() += 1;
        self.digests.push(digest_of.to_owned());
    }

    /// Keeps a part under a name, which must be that of a file without a path. Answers what a
    /// release says of it.
    ///
    /// A crash before the rename leaves an unfinished copy, which is collected with its directory;
    /// after it, a whole one.
    ///
    /// # Errors
    ///
    /// When it cannot be kept: no release should be made of it then.
    pub fn keep_part(&mut self, name: &str, bytes: &[u8]) -> Result<PartFile, KeepError> {
        let file = PartFile {
            name: name.to_owned(),
            digest: hex(&Sha256::digest(bytes)),
        };
        self.keep_known(&file.digest);
        let inner = Arc::clone(&self.copies.0);
        let _one = inner.copying.lock().unwrap_or_else(PoisonError::into_inner);
        if self.copies.part(&file).is_ok() {
            return Ok(file);
        }
        if self.copies.bytes()?.saturating_add(bytes.len() as u64) > inner.bytes_max {
            let max = inner.bytes_max;
            return Err(KeepError::TooMuch { max });
        }
        let copy = self.copies.part_path(&file);
        let directory = copy.parent().unwrap_or(&inner.directory);
        fs::create_dir_all(directory)?;
        // Beside the directory: a part may have any name.
        let unfinished = inner
            .directory
            .join(format!("{}.{UNFINISHED}", file.digest));
        fs::write(&unfinished, bytes)?;
        fs::set_permissions(&unfinished, Permissions::from_mode(0o444))?;
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, &copy)?;
        File::open(directory)?.sync_all()?;
        File::open(&inner.directory)?.sync_all()?;
        Ok(file)
    }

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
        self.keep_known(digest_of);
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
                ..Content::default()
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn stand_ins(copies: &Copies, content: &Content) -> Result<BTreeMap<String, PathBuf>, Gone> {
        copies.stand_ins(&content.directory, &content.files)
    }

    #[test]
    fn of_a_part_the_copy_alone_is_used() {
        let place = Place::new("part");
        let copies = Copies::new(&place.state());
        let mut kept = copies.hold();
        let prompt = kept.keep_part("prompt.toml", b"be kind").unwrap();
        let same = kept.keep_part("other.toml", b"be kind").unwrap();
        assert_eq!(prompt.digest, same.digest);
        let (path, model) = place.write("model", "weights", 0o644);
        kept.keep(&path, &model).unwrap();
        let mut content = place.content(&[("model", &model)]);
        content.parts.prompt = Some(prompt.clone());
        content.parts.model = Some("model".to_owned());
        let parts = copies.parts(&content).unwrap();
        let given = Path::new(&parts["prompt"]);
        assert!(given.ends_with("prompt.toml"), "{given:?}");
        assert_eq!(fs::read(given).unwrap(), b"be kind");
        let mode = given.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "nobody writes it");
        assert_eq!(parts["model"], path.to_string_lossy());
        place.write("model", "others", 0o644);
        let moved = copies.parts(&content).unwrap();
        assert_eq!(fs::read(&moved["model"]).unwrap(), b"weights");
        content.parts.model = Some("gpt-x".to_owned());
        assert_eq!(copies.parts(&content).unwrap()["model"], "gpt-x");
        assert_eq!(copies.bytes().unwrap(), 7 + 7 + 7);
        drop(kept);
        let named = BTreeSet::from([prompt.digest.as_str()]);
        copies.collect(&named).unwrap();
        assert_eq!(copies.part(&prompt).unwrap(), given);
        copies.collect(&BTreeSet::new()).unwrap();
        let gone = copies.parts(&content).unwrap_err().to_string();
        assert!(gone.starts_with("prompt.toml is not any more"), "{gone}");
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
        assert!(stand_ins(&copies, &content).unwrap().is_empty());
        place.write("bot", "two", 0o755);
        let found = stand_ins(&copies, &content).unwrap();
        let copy = &found["bot"];
        assert_eq!((found.len(), fs::read(copy).unwrap()), (1, b"one".to_vec()));
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o555);
        fs::remove_file(&prompt).unwrap();
        assert_eq!(stand_ins(&copies, &content).unwrap().len(), 2, "it is gone");
        // A copy that is not what its name says is none.
        fs::set_permissions(copy, Permissions::from_mode(0o755)).unwrap();
        fs::write(copy, "bad").unwrap();
        let error = stand_ins(&copies, &content).unwrap_err().to_string();
        assert!(error.starts_with("bot is not any more"), "{error}");
        // Put back, it is the original again.
        place.write("bot", "one", 0o755);
        assert_eq!(stand_ins(&copies, &content).unwrap().len(), 1);
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
        assert!(stand_ins(&copies, &content).unwrap().is_empty());
        File::create(&path)
            .unwrap()
            .set_len(FILE_BYTES_MAX + 2)
            .unwrap();
        let error = stand_ins(&copies, &content).unwrap_err().to_string();
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
