//! Where things are kept: one directory, which only its owner may enter.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use segue_core::names::{AgentName, ComponentName, Label, ReleaseId, WorkerId};

/// Longest part of a label in a directory name; the digest beside it tells releases apart.
const LABEL_BYTES_MAX: usize = 48;

/// The directory of one Segue. Whoever reads or writes in it asks here for the path.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Names the directory; nothing is read or made.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory and those inside, for its owner only.
    ///
    /// # Errors
    ///
    /// When one cannot be made.
    pub fn create(&self) -> io::Result<()> {
        let all = [
            self.0.clone(),
            self.run(),
            self.0.join("log"),
            self.workers(),
            self.releases(),
        ];
        for directory in all {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)?;
        }
        // It may have been there before, with the sockets open to others.
        fs::set_permissions(self.run(), fs::Permissions::from_mode(0o700))
    }

    /// Takes the lock of the controller. It is let go when the file is dropped or the process
    /// ends, however it ends.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when another controller holds it.
    pub fn lock(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let file = options.open(self.0.join("controller.lock"))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The journal, an `SQLite` file.
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal.db")
    }

    /// Tokens of the admin API and its idempotency keys, an `SQLite` file.
    pub fn control(&self) -> PathBuf {
        self.0.join("control.db")
    }

    /// The state of calls, an `SQLite` file.
    pub fn call_states(&self) -> PathBuf {
        self.0.join("calls.db")
    }

    /// The Unix socket to which gateways connect.
    pub fn control_socket(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    /// One line: where the admin API listens on loopback, without TLS.
    pub fn api_addr(&self) -> PathBuf {
        self.run().join("api.addr")
    }

    /// One line: where it listens with TLS, if it does.
    pub fn api_tls_addr(&self) -> PathBuf {
        self.run().join("api.tls.addr")
    }

    /// One line, written by the gateway: where calls come in.
    pub fn gateway_addr(&self) -> PathBuf {
        self.run().join("gateway.addr")
    }

    /// The token that the admin API asks for.
    pub fn api_token(&self) -> PathBuf {
        self.0.join("api.token")
    }

    /// The token that workers of an agent get: it gives them the state of its calls, and nothing to
    /// steer with.
    pub fn worker_token(&self, agent: &AgentName) -> PathBuf {
        self.0.join(format!("worker-{agent}.token"))
    }

    /// The key that the tokens of workers are made of.
    pub fn worker_key(&self) -> PathBuf {
        self.0.join("worker.key")
    }

    /// The token that permits a version override.
    pub fn override_token(&self) -> PathBuf {
        self.0.join("override.token")
    }

    /// The key of the hashes by which the log names calls.
    pub fn call_key(&self) -> PathBuf {
        self.0.join("call.key")
    }

    /// What smoke calls log, in the callers' format.
    pub fn smoke_log(&self) -> PathBuf {
        self.0.join("log/smoke.jsonl")
    }

    /// What is known of who may take calls.
    pub fn membership(&self) -> PathBuf {
        self.0.join("membership")
    }

    /// Copies of the files that releases are made of, by their digest.
    pub fn releases(&self) -> PathBuf {
        self.0.join("releases")
    }

    /// Records of workers, in one directory per agent.
    pub fn workers(&self) -> PathBuf {
        self.0.join("workers")
    }

    /// The record of one worker.
    pub fn worker_record(&self, agent: &AgentName, worker: &WorkerId) -> PathBuf {
        self.workers()
            .join(agent.as_str())
            .join(format!("{worker}.json"))
    }

    /// The output of one worker.
    pub fn worker_log(
        &self,
        agent: &AgentName,
        (label, release): (&Label, ReleaseId),
        worker: &WorkerId,
    ) -> PathBuf {
        let release = format!("{}-{}", short_label(label), release.short());
        let directory = self
            .0
            .join("log/workers")
            .join(agent.as_str())
            .join(release);
        directory.join(format!("{worker}.log"))
    }
}

impl StateDir {
    /// The record of one component of a release.
    pub fn component_record(
        &self,
        agent: &AgentName,
        of: (&Label, ReleaseId),
        component: &ComponentName,
    ) -> PathBuf {
        let name = format!("{}.{component}.json", release_name(of));
        self.workers().join(agent.as_str()).join(name)
    }

    /// The output of one component of a release.
    pub fn component_log(
        &self,
        agent: &AgentName,
        of: (&Label, ReleaseId),
        component: &ComponentName,
    ) -> PathBuf {
        let directory = self.0.join("log/workers").join(agent.as_str());
        let name = format!("{component}.log");
        directory.join(release_name(of)).join(name)
    }

    /// The ports that belong to the components of a release.
    pub fn release_ports(&self, agent: &AgentName, release: ReleaseId) -> PathBuf {
        let name = format!("{}.ports", release.short());
        self.workers().join(agent.as_str()).join(name)
    }

    /// Records of hooks that run, in one directory per agent.
    pub fn hooks(&self, agent: &AgentName) -> PathBuf {
        self.run().join("hooks").join(agent.as_str())
    }

    /// The output of one run of a hook.
    pub fn hook_log(&self, agent: &AgentName, name: &str) -> PathBuf {
        let directory = self.0.join("log/hooks").join(agent.as_str());
        directory.join(format!("{name}.log"))
    }
}

/// What a release is called in names of files.
pub(crate) fn release_name((label, release): (&Label, ReleaseId)) -> String {
    format!("{}-{}", short_label(label), release.short())
}

/// As much of a label as fits into a name with a suffix.
pub(crate) fn short_label(label: &Label) -> &str {
    let text = label.as_str();
    &text[..text.len().min(LABEL_BYTES_MAX)]
}
