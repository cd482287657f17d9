//! What a gateway needs before it serves: directories, descriptors, a listener, and the calls and
//! pins of the process before it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use segue_core::names::GatewayId;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::clock;
use crate::config::Config;
use crate::files;
use crate::handoff::{HandoffError, Standing, TakenCall, Taking};
use crate::journal;
use crate::ledger::Ledger;
use crate::relay::{LiveCall, Relay};
use crate::report::Life;
use crate::run::RunError;

/// Connections that wait to be accepted, also while a gateway hands over.
const BACKLOG: i32 = 1_024;

/// Where others find us: the socket for the next gateway, and the file with our address.
pub(crate) struct Doorplate {
    pub(crate) socket: UnixListener,
    draft: PathBuf,
    path: PathBuf,
    addr_file: PathBuf,
    up_file: PathBuf,
}

/// Which process serves, as `run/gateway.up` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Up {
    /// The process.
    pub pid: u32,
    /// Calls that it had when it began to take new ones: those that it took over.
    pub calls: usize,
}

impl Doorplate {
    /// Makes the socket, in a place where nobody looks yet.
    pub(crate) fn prepare(config: &Config) -> Result<Self, RunError> {
        let path = config.handoff_socket();
        // Several gateways of one process share its number, in tests.
        let name = format!("{}-{}", std::process::id(), uuid::Uuid::now_v7().simple());
        let draft = path.with_file_name(&name[..name.len().min(24)]);
        let socket = UnixListener::bind(&draft).map_err(|source| state_error(&draft, source))?;
        Ok(Self {
            socket,
            draft,
            path,
            addr_file: config.addr_file(),
            up_file: config.up_file(),
        })
    }

    /// Puts both in their places; those of the process before us are replaced.
    ///
    /// Last of all the file says who serves here now, and how many calls it began with.
    pub(crate) fn put_up(&self, addr: SocketAddr, calls: usize) -> io::Result<()> {
        std::fs::rename(&self.draft, &self.path)?;
        files::replace(&self.addr_file, addr.to_string().as_bytes())?;
        let up = Up {
            pid: std::process::id(),
            calls,
        };
        let up = serde_json::to_vec(&up).map_err(io::Error::other)?;
        files::replace(&self.up_file, &up)
    }
}

impl Drop for Doorplate {
    fn drop(&mut self) {
        // It is only there if it was never put up.
        let _ = std::fs::remove_file(&self.draft);
    }
}

/// Removes our address, so that nobody looks for us there. While we hold the listener the address
/// is ours alone, so the file is ours exactly if it names it.
pub(crate) fn take_down(config: &Config, listener: &TcpListener) {
    let file = config.addr_file();
    let Ok(addr) = listener.local_addr() else {
        return;
    };
    if std::fs::read_to_string(&file).is_ok_and(|named| named.trim() == addr.to_string())
        && let Err(error) = std::fs::remove_file(&file)
    {
        tracing::warn!(%error, "the address cannot be removed");
    }
}

/// Takes everything from the gateway at `path`. Blocks.
pub(crate) fn take_over(
    path: &Path,
    ledger: &Arc<Ledger>,
    relay: &Relay,
    gateway: GatewayId,
) -> Result<(TcpListener, Life), HandoffError> {
    let taking = Taking::ask(path)?;
    let (header, listener) = taking.header()?;
    let now = clock::now();
    ledger.restore(header.ledger, now);
    // From here to the end every call stands still: what can be done before is done.
    let Standing { calls, late } = taking.calls()?;
    let adopt = |call: TakenCall| call.adopt(ledger, now);
    let calls: Vec<LiveCall> = calls.into_iter().filter_map(adopt).collect();
    if let Err(error) = taking.confirm() {
        calls.into_iter().for_each(LiveCall::given);
        return Err(error);
    }
    let count = calls.len();
    for call in calls {
        relay.adopt(call);
    }
    ledger.adopt_late(late);
    tracing::info!(calls = count, "took over");
    let life = Life {
        gateway,
        incarnation: header.incarnation,
        sequence: header.sequence,
    };
    Ok((listener, life))
}

/// Takes over what a gateway left that ended or was killed. Not behind a handoff, which brings
/// everything. The tables must be installed, and the listener ours: it says that no other gateway
/// takes calls by this state directory.
pub(crate) fn recover(config: &Config, ledger: &Ledger) {
    match journal::read(&config.journal_file()) {
        Ok(left) => {
            let (calls, lost) = (left.calls.len(), left.lost.len());
            tracing::info!(calls, lost, "read the call journal");
            if left.alive
                && let Err(error) = journal::aside::put(&config.journal_file())
            {
                tracing::error!(%error, "what the other gateway may lose will not be counted");
            }
            ledger.recover(left, clock::now());
        }
        Err(error) => tracing::error!(%error, "the call journal cannot be read"),
    }
}

pub(crate) fn bind(addr: SocketAddr) -> Result<TcpListener, RunError> {
    let listen = || {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(listener)
    };
    listen().map_err(|source| RunError::Listen { addr, source })
}

pub(crate) fn make_directories(config: &Config) -> Result<(), RunError> {
    for name in ["gateway", "log", "run"] {
        let path = config.state_dir.join(name);
        files::private_dir(&path).map_err(|source| state_error(&path, source))?;
    }
    Ok(())
}

pub(crate) fn state_error(path: &Path, source: io::Error) -> RunError {
    RunError::State {
        path: path.to_owned(),
        source,
    }
}

/// Each call holds two descriptors; the usual soft limit is 1024.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on descriptors stays as it is");
    }
}
