//! One program of a release: found, its files read, and its words filled in.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use segue_core::names::{AgentName, Label};

use super::{FILES_MAX, HASH_BYTES_MAX, MakeError, OURSELVES};
use crate::copies::Kept;
use crate::digest::digest;
use crate::platform::words::Words;

/// What is filled in when a release is made.
pub(super) struct Filling(Words);

impl Filling {
    pub(super) fn new(agent: &AgentName, label: &Label) -> Self {
        let mut words = Words::default();
        words.set("release", label.as_str());
        words.set("agent", agent.as_str());
        Self(words)
    }

    pub(super) fn fill(&self, text: &str) -> String {
        self.0.fill(text)
    }
}

/// A program as it is written: what the next release is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Written {
    pub(super) command: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) directory: String,
    /// Digests of files, by the word as it is written.
    pub(super) files: BTreeMap<String, String>,
    /// Another file that counts, beside those of the command.
    pub(super) extra: Option<String>,
    /// What was asked for now and must be looked at: the command, and the other file.
    pub(super) fresh: (bool, bool),
}

/// A program as it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) command: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) files: BTreeMap<String, String>,
}

impl Written {
    /// Finds the program, reads the files that were asked for now, and fills words in. What is
    /// known of other words stays as it is, unless something else is filled into them: a release
    /// that differs in its prompt runs the same bytes, whatever lies in their place now.
    pub(super) fn settle(
        &mut self,
        filling: &Filling,
        kept: &mut Kept,
    ) -> Result<Filled, MakeError> {
        let directory = PathBuf::from(&self.directory);
        let mut command: Vec<String> = self.command.iter().map(|text| filling.fill(text)).collect();
        let env: BTreeMap<_, _> = self
            .env
            .iter()
            .map(|(name, value)| (name.clone(), filling.fill(value)))
            .collect();
        let program = command.first().filter(|program| !program.is_empty());
        let program = program.ok_or(MakeError::NoCommand)?.clone();
        let is_known = self.files.contains_key(&program);
        if !is_known {
            let found = resolve(&program, &directory, env.get("PATH"));
            let found = found.ok_or(MakeError::NoProgram {
                program: program.clone(),
            })?;
            if self.command[0] == program {
                self.command[0].clone_from(&found);
            }
            command[0] = found;
        }
        let of_command = self.command.iter().zip(&command);
        let of_command = of_command.map(|(as_written, text)| (as_written, text, self.fresh.0));
        let extra = self.extra.iter().map(|text| (text, text, self.fresh.1));
        let words: Vec<(String, String, bool)> = of_command
            .chain(extra)
            .map(|(as_written, text, fresh)| (as_written.clone(), text.clone(), fresh))
            .collect();
        let (mut left, mut written, mut filled) =
            (HASH_BYTES_MAX, BTreeMap::new(), BTreeMap::new());
        for (as_written, text, fresh) in words {
            if filled.contains_key(&text) {
                continue;
            }
            let known = self.files.get(&as_written).filter(|_| as_written == text);
            let digest = match known {
                Some(digest) => {
                    kept.keep_known(digest);
                    digest.clone()
                }
                None if !fresh && as_written == text => continue,
                None => match read(&text, &directory, &mut left, kept)? {
                    Some(digest) => digest,
                    None => continue,
                },
            };
            if filled.len() == FILES_MAX {
                return Err(MakeError::TooManyFiles);
            }
            written.insert(as_written, digest.clone());
            filled.insert(text, digest);
        }
        self.files = written;
        Ok(Filled {
            command,
            env,
            files: filled,
        })
    }
}

/// What is in a file, if the text names one. A copy of it is kept.
pub(super) fn read(
    text: &str,
    directory: &Path,
    left: &mut u64,
    kept: &mut Kept,
) -> Result<Option<String>, MakeError> {
    let path = directory.join(text);
    if text.is_empty() || !path.is_file() {
        return Ok(None);
    }
    let unreadable = |source| MakeError::Unreadable {
        path: text.to_owned(),
        source,
    };
    let digest = digest(&path, left).map_err(unreadable)?;
    let not_kept = |source| MakeError::NotKept {
        path: text.to_owned(),
        source,
    };
    kept.keep(&path, &digest).map_err(not_kept)?;
    Ok(Some(digest))
}

/// The absolute path of a directory of the configuration.
pub(super) fn directory(named: Option<&String>, config_dir: &Path) -> Result<String, MakeError> {
    let path = named.map_or_else(|| config_dir.to_owned(), |path| config_dir.join(path));
    let found = fs::canonicalize(&path).ok().filter(|path| path.is_dir());
    let found = found.ok_or(MakeError::NoDirectory { path })?;
    Ok(found.to_string_lossy().into_owned())
}

pub(super) fn is_variable(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(good)
}

/// The absolute path of a program, found as a shell would.
pub(super) fn resolve(program: &str, directory: &Path, path: Option<&String>) -> Option<String> {
    let found = if program == OURSELVES {
        let ourselves = env::current_exe().ok()?.to_string_lossy().into_owned();
        // After an upgrade of the file the kernel says so; the new one is meant.
        PathBuf::from(ourselves.strip_suffix(" (deleted)").unwrap_or(&ourselves))
    } else if program.contains('/') {
        directory.join(program)
    } else {
        let path = path.map(Into::into).or_else(|| env::var_os("PATH"))?;
        let places = env::split_paths(&path).map(|place| directory.join(place).join(program));
        places.into_iter().find(|place| is_program(place))?
    };
    is_program(&found).then(|| found.to_string_lossy().into_owned())
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
