//! Where Segue keeps its state, and the names of things in there.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// The state folder.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

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
        Ok(Self(std::path::absolute(dir)?))
    }

    /// Creates it, for its owner only: it holds tokens and sockets that move calls.
    pub(crate) fn create(&self) -> io::Result<()> {
        for dir in [self.0.clone(), self.run(), self.log()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)?;
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Sockets, addresses and process records.
    pub(crate) fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// Logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
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
        let text = fs::read_to_string(self.0.join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|line| !line.is_empty())
    }
}
