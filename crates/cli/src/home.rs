//! Where Segue keeps its state, and the names of things in there.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::reach::Remote;

/// The state folder, and where its Segue is asked if that is elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    dir: PathBuf,
    remote: Remote,
}

impl Home {
    /// The given folder, `$SEGUE_HOME`, or `./.segue`; made absolute, not created.
    pub(crate) fn find(given: Option<&Path>) -> io::Result<Self> {
        let dir = given
            .map(Path::to_path_buf)
            .or_else(|| {
                std::env::var_os("SEGUE_HOME")
                    .filter(|v| !v.is_empty())
                    .map(PathBuf::from)
            })
            .unwrap_or_else(|| PathBuf::from(".segue"));
        let dir = std::path::absolute(dir)?;
        let remote = Remote::default();
        Ok(Self { dir, remote })
    }

    /// The same, asked elsewhere or with another token.
    pub(crate) fn asked_at(self, remote: Remote) -> Self {
        Self { remote, ..self }
    }

    /// Where else, and with which token, its Segue is asked.
    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Creates it, for its owner only: it holds tokens and sockets that move calls.
    pub(crate) fn create(&self) -> io::Result<()> {
        for dir in [self.dir.clone(), self.run(), self.log()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Sockets, addresses and process records.
    pub(crate) fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// Logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Where gateways meet the controller.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    /// The address of the admin API, once it listens.
    pub(crate) fn api_addr(&self) -> Option<String> {
        self.line("run/api.addr")
    }

    /// The address calls come in at, once it listens.
    pub(crate) fn gateway_addr(&self) -> Option<String> {
        self.line("run/gateway.addr")
    }

    /// Who the gateway was that was started last: it is the same one after everything ended.
    pub(crate) fn last_gateway(&self) -> PathBuf {
        self.run().join("gateway.id")
    }

    /// The token of the admin API.
    pub(crate) fn token(&self) -> Option<String> {
        self.line("api.token")
    }

    /// The token that permits a version override.
    pub(crate) fn override_token(&self) -> Option<String> {
        self.line("override.token")
    }

    fn line(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.dir.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|line| !line.is_empty())
    }
}
