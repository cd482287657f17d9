//! Making a release: everything that it is started with is settled here, once, and frozen. What
//! changes later (the configuration, a file, `PATH`) makes another release or none.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use segue_core::names::{AgentName, BadName, Label};
use segue_core::release::{Content, Release};
use segue_core::spec::{AgentSpec, is_plain_label};
use segue_voice::scenario::Scenario;

use crate::api::wire::DeployBody;
use crate::copies::{Copies, KeepError, Kept};
use crate::digest::digest;
use crate::platform::HEALTH_PATH;
use crate::platform::process::WORKERS_PER_RELEASE_MAX;

/// Calls one worker may hold; one process has no more sockets than this.
const CAPACITY_MAX: u32 = 100_000;

/// Files of one release whose bytes are part of its identity.
const FILES_MAX: usize = 64;

/// Bytes read for the identity of a release. Of a file beyond that (a model) size and time of
/// change stand for its bytes: nobody waits minutes for a deploy.
const HASH_BYTES_MAX: u64 = 1 << 30;

/// Program that means this very one.
const OURSELVES: &str = "segue";

/// Why there is no such release. The operator mends the request or the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MakeError {
    /// The label is no name.
    #[error(transparent)]
    BadLabel(#[from] BadName),
    /// The label looks like a digest.
    #[error("the label {label} looks like the digest of a release")]
    DigestLabel {
        /// Which.
        label: Label,
    },
    /// Neither the request nor the configuration has a command.
    #[error("there is no command to start a worker with")]
    NoCommand,
    /// The worker would not know its port.
    #[error("the command does not tell the worker its port")]
    NoPort,
    /// A number is out of bounds.
    #[error("{what} is {value}, and must be from 1 to {max}")]
    OutOfBounds {
        /// What.
        what: &'static str,
        /// What was given.
        value: u32,
        /// The largest allowed.
        max: u32,
    },
    /// Not the name of a variable.
    #[error("{name:?} is not the name of a variable")]
    BadVariable {
        /// What was given.
        name: String,
    },
    /// The working directory is not there.
    #[error("the directory {} does not exist", path.display())]
    NoDirectory {
        /// Which.
        path: PathBuf,
    },
    /// The program is not there, or may not be run.
    #[error("the program {program:?} was not found")]
    NoProgram {
        /// Which.
        program: String,
    },
    /// Too many files.
    #[error("the command names more than {FILES_MAX} files")]
    TooManyFiles,
    /// A file could not be read.
    #[error("{path} could not be read")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be kept for workers that are started again.
    #[error("{path} could not be kept: {source}")]
    NotKept {
        /// Which.
        path: String,
        /// Why.
        source: KeepError,
    },
    /// The smoke gate names a scenario that does not exist.
    #[error("there is no scenario {name:?}")]
    UnknownScenario {
        /// Which.
        name: String,
    },
}

impl MakeError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::BadLabel(_) => "name it like v2.1.0".to_owned(),
            Self::DigestLabel { .. } => "use a label that is not 12 or more hexadecimal digits".to_owned(),
            Self::NoCommand => "write `command` in segue.toml, or deploy with `-- COMMAND`".to_owned(),
            Self::NoPort => "pass {port}, as in `--port {port}`, or let the worker read $PORT and write env = { PORT = \"{port}\" }".to_owned(),
            Self::OutOfBounds { .. } => "see docs/reference/config.md for its bounds".to_owned(),
            Self::BadVariable { .. } => {
                "use letters, digits and `_`, not starting with a digit".to_owned()
            }
            Self::NoDirectory { .. } => {
                "make it, or mend `directory`; it is relative to segue.toml".to_owned()
            }
            Self::NoProgram { .. } => {
                "give its path, or put it on the PATH that `segue serve` was started with".to_owned()
            }
            Self::TooManyFiles => "give a directory instead, or put them into one file".to_owned(),
            Self::Unreadable { .. } => "let the user of `segue serve` read it".to_owned(),
            Self::NotKept { source, .. } => match source {
                KeepError::TooMuch { .. } => "retire releases that are not needed any more with `segue retire`".to_owned(),
                KeepError::Changing => "deploy it again once it is written".to_owned(),
                KeepError::Io(_) => "see that the state directory can be written and its disk has room".to_owned(),
            },
            Self::UnknownScenario { .. } => format!("known are: {}", Scenario::BUILTIN.join(", ")),
        }
    }
}

