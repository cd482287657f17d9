//! What a dispatcher is told when it starts.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use segue_core::dispatch::Settings;
use segue_core::names::{AgentName, GatewayId};
use segue_core::time::Millis;

use crate::address::ServerUrl;
use crate::admit::Registered;
use crate::job_file;
use crate::trust::Trust;

/// Everything but the tables.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where workers connect to. Port 0: any free one; see [`crate::start`].
    pub listen: SocketAddr,
    /// The socket for it, if somebody keeps one for whoever is the dispatcher.
    pub door: Option<Arc<TcpListener>>,
    /// The server.
    pub server: ServerUrl,
    /// By whom its certificate must be signed, if its address says TLS.
    pub trust: Trust,
    /// The key and secret by which the server knows us, and we our workers.
    pub key: ApiKey,
    /// Who we are to the controller, the same across restarts.
    pub gateway: GatewayId,
    /// Where `dispatch/`, `log/` and `run/` are made.
    pub state_dir: PathBuf,
    /// The controller's Unix socket.
    pub control_socket: PathBuf,
    /// The agents whose jobs are given out here.
    pub agents: BTreeMap<AgentName, AgentConfig>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// The name under which its workers register; empty: they take jobs of every room.
    pub agent_name: String,
    /// The namespace their jobs are in; usually empty.
    pub namespace: String,
    /// How long a job is held when every worker is busy.
    pub hold: Millis,
    /// Whether a room whose agent died is dispatched again.
    pub redispatch: bool,
    /// Whether `agent_version` is put into the metadata of rooms.
    pub room_metadata: bool,
}

impl AgentConfig {
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            hold: self.hold,
            redispatch: self.redispatch,
            room_metadata: self.room_metadata,
        }
    }

    /// As what its workers register.
    pub fn registered(&self) -> Registered {
        Registered::new(&self.agent_name, &self.namespace)
    }
}

/// A key of the server's API.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name.
    pub name: String,
    /// Its secret.
    pub secret: String,
}

impl fmt::Debug for ApiKey {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Names below the state directory.
impl Config {
    /// The jobs that run.
    pub fn jobs_file(&self) -> PathBuf {
        job_file::path_below(&self.state_dir)
    }

    /// Held by the one dispatcher that these files belong to.
    pub fn lock_file(&self) -> PathBuf {
        self.state_dir.join("dispatch").join("lock")
    }

    /// The tables that were installed last.
    pub fn tables_file(&self) -> PathBuf {
        self.state_dir.join("dispatch").join("tables.json")
    }

    /// One line for each job that ended or that nobody took.
    pub fn log_file(&self) -> PathBuf {
        self.state_dir.join("log").join("jobs.jsonl")
    }

    /// Holds the bound address while workers are served.
    pub fn addr_file(&self) -> PathBuf {
        self.state_dir.join("run").join("dispatch.addr")
    }
}