/// Makes the release that a deploy asks for, and keeps copies of its files for workers that are
/// started again later. Reads files, so it may take a while.
///
/// # Errors
///
/// When there can be no such release.
pub fn make(
    agent: &AgentName,
    spec: &AgentSpec,
    body: &DeployBody,
    config_dir: &Path,
    copies: &Copies,
) -> Result<(Release, Kept), MakeError> {
    let label: Label = body.label.parse()?;
    if !is_plain_label(&label) {
        return Err(MakeError::DigestLabel { label });
    }
    if let Some(smoke) = &spec.plan.smoke
        && Scenario::builtin(&smoke.scenario).is_none()
    {
        let name = smoke.scenario.clone();
        return Err(MakeError::UnknownScenario { name });
    }
    let workers = body.workers.unwrap_or(spec.worker.count);
    within("workers", workers, WORKERS_PER_RELEASE_MAX)?;
    let capacity = body.capacity.unwrap_or(spec.worker.capacity);
    within("capacity", capacity, CAPACITY_MAX)?;
    let fill = |text: &String| {
        let text = text.replace("{release}", label.as_str());
        text.replace("{agent}", agent.as_str())
    };
    let command = body.command.as_ref().unwrap_or(&spec.worker.command);
    let mut command: Vec<String> = command.iter().map(fill).collect();
    let mut env: BTreeMap<String, String> = spec.worker.env.clone();
    env.extend(body.env.clone());
    if let Some(bad) = env.keys().find(|name| !is_variable(name)) {
        return Err(MakeError::BadVariable { name: bad.clone() });
    }
    let mut env: BTreeMap<_, _> = env
        .into_iter()
        .map(|(name, value)| (name, fill(&value)))
        .collect();
    let program = command.first().filter(|program| !program.is_empty());
    let program = program.ok_or(MakeError::NoCommand)?.clone();
    if !command
        .iter()
        .chain(env.values())
        .any(|text| text.contains("{port}"))
    {
        return Err(MakeError::NoPort);
    }
    let directory = spec.worker.directory.as_ref();
    let directory = directory.map_or_else(|| config_dir.to_owned(), |path| config_dir.join(path));
    let directory = fs::canonicalize(&directory)
        .ok()
        .filter(|path| path.is_dir())
        .ok_or(MakeError::NoDirectory { path: directory })?;
    command[0] =
        resolve(&program, &directory, env.get("PATH")).ok_or(MakeError::NoProgram { program })?;
    let mut kept = copies.hold();
    let files = digests(&command, &directory, &mut kept)?;
    if let Some(path) = &spec.worker.health_path {
        env.insert(HEALTH_PATH.to_owned(), path.clone());
    }
    let content = Content {
        command,
        env,
        directory: directory.to_string_lossy().into_owned(),
        files,
        ..Content::default()
    };
    let release = Release::new(agent, label, content, workers, capacity);
    Ok((release, kept))
}

fn within(what: &'static str, value: u32, max: u32) -> Result<(), MakeError> {
    if (1..=max).contains(&value) {
        return Ok(());
    }
    Err(MakeError::OutOfBounds { what, value, max })
}

fn is_variable(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(good)
}

/// The absolute path of a program, found as a shell would.
fn resolve(program: &str, directory: &Path, path: Option<&String>) -> Option<String> {
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

/// What is in the program and in each argument that names a file.
fn digests(
    command: &[String],
    directory: &Path,
    kept: &mut Kept,
) -> Result<BTreeMap<String, String>, MakeError> {
    let mut left = HASH_BYTES_MAX;
    let mut files = BTreeMap::new();
    for text in command {
        let path = directory.join(text);
        if text.is_empty() || !path.is_file() || files.contains_key(text) {
            continue;
        }
        if files.len() == FILES_MAX {
            return Err(MakeError::TooManyFiles);
        }
        let unreadable = |source| MakeError::Unreadable {
            path: text.clone(),
            source,
        };
        let digest = digest(&path, &mut left).map_err(unreadable)?;
        let not_kept = |source| MakeError::NotKept {
            path: text.clone(),
            source,
        };
        kept.keep(&path, &digest).map_err(not_kept)?;
        files.insert(text.clone(), digest);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateDir;

    fn spec(command: &[&str]) -> AgentSpec {
        let mut spec = AgentSpec {
            worker: segue_core::spec::WorkerSpec::default(),
            ingress: segue_core::spec::Ingress::default(),
            policy: segue_core::spec::Policy::default(),
            plan: segue_core::spec::Plan::default(),
        };
        spec.worker.command = command.iter().map(|text| (*text).to_owned()).collect();
        spec
    }

    fn body(label: &str) -> DeployBody {
        DeployBody {
            label: label.to_owned(),
            ..DeployBody::default()
        }
    }

    fn directory(name: &str) -> PathBuf {
        let path = env::temp_dir().join(format!("segue-make-{name}-{}", std::process::id()));
        StateDir::new(&path).create().unwrap();
        path
    }

    fn copies(directory: &Path) -> Copies {
        Copies::new(&StateDir::new(directory))
    }

    #[test]
    fn what_a_file_holds_is_part_of_the_release() {
        let directory = directory("files");
        fs::write(directory.join("prompt.txt"), "be kind").unwrap();
        let agent = "desk".parse().unwrap();
        let spec = spec(&["sh", "bot.sh", "prompt.txt", "{port}", "{release}@{agent}"]);
        let copies = copies(&directory);
        let made = || {
            let made = make(&agent, &spec, &body("v1"), &directory, &copies);
            made.unwrap().0
        };
        let first = made();
        assert!(first.content.command[0].starts_with('/'));
        assert_eq!(first.content.command[3..], ["{port}", "v1@desk"]);
        assert_eq!(first.content.files.len(), 2, "{:?}", first.content.files);
        assert_eq!(made().id, first.id);
        fs::write(directory.join("prompt.txt"), "be short").unwrap();
        assert_ne!(made().id, first.id);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_hint() {
        let directory = directory("bad");
        let agent: AgentName = "desk".parse().unwrap();
        let check = |spec: &AgentSpec, body: &DeployBody, wanted: &str| {
            let error = make(&agent, spec, body, &directory, &copies(&directory)).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
            assert!(!error.hint().is_empty());
        };
        let good = spec(&["sh", "{port}"]);
        check(&good, &body("a b"), "not valid");
        check(&good, &body("0123456789ab"), "looks like the digest");
        check(&spec(&[]), &body("v1"), "no command");
        check(&spec(&["sh"]), &body("v1"), "its port");
        check(&spec(&["no-such-bot", "{port}"]), &body("v1"), "not found");
        check(
            &spec(&["./no-such-bot", "{port}"]),
            &body("v1"),
            "not found",
        );
        let workers = DeployBody {
            workers: Some(0),
            ..body("v1")
        };
        check(&good, &workers, "from 1 to 1000");
        let variable = DeployBody {
            env: BTreeMap::from([("A=B".to_owned(), String::new())]),
            ..body("v1")
        };
        check(&good, &variable, "name of a variable");
        let mut away = good.clone();
        away.worker.directory = Some("nowhere".to_owned());
        check(&away, &body("v1"), "does not exist");
        let mut smoke = good;
        smoke.plan.smoke = Some(segue_core::spec::Smoke {
            scenario: "nothing".to_owned(),
            path: "/".to_owned(),
            calls: 1,
            timeout: segue_core::time::Millis(1),
        });
        check(&smoke, &body("v1"), "no scenario");
        fs::remove_dir_all(directory).unwrap();
    }
}
